"""A plain loop over sqlite3: claim a hundred rows in one statement, delete them in another.

Rows of a process that dies stay claimed for ever.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Sequence

import page

_CLAIM = """
UPDATE jobs SET owner = ? WHERE id IN (
    SELECT id FROM jobs WHERE owner IS NULL ORDER BY id LIMIT 100
) RETURNING id, body
"""

_connection = sqlite3.connect(os.environ["BENCH_URL"], timeout=30, isolation_level=None)
_connection.executescript(
    "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;"
    "CREATE TABLE IF NOT EXISTS jobs (id INTEGER PRIMARY KEY, body TEXT, owner INTEGER);"
    "CREATE INDEX IF NOT EXISTS waiting ON jobs (id) WHERE owner IS NULL;"
)


def work() -> None:
    """Claim, handle, delete."""
    while True:
        rows = _connection.execute(_CLAIM, (os.getpid(),)).fetchall()
        for _, body in rows:
            page.done(json.loads(body)["data"])
        if rows:
            _connection.execute("BEGIN IMMEDIATE")
            _connection.executemany(
                "DELETE FROM jobs WHERE id = ?", [(number,) for number, _ in rows]
            )
            _connection.execute("COMMIT")
        else:
            time.sleep(0.01)


def publish(values: Sequence[int]) -> None:
    """Insert messages in one transaction."""
    _connection.execute("BEGIN IMMEDIATE")
    _connection.executemany(
        "INSERT INTO jobs (body) VALUES (?)",
        [(json.dumps({"id": os.urandom(16).hex(), "data": value}),) for value in values],
    )
    _connection.execute("COMMIT")


if __name__ == "__main__":
    work()

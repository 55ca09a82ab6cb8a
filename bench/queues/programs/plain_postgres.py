"""A plain loop over psycopg2: claim a hundred rows in one statement, finish them in another.

Rows of a process that dies stay claimed for ever.
"""

from __future__ import annotations

import os
import select
from collections.abc import Sequence

import page
import psycopg2

_CLAIM = """
WITH picked AS MATERIALIZED (
    SELECT id FROM jobs WHERE status = 'pending' ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED
) UPDATE jobs SET status = 'claimed' FROM picked WHERE jobs.id = picked.id RETURNING jobs.id, sent
"""
_FINISH = "UPDATE jobs SET status = 'done' WHERE id = ANY(%s)"

_connection = psycopg2.connect(os.environ["BENCH_URL"])
_connection.autocommit = True
_cursor = _connection.cursor()


def work() -> None:
    """Claim, handle, finish; when nothing is there, wait for a notification, or a second."""
    _cursor.execute("LISTEN jobs")
    while True:
        _cursor.execute(_CLAIM)
        rows = _cursor.fetchall()
        for _, sent in rows:
            page.done(sent)
        if rows:
            _cursor.execute(_FINISH, ([number for number, _ in rows],))
        else:
            select.select([_connection], [], [], 1)
            _connection.poll()
            _connection.notifies.clear()


def publish(values: Sequence[int]) -> None:
    """Insert rows and say so, in one transaction."""
    _cursor.execute(
        "INSERT INTO jobs (sent) SELECT unnest(%s); NOTIFY jobs",
        (list(values),),
    )


if __name__ == "__main__":
    work()

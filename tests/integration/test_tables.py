"""A table of SQLite under a real supervisor: its rows, its dead letters, what check says of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from tests.conftest import Supervise
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

HANDLERS = """
from ledger import note

def handle(message, context):
    if message.data["amount"] is None:
        raise ValueError("no amount")
    note("done", f"{message.topic}-{message.id}-{message.data['amount']}")
"""

MODULES = {"shop": HANDLERS, "ledger": SOURCE}

TABLE = """
    CREATE TABLE payments (id INTEGER PRIMARY KEY, state TEXT, amount INTEGER, shop TEXT,
        tries INTEGER, why TEXT, other INTEGER);
    INSERT INTO payments (id, state, amount, shop) VALUES
        (1, 'new', 5, 'x'), (2, 'new', NULL, 'x'), (3, 'new', 7, 'y'), (4, 'old', 9, 'x');
"""

KEYS = {
    "type": "table",
    "url": "sqlite:///shop.db",
    "table": "payments",
    "status": "state",
    "pending": "new",
    "done": "paid",
    "failed": "lost",
    "where": "t.shop = 'x'",
    "attempts_column": "tries",
    "error_column": "why",
    "poll_interval": "50ms",
    "retries": 0,
    "handler": "shop:handle",
}


@contextmanager
def database(folder: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(folder / "shop.db", timeout=PATIENCE_S)) as found, found:
        yield found


def rows(folder: Path) -> list[tuple[object, ...]]:
    with database(folder) as found:
        return found.execute("SELECT id, state, tries, why FROM payments ORDER BY id").fetchall()


def test_rows_are_handled_and_those_that_failed_are_replayed(supervise: Supervise) -> None:
    supervisor = supervise(section("pay", **KEYS), MODULES, start=False)
    with database(supervisor.folder) as found:
        found.executescript(TABLE)
    supervisor.start()
    Ledger(supervisor).wait("done", "payments-1-5")
    eventually(lambda: rows(supervisor.folder)[1][1] == "lost")
    eventually(lambda: rows(supervisor.folder)[0][1] == "paid")
    assert rows(supervisor.folder) == [
        (1, "paid", 1, None),
        (2, "lost", 1, "ValueError: no amount"),
        (3, "new", None, None),
        (4, "old", None, None),
    ]
    [letter] = supervisor.json("dead", "list", "payments")
    assert (letter["id"], letter["error"], letter["attempts"]) == ("2", "ValueError: no amount", 1)
    assert letter["data"]["shop"] == "x"
    [depth] = supervisor.json("queue", "list")
    assert (depth["topic"], depth["depth"], depth["dead"]) == ("payments", 0, 1)
    with database(supervisor.folder) as found:
        found.execute("UPDATE payments SET amount = 6 WHERE id = 2")
    assert supervisor.cli("dead", "replay", "payments").returncode == 0
    Ledger(supervisor).wait("done", "payments-2-6")
    eventually(lambda: rows(supervisor.folder)[1][1] == "paid")
    assert supervisor.json("dead", "list", "payments") == []


def test_what_a_table_cannot_is_said(supervise: Supervise) -> None:
    supervisor = supervise(section("pay", **KEYS), MODULES, start=False)
    with database(supervisor.folder) as found:
        found.executescript(TABLE)
    published = supervisor.cli("publish", "payments", "1")
    assert (published.returncode, published.stderr.strip()) == (
        2,
        "supervisor: payments is the table of pay; insert a row instead",
    )
    purged = supervisor.cli("queue", "purge", "payments")
    assert purged.returncode == 2
    assert "payments is the table of pay; its rows are not ours to delete" in purged.stderr
    assert supervisor.cli("queue", "pause", "payments").returncode == 0
    assert [one["paused"] for one in supervisor.json("queue", "list")] == [True]
    assert supervisor.cli("queue", "resume", "payments").returncode == 0
    assert [one["paused"] for one in supervisor.json("queue", "list")] == [False]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"table": "payment"}, "table: there is no table payment in "),
        ({"status": "status"}, "status: payments has no column status (it has: id, state,"),
        ({"error_column": "e"}, "error_column: payments has no column e "),
        ({"key": "shop"}, "key: shop is not unique in payments; it needs CREATE UNIQUE INDEX"),
        ({"where": "t.sho = 1"}, "where: cannot be used: no such column: t.sho"),
        ({"claim": "lock"}, "claim: SQLite locks whole files, and no rows; write lease, or"),
        ({"url": "redis://h"}, 'url: "redis://h" is no database; write postgresql://USER@HOST'),
    ],
)
def test_check_names_what_is_not_as_the_job_says(
    supervise: Supervise, changes: dict[str, str], words: str
) -> None:
    supervisor = supervise(section("pay", **KEYS | changes), MODULES, start=False)
    with database(supervisor.folder) as found:
        found.executescript(TABLE)
    checked = supervisor.cli("check")
    assert checked.returncode == 78
    assert f"[daemon:pay] {words}" in checked.stderr


def test_a_wrong_table_stops_its_job_and_no_other(supervise: Supervise) -> None:
    jobs = section("pay", **KEYS | {"table": "nothing"}) + section("good", **KEYS)
    supervisor = supervise(jobs, MODULES, start=False)
    with database(supervisor.folder) as found:
        found.executescript(TABLE)
    supervisor.start(wait=False)
    supervisor.wait_process("pay:0", lambda row: row["state"] == "FATAL")
    Ledger(supervisor).wait("done", "payments-1-5")
    supervisor.wait_line("there is no table nothing in ")


def test_a_database_that_comes_later_is_waited_for(supervise: Supervise) -> None:
    jobs = section("pay", **KEYS)
    supervisor = supervise(jobs, MODULES, start=False)
    assert supervisor.cli("check").returncode == 0
    supervisor.start(wait=False)
    supervisor.wait_line("there is no database yet")
    with database(supervisor.folder) as found:
        found.executescript("BEGIN;" + TABLE + "COMMIT;")
    Ledger(supervisor).wait("done", "payments-1-5")

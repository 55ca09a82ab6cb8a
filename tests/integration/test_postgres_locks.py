"""Rows held by locks, under a real supervisor: what a handler may do with such a transaction.

What it writes there is to be found when its row is done, and only then.
"""

from __future__ import annotations

import os
import signal
from contextlib import closing, suppress
from typing import Any

import pytest

from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.sections import section
from workers.sources.postgres_lock import PostgresLockSource
from workers.sources.source import Return, SessionLost, SourceTrouble
from workers.sources.table import Table

HANDLERS = """
from contextlib import suppress
from pathlib import Path

from workers import Reject, Skip

def do(db, table, number):
    with db.cursor() as cursor:
        cursor.execute(f"INSERT INTO {table} VALUES (%s)", (number,))

def handle(message, context):
    number = message.data["id"]
    db = context.connection()
    do(db, "shipped", number)
    {
        "plain": lambda: None,
        "blocks": lambda: blocks(db, number),
        "commits": lambda: commits(db, message),
        "rolls back": lambda: rolls_back(db, number),
        "ends": lambda: db.cursor().execute("COMMIT"),
        "begins": lambda: db.cursor().execute("COMMIT; BEGIN"),
        "late": lambda: db.cursor().execute("INSERT INTO parcels VALUES (-1)"),
        "swallows": lambda: swallows(db),
        "breaks": lambda: db.cursor().execute("SELECT pg_terminate_backend(pg_backend_pid())"),
        "skips": lambda: leave(Skip("why")),
        "rejects": lambda: leave(Reject("why")),
        "elsewhere": lambda: elsewhere(context, message),
        "sleeps": lambda: sleeps(db, number),
    }[message.data["kind"]]()

def leave(error):
    raise error

def blocks(db, number):
    with db, db.cursor() as cursor:
        cursor.execute("INSERT INTO noted VALUES (%s)", (number,))
    with suppress(ZeroDivisionError), db, db.cursor() as cursor:
        cursor.execute("INSERT INTO noted VALUES (%s)", (number,))
        1 / 0
    with db.cursor("a_cursor_of_the_server") as cursor:
        cursor.execute("SELECT generate_series(1, 3)")
        assert len(cursor.fetchall()) == 3
    db.close()

def commits(db, message):
    db.commit()
    if message.attempt == 1:
        raise ValueError("after its commit")

def rolls_back(db, number):
    db.rollback()
    do(db, "noted", number)

def swallows(db):
    with suppress(Exception), db.cursor() as cursor:
        cursor.execute("nonsense")

def sleeps(db, number):
    try:
        (Path(__file__).parent / "slept").touch(exist_ok=False)
    except FileExistsError:
        return
    db.cursor().execute("SELECT pg_sleep(3600)")

def elsewhere(context, message):
    other = context.connection(context.options["url"])
    do(other, "noted", message.data["id"])
    assert context.connection(context.options["url"]) is other
    if message.attempt == 1:
        raise ValueError("what was written elsewhere is undone too")
"""

ENDED = "TransactionEnded: the handler has ended the transaction that holds its row"

KINDS: dict[str, tuple[str, int, int, int, str | None]] = {
    # How the row ends: its word, the rows in `shipped` and `noted`, calls, and the error.
    "plain": ("done", 1, 0, 1, None),
    "blocks": ("done", 1, 1, 1, None),
    "commits": ("done", 1, 0, 2, None),
    "rolls back": ("done", 0, 1, 1, None),
    "ends": ("failed", 2, 0, 2, ENDED),
    "begins": ("failed", 2, 0, 2, ENDED),
    "late": ("failed", 0, 0, 2, "ForeignKeyViolation: insert or update on table"),
    "swallows": ("failed", 0, 0, 2, "InFailedSqlTransaction: current transaction is aborted"),
    "breaks": ("failed", 0, 0, 0, "its process, or its connection, died 3 times while it ran"),
    "skips": ("done", 0, 0, 1, None),
    "rejects": ("failed", 0, 0, 1, "why"),
    "elsewhere": ("done", 1, 1, 2, None),
}


@pytest.fixture
def server(postgres_server: PostgresServer) -> PostgresServer:
    postgres_server.empty()
    with postgres_server.cursor() as cursor:
        cursor.execute(
            "CREATE TABLE orders (id serial PRIMARY KEY, kind text, status text DEFAULT 'pending',"
            " tries integer, why text); CREATE INDEX ON orders (id) WHERE status = 'pending';"
            " CREATE TABLE shipped (id integer); CREATE TABLE noted (id integer);"
            " CREATE TABLE parcels (id integer REFERENCES orders DEFERRABLE INITIALLY DEFERRED)"
        )
    return postgres_server


def found(server: PostgresServer) -> dict[str, tuple[Any, ...]]:
    with server.cursor() as cursor:
        cursor.execute(
            "SELECT kind, status, (SELECT count(*) FROM shipped s WHERE s.id = o.id),"
            " (SELECT count(*) FROM noted n WHERE n.id = o.id), tries, why FROM orders o"
        )
        return {kind: tuple(more) for kind, *more in cursor}


def source_of(server: PostgresServer, io_timeout: float) -> PostgresLockSource:
    words = ("id", "status", "pending", "done", "failed", "id")
    table = Table("orders", *words, is_locked=True)
    return PostgresLockSource(server.url, "i/o:0/1", table, lease_s=600, io_timeout=io_timeout)


def orders(server: PostgresServer, **more: object) -> str:
    return section(
        "orders",
        type="table",
        url=server.url,
        table="orders",
        attempts_column="tries",
        error_column="why",
        poll_interval="50ms",
        handler="shop:handle",
        **more,
    )


def test_a_row_is_done_with_all_that_its_handler_wrote_or_without_any(
    supervise: Supervise, server: PostgresServer
) -> None:
    retry = {"retries": 1, "retry_backoff": "50ms"}
    jobs = orders(server, concurrency=3, **retry, **{"option.url": server.url})
    supervisor = supervise(jobs, {"shop": HANDLERS})
    with server.cursor() as cursor:
        cursor.execute("INSERT INTO orders (kind) SELECT unnest(%s)", (list(KINDS),))
    eventually(lambda: not any(row[0] == "pending" for row in found(server).values()))
    ended = found(server)
    assert supervisor.status()["processes"][0]["restarts"] == 0
    assert supervisor.stop() == 0
    for kind, (*facts, why) in KINDS.items():
        assert list(ended[kind][:4]) == facts, kind
        error = ended[kind][4]
        assert error is None if why is None else error.startswith(why), kind
    letters = {letter["data"]["kind"] for letter in supervisor.json("dead", "list", "orders")}
    assert letters == {kind for kind, row in KINDS.items() if row[0] == "failed"}


def test_the_server_frees_the_row_of_a_dead_process_in_the_middle_of_a_statement(
    supervise: Supervise, server: PostgresServer
) -> None:
    supervisor = supervise(orders(server, backoff=0), {"shop": HANDLERS})
    with server.cursor() as cursor:
        cursor.execute("INSERT INTO orders (kind) VALUES ('sleeps')")

    def sleeps() -> bool:
        with server.cursor() as cursor:
            cursor.execute(
                "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600)'"
                " AND wait_event = 'PgSleep'"
            )
            return cursor.fetchone() is not None

    eventually(sleeps)
    os.kill(supervisor.status()["processes"][0]["pid"], signal.SIGKILL)
    eventually(lambda: found(server)["sleeps"] == ("done", 1, 0, 1, None))
    assert not sleeps()


def test_a_server_that_stands_still_holds_up_a_call_no_longer_than_it_may(
    server: PostgresServer,
) -> None:
    with closing(source_of(server, io_timeout=0.5)) as source:
        source.open()
        with server.cursor() as cursor:
            cursor.execute("INSERT INTO orders (kind) VALUES ('plain'), ('plain')")
        [first, second] = source.fetch([("orders", 2)], 2)
        assert first.session is not None
        source.ack([second])  # its connection is free for the next
        with server.standing_still():
            with pytest.raises(SourceTrouble):
                source.fetch([("orders", 1)], 1)
            with pytest.raises(SessionLost):
                first.session.finish(1)
        # Whether it was done the server alone knows; if not, it is given out again.
        source.nack([Return(first)])
        again = eventually(lambda: done(source, server))
    assert again


def test_a_row_that_cannot_be_locked_has_the_table_examined_again(server: PostgresServer) -> None:
    with closing(source_of(server, io_timeout=30)) as source:
        source.open()
        with server.cursor() as cursor:
            cursor.execute("ALTER TABLE orders RENAME TO x")
        with pytest.raises(SourceTrouble, match='relation "orders" does not exist'):
            source.fetch([("orders", 1)], 1)
        with pytest.raises(SourceTrouble) as examined:
            source.fetch([("orders", 1)], 1)
        # What is said then needs a job; it is no more the failure of the statement.
        assert "relation" not in str(examined.value)
        with server.cursor() as cursor:
            cursor.execute("ALTER TABLE x RENAME TO orders")
        assert source.fetch([("orders", 1)], 1) == []


def done(source: PostgresLockSource, server: PostgresServer) -> bool:
    """Do what there is still to do; tell whether all is done."""
    with suppress(SourceTrouble):
        source.ack(source.fetch([("orders", 1)], 1))
    with server.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders WHERE status = 'done'")
        return bool(cursor.fetchone()[0] == 2)

"""A table of PostgreSQL: kill -9 of children and masters, and a server that goes away.

With locks what a handler wrote is compared with the words of the rows, which no moment may differ.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.fire import CONCURRENCY, HELD, MODULES, kill_one, only_the_killed, rounds
from tests.helpers.ledger import Ledger
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.sections import section

ROWS = 3_000
PROCESSES = 3

SHOP = """
import time
from ledger import note

def ship(message, context):
    note("begin", message.id)
    with context.connection().cursor() as cursor:
        cursor.execute("INSERT INTO shipped VALUES (%s)", (message.data["id"],))
        time.sleep(0.005)
    note("end", message.id)
"""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    """Give a server with the rows; one that is ended in the middle is nobody else's."""
    with closing(PostgresServer()) as server:
        with server.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE orders (id bigserial PRIMARY KEY, status text DEFAULT 'pending');"
                "CREATE INDEX ON orders (id) WHERE status = 'pending';"
                f"INSERT INTO orders SELECT FROM generate_series(1, {ROWS})"
            )
        yield server


def start(
    supervise: Supervise,
    server: PostgresServer,
    claim: str = "lease",
    handler: str = "handlers:handle",
) -> Supervisor:
    jobs = section(
        "orders",
        type="table",
        url=server.url,
        table="orders",
        notify="orders",
        claim=claim,
        handler=handler,
        processes=PROCESSES,
        concurrency=CONCURRENCY,
        backoff=0,
        max_failures=1_000_000,
        io_timeout="2s",
        poll_interval="100ms",
    )
    return supervise(jobs, MODULES | {"shop": SHOP})


def twice(supervisor: Supervisor, server: PostgresServer) -> int:
    """See that all are done and nothing is held any more; give how many were done again."""

    def states() -> list[tuple[str, int]]:
        with server.cursor() as cursor:
            cursor.execute("SELECT status, count(*)::int FROM orders GROUP BY status")
            return list(cursor.fetchall())

    eventually(lambda: states() == [("done", ROWS)], timeout_s=60)
    assert supervisor.stop() == 0
    with server.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM orders_work")
        assert cursor.fetchone() == (0,)
    ended = Ledger(supervisor).counts("end")
    assert len(ended) == ROWS, "lost"
    return sum(ended.values()) - ROWS


def test_kills_of_children_and_masters(supervise: Supervise, server: PostgresServer) -> None:
    supervisor = start(supervise, server)
    chance = random.Random(17)
    killed: list[int] = []
    for number in rounds(supervisor, ROWS):
        if number in (3, 8):
            supervisor.kill()
            supervisor.start()
        else:
            pid = kill_one(supervisor, chance, ROWS)
            killed += [pid] if pid is not None else []
    # What was in a handler, or done and not yet written down.
    assert twice(supervisor, server) <= len(killed) * HELD
    only_the_killed(supervisor, killed)


def test_the_server_goes_away_and_comes_back(supervise: Supervise, server: PostgresServer) -> None:
    supervisor = start(supervise, server)
    pids = {row["pid"] for row in supervisor.status()["processes"]}
    for number in rounds(supervisor, ROWS):
        if number in (2, 6):
            # Once as an operator would, once as in a crash.
            server.stop(signal.SIGINT if number == 2 else signal.SIGQUIT)
            server.start()
    # Their processes lived on; what was written down and not confirmed may be done again.
    assert {row["pid"] for row in supervisor.status()["processes"]} == pids
    assert twice(supervisor, server) <= 2 * PROCESSES * HELD


def test_the_server_stands_still_for_a_while(supervise: Supervise, server: PostgresServer) -> None:
    supervisor = start(supervise, server)
    for number in rounds(supervisor, ROWS):
        if number == 2:
            server.send(signal.SIGSTOP)
            try:
                supervisor.wait_line("cannot be used")
            finally:
                server.send(signal.SIGCONT)
    assert twice(supervisor, server) <= PROCESSES * HELD


def test_with_locks_nothing_is_done_twice_whoever_dies(
    supervise: Supervise, server: PostgresServer
) -> None:
    with server.cursor() as cursor:
        cursor.execute("CREATE TABLE shipped (id bigint)")

    def differences() -> list[tuple[Any, ...]]:
        """Give the rows of which the word and what was written say different things."""
        with server.cursor() as cursor:
            cursor.execute(
                "SELECT o.id, o.status, count(s.id) FROM orders o LEFT JOIN shipped s USING (id)"
                " GROUP BY o.id HAVING count(s.id) <> (o.status = 'done')::integer"
            )
            return list(cursor.fetchall())

    supervisor = start(supervise, server, claim="lock", handler="shop:ship")
    chance = random.Random(18)
    for number in rounds(supervisor, ROWS):
        if number == 3:
            supervisor.kill()
            supervisor.start()
        elif number == 6:
            server.stop(signal.SIGQUIT)
            server.start()
        else:
            kill_one(supervisor, chance, ROWS)
        assert differences() == []
    twice(supervisor, server)
    assert differences() == []

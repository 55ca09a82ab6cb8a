"""`context.connection(url)` without a supervisor: who gets which connection, and what is kept."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import psycopg2
import pytest

from tests.helpers.postgres_server import PostgresServer
from workers.base import Context, Unavailable
from workers.connections import Connections
from workers.stop import StopToken


@pytest.fixture
def url(postgres_server: PostgresServer) -> str:
    postgres_server.empty()
    with postgres_server.cursor() as cursor:
        cursor.execute("CREATE TABLE seen (n integer)")
    return postgres_server.url


@pytest.fixture
def connections() -> Iterator[Connections]:
    made = Connections(1, 0.05, "tests")
    yield made
    made.close()


def count(url: str) -> int:
    with psycopg2.connect(url) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM seen")
        found: int = cursor.fetchone()[0]
    connection.close()
    return found


def write(connections: Connections, url: str) -> int:
    """Insert a row; give the process of the server that did it."""
    connection = connections.get(url)
    with connection.cursor() as cursor:
        cursor.execute("INSERT INTO seen VALUES (1)")
    found: int = connection.get_backend_pid()
    return found


def in_thread(call: Callable[[], object]) -> list[object]:
    found: list[object] = []

    def run() -> None:
        try:
            found.append(call())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return found


def test_what_a_call_wrote_is_kept_or_undone_and_its_connection_used_again(
    connections: Connections, url: str
) -> None:
    first = write(connections, url)
    assert write(connections, url) == first
    connections.undo()
    assert count(url) == 0
    assert write(connections, url) == first
    connections.keep()
    assert count(url) == 1


def test_a_thread_waits_for_a_free_one_and_no_longer_than_it_may(
    connections: Connections, url: str
) -> None:
    connections.get(url)
    [error] = in_thread(lambda: connections.get(url))
    assert isinstance(error, TimeoutError)
    assert str(error) == "no connection came free within 0.05 s; pool_size = 1"
    connections.undo()
    [found] = in_thread(lambda: connections.get(url).closed or connections.undo())
    assert found is None


def test_what_is_broken_or_was_changed_is_not_given_again(
    connections: Connections, url: str, postgres_server: PostgresServer
) -> None:
    first = write(connections, url)
    connections.keep()
    with postgres_server.cursor() as cursor:
        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (first,))
    second = write(connections, url)
    connections.get(url).close()
    third = write(connections, url)
    connections.keep()
    connections.get(url).autocommit = True
    connections.keep()
    assert len({first, second, third, write(connections, url)}) == 4
    connections.undo()
    assert count(url) == 2, "that of the second is lost with it"


def test_one_whose_transaction_cannot_be_undone_is_closed(
    connections: Connections, url: str
) -> None:
    two_phases = connections.get(url)
    two_phases.tpc_begin("left open")
    connections.undo()
    assert two_phases.closed
    write(connections, url)
    connections.keep()
    assert count(url) == 1


def test_a_commit_that_fails_is_told_and_leaves_the_connection_usable(
    connections: Connections, url: str
) -> None:
    with connections.get(url).cursor() as cursor:
        cursor.execute("CREATE TABLE one (n integer PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)")
        cursor.execute("INSERT INTO one VALUES (1), (1)")
    with pytest.raises(psycopg2.errors.UniqueViolation):
        connections.keep()
    write(connections, url)
    connections.keep()
    assert count(url) == 1


def test_a_database_that_cannot_be_reached_is_unavailable(connections: Connections) -> None:
    with pytest.raises(Unavailable, match="the database: connection to server at"):
        connections.get("postgresql://me:hush@127.0.0.1:1/x")
    with pytest.raises(ValueError, match="takes the URL of a PostgreSQL: postgresql://USER"):
        connections.get("redis://127.0.0.1")


def test_without_a_row_there_is_none_without_a_url() -> None:
    stop = StopToken()
    context = Context("a:0", 0, {}, logging.getLogger("a"), stop)
    row = object()
    assert replace(context, row=row).connection() is row
    with pytest.raises(RuntimeError, match=r"with claim = lock.*elsewhere write connection\(url\)"):
        context.connection()
    stop.close()

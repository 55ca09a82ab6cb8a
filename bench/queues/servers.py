"""The servers of a run, each on a free port of the loopback and with a folder of its own."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest
from kafka.errors import KafkaError

from bench.environment import Missing
from tests.helpers.kafka_server import KafkaServer
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.redis_server import RedisServer

T = TypeVar("T")


@dataclass(slots=True)
class Server:
    """A place for messages: its URL, its process if it has one, and how to make it empty."""

    url: str
    empty: Callable[[], None]
    pid: int = 0
    members: Callable[[], int] | None = None
    """How many workers have their part of it, where they have to agree on that first."""


@contextmanager
def redis() -> Iterator[Server]:
    """Run a Redis that writes its append-only file to the disk each second. Raises: Missing."""
    with _folder() as folder:
        server = _started(lambda: RedisServer(folder))
        try:
            yield Server(server.url, server.empty, server.pid)
        finally:
            server.close()


@contextmanager
def postgres() -> Iterator[Server]:
    """Run a PostgreSQL that has each commit on the disk. Raises: Missing."""
    server = _started(lambda: PostgresServer(durable=True))

    def empty() -> None:
        server.empty()
        with server.cursor() as cursor:
            cursor.execute(_TABLE)

    try:
        empty()
        yield Server(server.url, empty, server.pid)
    finally:
        server.close()


@contextmanager
def kafka() -> Iterator[Server]:
    """Run a broker. Each time that it is emptied it has a new topic, which is in the URL."""
    with ExitStack() as stack:
        folder = stack.enter_context(_folder())
        server = _started(lambda: KafkaServer(folder))
        stack.callback(server.close)
        admin = stack.enter_context(server.admin())
        count = itertools.count(1)

        def empty() -> None:
            topic = f"bench-{next(count)}"
            admin.create_topics({topic: {"num_partitions": 4, "replication_factor": 1}})
            found.url = f"{server.brokers}/{topic}"

        def members() -> int:
            group = found.url.partition("/")[2]
            try:
                told = admin.describe_groups([group])[group]
            except KafkaError:
                return 0  # nobody has begun the group yet
            return len(told["members"]) if told["group_state"] == "Stable" else 0

        found = Server(server.brokers, empty, server.pid, members)
        yield found


@contextmanager
def sqlite() -> Iterator[Server]:
    """Give a file."""
    with _folder() as folder:

        def empty() -> None:
            for file in folder.iterdir():
                file.unlink()

        yield Server(str(folder / "jobs.db"), empty)


_TABLE = """
CREATE TABLE jobs (
    id bigserial PRIMARY KEY, sent bigint NOT NULL, status text NOT NULL DEFAULT 'pending'
);
CREATE INDEX ON jobs (id) WHERE status = 'pending'
"""


@contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as name:
        yield Path(name)


def _started(start: Callable[[], T]) -> T:
    """Start a server of the tests, which skip what lacks its programs. Raises: Missing."""
    try:
        return start()
    except pytest.skip.Exception as lack:
        raise Missing(str(lack)) from None

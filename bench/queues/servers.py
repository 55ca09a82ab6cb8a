"""The servers of a run, each on a free port of the loopback and with a folder of its own."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import pytest

from bench.environment import Missing
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.redis_server import RedisServer

T = TypeVar("T")


@dataclass(slots=True)
class Server:
    """A place for messages: its URL, its process if it has one, and how to make it empty."""

    url: str
    empty: Callable[[], None]
    pid: int = 0


@contextmanager
def redis() -> Iterator[Server]:
    """Run a Redis that writes its append-only file to the disk each second. Raises: Missing."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
    try:
        server = _started(lambda: RedisServer(folder))
        try:
            yield Server(server.url, server.empty, server.pid)
        finally:
            server.close()
    finally:
        shutil.rmtree(folder)


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
def sqlite() -> Iterator[Server]:
    """Give a file."""
    folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))

    def empty() -> None:
        for file in folder.iterdir():
            file.unlink()

    try:
        yield Server(str(folder / "jobs.db"), empty)
    finally:
        shutil.rmtree(folder)


_TABLE = """
CREATE TABLE jobs (
    id bigserial PRIMARY KEY, sent bigint NOT NULL, status text NOT NULL DEFAULT 'pending'
);
CREATE INDEX ON jobs (id) WHERE status = 'pending'
"""


def _started(start: Callable[[], T]) -> T:
    """Start a server of the tests, which skip what lacks its programs. Raises: Missing."""
    try:
        return start()
    except pytest.skip.Exception as lack:
        raise Missing(str(lack)) from None

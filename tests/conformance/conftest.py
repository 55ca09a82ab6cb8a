"""The benches: one for each kind of source. A new source joins by adding its bench here."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from supervisor.board import Page
from supervisor.config import Job
from supervisor.meters import Meters
from tests.helpers import shop
from workers import codec
from workers.idempotency import OnceSource
from workers.ratelimit import Meter, Rate, RatedSource
from workers.sources.desk import Depth, Letter
from workers.sources.source import Source
from workers.sources.sqlite import SqliteSource
from workers.sources.sqlite_desk import SqliteDesk
from workers.sources.sqlite_keys import SqliteKeys

LEASE_S = 600.0

IO_S = 30.0
"""Nobody waits so long for the file, however busy the disk."""


class Bench(Protocol):
    """What the suite needs to know about one kind of source."""

    url: str

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source: ...
    def publish(self, topic: str, *data: object, delay_s: float = 0.0) -> None: ...
    def publish_raw(self, topic: str, *bodies: bytes, delay_s: float = 0.0) -> None: ...
    def depth(self, topic: str) -> Depth: ...
    def letters(self, topic: str) -> list[Letter]: ...
    def pause(self, topic: str) -> None: ...
    def out_of_order(self) -> AbstractContextManager[None]: ...
    def close(self) -> None: ...


class SqliteBench:
    """A queue file. Connects anew for each question: a connection must not be open at a fork."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = f"sqlite:///{path}"

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        return SqliteSource(self._path, owner, lease_s=lease_s, io_timeout=IO_S)

    def publish(self, topic: str, *data: object, delay_s: float = 0.0) -> None:
        bodies = [codec.encode(topic, one, message_id=str(one).replace(" ", "")) for one in data]
        self.publish_raw(topic, *bodies, delay_s=delay_s)

    def publish_raw(self, topic: str, *bodies: bytes, delay_s: float = 0.0) -> None:
        desk = SqliteDesk(self._path, io_timeout=IO_S, create=True)
        desk.publish(topic, bodies, delay_s)
        desk.close()

    def depth(self, topic: str) -> Depth:
        desk = SqliteDesk(self._path, io_timeout=IO_S, create=True)
        depths = {depth.topic: depth for depth in desk.depths()}
        desk.close()
        return depths.get(topic, Depth(topic))

    def letters(self, topic: str) -> list[Letter]:
        desk = SqliteDesk(self._path, io_timeout=IO_S, create=True)
        found = list(desk.walk(topic))
        desk.close()
        return found

    def pause(self, topic: str) -> None:
        desk = SqliteDesk(self._path, io_timeout=IO_S, create=True)
        desk.pause(topic)
        desk.close()

    def close(self) -> None:
        """Let go of what the bench itself holds."""

    @contextmanager
    def out_of_order(self) -> Iterator[None]:
        """Hold the lock that every change needs. No fork may happen meanwhile."""
        database = sqlite3.connect(self._path, isolation_level=None)
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")
        database.close()


class GuardedSqliteBench(SqliteBench):
    """The same behind all that may stand between a source and the loop, letting all through."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._meters = Meters()
        self._keys = path.with_name("keys.db")

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        job = Job(name="a", kind="daemon", type="queue", idempotency_ttl=0.0, rate_limit=1e6)
        keys = SqliteKeys(self._keys, owner, lease_s=lease_s, ttl_s=0.0, io_timeout=IO_S)
        once = OnceSource(super().source(owner, lease_s), keys, job, Page.alone(), _never)
        meter = Meter(self._meters.of(job), Rate.of(1e6))
        return RatedSource(once, meter, Page.alone())

    def close(self) -> None:
        self._meters.close()


def _never(*_: object) -> None:
    raise AssertionError("every message has an id")


def empty(bench: Bench, *topics: str) -> Callable[[], bool]:
    """Give the question whether every message of the topics (of "t") is done or dead."""

    def look() -> bool:
        depths = [bench.depth(topic) for topic in topics or ("t",)]
        return not any(depth.depth or depth.delayed or depth.in_flight for depth in depths)

    return look


@pytest.fixture
def journal(tmp_path: Path) -> shop.Journal:
    """Give what the handlers of `shop` write."""
    return shop.Journal(tmp_path / "journal")


@pytest.fixture(params=[SqliteBench])
def bench(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Bench]:
    made: Bench = request.param(tmp_path / "queue" / "q.db")
    yield made
    made.close()

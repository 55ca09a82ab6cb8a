"""The benches: one for each kind of source. A new source joins by adding its bench here."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.board import Page
from supervisor.config import Job
from supervisor.meters import Meters
from tests.conformance.bench import IO_S, LEASE_S, Bench, Servers, locked
from tests.conformance.table_benches import PostgresTableBench, SqliteTableBench
from tests.helpers import kafka_server, shop
from tests.helpers.kafka_bench import Prompt, empty_topics, member, settings
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.redis_server import RedisServer
from workers.idempotency import OnceSource
from workers.ratelimit import CellMeter, Rate, RatedSource
from workers.sources import kafka_client, source
from workers.sources.desk import Desk
from workers.sources.kafka import KafkaSource
from workers.sources.kafka_desk import Interest, KafkaDesk
from workers.sources.postgres_lock import PostgresLockSource
from workers.sources.postgres_table_desk import PostgresTableDesk
from workers.sources.redis_desk import RedisDesk
from workers.sources.redis_list import ListSource
from workers.sources.redis_stream import StreamSource
from workers.sources.redis_stream_desk import StreamDesk
from workers.sources.source import Source
from workers.sources.sqlite import SqliteSource
from workers.sources.sqlite_desk import SqliteDesk
from workers.sources.sqlite_keys import SqliteKeys


class SqliteBench(Bench):
    """A queue file."""

    def __init__(self, folder: Path, _servers: Servers) -> None:
        self._path = folder / "queue" / "q.db"

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        return SqliteSource(self._path, owner, lease_s=lease_s, io_timeout=IO_S)

    def desk(self) -> Desk:
        return SqliteDesk(self._path, io_timeout=IO_S, create=True)

    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        return shop.job(f"sqlite:///{self._path}", journal, handler, **more)

    def out_of_order(self) -> AbstractContextManager[None]:
        return locked(self._path)


class RedisBench(Bench):
    """Lists of Redis."""

    KEEPS_PLACES = False
    TOPICS = ("t", "u", "a", "b", "high", "low")

    def __init__(self, _folder: Path, servers: Servers) -> None:
        self._server = servers.redis
        self._server.empty()

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        url = self._server.url
        return ListSource(url, owner, self.TOPICS, lease_s=lease_s, io_timeout=IO_S)

    def desk(self) -> Desk:
        return RedisDesk(self._server.url, self.TOPICS, io_timeout=IO_S)

    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        return shop.job(self._server.url, journal, handler, **more)

    def out_of_order(self) -> AbstractContextManager[None]:
        return self._server.standing_still()


class StreamBench(RedisBench):
    """Streams of Redis."""

    KEEPS_PLACES = True

    GROUP = "g"

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        url, topics = self._server.url, self.TOPICS
        return StreamSource(url, owner, self.GROUP, topics, lease_s=lease_s, io_timeout=IO_S)

    def desk(self) -> Desk:
        return StreamDesk(self._server.url, self.TOPICS, group=self.GROUP, io_timeout=IO_S)

    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        job = super().job(journal, handler, **more)
        return replace(job, type="stream", consumer_group=self.GROUP)


class KafkaBench(Bench):
    """Topics of one partition, and a group of its own for each bench."""

    SEES_WORK = False
    TOPICS = ("t", "u", "a", "b", "high", "low")

    def __init__(self, folder: Path, servers: Servers) -> None:
        if servers.kafka is None:
            pytest.skip(kafka_server.LACKS)
        self._server = servers.kafka
        self._group = os.urandom(8).hex()
        self._state_dir = folder
        empty_topics(self._server, self.TOPICS)

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        who = member(owner, self._group, self.TOPICS, lease_s)
        return Prompt(KafkaSource(settings(self._server, IO_S), who, self._state_dir))

    def desk(self) -> Desk:
        interest = Interest(self._group, False, self.TOPICS, self.TOPICS, self._state_dir)
        return KafkaDesk(settings(self._server, IO_S), interest)

    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        job = shop.job("kafka:", journal, handler, **more)
        return replace(
            job,
            type="kafka",
            url=None,
            brokers=(self._server.brokers,),
            consumer_group=self._group,
            order="none",
        )

    def publish_raw(self, topic: str, *bodies: bytes, delay_s: float = 0.0) -> None:
        super().publish_raw(topic, *bodies, delay_s=delay_s)
        kafka_client.close_producers()  # no threads of it may live at a fork

    def out_of_order(self) -> AbstractContextManager[None]:
        return self._server.standing_still()


class PostgresLockBench(PostgresTableBench):
    """The same tables, their rows held by locks."""

    COUNTS_FREED = False

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        table = replace(self.table("t"), is_locked=True)
        url = self._server.url
        return PostgresLockSource(url, owner, table, lease_s=lease_s, io_timeout=IO_S)

    def desk(self, topic: str = "t") -> Desk:
        table = replace(self.table(topic), is_locked=True)
        return PostgresTableDesk(self._server.url, table, io_timeout=IO_S)

    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        return replace(super().job(journal, handler, **more), claim="lock")


class Guarded(Bench):
    """A bench behind all that may stand between a source and the loop, letting all through."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self._bench = bench
        self.publish_raw = bench.publish_raw  # type: ignore[method-assign]
        self.letters = bench.letters  # type: ignore[method-assign]
        self.SEES_WORK = bench.SEES_WORK
        self.content = bench.content  # type: ignore[method-assign]
        self._meters = Meters()
        self._keys = folder / "keys.db"

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        job = Job(name="a", kind="daemon", type="queue", idempotency_ttl=0.0, rate_limit=1e6)
        keys = SqliteKeys(self._keys, owner, lease_s=lease_s, ttl_s=0.0, io_timeout=IO_S)
        source = self._bench.source(owner, lease_s)
        once = OnceSource(source, keys, job, Page.alone(), _never)
        rate = Rate.of(1e6)
        meter = CellMeter(self._meters.of(job), rate)
        return RatedSource(once, meter, rate, Page.alone())

    def desk(self) -> Desk:
        return self._bench.desk()

    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        return self._bench.job(journal, handler, **more)

    def out_of_order(self) -> AbstractContextManager[None]:
        return self._bench.out_of_order()

    def close(self) -> None:
        self._meters.close()


def _never(*_: object) -> None:
    raise AssertionError("every message has an id")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the keys in a queue's own file where there is none: a database is not ours.

    And of Kafka, where each test waits for a group, what the loop does by itself on any engine.
    """
    items[:] = [item for item in items if not _is_left_out(item, _params(item))]


_OF_A_LOG: Final = frozenset({"test_sources", "test_consume", "test_trouble", "test_service_down"})


def _params(item: pytest.Item) -> dict[str, Any]:
    if isinstance(item, pytest.Function) and hasattr(item, "callspec"):
        return dict(item.callspec.params)
    return {}


def _is_left_out(item: pytest.Item, params: dict[str, Any]) -> bool:
    if params.get("bench") is KafkaBench:
        return item.path.stem not in _OF_A_LOG or params.get("is_guarded") is True
    return params.get("bench") is SqliteTableBench and params.get("store") == "queue"


def empty(bench: Bench, *topics: str) -> Callable[[], bool]:
    """Give the question whether every message of the topics (of "t") is done or dead."""

    def look() -> bool:
        depths = [bench.depth(topic) for topic in topics or ("t",)]
        return not any(depth.depth or depth.delayed or depth.in_flight for depth in depths)

    return look


@pytest.fixture(autouse=True)
def after_lone_crashes(monkeypatch: pytest.MonkeyPatch) -> Callable[[float, float], None]:
    """Set how long a message waits that has killed while it ran alone; here first not at all."""

    def wait(*delays_s: float) -> None:
        monkeypatch.setattr(source, "LONE_CRASHES_S", delays_s)

    wait(0.0, 0.0)
    return wait


@pytest.fixture
def journal(tmp_path: Path) -> shop.Journal:
    """Give what the handlers of `shop` write."""
    return shop.Journal(tmp_path / "journal")


__all__ = ["LEASE_S", "Bench", "Servers"]  # where the tests find them

LEASING: Final = (SqliteBench, RedisBench, StreamBench, SqliteTableBench, PostgresTableBench)
TOPICAL: Final = (SqliteBench, RedisBench, StreamBench, KafkaBench)
NO_LOGS: Final = (*LEASING, PostgresLockBench)
BENCHES: Final = (*NO_LOGS, KafkaBench)

no_log: Final = pytest.mark.parametrize("bench", NO_LOGS, indirect=True)
"""Of a test about what a log has not: single messages that others can see, count and take."""

several_topics: Final = pytest.mark.parametrize("bench", TOPICAL, indirect=True)
"""Of a test in which one source or job serves several topics; that of a table serves one."""

leasing: Final = pytest.mark.parametrize("bench", LEASING, indirect=True)
"""Of tests about leases that end, several messages in one call, or the number of threads: a lock
has none of the first, and a thread more."""

by_the_clock: Final = pytest.mark.parametrize(
    "bench", [*TOPICAL, PostgresTableBench], indirect=True
)
"""Of tests that wait for times to pass: a table of SQLite adds nothing to a queue and a table."""


@pytest.fixture(scope="session")
def servers(
    request: pytest.FixtureRequest, redis_server: RedisServer, postgres_server: PostgresServer
) -> Servers:
    """Give what the benches may ask for; Kafka, which is no package, only where it is."""
    kafka = request.getfixturevalue("kafka_server") if kafka_server.is_there() else None
    return Servers(redis_server, postgres_server, kafka)


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path, servers: Servers) -> Iterator[Bench]:
    """Give a bench of each kind."""
    with closing(request.param(tmp_path, servers)) as made:
        yield made

"""The benches: one for each kind of source. A new source joins by adding its bench here."""

from __future__ import annotations

import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from supervisor.board import Page
from supervisor.config import Job
from supervisor.meters import Meters
from supervisor.secret import Secret
from tests.helpers import rows, shop
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.redis_server import RedisServer
from workers import codec
from workers.idempotency import OnceSource
from workers.ratelimit import CellMeter, Rate, RatedSource
from workers.sources import source
from workers.sources.desk import Depth, Desk, Letter, depths_of
from workers.sources.postgres_lock import PostgresLockSource
from workers.sources.postgres_table import PostgresTableSource
from workers.sources.postgres_table_desk import PostgresTableDesk
from workers.sources.redis_desk import RedisDesk
from workers.sources.redis_list import ListSource
from workers.sources.redis_stream import StreamSource
from workers.sources.redis_stream_desk import StreamDesk
from workers.sources.source import Delivery, Source
from workers.sources.sqlite import SqliteSource
from workers.sources.sqlite_desk import SqliteDesk
from workers.sources.sqlite_keys import SqliteKeys
from workers.sources.sqlite_table import SqliteTableSource
from workers.sources.sqlite_table_desk import SqliteTableDesk
from workers.sources.table import Table

LEASE_S = 600.0

IO_S = 30.0
"""Nobody waits so long for the file, however busy the disk."""


@dataclass(frozen=True)
class Servers:
    """The servers of the test run."""

    redis: RedisServer
    postgres: PostgresServer


class Bench(ABC):
    """What the suite needs to know about one kind of source: how to come to it, and its job."""

    KEEPS_PLACES = True
    """What is given back without delay comes where it stood; else before what nobody has had."""
    COUNTS_FREED = True
    """What a dead process held is freed by us; else the server may have done it before."""
    BOOKS: tuple[str, ...] = ("a", "b")
    """The topics that one source of it may serve together."""

    @abstractmethod
    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        """Give a source that is not open yet."""

    @abstractmethod
    def desk(self) -> Desk:
        """Give a new desk: a connection must not be open at a fork."""

    @abstractmethod
    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        """Give a job that consumes from it, with a handler of `shop`."""

    @abstractmethod
    def out_of_order(self) -> AbstractContextManager[None]:
        """Have it fail or not answer. No fork may happen meanwhile."""

    def publish(self, topic: str, *data: object, delay_s: float = 0.0) -> None:
        """Put messages on a topic, with ids that tell their data."""
        bodies = [codec.encode(topic, one, message_id=str(one).replace(" ", "")) for one in data]
        self.publish_raw(topic, *bodies, delay_s=delay_s)

    def publish_raw(self, topic: str, *bodies: bytes, delay_s: float = 0.0) -> None:
        """Put bodies on a topic as they are."""
        with closing(self.desk()) as desk:
            desk.publish(topic, bodies, delay_s)

    def depth(self, topic: str) -> Depth:
        """Look at one topic."""
        with closing(self.desk()) as desk:
            [depth, *_] = depths_of(desk, [topic])
        return depth

    def letters(self, topic: str) -> list[Letter]:
        """Look at all its dead letters."""
        with closing(self.desk()) as desk:
            return list(desk.walk(topic))

    def pause(self, topic: str) -> None:
        """Let nobody take from a topic."""
        with closing(self.desk()) as desk:
            desk.pause(topic)

    def resume(self, topic: str) -> None:
        """Undo `pause`."""
        with closing(self.desk()) as desk:
            desk.resume(topic)

    def content(self, delivery: Delivery) -> bytes:
        """Give what was published, of a delivery."""
        return delivery.body

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Let go of what the bench itself holds."""


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock that every change of a file needs. No fork may happen meanwhile."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    yield
    database.execute("ROLLBACK")
    database.close()


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
        return _locked(self._path)


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


class TableBench(Bench):
    """Rows of tables: each topic is a table, and so a source or a job serves one."""

    BOOKS = ("t",)

    @abstractmethod
    def table(self, topic: str) -> Table:
        """Describe the table of a topic, which is made when it is missing."""

    @abstractmethod
    def insert(self, topic: str, rows: list[tuple[str, Any, Any]], delay_s: float) -> None:
        """Put in rows of body, `n` and name, to be done after a delay."""

    def table_job(self, url: str, journal: Path, handler: str, **more: Any) -> Job:
        """Give a job whose handler takes the messages out of the rows."""
        options = {
            "journal": Secret((str(journal),)),
            "gate": Secret((str(journal) + ".gate",)),
        }
        self.table("t")
        found = shop.job(url, journal, handler, **{"idempotency_key": "data.name"} | more)
        return replace(
            found,
            type="table",
            table="t",
            order_by="id",
            poll_interval=0.02,
            options=options,
            handler=f"{rows.__name__}:{handler}",
        )

    def publish_raw(self, topic: str, *bodies: bytes, delay_s: float = 0.0) -> None:
        """Insert rows that hold these bodies."""
        texts = [body.decode("utf-8", "surrogatepass") for body in bodies]
        self.insert(topic, [(text, *_about(text)) for text in texts], delay_s)

    def letters(self, topic: str) -> list[Letter]:
        """Give the letters as if of the messages in the rows."""
        found = []
        for letter in super().letters(topic):
            body = rows.body_in(letter.body)
            key = codec.decode(topic, letter.body, fallback_id="", attempt=1).id
            message = codec.decode(topic, body, fallback_id="", attempt=1)
            known_as = message.id.encode(errors="backslashreplace").decode()
            found.append(replace(letter, body=body, id=known_as if letter.id == key else letter.id))
        return found

    def content(self, delivery: Delivery) -> bytes:
        return rows.body_in(delivery.body)


def _about(text: str) -> tuple[Any, Any]:
    """Give the `n` of the data of a message, and its id, for their columns."""
    message = codec.decode("t", text.encode("utf-8", "surrogatepass"), fallback_id="", attempt=1)
    number = message.data.get("n") if isinstance(message.data, dict) else None
    return number, message.id.encode(errors="backslashreplace").decode()


class SqliteTableBench(TableBench):
    """Tables in a file of SQLite."""

    def __init__(self, folder: Path, _servers: Servers) -> None:
        self._path = folder / "tables.db"
        self.table("t")

    def table(self, topic: str) -> Table:
        with closing(sqlite3.connect(self._path, timeout=IO_S)) as database, database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute(
                f"CREATE TABLE IF NOT EXISTS {topic} (id INTEGER PRIMARY KEY AUTOINCREMENT,"
                " status TEXT NOT NULL DEFAULT 'pending', body TEXT NOT NULL, n, name TEXT)"
            )
        words = ("id", "status", "pending", "done", "failed", "id")
        return Table(topic, *words, poll_interval=0.02)

    def insert(self, topic: str, rows: list[tuple[str, Any, Any]], delay_s: float) -> None:
        due = int((time.time() + delay_s) * 1000)
        with closing(self.desk(topic)) as desk:
            desk.depths()  # makes what lies beside it
        with closing(sqlite3.connect(self._path, timeout=IO_S)) as database, database:
            for row in rows:
                key = database.execute(
                    f"INSERT INTO {topic} (body, n, name) VALUES (?, ?, ?)", row
                ).lastrowid
                if delay_s:
                    database.execute(
                        f"INSERT INTO {topic}_work (key, due) VALUES (?, ?)", (key, due)
                    )

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        table = self.table("t")
        return SqliteTableSource(self._path, owner, table, lease_s=lease_s, io_timeout=IO_S)

    def desk(self, topic: str = "t") -> Desk:
        return SqliteTableDesk(self._path, self.table(topic), io_timeout=IO_S)

    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        return self.table_job(f"sqlite:///{self._path}", journal, handler, **more)

    def out_of_order(self) -> AbstractContextManager[None]:
        return _locked(self._path)


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


class PostgresTableBench(TableBench):
    """Tables in a PostgreSQL."""

    def __init__(self, _folder: Path, servers: Servers) -> None:
        self._server = servers.postgres
        self._server.empty()
        self._made: set[str] = set()
        self.table("t")

    def table(self, topic: str) -> Table:
        if topic not in self._made:
            self._made.add(topic)
            with self._server.cursor() as cursor:
                cursor.execute(
                    f"CREATE TABLE IF NOT EXISTS {topic} (id bigserial PRIMARY KEY,"
                    " status text NOT NULL DEFAULT 'pending', body text NOT NULL, n bigint,"
                    f" name text); CREATE INDEX ON {topic} (id) WHERE status = 'pending'"
                )
        words = ("id", "status", "pending", "done", "failed", "id")
        return Table(topic, *words, poll_interval=0.02)

    def insert(self, topic: str, rows: list[tuple[str, Any, Any]], delay_s: float) -> None:
        with closing(self.desk(topic)) as desk:
            desk.depths()  # makes what lies beside it
        with self._server.cursor() as cursor:
            cursor.execute(
                f"WITH new AS (INSERT INTO {topic} (body, n, name) SELECT * FROM"
                " unnest(%s::text[], %s::bigint[], %s::text[]) RETURNING id)"
                f" INSERT INTO {topic}_work (key, due) SELECT id, now() + %s * interval '1 second'"
                " FROM new WHERE %s > 0",
                (*map(list, zip(*rows, strict=True)), delay_s, delay_s),
            )

    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        table = self.table("t")
        url = self._server.url
        return PostgresTableSource(url, owner, table, lease_s=lease_s, io_timeout=IO_S)

    def desk(self, topic: str = "t") -> Desk:
        return PostgresTableDesk(self._server.url, self.table(topic), io_timeout=IO_S)

    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        return self.table_job(self._server.url, journal, handler, **more)

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
    """Leave out the keys in a queue's own file where there is none: a database is not ours."""
    items[:] = [item for item in items if not _has_no_file_of_queue(item)]


def _has_no_file_of_queue(item: pytest.Item) -> bool:
    params = (
        item.callspec.params
        if isinstance(item, pytest.Function) and hasattr(item, "callspec")
        else {}
    )
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


TOPICAL: Final = (SqliteBench, RedisBench, StreamBench)
LEASING: Final = (*TOPICAL, SqliteTableBench, PostgresTableBench)
BENCHES: Final = (*LEASING, PostgresLockBench)

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
def servers(redis_server: RedisServer, postgres_server: PostgresServer) -> Servers:
    """Give what the benches may ask for."""
    return Servers(redis_server, postgres_server)


@pytest.fixture(params=BENCHES)
def bench(request: pytest.FixtureRequest, tmp_path: Path, servers: Servers) -> Iterator[Bench]:
    """Give a bench of each kind."""
    with closing(request.param(tmp_path, servers)) as made:
        yield made

"""The benches of tables."""

from __future__ import annotations

import sqlite3
import time
from abc import abstractmethod
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from supervisor.config import Job
from supervisor.secret import Secret
from tests.conformance.bench import IO_S, LEASE_S, Bench, Servers, locked
from tests.helpers import rows, shop
from workers import codec
from workers.sources.desk import Desk, Letter
from workers.sources.postgres_table import PostgresTableSource
from workers.sources.postgres_table_desk import PostgresTableDesk
from workers.sources.source import Delivery, Source
from workers.sources.sqlite_table import SqliteTableSource
from workers.sources.sqlite_table_desk import SqliteTableDesk
from workers.sources.table import Table


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
        return locked(self._path)


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

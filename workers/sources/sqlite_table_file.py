"""A table in somebody's database of SQLite: whether it is as a job says, and what lies beside it.

The database is not ours: it is never made, and its settings stay as they are. Beside the table
TABLE_work is made, and TABLE_work_clock.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from workers.sources.source import SourceTrouble
from workers.sources.sqlite_file import QueueFile
from workers.sources.table import Table, quoted

_WORK: Final = """
    CREATE TABLE IF NOT EXISTS {work} (
        number    INTEGER PRIMARY KEY AUTOINCREMENT,
        key       UNIQUE,                       -- of the row; NULL: the table is paused
        owner     TEXT,                         -- of the lease; NULL: nobody works on it
        until     INTEGER,                      -- end of the lease, epoch milliseconds
        due       INTEGER NOT NULL DEFAULT 0,   -- not before, epoch milliseconds
        attempts  INTEGER NOT NULL DEFAULT 0,
        failures  INTEGER NOT NULL DEFAULT 0,
        crashes   INTEGER NOT NULL DEFAULT 0,
        suspect   INTEGER NOT NULL DEFAULT 0,
        queue     TEXT,                         -- the name of the dead letters; NULL: it is none
        id        TEXT,
        error     TEXT,
        traceback TEXT,
        origin    TEXT,                         -- the process that gave it up
        at        INTEGER                       -- when it did, epoch milliseconds
    )
"""

_IS_FREE: Final = """
    NOT EXISTS (
        SELECT 1 FROM {work} w WHERE w.key = t.{key} AND (w.owner IS NOT NULL OR w.due > :now)
    )
"""


class TableFile(QueueFile):
    """One connection to a database with a table of a job. Used by the thread that made it."""

    KIND = "database"

    def __init__(self, path: Path, table: Table, *, io_timeout: float) -> None:
        super().__init__(path, io_timeout=io_timeout, durable=False, create=False)
        self._table = table
        self.is_free = _IS_FREE.format(work=table.work, key=quoted(table.key))
        """The SQL that is true for a row `t` that nobody holds and that is due at `:now`."""

    def make_work(self) -> None:
        """Make what lies beside the table where it is missing; forget rows that are gone from it.

        Raises: SourceTrouble.
        """
        table = self._table
        leased = table.beside("_work_leased")
        work = quoted(table.name.rpartition(".")[2] + "_work")
        with self.change() as change:
            change.execute(_WORK.format(work=table.work))
            change.execute(
                f"CREATE INDEX IF NOT EXISTS {leased} ON {work} (owner) WHERE owner IS NOT NULL"
            )
            change.execute(
                f"DELETE FROM {table.work} AS w WHERE key IS NOT NULL AND owner IS NULL"
                f" AND NOT EXISTS (SELECT 1 FROM {table.here} t WHERE t.{quoted(table.key)} = w.key"
                f" AND ({table.still_pending} OR (w.queue IS NOT NULL AND {table.has_failed})))"
            )

    def has_work(self) -> bool:
        """Tell whether anything lies beside the table yet."""
        return bool(self._info("_work"))

    def columns(self) -> list[str]:
        """Give the names of the table's columns, in their order."""
        return [column for column, _ in self._info()]

    def examine(self) -> None:
        """Compare the table with what the job says. Raises: ConfigError, SourceTrouble."""
        table = self._table
        found = self._info()
        if not found:
            if not self.read("SELECT 1 FROM sqlite_master LIMIT 1"):
                raise SourceTrouble(f"{self.path}: the database has no tables yet")
            raise table.wrong("table", f"there is no table {table.name} in {self.path}")
        known = {column.lower() for column, _ in found}
        for column, key in table.columns.items():
            if column.lower() not in known:
                words = ", ".join(column for column, _ in found)
                raise table.wrong(key, f"{table.name} has no column {column} (it has: {words})")
        if not self._is_unique([column.lower() for column, pk in found if pk]):
            _, name = self._names()
            raise table.wrong(
                "key",
                f"{table.key} is not unique in {table.name}; it needs CREATE UNIQUE INDEX"
                f" {name}_{table.key} ON {name} ({table.key})",
            )
        try:
            self.read(f"SELECT 1 FROM {table.here} t WHERE {table.is_pending} LIMIT 0")
        except SourceTrouble as trouble:
            if not isinstance(trouble.__cause__, sqlite3.OperationalError) or not table.where:
                raise
            raise table.wrong("where", f"cannot be used: {trouble.__cause__}") from None

    def row_of(self, columns: Sequence[str], row: Sequence[Any]) -> str:
        """Write a row as JSON; what is no UTF-8 is written as hex."""
        return json.dumps(dict(zip(columns, map(_plain, row), strict=True)), ensure_ascii=False)

    def _info(self, end: str = "") -> list[tuple[str, int]]:
        """Read the columns of the table, or of one beside it, and their places in its key."""
        schema, name = self._names(end)
        return self.read(
            "SELECT name, pk FROM pragma_table_info(:name, :schema)", name=name, schema=schema
        )

    def _names(self, end: str = "") -> tuple[str, str]:
        schema, _, name = self._table.name.rpartition(".")
        return schema or "main", name + end

    def _is_unique(self, primary: list[str]) -> bool:
        if primary == [self._table.key.lower()]:
            return True
        schema, name = self._names()
        rows = self.read(
            "SELECT lower(min(c.name)) FROM pragma_index_list(:name, :schema) i,"
            ' pragma_index_info(i.name, :schema) c WHERE i."unique" AND NOT i.partial'
            " GROUP BY i.name HAVING count(*) = 1",
            name=name,
            schema=schema,
        )
        return (self._table.key.lower(),) in rows

    def _prepare(self, connection: sqlite3.Connection) -> None:
        connection.text_factory = lambda text: text.decode(errors="backslashreplace")
        # A file that is no database says so here.
        [mode] = connection.execute("PRAGMA journal_mode").fetchone()
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if mode == "wal":
            connection.execute("PRAGMA synchronous = NORMAL")


def _plain(value: object) -> object:
    if not isinstance(value, bytes):
        return value
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()

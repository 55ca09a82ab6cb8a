"""A table of PostgreSQL: whether it is as a job says, and the DDL of what lies beside it."""

from __future__ import annotations

import re
from typing import Final

from workers.sources.postgres_server import DENIED, PostgresServer, SqlTrouble
from workers.sources.table import Table, literal, quoted

_WORK: Final = """
    CREATE TABLE IF NOT EXISTS {work} (
        number bigint GENERATED ALWAYS AS IDENTITY, key {type} UNIQUE, owner text,
        until timestamptz, due timestamptz NOT NULL DEFAULT '-infinity',
        attempts integer NOT NULL DEFAULT 0, failures integer NOT NULL DEFAULT 0,
        crashes integer NOT NULL DEFAULT 0, suspect boolean NOT NULL DEFAULT false,
        queue text, id text, error text, traceback text, origin text, at timestamptz
    ) WITH (fillfactor = 70);
    CREATE INDEX IF NOT EXISTS {leased} ON {work} (owner) WHERE owner IS NOT NULL;
    CREATE INDEX IF NOT EXISTS {dead} ON {work} (number) WHERE queue IS NOT NULL
"""
"""Of a row: who holds it and until when, when it is due, how often it was tried; and of one that is
in the dead letters `queue`, their name, and why. A row without a key says that the table is paused.
"""

_WRONG: Final = ("22", "42")
"""What codes of errors begin with that the statement itself is the reason of.
Source: PostgreSQL, appendix A."""

_UNIQUE: Final = """
    SELECT 1 FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid
        AND a.attnum = i.indkey[0]
    WHERE i.indrelid = to_regclass(%(here)s) AND i.indisunique AND i.indisvalid
        AND i.indpred IS NULL AND i.indnkeyatts = 1 AND a.attname = %(key)s
"""

_INDEXES: Final = """
    SELECT pg_get_indexdef(indexrelid, 1, true),
        CASE WHEN indnkeyatts > 1 THEN pg_get_indexdef(indexrelid, 2, true) END,
        coalesce(pg_get_expr(indpred, indrelid), '')
    FROM pg_index WHERE indrelid = to_regclass(%(here)s) AND indisvalid
"""


_LOCKED: Final = """
    SELECT count(DISTINCT pid) FROM pg_locks WHERE locktype = 'relation' AND granted
        AND mode = 'RowShareLock' AND relation = to_regclass(%(here)s)::oid
        AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
"""Who has locked rows, to keep them or to change them. Source: PostgreSQL, table-level locks."""

_CAST: Final = re.compile(r"::(?:\"[^\"]+\"|[\w.]+(?: varying)?)(?:\(\d+\))?")
_PLAIN: Final = str.maketrans("", "", '()"')
"""What stands in the predicate of an index as the server writes it, and says nothing more."""

_PLACE: Final = re.compile(r"\{(\w+)\}")
"""A place in a statement where something of the table is put in."""


def escaped(sql: str) -> str:
    """Write SQL so that it may stand in a statement with values."""
    return sql.replace("%", "%%")


class Work:
    """What is known of a table and of what lies beside it, after `examine`."""

    def __init__(self, server: PostgresServer, table: Table) -> None:
        self._server = server
        self._table = table
        self.key_type = ""

    def filled(self, sql: str, settled: str = "") -> str:
        """Put the names of the table, and how a row ended, into a statement with values.

        What is put in is not looked through again: `where` may well have braces of its own.
        """
        table = self._table
        parts = {
            "here": table.here,
            "work": table.work,
            "key": quoted(table.key),
            "order": quoted(table.order_by),
            "is_pending": table.is_pending,
            "still_pending": table.still_pending,
            "has_failed": table.has_failed,
            "begin_again": table.begin_again,
            "type": self.key_type,
            "settled": settled,
        }
        return _PLACE.sub(lambda found: escaped(parts[found[1]]), sql)

    def examine(self) -> None:
        """Compare the table with what the job says. Raises: ConfigError, SourceTrouble."""
        table = self._table
        found = dict(
            self._server.run(
                "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE"
                " attrelid = to_regclass(%(here)s) AND attnum > 0 AND NOT attisdropped",
                {"here": table.here},
            )
        )
        if not found:
            raise table.wrong("table", f"there is no table {table.name} in the database")
        for column, key in table.columns.items():
            if column not in found:
                raise table.wrong(
                    key, f"{table.name} has no column {column} (it has: {', '.join(found)})"
                )
        self.key_type = found[table.key]
        if not self._server.run(_UNIQUE, {"here": table.here, "key": table.key}):
            ddl = f"CREATE UNIQUE INDEX ON {table.here} ({quoted(table.key)})"
            raise table.wrong("key", f"{table.key} is not unique in {table.name}; it needs {ddl}")
        self._try_words()

    def _try_words(self) -> None:
        """See whether each thing that the job says can be said of the table."""
        table = self._table
        pending = f"SELECT 1 FROM {table.here} t WHERE {table.still_pending}"
        self._try(pending, "pending")
        self._try(f"SELECT 1 FROM {table.here} t WHERE {table.is_pending}", "where")
        self._try(f"{pending} ORDER BY t.{quoted(table.order_by)} LIMIT 1", "order_by")
        changes = {
            "done": (table.status, literal(table.done)),
            "failed": (table.status, literal(table.failed)),
            "attempts_column": (table.attempts_column, "0"),
            "error_column": (table.error_column, "''::text"),
        }
        for key, (column, word) in changes.items():
            if column is not None:
                change = f"SET {quoted(column)} = {word} WHERE {table.still_pending}"
                self._try(f"UPDATE {table.here} t {change}", key)

    def hints(self) -> list[str]:
        """Give what would be better, each with its DDL. Raises: SourceTrouble."""
        table = self._table
        for first, second, predicate in self._server.run(_INDEXES, {"here": table.here}):
            columns = [str(name).strip('"') for name in (first, second)]
            if columns[0] == table.order_by and self._is_of_pending(predicate):
                return []
            if columns == [table.status, table.order_by]:
                return []
        ddl = (
            f"CREATE INDEX CONCURRENTLY ON {table.here} ({quoted(table.order_by)})"
            f" WHERE {quoted(table.status)} = {literal(table.pending)}"
        )
        return [f"{table.name} has no index of what is to be done; it needs {ddl}"]

    def _is_of_pending(self, predicate: str) -> bool:
        """Tell whether an index with that predicate holds the rows that are to be done.

        Where there are further conditions, those of `where` are taken to imply them.
        """
        table = self._table
        plain = _CAST.sub("", predicate).translate(_PLAIN)
        parts = [part.strip() for part in plain.split(" AND ")]
        words = {table.pending, literal(table.pending)}
        is_met = {f"{table.status} = {word}" for word in words} & {*parts}
        return bool(is_met) and (len(parts) == 1 or table.where is not None)

    def locked(self) -> int:
        """Count the transactions that hold rows by their lock. Raises: SourceTrouble."""
        [(number,)] = self._server.run(_LOCKED, {"here": self._table.here})
        return int(number)

    def make(self) -> None:
        """Make what lies beside the table where it is missing. Raises: ConfigError, SourceTrouble.

        Under a lock: of two that make one table at once the second would fail.
        """
        if self.is_there():
            return
        try:
            self._server.run(f"SELECT pg_advisory_xact_lock(7726321); {self._ddl()}")
        except SqlTrouble as trouble:
            if trouble.code != DENIED:
                raise
            raise self._needs_ddl() from None

    def look(self) -> None:
        """See whether `make` would work. Raises: ConfigError, SourceTrouble."""
        if self.is_there():
            return
        [(may,)] = self._server.run(
            "SELECT has_schema_privilege("
            "coalesce(nullif(%(schema)s, ''), current_schema()), 'CREATE')",
            {"schema": self._table.name.rpartition(".")[0]},
        )
        if not may:
            raise self._needs_ddl()

    def is_there(self) -> bool:
        """Tell whether there is a table beside it."""
        [(found,)] = self._server.run(
            "SELECT to_regclass(%(work)s) IS NOT NULL", {"work": self._table.work}
        )
        return bool(found)

    def _ddl(self) -> str:
        table = self._table
        name = table.name.rpartition(".")[2]
        leased, dead = quoted(f"{name}_work_leased"), quoted(f"{name}_work_dead")
        return " ".join(
            _WORK.format(work=table.work, type=self.key_type, leased=leased, dead=dead).split()
        )

    def _needs_ddl(self) -> Exception:
        return self._table.wrong(
            "table",
            f"{self._table.name}_work is missing, and may not be made here; it needs {self._ddl()}",
        )

    def _try(self, sql: str, key: str) -> None:
        """See whether a statement could be carried out. Raises: ConfigError, SourceTrouble."""
        try:
            self._server.run(f"EXPLAIN {sql}")
        except SqlTrouble as trouble:
            if not trouble.code.startswith(_WRONG):
                raise
            raise self._table.wrong(key, f"cannot be used: {trouble}") from None

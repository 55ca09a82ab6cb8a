"""The other side of a table of SQLite: those who look, and tidy up, while consumers work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from workers.sources.desk import NUMBER_MAX, PAGE, Depth, Letter
from workers.sources.sqlite_clock import now_ms
from workers.sources.sqlite_desk import change_by_pages
from workers.sources.sqlite_table_file import TableFile
from workers.sources.table import Table, body_of, quoted
from workers.sources.table_desk import TableDesk


class SqliteTableDesk(TableDesk):
    """The Desk of a table in `sqlite:///PATH`. Used by the thread that made it."""

    def __init__(self, path: Path, table: Table, *, io_timeout: float) -> None:
        self._file = TableFile(path, table, io_timeout=io_timeout)
        self._table = table

    def close(self) -> None:
        """Close the database."""
        self._file.close()

    def look(self) -> list[str]:
        """Compare the table with what the job says, where there is a database yet."""
        if self._file.path.exists():
            self._file.examine()
        return []

    def depths(self) -> list[Depth]:
        """Count the rows."""
        if not self._is_there():
            return []
        table = self._table
        now = now_ms()
        key = quoted(table.key)
        # One statement: between two of them a row that is taken would be in neither.
        [(held, dead, paused, waiting, due)] = self._file.read(
            "SELECT * FROM (SELECT count(owner), count(queue), count(*) - count(key)"
            f" FROM {table.work} WHERE queue IS NULL OR key IN (SELECT {key} FROM {table.here} t"
            f" WHERE {table.has_failed})),"
            " (SELECT count(*), total(is_due) FROM (SELECT coalesce((SELECT w.due <= :now"
            f" FROM {table.work} w WHERE w.key = t.{key}), 1) AS is_due"
            f" FROM {table.here} t WHERE {table.is_pending} AND t.{key} NOT IN"
            f" (SELECT key FROM {table.work} WHERE owner IS NOT NULL)))",
            now=now,
        )
        ready = int(due)
        return [Depth(table.name, ready, waiting - ready, held, dead, None, bool(paused))]

    def walk(self, queue: str, message_id: str | None = None) -> Iterator[Letter]:
        """Go through the dead letters, the newest first, with the rows as they are now."""
        before = NUMBER_MAX
        table = self._table
        while self._is_there():
            columns = self._file.columns()
            rows = self._file.read(
                "SELECT w.number, w.queue, w.id, w.error, w.traceback, w.attempts, w.failures,"
                " w.crashes, w.origin, w.at / 1000.0, w.key, t.*"
                f" FROM {table.work} w JOIN {table.here} t ON t.{quoted(table.key)} = w.key"
                f" WHERE w.queue IS NOT NULL AND {table.has_failed}"
                " AND w.number < :before AND (w.queue = :queue OR :queue = :topic)"
                " AND (:id IS NULL OR w.id = :id) ORDER BY w.number DESC LIMIT :page",
                before=before,
                queue=queue,
                topic=table.name,
                id=message_id,
                page=PAGE,
            )
            for row in rows:
                body = body_of(row[10], self._file.row_of(columns, row[11:]))
                yield Letter(row[0], row[1], table.name, row[2], body, *row[3:10])
            if len(rows) < PAGE:
                return
            before = rows[-1][0]

    def replay(self, numbers: Iterable[int]) -> int:
        """Write `pending` into the rows again, as if never tried."""
        table = self._table
        return change_by_pages(
            self._file,
            numbers,
            f"UPDATE {table.here} AS t SET {table.begin_again}"
            f" WHERE {table.has_failed} AND t.{quoted(table.key)} IN"
            f" (SELECT key FROM {table.work} WHERE queue IS NOT NULL AND number IN"
            " (SELECT value FROM json_each(:numbers)))",
            f"DELETE FROM {table.work} WHERE queue IS NOT NULL AND number IN"
            " (SELECT value FROM json_each(:numbers))",
        )

    def forget(self, numbers: Iterable[int]) -> int:
        """Delete the letters; the rows stay, with the word `failed`."""
        return change_by_pages(
            self._file,
            numbers,
            f"DELETE FROM {self._table.work} WHERE queue IS NOT NULL AND number IN"
            " (SELECT value FROM json_each(:numbers))",
        )

    def pause(self, topic: str) -> None:
        """Let nobody take rows until `resume`: a row of TABLE_work without a key says so."""
        self._file.examine()
        self._file.make_work()
        with self._file.change() as change:
            change.execute(f"DELETE FROM {self._table.work} WHERE key IS NULL")
            change.execute(
                f"INSERT INTO {self._table.work} (key, at) VALUES (NULL, ?)", (now_ms(),)
            )

    def resume(self, topic: str) -> None:
        """Undo `pause`."""
        if self._is_there():
            with self._file.change() as change:
                change.execute(f"DELETE FROM {self._table.work} WHERE key IS NULL")

    def _is_there(self) -> bool:
        """Tell whether there is a database, and somebody has worked on the table."""
        if not self._file.path.exists():
            return False
        self._file.examine()
        if not self._file.has_work():
            self._file.make_work()
        return True

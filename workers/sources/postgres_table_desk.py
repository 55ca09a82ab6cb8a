"""The other side of a table of PostgreSQL: those who look, and tidy up, while consumers work."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from workers.sources.desk import NUMBER_MAX, PAGE, Depth, Letter, by_pages
from workers.sources.postgres_server import PostgresServer
from workers.sources.postgres_work import Work
from workers.sources.table import Table, body_of
from workers.sources.table_desk import TableDesk

_IS_LETTER: Final = "({has_failed} OR w.due = 'infinity' AND {still_pending})"
"""It has failed, or was set aside as nothing could be written into its row."""

_DEPTHS: Final = f"""
    SELECT * FROM (
        SELECT count(w.owner), count(w.queue) FILTER (WHERE {_IS_LETTER}),
            count(*) FILTER (WHERE w.key IS NULL)
        FROM {{work}} w LEFT JOIN {{here}} t ON t.{{key}} = w.key
    ) beside, (
        SELECT count(*) FILTER (WHERE is_due), count(*) FILTER (WHERE NOT is_due)
        FROM (SELECT coalesce(w.due <= now(), true) AS is_due
            FROM {{here}} t LEFT JOIN {{work}} w ON w.key = t.{{key}}
            WHERE {{is_pending}} AND w.owner IS NULL AND w.due IS DISTINCT FROM 'infinity') found
    ) here
"""

_WALK: Final = f"""
    SELECT w.number, w.queue, w.id, w.error, w.traceback, w.attempts, w.failures, w.crashes,
        w.origin, extract(epoch FROM w.at)::float, w.key::text, row_to_json(t)::text
    FROM {{work}} w JOIN {{here}} t ON t.{{key}} = w.key
    WHERE w.queue IS NOT NULL AND {_IS_LETTER} AND w.number < %(before)s
        AND (w.queue = %(queue)s OR %(queue)s = %(topic)s)
        AND (%(id)s::text IS NULL OR w.id = %(id)s) ORDER BY w.number DESC LIMIT %(page)s
"""

_REPLAY: Final = f"""
    WITH chosen AS (
        SELECT t.{{key}} AS key FROM {{here}} t JOIN {{work}} w ON w.key = t.{{key}}
        WHERE w.queue IS NOT NULL AND w.number = ANY(%(numbers)s) AND {_IS_LETTER}
        FOR UPDATE OF t
    ), gone AS (
        DELETE FROM {{work}} w USING chosen WHERE w.key = chosen.key AND w.queue IS NOT NULL
        RETURNING w.key
    )
    UPDATE {{here}} t SET {{begin_again}} FROM gone WHERE t.{{key}} = gone.key
        AND ({{has_failed}} OR {{still_pending}})
"""


class PostgresTableDesk(TableDesk):
    """The Desk of a table at `postgresql://...`. Used by the thread that made it."""

    def __init__(self, url: str, table: Table, *, io_timeout: float) -> None:
        self._server = PostgresServer(url, io_timeout=io_timeout, name="supervisor")
        self._table = table
        self._work = Work(self._server, table)

    def close(self) -> None:
        """Disconnect."""
        self._server.close()

    def look(self) -> list[str]:
        """Compare the table with what the job says."""
        self._work.examine()
        self._work.look()
        return self._work.hints()

    def depths(self) -> list[Depth]:
        """Count the rows."""
        self._prepare()
        [(held, dead, paused, ready, delayed)] = self._run(_DEPTHS)
        if self._table.is_locked:
            locked = min(ready, self._work.locked())
            held, ready = held + locked, ready - locked
        return [Depth(self._table.name, ready, delayed, held, dead, None, bool(paused))]

    def walk(self, queue: str, message_id: str | None = None) -> Iterator[Letter]:
        """Go through the dead letters, the newest first, with the rows as they are now."""
        self._prepare()
        name = self._table.name
        before = NUMBER_MAX
        while True:
            rows = self._run(
                _WALK, before=before, queue=queue, topic=name, id=message_id, page=PAGE
            )
            for number, under, known_as, *more, key, line in rows:
                yield Letter(number, under, name, known_as, body_of(key, line), *more)
            if len(rows) < PAGE:
                return
            before = rows[-1][0]

    def replay(self, numbers: Iterable[int]) -> int:
        """Write `pending` into the rows again, as if never tried."""
        return self._by_pages(numbers, _REPLAY)

    def forget(self, numbers: Iterable[int]) -> int:
        """Delete the letters; the rows stay, with the word `failed`."""
        sql = "DELETE FROM {work} WHERE queue IS NOT NULL AND number = ANY(%(numbers)s)"
        return self._by_pages(numbers, sql)

    def pause(self, topic: str) -> None:
        """Let nobody take rows until `resume`: a row of TABLE_work without a key says so."""
        self._prepare()
        self._run(
            "INSERT INTO {work} (key, at) SELECT NULL, now()"
            " WHERE NOT EXISTS (SELECT 1 FROM {work} WHERE key IS NULL)"
        )

    def resume(self, topic: str) -> None:
        """Undo `pause`."""
        self._prepare()
        self._run("DELETE FROM {work} WHERE key IS NULL")

    def _prepare(self) -> None:
        if not self._work.key_type:
            self._work.examine()
            self._work.make()

    def _run(self, sql: str, **values: object) -> list[tuple[Any, ...]]:
        return self._server.run(self._work.filled(sql), values)

    def _by_pages(self, numbers: Iterable[int], sql: str) -> int:
        """Run a statement on these letters, page by page; give how many it has changed."""
        total = 0
        for page in by_pages(numbers):
            self._prepare()
            self._run(sql, numbers=page)
            total += self._server.changed
        return total

"""The other side of a queue file: those who publish, and those who look.

No leases and no loop here; every call is one transaction, for handlers, the command line and any
other program on the same machine, while consumers work or while nobody does.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from workers.sources.desk import NUMBER_MAX, PAGE, Depth, Letter, by_pages
from workers.sources.sqlite_clock import now_ms
from workers.sources.sqlite_file import QueueFile

_PURGE: Final = 5000
"""So many messages are deleted at once, so that consumers wait for no long transaction."""


class SqliteDesk:
    """The Desk of `sqlite:///PATH`. Used by the thread that made it."""

    def __init__(self, path: Path, *, io_timeout: float, create: bool) -> None:
        self._create = create
        self._file = QueueFile(path, io_timeout=io_timeout, durable=True, create=create)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def look(self) -> Sequence[str]:
        """Read from the file."""
        self.depths()
        return ()

    def publish(self, topic: str, bodies: Iterable[bytes], delay_s: float) -> None:
        """Put messages on a topic, all or none; they are on the disk when this returns."""
        if self._file.is_gone():
            self._file.close()
        due = now_ms() + int(delay_s * 1000)
        with self._file.change() as change:
            change.executemany(
                "INSERT INTO messages (topic, due, body) VALUES (?, ?, ?)",
                [(topic, due, body) for body in bodies],
            )

    def depths(self) -> list[Depth]:
        """Look at every topic that the file knows, in the order of their names."""
        if self._is_nothing():
            return []
        now = now_ms()
        rows = self._file.read(
            """
            WITH counts AS (
                SELECT topic,
                    sum(owner IS NULL AND due <= :now) AS depth,
                    sum(owner IS NULL AND due > :now) AS delayed,
                    sum(owner IS NOT NULL) AS in_flight,
                    0 AS dead,
                    min(CASE WHEN owner IS NULL AND due <= :now THEN due END) AS oldest
                FROM messages GROUP BY topic
                UNION ALL
                SELECT queue, 0, 0, 0, count(*), NULL FROM dead GROUP BY queue
                UNION ALL
                SELECT topic, 0, 0, 0, 0, NULL FROM paused
            )
            SELECT topic, sum(depth), sum(delayed), sum(in_flight), sum(dead),
                (:now - min(oldest)) / 1000.0, topic IN (SELECT topic FROM paused)
            FROM counts GROUP BY topic ORDER BY topic
            """,
            now=now,
        )
        return [Depth(*row) for row in rows]

    def walk(self, queue: str, message_id: str | None = None) -> Iterator[Letter]:
        """Go through the dead letters under a name or of a topic, the newest first.

        They are read as they are needed. What dies meanwhile is not met.
        """
        before = NUMBER_MAX
        while not self._is_nothing():
            rows = self._file.read(
                """
                SELECT number, queue, topic, id, body, error, traceback, attempts, failures,
                    crashes, origin, at / 1000.0
                FROM dead
                WHERE number < :before AND (queue = :queue OR topic = :queue)
                    AND (:id IS NULL OR id = :id)
                ORDER BY number DESC LIMIT :page
                """,
                before=before,
                queue=queue,
                id=message_id,
                page=PAGE,
            )
            yield from (Letter(*row) for row in rows)
            if len(rows) < PAGE:
                return
            before = rows[-1][0]

    def replay(self, numbers: Iterable[int]) -> int:
        """Put dead letters back on their topics, as if never tried, the oldest first.

        Each moves whole or not at all, and once, whoever else moves or deletes it at the same
        time. Gives how many were moved.
        """
        now = now_ms()
        return change_by_pages(
            self._file,
            numbers,
            "INSERT INTO messages (topic, due, body) SELECT topic, :now, body FROM dead"
            " WHERE number IN (SELECT value FROM json_each(:numbers)) ORDER BY number",
            "DELETE FROM dead WHERE number IN (SELECT value FROM json_each(:numbers))",
            now=now,
        )

    def forget(self, numbers: Iterable[int]) -> int:
        """Delete dead letters for good. Gives how many were there."""
        return change_by_pages(
            self._file,
            numbers,
            "DELETE FROM dead WHERE number IN (SELECT value FROM json_each(:numbers))",
        )

    def pause(self, topic: str) -> None:
        """Let nobody claim from a topic until `resume`. A transaction that claims is never cut."""
        with self._file.change() as change:
            change.execute(
                "INSERT OR IGNORE INTO paused (topic, since) VALUES (?, ?)",
                (topic, now_ms()),
            )

    def resume(self, topic: str) -> None:
        """Undo `pause`."""
        with self._file.change() as change:
            change.execute("DELETE FROM paused WHERE topic = ?", (topic,))

    def purge(self, topic: str) -> int:
        """Delete what waits on a topic, delayed or not, and was published before this call.

        What is in flight stays, and so do dead letters. Gives how many were deleted.
        """
        if self._is_nothing():
            return 0
        [(last,)] = self._file.read("SELECT coalesce(max(number), 0) FROM messages")
        total = 0
        while True:
            with self._file.change() as change:
                deleted = change.execute(
                    "DELETE FROM messages WHERE number IN (SELECT number FROM messages"
                    " WHERE owner IS NULL AND topic = ? AND number <= ? LIMIT ?)",
                    (topic, last, _PURGE),
                ).rowcount
            total += deleted
            if deleted < _PURGE:
                return total

    def _is_nothing(self) -> bool:
        """Tell whether there is no file yet, and none is to be made."""
        return not self._create and not self._file.path.exists()


def change_by_pages(
    file: QueueFile, numbers: Iterable[int], change_them: str, *then: str, **values: object
) -> int:
    """Run statements on these letters, page by page; give what the first of them changed.

    Each page is one transaction.
    """
    total = 0
    for page in by_pages(numbers):
        given = {"numbers": json.dumps(page), **values}
        with file.change() as change:
            total += change.execute(change_them, given).rowcount
            for statement in then:
                change.execute(statement, given)
    return total

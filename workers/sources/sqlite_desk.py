"""The other side of a queue file: those who publish, and those who look.

No leases and no loop here; every call is one transaction, for handlers, the command line and any
other program on the same machine, while consumers work or while nobody does.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from workers.sources.sqlite_file import QueueFile


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of one topic waits, is in work, and is dead. Ages are seconds."""

    topic: str
    depth: int = 0
    delayed: int = 0
    in_flight: int = 0
    dead: int = 0
    oldest_age_s: float | None = None
    paused: bool | int = False


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. `at` is epoch seconds."""

    queue: str
    topic: str
    id: str
    body: bytes
    error: str
    traceback: str
    attempts: int
    failures: int
    crashes: int
    origin: str
    at: float


class SqliteDesk:
    """A connection for publishing and looking. Used by the thread that made it."""

    def __init__(self, path: Path, *, io_timeout: float, create: bool) -> None:
        self._file = QueueFile(path, io_timeout=io_timeout, durable=True, create=create)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def publish(self, topic: str, bodies: Iterable[bytes], delay_s: float) -> None:
        """Put messages on a topic, all or none; they are on the disk when this returns."""
        if self._file.is_gone():
            self._file.close()
        due = time.time_ns() // 1_000_000 + int(delay_s * 1000)
        with self._file.change() as change:
            change.executemany(
                "INSERT INTO messages (topic, due, body) VALUES (?, ?, ?)",
                [(topic, due, body) for body in bodies],
            )

    def depths(self) -> list[Depth]:
        """Look at every topic that the file knows, in the order of their names."""
        now = time.time_ns() // 1_000_000
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

    def letters(self, queue: str, *, limit: int, message_id: str | None = None) -> list[Letter]:
        """Look at the dead letters under a name or of a topic, the newest first."""
        rows = self._file.read(
            """
            SELECT queue, topic, id, body, error, traceback, attempts, failures, crashes, origin,
                at / 1000.0
            FROM dead
            WHERE (queue = :queue OR topic = :queue) AND (:id IS NULL OR id = :id)
            ORDER BY number DESC LIMIT :limit
            """,
            queue=queue,
            id=message_id,
            limit=limit,
        )
        return [Letter(*row) for row in rows]


def depths_of(desk: SqliteDesk, topics: Sequence[str]) -> list[Depth]:
    """Look at the topics of a job, and at what else the file holds: somebody may miss it."""
    known = {depth.topic: depth for depth in desk.depths()}
    listed = [known.pop(topic, Depth(topic)) for topic in topics]
    return listed + list(known.values())

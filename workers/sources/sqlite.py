"""Queues in a file of SQLite, for one machine: leases, delays, dead letters, no server.

Several processes share the file. A lease is two columns of the message, `owner` and `until`: it is
renewed while its process lives, freed at once when the supervisor says that the process is dead,
and runs out by itself when nobody is left to say so. Times are the wall clock's milliseconds, the
only clock that the processes of two boots share.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from workers.sources.source import Burial, Delivery, Return, Share
from workers.sources.sqlite_clock import Clock, now_ms
from workers.sources.sqlite_file import QueueFile, release

_SOON_S: Final = 0.02
_LATER_S: Final = 0.2
"""How long to sleep before the file is looked at again: right after work, and after silence."""

_CLAIM: Final = """
    UPDATE messages SET owner = ?, until = ?, deliveries = deliveries + 1
    WHERE number IN (
        SELECT number FROM messages WHERE owner IS NULL AND topic = ? AND due <= ?
        ORDER BY due, number LIMIT ?
    )
    RETURNING due, number, topic, CAST(body AS BLOB), attempts, failures, crashes, suspect
"""
"""As a BLOB: those who insert with their own tools may well have written text, and any bytes."""

_RETURN: Final = """
    UPDATE messages
    SET owner = NULL, until = NULL, attempts = ?, failures = ?, suspect = ?,
        due = CASE WHEN ? > 0 THEN ? ELSE due END
    WHERE number = ? AND owner = ?
"""

_BURY: Final = """
    INSERT INTO dead
        (queue, topic, id, body, error, traceback, attempts, failures, crashes, origin, at)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


class SqliteSource:
    """The Source of `sqlite:///PATH`. Used by the work loop's thread only."""

    def __init__(self, path: Path, owner: str, *, lease_s: float, io_timeout: float) -> None:
        self._file = QueueFile(path, io_timeout=io_timeout, durable=False)
        self._owner = owner
        self._lease_ms = int(lease_s * 1000)
        self._seen_version = -1
        self._next_due = 0
        self._clock = Clock(self._file)
        self._silence_s = 0.0
        self._is_gone = False

    def open(self) -> None:
        """Open the file, and make it where it is missing."""
        self._file.open()
        self._clock.begin()
        self._look_again()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Claim what is due; costs 6 us when nothing has changed since the last empty look."""
        now = now_ms()
        if self._is_gone or self._is_unchanged(now):
            return []
        found = self._claim(shares, limit, now)
        if found:
            self._silence_s = 0.0
        else:
            self._remember_emptiness(shares, now)
        return found

    def patience(self) -> float:
        """Give the pause before the next look: short after activity, longer in silence."""
        self._silence_s = min(_LATER_S, max(_SOON_S, self._silence_s * 1.25))
        until_due = self._next_due / 1000 - time.time()
        return max(0.0, min(self._silence_s, until_due))

    def tend(self) -> Collection[int]:
        """Look after the file itself, after its clock, and after leases that have run out."""
        # Somebody moved or removed it: those who publish now write into a new one. But a number
        # means another message there: first all is settled that was taken from this one.
        self._is_gone = self._file.is_gone()
        if self._is_gone and not self._holds_any():
            self.open()
            self._is_gone = False
        if self._clock.check():
            self._look_again()
        now = now_ms()
        expired = self._file.read(
            "SELECT 1 FROM messages WHERE owner IS NOT NULL AND until < :now LIMIT 1", now=now
        )
        if not expired:
            return ()
        self._look_again()
        with self._file.change() as change:
            change.execute(
                "UPDATE messages SET owner = NULL, until = NULL"
                " WHERE owner IS NOT NULL AND until < ?",
                (now,),
            )
        return ()

    def bells(self) -> Sequence[int]:
        """Give none: a file rings no bell."""
        return ()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Delete the messages, in one transaction."""
        numbers = json.dumps([delivery.number for delivery in deliveries])
        with self._file.change() as change:
            change.execute(
                "DELETE FROM messages WHERE owner = ? AND number IN"
                " (SELECT value FROM json_each(?))",
                (self._owner, numbers),
            )

    drop = ack

    def nack(self, returns: Sequence[Return]) -> None:
        """Free the messages, with their counters and their new time."""
        now = now_ms()
        with self._file.change() as change:
            change.executemany(_RETURN, [self._row_of(back, now) for back in returns])
        self._look_again()

    def dead(self, burials: Sequence[Burial]) -> None:
        """Move the messages to the dead letters; one whose lease was lost stays where it is."""
        now = now_ms()
        with self._file.change() as change:
            for burial in burials:
                if self._delete(change, burial.delivery.number):
                    change.execute(_BURY, _letter_of(burial, now))

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Renew the leases in one transaction."""
        numbers = [delivery.number for delivery in deliveries]
        with self._file.change() as change:
            kept = change.execute(
                "UPDATE messages SET until = ? WHERE owner = ? AND number IN"
                " (SELECT value FROM json_each(?)) RETURNING number",
                (now_ms() + self._lease_ms, self._owner, json.dumps(numbers)),
            ).fetchall()
        return set(numbers) - {number for (number,) in kept}

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Free what a dead process held, and mark what its handlers were working on."""
        self._look_again()
        with self._file.change() as change:
            return release(change, "messages", owner, suspects, now_ms())

    def release_seat(self, seat: str) -> int:
        """Free what earlier processes of the own slot held."""
        self._look_again()
        with self._file.change() as change:
            return change.execute(
                "UPDATE messages SET owner = NULL, until = NULL"
                " WHERE owner IS NOT NULL AND substr(owner, 1, ?) = ? AND owner <> ?",
                (len(seat), seat, self._owner),
            ).rowcount

    def backlog(self, topics: Sequence[str]) -> int:
        """Count what is due, free, and not paused."""
        [(number,)] = self._file.read(
            "SELECT count(*) FROM messages WHERE owner IS NULL AND due <= :now"
            " AND topic IN (SELECT value FROM json_each(:topics))"
            " AND topic NOT IN (SELECT topic FROM paused)",
            now=now_ms(),
            topics=json.dumps(list(topics)),
        )
        return int(number)

    def paused(self, topics: Sequence[str]) -> set[str]:
        """Look into the table of pauses."""
        return {topic for (topic,) in self._file.read("SELECT topic FROM paused")} & set(topics)

    def _claim(self, shares: Sequence[Share], limit: int, now: int) -> list[Delivery]:
        rows: list[tuple[Any, ...]] = []
        with self._file.change() as change:
            paused = {topic for (topic,) in change.execute("SELECT topic FROM paused")}
            open_topics = [share for share in shares if share[0] not in paused]
            rich = []
            for topic, share in open_topics:
                wanted = min(share, limit - len(rows))
                taken = self._claim_topic(change, topic, wanted, now)
                rows += taken
                if len(taken) == wanted:
                    rich.append(topic)
            for topic in rich:
                rows += self._claim_topic(change, topic, limit - len(rows), now)
        return [_delivery_of(row) for row in rows]

    def _claim_topic(
        self, change: sqlite3.Connection, topic: str, wanted: int, now: int
    ) -> list[tuple[Any, ...]]:
        if wanted <= 0:
            return []
        values = (self._owner, now + self._lease_ms, topic, now, wanted)
        # RETURNING gives the rows in no particular order; (due, number) is the queue's.
        return sorted(change.execute(_CLAIM, values).fetchall())

    def _is_unchanged(self, now: int) -> bool:
        if self._seen_version < 0 or now >= self._next_due:
            return False
        return self._file.version() == self._seen_version

    def _remember_emptiness(self, shares: Iterable[Share], now: int) -> None:
        """Note what the file looked like, so that an unchanged one costs no query.

        The version is read before the next due time: a message that comes between the two
        changes the version, and is seen by the next look.
        """
        self._seen_version = self._file.version()
        topics = json.dumps([topic for topic, _ in shares])
        [(due,)] = self._file.read(
            "SELECT min((SELECT due FROM messages WHERE owner IS NULL AND topic = value"
            " ORDER BY due LIMIT 1)) FROM json_each(:topics)"
            " WHERE value NOT IN (SELECT topic FROM paused)",
            topics=topics,
        )
        self._next_due = now + 3_600_000 if due is None else due

    def _look_again(self) -> None:
        """Forget the last look: our own changes do not show in the file's version."""
        self._seen_version = -1

    def _holds_any(self) -> bool:
        mine = self._file.read("SELECT 1 FROM messages WHERE owner = :me LIMIT 1", me=self._owner)
        return bool(mine)

    def _row_of(self, back: Return, now: int) -> tuple[object, ...]:
        delivery = back.delivery
        delay_ms = int(back.delay_s * 1000)
        return (
            delivery.attempts,
            delivery.failures,
            delivery.suspect,
            delay_ms,
            now + delay_ms,
            delivery.number,
            self._owner,
        )

    def _delete(self, change: sqlite3.Connection, number: int) -> bool:
        return (
            change.execute(
                "DELETE FROM messages WHERE number = ? AND owner = ?", (number, self._owner)
            ).rowcount
            == 1
        )


def _delivery_of(row: tuple[Any, ...]) -> Delivery:
    _, number, topic, body, attempts, failures, crashes, suspect = row
    return Delivery(number, topic, body, attempts, failures, crashes, bool(suspect))


def _letter_of(burial: Burial, now: int) -> tuple[object, ...]:
    delivery = burial.delivery
    return (
        burial.queue,
        delivery.topic,
        burial.id,
        delivery.body,
        burial.error,
        burial.traceback,
        delivery.attempts,
        delivery.failures,
        delivery.crashes,
        burial.origin,
        now,
    )

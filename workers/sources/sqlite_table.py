"""Rows of a table of SQLite as messages, under leases: for one machine, without a server.

A row that is taken stays as it is, with the word that it has; who works on it stands in TABLE_work.
When it is settled both tables change in one transaction, so no row is done and held, or failed and
forgotten. Times are the wall clock's milliseconds.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from workers.sources.source import Burial, Delivery, Return, Share
from workers.sources.sqlite_clock import Clock, now_ms
from workers.sources.sqlite_file import release
from workers.sources.sqlite_table_file import TableFile
from workers.sources.table import COUNTERS, MOST, Held, Pace, Table, quoted

_CLAIM: Final = f"""
    INSERT INTO {{work}} AS w (key, owner, until) SELECT value, ?, ? FROM json_each(?) WHERE true
    ON CONFLICT (key) DO UPDATE SET owner = excluded.owner, until = excluded.until, due = 0,
        attempts = iif(w.queue IS NULL, w.attempts, 0),
        failures = iif(w.queue IS NULL, w.failures, 0),
        crashes = iif(w.queue IS NULL, w.crashes, 0),
        queue = NULL, id = NULL, error = NULL, traceback = NULL, origin = NULL, at = NULL
    RETURNING key, number, {COUNTERS}
"""
"""A dead letter whose row is to be done again, by whoever wrote that word, begins anew."""

_BURY: Final = """
    UPDATE {work} SET owner = NULL, until = NULL, attempts = ?, failures = ?, crashes = ?,
        suspect = 0, queue = ?, id = ?, error = ?, traceback = ?, origin = ?, at = ?
    WHERE key = ? AND owner = ?
"""

_RETURN: Final = """
    UPDATE {work} SET owner = NULL, until = NULL, attempts = ?, failures = ?, suspect = ?,
        due = iif(? > 0, ?, due)
    WHERE key = ? AND owner = ?
"""


class SqliteTableSource:
    """The Source of a table in `sqlite:///PATH`. Used by the work loop's thread only."""

    def __init__(
        self, path: Path, owner: str, table: Table, *, lease_s: float, io_timeout: float
    ) -> None:
        self._file = TableFile(path, table, io_timeout=io_timeout)
        name = table.name.rpartition(".")[2]
        self._clock = Clock(self._file, table.work, f"{name}_work_clock")
        self._owner = owner
        self._table = table
        self._held = Held(table.name)
        self._lease_ms = int(lease_s * 1000)
        self._pace = Pace(table.poll_interval)
        self._is_gone = False

    def open(self) -> None:
        """Open the database, compare the table with what the job says, make what is beside it."""
        self._file.open()
        self._file.examine()
        self._file.make_work()
        self._clock.begin()

    def close(self) -> None:
        """Close the database."""
        self._file.close()

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Claim what is to be done and free, in the table's order."""
        wanted = limit if any(topic == self._table.name for topic, _ in shares) else 0
        if self._is_gone or not wanted:
            self._pace.looked(is_full=False)
            return []
        now = now_ms()
        with self._file.change() as change:
            columns, rows = self._pick(change, wanted, now)
            claimed = self._claim(change, [*rows], now)
        found = [
            self._held.take(key, self._file.row_of(columns, rows[key]), *claimed[key])
            for key in rows
        ]
        self._pace.looked(is_full=len(found) == wanted)
        return found

    def patience(self) -> float:
        """Give the time to the next look, or to the end of a delay of our own."""
        return self._pace.left()

    def tend(self) -> Collection[int]:
        """Look after the file, after its clock, and after leases that have run out."""
        # Somebody moved it: first all is settled that was taken from this one.
        self._is_gone = self._file.is_gone()
        if self._is_gone and not self._holds_any():
            self.open()
            self._is_gone = False
        self._clock.check()
        expired = f"FROM {self._table.work} WHERE owner IS NOT NULL AND until < :now"
        now = now_ms()
        if self._file.read(f"SELECT 1 {expired} LIMIT 1", now=now):
            self._free("until < ?", now)
            self._pace.hurry()
        return ()

    def bells(self) -> Sequence[int]:
        """Give none: a file rings no bell."""
        return ()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Write `done` into the rows that are still to be done, and forget them beside."""
        self._settle(deliveries, self._table.done)

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Write `failed`, and nothing about why."""
        self._settle(deliveries, self._table.failed)

    def nack(self, returns: Sequence[Return]) -> None:
        """Free the rows, with their counters and their new time."""
        now = now_ms()
        with self._file.change() as change:
            change.executemany(
                _RETURN.format(work=self._table.work),
                [
                    (
                        *(one.attempts, one.failures, one.suspect),
                        *((delay := int(back.delay_s * 1000)), now + delay),
                        *(self._held[one], self._owner),
                    )
                    for back in returns
                    for one in (back.delivery,)
                ],
            )
        self._held.forget(back.delivery for back in returns)
        for back in returns:
            self._pace.delay(back.delay_s)

    def dead(self, burials: Sequence[Burial]) -> None:
        """Write `failed` into the rows, and into TABLE_work why; not where the lease was lost."""
        now = now_ms()
        fail = self._change_to(self._table.failed, error="?")
        with self._file.change() as change:
            for burial in burials:
                one = burial.delivery
                key = self._held[one]
                counters = (one.attempts, one.failures, one.crashes)
                about = (burial.id, burial.error, burial.traceback, burial.origin)
                values = (*counters, burial.queue, *about, now, key, self._owner)
                if change.execute(_BURY.format(work=self._table.work), values).rowcount:
                    change.execute(fail, self._values(one, key, burial.error))
        self._held.forget(burial.delivery for burial in burials)

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Renew the leases in one transaction."""
        numbers = {delivery.number for delivery in deliveries}
        with self._file.change() as change:
            kept = change.execute(
                f"UPDATE {self._table.work} SET until = ? WHERE owner = ? AND key IN"
                " (SELECT value FROM json_each(?)) RETURNING number",
                (now_ms() + self._lease_ms, self._owner, self._keys(deliveries)),
            ).fetchall()
        return numbers - {number for (number,) in kept}

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Free what a dead process held, and mark what its handlers were working on."""
        self._pace.hurry()
        with self._file.change() as change:
            return release(change, self._table.work, owner, suspects, now_ms())

    def release_seat(self, seat: str) -> int:
        """Free what earlier processes of the own slot held."""
        self._pace.hurry()
        return self._free("substr(owner, 1, ?) = ? AND owner <> ?", len(seat), seat, self._owner)

    def backlog(self, topics: Sequence[str]) -> int:
        """Count what is to be done and free, up to a bound."""
        if self._table.name not in topics:
            return 0
        [(number,)] = self._file.read(
            f"SELECT count(*) FROM (SELECT 1 {self._free_rows()} LIMIT {MOST})", now=now_ms()
        )
        return int(number)

    def paused(self, topics: Sequence[str]) -> set[str]:
        """Look for the mark."""
        mark = self._file.read(f"SELECT 1 FROM {self._table.work} WHERE key IS NULL")
        return {self._table.name} & set(topics) if mark else set()

    def _free_rows(self) -> str:
        return (
            f"FROM {self._table.here} t WHERE {self._table.is_pending} AND {self._file.is_free}"
            f" AND t.{quoted(self._table.key)} IS NOT NULL"
            f" AND NOT EXISTS (SELECT 1 FROM {self._table.work} WHERE key IS NULL)"
        )

    def _pick(
        self, change: sqlite3.Connection, wanted: int, now: int
    ) -> tuple[tuple[str, ...], dict[Any, list[Any]]]:
        """Read the next rows; give their columns, and the rows by their keys."""
        cursor = change.execute(
            f"SELECT t.{quoted(self._table.key)}, t.* {self._free_rows()}"
            f" ORDER BY t.{quoted(self._table.order_by)} LIMIT :wanted",
            {"now": now, "wanted": wanted},
        )
        columns = tuple(column[0] for column in cursor.description[1:])
        rows = {key: row for key, *row in cursor}
        if any(isinstance(key, bytes) for key in rows):
            raise self._table.wrong(
                "key", f"{self._table.key} holds bytes; a key is text or number"
            )
        return columns, rows

    def _claim(self, change: sqlite3.Connection, keys: list[Any], now: int) -> dict[Any, list[Any]]:
        if not keys:
            return {}
        values = (self._owner, now + self._lease_ms, json.dumps(keys))
        claimed = change.execute(_CLAIM.format(work=self._table.work), values)
        return {key: more for key, *more in claimed}

    def _settle(self, deliveries: Sequence[Delivery], word: str) -> None:
        with self._file.change() as change:
            ours = change.execute(
                f"DELETE FROM {self._table.work} WHERE owner = ? AND key IN"
                " (SELECT value FROM json_each(?)) RETURNING key",
                (self._owner, self._keys(deliveries)),
            ).fetchall()
            keys = {key for (key,) in ours}
            change.executemany(
                self._change_to(word),
                [
                    self._values(one, self._held[one])
                    for one in deliveries
                    if self._held[one] in keys
                ],
            )
        self._held.forget(deliveries)

    def _change_to(self, word: str, error: str | None = None) -> str:
        """Give the statement that settles a row which nobody else has settled meanwhile."""
        table = self._table
        return (
            f"UPDATE {table.here} AS t SET {table.settled(word, '?', error)}"
            f" WHERE t.{quoted(table.key)} = ? AND {table.still_pending}"
        )

    def _values(self, one: Delivery, key: object, error: str | None = None) -> tuple[object, ...]:
        """Give the values of that statement, in its order."""
        attempts = (one.attempts,) if self._table.attempts_column else ()
        words = (error,) if self._table.error_column and error is not None else ()
        return (*attempts, *words, key)

    def _keys(self, deliveries: Iterable[Delivery]) -> str:
        return json.dumps(self._held.keys(deliveries))

    def _free(self, which: str, *values: object) -> int:
        with self._file.change() as change:
            return change.execute(
                f"UPDATE {self._table.work} SET owner = NULL, until = NULL"
                f" WHERE owner IS NOT NULL AND {which}",
                values,
            ).rowcount

    def _holds_any(self) -> bool:
        mine = f"SELECT 1 FROM {self._table.work} WHERE owner = :me LIMIT 1"
        return bool(self._file.read(mine, me=self._owner))

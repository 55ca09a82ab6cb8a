"""A wall clock that was set, and what that means for the times in a queue file.

Its times are the wall clock's milliseconds. When that is set back by a day, what was due is due
tomorrow; when it is set forward, every lease has run out at once. So the file keeps how far the
wall clock is ahead of the one that nobody sets, and who first finds another distance moves the
times by the difference, once for all processes. Used by `sqlite`.
"""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path
from typing import Final

from workers.sources.sqlite_file import QueueFile

JUMP_MS: Final = 5_000
"""From here on the clock was set; below that it was corrected, and a delay may be as wrong."""

_BOOT_PATH: Final = Path("/proc/sys/kernel/random/boot_id")


class Clock:
    """Watches the wall clock for one source.

    `table` holds the times, as quoted SQL, and the one that is named `name` the distance.
    """

    def __init__(self, file: QueueFile, table: str = "messages", name: str = "clock") -> None:
        self._file = file
        self._table = table
        self._name = name
        self._boot = ""
        self._distance = 0

    def begin(self) -> None:
        """Note the distance in the file where it has none of this boot, or follow a jump."""
        self._boot = self._boot or _BOOT_PATH.read_text(encoding="ascii").strip()
        self._distance = distance_ms()
        if self._is_known():
            return
        with self._file.change() as change:
            change.execute(
                f'CREATE TABLE IF NOT EXISTS "{self._name}"'
                " (boot TEXT NOT NULL, distance INTEGER NOT NULL)"
            )
            self._follow(change)

    def check(self) -> bool:
        """Move the times of the file if the clock was set since the last check; say whether."""
        found = distance_ms()
        moved, self._distance = abs(found - self._distance) >= JUMP_MS, found
        if moved:
            with self._file.change() as change:
                self._follow(change)
        return moved

    def _is_known(self) -> bool:
        """Look whether there is nothing to write: most processes are not the first."""
        if not self._file.read("SELECT 1 FROM sqlite_master WHERE name = :name", name=self._name):
            return False
        rows = self._file.read(f'SELECT boot, distance FROM "{self._name}"')
        return any(
            boot == self._boot and abs(self._distance - distance) < JUMP_MS
            for boot, distance in rows
        )

    def _follow(self, change: sqlite3.Connection) -> None:
        row = change.execute(f'SELECT boot, distance FROM "{self._name}"').fetchone()
        if row is not None and row[0] == self._boot:
            jump = self._distance - row[1]
            if abs(jump) < JUMP_MS:
                return
            move(change, jump, now_ms(), self._table)
        change.execute(f'DELETE FROM "{self._name}"')
        change.execute(f'INSERT INTO "{self._name}" VALUES (?, ?)', (self._boot, self._distance))


def move(change: sqlite3.Connection, jump_ms: int, now: int, table: str = "messages") -> None:
    """Move leases by the jump, and after a jump back what is due later, as it was published before.

    After a jump forward what was delayed comes sooner: its time has come, by the clock.
    """
    change.execute(f"UPDATE {table} SET until = until + ? WHERE owner IS NOT NULL", (jump_ms,))
    if jump_ms < 0:
        change.execute(f"UPDATE {table} SET due = due + ? WHERE due > ?", (jump_ms, now))


def now_ms() -> int:
    """Give the time of the wall clock."""
    return time.time_ns() // 1_000_000


def distance_ms() -> int:
    """Give how far the wall clock is ahead of the time since boot, sleep included."""
    return now_ms() - time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1_000_000

"""No more calls than `rate_limit` says, over all processes of a job.

The generic cell rate algorithm (GCRA; ITU-T I.371): one number tells all, the time at which the
next call would be due if all came evenly. A call moves it by one interval; it may run ahead of now
by a burst, a tenth of a second's worth. Where the messages lie on a server, the number does so too,
and processes of all hosts share it (`workers/sources/*_meter.py`). Else it lies in a cell that the
processes of one supervisor share, and is changed under a lock of the kernel's, which ends with its
process: whoever dies holds nothing.

What is not allowed yet is not fetched: other processes may have it, a stop waits for nothing, and
no message is tried for it. So no more is fetched than threads are free, and a fetch is a start.
"""

from __future__ import annotations

import fcntl
import math
import os
import random
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from supervisor.board import Page
from workers.sources.source import Around, Delivery, Share, Source

_SECOND: Final = 1_000_000_000
_BURST_S: Final = 0.1
"""How much of a second's worth may come at once."""

_LONGEST: Final = 10**17
"""Three years between two calls, in nanoseconds: what is slower is never, and fits in the cell."""

_BUSY_S: Final = 0.002
"""How long to leave a cell alone that another process is just changing."""

_LOOK_S: Final = 1.0
"""The longest wait: what another one has taken and cannot use comes back."""

_SPREAD: Final = 0.25
"""Waits are lengthened by chance, by up to so much of the burst: it is nobody's turn for ever."""

_CELL: Final = struct.Struct("q")


@dataclass(frozen=True, slots=True)
class Rate:
    """A limit: one call each `interval` nanoseconds, and up to `burst` at once. Pure arithmetic.

    `due` is the time at which the next call would be due if all came evenly, and `now` the clock,
    in nanoseconds.
    """

    interval: int
    burst: int

    @classmethod
    def of(cls, per_second: float) -> Rate:
        """Give the limit of so many calls a second."""
        interval = min(_LONGEST, max(1, math.ceil(_SECOND / per_second)))
        return cls(interval, max(1, int(per_second * _BURST_S)))

    def take(self, due: int, now: int, wanted: int) -> tuple[int, int]:
        """Give how many of the wanted calls may begin now, and the new `due`."""
        start = self._start(due, now)
        room = (now + self.burst * self.interval - start) // self.interval
        granted = max(0, min(wanted, room))
        return granted, start + granted * self.interval

    def give_back(self, due: int, unused: int) -> int:
        """Give the new `due` after calls that were granted and did not begin."""
        return due - unused * self.interval

    def wait(self, due: int, now: int) -> int:
        """Give how long to wait for half a burst: one call at a time would be a hard life."""
        worth = max(1, self.burst // 2)
        return max(0, self._start(due, now) + (worth - self.burst) * self.interval - now)

    def _start(self, due: int, now: int) -> int:
        """What lies further ahead than any limit would allow was left by a slower one."""
        return now if due > now + self.burst * self.interval else max(due, now)


class Meter(Protocol):
    """What the processes of a job share, and what allows their calls. Used by one thread.

    Every call may raise SourceTrouble, but `give_back`, after which messages are in hand.
    """

    def open(self) -> None:
        """Connect; make what is missing."""
        ...

    def take(self, wanted: int) -> tuple[int, float]:
        """Give how many calls may begin now, and the seconds until there are more."""
        ...

    def give_back(self, unused: int) -> None:
        """Let others have what did not begin."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


class CellMeter:
    """The cell of one job, in a file that its processes share. Never waits for the others."""

    def __init__(self, fd: int, rate: Rate) -> None:
        self._fd = fd
        self._rate = rate

    def open(self) -> None:
        """Do nothing: the master has made it."""

    def close(self) -> None:
        """Do nothing: it is the master's."""

    def take(self, wanted: int) -> tuple[int, float]:
        """Give what is allowed; a cell that is being changed is soon looked at again."""
        if not self._lock():
            return 0, _BUSY_S
        try:
            now = time.monotonic_ns()
            granted, due = self._rate.take(self._read(), now, wanted)
            if granted:
                self._write(due)
            return granted, self._rate.wait(due, now) / _SECOND
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def give_back(self, unused: int) -> None:
        """Write it; kept from the others while one of them just changes the cell."""
        if unused and self._lock():
            try:
                self._write(self._rate.give_back(self._read(), unused))
            finally:
                fcntl.lockf(self._fd, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        # fcntl(2): a lock on a record is a process's own; forks of it have none of it.
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def _read(self) -> int:
        cell = os.pread(self._fd, _CELL.size, 0)
        return int(_CELL.unpack(cell)[0]) if len(cell) == _CELL.size else 0

    def _write(self, due: int) -> None:
        os.pwrite(self._fd, _CELL.pack(due), 0)


class RatedSource(Around):
    """A Source that gives out no more than a meter allows. Used by the work loop's thread only."""

    def __init__(self, source: Source, meter: Meter, rate: Rate, page: Page) -> None:
        super().__init__(source)
        self._meter = meter
        self._page = page
        self._spread_s = _SPREAD * min(_BURST_S, rate.interval / _SECOND)
        self._wait_s: float | None = None

    def open(self) -> None:
        """Open both."""
        self._source.open()
        self._meter.open()

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Fetch as many as may begin now."""
        granted, wait_s = self._meter.take(limit)
        self._wait_s = min(_LOOK_S, wait_s) + random.random() * self._spread_s
        if not granted:
            # It waits as it should: nobody has to be alarmed that nothing is done.
            self._page.progressed(time.monotonic_ns())
            return []
        found: list[Delivery] = []
        try:
            found = self._source.fetch(_scaled(shares, granted, limit), granted)
        finally:
            self._meter.give_back(granted - len(found))
        if len(found) < granted:
            self._wait_s = None
        return found

    def patience(self) -> float:
        """Give the time until more is allowed, or until the source may have more."""
        return self._source.patience() if self._wait_s is None else self._wait_s

    def close(self) -> None:
        """Close both."""
        self._meter.close()
        self._source.close()


def _scaled(shares: Sequence[Share], granted: int, limit: int) -> list[Share]:
    """Share out the smaller fetch as the larger one would have been."""
    return [(topic, -(-share * granted // limit)) for topic, share in shares]

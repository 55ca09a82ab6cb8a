"""The board: a page of shared memory for each process, written by it and read at leisure.

One sparse memfd of fixed capacity. A page is 512 aligned int64 cells with one writing process, so
a reader never sees a torn value and the writer makes no system call (measured: 0.2 us a beat, a
pipe takes 1.06). It survives the child, so counters never go back, and an exec of the master,
because it is a file and not an anonymous mapping.

Cells are written through `memoryview.cast("q")` only: `struct.pack_into` zeroes the field first,
and readers see that zero (measured: 4.4 % of reads).
"""

from __future__ import annotations

import mmap
import os
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from supervisor.tallies import Tallies

PAGES: Final = 4096
_CELLS: Final = 512
_PAGE_BYTES: Final = _CELLS * 8

THREADS: Final = 256
"""How many pool threads of one process have a cell of their own."""

BUCKETS_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
"""Upper bounds of the histogram of processing times, in seconds; one more cell for the rest."""

UNKNOWN: Final = -1
"""What `backlog` and `lag` hold until the process has asked its server."""

_BITS: Final = 63
"""How many of a job's topics can be told as paused, in one cell."""

_PHASE, _BEAT, _PARKED, _PROGRESS = 0, 1, 2, 3
_DONE, _FAILED, _RETRIED, _DEAD, _SKIPPED = 4, 5, 6, 7, 8
_IN_FLIGHT, _BACKLOG, _LAG = 9, 10, 11
_DURATION_SUM_NS, _BUCKETS = 12, 13
_PAUSED, _TALLIES = 53, 54
_THREADS = _CELLS - THREADS
_NO_SUSPECTS: Final = memoryview(bytes(8 * THREADS)).cast("q")


class Phase(IntEnum):
    """What the process says it is doing; 0 is a page that nobody has written yet."""

    NEW = 0
    SETUP = 1
    WORKING = 2
    DRAINING = 3
    CLOSING = 4


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at a page. Times are CLOCK_MONOTONIC nanoseconds, 0 where it never happened."""

    phase: int
    beat_ns: int
    parked_until_ns: int
    progress_ns: int
    done: int
    failed: int
    retried: int
    dead: int
    skipped: int
    in_flight: int
    backlog: int
    lag: int


class Page:
    """The cells of one process.

    Written by one process (and there, apart from the thread cells, by one thread: an addition is
    a read and a write, which two threads would tear apart); read by anyone.
    """

    __slots__ = ("_cells", "hands", "tallies")

    def __init__(self, cells: memoryview) -> None:
        self._cells = cells
        self.hands = cells[_THREADS:]
        """For each thread the delivery that its handler works on, written before the handler is
        called; 0 after it returned. After a kill -9 nothing else tells what was in a handler."""
        self.tallies = Tallies(cells[_TALLIES:_THREADS], BUCKETS_S)

    @classmethod
    def alone(cls) -> Page:
        """Make a page that is on no board, for a handler that runs under no master."""
        return cls(memoryview(bytearray(_PAGE_BYTES)).cast("q"))

    def beat(self, now_ns: int) -> None:
        """Say that the work loop has come round. Ends any parking."""
        self._cells[_BEAT] = now_ns
        self._cells[_PARKED] = 0

    def park(self, until_ns: int) -> None:
        """Say that the loop sleeps on purpose until then, and is not hung before."""
        self._cells[_PARKED] = until_ns

    def enter(self, phase: Phase) -> None:
        """Say which part of its life the process is in."""
        self._cells[_PHASE] = phase

    def forget_beat(self) -> None:
        """Wipe the signs of life of an earlier incarnation, so that they are not taken for ours."""
        for cell in (_PHASE, _BEAT, _PARKED, _PROGRESS, _IN_FLIGHT, _PAUSED):
            self._cells[cell] = 0
        self.tallies.forget_progress()
        self._cells[_BACKLOG] = self._cells[_LAG] = UNKNOWN
        # In one piece, as in `suspects`: a look at 256 cells takes as long as a tenth of a fork.
        self._cells[_THREADS:] = _NO_SUSPECTS

    def count(
        self, *, done: int = 0, failed: int = 0, retried: int = 0, dead: int = 0, skipped: int = 0
    ) -> None:
        """Add to the counters of messages."""
        cells = self._cells
        cells[_DONE] += done
        cells[_FAILED] += failed
        cells[_RETRIED] += retried
        cells[_DEAD] += dead
        cells[_SKIPPED] += skipped

    def observe(self, times: Sequence[float]) -> None:
        """Add processing times in seconds to the histogram."""
        if not times:
            return
        if max(times) <= BUCKETS_S[0]:
            self._cells[_BUCKETS] += len(times)
        else:
            for seconds in times:
                self._cells[_BUCKETS + bisect_left(BUCKETS_S, seconds)] += 1
        self._cells[_DURATION_SUM_NS] += int(sum(times) * 1e9)

    def progressed(self, now_ns: int) -> None:
        """Say that a piece of work was finished, whatever came of it, or that there was none."""
        self._cells[_PROGRESS] = now_ns

    def set_in_flight(self, number: int) -> None:
        """Say how many deliveries were begun and are not yet settled."""
        self._cells[_IN_FLIGHT] = number

    def set_backlog(self, number: int) -> None:
        """Say how much work waits in the source; UNKNOWN when it could not be asked."""
        self._cells[_BACKLOG] = number

    def set_lag(self, number: int) -> None:
        """Say how far a Kafka group is behind; UNKNOWN elsewhere."""
        self._cells[_LAG] = number

    def set_paused(self, topics: Iterable[int]) -> None:
        """Say which of the job's topics, by their place in its list, somebody has paused."""
        self._cells[_PAUSED] = sum(1 << place for place in topics if place < _BITS)

    def paused(self) -> tuple[int, ...]:
        """Give the places of the topics that are paused."""
        marks = self._cells[_PAUSED]
        return tuple(place for place in range(marks.bit_length()) if marks >> place & 1)

    def suspects(self) -> tuple[int, ...]:
        """Give the numbers of the deliveries whose handlers are running, or were at the death."""
        cells = self._cells[_THREADS:]
        return () if cells == _NO_SUSPECTS else tuple(number for number in cells if number)

    def histogram(self) -> tuple[tuple[int, ...], float]:
        """Give the count of each bucket, not cumulative, and the sum of all times in seconds."""
        counts = tuple(self._cells[_BUCKETS : _BUCKETS + len(BUCKETS_S) + 1])
        return counts, self._cells[_DURATION_SUM_NS] / 1e9

    def read(self) -> Reading:
        """Take one look at everything that `status` shows."""
        return Reading(*self._cells[: _LAG + 1])

    def wipe(self) -> None:
        """Set every cell to zero, for a page that is given to another slot."""
        for cell in range(_CELLS):
            self._cells[cell] = 0
        self.forget_beat()


class Board:
    """All pages. Made by the master before its first fork; children inherit the mapping."""

    def __init__(self, name: str = "supervisor", pages: int = PAGES) -> None:
        # The name is seen in /proc/PID/maps of every fork: so a descendant is known as ours.
        self.fd = os.memfd_create(name, os.MFD_CLOEXEC)
        os.ftruncate(self.fd, pages * _PAGE_BYTES)
        # Sparse: a page costs memory only from its first write on.
        self._cells = memoryview(mmap.mmap(self.fd, pages * _PAGE_BYTES)).cast("q")
        self._free = list(range(pages - 1, -1, -1))

    @property
    def is_full(self) -> bool:
        """Say whether every page is taken."""
        return not self._free

    def allocate(self) -> tuple[int, Page]:
        """Give a clean page and its number. Raises: IndexError when it is full."""
        number = self._free.pop()
        page = Page(self._cells[number * _CELLS : (number + 1) * _CELLS])
        page.wipe()
        return number, page

    def release(self, number: int) -> None:
        """Take a page back."""
        self._free.append(number)

    def close(self) -> None:
        """Let go. The memory itself stays as long as somebody holds a page of it."""
        os.close(self.fd)
        self._cells = memoryview(b"").cast("q")

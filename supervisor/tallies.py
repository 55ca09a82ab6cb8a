"""What handlers count by names of their own: a part of a page of the board that describes itself.

The names stand beside the values, so that whoever can read the page needs to ask nobody what they
mean, and the next process of the slot goes on counting where the last one was killed.

    0          progress: done + 1, or 0 while there is none to tell
    1          progress: total
    2 …        20 counters:  5 cells of name, 1 of value
    122 …      4 timers:     5 cells of name, 14 of buckets, 1 of the sum in nanoseconds
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

COUNTERS: Final = 20
TIMERS: Final = 4
"""How many names of each kind one process has room for."""

NAME_BYTES: Final = 40
"""The longest name; it is ASCII."""

_NAME: Final = NAME_BYTES // 8
_DONE, _TOTAL, _FIRST_COUNTER = 0, 1, 2
_COUNTER: Final = _NAME + 1
_FIRST_TIMER: Final = _FIRST_COUNTER + COUNTERS * _COUNTER


@dataclass(frozen=True, slots=True)
class Timer:
    """Times that were observed: the count of each bucket, not cumulative, and the sum of all."""

    buckets: tuple[int, ...]
    sum_s: float

    @property
    def count(self) -> int:
        """Give how many there were."""
        return sum(self.buckets)


class Tallies:
    """The cells of one process: written by one thread of it at a time, read by anyone.

    `bounds_s` are the upper bounds of the buckets, in seconds; one more is for the rest.
    """

    __slots__ = ("_bounds_s", "_cells")

    def __init__(self, cells: memoryview, bounds_s: tuple[float, ...]) -> None:
        self._cells = cells
        self._bounds_s = bounds_s

    @classmethod
    def size(cls, buckets: int) -> int:
        """Give how many cells it takes."""
        return _FIRST_TIMER + TIMERS * (_NAME + buckets + 1)

    def counter(self, name: str) -> int | None:
        """Give the cell of a counter, entering the name if it is new; None without room."""
        return self._place(name, self._counters())

    def timer(self, name: str) -> int | None:
        """Give the first cell of a timer in the same way."""
        return self._place(name, self._timers())

    def add(self, cell: int, number: int) -> None:
        """Add to a counter."""
        self._cells[cell] += number

    def observe(self, cell: int, seconds: float) -> None:
        """Add a time to a timer."""
        self._cells[cell + bisect_left(self._bounds_s, seconds)] += 1
        self._cells[cell + len(self._bounds_s) + 1] += int(seconds * 1e9)

    def progress(self, done: int, total: int) -> None:
        """Say how far the work is."""
        self._cells[_TOTAL] = total
        self._cells[_DONE] = done + 1

    def forget_progress(self) -> None:
        """Say that there is none: that of a process belongs to it alone."""
        self._cells[_DONE] = self._cells[_TOTAL] = 0

    def read_counters(self) -> dict[str, int]:
        """Give all counters by name."""
        return {
            name: self._cells[at + _NAME] for at in self._counters() if (name := self._name(at))
        }

    def read_timers(self) -> dict[str, Timer]:
        """Give all timers by name."""
        found = {}
        for at in self._timers():
            if name := self._name(at):
                begin, end = at + _NAME, at + _NAME + len(self._bounds_s) + 1
                found[name] = Timer(tuple(self._cells[begin:end]), self._cells[end] / 1e9)
        return found

    def read_progress(self) -> tuple[int, int] | None:
        """Give how much is done and how much there is; None before the first word of it."""
        done = self._cells[_DONE]
        return (done - 1, self._cells[_TOTAL]) if done else None

    def _counters(self) -> Iterator[int]:
        return iter(range(_FIRST_COUNTER, _FIRST_TIMER, _COUNTER))

    def _timers(self) -> Iterator[int]:
        wide = _NAME + len(self._bounds_s) + 2
        return iter(range(_FIRST_TIMER, _FIRST_TIMER + TIMERS * wide, wide))

    def _place(self, name: str, places: Iterator[int]) -> int | None:
        for at in places:
            known = self._name(at)
            if known == name:
                return at + _NAME
            if not known:
                self._enter(at, name)
                return at + _NAME
        return None

    def _enter(self, at: int, name: str) -> None:
        text = name.encode("ascii").ljust(NAME_BYTES, b"\0")
        words = [
            int.from_bytes(text[i : i + 8], "little", signed=True) for i in range(0, NAME_BYTES, 8)
        ]
        # The first word last: a name that was cut off by a kill is not there.
        for offset in reversed(range(_NAME)):
            self._cells[at + offset] = words[offset]

    def _name(self, at: int) -> str:
        if not self._cells[at]:
            return ""
        return bytes(self._cells[at : at + _NAME]).rstrip(b"\0").decode("ascii", "replace")

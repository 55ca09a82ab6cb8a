"""How many lines a second one stream of a process may log (`log_rate`). Pure.

A token bucket that holds the lines of one second. What is above it is dropped before it is
rendered, so that a flood costs a count of newlines, and its writer never waits. The drops of one
flood are told together: when it has been over for a second, or every ten seconds of a long one.
Used by `logs`.
"""

from __future__ import annotations

from typing import Final

QUIET_S: Final = 1.0
"""A flood is over when so long nothing had to be dropped."""

LONGEST_S: Final = 10.0
"""So long a flood may last before its drops are told."""


class Throttle:
    """The rate of one stream. Moments are seconds of the loop's clock."""

    def __init__(self, rate: int, moment: float) -> None:
        """Begin with the lines of one second to spare; `rate` is in lines a second, 1 or more."""
        self.rate = rate
        self.dropped = 0
        self._tokens = float(rate)
        self._filled_at = moment
        self._first_at = self._last_at = moment

    def admit(self, count: int, moment: float) -> int:
        """Take so many lines, and give how many of them may be logged, the first ones."""
        since = max(0.0, moment - self._filled_at)
        self._filled_at = moment
        self._tokens = min(self.rate, self._tokens + since * self.rate)
        admitted = min(count, int(self._tokens))
        self._tokens -= admitted
        if admitted < count:
            if not self.dropped:
                self._first_at = moment
            self._last_at = moment
            self.dropped += count - admitted
        return admitted

    def tell_at(self) -> float:
        """Give the moment at which the drops so far are to be told, if no more come."""
        return min(self._last_at + QUIET_S, self._first_at + LONGEST_S)

    def told(self, count: int) -> None:
        """Take note that so many drops have been told."""
        self.dropped -= count


def first_lines(lines: bytes, count: int) -> bytes | None:
    """Give the first lines of some that are parted by newlines; None for none of them."""
    if count <= 0:
        return None
    end = -1
    for _ in range(count):
        end = lines.find(b"\n", end + 1)
        if end < 0:
            return lines
    return lines[:end]

"""The one place that waits: descriptors, signals and deadlines, in one epoll.

An idle loop sleeps until its next deadline and makes no turn in between. Handlers run to their
end, one after the other, in the thread that called `turn`; none of them may block. asyncio was
rejected: forking under its loop shares the epoll and the wakeup pipe with the child (gunicorn
#3509; measured: a child's `remove_reader` made the parent deaf).
"""

from __future__ import annotations

import heapq
import itertools
import math
import selectors
import time
from collections.abc import Callable, Hashable
from typing import Final

READ: Final = selectors.EVENT_READ
WRITE: Final = selectors.EVENT_WRITE

LONGEST_WAIT_S: Final = 86_400.0

now = time.monotonic
"""The clock of the whole parent: seconds, never set back, unmoved by changes of the date."""


class Loop:
    """Calls handlers when their descriptor is ready or their time has come. Runs in: supervisor."""

    def __init__(self) -> None:
        self._selector = selectors.EpollSelector()
        self._heap: list[tuple[float, int, Hashable]] = []
        self._alarms: dict[Hashable, tuple[float, int, Callable[[], None]]] = {}
        self._soon: dict[Hashable, Callable[[], None]] = {}
        self._order = itertools.count()

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call `handler(events)` whenever the descriptor is ready. Replaces an earlier watch."""
        if fd in self._selector.get_map():
            self._selector.modify(fd, events, handler)
        else:
            self._selector.register(fd, events, handler)

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; to be called before it is closed.

        While any child holds a copy, epoll would go on reporting a closed descriptor for ever.
        """
        if fd in self._selector.get_map():
            self._selector.unregister(fd)

    def at(self, key: Hashable, when: float, handler: Callable[[], None]) -> None:
        """Call the handler once at `when` (of `now()`); a key has one alarm, the latest set."""
        number = next(self._order)
        self._alarms[key] = (when, number, handler)
        heapq.heappush(self._heap, (when, number, key))
        if len(self._heap) > 64 + 2 * len(self._alarms):
            self._forget_stale()

    def cancel(self, key: Hashable) -> None:
        """Take an alarm back, if it is set."""
        self._alarms.pop(key, None)

    def soon(self, key: Hashable, handler: Callable[[], None]) -> None:
        """Call once in this turn: after what has happened in it, or after what was due in it.

        Two calls with one key are one; what `soon` itself asks for is for the next turn.
        """
        self._soon[key] = handler

    def turn(self) -> None:
        """Wait for the next thing to happen, and call every handler that is due."""
        for key, mask in self._selector.select(self._patience()):
            # An earlier handler of this turn may have unwatched it, or closed and reused it.
            if self._selector.get_map().get(key.fd) is key:
                key.data(mask)
        self._do_soon()
        self._ring()
        self._do_soon()

    def _do_soon(self) -> None:
        soon, self._soon = self._soon, {}
        for handler in soon.values():
            handler()

    def close(self) -> None:
        """Close the epoll; no handler is called any more. Also run in the child of a fork."""
        self._selector.close()

    def _patience(self) -> float | None:
        if self._soon:
            return 0.0
        while self._heap:
            when, number, key = self._heap[0]
            if self._is_set(key, number):
                # epoll counts in milliseconds and Python rounds up: never a turn too early. It
                # holds them in 32 bits, which are 24 days.
                return min(max(0.0, when - now()), LONGEST_WAIT_S)
            heapq.heappop(self._heap)
        return None

    def _ring(self) -> None:
        moment = now()
        due: list[Callable[[], None]] = []
        while self._heap and self._heap[0][0] <= moment:
            _, number, key = heapq.heappop(self._heap)
            if self._is_set(key, number):
                due.append(self._alarms.pop(key)[2])
        for handler in due:
            handler()

    def _is_set(self, key: Hashable, number: int) -> bool:
        alarm = self._alarms.get(key)
        return alarm is not None and alarm[1] == number

    def _forget_stale(self) -> None:
        self._heap = [(when, number, key) for key, (when, number, _) in self._alarms.items()]
        heapq.heapify(self._heap)


def on_the_second(when: float) -> float:
    """Put off a deadline that is not urgent to the next whole second, so that such ones meet."""
    return math.ceil(when)

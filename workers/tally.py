"""What a handler counts itself: `context.count`, `context.observe`, `context.progress`.

From any thread of the process, without a system call; what a fork of it counts is lost. A name
that finds no room is said once and not counted: a handler never fails for want of a number.
"""

from __future__ import annotations

import logging
import math
import os
import re
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from supervisor.tallies import Tallies

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}")
_MOST: Final = 1 << 53

_log = logging.getLogger(__name__)


class Tally:
    """The names of one process, over the cells of its page."""

    def __init__(self, cells: Tallies) -> None:
        self._cells = cells
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._places: dict[tuple[str, str], int | None] = {}

    def count(self, name: str, number: int) -> None:
        """Add to a counter. Raises: ValueError or TypeError for what is no name or no amount."""
        amount = _whole(number, f"count({name!r}, ...)")
        self._change("counter", name, lambda cell: self._cells.add(cell, amount))

    def observe(self, name: str, seconds: float) -> None:
        """Add a time to a timer. Raises: ValueError or TypeError in the same way."""
        if not isinstance(seconds, int | float) or not math.isfinite(seconds) or seconds < 0:
            raise ValueError(f"observe({name!r}, {seconds!r}): a time is a number of seconds, >= 0")
        if seconds > _MOST / 1e9:
            raise ValueError(f"observe({name!r}, {seconds!r}): that is more than a hundred days")
        self._change("timer", name, lambda cell: self._cells.observe(cell, seconds))

    def progress(self, done: int, total: int) -> None:
        """Say how far the work is. Raises: ValueError or TypeError in the same way."""
        done, total = _whole(done, "progress(done, ...)"), _whole(total, "progress(..., total)")
        if os.getpid() == self._pid:
            with self._lock:
                self._cells.progress(done, total)

    def _change(self, kind: str, name: str, change: Callable[[int], None]) -> None:
        if os.getpid() != self._pid:
            return
        with self._lock:
            if (kind, name) not in self._places:
                self._places[kind, name] = self._find(kind, name)
            cell = self._places[kind, name]
            if cell is not None:
                change(cell)

    def _find(self, kind: str, name: str) -> int | None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(
                f"{name!r} is no name; letters, digits and _, at most 40, no digit first"
            )
        find = self._cells.counter if kind == "counter" else self._cells.timer
        cell = find(name)
        if cell is None:
            _log.warning("%s %s is not kept: a process has no room for more names", kind, name)
        return cell


def _whole(number: int, where: str) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number < _MOST:
        raise ValueError(f"{where}: {number!r} is no whole number of 0 or more")
    return number

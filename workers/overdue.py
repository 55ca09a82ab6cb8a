"""Calls of handlers that do not come to their end: `handler_timeout`.

A thread cannot be stopped from outside. So the process of an overdue call ends: it shows the
stacks of all threads, takes nothing new, lets the other calls finish within `stop_timeout`, and
leaves. A call that looks at `context.stopping`, or waits by `context.wait`, can still come to its
end by itself. If it does not, its message is a suspect, as after a crash; all others are settled
or given back.
"""

from __future__ import annotations

import faulthandler
import logging
import math
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Final

from workers import calls, handlers, pool
from workers.lifeline import FAST_S
from workers.pool import Load, Pool

_CALLS: Final = 4
"""So many calls tell where a handler is."""

_OURS: Final = frozenset(module.__file__ for module in (threading, pool, calls, handlers))
"""What every handler is called by, and most of them wait in."""

_log = logging.getLogger(__name__)


class Overdue:
    """Watches the calls of one pool; without a timeout it never finds one. Work loop only."""

    def __init__(self, pool: Pool, timeout_s: float | None) -> None:
        self._pool = pool
        self._timeout_s = math.inf if timeout_s is None else timeout_s
        self._happened_at = math.inf

    @property
    def happened(self) -> bool:
        """Tell whether an overdue call was found."""
        return self._happened_at < math.inf

    def is_found(self, now: float) -> bool:
        """Look for overdue calls; the first time there are any, show them and the stacks."""
        if self.happened or math.isinf(self._timeout_s):
            return False
        loads = self._pool.begun_before(now - self._timeout_s)
        if not loads:
            return False
        self._happened_at = now
        faulthandler.dump_traceback(file=sys.stderr, all_threads=True)
        # Last, so that it stands among the last words of the process.
        frames = sys._current_frames()
        for load, thread in loads:
            self._tell(load, _place(frames.get(thread)))
        return True

    def stuck(self, now: float) -> int:
        """Count the calls that the drain need not wait for: they did not heed the stop either."""
        if now - self._happened_at < FAST_S:
            return 0
        return len(self._pool.begun_before(now - self._timeout_s))

    def look_at(self, now: float) -> float:
        """Give when to look again; a call that begins from now on is not overdue before."""
        return min(now, self._pool.oldest()) + self._timeout_s

    def _tell(self, load: Load, place: str) -> None:
        task = load[0]
        more = f" and {len(load) - 1} more" if len(load) > 1 else ""
        _log.error(
            "the handler of message %s%s has taken longer than handler_timeout (%gs), it is in %s;"
            " its process ends, all stacks are in the log",
            task.id or task.delivery.number,
            more,
            self._timeout_s,
            place,
            extra={"topic": task.delivery.topic, "message_id": task.id},
        )


def _place(frame: FrameType | None) -> str:
    """Say where a handler is: its innermost calls, the innermost one last."""
    if frame is None:
        return "no thread any more"
    stack = [call for call in traceback.extract_stack(frame) if call.filename not in _OURS]
    names = [f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in stack]
    return " > ".join(names[-_CALLS:]) or "no Python code"

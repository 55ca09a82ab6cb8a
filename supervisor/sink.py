"""A bounded buffer before an outlet: takes lines at once, writes them when the outlet can.

It never waits and never raises. The rule that keeps children from being blocked by a slow reader
of our log: while the outlet makes progress, `full()` asks the capture to read no more (the pipes
fill, and the children wait as they would for a slow terminal); an outlet that has made none for a
second, or is broken (disk full, reader gone, no memory), costs lines instead: they are dropped,
counted, and said once it works again. What was begun is continued at the right byte, so no line is
torn. Used by `logs`; runs in the supervisor's loop.
"""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from supervisor.loop import WRITE, Loop, now
from supervisor.outlet import Outlet

SOFT_BYTES: Final = 1024 * 1024
"""From here on `full()` is said, and a sink that makes no progress drops."""

HARD_BYTES: Final = 4 * SOFT_BYTES
"""From here on everything is dropped; the room between is for what dying children leave."""

STALLED_S: Final = 1.0

_BATCH_BYTES: Final = 64 * 1024
_PIECE_BYTES: Final = 256 * 1024
_RETRY_S: Final = 1.0
_RETRY_MAX_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Loss:
    """What a sink has to say after trouble: lines dropped by speaker, and the error if one was."""

    dropped: Mapping[str, int]
    error: str | None

    @property
    def lines(self) -> int:
        """Give the number of all dropped lines."""
        return sum(self.dropped.values())


@dataclass(slots=True)
class _Trouble:
    """An outlet that raised: what, how long to wait, and until when (of the clock)."""

    error: str
    delay_s: float
    until: float


def _nothing() -> None:
    """Stand in for a callback that nobody has set."""


@dataclass(slots=True)
class Hooks:
    """What the owner of a sink wants to hear. None of them may raise.

    `on_room`: after `full()` was said, there is room again. `on_loss`: it works again, and this
    is what happened. `on_failure`: it has just broken.
    """

    on_room: Callable[[], None] = _nothing
    on_loss: Callable[[Loss], None] = field(default=lambda _loss: None)
    on_failure: Callable[[str], None] = field(default=lambda _error: None)


class Sink:
    """A non-blocking, bounded sink of whole lines."""

    def __init__(
        self, outlet: Outlet, hooks: Hooks | None = None, *, clock: Callable[[], float] = now
    ) -> None:
        self.hooks = hooks or Hooks()
        self.lost = 0
        self._outlet = outlet
        self._clock = clock
        self._loop: Loop | None = None
        self._watched = -1
        self._buffer = bytearray()
        self._progress_at = clock()
        self._trouble: _Trouble | None = None
        self._failed: str | None = None
        self._dropped: Counter[str] = Counter()
        self._held = False
        self._closed = False

    def attach(self, loop: Loop) -> None:
        """Let the loop say when the outlet is writable, and when a broken one is to be tried."""
        self._loop = loop
        self.flush()

    def put(self, data: bytes, lines: int, speaker: str, *, urgent: bool = False) -> bool:
        """Take whole lines. They are written by the next `flush`, or now when there are many.

        `urgent`: the master's own words, dropped last. `speaker`: whom to name if they are lost.
        False: they were dropped.
        """
        if self._closed:
            return False
        held = len(self._buffer)
        if held >= HARD_BYTES or (held >= SOFT_BYTES and not urgent and not self._keeps_up()):
            self.lose(lines, speaker)
            return False
        if not held:
            self._progress_at = self._clock()
        try:
            self._buffer += data
        except MemoryError:
            self.lose(lines, speaker)
            return False
        if len(self._buffer) >= _BATCH_BYTES:
            self.flush()
        return True

    def lose(self, lines: int, speaker: str) -> None:
        """Count lines as dropped; how many is said when the outlet works again."""
        self._dropped[speaker] += lines
        self.lost += lines

    def flush(self) -> None:
        """Write what the outlet takes now."""
        if self._closed or (self._trouble is not None and self._clock() < self._trouble.until):
            return
        while self._buffer:
            try:
                written = self._outlet.write(bytes(memoryview(self._buffer)[:_PIECE_BYTES]))
            except BlockingIOError:
                self._watch()
                break
            except OSError as error:
                self._fail(os.strerror(error.errno) if error.errno else str(error))
                return
            except MemoryError:
                self._fail(os.strerror(errno.ENOMEM))
                return
            self._advance(written)
        else:
            self._unwatch()
        self._tell()

    def full(self) -> bool:
        """Say whether to read no more for now; `hooks.on_room` is called when that is over."""
        if len(self._buffer) < SOFT_BYTES or not self._keeps_up():
            return False
        self._held = True
        return True

    def pending(self) -> int:
        """Give the number of bytes that wait for the outlet."""
        return len(self._buffer)

    def fileno(self) -> int:
        """Give the descriptor that is waited on when something is pending."""
        return self._outlet.fileno()

    def reopen(self) -> None:
        """Open a file anew by its name (after logrotate moved it)."""
        self.flush()
        self._unwatch()
        self._outlet.reopen()
        self._try_again_now()
        self.flush()

    def close(self) -> None:
        """Write what can be written now, and let go. What comes later goes nowhere."""
        self._try_again_now()
        self.flush()
        self._closed = True
        self._unwatch()
        if self._loop is not None:
            self._loop.cancel(self)
        self._outlet.close()

    def _keeps_up(self) -> bool:
        return self._trouble is None and self._clock() - self._progress_at < STALLED_S

    def _advance(self, written: int) -> None:
        del self._buffer[:written]
        self._progress_at = self._clock()
        self._trouble = None

    def _try_again_now(self) -> None:
        if self._trouble is not None:
            self._trouble.until = self._clock()

    def _fail(self, text: str) -> None:
        """Note the error and wait; the line that was begun waits with us."""
        first = self._trouble is None
        delay_s = _RETRY_S if self._trouble is None else 2 * self._trouble.delay_s
        delay_s = min(delay_s, _RETRY_MAX_S)
        self._trouble = _Trouble(text, delay_s, self._clock() + delay_s)
        # A descriptor whose other end is gone is ready for ever.
        self._unwatch()
        if self._loop is not None:
            self._loop.at(self, self._trouble.until, self.flush)
        if first:
            self._failed = text
            self.hooks.on_failure(text)

    def _tell(self) -> None:
        """Say what there is to say once the worst is over."""
        if self._trouble is not None or len(self._buffer) > SOFT_BYTES // 2:
            return
        if self._held:
            self._held = False
            self.hooks.on_room()
        if self._dropped or self._failed is not None:
            loss = Loss(dict(self._dropped), self._failed)
            self._dropped.clear()
            self._failed = None
            try:
                self.hooks.on_loss(loss)
            except MemoryError:  # it is said later
                self._dropped.update(loss.dropped)
                self._failed = loss.error

    def _watch(self) -> None:
        if self._loop is not None and self._watched < 0:
            self._watched = self._outlet.fileno()
            self._loop.watch(self._watched, WRITE, lambda _mask: self.flush())

    def _unwatch(self) -> None:
        if self._loop is not None and self._watched >= 0:
            self._loop.unwatch(self._watched)
            self._watched = -1

"""How the work loop sleeps: until a time, a result, a stop, or a sign of its source."""

from __future__ import annotations

import select

from workers.pool import Doorbell
from workers.sources.source import Source


class Sleep:
    """The one place where the loop waits. Work loop's thread only."""

    def __init__(self, doorbell: Doorbell, source: Source) -> None:
        self._doorbell = doorbell
        self._source = source
        self._poll = select.poll()
        self._poll.register(doorbell.fd, select.POLLIN)
        self._has_rung = False

    def fetched(self) -> None:
        """Hear the source again: a fetch has answered its bells."""
        self._has_rung = False

    def until(self, milliseconds: float) -> bool:
        """Sleep so long at most. Gives True when the source has rung.

        Its bells stay readable until they are answered, which may be far off when nothing is
        wanted: those that have rung are not heard before.
        """
        bells = () if self._has_rung else self._source.bells()
        for fd in bells:
            self._poll.register(fd, select.POLLIN)
        rung = self._poll.poll(milliseconds)
        for fd in bells:
            self._poll.unregister(fd)
        self._has_rung |= any(fd != self._doorbell.fd for fd, _ in rung)
        return self._has_rung and bool(bells)

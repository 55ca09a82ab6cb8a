"""The vigil: a new master waits for what an earlier one has left, before it fills those seats.

The children of a dead master drain and leave by themselves; who does not is ended after its
job's `stop_timeout`. They are not our children, but a pidfd tells of the end of any process. What
they begin while they leave is not told by anything: so at the end of the last one of a slot we
look again. Runs in: supervisor.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

from supervisor import descendants, remains
from supervisor.loop import READ, Loop, now

FOLLOW_S: Final = 0.02
"""Those who leave together are followed by one search, not one for each."""

BLIND_S: Final = 1.0
"""So long until the next search, where /proc could not be read."""

_log = logging.getLogger("supervisor")


class Vigil:
    """Waits for remnants. `left(slot, pids)` is called when those of a slot have changed."""

    def __init__(
        self, state_dir: Path, instance: str, loop: Loop, left: Callable[[str, set[int]], None]
    ) -> None:
        self._place = (state_dir, instance)
        self._loop = loop
        self._left = left
        self._remnants: dict[int, remains.Remnant] = {}
        self._deserted: set[str] = set()  # their search has not begun
        self._searched: set[str] = set()  # their search is on its way
        self._search: remains.Search | None = None
        self._is_blind = False
        self._deadline = math.inf
        self.killed: set[str] = set()  # by the stop of everything

    def __len__(self) -> int:
        """Count what is still waited for."""
        return len(self._remnants) + len(self._deserted) + len(self._searched)

    def begin(self) -> None:
        """Find what was left, and wait from now on; before the first child of our own."""
        self._meet(remains.find(*self._place))
        while self._deserted:  # by those who ended just now, after they may have begun others
            self._deserted.clear()
            self._meet(remains.find(*self._place))
        self._loop.cancel(self)
        for slot in {remnant.slot for remnant in self._remnants.values()}:
            self._left(slot, self._pids(slot))

    def holds(self, slot: str) -> set[int]:
        """Give who of an earlier master is still in a slot."""
        return self._pids(slot)

    def end_by(self, deadline: float) -> None:
        """Wait no longer than that: the whole supervisor stops."""
        self._deadline = deadline
        for pidfd, remnant in self._remnants.items():
            self._loop.at(pidfd, deadline, partial(self._kill, remnant))

    def _meet(self, found: Iterable[remains.Remnant]) -> None:
        """Wait for these too, but for those who are known, or our own."""
        known = {remnant.pid for remnant in self._remnants.values()}
        for remnant in found:
            if remnant.pid in known or descendants.is_below(remnant.pid, os.getpid()):
                continue
            try:
                pidfd = os.pidfd_open(remnant.pid)
            except ProcessLookupError:
                self._desert(remnant.slot)
                continue
            _log.warning("%s: waiting for pid %d, of an earlier master", remnant.slot, remnant.pid)
            self._remnants[pidfd] = remnant
            if not remnant.leader:
                remains.tell(remnant)
            self._loop.watch(pidfd, READ, partial(self._on_end, pidfd, remnant))
            kill_at = min(now() + remnant.stop_timeout, self._deadline)
            self._loop.at(pidfd, kill_at, partial(self._kill, remnant))

    def _on_end(self, pidfd: int, remnant: remains.Remnant, _mask: int) -> None:
        self._loop.unwatch(pidfd)
        self._loop.cancel(pidfd)
        del self._remnants[pidfd]
        os.close(pidfd)
        if left := self._pids(remnant.slot):
            self._left(remnant.slot, left)
        else:
            self._desert(remnant.slot)

    def _desert(self, slot: str) -> None:
        """Note that the last one of a slot has ended; a search that begins now tells of others."""
        self._deserted.add(slot)
        if self._search is None:
            self._loop.at(self, now() + FOLLOW_S, self._look)

    def _look(self) -> None:
        """See whether the deserted slots are empty indeed; one look of the search each time."""
        try:
            if self._search is None:
                self._search = remains.Search(*self._place)
                self._searched |= self._deserted
                self._deserted = set()
            found = self._search.look()
            self._meet(found)
        except OSError as error:
            self._look_later(error)
            return
        self._is_blind = False
        if not self._search.is_over:
            self._loop.at(self, now() + remains.LOOK_AGAIN_S, self._look)
            return
        empty, self._searched, self._search = self._searched - self._deserted, set(), None
        for slot in empty:
            self._left(slot, self._pids(slot))
        if self._deserted:
            self._loop.at(self, now() + FOLLOW_S, self._look)

    def _look_later(self, error: OSError) -> None:
        """Begin the search anew after a while: nobody is passed over for want of a look.

        Raised for a /proc that cannot be read, or when there is no descriptor to wait on. Only at
        the end of a full stop nothing more can be waited for.
        """
        if not self._is_blind:
            _log.error("cannot look for what an earlier master has left: %s", error.strerror)
        self._is_blind, self._search = True, None
        if now() < self._deadline:
            self._loop.at(self, now() + BLIND_S, self._look)
        else:
            self._searched.clear()
            self._deserted.clear()

    def _pids(self, slot: str) -> set[int]:
        return {remnant.pid for remnant in self._remnants.values() if remnant.slot == slot}

    def _kill(self, remnant: remains.Remnant) -> None:
        _log.warning("%s: killing pid %d, of an earlier master", remnant.slot, remnant.pid)
        if self._deadline < math.inf:
            self.killed.add(remnant.slot)
        remains.kill(remnant)

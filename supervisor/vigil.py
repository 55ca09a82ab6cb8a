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

LOOK_AGAIN_S: Final = 0.02
"""Those who leave together are followed by one look through all processes, not one for each."""

_log = logging.getLogger("supervisor")


class Vigil:
    """Waits for remnants. `left(slot, pids)` is called when those of a slot have changed."""

    def __init__(
        self, state_dir: Path, instance: str, loop: Loop, left: Callable[[str, set[int]], None]
    ) -> None:
        self._find = partial(remains.find, state_dir, instance)
        self._loop = loop
        self._left = left
        self._remnants: dict[int, remains.Remnant] = {}
        self._deserted: set[str] = set()
        self._deadline = math.inf
        self.killed: set[str] = set()  # by the stop of everything

    def __len__(self) -> int:
        """Count what is still waited for."""
        return len(self._remnants) + len(self._deserted)

    def begin(self) -> None:
        """Find what was left, and wait from now on; before the first child of our own."""
        for slot in self._meet(self._find()):
            self._left(slot, self._pids(slot))

    def end_by(self, deadline: float) -> None:
        """Wait no longer than that: the whole supervisor stops."""
        self._deadline = deadline
        for pidfd, remnant in self._remnants.items():
            self._loop.at(pidfd, deadline, partial(self._kill, remnant))

    def _meet(self, found: Iterable[remains.Remnant]) -> set[str]:
        """Wait for these too; gives the slots that they belong to."""
        slots = set()
        for remnant in found:
            try:
                pidfd = os.pidfd_open(remnant.pid)
            except ProcessLookupError:
                continue
            slots.add(remnant.slot)
            _log.warning("%s: waiting for pid %d, of an earlier master", remnant.slot, remnant.pid)
            self._remnants[pidfd] = remnant
            if not remnant.leader:
                remains.tell(remnant)
            self._loop.watch(pidfd, READ, partial(self._on_end, pidfd, remnant))
            kill_at = min(now() + remnant.stop_timeout, self._deadline)
            self._loop.at(pidfd, kill_at, partial(self._kill, remnant))
        return slots

    def _on_end(self, pidfd: int, remnant: remains.Remnant, _mask: int) -> None:
        self._loop.unwatch(pidfd)
        self._loop.cancel(pidfd)
        del self._remnants[pidfd]
        os.close(pidfd)
        if left := self._pids(remnant.slot):
            self._left(remnant.slot, left)
            return
        self._deserted.add(remnant.slot)
        self._loop.at(self, now() + LOOK_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        """See whether the deserted slots are empty indeed."""
        deserted, self._deserted = self._deserted, set()
        ours = set(descendants.with_descendants([os.getpid()]))
        known = {remnant.pid for remnant in self._remnants.values()}
        self._meet(one for one in self._find() if one.pid not in ours | known)
        for slot in deserted:
            self._left(slot, self._pids(slot))

    def _pids(self, slot: str) -> set[int]:
        return {remnant.pid for remnant in self._remnants.values() if remnant.slot == slot}

    def _kill(self, remnant: remains.Remnant) -> None:
        _log.warning("%s: killing pid %d, of an earlier master", remnant.slot, remnant.pid)
        if self._deadline < math.inf:
            self.killed.add(remnant.slot)
        remains.kill(remnant)

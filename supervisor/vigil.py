"""The vigil: a new master waits for what an earlier one has left, before it fills those seats.

The children of a dead master drain and leave by themselves; who does not is ended after its
job's `stop_timeout`. They are not our children, but a pidfd tells of the end of any process.
Runs in: supervisor.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

from supervisor import remains
from supervisor.loop import READ, Loop, now

_log = logging.getLogger("supervisor")


class Vigil:
    """Waits for remnants. `gone(slot, pid)` is called for each, when it is."""

    def __init__(self, loop: Loop, gone: Callable[[str, int], None]) -> None:
        self._loop = loop
        self._gone = gone
        self._remnants: dict[int, remains.Remnant] = {}

    def __len__(self) -> int:
        """Count those that are still there."""
        return len(self._remnants)

    def begin(self, state_dir: Path, instance: str) -> list[remains.Remnant]:
        """Find what was left, and wait from now on; before the first child of our own."""
        for remnant in remains.find(state_dir, instance):
            try:
                pidfd = os.pidfd_open(remnant.pid)
            except ProcessLookupError:
                continue
            _log.warning("%s: waiting for pid %d, of an earlier master", remnant.slot, remnant.pid)
            self._remnants[pidfd] = remnant
            if not remnant.leader:
                remains.tell(remnant)
            self._loop.watch(pidfd, READ, partial(self._on_end, pidfd, remnant))
            self._loop.at(pidfd, now() + remnant.stop_timeout, partial(_kill, remnant))
        return list(self._remnants.values())

    def end_by(self, deadline: float) -> None:
        """Wait no longer than that: the whole supervisor stops."""
        for pidfd, remnant in self._remnants.items():
            self._loop.at(pidfd, deadline, partial(_kill, remnant))

    def _on_end(self, pidfd: int, remnant: remains.Remnant, _mask: int) -> None:
        self._loop.unwatch(pidfd)
        self._loop.cancel(pidfd)
        del self._remnants[pidfd]
        os.close(pidfd)
        self._gone(remnant.slot, remnant.pid)


def _kill(remnant: remains.Remnant) -> None:
    _log.warning("%s: killing pid %d, of an earlier master", remnant.slot, remnant.pid)
    remains.kill(remnant)

"""The burial: what follows when a process has died, until its seat is free again.

Its status is reaped, its last words are read, and what it has left behind is ended; only when all
of that is gone does the state machine hear of the death, so that a successor never meets half of
its predecessor. Its leases go to the successor, and to a sibling who can act at once.
Runs in: supervisor.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from supervisor import cgroups, descendants, kernel, memory, settings
from supervisor.capture import Capture
from supervisor.loop import Loop, now
from supervisor.process import Exit, signal_group
from supervisor.seat import Seat, Seats
from supervisor.slot import FALLEN, Fallen
from supervisor.states import Cause, State

LOOK_AGAIN_S: Final = 0.005
LOOKS: Final = 100
"""So often, and so far apart, we ask a process that does not tell whose it is."""

BLIND_S: Final = 1.0
"""So long a burial waits for a /proc that cannot be read; then the job comes back without it."""

BLIND_LOOK_S: Final = 0.1

_log = logging.getLogger("supervisor")


class Burial:
    """Sees processes off. `gone` is called once for each, when nothing of it is left."""

    def __init__(
        self,
        instance: str,
        loop: Loop,
        capture: Capture,
        seats: Seats,
        gone: Callable[[Seat, Exit], None],
        tree: cgroups.Tree | None = None,
    ) -> None:
        self._instance = instance
        self._loop = loop
        self._capture = capture
        self._seats = seats
        self._report = gone
        self._tree = tree
        self._witness = memory.Witness.of_this_machine()
        self._looks: dict[int, int] = {}
        self._unclear: set[int] = set()
        self._blind_since: float | None = None

    def begin(self, seat: Seat) -> bool:
        """Reap a process whose pidfd has turned readable; False when it lives after all."""
        process = seat.process
        assert process is not None, "a pidfd is watched only while its process is there"
        how = process.reap()
        if how is None:
            return False
        seat.exit = self._judged(seat, how, process.pid)
        self._loop.unwatch(process.pidfd)
        self._capture.finish(fd for fd, _ in process.streams())
        self.look()
        return True

    def _judged(self, seat: Seat, how: Exit, pid: int) -> Exit:
        """Tell a kill that nobody here has ordered from one of the kernel's for want of memory."""
        if how.signal == signal.SIGKILL and not seat.killed:
            return replace(how, out_of_memory=True) if self._witness.has_seen(pid) else how
        self._witness.look()
        return how

    def close(self) -> None:
        """Let go of what tells of the kernel's kills."""
        self._witness.close()

    def look(self) -> None:
        """Reap orphans that have died, and see whose burial can go on. SIGCHLD says when.

        Late in this turn of the loop: one look serves all who have died meanwhile.
        """
        self._loop.soon(self, self._sweep)

    def _sweep(self) -> None:
        try:
            left, is_clear = self._left_behind()
        except kernel.Unreadable as error:
            self._go_on_blind(error)
            return
        if self._blind_since is not None:
            self._blind_since = None
            kernel.keep_spare()
            _log.info("/proc can be read again")
        for seat in list(self._seats.by_pid.values()):
            if seat.exit is not None:
                self._go_on(seat, left.get(seat.name, set()), is_clear=is_clear)

    def _go_on_blind(self, error: OSError) -> None:
        """Do what can be done without /proc: kill the group of each dead process, wait a little.

        What has left its group is not seen until it can be read again, but a job that never came
        back would be worse.
        """
        moment = now()
        if self._blind_since is None:
            self._blind_since = moment
            _log.error(
                "cannot read /proc (%s): what dead processes have left is ended by group only",
                error.strerror,
            )
        for seat in list(self._seats.by_pid.values()):
            if seat.exit is not None and seat.process is not None:
                is_over = moment - self._blind_since >= BLIND_S
                asked = seat.status.state is State.STOPPING and not seat.killed
                gently = asked and not is_over
                signal_group(seat.process.pid, signal.SIGTERM if gently else signal.SIGKILL)
                if is_over:
                    cgroups.kill(seat.cgroup)
                    self._end(seat)
        self._loop.at(self, moment + BLIND_LOOK_S, self._look_again)

    def _go_on(self, seat: Seat, left: set[int], *, is_clear: bool) -> None:
        """End what the dead process has left; it counts as gone when all of that is.

        After a drained stop it is told first and killed at the deadline of the stop; after any
        other death it is killed at once, so that its successor meets no half of it.
        """
        is_new = left - seat.leftovers
        seat.leftovers = left
        if not left and is_clear:
            self._end(seat)
        elif is_new:
            asked = seat.status.state is State.STOPPING and not seat.killed
            _log.info("%s: ending %d process(es) that it has left", seat.name, len(left))
            descendants.signal_all(is_new, signal.SIGTERM if asked else signal.SIGKILL)
            if not asked:
                cgroups.kill(seat.cgroup)

    def _left_behind(self) -> tuple[dict[str, set[int]], bool]:
        """Find the orphans that live, by the name of the slot whose process has begun them.

        Returns False beside it when there may be more: somebody is just leaving or in the middle
        of an exec, as a process is that becomes a daemon. Then we look again soon.
        """
        while True:
            living = descendants.reap_orphans(self._seats.living_pids())
            if not living:
                self._looks.clear()
                return {}, True  # as a rule: nobody is asked for anything
            owners = {pid: other.name for pid, other in self._seats.by_pid.items()}
            names = {pid: self._slot_of(pid, owners) for pid in living}
            unclear = {
                pid
                for pid, name in names.items()
                # A process may hide its command line for good; we do not wait for that one.
                if name == descendants.UNCLEAR and self._looks.get(pid, 0) < LOOKS
            }
            # One that has died while we looked could not tell whose it was, and its children have
            # become ours without a look at them.
            if living <= descendants.reap_orphans(self._seats.living_pids()):
                break
        self._looks = {pid: count for pid, count in self._looks.items() if pid in living}
        if unclear and not self._unclear:
            self._loop.at(self, now() + LOOK_AGAIN_S, self._look_again)
        self._unclear |= unclear
        left: dict[str, set[int]] = {}
        for pid, name in names.items():
            left.setdefault(name or "", set()).add(pid)
        return left, not unclear

    def _slot_of(self, pid: int, owners: dict[int, str]) -> str | None:
        """Name the slot of an orphan: by its control group where there are any, else by its traces.

        A group holds whatever a process has done to leave no trace.
        """
        slot = None if self._tree is None else self._tree.slot_of(pid)
        return slot or descendants.slot_of(pid, self._instance, owners)

    def _look_again(self) -> None:
        unclear, self._unclear = self._unclear, set()
        for pid in unclear:
            self._looks[pid] = self._looks.get(pid, 0) + 1
        self.look()

    def _end(self, seat: Seat) -> None:
        process, how = seat.process, seat.exit
        assert process is not None, "a seat is buried once"
        assert how is not None, "a seat is buried after its death"
        suspects = seat.page.suspects()
        del self._seats.by_pid[process.pid]
        process.close()
        seat.process = seat.exit = None
        seat.account(abandoned=len(suspects))
        # A message that we have killed at the end of a stop has not killed anybody.
        was_asked = seat.status.doom in (Cause.ASKED, Cause.RECYCLED)
        self._mourn(seat, () if was_asked else suspects)
        self._report(seat, how)

    def _mourn(self, seat: Seat, suspects: tuple[int, ...]) -> None:
        """Hand the leases of the dead on: to its successor, and to a sibling who can act now."""
        if seat.job.type not in settings.CONSUMERS:
            return
        fallen = Fallen(seat.owner, suspects)
        if suspects:
            # What else it held its successor frees by itself (`Source.release_seat`); so this does
            # not grow with each failed start.
            seat.fallen = (*seat.fallen, fallen)
        order = FALLEN + b" " + fallen.encode()
        for sibling in self._seats.of(seat.job.name):
            living = sibling.living if sibling.status.state is State.RUNNING else None
            if living is not None and living.tell(order):
                return

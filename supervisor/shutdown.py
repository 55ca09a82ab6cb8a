"""The stop of everything: drain, hurry, kill; and nobody is left behind.

    first wish ─► all drain at once, what others depend on when those are gone; one shared deadline
    second     ─► what is in flight gets one second
    third      ─► the kill

At the deadline who was held back is asked after all, and what an earlier master has left is killed.
Orphans that no job could be made answerable for are told when all jobs are gone, and killed at the
deadline. Begun by `supervisor` and by `verbs`; runs in: supervisor.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor import descendants, kernel
from supervisor.loop import now
from supervisor.seat import Seat, Seats
from supervisor.states import FAST_S, Kind

if TYPE_CHECKING:
    # The Supervisor has one; at run time the import would be a circle.
    from supervisor import shapes
    from supervisor.supervisor import Supervisor

SAME_PRESS_S: Final = 0.1
"""Two stop signals so close together are one."""

LOOK_AGAIN_S: Final = 1.0
"""So long until orphans that were killed, or could not be seen, are looked for again."""

_log = logging.getLogger("supervisor")


class Shutdown:
    """The one stop of everything that a supervisor has."""

    def __init__(self, supervisor: Supervisor, seats: Seats) -> None:
        self._supervisor = supervisor
        self._seats = seats
        self.is_under_way = False
        self.exit_code = 0
        self._deadline = 0.0
        self._wishes = 0
        self._deaf_until = 0.0
        self._orphans_told = False
        self._orphans_killed: set[int] = set()
        self._replies: list[Callable[[], None]] = []

    # --- the wishes --------------------------------------------------------------------------

    def press(self) -> None:
        """Take a signal: stop gracefully, at the second one fast, at the third by killing."""
        if now() < self._deaf_until:
            return  # who ends a whole group signals us twice (timeout(1), a shell): one wish
        self._deaf_until = now() + SAME_PRESS_S
        self._wishes += 1
        if self._wishes == 1:
            self.begin()
            return
        self.exit_code = 1
        kind = Kind.FAST if self._wishes == 2 else Kind.KILL
        self._deadline = min(self._deadline, now() + (FAST_S if kind is Kind.FAST else 0.0))
        _log.warning("asked to stop again: %s", "fast" if kind is Kind.FAST else "killing")
        self._supervisor.precedence.take_due(all_of_them=True)
        for seat in self._seats.by_name.values():
            self._supervisor.happen_to(seat, kind)
        self._end_others_in_time()

    def begin(self, *, window_s: float | None = None, exit_code: int | None = None) -> None:
        """Ask every process to drain, all at once, within one shared deadline.

        Only what others depend on is asked later, when they are gone. A second wish may shorten
        the time.
        """
        if exit_code is not None:
            self.exit_code = exit_code
        if self.is_under_way:
            self._end_sooner(window_s)
            return
        supervisor = self._supervisor
        self.is_under_way = True
        self._wishes = max(1, self._wishes)
        window = supervisor.config.stop_timeout
        if window_s is not None:
            window = min(window, window_s)
        self._deadline = now() + window
        supervisor.reloading.cancel()
        supervisor.outside.stopping()
        _log.info("stopping: draining everything within %gs", window)
        for seat in self._seats.by_name.values():
            seat.forget_last_stop()
        supervisor.precedence.begin_stop()
        self.go_on()
        self._end_others_in_time()
        self.look_for_orphans()

    def _end_sooner(self, window_s: float | None) -> None:
        """Take a second wish with a shorter time than what is left of the first one's."""
        if window_s is None or now() + window_s >= self._deadline:
            return
        self._deadline = now() + window_s
        _log.info("stopping: draining everything within %gs", window_s)
        for seat in self._seats.by_name.values():
            if not self._supervisor.precedence.is_held_back(seat):
                self._supervisor.happen_to(seat, Kind.STOP, window_s=window_s)
        self._end_others_in_time()

    # --- one after the other -----------------------------------------------------------------

    def go_on(self, *, all_of_them: bool = False) -> None:
        """Ask those to drain on whom nobody depends any more, within what is left of the time."""
        for seat in self._supervisor.precedence.take_due(all_of_them=all_of_them):
            left = max(0.0, self._deadline - now())
            window_s = min(seat.policy.stop_timeout, left)
            self._supervisor.happen_to(seat, Kind.STOP, window_s=window_s)

    def _end_others_in_time(self) -> None:
        """Let the deadline hold for what was not asked yet, for remnants and for orphans."""
        loop = self._supervisor.loop
        loop.at("last stops", self._deadline, partial(self.go_on, all_of_them=True))
        self._supervisor.vigil.end_by(self._deadline)
        if self._orphans_told:
            loop.at("orphans", self._deadline, self._kill_orphans)

    # --- orphans -----------------------------------------------------------------------------

    def look_for_orphans(self) -> None:
        """Reap the orphans that have died, and end the others, when all jobs are gone."""
        if self._seats.by_pid or not self.is_under_way:
            return
        with suppress(kernel.Unreadable):
            self._tell(descendants.reap_orphans(()))

    def _tell(self, orphans: set[int]) -> None:
        if orphans and not self._orphans_told:
            self._orphans_told = True
            descendants.signal_all(orphans, signal.SIGTERM)
            self._supervisor.loop.at("orphans", self._deadline, self._kill_orphans)

    def _kill_orphans(self) -> None:
        again = partial(self._supervisor.loop.at, "orphans", handler=self._kill_orphans)
        try:
            orphans = descendants.reap_orphans(())
        except kernel.Unreadable:
            again(now() + LOOK_AGAIN_S)
            return
        for pid in orphans - self._orphans_killed:
            _log.warning("killing pid %d, an orphan of no known job", pid)
        self._orphans_killed |= orphans
        descendants.signal_all(orphans, signal.SIGKILL)
        if orphans:
            again(now() + LOOK_AGAIN_S)

    # --- the end -----------------------------------------------------------------------------

    def is_over(self) -> bool:
        """Say whether nobody is left: no job's process, no remnant, no orphan."""
        if not self.is_under_way or self._seats.by_pid or self._supervisor.vigil:
            return False
        if any(not seat.at_rest for seat in self._seats.by_name.values()):
            return False
        self.look_for_orphans()
        try:
            return not descendants.adopted(())
        except kernel.Unreadable as error:
            _log.warning("cannot read /proc (%s): orphans may be left behind", error.strerror)
            return True

    def report(self) -> shapes.StopReport:
        """Add up what was done to the items in flight, with who belonged to no seat of ours."""
        found = report(self._seats.by_name.values())
        remnants = self._supervisor.vigil.killed.difference(found["killed"])
        orphans = [f"pid {pid}" for pid in sorted(self._orphans_killed)]
        found["killed"] += [*sorted(remnants), *orphans]
        return found

    def when_over(self, reply: Callable[[], None]) -> None:
        """Call back with the report ready, just before the master leaves."""
        self._replies.append(reply)

    def answer(self) -> None:
        """Answer all who wait for the end."""
        for reply in self._replies:
            reply()


def report(seats: Iterable[Seat]) -> shapes.StopReport:
    """Add up what the last stop of these seats did to the items in flight."""
    seats = list(seats)
    return {
        "drained": sum(seat.drained for seat in seats),
        "abandoned": sum(seat.abandoned for seat in seats),
        "killed": [seat.name for seat in seats if seat.killed],
    }

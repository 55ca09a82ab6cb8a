"""The rolling change: one process after the other, the next only when the former is READY.

Each turn of a roll takes one process down and up again, and waits for what comes of it. Two rolls
that meet in one job take turns, so never are two of its processes away for their sake. A roll is
the supervisor's own once it has begun: who asked for it may go away. Used by `verbs` and
`reloading`; runs in: supervisor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from supervisor.loop import now
from supervisor.seat import Seat
from supervisor.states import Goal, Kind

if TYPE_CHECKING:
    # The Supervisor holds the rolls; at run time the import would be a circle.
    from supervisor.supervisor import Supervisor

Turn = Callable[[Seat], bool]
"""Sets a process in motion, in the roll's time; False when there is nothing to wait for."""


class Rolling:
    """All rolls of a supervisor."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._away: set[str] = set()

    def roll(
        self, seats: Iterable[Seat], turn: Turn, done: Callable[[Seat | None, int], None]
    ) -> None:
        """Turn the seats one by one; a failed one ends the roll.

        `done` gets the seat that has failed, None when all went well, and how many were not
        reached. It is called later, never from here.
        """
        _Roll(self._supervisor, self._away, seats, turn, done).go_on()

    def restart(self, seat: Seat) -> bool:
        """Begin a process anew: the ordinary turn."""
        self._supervisor.happen((seat.name,), Kind.RESTART)
        return True


class _Roll:
    """One roll on its way."""

    def __init__(
        self,
        supervisor: Supervisor,
        away: set[str],
        seats: Iterable[Seat],
        turn: Turn,
        done: Callable[[Seat | None, int], None],
    ) -> None:
        self._supervisor = supervisor
        self._away = away
        self._waiting = deque(seats)
        self._turn = turn
        self._done = done

    def go_on(self) -> None:
        """Take the next seat, in a turn of the loop of its own.

        Here somebody may be in the middle of an event, and would take in ours only after it.
        """
        self._supervisor.loop.at(self, now(), self._next)

    def _next(self) -> None:
        supervisor = self._supervisor
        while self._waiting and not self._is_there(self._waiting[0]):
            self._waiting.popleft()
        if not self._waiting:
            self._done(None, 0)
            return
        seat = self._waiting[0]
        job = seat.job.name
        if supervisor.stopping:
            self._done(seat, len(self._waiting) - 1)
        elif job in self._away:
            supervisor.when(lambda: job not in self._away or supervisor.stopping, self.go_on)
        else:
            self._away.add(job)
            if self._turn(seat):
                supervisor.when(lambda: self._is_over(seat), self._judge)
            else:
                self._judge()

    def _is_there(self, seat: Seat) -> bool:
        # A smaller scale, or a reload, may have taken it away, or have it drain for good.
        return self._supervisor.sits(seat) and not seat.leaving

    def _is_over(self, seat: Seat) -> bool:
        supervisor = self._supervisor
        return seat.settled or supervisor.stopping or supervisor.precedence.is_stalled(seat)

    def _judge(self) -> None:
        seat = self._waiting.popleft()
        self._away.discard(seat.job.name)
        # The other rolls, which wait for this job.
        self._supervisor.loop.at((self, "free"), now(), self._supervisor.wake_waiting)
        if not self._supervisor.sits(seat) or seat.ready(now()) or _is_called_off(seat):
            self.go_on()
        else:
            self._done(seat, len(self._waiting))


def _is_called_off(seat: Seat) -> bool:
    """Say whether somebody wants the process down, or later: that is no failure of it."""
    return seat.status.goal is Goal.DOWN or seat.status.held

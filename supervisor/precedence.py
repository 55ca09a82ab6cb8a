"""Who goes first: a start waits for what it depends on, and a stop for those who depend on it.

Neither blocks anybody: a start that has to wait becomes a WAIT of its own seat, and a stop that
has to wait is not asked for yet. Both are looked at again at the end of a turn in which something
has changed, and only while somebody waits. What a dependency does later concerns nobody who has
been started. Runs in: supervisor.

A dependency that is FATAL or was stopped by hand is waited for all the same, as it may come back
(`fatal_retry`, `supervisor start`), and then nobody has to remember who waited for it; but a
command that would wait with it is answered. A job without processes is no dependency.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Final, Protocol

from supervisor import dependencies
from supervisor.dependencies import Dependency
from supervisor.loop import Loop, now
from supervisor.seat import Seat, Seats
from supervisor.states import Event, Goal, Kind, State

_THERE: Final = (State.STARTING, State.RUNNING)
_STARTS: Final = (Kind.START, Kind.RESTART, Kind.RECYCLE)


class Parent(Protocol):
    """What the precedence tells the supervisor."""

    def happen_to(self, seat: Seat, kind: Kind) -> None:
        """Feed an event to the seat."""

    def stop_next(self) -> None:
        """Stop those whose turn it may be now."""

    def wanted(self, job: str) -> int:
        """Give how many processes a job is to have; 0 for one that does not run here."""


class Precedence:
    """Holds starts and stops back until their turn comes."""

    def __init__(self, loop: Loop, seats: Seats, parent: Parent) -> None:
        self._loop = loop
        self._seats = seats
        self._parent = parent
        self._held: dict[str, Seat] = {}
        self._to_stop: dict[str, Seat] = {}

    def changed(self) -> None:
        """Look at the end of this turn whose turn it is now; called after each change."""
        if self._held or self._to_stop:
            self._loop.at(self, now(), self._look)

    def forget(self, seat: Seat) -> None:
        """Take a seat that is no more out of all queues."""
        self._held.pop(seat.name, None)
        self._to_stop.pop(seat.name, None)
        self.changed()

    def in_order(self, seats: Iterable[Seat]) -> list[Seat]:
        """Give these seats so that each stands behind those it depends on."""
        chosen = list(seats)
        if not any(seat.job.depends_on for seat in chosen):
            return chosen
        places = {name: number for number, name in enumerate(dependencies.in_order(self._graph()))}
        return sorted(chosen, key=lambda seat: places[seat.job.name])

    def is_stalled(self, seat: Seat) -> bool:
        """Say whether a start is held by what will not come soon: it failed, or takes its time.

        Who asked for a change of many jobs does not wait for that.
        """
        if not seat.status.held or seat.status.state is not State.STOPPED:
            return False
        return all(other.settled for one in seat.job.depends_on for other in self._of(one.job))

    # --- starts ------------------------------------------------------------------------------

    def gate(self, seat: Seat, event: Event) -> Event:
        """Make a wait of a start that cannot be yet. A process that is there waits no more."""
        if event.kind not in _STARTS or seat.status.state in _THERE:
            return event
        words = self._reasons(seat) if seat.job.depends_on else ""
        if not words:
            self._held.pop(seat.name, None)
            return event
        self._held[seat.name] = seat
        return replace(event, kind=Kind.WAIT, why=words)

    def is_needed(self, seat: Seat) -> bool:
        """Say whether READY hangs on this seat: its job is required, or one that waits for it."""
        if seat.job.required or not self._held:
            return seat.job.required
        after = dependencies.dependents(self._graph())[seat.job.name]
        return any(one.job.required and one.job.name in after for one in self._held.values())

    def _look(self) -> None:
        for seat in self.in_order(self._held.values()):
            status = seat.status
            if not status.held:
                del self._held[seat.name]
                continue
            words = self._reasons(seat)
            if not words or (status.state is State.STOPPED and words != status.why):
                self._parent.happen_to(seat, Kind.START)
        if self._to_stop:
            self._parent.stop_next()

    def _reasons(self, seat: Seat) -> str:
        """Say what a seat still waits for; "" when it can start."""
        unmet: list[Dependency] = []
        obstacle = ""
        for one in seat.job.depends_on:
            seats = self._of(one.job)
            # Of a job that has just come by a reload there may be no seats yet.
            is_complete = len(seats) >= self._parent.wanted(one.job)
            if is_complete and all(_is_met(other, one.need) for other in seats):
                continue
            unmet.append(one)
            obstacle = obstacle or next(filter(None, map(_obstacle, seats)), "")
        seat.waits_in_vain = bool(obstacle)
        if not unmet:
            return ""
        waited = ", ".join(f"{one.job} {dependencies.WORDS[one.need]}" for one in unmet)
        return f"waiting for {waited}" + (f" ({obstacle})" if obstacle else "")

    def _of(self, job: str) -> list[Seat]:
        return [seat for seat in self._seats.of(job) if not seat.leaving]

    def _graph(self) -> dict[str, list[str]]:
        return {
            seat.job.name: [one.job for one in seat.job.depends_on]
            for seat in self._seats.by_name.values()
        }

    # --- stops -------------------------------------------------------------------------------

    def begin_stop(self) -> None:
        """Let the stop of everything begin: all seats are to be stopped, some of them later."""
        self._to_stop = dict(self._seats.by_name)

    def is_held_back(self, seat: Seat) -> bool:
        """Say whether a seat has not been asked to stop yet, as others go first."""
        return seat.name in self._to_stop

    def take_due(self, *, all_of_them: bool = False) -> list[Seat]:
        """Take those whose turn to stop has come: nobody who depends on them is left.

        Who has no process is due at once. But one in BACKOFF is left to come back: those who
        depend on it may need it for their drain.
        """
        graph = self._graph()
        due = list(self._to_stop.values())
        if not all_of_them and any(graph.values()):
            after = dependencies.dependents(graph)
            busy = {seat.job.name for seat in self._seats.by_name.values() if _is_busy(seat)}
            due = [seat for seat in due if _is_idle(seat) or not after[seat.job.name] & busy]
        for seat in due:
            del self._to_stop[seat.name]
        return due


def _is_met(seat: Seat, need: str) -> bool:
    status = seat.status
    if need == "completed":
        return status.spent and not status.alive
    if need == "ready":
        return status.ready and seat.exit is None and not seat.complaint
    if status.state in _THERE:
        return seat.process is not None
    # One that has died was started; it would be a matter of luck to have seen it before.
    return status.state in (State.BACKOFF, State.EXITED)


def _obstacle(seat: Seat) -> str:
    """Say why a dependency will not come by itself; "" while it is on its way, or here."""
    status = seat.status
    if status.state is State.FATAL:
        return f"{seat.name} is FATAL: {status.why}"
    if status.held:
        return f"{seat.name} waits too" if seat.waits_in_vain else ""
    is_awaited = bool(seat.predecessors) and seat.wanted
    if status.goal is Goal.DOWN and not is_awaited:
        return f"{seat.name} is {status.state.name}"
    return ""


def _is_busy(seat: Seat) -> bool:
    return seat.status.alive or bool(seat.predecessors)


def _is_idle(seat: Seat) -> bool:
    return not seat.status.alive and seat.status.state is not State.BACKOFF

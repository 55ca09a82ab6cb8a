"""Waiting until each of several processes is there, or has failed to come.

One that fails over and over is between two lives only for moments, and two of them perhaps never at
one time. So a failure is noted when it is seen, and nobody waits for that one any more. Used by
`verbs` and `reloading`; runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from supervisor.loop import now
from supervisor.seat import Seat


def complaint(seat: Seat) -> str:
    """Say in what state a process is, and why."""
    return f"{seat.name} is {seat.status.state.name}: {seat.why(now())}"


class Arrivals:
    """Some seats that are being filled; `is_over` says that a start of one has come to its end."""

    def __init__(self, is_over: Callable[[Seat], bool], seats: Iterable[Seat] = ()) -> None:
        self._is_over = is_over
        self._hopeful = list(seats)
        self._complaints: dict[str, str] = {}

    def add(self, seats: Iterable[Seat]) -> None:
        """Wait for these too."""
        self._hopeful += seats

    def are_over(self) -> bool:
        """Say whether nobody is on the way any more who has not failed before."""
        are_over, hopeful = True, []
        for seat in self._hopeful:
            if not self._is_over(seat):
                are_over = False
            elif not (seat.ready(now()) or seat.status.held):
                self._complaints[seat.name] = complaint(seat)
                continue
            hopeful.append(seat)
        self._hopeful = hopeful
        return are_over

    def complaint(self, seat: Seat) -> str:
        """Say why a seat is not ready: of one that tries again, why it was not before."""
        if seat.settled:
            return complaint(seat)
        return self._complaints.get(seat.name) or complaint(seat)

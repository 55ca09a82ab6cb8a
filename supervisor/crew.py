"""The crew: which seats there are, and what of them was changed by hand.

A job has as many seats as its file says, or as somebody has wished by `scale`. A seat that is to
go drains first; then its page of the board, its ring of the log and its file are given back. What
was changed by hand (the scale of a job, stopped processes, quiet) outlasts every reload and ends
with the supervisor. Runs in: supervisor.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor import orders, protocol, seatlock, selection
from supervisor.board import PAGES, Board
from supervisor.config import Job
from supervisor.errors import ControlError, UsageError
from supervisor.loop import now
from supervisor.seat import Seat, Seats, policy_of
from supervisor.states import Kind

if TYPE_CHECKING:
    # The Supervisor has a crew; at run time the import would be a circle.
    # Only for the reader, as well: see `shapes`.
    from supervisor import shapes
    from supervisor.supervisor import Supervisor

DEAF_TYPES: Final = frozenset({"program"})
"""Types of jobs that hear no order but signals."""

_log = logging.getLogger("supervisor")


class Crew:
    """Makes seats and takes them away."""

    def __init__(self, supervisor: Supervisor, seats: Seats, board: Board) -> None:
        self._supervisor = supervisor
        self._seats = seats
        self._board = board
        self.scaled: dict[str, int] = {}
        self.all_quiet = False
        self._quiet_jobs: set[str] = set()

    # --- seats ---------------------------------------------------------------------------------

    def wanted(self, job: Job) -> int:
        """Give how many processes a job is to have: by hand, else by its file."""
        return self.scaled.get(job.name, job.processes)

    def of(self, name: str) -> list[Seat]:
        """Give the seats of a job that are to stay, in the order of their numbers."""
        return [seat for seat in self._seats.of(name) if not seat.leaving]

    def hire(self, job: Job) -> list[Seat]:
        """Make the seats that a job lacks, and call back those that were about to go.

        What is new of a stopped job is stopped too, and of a quiet one quiet. They are not started.
        Fewer than it lacks where the board is full: who asks has looked, but others have come
        while a reload was on its way.
        """
        stay = self.of(job.name)
        stopped = bool(stay) and all(not seat.wanted for seat in stay)
        hired = []
        for number in range(self.wanted(job)):
            seat = self._seats.by_name.get(f"{job.name}:{number}")
            if seat is not None and not seat.leaving:
                continue
            if seat is None:
                if self._board.is_full:
                    _log.error("%s: no more than %d processes for all jobs", job.name, PAGES)
                    break
                seat = self._furnish(job, number)
            seat.leaving = False
            seat.wanted = not stopped
            hired.append(seat)
        return hired

    def _furnish(self, job: Job, number: int) -> Seat:
        page_number, page = self._board.allocate()
        seat = Seat(job, number, page, policy_of(job), page_number)
        seat.quiet = self._is_quiet(job)
        seat.predecessors = self._supervisor.remnants_of(seat.name)
        self._seats.add(seat)
        return seat

    def dismiss(self, seats: Iterable[Seat]) -> None:
        """Drain these processes for good; their seats go when they have."""
        leaving = [seat for seat in seats if not seat.leaving]
        for seat in leaving:
            seat.leaving = True
            seat.forget_last_stop()
        self._supervisor.happen([seat.name for seat in leaving], Kind.STOP)
        for seat in leaving:
            self.see_off(seat)

    def surplus(self, job: Job) -> list[Seat]:
        """Give the seats beyond the wanted number, the highest first."""
        return self.of(job.name)[self.wanted(job) :][::-1]

    def see_off(self, seat: Seat) -> None:
        """Let a seat go that is to go, if it has come to rest."""
        if seat.leaving and seat.at_rest:
            # Not in the middle of the event that was its last.
            self._supervisor.loop.at((seat.name, "clear"), now(), partial(self._clear, seat))

    def _clear(self, seat: Seat) -> None:
        supervisor = self._supervisor
        if not seat.leaving or not seat.at_rest or not supervisor.sits(seat):
            return  # it was called back, and may have been sent away once more
        self._seats.remove(seat)
        supervisor.loop.cancel(seat.name)
        supervisor.precedence.forget(seat)
        supervisor.recycling.forget(seat)
        supervisor.log.forget(seat.name)
        seatlock.remove(supervisor.config.state_dir, seat.name)
        self._board.release(seat.page_number)
        _log.info("%s is gone", seat.name)
        supervisor.wake_waiting()

    def sort(self) -> None:
        """Put the seats in the order of the file, what has left it last."""
        self._seats.sort(job.name for job in self._supervisor.config.jobs)

    # --- by hand -------------------------------------------------------------------------------

    def scale(self, counts: Mapping[str, int]) -> tuple[list[Seat], list[Seat]]:
        """Give jobs as many processes as wished; the others are never touched.

        Returns who comes and who goes. Raises: UsageError, ControlError; nothing is done then.
        """
        jobs = {job.name: job for job in self._supervisor.config.jobs}
        growth = sum(max(0, count - len(self.of(name))) for name, count in counts.items())
        total = len(self._seats.by_name) + growth
        if total > PAGES:
            raise ControlError(f"{total} processes in all; at most {PAGES} for all jobs")
        coming: list[Seat] = []
        going: list[Seat] = []
        for name, count in counts.items():
            job = jobs[name]
            if count == job.processes:
                self.scaled.pop(name, None)
            else:
                self.scaled[name] = count
            _log.info("%s: scaled to %d (file: %d)", name, count, job.processes)
            going += self.surplus(job)
            hired = self.hire(job)
            for seat in hired:
                seat.wanted = True
            coming += hired
        self.sort()
        self._supervisor.happen([seat.name for seat in coming], Kind.START)
        self.dismiss(going)
        return coming, going

    def quiet(self, seats: Iterable[Seat], *, everything: bool) -> None:
        """Have these take nothing new; with `everything` also what comes later."""
        self.all_quiet = self.all_quiet or everything
        for seat in seats:
            if not seat.quiet and seat.job.type not in DEAF_TYPES:
                seat.quiet = True
                orders.quiet(seat)
        self._note_quiet_jobs()

    def resume(self, seats: Iterable[Seat], *, everything: bool) -> None:
        """Let these take new work again."""
        self.all_quiet = False
        if everything:
            self._quiet_jobs.clear()
        for seat in seats:
            if seat.quiet:
                seat.quiet = False
                seat.resumed_at = now()
                orders.resume(seat)
        self._note_quiet_jobs()

    def _note_quiet_jobs(self) -> None:
        """Note which jobs are quiet as a whole: their new processes are born so."""
        for job in self._supervisor.config.jobs:
            seats = self.of(job.name)
            if seats and all(seat.quiet for seat in seats):
                self._quiet_jobs.add(job.name)
            elif seats:
                self._quiet_jobs.discard(job.name)

    def _is_quiet(self, job: Job) -> bool:
        return job.type not in DEAF_TYPES and (self.all_quiet or job.name in self._quiet_jobs)

    def forget(self, name: str) -> None:
        """Forget what was changed of a job that is no longer in the file."""
        self.scaled.pop(name, None)
        self._quiet_jobs.discard(name)

    def rows(self, names: Iterable[str]) -> list[shapes.JobStatus]:
        """Give the lines of `status` about whole jobs."""
        asked = set(names)
        return [
            {
                "name": job.name,
                "processes": self.wanted(job),
                "file": job.processes,
                "quiet": self._is_quiet(job),
                "stopped": [seat.name for seat in self.of(job.name) if not seat.wanted],
            }
            for job in self._supervisor.config.jobs
            if job.name in asked
        ]


def read_counts(request: protocol.Request, jobs: Iterable[str]) -> dict[str, int]:
    """Read `{"jobs": {"orders": 4}}`. Raises: UsageError, NoSuchJob."""
    found = request.get("jobs")
    if not isinstance(found, dict) or not found:
        raise UsageError('jobs must be an object of numbers, like {"orders": 4}')
    selection.select(list(found), dict.fromkeys(jobs, ()))
    for name, count in found.items():
        if name not in jobs:
            raise UsageError(
                f"scale takes the name of one job, without patterns: not {name[:80]!a}"
            )
        if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= PAGES:
            raise UsageError(f"{name}: a number of processes is expected, 0 to {PAGES}")
    return dict(found)

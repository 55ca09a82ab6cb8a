"""The reload: check, plan, apply, and take back what did not get READY.

Between any two steps the supervisor goes round its loop as ever; nothing here waits. What needs no
new process is applied at once and together, then the jobs that need one are rolled, one job after
the other. A job whose new form fails goes back to its old one, whole, and the others go on.

    begin ─► Examination ─► plan ─► _Application: live, removed, added ─► roll job by job ─► report
                 │ wrong: nothing is changed                 a failure: that job goes back

Runs in: supervisor.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from supervisor import protocol, reload
from supervisor.arrivals import Arrivals, complaint
from supervisor.board import PAGES
from supervisor.config import Config, Job
from supervisor.errors import ConfigError, ControlError, Problem
from supervisor.examination import Examination, Finding
from supervisor.loop import now
from supervisor.reload import Change, Plan
from supervisor.seat import Seat
from supervisor.states import Goal, Kind, State

if TYPE_CHECKING:
    # The Supervisor has one; at run time the import would be a circle. For the shapes see there.
    from supervisor.shapes import ReloadFailure, ReloadReport, ReloadStep
    from supervisor.supervisor import Supervisor

Answer = Callable[["ReloadReport"], None]

_log = logging.getLogger("supervisor")


class Reloading:
    """The reloads of a supervisor, of which there is one at a time."""

    def __init__(self, supervisor: Supervisor, detached_log: Path | None) -> None:
        """`detached_log`: where a daemon logs whose file names no `log_file`."""
        self._supervisor = supervisor
        self._detached_log = detached_log
        self._examination: Examination | None = None
        self._is_under_way = False
        self._once_more = False
        self.generation = 1

    def begin(self, answer: Answer, *, dry_run: bool = False) -> None:
        """Check the file, and apply what has changed unless it is a `dry_run`.

        `answer` gets the report when all has come about.
        Raises: ControlError while another reload is under way, or without a process to check in.
        """
        if self._is_under_way:
            raise ControlError("a reload is under way; ask again when it is over")
        try:
            self._examination = Examination(
                self._supervisor.loop,
                self._supervisor.config,
                self._detached_log,
                partial(self._found, answer, dry_run),
            )
        except OSError as error:
            words = f"no process to check the configuration in: {error.strerror}"
            raise ControlError(words) from None
        self._is_under_way = True
        _log.info("checking %s", self._supervisor.config.path)

    def hang_up(self) -> None:
        """Reload as SIGHUP asks for it: whoever sent it reads the log."""
        if self._is_under_way:
            self._once_more = True
            _log.warning("SIGHUP: a reload is under way; another one follows it")
            return
        try:
            self.begin(lambda _report: None)
        except ControlError as error:
            _log.error("SIGHUP: %s; nothing was changed", error)

    def cancel(self) -> None:
        """Break off a check: everything stops."""
        if self._examination is not None:
            self._examination.fail("was broken off, as the supervisor stops")

    def _found(self, answer: Answer, dry_run: bool, finding: Finding) -> None:
        self._examination = None
        supervisor = self._supervisor
        if finding.config is None:
            self._refuse(answer, finding.problems)
            return
        plan = reload.plan(supervisor.config, finding.config)
        if dry_run:
            self._end(answer, {"applied": False, "jobs": shapes(plan), "errors": []})
            return
        application = _Application(supervisor, finding.config, plan, partial(self._done, answer))
        try:
            application.prepare()
        except ConfigError as error:
            supervisor.close_unused_logs()
            self._refuse(answer, error.problems)
            return
        self.generation += 1
        supervisor.outside.reloading()
        for problem in finding.config.warnings:
            _log.warning("%s", problem)
        for step in plan.steps:
            if step.change is not Change.UNCHANGED:
                fields = f" ({', '.join(step.fields)})" if step.fields else ""
                _log.info("reload: %s: %s%s", step.name, step.change.value, fields)
        application.begin()

    def _refuse(self, answer: Answer, problems: Iterable[Problem]) -> None:
        shown = list(problems)
        _log.error("the configuration was not reloaded, nothing was changed")
        for problem in shown:
            _log.error("%s", problem)
        errors = [protocol.problem(one) for one in shown]
        self._end(answer, {"applied": False, "jobs": [], "errors": errors})

    def _done(self, answer: Answer, report: ReloadReport) -> None:
        failed = report.get("failed", [])
        for one in failed:
            _log.error("reload: %s: %s", one["name"], one["why"])
        words = "reloaded" if not failed else "reloaded, but for what is said above"
        _log.info("%s, generation %d", words, self.generation)
        self._supervisor.outside.reloaded()
        self._end(answer, report)

    def _end(self, answer: Answer, report: ReloadReport) -> None:
        self._is_under_way = False
        answer(report)
        if self._once_more and not self._supervisor.stopping:
            self._once_more = False
            self.hang_up()


def shapes(plan: Plan) -> list[ReloadStep]:
    """Give a plan as `reload --json` shows it."""
    return [
        {"name": step.name, "change": step.change.value, "fields": list(step.fields)}
        for step in plan.steps
    ]


class _Application:
    """One reload that is being applied."""

    def __init__(
        self,
        supervisor: Supervisor,
        read: Config,
        plan: Plan,
        done: Callable[[ReloadReport], None],
    ) -> None:
        self._supervisor = supervisor
        self._target = reload.merged(supervisor.config, read)
        self._plan = plan
        self._done = done
        self._old = {job.name: job for job in supervisor.config.jobs}
        self._new = {job.name: job for job in self._target.jobs}
        self._to_roll = deque(plan.names(Change.RESTART))
        self._hired: list[Seat] = []
        self._arrivals = Arrivals(self._is_over)
        self._leaving: list[Seat] = []
        self._failed: dict[str, str] = {}

    def prepare(self) -> None:
        """See whether it can be applied at all. Raises: ConfigError; nothing is changed then."""
        supervisor = self._supervisor
        there = len(supervisor.seats)
        growth = sum(
            max(0, supervisor.crew.wanted(job) - len(supervisor.crew.of(job.name)))
            for job in self._target.jobs
        )
        if there + growth > PAGES:
            words = f"{there + growth} processes at once; at most {PAGES}; reload in two steps"
            raise ConfigError(Problem(str(self._target.path), 0, "", "", words))
        for job in self._target.jobs:
            if job != self._old.get(job.name):
                supervisor.open_log_of(job)

    def begin(self) -> None:
        """Apply all that needs no new process of a job that runs; then roll the others."""
        supervisor, crew = self._supervisor, self._supervisor.crew
        rolled = set(self._to_roll)
        forms = [
            reload.live_form(self._old[job.name], job) if job.name in rolled else job
            for job in self._target.jobs
        ]
        supervisor.take_over(replace(self._target, jobs=tuple(forms)))
        for form in forms:
            for seat in supervisor.seats_of(form.name):
                supervisor.assign(seat, form)
        removed = self._plan.names(Change.REMOVED)
        for name in removed:
            crew.forget(name)
        going = [crew.of(name) for name in removed] + [crew.surplus(form) for form in forms]
        self._send_away(list(chain.from_iterable(going)))
        settled = [form for form in forms if form.name not in rolled]
        for form in settled:
            supervisor.route_log_of(form)
        self._call_in(*settled)
        supervisor.changed()
        self._next_job()

    def _send_away(self, seats: list[Seat]) -> None:
        self._leaving += seats
        self._supervisor.crew.dismiss(seats)

    def _call_in(self, *jobs: Job) -> None:
        """Fill what jobs lack, after their settings are those that they keep."""
        if self._supervisor.stopping:
            return  # nobody would stop who comes now
        crew = self._supervisor.crew
        hired = [seat for job in jobs for seat in crew.hire(job) if seat.wanted]
        crew.sort()
        self._hired += hired
        self._arrivals.add(hired)
        self._supervisor.happen([seat.name for seat in hired], Kind.START)

    # --- one job after the other -----------------------------------------------------------------

    def _next_job(self) -> None:
        if self._to_roll and not self._supervisor.stopping:
            name = self._to_roll.popleft()
            self._supervisor.route_log_of(self._new[name])
            self._roll(name)
        else:
            self._supervisor.when(self._is_settled, self._finish)

    def _roll(self, name: str) -> None:
        """Give every process of the job its new form; also those that came meanwhile."""
        new = self._new[name]
        seats = [seat for seat in self._supervisor.crew.of(name) if seat.job is not new]
        if not seats:
            self._keep(new)
            return
        self._supervisor.rolling.roll(seats, partial(self._turn, new), partial(self._rolled, name))

    def _turn(self, form: Job, seat: Seat) -> bool:
        """Have the seat filled in this form; one that is stopped only takes note of it."""
        seat.next_job = form
        if seat.at_rest or (seat.status.held and seat.status.state is State.STOPPED):
            seat.take_over()
            self._supervisor.precedence.changed()
            return False
        if seat.status.goal is Goal.DOWN:
            return True  # somebody stops it just now; it takes note when it is gone
        return self._supervisor.rolling.restart(seat)

    def _rolled(self, name: str, failed: Seat | None, _untouched: int) -> None:
        if failed is None:
            self._roll(name)
        elif self._supervisor.stopping:
            self._next_job()
        else:
            self._go_back(name, failed)

    def _keep(self, job: Job) -> None:
        self._supervisor.put_job(job)
        self._call_in(job)
        self._next_job()

    # --- a job whose new form failed -------------------------------------------------------------

    def _go_back(self, name: str, failed: Seat) -> None:
        supervisor, new = self._supervisor, self._new[name]
        old = reload.going_back(supervisor.config, self._old[name])
        why = complaint(failed)
        self._failed[name] = f"{why}; back on its old settings"
        _log.error("reload: %s; %s goes back to its old settings", why, name)
        supervisor.route_log_of(old)
        supervisor.put_job(old)
        changed = []
        for seat in supervisor.seats_of(name):
            if seat.job is new or seat.next_job is new:
                changed.append(seat)
            else:
                supervisor.assign(seat, old)
        self._send_away(supervisor.crew.surplus(old))
        self._turn_back(old, [seat for seat in changed if not seat.leaving])

    def _turn_back(self, old: Job, seats: list[Seat]) -> None:
        """Bring these back, one by one; one that fails even so does not keep the next."""

        def turned(failed: Seat | None, untouched: int) -> None:
            if failed is not None and untouched and not self._supervisor.stopping:
                self._turn_back(old, seats[-untouched:])
            else:
                self._call_in(old)
                self._next_job()

        self._supervisor.rolling.roll(seats, partial(self._turn, old), turned)

    # --- the end ---------------------------------------------------------------------------------

    def _is_settled(self) -> bool:
        if self._supervisor.stopping:
            return True
        sits = self._supervisor.sits
        while self._leaving and not (self._leaving[-1].leaving and sits(self._leaving[-1])):
            self._leaving.pop()  # gone, or called back: it is not looked at again
        if self._leaving:
            return False
        return self._arrivals.are_over()

    def _is_over(self, seat: Seat) -> bool:
        supervisor = self._supervisor
        return seat.settled or not supervisor.sits(seat) or supervisor.precedence.is_stalled(seat)

    def _finish(self) -> None:
        supervisor = self._supervisor
        for seat in self._hired:
            is_wanted = supervisor.sits(seat) and not seat.leaving and not seat.at_rest
            waits = seat.status.held and not seat.waits_in_vain
            if is_wanted and not waits and not seat.ready(now()):
                self._failed.setdefault(seat.job.name, self._arrivals.complaint(seat))
        if supervisor.stopping:
            self._failed.setdefault(reload.MASTER, "the supervisor stops; broken off")
        supervisor.close_unused_logs()
        failed: list[ReloadFailure] = [
            {"name": name, "why": why} for name, why in self._failed.items()
        ]
        self._done({"applied": True, "jobs": shapes(self._plan), "errors": [], "failed": failed})

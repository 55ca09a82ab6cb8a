"""The story: boot, start every job, answer what happens, drain, leave.

One thread, one wait, no connection, no HTTP, no user code. Everything that happens comes out of
the loop as a call of one handler here; a handler feeds an event to the state machine of one seat
(`states.step`) and does what it asks. Nothing here waits.

    Supervisor.run ─► _boot ─► loop.turn … ─► _farewell
                                   │
      a pidfd, a report line, a deadline, a signal, a verb ─► happen_to(seat, event)
                                                                 step → status, actions → _act
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor import (
    __version__,
    bytecode,
    cgroups,
    descendants,
    gaps,
    kernel,
    orders,
    passage,
    pidfile,
    protocol,
    remains,
    seatlock,
    signals,
)
from supervisor.board import Board
from supervisor.burial import Burial
from supervisor.capture import Capture
from supervisor.config import Config, Job
from supervisor.control import ControlServer
from supervisor.crew import Crew
from supervisor.errors import ConfigError, Problem, SupervisorError
from supervisor.followers import Followers
from supervisor.logs import Log
from supervisor.loop import READ, Loop, now, on_the_second
from supervisor.nursery import Nursery
from supervisor.outside import Outside
from supervisor.pidfile import PidFile
from supervisor.precedence import Precedence
from supervisor.preload import PreloadError, freeze, modules, preload
from supervisor.probe import probe, search_path
from supervisor.process import Exit
from supervisor.recycling import Recycling
from supervisor.rehearsal import rehearse
from supervisor.reloading import Reloading
from supervisor.rolling import Rolling
from supervisor.seat import TAIL_LINES, Seat, Seats, policy_of, timestamp
from supervisor.shutdown import Shutdown
from supervisor.stacks import StackDumps
from supervisor.states import Action, Cause, Event, Kind, State, Status, revised, step
from supervisor.verbs import verbs
from supervisor.vigil import Vigil

if TYPE_CHECKING:
    # Only for the reader: see `shapes`.
    from supervisor import shapes

_log = logging.getLogger("supervisor")

PROBE_S: Final = 60.0
EVENTS: Final = 1000
EXACT_HEARTBEAT_S: Final = 5.0
"""Below this a hang is looked for to the moment, above it together with others once a second."""


def run(config: Config, early: signals.Early, *, ready_fd: int | None = None) -> int:
    """Be the supervisor until it is told to stop; returns the exit code of the process.

    `ready_fd`, where there is one, gets `ready` once every required job is. `early` holds the
    signals that come before the loop takes them.
    Raises: EarlyStop, AlreadyRunning, ConfigError, or SupervisorError about the two folders,
    before anything was started.
    """
    try:
        locks = _take_locks(config)
    except OSError as error:
        folders = f"run_dir {config.run_dir} and state_dir {config.state_dir}"
        what = f"{error.filename or folders}: {error.strerror}"
        raise SupervisorError(
            f"{what}; its user must be able to write {folders}: set them in [supervisor]"
        ) from None
    try:
        with bytecode.kept_in(config.state_dir):
            problems = probe(config, PROBE_S)
        if problems:
            raise ConfigError(*problems)
        return Supervisor(config, ready_fd).run(early)
    finally:
        for lock in reversed(locks):
            lock.leave()


def _take_locks(config: Config) -> list[PidFile]:
    seats = seatlock.folder(config.state_dir)
    for folder in (config.run_dir, config.state_dir, seats):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (group := _group(config)) is not None:
        passage.for_group(config.run_dir, group)
    taken: list[PidFile] = []
    try:
        for path in (pidfile.of_run_dir(config), pidfile.of_state_dir(config)):
            lock = PidFile(path)
            lock.take()
            taken.append(lock)
    except BaseException:
        for lock in taken:
            lock.leave()
        raise
    return taken


def _group(config: Config) -> int | None:
    return None if config.socket_group is None else config.socket_group.gid


class Supervisor:
    """The parent of all jobs of one configuration."""

    def __init__(self, config: Config, ready_fd: int | None) -> None:
        self._run_by(config)
        self.loop = Loop()
        self._seats = Seats()
        self.seats = self._seats.by_name
        self.events: deque[shapes.Event] = deque(maxlen=EVENTS)
        self.followers = Followers()
        self.started_at = now()
        self._waiting: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        self._inbox: deque[tuple[Seat, Event, Exit | None]] = deque()
        self._is_at_work = False
        self.shutdown = Shutdown(self, self._seats)
        self.rolling = Rolling(self)
        self.recycling = Recycling(self)
        is_daemon = ready_fd is not None
        default_log = config.state_dir / f"{config.name}.log" if is_daemon else None
        self.reloading = Reloading(self, default_log)
        self.outside = Outside(config, self.loop, self._seats, ready_fd)
        self.precedence = Precedence(self.loop, self._seats, self)

    def run(self, early: signals.Early) -> int:
        """Boot, go round the loop until everything has been stopped, and leave."""
        self._boot(early)
        try:
            while not self.shutdown.is_over():
                self.loop.turn()
        except BaseException:
            _log.critical("the supervisor fails; its children drain and leave", exc_info=True)
            self.log.flush()
            raise
        return self._farewell()

    # --- boot --------------------------------------------------------------------------------

    def _boot(self, early: signals.Early) -> None:
        config = self.config
        kernel.adopt_orphans()
        kernel.keep_spare()
        # What a handler publishes goes by the same file; set once, for all children.
        os.environ["SUPERVISOR_CONF"] = str(config.path)
        self._instance = remains.instance(config.state_dir)
        self.crew = Crew(self, self._seats, Board(descendants.board_name(self._instance)))
        self._open_log()
        self._hire()
        for problem in config.warnings:
            _log.warning("%s", problem)
        self._preload()
        self._wakeup = signals.Wakeup()
        early.check()
        self.loop.watch(self._wakeup.fileno(), READ, lambda _mask: self._on_signals())
        socket_path = protocol.socket_path(config.run_dir, config.name)
        allowed = {0, os.getuid()}
        self._control = ControlServer(
            self.loop, socket_path, config.socket_mode, verbs(self), allowed, _group(config)
        )
        self.vigil = Vigil(self.config.state_dir, self._instance, self.loop, self._on_remnants)
        for job in config.jobs:
            self.crew.hire(job)
        # What an earlier master left comes to its end before its seat is filled again.
        self.vigil.begin()
        _log.info("starting %d daemon job(s), %d process(es)", len(config.jobs), len(self.seats))
        self.outside.watch()
        rehearse()
        gaps.fill()
        for seat in self.precedence.in_order(self.seats.values()):
            if not seat.predecessors:
                self.happen_to(seat, Kind.START)
        self.outside.changed()

    def _open_log(self) -> None:
        config = self.config
        origin, section = config.origin("log_file"), "supervisor"
        try:
            self.log = Log.open(
                config.log_file,
                config.log_max_bytes,
                config.log_backups,
                text=config.log_format == "text",
                level=config.log_level,
            )
        except OSError as error:
            words = f"{error.filename}: {error.strerror}; make its folder, or correct the path"
            raise ConfigError(Problem(*origin, section, "log_file", words)) from None
        for job in config.jobs:
            self.open_log_of(job)
            self.route_log_of(job)
        self.log.attach(self.loop)
        self.log.on_lines = self.followers.lines
        self.log.install()
        self._capture = Capture(self.loop, self.log)
        self.stacks = StackDumps(self.loop, self._capture)

    def open_log_of(self, job: Job) -> None:
        """Open the log file of a job, if it has one. Raises: ConfigError."""
        if job.log_file is None:
            return
        try:
            self.log.open_file(job.log_file, job.log_max_bytes, job.log_backups)
        except OSError as error:
            words = f"{error.filename}: {error.strerror}; make its folder, or correct the path"
            raise ConfigError(job.problem("log_file", words)) from None

    def route_log_of(self, job: Job) -> None:
        """Let the processes of a job that come from now on log where it says."""
        self.log.limit(job.name, job.log_rate)
        self.log.route(job.name, job.log_file, job.log_max_bytes, job.log_backups)

    def close_unused_logs(self) -> None:
        """Close the log files that no job has any more, and forget who has left the file."""
        names = {job.name for job in self.config.jobs}
        self.log.forget_routes(names)
        self.log.close_unused()

    def _hire(self) -> None:
        self._tree = cgroups.delegated()
        self._nursery = Nursery(
            self.config, self._instance, self.loop, self._capture, self._seats, self, self._tree
        )
        self._burial = Burial(
            self._instance, self.loop, self._capture, self._seats, self._on_gone, self._tree
        )

    def _preload(self) -> None:
        # Set here once, so that every child finds its handlers; the master imports none of them.
        sys.path[:] = search_path(self.config.pythonpath)
        try:
            preload(modules(self.config))
        except PreloadError as error:
            file, line = self.config.origin("preload")
            raise ConfigError(Problem(file, line, "supervisor", "preload", str(error))) from None
        freeze()

    def wanted(self, job: str) -> int:
        """Give how many processes a job is to have; 0 for one that does not run here."""
        found = self._job_named.get(job)
        return 0 if found is None else self.crew.wanted(found)

    def remnants_of(self, slot: str) -> set[int]:
        """Give who of an earlier master still sits in a slot."""
        return self.vigil.holds(slot)

    def _on_remnants(self, slot: str, pids: set[int]) -> None:
        seat = self.seats.get(slot)
        if seat is None:
            return
        waited, seat.predecessors = bool(seat.predecessors), pids
        if waited and not pids and seat.wanted and not self.stopping:
            self.happen_to(seat, Kind.START)
        self.precedence.changed()
        self.wake_waiting()

    # --- one event of one seat ---------------------------------------------------------------

    def happen(self, names: Iterable[str], kind: Kind, *, window_s: float | None = None) -> None:
        """Feed the same event to several seats: the way of the verbs.

        A seat that an earlier master's process still holds is started when that one is gone,
        unless it was stopped meanwhile. `window_s` caps the drain of a stop.
        """
        for seat in self.precedence.in_order(self.seats[name] for name in names):
            seat.wanted = kind is not Kind.STOP
            if not seat.predecessors:
                given = None if window_s is None else min(seat.policy.stop_timeout, window_s)
                self.happen_to(seat, kind, window_s=given)
        self.wake_waiting()

    def happen_to(
        self,
        seat: Seat,
        kind: Kind,
        *,
        how: Exit | None = None,
        window_s: float | None = None,
        why: str = "",
    ) -> None:
        """Take in one event; it is answered when those before it are.

        What the machine asks for can itself make something happen (a fork fails, a program is
        ready at once), and each event sees the world that the one before it has left.
        """
        code, number = (how.code, how.signal) if how is not None else (None, None)
        lacked = how is not None and how.out_of_memory
        event = Event(kind, now(), code, number, _chance(), window_s, why, out_of_memory=lacked)
        self._inbox.append((seat, event, how))
        if self._is_at_work:
            return
        self._is_at_work = True
        try:
            while self._inbox:
                self._advance(*self._inbox.popleft())
        finally:
            self._is_at_work = False

    def _advance(self, seat: Seat, event: Event, how: Exit | None) -> None:
        """Advance a seat by one event, then do what the machine asks."""
        if event.kind is Kind.EXIT or not seat.status.alive:
            seat.take_over()
        before = seat.status
        event = self.precedence.gate(seat, event)
        seat.status, actions = step(seat.policy, before, event)
        after = seat.status
        if how is not None:
            self._record_death(seat, how, before)
        for action in actions:
            self._act(seat, before.state, action)
        self._set_alarms(seat)
        if after.state is not before.state:
            if after.state is not State.STARTING:  # told when its pid is known
                self._note_transition(seat, before.state, after.state)
            self._after_change(seat)
        self.crew.see_off(seat)
        if after.held and after.why != before.why:
            fields = {"job": seat.job.name, "slot": seat.number}
            _log.info("%s: %s", seat.name, after.why, extra=fields)
            self.wake_waiting()

    def _act(self, seat: Seat, before: State, action: Action) -> None:
        match action:
            case Action.SPAWN:
                seat.spawned_from = before
                self._nursery.want(seat)
            case Action.ASK_TO_STOP:
                orders.stop(seat)
            case Action.ASK_TO_HURRY:
                orders.hurry(seat)
            case Action.DUMP_STACKS:
                orders.dump_stacks(seat)
            case Action.KILL:
                orders.kill(seat)

    def on_spawned(self, seat: Seat) -> None:
        """Note the start of a process, now that it has a pid."""
        seat.log_mark = self.log.mark(seat.name)
        self._note_transition(seat, seat.spawned_from, State.STARTING)
        self.precedence.changed()

    def on_complaint(self, seat: Seat, words: str) -> None:
        """Note why a process cannot do its work though it runs, or that it can again."""
        if words != seat.complaint:
            seat.complaint = words
            self.precedence.changed()
            self.wake_waiting()
            self.outside.changed()

    def _set_alarms(self, seat: Seat) -> None:
        deadline = seat.status.deadline
        if deadline is None:
            self.loop.cancel(seat.name)
        else:
            self.loop.at(seat.name, deadline, partial(self.happen_to, seat, Kind.DEADLINE))

    def _note_transition(self, seat: Seat, before: State, after: State) -> None:
        """Log and keep a transition: one line each, from this one place."""
        pid = seat.process.pid if seat.process is not None else None
        why = seat.status.why
        level = logging.INFO
        if after is State.FATAL:
            level = logging.ERROR
        elif after is State.BACKOFF:
            level = logging.WARNING
            wait = max(0.0, (seat.status.deadline or 0.0) - now())
            why = f"{why}, next start in {wait:.1f}s"
        fields = {"job": seat.job.name, "slot": seat.number, "child": pid}
        _log.log(level, "%s %s -> %s: %s", seat.name, before.name, after.name, why, extra=fields)
        event: shapes.Event = {
            "at": timestamp(),
            "name": seat.name,
            "from": before.name,
            "to": after.name,
            "why": why,
            "pid": pid,
        }
        self.events.append(event)
        self.followers.event(event)

    def _after_change(self, seat: Seat) -> None:
        if seat.status.state in (State.STOPPED, State.EXITED, State.FATAL) and not self.stopping:
            seatlock.leave(self.config.state_dir, seat.name)
        if seat.status.state is State.RUNNING:
            seat.fallen = ()
            self.watch(seat)
        if seat.status.state is State.FATAL and self.precedence.is_needed(seat):
            self.outside.fatal(seat)
        if seat.status.state is State.FATAL and seat.job.on_fatal == "exit" and not self.stopping:
            _log.error("%s is FATAL and on_fatal = exit: draining everything", seat.name)
            self.shutdown.begin(exit_code=1)
        self.precedence.changed()
        self.wake_waiting()
        self.outside.changed()

    # --- heartbeat ---------------------------------------------------------------------------

    def watch_heartbeat(self, seat: Seat) -> None:
        """Look at the board when the process would be overdue, and not before."""
        if not seat.is_watched or seat.status.state is not State.RUNNING:
            return  # one that drains has its own deadline
        timeout = seat.job.heartbeat_timeout
        overdue_at = seat.overdue_at()
        if overdue_at is not None and overdue_at <= now():
            _log.error(
                "%s: no heartbeat for %.1fs (heartbeat_timeout %gs), its stacks follow",
                seat.name,
                now() - overdue_at + timeout,
                timeout,
            )
            self.happen_to(seat, Kind.HUNG)
            return
        look_again = now() + timeout if overdue_at is None else overdue_at
        if timeout >= EXACT_HEARTBEAT_S:
            look_again = on_the_second(look_again)
        self.loop.at((seat.name, "beat"), look_again, partial(self.watch_heartbeat, seat))

    # --- death -------------------------------------------------------------------------------

    def on_death(self, seat: Seat) -> None:
        """See a dead process off; `_on_gone` follows when nothing of it is left."""
        if self._burial.begin(seat):
            self.loop.cancel((seat.name, "beat"))
            self._nursery.forget(seat)

    def _on_gone(self, seat: Seat, how: Exit) -> None:
        self.happen_to(seat, Kind.EXIT, how=how)

    def _record_death(self, seat: Seat, how: Exit, life: Status) -> None:
        last_words = self.log.tail(seat.name, TAIL_LINES, seat.log_mark)
        death, cause = seat.remember(how, life, now(), last_words), seat.status.cause
        name = f"{seat.job.kind} job {seat.job.name}"
        fields = {"job": seat.job.name, "slot": seat.number, "cause": death.cause}
        is_ours = cause in (Cause.ASKED, Cause.RECYCLED) and how.signal == seat.job.stop_signal
        if how.code == 0 or is_ours:
            _log.info("%s stopped gracefully", name, extra=fields)
            return
        error = f"exit {how.code}" if how.signal is None else f"signal {death.signal}"
        error += ", by the kernel for want of memory" if how.out_of_memory else ""
        _log.warning("%s stopped with error: %s", name, error, extra=fields)

    # --- signals -----------------------------------------------------------------------------

    def _on_signals(self) -> None:
        arrived = self._wakeup.take()
        if signal.SIGHUP in arrived and not self.stopping:
            self.reloading.hang_up()
        if signal.SIGTSTP in arrived and not self.stopping:
            self.quiet(self.seats.values(), everything=True)
        if signal.SIGUSR1 in arrived:
            self.log.reopen()
            _log.info("reopened the log files")
        if arrived & {signal.SIGTERM, signal.SIGINT}:
            self.shutdown.press()
        if signal.SIGCHLD in arrived:
            self._burial.look()
            self.shutdown.look_for_orphans()

    def quiet(self, seats: Iterable[Seat], *, everything: bool) -> None:
        """Have these processes take nothing new."""
        self.crew.quiet(seats, everything=everything)
        self.outside.quiet(self.crew.all_quiet)
        _log.info("quiet: nothing new is taken" + ("" if everything else " by some"))

    def resume(self, seats: Iterable[Seat], *, everything: bool) -> None:
        """Undo `quiet`."""
        self.crew.resume(seats, everything=everything)
        self.outside.quiet(self.crew.all_quiet)
        _log.info("resumed")

    def stop_next(self) -> None:
        """Stop those whose turn it may be now."""
        self.shutdown.go_on()

    def _farewell(self) -> int:
        report = self.shutdown.report()
        _log.info("stopped: %d drained, %d abandoned", report["drained"], report["abandoned"])
        self.shutdown.answer()
        for seat in self.seats.values():
            seatlock.remove(self.config.state_dir, seat.name)
        self.log.catch_up()
        self.followers.end("the supervisor has stopped")
        if self._tree is not None:
            self._tree.remove()
        self._burial.close()
        self._control.close()
        self._capture.close()
        self.log.close()
        self._wakeup.close()
        self.loop.close()
        return self.shutdown.exit_code

    # --- what the outside is told ------------------------------------------------------------

    @property
    def stopping(self) -> bool:
        """Say whether the stop of everything has begun."""
        return self.shutdown.is_under_way

    @property
    def ready(self) -> bool:
        """Say whether every process of every required job is ready."""
        return self._seats.ready(now()) and not self.stopping

    @property
    def jobs(self) -> Mapping[str, list[str]]:
        """Give the names of the processes of each job, in the order of the file."""
        found: dict[str, list[str]] = {job.name: [] for job in self.config.jobs}
        for seat in self.seats.values():
            # What has left the file is there until it has drained.
            found.setdefault(seat.job.name, []).append(seat.name)
        return found

    def take_over(self, config: Config) -> None:
        """Run by this configuration from now on; what it means for the jobs is not done here."""
        if config.log_level != self.config.log_level:
            self.log.set_level(config.log_level)
            for seat in self.seats.values():
                orders.log_from(seat, config.log_level)
        self._run_by(config)

    def put_job(self, job: Job) -> None:
        """Have one job of the configuration in another form."""
        jobs = tuple(job if one.name == job.name else one for one in self.config.jobs)
        self._run_by(replace(self.config, jobs=jobs))

    def _run_by(self, config: Config) -> None:
        self.config = config
        self._job_named = {job.name: job for job in config.jobs}

    def seats_of(self, name: str) -> list[Seat]:
        """Give all seats of a job, those that are about to go as well."""
        return self._seats.of(name)

    def assign(self, seat: Seat, job: Job) -> None:
        """Have a seat under these settings at once, also while it waits for something."""
        seat.status = revised(seat.policy, policy_of(job), seat.status, now())
        seat.assign(job)
        self._set_alarms(seat)
        self.watch(seat)

    def watch(self, seat: Seat) -> None:
        """Look after a process that runs, by the settings that it has now."""
        self.watch_heartbeat(seat)
        if seat.status.state is State.RUNNING:
            self.recycling.watch(seat)

    def changed(self) -> None:
        """Look at everything that depends on what there is."""
        self.precedence.changed()
        self.outside.changed()
        self.wake_waiting()

    def sits(self, seat: Seat) -> bool:
        """Say whether the seat is one of ours still."""
        return self.seats.get(seat.name) is seat

    def when(self, condition: Callable[[], bool], then: Callable[[], None]) -> None:
        """Call `then` once, as soon as the condition holds; it is looked at after each change."""
        if condition():
            then()
        else:
            self._waiting.append((condition, then))

    def wake_waiting(self) -> None:
        """Look at every condition that somebody waits for."""
        waiting, self._waiting = self._waiting, []
        for condition, then in waiting:
            self.when(condition, then)

    def master_row(self) -> shapes.MasterStatus:
        """Give the line of `status` about the master itself."""
        return {
            "name": self.config.name,
            "pid": os.getpid(),
            "state": "STOPPING" if self.stopping else "RUNNING",
            "ready": self.ready,
            "uptime_s": round(now() - self.started_at, 3),
            "config": str(self.config.path),
            "version": __version__,
            "generation": self.reloading.generation,
            "log_lines_lost": self.log.lost,
        }


def _chance() -> float:
    """Give a number in [0, 1). From the kernel: `random` would load libcrypto into every fork."""
    return int.from_bytes(os.urandom(4)) / 2**32

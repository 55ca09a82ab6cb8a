"""The story: boot, start every job, answer what happens, drain, leave.

One thread, one wait, no connection, no HTTP, no user code. Everything that happens comes out of
the loop as a call of one handler here; a handler feeds an event to the state machine of one seat
(`states.step`) and does what it asks. Nothing here waits.

    Supervisor.run ─► _boot ─► loop.turn … ─► _farewell
                                   │
      a pidfd, a report line, a deadline, a signal, a verb ─► _happen(seat, event)
                                                                 step → status, actions → _act
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Final

import setproctitle

from supervisor import (
    __version__,
    child,
    daemonize,
    descendants,
    kernel,
    protocol,
    remains,
    seatlock,
    signals,
)
from supervisor.board import Board
from supervisor.capture import Capture
from supervisor.config import Config, Job
from supervisor.control import ControlServer
from supervisor.errors import ConfigError, ExitCode, Problem, SpawnError, configuration_fault
from supervisor.lines import Source
from supervisor.logs import Log
from supervisor.loop import READ, Loop, now, on_the_second
from supervisor.notify import Listener, Notifier
from supervisor.pidfile import PidFile
from supervisor.preload import PreloadError, freeze, modules, preload
from supervisor.probe import probe, search_path
from supervisor.process import Exit, Pipes, Prepared, Process, spawn
from supervisor.seat import Seat, policy_of, timestamp
from supervisor.slot import FALLEN, FAST, READY, STOP, Fallen, Slot
from supervisor.states import Action, Cause, Event, Goal, Kind, State, step
from supervisor.verbs import verbs

_log = logging.getLogger("supervisor")

PROBE_S: Final = 60.0
EVENTS: Final = 1000
BATCH: Final = 32
"""So many processes are forked in one go, at most; their pipes are open together."""

SAME_PRESS_S: Final = 0.1
"""Two stop signals so close together are one."""

EXACT_HEARTBEAT_S: Final = 5.0
"""Below this a hang is looked for to the moment, above it together with others once a second."""


def run(config: Config, *, ready_fd: int | None = None) -> int:
    """Be the supervisor until it is told to stop; returns the exit code of the process.

    `ready_fd`, where there is one, gets `ready` once every required job is.
    Raises: AlreadyRunning, ConfigError, before anything was started.
    """
    locks = _take_locks(config)
    try:
        problems = probe(config, PROBE_S)
        if problems:
            raise ConfigError(*problems)
        return Supervisor(config, ready_fd).run()
    finally:
        for lock in reversed(locks):
            lock.leave()


def _take_locks(config: Config) -> list[PidFile]:
    seats = seatlock.folder(config.state_dir)
    for folder in (config.run_dir, config.state_dir, seats):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    taken: list[PidFile] = []
    try:
        for path in (config.run_dir / f"{config.name}.pid", config.state_dir / "lock"):
            lock = PidFile(path)
            lock.take()
            taken.append(lock)
    except BaseException:
        for lock in taken:
            lock.leave()
        raise
    return taken


class Supervisor:
    """The parent of all jobs of one configuration."""

    def __init__(self, config: Config, ready_fd: int | None) -> None:
        self.config = config
        self.loop = Loop()
        self.seats: dict[str, Seat] = {}
        self.events: deque[protocol.Event] = deque(maxlen=EVENTS)
        self.started_at = now()
        self.stopping = False
        self._ready_fd = ready_fd
        self._was_ready = False
        self._exit_code = 0
        self._stop_by = 0.0
        self._stops_asked = 0
        self._deaf_until = 0.0
        self._orphans_told = False
        self._stop_replies: list[Callable[[], None]] = []
        self._waiting: list[tuple[Callable[[], bool], Callable[[], None]]] = []
        self._inbox: deque[tuple[Seat, Event, Exit | None]] = deque()
        self._is_at_work = False
        self._to_spawn: deque[Seat] = deque()
        self._remnants: dict[int, remains.Remnant] = {}
        self._seat_of_pid: dict[int, Seat] = {}
        self._listeners: dict[str, Listener] = {}
        self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._notifier = Notifier.from_environment()

    def run(self) -> int:
        """Boot, go round the loop until everything has been stopped, and leave."""
        self._boot()
        try:
            while not self._is_over():
                self.loop.turn()
        except BaseException:
            # What the log still holds back is what one wants to read after a crash.
            self.log.flush()
            raise
        return self._farewell()

    # --- boot --------------------------------------------------------------------------------

    def _boot(self) -> None:
        config = self.config
        self._show_title("starting")
        kernel.adopt_orphans()
        # Each process costs the master five descriptors; children get the old limit back.
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._nofile[1], self._nofile[1]))
        self._instance = remains.instance(config.state_dir)
        self._board = Board(descendants.board_name(self._instance))
        self._open_log()
        for problem in config.warnings:
            _log.warning("%s", problem)
        self._wakeup = signals.Wakeup()
        self.loop.watch(self._wakeup.fileno(), READ, lambda _mask: self._on_signals())
        socket_path = protocol.socket_path(config.run_dir, config.name)
        allowed = {0, os.getuid()}
        self._control = ControlServer(
            self.loop, socket_path, config.socket_mode, verbs(self), allowed
        )
        self._preload()
        for job in config.jobs:
            for number in range(job.processes):
                self._furnish(job, number)
        self._meet_remains()
        _log.info("starting %d daemon job(s), %d process(es)", len(config.jobs), len(self.seats))
        if self._notifier.watchdog_s:
            self._pat_watchdog()
        for seat in self.seats.values():
            if not seat.predecessors:
                self._happen(seat, Kind.START)
        self._have_told()

    def _open_log(self) -> None:
        config = self.config
        try:
            self.log = Log.open(
                config.log_file,
                config.log_max_bytes,
                config.log_backups,
                text=config.log_format == "text",
                level=config.log_level,
            )
            for job in config.jobs:
                if job.log_file is not None:
                    self.log.route(job.name, job.log_file, job.log_max_bytes, job.log_backups)
        except OSError as error:
            raise configuration_fault(config.path, f"cannot open a log_file: {error}") from None
        self.log.attach(self.loop)
        self.log.install()
        self._capture = Capture(self.loop, self.log)

    def _preload(self) -> None:
        # Set here once, so that every child finds its handlers; the master imports none of them.
        sys.path[:] = search_path(self.config.pythonpath)
        try:
            preload(modules(self.config))
        except PreloadError as error:
            file, line = self.config.origin("preload")
            raise ConfigError(Problem(file, line, "supervisor", "preload", str(error))) from None
        freeze()

    def _furnish(self, job: Job, number: int) -> None:
        _, page = self._board.allocate()
        seat = Seat(job, number, page, policy_of(job))
        self.seats[seat.name] = seat

    def _meet_remains(self) -> None:
        """Let what an earlier master left come to its end before its slot is filled again."""
        for remnant in remains.find(self.config.state_dir, self._instance):
            try:
                pidfd = os.pidfd_open(remnant.pid)
            except ProcessLookupError:
                continue
            seat = self.seats.get(remnant.slot)
            if seat is not None:
                seat.predecessors.add(remnant.pid)
            _log.warning("%s: waiting for pid %d, of an earlier master", remnant.slot, remnant.pid)
            self._remnants[pidfd] = remnant
            if not remnant.leader:
                remains.tell(remnant)
            self.loop.watch(pidfd, READ, partial(self._outlived, pidfd, remnant))
            self.loop.at(pidfd, now() + remnant.stop_timeout, partial(self._end_remnant, remnant))

    def _end_remnant(self, remnant: remains.Remnant) -> None:
        _log.warning("%s: killing pid %d, of an earlier master", remnant.slot, remnant.pid)
        remains.kill(remnant)

    def _outlived(self, pidfd: int, remnant: remains.Remnant, _mask: int) -> None:
        self.loop.unwatch(pidfd)
        self.loop.cancel(pidfd)
        del self._remnants[pidfd]
        os.close(pidfd)
        seat = self.seats.get(remnant.slot)
        if seat is None:
            return
        seat.predecessors.discard(remnant.pid)
        if not seat.predecessors and seat.wanted and not self.stopping:
            self._happen(seat, Kind.START)

    # --- one event of one seat ---------------------------------------------------------------

    def happen(self, names: Iterable[str], kind: Kind, *, window_s: float | None = None) -> None:
        """Feed the same event to several seats: the way of the verbs.

        A seat that an earlier master's process still holds is started when that one is gone,
        unless it was stopped meanwhile. `window_s` caps the drain of a stop.
        """
        for name in names:
            seat = self.seats[name]
            seat.wanted = kind is not Kind.STOP
            if not seat.predecessors:
                given = None if window_s is None else min(seat.policy.stop_timeout, window_s)
                self._happen(seat, kind, window_s=given)
        self._wake_waiting()

    def _happen(
        self,
        seat: Seat,
        kind: Kind,
        *,
        how: Exit | None = None,
        window_s: float | None = None,
    ) -> None:
        """Take in one event; it is answered when those before it are.

        What the machine asks for can itself make something happen (a fork fails, a program is
        ready at once), and each event sees the world that the one before it has left.
        """
        code, number = (how.code, how.signal) if how is not None else (None, None)
        event = Event(kind, now(), code, number, _chance(), window_s)
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
        before = seat.status
        seat.status, actions = step(seat.policy, before, event)
        after = seat.status
        if how is not None:
            self._record_death(seat, how, after.cause or Cause.EXITED)
        for action in actions:
            self._act(seat, before.state, action)
        self._set_alarms(seat)
        if after.state is not before.state:
            if after.state is not State.STARTING:  # told when its pid is known
                self._note_transition(seat, before.state, after.state)
            self._after_change(seat)

    def _act(self, seat: Seat, before: State, action: Action) -> None:
        match action:
            case Action.SPAWN:
                seat.spawned_from = before
                self._to_spawn.append(seat)
                self.loop.at("spawn", now(), self._spawn_waiting)
            case Action.ASK_TO_STOP:
                self._ask_to_stop(seat)
            case Action.ASK_TO_HURRY:
                self._ask_to_hurry(seat)
            case Action.DUMP_STACKS:
                self._dump_stacks(seat)
            case Action.KILL:
                self._kill(seat)

    def _set_alarms(self, seat: Seat) -> None:
        deadline = seat.status.deadline
        if deadline is None:
            self.loop.cancel(seat.name)
        else:
            self.loop.at(seat.name, deadline, partial(self._happen, seat, Kind.DEADLINE))

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
        self.events.append(
            {
                "at": timestamp(),
                "name": seat.name,
                "from": before.name,
                "to": after.name,
                "why": why,
                "pid": pid,
            }
        )

    def _after_change(self, seat: Seat) -> None:
        if seat.status.state is State.RUNNING:
            seat.fallen = ()
            self._watch_heartbeat(seat)
        if seat.status.state is State.FATAL and seat.job.required:
            words = f"{seat.name} is FATAL: {seat.status.why}"
            self._tell_starter(daemonize.last_word(ExitCode.FAILED, words))
        if seat.status.state is State.FATAL and seat.job.on_fatal == "exit" and not self.stopping:
            _log.error("%s is FATAL and on_fatal = exit: draining everything", seat.name)
            self.begin_stop(exit_code=1)
        self._wake_waiting()
        self._have_told()

    # --- spawn -------------------------------------------------------------------------------

    def _spawn_waiting(self) -> None:
        """Fork what is to be started, many at once: see `process.spawn`."""
        seats = [self._to_spawn.popleft() for _ in range(min(BATCH, len(self._to_spawn)))]
        if self._to_spawn:
            self.loop.at("spawn", now(), self._spawn_waiting)
        prepared: list[tuple[Seat, Prepared]] = []
        for seat in seats:
            if seat.status.state is not State.STARTING:
                # Somebody wanted it down before it was there to be told.
                self._happen(seat, Kind.EXIT)
                continue
            seat.incarnation += 1
            seat.page.forget_beat()
            seat.exit = None
            seat.forget_last_stop()
            try:
                prepared.append((seat, Prepared.make(partial(self._launch, seat))))
            except SpawnError as error:
                self._give_up(seat, error)
        spawned = spawn([one for _, one in prepared])
        for (seat, _), process in zip(prepared, spawned, strict=True):
            if isinstance(process, SpawnError):
                self._give_up(seat, process)
            else:
                self._welcome(seat, process)

    def _give_up(self, seat: Seat, error: SpawnError) -> None:
        seat.incarnation -= 1
        self._stop_listening(seat)
        _log.error("%s: %s", seat.name, error)
        self._happen(seat, Kind.NOT_SPAWNED)

    def _welcome(self, seat: Seat, process: Process) -> None:
        seat.process = process
        self._seat_of_pid[process.pid] = seat
        self.loop.watch(process.pidfd, READ, lambda _mask: self._on_death(seat))
        self._listen(seat, process)
        self._note_transition(seat, seat.spawned_from, State.STARTING)
        if seat.job.type == "program" and not seat.job.notify:
            self._happen(seat, Kind.READY)

    def _launch(self, seat: Seat, pipes: Pipes) -> tuple[child.Launch, Callable[[], int]]:
        """Say what the new process is to become. The work itself runs in the child."""
        job = seat.job
        is_program = job.type == "program"
        extra: dict[str, str] = {"SUPERVISOR_CONF": str(self.config.path)}
        if job.notify:
            extra["NOTIFY_SOCKET"] = str(self._listen_for(seat))
        control_fd, report_fd = pipes.control[0], pipes.report[1]
        launch = child.Launch(
            name=seat.name,
            title=seat.title,
            mark=f"{self._instance}/{seat.name}",
            parent=os.getpid(),
            stdout=pipes.stdout[1],
            stderr=pipes.stderr[1],
            keep=() if is_program else (control_fd, report_fd),
            state_dir=self.config.state_dir,
            stop_timeout=job.stop_timeout,
            death_signal=job.stop_signal if is_program else signal.SIGTERM,
            directory=job.directory,
            environment=partial(_environment, job, extra),
            nofile=self._nofile,
        )
        if is_program:
            return launch, partial(child.exec_program, job.command)
        slot = Slot(
            job=job,
            process=seat.number,
            incarnation=seat.incarnation,
            supervisor=self.config.name,
            instance=self._instance,
            state_dir=self.config.state_dir,
            page=seat.page,
            control_fd=control_fd,
            report_fd=report_fd,
            fallen=seat.fallen,
        )
        return launch, partial(child.work, slot)

    def _listen(self, seat: Seat, process: Process) -> None:
        for fd, stream in process.streams():
            source = Source(seat.job.kind, seat.job.name, seat.number, process.pid, stream)
            on_line = partial(self._on_report, seat) if stream == "report" else None
            self._capture.add(fd, source, on_line)

    def _listen_for(self, seat: Seat) -> Path:
        """Open the NOTIFY_SOCKET of a program that says itself when it is ready."""
        self._stop_listening(seat)
        listener = Listener(self.config.run_dir / f"{seat.name}.notify")
        self._listeners[seat.name] = listener
        self.loop.watch(listener.fileno(), READ, lambda _mask: self._on_notify(seat, listener))
        return listener.path

    def _stop_listening(self, seat: Seat) -> None:
        listener = self._listeners.pop(seat.name, None)
        if listener is not None:
            self.loop.unwatch(listener.fileno())
            listener.close()

    def _on_notify(self, seat: Seat, listener: Listener) -> None:
        if listener.take().get("READY") == "1":
            self._happen(seat, Kind.READY)

    def _on_report(self, seat: Seat, line: bytes) -> None:
        if line == READY:
            self._happen(seat, Kind.READY)

    # --- heartbeat ---------------------------------------------------------------------------

    def _watch_heartbeat(self, seat: Seat) -> None:
        """Look at the board when the process would be overdue, and not before."""
        if not seat.is_watched or not seat.status.alive or seat.process is None:
            return
        timeout = seat.job.heartbeat_timeout
        overdue_at = seat.overdue_at()
        if overdue_at is not None and overdue_at <= now():
            _log.error(
                "%s: no heartbeat for %.1fs (heartbeat_timeout %gs), its stacks follow",
                seat.name,
                now() - overdue_at + timeout,
                timeout,
            )
            self._happen(seat, Kind.HUNG)
            return
        look_again = now() + timeout if overdue_at is None else overdue_at
        if timeout >= EXACT_HEARTBEAT_S:
            look_again = on_the_second(look_again)
        self.loop.at((seat.name, "beat"), look_again, partial(self._watch_heartbeat, seat))

    # --- stop of one process -----------------------------------------------------------------

    def _ask_to_stop(self, seat: Seat) -> None:
        if seat.process is None or seat.exit is not None:
            descendants.signal_all(seat.leftovers, signal.SIGTERM)
            return
        if seat.flying_at_stop is None:
            seat.flying_at_stop = len(seat.page.suspects())
        reason = b"recycle" if seat.status.goal is Goal.UP else b"stop"
        seat.process.tell(STOP + b" " + reason)
        seat.process.signal(seat.job.stop_signal)
        # A stopped process keeps the signal pending until it goes on.
        seat.process.signal(signal.SIGCONT)

    def _ask_to_hurry(self, seat: Seat) -> None:
        if seat.process is not None and seat.exit is None:
            seat.process.tell(FAST)
        self._ask_to_stop(seat)

    def _dump_stacks(self, seat: Seat) -> None:
        # To a program SIGUSR2 may mean anything, or death.
        if seat.process is not None and seat.exit is None and seat.job.type != "program":
            seat.process.signal(signal.SIGUSR2)

    def _kill(self, seat: Seat) -> None:
        seat.killed = True
        if seat.process is None:
            return
        _log.warning("%s: killing pid %d (%s)", seat.name, seat.process.pid, seat.status.why)
        if seat.exit is None:
            seat.process.kill_group()
        else:
            descendants.signal_all(seat.leftovers, signal.SIGKILL)

    # --- death -------------------------------------------------------------------------------

    def _on_death(self, seat: Seat) -> None:
        """Reap a process, and see what it has left. Its pidfd has turned readable."""
        process = seat.process
        assert process is not None, "a pidfd is watched only while its process is there"
        how = process.reap()
        if how is None:
            return
        seat.exit = how
        self.loop.unwatch(process.pidfd)
        self.loop.cancel((seat.name, "beat"))
        self._stop_listening(seat)
        self._capture.finish(fd for fd, _ in process.streams())
        self._bury(seat)

    def _bury(self, seat: Seat) -> None:
        """End what the dead process has left; it counts as gone when all of that is.

        After a drained stop it is told first and killed at the deadline of the stop; after any
        other death it is killed at once, so that its successor meets no half of it.
        """
        living = descendants.reap_orphans(self._living_leaders())
        owners = {pid: other.name for pid, other in self._seat_of_pid.items()}
        left = {
            pid for pid in living if descendants.slot_of(pid, self._instance, owners) == seat.name
        }
        is_new = left - seat.leftovers
        seat.leftovers = left
        if not left:
            self._gone(seat)
        elif is_new:
            asked = seat.status.state is State.STOPPING and not seat.killed
            _log.info("%s: ending %d process(es) that it has left", seat.name, len(left))
            descendants.signal_all(is_new, signal.SIGTERM if asked else signal.SIGKILL)

    def _gone(self, seat: Seat) -> None:
        process, how = seat.process, seat.exit
        assert process is not None, "a seat is buried once"
        assert how is not None, "a seat is buried after its death"
        suspects = seat.page.suspects()
        del self._seat_of_pid[process.pid]
        process.close()
        seat.process = seat.exit = None
        seatlock.leave(self.config.state_dir, seat.name)
        self._account(seat, len(suspects))
        # A message that we have killed at the end of a stop has not killed anybody.
        was_asked = seat.status.doom in (Cause.ASKED, Cause.RECYCLED)
        self._mourn(seat, () if was_asked else suspects)
        self._happen(seat, Kind.EXIT, how=how)

    def _account(self, seat: Seat, abandoned: int) -> None:
        seat.drained = max(0, (seat.flying_at_stop or 0) - abandoned)
        seat.abandoned = abandoned
        seat.page.set_in_flight(0)

    def _mourn(self, seat: Seat, suspects: tuple[int, ...]) -> None:
        """Hand the leases of the dead on: to its successor, and to a sibling who can act now."""
        owner = f"{self._instance}/{seat.name}/{seat.incarnation}"
        fallen = Fallen(owner, suspects)
        seat.fallen = (*seat.fallen, fallen)
        for sibling in self.seats.values():
            is_able = sibling.status.state is State.RUNNING and sibling.process is not None
            if sibling.job is seat.job and sibling is not seat and is_able:
                assert sibling.process is not None, "checked the line before"
                if sibling.process.tell(FALLEN + b" " + fallen.encode()):
                    return

    def _record_death(self, seat: Seat, how: Exit, cause: Cause) -> None:
        death = seat.remember(how, cause, now())
        name = f"{seat.job.kind} job {seat.job.name}"
        fields = {"job": seat.job.name, "slot": seat.number, "cause": death.cause}
        is_ours = cause in (Cause.ASKED, Cause.RECYCLED) and how.signal == seat.job.stop_signal
        if how.code == 0 or is_ours:
            _log.info("%s stopped gracefully", name, extra=fields)
            return
        error = f"exit {how.code}" if how.signal is None else f"signal {death.signal}"
        _log.warning("%s stopped with error: %s", name, error, extra=fields)

    def _living_leaders(self) -> set[int]:
        return {pid for pid, seat in self._seat_of_pid.items() if seat.exit is None}

    # --- signals, and the stop of everything -------------------------------------------------

    def _on_signals(self) -> None:
        arrived = self._wakeup.take()
        for number in arrived & {signal.SIGHUP, signal.SIGTSTP}:
            _log.warning("%s is not in this release; nothing was changed", number.name)
        if signal.SIGUSR1 in arrived:
            self.log.reopen()
            _log.info("reopened the log files")
        if arrived & {signal.SIGTERM, signal.SIGINT} and now() >= self._deaf_until:
            # Who ends a whole group signals us twice (timeout(1), a shell): that is one wish.
            self._deaf_until = now() + SAME_PRESS_S
            self.press_stop()
        if signal.SIGCHLD in arrived:
            self._sweep()

    def _sweep(self) -> None:
        """Reap orphans that have died, and see whose burial can go on."""
        descendants.reap_orphans(self._living_leaders())
        for seat in list(self._seat_of_pid.values()):
            if seat.exit is not None:
                self._bury(seat)
        if self.stopping:
            self._end_orphans()

    def press_stop(self) -> None:
        """Stop everything: gracefully, at the second press fast, at the third by killing."""
        self._stops_asked += 1
        if self._stops_asked == 1:
            self.begin_stop()
            return
        self._exit_code = 1
        kind = Kind.FAST if self._stops_asked == 2 else Kind.KILL
        self._stop_by = min(self._stop_by, now() + (1.0 if kind is Kind.FAST else 0.0))
        _log.warning("asked to stop again: %s", "fast" if kind is Kind.FAST else "killing")
        for seat in self.seats.values():
            self._happen(seat, kind)
        self._end_others_in_time()

    def begin_stop(self, *, window_s: float | None = None, exit_code: int | None = None) -> None:
        """Ask every process to drain, all at once, within one shared deadline."""
        if exit_code is not None:
            self._exit_code = exit_code
        if self.stopping:
            self._stop_sooner(window_s)
            return
        self.stopping = True
        self._stops_asked = max(1, self._stops_asked)
        window = self.config.stop_timeout
        if window_s is not None:
            window = min(window, window_s)
        self._stop_by = now() + window
        self._notifier.send("STOPPING=1", "STATUS=draining")
        self._show_title("draining")
        _log.info("stopping: draining everything within %gs", window)
        for seat in self.seats.values():
            seat.forget_last_stop()
            given = min(seat.policy.stop_timeout, window)
            self._happen(seat, Kind.STOP, window_s=given)
        self._end_others_in_time()
        self._end_orphans()

    def _stop_sooner(self, window_s: float | None) -> None:
        """Take a second wish with a shorter time than what is left of the first one's."""
        if window_s is None or now() + window_s >= self._stop_by:
            return
        self._stop_by = now() + window_s
        _log.info("stopping: draining everything within %gs", window_s)
        for seat in self.seats.values():
            self._happen(seat, Kind.STOP, window_s=window_s)
        self._end_others_in_time()

    def _end_others_in_time(self) -> None:
        """Let the deadline of the stop hold for what belongs to no seat of ours as well."""
        for pidfd, remnant in self._remnants.items():
            self.loop.at(pidfd, self._stop_by, partial(self._end_remnant, remnant))
        if self._orphans_told:
            self.loop.at("orphans", self._stop_by, self._kill_orphans)

    def _end_orphans(self) -> None:
        """End the orphans that no job could be made answerable for, when all jobs are gone."""
        if self._seat_of_pid or not self.stopping:
            return
        orphans = descendants.reap_orphans(())
        if not orphans:
            return
        if not self._orphans_told:
            self._orphans_told = True
            descendants.signal_all(orphans, signal.SIGTERM)
            self.loop.at("orphans", self._stop_by, self._kill_orphans)

    def _kill_orphans(self) -> None:
        orphans = descendants.reap_orphans(())
        descendants.signal_all(orphans, signal.SIGKILL)
        if orphans:
            self.loop.at("orphans", now() + 1.0, self._kill_orphans)

    def _is_over(self) -> bool:
        if not self.stopping or self._seat_of_pid or self._remnants:
            return False
        if any(not seat.at_rest for seat in self.seats.values()):
            return False
        self._end_orphans()
        return not descendants.adopted(())

    @staticmethod
    def stop_report(seats: Iterable[Seat]) -> protocol.StopReport:
        """Add up what the last stop of these seats did to the items in flight."""
        seats = list(seats)
        return {
            "drained": sum(seat.drained for seat in seats),
            "abandoned": sum(seat.abandoned for seat in seats),
            "killed": [seat.name for seat in seats if seat.killed],
        }

    def on_stopped(self, reply: Callable[[], None]) -> None:
        """Call back with the stop's report ready, just before the master leaves."""
        self._stop_replies.append(reply)

    def _farewell(self) -> int:
        report = self.stop_report(self.seats.values())
        _log.info("stopped: %d drained, %d abandoned", report["drained"], report["abandoned"])
        for reply in self._stop_replies:
            reply()
        self._control.close()
        self._capture.close()
        self.log.close()
        self._wakeup.close()
        self.loop.close()
        return self._exit_code

    # --- what the outside is told ------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Say whether every process of every required job is ready."""
        return not self.stopping and all(
            seat.status.ready for seat in self.seats.values() if seat.job.required
        )

    @property
    def jobs(self) -> Mapping[str, list[str]]:
        """Give the names of the processes of each job, in the order of the file."""
        found: dict[str, list[str]] = {job.name: [] for job in self.config.jobs}
        for seat in self.seats.values():
            found[seat.job.name].append(seat.name)
        return found

    def when(self, condition: Callable[[], bool], then: Callable[[], None]) -> None:
        """Call `then` once, as soon as the condition holds; it is looked at after each change."""
        if condition():
            then()
        else:
            self._waiting.append((condition, then))

    def _wake_waiting(self) -> None:
        waiting, self._waiting = self._waiting, []
        for condition, then in waiting:
            self.when(condition, then)

    def _have_told(self) -> None:
        """Tell the outside at the end of this turn, once, however much has changed in it."""
        self.loop.at("outside", now(), self._tell_outside)

    def _tell_outside(self) -> None:
        if self.stopping:
            return
        if self.ready and not self._was_ready:
            self._was_ready = True
            self._show_title("ready")
            _log.info("ready: every required job is")
            self._notifier.send("READY=1")
            self._tell_starter(daemonize.READY)
        self._notifier.send(f"STATUS={self.summary()}")

    def _tell_starter(self, word: bytes) -> None:
        if self._ready_fd is not None:
            try:
                os.write(self._ready_fd, word)
            except BrokenPipeError:
                _log.warning("nobody waited for this supervisor to be ready")
            os.close(self._ready_fd)
            self._ready_fd = None

    def _show_title(self, state: str) -> None:
        title = f"supervisor: master [{self.config.name}] {self.config.path} ({state})"
        setproctitle.setproctitle(title)

    def summary(self) -> str:
        """Say in a few words how it goes, as STATUS= in `systemctl status`."""
        total = len(self.seats)
        ready = sum(seat.status.ready for seat in self.seats.values())
        trouble = [
            f"{seat.name} {seat.status.state.name}"
            for seat in self.seats.values()
            if seat.status.state in (State.BACKOFF, State.FATAL)
        ]
        return "; ".join([f"{ready} of {total} ready", *trouble[:3]])

    def master_row(self) -> protocol.MasterStatus:
        """Give the line of `status` about the master itself."""
        return {
            "name": self.config.name,
            "pid": os.getpid(),
            "state": "STOPPING" if self.stopping else "RUNNING",
            "ready": self.ready,
            "uptime_s": round(now() - self.started_at, 3),
            "config": str(self.config.path),
            "version": __version__,
            "generation": 1,
        }

    def _pat_watchdog(self) -> None:
        """Tell systemd that a turn of the loop came to its end; by deadline, not when idle.

        A third of the limit leaves room for two that come late. Source: sd_watchdog_enabled(3)
        """
        assert self._notifier.watchdog_s is not None, "armed only where systemd asked for it"
        self._notifier.send("WATCHDOG=1")
        self.loop.at("watchdog", now() + self._notifier.watchdog_s / 3, self._pat_watchdog)


def _chance() -> float:
    """Give a number in [0, 1). From the kernel: `random` would load libcrypto into every fork."""
    return int.from_bytes(os.urandom(4)) / 2**32


def _environment(job: Job, extra: Mapping[str, str]) -> dict[str, str]:
    """Put the environment of a job together, secrets included. Runs in: child."""
    return {**extra, **{key: value.reveal() for key, value in job.environment.items()}}

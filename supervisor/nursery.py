"""The nursery: how a seat gets its process, and how the master first hears of it.

Seats that are to be filled wait until the end of the turn and are forked in batches
(`process.spawn` says why). A new process is READY by its own word: a line on its report pipe, or
`READY=1` on the NOTIFY_SOCKET of a program that has one; another program is so at once.
Runs in: supervisor.
"""

from __future__ import annotations

import logging
import os
import resource
import signal
import time
from collections import deque
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Final, Protocol

from supervisor import cgroups, child, envfile, passage
from supervisor.capture import Capture
from supervisor.config import Config, Job
from supervisor.errors import SpawnError
from supervisor.lines import Source, escape
from supervisor.loop import READ, Loop, now
from supervisor.meters import Meters
from supervisor.notify import Listener
from supervisor.process import Pipes, Prepared, Process, spawn
from supervisor.seat import Seat, Seats
from supervisor.secret import mask
from supervisor.slot import OVERDUE, READY, UNREADY, Slot
from supervisor.states import Kind, State

BATCH: Final = 32
"""So many processes are forked in one go, at most; their pipes are open together."""

_LONGEST_COMPLAINT: Final = 500
"""Bytes of the words in which a process says why it is not ready."""

KEPT_FREE: Final = 128
"""So many descriptors no process gets: for clients of the control socket, logs, looks at /proc."""

_log = logging.getLogger("supervisor")


class Parent(Protocol):
    """What the nursery tells the supervisor."""

    def happen_to(self, seat: Seat, kind: Kind) -> None:
        """Feed an event to the seat."""

    def on_spawned(self, seat: Seat) -> None:
        """Take note of a process that has just been forked."""

    def on_complaint(self, seat: Seat, words: str) -> None:
        """Take note of why a process cannot do its work though it runs; nothing: it can again."""

    def on_death(self, seat: Seat) -> None:
        """See to a process whose pidfd is readable."""


class Nursery:
    """Fills seats with processes."""

    def __init__(
        self,
        config: Config,
        instance: str,
        loop: Loop,
        capture: Capture,
        seats: Seats,
        parent: Parent,
        tree: cgroups.Tree | None = None,
    ) -> None:
        self._config = config
        self._instance = instance
        self._loop = loop
        self._capture = capture
        self._seats = seats
        self._parent = parent
        self._tree = tree
        self._waiting: deque[Seat] = deque()
        self._shortage = ""
        self._listeners: dict[str, Listener] = {}
        self._outfit = child.make_outfit()
        self._meters = Meters()
        # Counted on from here, no process has the name of one under an earlier master, whose leases
        # it would take for its own.
        self._born_ns = time.time_ns()
        self._births = 0
        self._numbers: dict[str, int] = {}
        self._nofile = resource.getrlimit(resource.RLIMIT_NOFILE)
        # Each process costs the master five descriptors; children get the old limit back.
        resource.setrlimit(resource.RLIMIT_NOFILE, (self._nofile[1], self._nofile[1]))

    def want(self, seat: Seat) -> None:
        """Have the seat filled at the end of this turn of the loop."""
        self._waiting.append(seat)
        self._loop.soon(self, self._fill)

    def forget(self, seat: Seat) -> None:
        """Listen no more for the READY of a process that is gone."""
        listener = self._listeners.pop(seat.name, None)
        if listener is not None:
            self._loop.unwatch(listener.fileno())
            listener.close()

    def _fill(self) -> None:
        """Fork what is to be started, many at once."""
        seats = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        if self._waiting:
            self._loop.at(self, now(), self._fill)
        prepared: list[tuple[Seat, Prepared]] = []
        for seat in seats:
            if seat.status.state is not State.STARTING:
                # Somebody wanted it down before it was there to be told.
                self._parent.happen_to(seat, Kind.EXIT)
                continue
            seat.incarnation += 1
            seat.page.forget_beat()
            seat.exit = None
            seat.complaint = ""
            seat.forget_last_stop()
            try:
                prepared.append((seat, self._prepare(seat)))
            except SpawnError as error:
                self._give_up(seat, error)
        spawned = spawn([one for _, one in prepared])
        for (seat, _), process in zip(prepared, spawned, strict=True):
            if isinstance(process, SpawnError):
                self._give_up(seat, process)
            else:
                self._welcome(seat, process)

    def _prepare(self, seat: Seat) -> Prepared:
        """Open what a process needs, unless nothing would be left for who wants to stop one.

        Raises: SpawnError.
        """
        prepared = Prepared.make(partial(self._launch, seat))
        limit = self._nofile[1]
        # A new descriptor has the lowest number that is free.
        if limit >= 8 * KEPT_FREE and prepared.pipes.highest() >= limit - KEPT_FREE:
            prepared.pipes.close_ends_of_child()
            prepared.pipes.close_ends_of_master()
            raise SpawnError(
                f"cannot open the pipes of a new process: {KEPT_FREE} of the {limit} descriptors "
                "are kept for the control socket and the logs; raise the limit (LimitNOFILE)"
            )
        return prepared

    def _give_up(self, seat: Seat, error: SpawnError) -> None:
        seat.incarnation -= 1
        self.forget(seat)
        if str(error) != self._shortage:
            # Once: the same shortage strikes each start until it is over.
            self._shortage = str(error)
            _log.error("%s: %s; tried again until it works", seat.name, error)
        self._parent.happen_to(seat, Kind.NOT_SPAWNED)

    def _welcome(self, seat: Seat, process: Process) -> None:
        try:
            self._loop.watch(process.pidfd, READ, lambda _mask: self._parent.on_death(seat))
            self._listen(seat, process)
        except OSError as error:  # of epoll_ctl(2): no memory, or too much is watched already
            self._loop.unwatch(process.pidfd)
            self._capture.finish(fd for fd, _ in process.streams())
            process.abandon()
            self._give_up(seat, SpawnError(f"cannot watch a new process: {error.strerror}"))
            return
        if self._shortage:
            self._shortage = ""
            _log.info("new processes can be started again")
        seat.process = process
        self._seats.by_pid[process.pid] = seat
        self._parent.on_spawned(seat)
        if seat.job.type == "program" and not seat.job.notify:
            self._parent.happen_to(seat, Kind.READY)

    def _launch(self, seat: Seat, pipes: Pipes) -> tuple[child.Launch, Callable[[], int]]:
        """Say what the new process is to become. The work itself runs in the child."""
        job = seat.job
        is_program = job.type == "program"
        extra: dict[str, str] = {}
        if job.notify:
            extra["NOTIFY_SOCKET"] = str(self._listen_for(seat))
        has_own = bool(job.environment or job.env_file or extra)
        control_fd, report_fd = pipes.control[0], pipes.report[1]
        rate_fd = self._meters.of(job)
        wanted = (control_fd, report_fd, rate_fd)
        self._births += 1
        seat.cgroup = None if self._tree is None else self._tree.make(job.name, seat.number)
        launch = child.Launch(
            name=seat.name,
            title=seat.title,
            mark=f"{self._instance}/{seat.name}",
            parent=os.getpid(),
            stdout=pipes.stdout[1],
            stderr=pipes.stderr[1],
            outfit=self._outfit,
            keep=() if is_program else tuple(fd for fd in wanted if fd >= 0),
            state_dir=self._config.state_dir,
            stop_timeout=job.stop_timeout,
            death_signal=job.stop_signal if is_program else signal.SIGTERM,
            directory=job.directory,
            environment=partial(_environment, job, extra) if has_own else None,
            nofile=(job.limit_nofile, job.limit_nofile) if job.limit_nofile else self._nofile,
            rights=job.rights,
            inherit_environment=job.inherit_environment,
            cgroup=seat.cgroup,
        )
        if is_program:
            return launch, partial(child.exec_program, job.command)
        # The child's own logger: made here once, and found by every child.
        logging.getLogger(job.name)
        slot = Slot(
            job=job,
            process=seat.number,
            incarnation=self._born_ns + self._births,
            supervisor=self._config.name,
            instance=self._instance,
            state_dir=self._config.state_dir,
            page=seat.page,
            control_fd=control_fd,
            report_fd=report_fd,
            fallen=seat.fallen,
            quiet=seat.quiet,
            rate_fd=rate_fd,
        )
        seat.owner = slot.owner
        return launch, partial(child.work, slot)

    def _listen(self, seat: Seat, process: Process) -> None:
        for fd, stream in process.streams():
            source = Source(seat.job.kind, seat.job.name, seat.number, process.pid, stream)
            on_line = partial(self._on_report, seat) if stream == "report" else None
            self._capture.add(fd, source, on_line)

    def _listen_for(self, seat: Seat) -> Path:
        """Open the NOTIFY_SOCKET of a program that says itself when it is ready."""
        self.forget(seat)
        # Not the name of the seat: the path would be too long for a socket where that of the
        # control socket just fits.
        number = self._numbers.setdefault(seat.name, len(self._numbers))
        listener = Listener(self._config.run_dir / f"n{number}")
        self._listeners[seat.name] = listener
        self._loop.watch(listener.fileno(), READ, lambda _mask: self._on_notify(seat, listener))
        if seat.job.user is not None and os.geteuid() == 0:
            passage.for_program(self._config.run_dir, listener.path, seat.job.user.uid)
        return listener.path

    def _on_notify(self, seat: Seat, listener: Listener) -> None:
        if listener.take().get("READY") == "1":
            self._parent.happen_to(seat, Kind.READY)

    def _on_report(self, seat: Seat, line: bytes) -> None:
        if line == READY:
            self._parent.happen_to(seat, Kind.READY)
            self._parent.on_complaint(seat, "")
        elif line.startswith(UNREADY + b" "):
            words = line.removeprefix(UNREADY + b" ")[:_LONGEST_COMPLAINT]
            self._parent.on_complaint(seat, escape(mask(words.decode(errors="replace"))))
            # It runs and will work when it can: a new process in its place could do no more.
            self._parent.happen_to(seat, Kind.READY)
        elif line == OVERDUE:
            self._parent.happen_to(seat, Kind.OVERDUE)


def _environment(job: Job, extra: Mapping[str, str]) -> dict[str, str]:
    """Put the environment of a job together, secrets included. Runs in: child."""
    given = {} if job.env_file is None else envfile.read(job.env_file)
    return {**extra, **given, **{key: value.reveal() for key, value in job.environment.items()}}

"""A child of the supervisor without the supervisor: fork, build a Slot by hand, run the runtime.

For tests of `workers` only. The process is a real one, with its control and report pipes and its
page on a board; the test plays the master.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from supervisor import signals, slot
from supervisor.board import Board, Page
from supervisor.config import Job
from supervisor.meters import Meters
from supervisor.secret import Secret
from supervisor.slot import Fallen, Slot
from supervisor.values import Topic
from tests.helpers.eventually import PATIENCE_S

_BOARD = Board()
"""One for the whole run: its mapping lives as long as any page is looked at."""


def queue_job(url: str, handler: str, topics: Iterable[str] = ("t",), **more: Any) -> Job:
    """Give a job of type queue, as the configuration would."""
    return Job(
        name=more.pop("name", "orders"),
        kind="daemon",
        type="queue",
        url=Secret((url,)),
        handler=handler,
        topics=tuple(Topic(topic, 1) for topic in topics),
        **more,
    )


@dataclass
class Forked:
    """One living process, seen from its master's side."""

    pid: int
    pidfd: int
    control: int
    report: int
    page: Page
    slot: Slot
    beside: list[Forked] = field(repr=False)
    """All of its nursery, this one too."""
    lines: list[bytes] = field(default_factory=list)
    buffer: bytes = b""
    has_ended: bool = False
    status: int | None = None

    def order(self, line: bytes) -> None:
        """Send one line down the control pipe."""
        os.write(self.control, line + b"\n")

    def cut(self) -> None:
        """Be the master that dies: close the control pipe."""
        os.close(self.control)
        self.control = -1

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal to exactly this process."""
        signal.pidfd_send_signal(self.pidfd, number)

    def stop(self) -> int:
        """Ask it to stop and wait for its end; give the exit code."""
        self.order(b"stop stop")
        return self.wait()

    def until(self, fact: Callable[[], object], patience_s: float = PATIENCE_S) -> None:
        """Read reports until something has become true; fails after `patience_s`.

        A master reads those of all its children: one that is not read stands still in the middle of
        its work, as soon as its pipe is full.
        """
        deadline = time.monotonic() + patience_s
        while not fact():
            assert time.monotonic() < deadline, f"it did not happen; reported: {self.lines}"
            open_ones = {one.report: one for one in self.beside if not one.has_ended}
            ready, _, _ = select.select(open_ones, [], [], 0.02)
            for report in ready:
                open_ones[report].read(0)

    def until_ready(self) -> None:
        """Wait for the line `ready`."""
        self.until(lambda: slot.READY in self.lines)

    def read(self, timeout_s: float) -> None:
        """Take what the report pipe holds, or wait so long for it."""
        ready, _, _ = select.select([self.report], [], [], timeout_s)
        if not ready:
            return
        data = os.read(self.report, 65536)
        self.has_ended = not data
        *lines, self.buffer = (self.buffer + data).split(b"\n")
        self.lines.extend(lines)

    def logged(self) -> list[dict[str, Any]]:
        """Give the log records that came up the report pipe."""
        return [json.loads(line[4:]) for line in self.lines if line.startswith(b"log ")]

    def said(self, text: str) -> bool:
        """Tell whether a log record has this in its message."""
        return any(text in str(record["message"]) for record in self.logged())

    def gone(self) -> bool:
        """Tell whether it has ended, and if so reap it, after what it left in its session."""
        if self.status is None and os.waitid(
            os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT
        ):
            self._reap()
        return self.status is not None

    def _reap(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.status = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def wait(self, patience_s: float = PATIENCE_S) -> int:
        """Wait for its end, reading its reports; give the exit code (negative: the signal)."""
        self.until(self.gone, patience_s)
        self.read(0)
        assert self.status is not None
        return self.status

    def end(self) -> None:
        """Kill it if it lives, and close everything."""
        if not self.gone():
            self.kill()
            self._reap()
        self.has_ended = True
        for fd in (self.pidfd, self.control, self.report):
            if fd >= 0:
                os.close(fd)


class Nursery:
    """Forks processes and ends each of them; a context manager."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._pages: dict[tuple[str, int], tuple[int, Page]] = {}
        self._born: dict[tuple[str, int], int] = {}
        self._meters = Meters()
        self.all: list[Forked] = []

    def __enter__(self) -> Nursery:
        """Give the nursery itself."""
        return self

    def __exit__(self, *exc: object) -> None:
        """End all that still lives."""
        for one in self.all:
            one.end()
        for number, _ in self._pages.values():
            _BOARD.release(number)
        self._meters.close()

    def page(self, job: Job, process: int) -> Page:
        """Give the page of a slot, which all its processes share."""
        key = (job.name, process)
        if key not in self._pages:
            self._pages[key] = _BOARD.allocate()
        return self._pages[key][1]

    def fork(
        self,
        job: Job,
        process: int = 0,
        fallen: tuple[Fallen, ...] = (),
        main: Callable[[Slot], int] | None = None,
        stdout: int | None = None,
    ) -> Forked:
        """Start one process of the job; `main` is the runtime's unless said otherwise.

        `stdout` becomes the standard output and the standard error of the process.
        """
        key = (job.name, process)
        self._born[key] = self._born.get(key, 0) + 1
        page = self.page(job, process)
        page.forget_beat()
        control_r, control_w = os.pipe2(os.O_CLOEXEC)
        report_r, report_w = os.pipe2(os.O_CLOEXEC)
        seat = Slot(
            job=job,
            process=process,
            incarnation=self._born[key],
            supervisor="test",
            instance="instance",
            state_dir=self._state_dir,
            page=page,
            control_fd=control_r,
            report_fd=report_w,
            fallen=fallen,
            rate_fd=self._meters.of(job),
        )
        with signals.blocked():
            pid = os.fork()
            if pid == 0:
                for fd in (1, 2) if stdout is not None else ():
                    os.dup2(stdout or 0, fd)
                self._be_born(seat, main)
        os.close(control_r)
        os.close(report_w)
        one = Forked(pid, os.pidfd_open(pid), control_w, report_r, page, seat, self.all)
        self.all.append(one)
        return one

    def replace(self, victim: Forked, heir: Forked) -> Forked:
        """Kill a process with -9 and do what its master would: tell a sibling, start the next."""
        victim.kill()
        victim.until(victim.gone)
        return self.succeed(victim, heir)

    def succeed(self, victim: Forked, heir: Forked) -> Forked:
        """Do for one that is dead what its master would."""
        fallen = Fallen(victim.slot.owner, victim.page.suspects())
        heir.order(slot.FALLEN + b" " + fallen.encode())
        return self.fork(victim.slot.job, victim.slot.process, (fallen,))

    def _be_born(self, seat: Slot, main: Callable[[Slot], int] | None) -> None:
        code = 70
        try:
            signals.reset_in_child()
            os.setsid()
            lowest = 3
            kept = {seat.control_fd, seat.report_fd, _BOARD.fd, seat.rate_fd} - {-1}
            for fd in sorted(kept):
                os.closerange(lowest, fd)
                lowest = fd + 1
            os.closerange(lowest, 4096)
            gc.enable()
            # Not pytest's: those write into files that were closed with the rest.
            sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
            sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
            logging.getLogger().setLevel(logging.INFO)
            signals.unblock()
            if main is None:
                from workers import runtime

                main = runtime.main
            code = main(seat)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

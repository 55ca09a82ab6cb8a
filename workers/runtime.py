"""What a child does between the fork and its end: `main(slot)` gives its exit code.

Called by the supervisor's child.py, after everything of the master was undone, for every job that
runs Python. It builds the context, listens to the master, runs the job by its type, and turns what
came of it into an exit code. It opens nothing at import, since the master imports it before it
forks.
"""

from __future__ import annotations

import atexit
import faulthandler
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import bytecode
from supervisor.board import Page, Phase
from supervisor.config import Job
from supervisor.errors import ConfigError, ExitCode, SupervisorError
from supervisor.slot import Slot
from workers import handlers
from workers.base import Context, Pulse, Worker
from workers.connections import Connections
from workers.lifeline import Lifeline
from workers.report import Report, take_over_logging
from workers.stop import StopToken
from workers.tally import Tally
from workers.title import Title

_EXIT_HOOKS_S: Final = 1.0

_STDERR: Final = 2
_SETUP: Final = Phase.SETUP
_WORKING: Final = Phase.WORKING
"""Looked up once: the enum would have each child touch six pages for it."""

_STOP: Final = StopToken()
"""Made at import, in the master: no child pays for its events and locks again."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Child:
    """Everything that a job of any type needs around it."""

    slot: Slot
    stop: StopToken
    lifeline: Lifeline
    report: Report
    title: Title
    connections: Connections

    def context(self, pulse: Pulse | None = None) -> Context:
        """Build the context of this process; reads the secrets among its options."""
        job = self.slot.job
        return Context(
            name=self.slot.name,
            process=self.slot.process,
            options={key: secret.reveal() for key, secret in job.options.items()},
            logger=logging.getLogger(job.name),
            stop=self.stop,
            pulse=pulse,
            tally=Tally(self.slot.page.tallies),
            connections=self.connections,
        )

    def ready(self) -> None:
        """Tell the master, and `ps`, that the work can begin."""
        bytecode.look_beside_sources(self.slot.state_dir)
        self.slot.page.enter(_WORKING)
        self.show_lull()
        self.report.ready()

    def show_lull(self) -> None:
        """Show in `ps` whether new work is taken."""
        state = "quiet" if self.stop.quiet else "ready"
        self.title.show(state, time.monotonic(), at_once=True)


def main(slot: Slot, work: Callable[[Child], int] | None = None) -> int:
    """Do the job of this slot until it ends or is asked to. Gives the exit code of the process.

    `work` takes the place of what the job's type would do. Runs in: child, main thread.
    """
    child = _begin(slot)
    code = _outcome(child, work or _runner(slot.job.type))
    _run_exit_hooks(child.lifeline, code)
    return code


def rehearse(times: int) -> None:
    """Make what each child makes at its start, and drop it. Runs in: supervisor (`rehearsal`)."""
    job = Job(name="rehearsal", kind="worker", type="worker")
    slot = Slot(job, 0, 0, "", "", Path("/nowhere"), Page.alone(), control_fd=-1, report_fd=-1)
    for _ in range(times):
        slot.page.enter(_SETUP)
        child = _furnished(slot, Report(-1))
        child.context(Pulse(slot.page)).wait(0)
        child.report.ready()
        child.lifeline.let_go()
        handlers.refuse_lazy(rehearse, slot.name)
        handlers.load("os:getpid")
    # Its table of 13 KB is made here once, and not in each child.
    faulthandler.register(signal.SIGUSR2, _STDERR)
    faulthandler.unregister(signal.SIGUSR2)


def _begin(slot: Slot) -> Child:
    slot.page.enter(_SETUP)
    bytecode.look_in(slot.state_dir)
    report = Report(slot.report_fd)
    take_over_logging(report)
    os.register_at_fork(after_in_child=report.forget)
    # All threads, and not chained: a dump is a look at a live process, and must not end it.
    faulthandler.register(signal.SIGUSR2, _STDERR, True, False)
    if slot.quiet:
        _STOP.lull(quiet=True)
    child = _furnished(slot, report)
    child.lifeline.listen()
    return child


def _furnished(slot: Slot, report: Report) -> Child:
    """Make what the work has around it; nothing of it acts yet."""
    job = slot.job
    lifeline = Lifeline(slot.control_fd, _STOP, job.stop_timeout, job.stop_signal)
    connections = Connections(job.pool_size, job.io_timeout, slot.name)
    return Child(slot, _STOP, lifeline, report, Title(job.kind, slot.name), connections)


def _outcome(child: Child, work: Callable[[Child], int]) -> int:
    """Run the job; the one edge at which every exception becomes a line and an exit code."""
    try:
        return work(child)
    except SystemExit as end:
        return _code_of(end)
    except ConfigError as error:
        _log.error("%s", error)
        return ExitCode.CONFIG
    except SupervisorError as error:
        _log.error("%s", error)
        return ExitCode.CONFIG if error.code is ExitCode.CONFIG else ExitCode.FAILED
    except KeyboardInterrupt:
        return ExitCode.FAILED
    except BaseException as error:
        _log.exception(
            "%s stopped with error: %s",
            child.slot.name,
            error if error.args else type(error).__name__,
        )
        return ExitCode.FAILED


def _runner(kind: str) -> Callable[[Child], int]:
    """Load the code of a type only where it is needed: a `worker` needs no database."""
    if kind == "worker":
        return run_worker
    if kind == "scheduled":
        from workers import scheduled

        return scheduled.run
    from workers import consumer

    return consumer.run


def _code_of(end: SystemExit) -> int:
    if end.code is None:
        return ExitCode.OK
    if isinstance(end.code, int):
        return end.code & 0xFF
    _log.error("%s", end.code)
    return ExitCode.FAILED


def run_worker(child: Child) -> int:
    """Run a `worker`: a function of the context, or a Worker from setup to close."""
    job = child.slot.job
    name = job.target or ""
    child.stop.on_lull(child.show_lull)
    context = child.context(Pulse(child.slot.page))
    target = handlers.load(name)
    if isinstance(target, type) and issubclass(target, Worker):
        return _run_class(child, context, target())
    if isinstance(target, type) or not callable(target):
        raise TypeError(f"{name} is neither a function nor a subclass of workers.Worker")
    handlers.refuse_lazy(target, name)
    child.ready()
    handlers.refuse_undone(target(context), name)
    return ExitCode.OK


def _run_class(child: Child, context: Context, worker: Worker) -> int:
    name = child.slot.job.target or ""
    handlers.refuse_lazy(worker.run, name)
    worker.name = worker.name or child.slot.name
    worker.context = context
    try:
        worker.setup()
        child.stop.on_stop(lambda: _in_thread("stop", _guarded(worker.stop)))
        child.ready()
        health = _Health(child, worker)
        handlers.refuse_undone(worker.run(context), name)  # type: ignore[func-returns-value]  # it should give nothing, and may
    finally:
        child.slot.page.enter(Phase.CLOSING)
        worker.close()
    return ExitCode.FAILED if health.failed else ExitCode.OK


class _Health:
    """Asks a worker for its health, and ends its process when the answer is no."""

    def __init__(self, child: Child, worker: Worker) -> None:
        self._child = child
        self._check: Callable[[], object] = worker.health_check
        self.failed = False
        if type(worker).health_check is not Worker.health_check:
            _in_thread("health", self._watch)

    def _watch(self) -> None:
        job = self._child.slot.job
        while not self._child.stop.wait(job.health_interval):
            reason = self._ask()
            if reason and not self._child.stop.stopping:
                _log.error("health check failed, the process leaves: %s", reason)
                self.failed = True
                self._child.stop.set("unhealthy")
                self._child.lifeline.expire(job.stop_timeout, ExitCode.FAILED)

    def _ask(self) -> str:
        try:
            healthy = self._check()
        except Exception as error:
            _log.exception("health_check raised an error")
            return f"{type(error).__name__}: {error}"
        # None is what a function without a return statement gives: it did not object.
        return "" if healthy or healthy is None else f"health_check returned {healthy!r}"


def _guarded(call: Callable[[], object]) -> Callable[[], None]:
    def run() -> None:
        try:
            call()
        except Exception:
            _log.exception("stop() raised an error")

    return run


def _in_thread(name: str, call: Callable[[], None]) -> None:
    threading.Thread(target=call, name=name, daemon=True).start()


def _run_exit_hooks(lifeline: Lifeline, code: int) -> None:
    """Run what the job registered with atexit; the master's hooks were cleared at the fork."""
    if atexit._ncallbacks():
        lifeline.expire(_EXIT_HOOKS_S, code)
        atexit._run_exitfuncs()

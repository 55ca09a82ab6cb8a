"""Jobs of type `scheduled`: a handler that is called each `interval`, in a process of its own.

The next slot is the last slot plus the interval, never the end of a run plus the interval, so the
rhythm does not drift; slots that passed while a run took its time are left out, so nothing piles
up. A run that fails is logged and counted, and the next one comes in its turn.
"""

from __future__ import annotations

import os
import random
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

from supervisor.board import Phase
from supervisor.errors import ExitCode
from workers.base import FOR_EVER_NS, Context
from workers.handlers import Handler, end_fork, refuse_undone

if TYPE_CHECKING:
    from workers.runtime import Child


@dataclass(frozen=True, slots=True)
class Rhythm:
    """When the slots are. Times are CLOCK_MONOTONIC seconds."""

    interval_s: float
    at_start: bool

    def first(self, now: float) -> float:
        """Give the first slot of a process that is ready now."""
        return now if self.at_start else now + self.interval_s

    def after(self, slot: float, now: float) -> float:
        """Give the first slot after both the last one and now."""
        passed = max(0.0, now - slot) // self.interval_s
        return slot + (passed + 1) * self.interval_s


def run(child: Child) -> int:
    """Call the handler in its slots until the process has to stop. Gives the exit code.

    Runs in: child, main thread.
    """
    job = child.slot.job
    context = child.context()
    handler = Handler(job.handler or "", "execute")
    handler.open(context)
    child.ready()
    try:
        _keep_rhythm(child, handler, context)
    finally:
        child.slot.page.enter(Phase.CLOSING)
        handler.close(context)
    return ExitCode.OK


def _keep_rhythm(child: Child, handler: Handler, context: Context) -> None:
    job, page = child.slot.job, child.slot.page
    rhythm = Rhythm(job.interval, job.run_at_start)
    # Neither the wait for a slot nor a run is watched: a run may take as long as it takes.
    page.park(FOR_EVER_NS)
    slot = rhythm.first(time.monotonic())
    child.stop.on_lull(partial(_show, child))
    while not child.stop.wait(slot + random.uniform(0, job.jitter) - time.monotonic()):
        if not child.stop.quiet:
            _run_once(child, handler, context.at(_wall_time(slot)))
        slot = rhythm.after(slot, time.monotonic())


def _wall_time(slot: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=slot - time.monotonic())


def _run_once(child: Child, handler: Handler, context: Context) -> None:
    page = child.slot.page
    page.set_in_flight(1)
    _show(child, busy=True)
    begun, pid = time.monotonic(), os.getpid()
    try:
        refuse_undone(handler.call(context), handler.target)
        end_fork(pid, None)
        child.connections.keep()
        page.count(done=1)
    except Exception as error:
        end_fork(pid, error)
        child.connections.undo()
        page.count(failed=1)
        context.logger.exception("run failed: %s", error if error.args else type(error).__name__)
    page.observe([time.monotonic() - begun])
    page.progressed(time.monotonic_ns())
    page.set_in_flight(0)
    _show(child, busy=False)


def _show(child: Child, *, busy: bool | None = None) -> None:
    counts = child.slot.page.read()
    if busy is None:
        busy = counts.in_flight > 0
    waiting = "quiet" if child.stop.quiet else "waiting"
    state = "busy 1" if busy else waiting
    child.title.show(
        f"{state}, done {counts.done}, failed {counts.failed}", time.monotonic(), at_once=True
    )

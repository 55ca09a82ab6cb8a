"""The bounded pool of threads in which handlers run.

Own code, not concurrent.futures: what is not started can be taken back, a thread notes on the
board which delivery it works on before it begins, and nothing waits for a stuck handler at exit.
The pool knows no source and decides nothing; the consume loop puts tasks in and takes results out.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from supervisor.board import Page
from workers.base import Reject, Retry, Skip, Unavailable
from workers.handlers import end_fork
from workers.sources.source import Delivery

_RUN: Final = 64
_SLICE_S: Final = 0.01
"""A thread stays at a lane for so many calls or so long, whichever is over first; then it looks
after those that wait."""

_log = logging.getLogger(__name__)


class Doorbell:
    """Wakes the work loop out of its wait, from any thread, with few system calls."""

    def __init__(self) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._rung = False

    def ring(self) -> None:
        """Make the descriptor readable, unless it is already."""
        if not self._rung:
            self._rung = True
            os.eventfd_write(self.fd, 1)

    def answer(self) -> None:
        """Make it silent; to be called before looking for what is new, so that none is missed."""
        if not self._rung:
            return
        try:
            os.eventfd_read(self.fd)
        except BlockingIOError:
            return  # the ringer is between its two steps; its write wakes us again
        # In this order: a ring between the two steps is one wakeup too many, never too few.
        self._rung = False


class Task:
    """One delivery on its way through the pool; afterwards, what came of it.

    `until` (CLOCK_MONOTONIC seconds) is the end of its lease: a task that is not begun by then
    belongs to somebody else, and comes back `expired`. `seconds` is its part of the time that its
    call took. A `single` task is never called together with others; a `spoiled` one was, and their
    call failed as a whole, so that nothing is known of it.
    """

    __slots__ = (
        "delivery",
        "error",
        "expired",
        "id",
        "seconds",
        "single",
        "spoiled",
        "traceback",
        "until",
    )

    def __init__(self, delivery: Delivery, until: float) -> None:
        self.delivery = delivery
        self.until = until
        self.id = ""
        self.error: BaseException | None = None
        self.traceback = ""
        self.seconds = 0.0
        self.expired = False
        self.single = False
        self.spoiled = False

    @property
    def is_single(self) -> bool:
        """Tell whether it is to be called without others."""
        return self.single or self.delivery.failures > 0 or self.delivery.suspect

    def begin_anew(self) -> None:
        """Get ready for another call of the same delivery, alone."""
        self.delivery = replace(self.delivery, attempts=self.delivery.attempts + 1)
        self.error, self.traceback = None, ""
        self.single, self.spoiled = True, False


Load = Sequence[Task]
"""What one thread does in one call: one task, or the tasks of a batch."""


class Lane:
    """Tasks of which only the first is called, and the next when that is decided.

    The loop puts them in at the right, and takes them back from there; the one thread that
    serves the lane takes from the left. So what remains is in order, whoever is faster.
    """

    __slots__ = ("anew", "count", "is_served", "number", "tasks")

    def __init__(self, number: int) -> None:
        self.number = number
        self.tasks: deque[Task] = deque()
        self.is_served = False
        self.count = 0
        """Those that wait, run, or are not decided yet; the loop's."""
        self.anew = 0
        """Those at the left that are to be called again; the loop's."""

    def next_load(self, width: int) -> list[Task]:
        """Take out what the next call gets; nothing when nothing waits. Runs in: the thread."""
        load: list[Task] = []
        try:
            load.append(self.tasks.popleft())
            while len(load) < width and not (load[0].is_single or self.tasks[0].is_single):
                load.append(self.tasks.popleft())
        except IndexError:
            return load  # that was the last, or the loop has just taken the rest back
        return load

    def take_back(self) -> list[Task]:
        """Take out what no thread has begun. Runs in: the loop."""
        taken: deque[Task] = deque()
        while True:
            try:
                taken.appendleft(self.tasks.pop())
            except IndexError:
                return list(taken)


def _in_time(load: Load, now: float) -> Load:
    """Mark what of a load came too late, and give the rest."""
    ours = load
    for place, task in enumerate(load):
        if task.until <= now:
            task.expired = True
            ours = [other for other in ours if other is not task]
            if task.delivery.lane:
                ours = load[:place]  # what comes behind it must not come before it
    return ours


class Pool:
    """Threads that each run one load after the other. Used by the work loop's thread only.

    There are never more than `most` of them. Each has `width` cells on the board, one for each
    task of a load.
    """

    def __init__(
        self,
        size: int,
        call: Callable[[Load], None],
        page: Page,
        doorbell: Doorbell,
        *,
        most: int = 0,
        width: int = 1,
    ) -> None:
        self._call = call
        self._hands = page.hands
        self._doorbell = doorbell
        self._width = width
        self._pid = os.getpid()
        self._inbox: queue.SimpleQueue[Load | Lane | None] = queue.SimpleQueue()
        self._results: deque[Load] = deque()
        self._served: deque[Task] = deque()
        self._left: deque[Lane] = deque()
        most = max(most, size)
        self._running: list[Load] = [()] * most
        self._begun = [0.0] * most
        self._threads = [0] * most
        # What follows is changed by threads that come and go, under the lock.
        self._lock = threading.Lock()
        self._free = list(range(most - 1, -1, -1))
        self._surplus = 0
        self._closing = False
        self.size = size
        """The number of threads, not counting those that are to leave."""
        self.calls = 0
        """Loads put in whose result was not taken out, and lanes that a thread has."""
        self.outstanding = 0
        """The tasks in those loads."""
        self.low = 0
        """The loop is woken by a result when no more than so many loads wait."""
        self.eager = True
        """The loop is woken by every result."""

    def start(self) -> None:
        """Start the threads; in the child, never before the fork. Raises: RuntimeError."""
        for _ in range(self.size):
            self._start_one()

    def resize(self, size: int) -> None:
        """Have more threads at once, or fewer, as they come to the end of what they do.

        Where the machine, or a limit of the job, gives no more threads, it stays smaller.
        """
        with self._lock:
            more = size - self.size
            self.size = size
            if more < 0:
                self._surplus -= more
            stay = min(self._surplus, max(0, more))
            self._surplus -= stay
        for missing in range(more - stay, 0, -1):
            try:
                self._start_one()
            except RuntimeError as error:
                self.size -= missing
                _log.warning("no more than %d threads: %s", self.size, error)
                break
        for _ in range(-more):
            self._inbox.put(None)

    def _start_one(self) -> None:
        with self._lock:
            index = self._free.pop()
        name = f"handler-{index}"
        try:
            threading.Thread(target=self._work, args=(index,), name=name, daemon=True).start()
        except RuntimeError:
            with self._lock:
                self._free.append(index)
            raise

    def submit(self, load: Load) -> None:
        """Give one load to the next free thread."""
        self.calls += 1
        self.outstanding += len(load)
        self._inbox.put(load)

    def serve(self, lane: Lane) -> None:
        """Give a lane to the next free thread, until it comes out of `left`."""
        self.calls += 1
        lane.is_served = True
        self._inbox.put(lane)

    def take_back(self) -> list[Task]:
        """Take out what no thread has begun; of a lane only the lane itself."""
        taken: list[Task] = []
        words = 0
        while True:
            try:
                load = self._inbox.get_nowait()
            except queue.Empty:
                break
            if load is None:
                words += 1
                continue
            self.calls -= 1
            if isinstance(load, Lane):
                load.is_served = False
                continue
            taken += load
        for _ in range(words):
            self._inbox.put(None)
        self.outstanding -= len(taken)
        return taken

    def collect(self) -> list[Task]:
        """Take what is finished."""
        results = self._results
        loads = [results.popleft() for _ in range(len(results))]
        self.calls -= len(loads)
        done = [task for load in loads for task in load]
        self.outstanding -= len(done)
        return done

    def left(self) -> list[Lane]:
        """Take the lanes that their threads have left: before `served`, which has all of them."""
        lanes = [self._left.popleft() for _ in range(len(self._left))]
        self.calls -= len(lanes)
        for lane in lanes:
            lane.is_served = False
        return lanes

    def served(self) -> list[Task]:
        """Take what is finished in lanes."""
        return [self._served.popleft() for _ in range(len(self._served))]

    def busy(self) -> int:
        """Give the number of tasks that are in the hands of threads."""
        return sum(map(len, self._running))

    def begun_before(self, moment: float) -> list[tuple[Load, int]]:
        """Give the loads whose call began before that moment, and goes on, each with its thread."""
        # A thread writes the time first and takes the load away last; read in the other order.
        running = tuple(self._running)
        rows = zip(running, self._begun, self._threads, strict=True)
        return [(load, thread) for load, at, thread in rows if load and at < moment]

    def oldest(self) -> float:
        """Give when the oldest call that goes on began; infinite without one."""
        running = tuple(self._running)
        begun = (at for load, at in zip(running, self._begun, strict=True) if load)
        return min(begun, default=math.inf)

    def close(self) -> None:
        """Let the threads end when they have nothing more to do; does not wait."""
        self._closing = True
        for _ in self._running:
            self._inbox.put(None)

    def _work(self, index: int) -> None:
        self._threads[index] = threading.get_ident()
        take, give = self._inbox.get, self._results.append
        while True:
            load = take()
            if load is None:
                if self._may_leave(index):
                    return
                continue
            if isinstance(load, Lane):
                self._go_along(index, load)
                continue
            self._do(index, load)
            give(load)
            if self.eager or self._inbox.qsize() <= self.low or len(self._results) >= self.size:
                self._doorbell.ring()

    def _go_along(self, index: int, lane: Lane) -> None:
        """Call what waits in a lane, up to the first that was not simply done."""
        until = time.monotonic() + _SLICE_S
        calls = 0
        while load := lane.next_load(self._width):
            self._do(index, load)
            self._served.extend(load)
            if any(task.error is not None or task.expired for task in load):
                break
            calls += 1
            if self._inbox.qsize() and (calls >= _RUN or time.monotonic() >= until):
                break
            if self.eager or len(self._served) >= self.size:
                self._doorbell.ring()
        self._left.append(lane)
        self._doorbell.ring()

    def _may_leave(self, index: int) -> bool:
        """Leave if there is one too many; the word may be older than a later wish for more."""
        with self._lock:
            if not self._surplus and not self._closing:
                return False
            self._surplus = max(0, self._surplus - 1)
            self._free.append(index)
            return True

    def _do(self, index: int, load: Load) -> None:
        now = time.monotonic()
        ours = load
        for task in load:
            if task.until <= now:
                ours = _in_time(load, now)
                break
        if not ours:
            return
        self._begun[index] = now
        self._running[index] = ours
        cell = index * self._width
        for place, task in enumerate(ours, cell):
            self._hands[place] = task.delivery.number
        self._run(ours, now)
        end_fork(self._pid, ours[0].error)
        for place in range(cell, cell + len(ours)):
            self._hands[place] = 0
        self._running[index] = ()

    def _run(self, load: Load, begun: float) -> None:
        error: BaseException | None = None
        trace = ""
        try:
            self._call(load)
        except (Skip, Retry, Reject, Unavailable) as word:
            error = word
        except BaseException as caught:
            # SystemExit too: a handler that calls sys.exit has failed, and its process goes on.
            error, trace = caught, traceback.format_exc()
        seconds = (time.monotonic() - begun) / len(load)
        for task in load:
            task.seconds = seconds
            if error is not None:
                task.error, task.traceback = error, trace
                task.spoiled = len(load) > 1

"""The bounded pool of threads in which handlers run.

Own code, not concurrent.futures: what is not started can be taken back, a thread notes on the
board which delivery it works on before it begins, and nothing waits for a stuck handler at exit.
The pool knows no source and decides nothing; the consume loop puts tasks in and takes results out.
"""

from __future__ import annotations

import os
import queue
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable

from supervisor.board import Page
from workers.base import Reject, Retry, Skip
from workers.handlers import end_fork
from workers.sources.source import Delivery


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
    belongs to somebody else, and comes back `expired`.
    """

    __slots__ = ("delivery", "error", "expired", "id", "seconds", "traceback", "until")

    def __init__(self, delivery: Delivery, until: float) -> None:
        self.delivery = delivery
        self.until = until
        self.id = ""
        self.error: BaseException | None = None
        self.traceback = ""
        self.seconds = 0.0
        self.expired = False


class Pool:
    """Threads that each run one task after the other. Used by the work loop's thread only."""

    def __init__(
        self, size: int, call: Callable[[Task], None], page: Page, doorbell: Doorbell
    ) -> None:
        self._call = call
        self._page = page
        self._doorbell = doorbell
        self._size = size
        self._pid = os.getpid()
        self._inbox: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._results: deque[Task] = deque()
        self.outstanding = 0
        """Tasks put in whose result was not taken out."""
        self.low = 0
        """The loop is woken by a result when no more than so many tasks wait."""
        self.eager = True
        """The loop is woken by every result."""

    def start(self) -> None:
        """Start the threads; in the child, never before the fork."""
        for index in range(self._size):
            name = f"handler-{index}"
            threading.Thread(target=self._work, args=(index,), name=name, daemon=True).start()

    def submit(self, task: Task) -> None:
        """Give one task to the next free thread."""
        self.outstanding += 1
        self._inbox.put(task)

    def take_back(self) -> list[Task]:
        """Take out what no thread has begun."""
        taken: list[Task] = []
        while True:
            try:
                task = self._inbox.get_nowait()
            except queue.Empty:
                self.outstanding -= len(taken)
                return taken
            if task is not None:
                taken.append(task)

    def collect(self) -> list[Task]:
        """Take what is finished."""
        results = self._results
        done = [results.popleft() for _ in range(len(results))]
        self.outstanding -= len(done)
        return done

    def busy(self) -> int:
        """Give the number of tasks that are in the hands of threads, more or less."""
        return max(0, self.outstanding - self._inbox.qsize() - len(self._results))

    def close(self) -> None:
        """Let the threads end when they have nothing more to do; does not wait."""
        for _ in range(self._size):
            self._inbox.put(None)

    def _work(self, index: int) -> None:
        take, give = self._inbox.get, self._results.append
        while (task := take()) is not None:
            if task.until <= time.monotonic():
                task.expired = True
            else:
                self._page.working_on(index, task.delivery.number)
                self._run(task)
                end_fork(self._pid, task.error)
                self._page.working_on(index, 0)
            give(task)
            if self.eager or self._inbox.qsize() <= self.low or len(self._results) >= self._size:
                self._doorbell.ring()

    def _run(self, task: Task) -> None:
        begun = time.monotonic()
        try:
            self._call(task)
        except (Skip, Retry, Reject) as word:
            task.error = word
        except BaseException as error:
            # SystemExit too: a handler that calls sys.exit has failed, and its process goes on.
            task.error = error
            task.traceback = traceback.format_exc()
        task.seconds = time.monotonic() - begun

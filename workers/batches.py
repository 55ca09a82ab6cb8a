"""Batches: several messages of one topic in one call of `handle_batch`.

`Intake` stands before the pool. Without batches it passes each task on at once; with them, tasks
wait here until a thread is free, so that a batch holds all that has come meanwhile, up to its
size. A batch never waits to be full. Tasks of a lane wait in that lane (workers/lanes.py).

What one bad message does to its batch: when `handle_batch` raises anything but Unavailable,
nothing is known of any single message, so each is called again, alone, and only that call counts
as a failure, or as a word. A message that has failed once stays alone for the rest of its life.
"""

from __future__ import annotations

from collections import deque

from supervisor.board import THREADS
from supervisor.config import Job
from workers.lanes import Lanes
from workers.pool import Load, Pool, Task


def width_of(job: Job) -> int:
    """Give how many messages one call gets at most: each of them has a cell on the board."""
    return min(job.batch, THREADS)


def threads_of(job: Job, wanted: int) -> int:
    """Give how many threads of those wanted can be, with a cell for each message of a batch."""
    return max(1, min(wanted, THREADS // width_of(job)))


class Intake:
    """What waits for a free thread. Used by the work loop's thread only."""

    def __init__(self, pool: Pool, width: int) -> None:
        self._pool = pool
        self._width = width
        self._waiting: dict[str, deque[tuple[int, Task]]] = {}
        self._arrivals = 0
        self._count = 0
        self.lanes = Lanes(pool)

    @property
    def outstanding(self) -> int:
        """Count the tasks that wait, run, or are finished and not yet taken out."""
        return self._count + self.lanes.outstanding + self._pool.outstanding

    def submit(self, task: Task) -> None:
        """Take a task in."""
        if task.delivery.lane:
            self.lanes.submit(task)
            return
        if self._width == 1:
            self._pool.submit((task,))
            return
        self._arrivals += 1
        self._count += 1
        queue = self._waiting.setdefault(task.delivery.topic, deque())
        queue.append((self._arrivals, task))

    def again(self, task: Task) -> None:
        """Take a task in that is to be called once more, alone."""
        if task.delivery.lane:
            self.lanes.again(task)
        else:
            self.submit(task)

    def feed(self) -> None:
        """Give each free thread what waits, the oldest first."""
        while self._count and self._pool.calls < self._pool.size:
            self._pool.submit(self._next_load())

    def collect(self) -> list[Task]:
        """Take what is finished."""
        done = self._pool.collect()
        return self.lanes.collect() + done if self.lanes else done

    def take_back(self, spared: int = 0) -> list[Task]:
        """Take out what no thread has begun, save that of one lane."""
        waiting = [task for queue in self._waiting.values() for _, task in queue]
        self._waiting.clear()
        self._count = 0
        return waiting + self._pool.take_back() + self.lanes.take_back(spared)

    def _next_load(self) -> Load:
        topic = min(self._waiting, key=lambda name: self._waiting[name][0][0])
        queue = self._waiting[topic]
        load = [queue.popleft()[1]]
        while queue and len(load) < self._width and _fit(load[0], queue[0][1]):
            load.append(queue.popleft()[1])
        if not queue:
            del self._waiting[topic]
        self._count -= len(load)
        return load


def _fit(first: Task, other: Task) -> bool:
    return not (first.is_single or other.is_single)

"""Lanes: messages that are handled one after the other, in order, while other lanes go on.

A lane is in the hands of one thread at most. That thread calls one message after the other, and
leaves at the first that was not simply done: nothing behind it is begun before the loop has
decided on it. When it is done with for good, the lane goes on; when it is to come again, all that
waits behind it goes back with it, and the source gives them out again in order.
"""

from __future__ import annotations

from workers.pool import Lane, Pool, Task


class Lanes:
    """All lanes of one process. Used by the work loop's thread only."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._all: dict[int, Lane] = {}
        self.outstanding = 0
        """The tasks that wait, run, or are finished and not yet taken out."""

    def __bool__(self) -> bool:
        """Tell whether there is any lane, if only one that its thread has not left yet."""
        return bool(self._all)

    def __contains__(self, number: int) -> bool:
        """Tell whether anything of this lane is not decided yet."""
        lane = self._all.get(number)
        return lane is not None and lane.count > 0

    def submit(self, task: Task) -> None:
        """Take a task in, behind the others of its lane."""
        number = task.delivery.lane
        lane = self._all.get(number)
        if lane is None:
            lane = self._all[number] = Lane(number)
        lane.count += 1
        lane.tasks.append(task)
        self.outstanding += 1
        self._go_on(lane)

    def again(self, task: Task) -> None:
        """Take back in a task that was called and is to be called once more, before the others."""
        lane = self._all[task.delivery.lane]
        lane.tasks.insert(lane.anew, task)
        lane.anew += 1
        self.outstanding += 1
        self._go_on(lane)

    def collect(self) -> list[Task]:
        """Take what is finished; each is then either decided, given up, or called again."""
        for lane in self._pool.left():
            self._go_on(lane)
        done = self._pool.served()
        self.outstanding -= len(done)
        return done

    def decided(self, task: Task) -> None:
        """Let the lane of a task go on that is done with for good."""
        lane = self._all[task.delivery.lane]
        lane.count -= 1
        self._go_on(lane)

    def give_up(self, task: Task) -> list[Task]:
        """Take out all that waits behind a task that is to come again."""
        lane = self._all[task.delivery.lane]
        lane.count -= 1
        return self._take_back(lane)

    def take_back(self, spared: int = 0) -> list[Task]:
        """Take out what no thread has begun, save that of one lane."""
        taken: list[Task] = []
        for lane in list(self._all.values()):
            if lane.number == spared:
                self._go_on(lane)
            else:
                taken += self._take_back(lane)
        return taken

    def _take_back(self, lane: Lane) -> list[Task]:
        taken = lane.take_back()
        lane.count -= len(taken)
        self.outstanding -= len(taken)
        self._go_on(lane)
        return taken

    def _go_on(self, lane: Lane) -> None:
        """Serve a lane of which nothing runs, and nothing is undecided."""
        if lane.is_served:
            return
        if not lane.count:
            self._all.pop(lane.number, None)
        elif lane.count == len(lane.tasks):
            lane.anew = 0
            self._pool.serve(lane)

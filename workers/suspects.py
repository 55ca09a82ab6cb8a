"""What becomes of a fetch that holds suspects: messages that were in a handler at a crash.

Pure sorting. One suspect is chosen; it will run with nothing beside it, so that if the process
dies once more, that one message is known to be the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from workers.pool import Task
from workers.retry import MAX_CRASHES


class Sorted(NamedTuple):
    """The tasks of one fetch.

    `deadly` have killed enough. `ahead` come before the chosen one in its lane, and have to be
    done before it. `others` go back.
    """

    deadly: list[Task]
    ahead: list[Task]
    chosen: Task | None
    others: list[Task]

    @property
    def lane(self) -> int:
        """Give the lane of the chosen one, if it has one."""
        return self.chosen.delivery.lane if self.chosen is not None else 0


def sort_out(tasks: Sequence[Task]) -> Sorted:
    """Choose the first suspect that has not killed enough yet."""
    alive = [task for task in tasks if task.delivery.crashes < MAX_CRASHES]
    deadly = [task for task in tasks if task.delivery.crashes >= MAX_CRASHES]
    place = next((place for place, task in enumerate(alive) if task.delivery.suspect), None)
    if place is None:
        return Sorted(deadly, [], None, alive)
    lane = alive[place].delivery.lane
    ahead = [task for task in alive[:place] if lane and task.delivery.lane == lane]
    others = [task for task in alive if task is not alive[place] and task not in ahead]
    return Sorted(deadly, ahead, alive[place], others)

"""How many threads a process should have: `min_concurrency` to `max_concurrency`, by its queue.

Pure arithmetic. The queue is what waits for a thread, fetched or still in the source, measured
against `queue_size`. Above 80 % there are twice as many threads a second later; below 20 % half as
many, but only after three calm seconds; in between nothing changes. So it is quick to help and slow
to leave, and a queue that stays as it is leads to one size, and not to two by turns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from supervisor.config import Job
from workers.batches import threads_of

EVERY_S: Final = 1.0
"""How often the size is thought over, in seconds."""

CALM_S: Final = 3.0
"""How long the queue has to be nearly empty before threads go."""

HIGH: Final = 0.8
LOW: Final = 0.2


@dataclass(frozen=True, slots=True)
class Scale:
    """The size of now and its bounds. Times: CLOCK_MONOTONIC seconds."""

    least: int
    most: int
    size: int
    look_at: float = 0.0
    calm_since: float | None = None

    @classmethod
    def of(cls, job: Job) -> Scale:
        """Give the scale that a process of this job begins with; least = most is a fixed one."""
        least = threads_of(job, job.min_concurrency or job.concurrency)
        most = threads_of(job, job.max_concurrency or job.concurrency)
        return cls(least, most, min(most, max(least, threads_of(job, job.concurrency))))

    @property
    def is_fixed(self) -> bool:
        """Tell whether there is nothing to choose."""
        return self.least == self.most

    def seen(self, fill: float, now: float, *, held: bool) -> Scale:
        """Take a look at the queue (1.0 is full) and give the scale from now on.

        While fetching is `held` for other reasons, more threads would have nothing to do.
        """
        if self.is_fixed or now < self.look_at:
            return self
        looked = replace(self, look_at=now + EVERY_S, calm_since=None)
        if fill > HIGH:
            return looked if held else replace(looked, size=min(self.most, self.size * 2))
        if fill >= LOW:
            return looked
        if self.calm_since is None:
            return replace(looked, calm_since=now)
        if now - self.calm_since < CALM_S:
            return replace(looked, calm_since=self.calm_since)
        return replace(looked, size=max(self.least, self.size // 2), calm_since=now)

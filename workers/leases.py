"""What a process holds: its deliveries from the fetch until they are settled, and their leases.

And what others held who are dead: the master tells who has fallen, and their leases are freed.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from typing import Final

from supervisor.slot import Fallen
from workers.pool import Task
from workers.sources.source import Delivery, Source

_LOOK_S: Final = 1.0
"""How often the source is asked to look after itself."""

_log = logging.getLogger(__name__)


class Leases:
    """The tasks of one process by the number of their delivery. Work loop's thread only."""

    def __init__(self, source: Source, lease_s: float) -> None:
        self._source = source
        self._lease_s = lease_s
        self._held: dict[int, Task] = {}
        self.next_renewal = math.inf
        self.next_look = 0.0

    def __getitem__(self, number: int) -> Task:
        """Give the task of a delivery that is held. Raises: KeyError."""
        return self._held[number]

    def __iter__(self) -> Iterator[Task]:
        """Go through all that is held."""
        return iter(tuple(self._held.values()))

    def hold(self, deliveries: Iterable[Delivery], fetched_at: float) -> list[Task]:
        """Keep what was fetched; give it but for our own, whose lease ran out while it is here."""
        until = fetched_at + self._lease_s
        held, fresh = self._held, []
        for delivery in deliveries:
            task = held.get(delivery.number)
            if task is None:
                task = held[delivery.number] = Task(delivery, until)
                fresh.append(task)
            else:
                task.until = until
        if fresh:
            self.next_renewal = min(self.next_renewal, fetched_at + self._lease_s / 3)
        return fresh

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """Let go of what is settled, or was lost."""
        for delivery in deliveries:
            self._held.pop(delivery.number, None)
        if not self._held:
            self.next_renewal = math.inf

    def renew(self) -> None:
        """Renew all leases. Raises: SourceTrouble, and then it stays due."""
        begun = time.monotonic()
        until = begun + self._lease_s
        tasks = [task for task in self._held.values() if task.until]
        lost = self._source.extend([task.delivery for task in tasks])
        self.next_renewal = begun + self._lease_s / 3
        for task in tasks:
            if task.delivery.number not in lost:
                task.until = until
        self._lose(lost)

    def tend(self) -> None:
        """Have the source look after itself, and hear what was lost. Raises: SourceTrouble."""
        self._lose(self._source.tend())
        self.next_look = time.monotonic() + _LOOK_S

    def _lose(self, numbers: Collection[int]) -> None:
        """Take note that others have these: what is not begun is not begun any more."""
        for task in filter(None, map(self._held.get, numbers)):
            task.until = 0.0
            _log.warning(
                "lease lost, another process has the message",
                extra={"topic": task.delivery.topic, "number": task.delivery.number},
            )


class Legacy:
    """The dead whose leases this process is to free. Work loop's thread only, but for `add`."""

    def __init__(self, source: Source, fallen: Iterable[Fallen]) -> None:
        self._source = source
        self._fallen = deque(fallen)

    def __bool__(self) -> bool:
        """Tell whether there is anything to free."""
        return bool(self._fallen)

    def add(self, fallen: Fallen) -> None:
        """Take in one more. From any thread."""
        self._fallen.append(fallen)

    def release(self) -> None:
        """Free the leases of all of them. Raises: SourceTrouble, keeping those not yet freed."""
        while self._fallen:
            fallen = self._fallen[0]
            freed = self._source.release(fallen.owner, fallen.suspects)
            self._fallen.popleft()
            _log.info(
                "released %d messages of %s, %d of them were being handled",
                freed,
                fallen.owner,
                len(fallen.suspects),
            )

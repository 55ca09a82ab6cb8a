"""What is known of the records of one process: which are out, which are done, what to commit.

Pure bookkeeping, without a client. Kafka keeps one number a partition: the offset of the next
record that the group has not done. So only the contiguous prefix of what is done may be committed,
however far ahead other keys are. All is kept by partition and *epoch*, the number of its assignment
to this process: what comes back for an assignment that is over changes nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import Final, NamedTuple

from workers.sources.source import Delivery, Return

AHEAD: Final = 10_000
"""So many records may be done beyond one that is not: a crash does them again."""


class Spot(NamedTuple):
    """A partition of a topic."""

    topic: str
    partition: int


class Order:
    """How the messages of a job share lanes."""

    PARTITION: Final = "partition"
    KEY: Final = "key"
    NONE: Final = "none"


def number_of(*identity: object) -> int:
    """Give the number by which all processes know a record, or a lane: positive, below 2**63."""
    text = "\0".join(map(str, identity)).encode(errors="surrogateescape")
    return int.from_bytes(blake2b(text, digest_size=8).digest()) >> 1 or 1


def lane_of(spot: Spot, key: bytes | None, order: str) -> int:
    """Give the lane of a record; without a key it is in that of its partition."""
    if order == Order.NONE:
        return 0
    if order == Order.KEY and key is not None:
        return number_of("key", spot.topic, key.hex())
    return number_of("partition", *spot)


@dataclass(slots=True)
class _Entry:
    """A record that is not done: it waits here, or it is `out` with the loop."""

    offset: int
    delivery: Delivery
    due: float = 0.0
    out: bool = False


class Partition:
    """The records of one assignment. `base` is the offset that may be committed."""

    def __init__(self, spot: Spot, epoch: int, base: int) -> None:
        self.spot = spot
        self.epoch = epoch
        self.base = base
        self.committed = base
        self._next = base
        self._entries: dict[int, _Entry] = {}
        self._offsets: dict[int, int] = {}
        self._lanes: dict[int, deque[int]] = {}
        self._ahead: set[int] = set()

    @property
    def waiting(self) -> int:
        """Count the records that were read and are not done."""
        return len(self._entries)

    @property
    def ahead(self) -> int:
        """Count those that are done beyond the first that is not."""
        return len(self._ahead)

    @property
    def has_to_stop(self) -> bool:
        """Tell whether nothing more is to be read while the first one is not done."""
        return len(self._ahead) >= AHEAD

    def read(self, offset: int, delivery: Delivery) -> None:
        """Take in the next record. Offsets may have gaps: compaction, transactions."""
        if offset < self._next:
            return  # read again after a seek
        self._ahead.update(range(self._next, offset))
        self._next = offset + 1
        self._entries[offset] = _Entry(offset, delivery)
        self._offsets[delivery.number] = offset
        self._lanes.setdefault(delivery.lane, deque()).append(offset)
        self._advance()

    def give(self, limit: int, most: int, now: float) -> list[Delivery]:
        """Give out what is due: each lane in order, up to `most` of it at a time."""
        found: list[Delivery] = []
        for lane, offsets in self._lanes.items():
            found += self._of_lane(lane, offsets, limit - len(found), most, now)
            if len(found) >= limit:
                break
        return found

    def _of_lane(
        self, lane: int, offsets: Iterable[int], limit: int, most: int, now: float
    ) -> list[Delivery]:
        found: list[Delivery] = []
        for place, offset in enumerate(offsets):
            entry = self._entries[offset]
            if len(found) >= limit or (lane and place >= most):
                break
            if entry.out:
                continue
            if entry.due > now:
                if lane:
                    break
                continue
            entry.out = True
            found.append(entry.delivery)
        return found

    def next_due(self) -> float | None:
        """Give when the first one that waits for its time is due."""
        return min((one.due for one in self._entries.values() if not one.out), default=None)

    def holds(self, number: int) -> bool:
        """Tell whether a record is of this assignment, and not done."""
        return number in self._offsets

    def done(self, number: int) -> None:
        """Take in that a record is settled for good."""
        offset = self._offsets.pop(number, None)
        if offset is None:
            return  # of an assignment that is over
        lane = self._entries.pop(offset).delivery.lane
        self._lanes[lane].remove(offset)
        if not self._lanes[lane]:
            del self._lanes[lane]
        self._ahead.add(offset)
        self._advance()

    def back(self, given: Return, now: float) -> None:
        """Take in that a record is to be given out again, with the counters it carries."""
        offset = self._offsets.get(given.delivery.number)
        if offset is None:
            return
        entry = self._entries[offset]
        entry.delivery = replace(given.delivery, lane=entry.delivery.lane)
        entry.due = now + given.delay_s if given.delay_s > 0 else 0.0
        entry.out = False

    def numbers(self) -> list[int]:
        """Give the numbers of those that are out."""
        return [one.delivery.number for one in self._entries.values() if one.out]

    def _advance(self) -> None:
        while self.base in self._ahead:
            self._ahead.remove(self.base)
            self.base += 1

"""What is known of the records of one process: which are out, which are done, what to commit.

Pure bookkeeping, without a client. Kafka keeps one number a partition: the offset of the next
record that the group has not done. So only the contiguous prefix of what is done may be committed,
however far ahead other keys are. All is kept by partition and *epoch*, the number of its assignment
to this process: what comes back for an assignment that is over changes nothing.
"""

from __future__ import annotations

import heapq
from collections import deque
from hashlib import blake2b
from typing import Final, NamedTuple

from workers.sources.source import Delivery, Return

AHEAD: Final = 10_000
"""So many records may be done beyond one that is not: a crash does them again."""


_POSITIVE: Final = (1 << 63) - 1


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


def root_of(spot: Spot) -> int:
    """Give the number to which the offset of a record is added, which makes the record's own.

    Two partitions would have to be as near to each other, among 2**61 places, as their offsets.
    """
    return number_of("records", *spot) >> 2


def lane_of(spot: Spot, key: bytes | None, order: str) -> int:
    """Give the lane of a record, the same in one process only; without a key its partition's."""
    if order == Order.NONE:
        return 0
    place = hash((spot.topic, key) if order == Order.KEY and key is not None else spot)
    return place & _POSITIVE or 1


class _Entry:
    """A record that is not done: it waits here, or it is out with the loop."""

    __slots__ = ("delivery", "due", "is_out", "offset")

    def __init__(self, offset: int, delivery: Delivery) -> None:
        self.offset = offset
        self.delivery = delivery
        self.due = 0.0
        self.is_out = False


class _Lane:
    """Those of a lane that are not out, by their offsets; and how many are out."""

    __slots__ = ("noted", "out", "waiting")

    def __init__(self) -> None:
        self.waiting: deque[_Entry] = deque()
        self.out = 0
        self.noted = -1
        """The offset by which it is among those that may be given from."""

    def put_back(self, entry: _Entry) -> None:
        """Put one to its place."""
        place = 0
        for place, other in enumerate(self.waiting):  # noqa: B007 - the place is what is wanted
            if other.offset > entry.offset:
                break
        else:
            place = len(self.waiting)
        self.waiting.insert(place, entry)


class Partition:
    """The records of one assignment. `base` is the offset that may be committed."""

    def __init__(self, spot: Spot, epoch: int, base: int) -> None:
        self.spot = spot
        self.epoch = epoch
        self.base = base
        self.root = root_of(spot)
        self._next = base
        self._entries: dict[int, _Entry] = {}
        self._lanes: dict[int, _Lane] = {}
        self._heads: list[tuple[int, int]] = []
        self._delays: list[tuple[float, int]] = []
        self._ahead: set[int] = set()
        self.size = 0
        """The bytes of the records that were read and are not done."""
        self.out = 0
        """How many are out."""

    @property
    def waiting(self) -> int:
        """Count the records that were read and are not done."""
        return len(self._entries)

    @property
    def ahead(self) -> int:
        """Count those that are done beyond the first that is not."""
        return len(self._ahead)

    @property
    def end(self) -> int:
        """Give the offset of the next record to read."""
        return self._next

    @property
    def has_to_stop(self) -> bool:
        """Tell whether nothing more is to be read while the first one is not done."""
        return len(self._ahead) >= AHEAD

    def read(self, offset: int, delivery: Delivery) -> None:
        """Take in the next record. Offsets may have gaps: compaction, transactions."""
        expected = self._next
        if offset < expected:
            return  # read again after a seek
        self._next = offset + 1
        if offset > expected:
            self._ahead.update(range(expected, offset))
            self._advance()
        entry = self._entries[delivery.number] = _Entry(offset, delivery)
        lane = self._lane(delivery.lane)
        lane.waiting.append(entry)
        if len(lane.waiting) == 1:
            self._has_head(delivery.lane, lane)
        self.size += len(delivery.body)

    def give(self, limit: int, most: int, now: float) -> list[Delivery]:
        """Give out what is due: the oldest first, each lane in order, up to `most` of it at a time.

        So nothing that is old waits behind a lane of which much has come.
        """
        self._end_delays(now)
        found: list[Delivery] = []
        heads = self._heads
        while heads and len(found) < limit:
            offset, number = heapq.heappop(heads)
            lane = self._lanes.get(number)
            if lane is None or lane.noted != offset:
                continue  # another one came before it since
            lane.noted = -1
            if not lane.waiting or lane.waiting[0].offset != offset:
                continue
            room = limit - len(found)
            if number:
                room = min(room, most - lane.out)
            # Up to the head of the next lane.
            stop = heads[0][0] if heads else self._next
            while room > 0 and lane.waiting:
                entry = lane.waiting[0]
                if entry.due or entry.offset > stop:
                    break
                lane.waiting.popleft()
                entry.is_out = True
                lane.out += 1
                room -= 1
                found.append(entry.delivery)
            if lane.waiting and (not number or lane.out < most):
                self._has_head(number, lane)
        self.out += len(found)
        return found

    def next_due(self) -> float | None:
        """Give when the first one that waits for its time is due."""
        while self._delays:
            due, number = self._delays[0]
            entry = self._entries.get(number)
            if entry is not None and not entry.is_out and entry.due == due:
                return due
            heapq.heappop(self._delays)
        return None

    def parked(self, now: float) -> int:
        """Count those that wait for a time that has not come."""
        return len({number for due, number in self._delays if due > now and self._waits(number)})

    def holds(self, number: int) -> bool:
        """Tell whether a record is of this assignment, and not done."""
        return number in self._entries

    def done(self, number: int) -> None:
        """Take in that a record is settled for good."""
        entry = self._entries.pop(number, None)
        if entry is None:
            return  # of an assignment that is over
        delivery = entry.delivery
        lane = self._lane(delivery.lane)
        if entry.is_out:
            lane.out -= 1
            self.out -= 1
        elif entry in lane.waiting:
            lane.waiting.remove(entry)
        if lane.waiting:
            self._has_head(delivery.lane, lane)
        elif not lane.out:
            del self._lanes[delivery.lane]
        self.size -= len(delivery.body)
        if entry.offset == self.base:
            self.base += 1
        else:
            self._ahead.add(entry.offset)
        if self._ahead:
            self._advance()

    def back(self, given: Return, now: float) -> None:
        """Take in that a record is to be given out again, with the counters it carries."""
        entry = self._entries.get(given.delivery.number)
        if entry is None or not entry.is_out:
            return
        entry.delivery = given.delivery
        entry.due = 0.0
        entry.is_out = False
        if given.delay_s > 0:
            entry.due = now + given.delay_s
            heapq.heappush(self._delays, (entry.due, given.delivery.number))
        lane = self._lanes[given.delivery.lane]
        lane.out -= 1
        self.out -= 1
        if given.delivery.lane or not entry.due:
            lane.put_back(entry)
        if lane.waiting:
            self._has_head(given.delivery.lane, lane)

    def numbers(self) -> list[int]:
        """Give the numbers of those that are out."""
        return [number for number, entry in self._entries.items() if entry.is_out]

    def _lane(self, number: int) -> _Lane:
        lane = self._lanes.get(number)
        if lane is None:
            lane = self._lanes[number] = _Lane()
        return lane

    def _has_head(self, number: int, lane: _Lane) -> None:
        """Note that the first that waits of a lane may be given out."""
        head = lane.waiting[0]
        if not head.due and head.offset != lane.noted:
            lane.noted = head.offset
            heapq.heappush(self._heads, (head.offset, number))

    def _waits(self, number: int) -> bool:
        entry = self._entries.get(number)
        return entry is not None and not entry.is_out

    def _end_delays(self, now: float) -> None:
        """Let those be given out whose time has come."""
        while (due := self.next_due()) is not None and due <= now:
            _, number = heapq.heappop(self._delays)
            entry = self._entries[number]
            entry.due = 0.0
            lane = self._lane(entry.delivery.lane)
            if not entry.delivery.lane:
                lane.put_back(entry)
            self._has_head(entry.delivery.lane, lane)

    def _advance(self) -> None:
        while self.base in self._ahead:
            self._ahead.remove(self.base)
            self.base += 1

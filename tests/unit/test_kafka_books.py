"""The books of a Kafka consumer: what may be committed, and what is given out when."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from workers.sources.kafka_books import Partition, Spot, lane_of, root_of
from workers.sources.source import Delivery, Return

SPOT = Spot("t", 3)


def record(offset: int, key: bytes | None, order: str) -> Delivery:
    return Delivery(root_of(SPOT) + offset, "t", b"", lane=lane_of(SPOT, key, order))


rows = st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 3)), min_size=1, max_size=60)
moves = st.lists(
    st.tuples(st.sampled_from(["give", "done", "back", "late"]), st.integers(0, 20)), min_size=1
)


class Play:
    """Books that are moved by hand, and what they have to say."""

    def __init__(self, rows: list[tuple[str, int]], order: str, most: int) -> None:
        self.books = Partition(SPOT, 1, 5)
        self.most = most
        self.offsets: dict[int, int] = {}
        self.lanes: dict[int, list[int]] = {}
        self.out: dict[int, Delivery] = {}
        self.end = 5
        self.now = 0.0
        for key, gap in rows:
            one = record(self.end + gap - 1, key.encode(), order)
            self.end += gap
            self.books.read(self.end - 1, one)
            self.offsets[one.number] = self.end - 1
            self.lanes.setdefault(one.lane, []).append(one.number)
        self.open = set(self.offsets)

    def give(self, limit: int) -> None:
        for one in self.books.give(limit, self.most, self.now):
            assert one.number not in self.out
            lane = self.lanes[one.lane] if one.lane else []
            for number in lane[: lane.index(one.number)] if lane else []:
                assert number in self.out or number not in self.open, "it was overtaken"
            self.out[one.number] = one

    def done(self, which: int) -> None:
        if self.out:
            one = list(self.out.values())[which % len(self.out)]
            self.books.done(one.number)
            self.open.remove(one.number)
            del self.out[one.number]

    def back(self, which: int) -> None:
        """As the loop does: all behind it in its lane that are out come back with it."""
        if self.out:
            one = list(self.out.values())[which % len(self.out)]
            lane = self.lanes[one.lane] if one.lane else [one.number]
            for number in lane[lane.index(one.number) :]:
                if other := self.out.pop(number, None):
                    delay = 2.5 if other is one else 0.0
                    self.books.back(Return(replace(other, attempts=9), delay), self.now)

    def late(self, which: int) -> None:
        """As a call that ends when its record was lost, and has come again."""
        if waiting := sorted(self.open - self.out.keys()):
            one = waiting[which % len(waiting)]
            self.books.done(one)
            self.open.remove(one)

    def check(self) -> None:
        first = min((self.offsets[number] for number in self.open), default=self.end)
        # A gap before it holds no record: whether it is committed already is all the same.
        assert (
            max(
                [
                    4,
                    *(
                        self.offsets[n]
                        for n in self.offsets.keys() - self.open
                        if self.offsets[n] < first
                    ),
                ]
            )
            < self.books.base
            <= first
        )
        assert self.books.waiting == len(self.open)
        assert set(self.books.numbers()) == set(self.out)
        for lane, numbers in self.lanes.items():
            assert not lane or sum(number in self.out for number in numbers) <= self.most


@given(rows, moves, st.sampled_from(["partition", "key", "none"]), st.integers(1, 5))
def test_only_the_contiguous_prefix_is_committed_and_nothing_overtakes_in_its_lane(
    rows: list[tuple[str, int]], moves: list[tuple[str, int]], order: str, most: int
) -> None:
    play = Play(rows, order, most)
    for name, which in [*moves, *[("give", 99), ("done", 0)] * 2 * len(rows)]:
        play.now += 1.0
        getattr(play, name)(which)
        play.check()
    assert not play.open, "everything has had its turn"


def test_what_belongs_to_an_assignment_that_is_over_changes_nothing() -> None:
    old, new = Partition(SPOT, 1, 0), Partition(SPOT, 2, 1)
    for offset in range(3):
        old.read(offset, record(offset, None, "partition"))
    new.read(1, record(1, None, "partition"))
    new.done(root_of(SPOT))
    new.back(Return(record(2, None, "partition"), 0.0), 0.0)
    assert (new.base, new.waiting) == (1, 1)
    new.done(root_of(SPOT) + 1)
    assert new.base == 2


def test_lanes_follow_the_order_that_is_wanted() -> None:
    other = Spot("t", 4)
    assert lane_of(SPOT, b"k", "none") == 0
    assert lane_of(SPOT, b"k", "partition") == lane_of(SPOT, None, "partition")
    assert lane_of(SPOT, b"k", "partition") != lane_of(other, b"k", "partition")
    assert lane_of(SPOT, b"k", "key") == lane_of(other, b"k", "key")
    assert lane_of(SPOT, None, "key") == lane_of(SPOT, b"x", "partition")
    assert 0 < lane_of(SPOT, b"\xff", "key") < 2**63


def test_the_oldest_comes_first_though_one_lane_has_much() -> None:
    books = Partition(SPOT, 1, 0)
    for offset in range(100):
        key = b"busy" if offset % 10 else str(offset).encode()
        books.read(offset, record(offset, key, "key"))
    given = [one.number - root_of(SPOT) for one in books.give(20, 5, 0.0)]
    assert given == [0, 1, 2, 3, 4, 5, *range(10, 100, 10)]
    for offset in (1, 2):
        books.done(root_of(SPOT) + offset)
    assert [one.number - root_of(SPOT) for one in books.give(20, 5, 0.0)] == [6, 7]


def test_a_lane_goes_on_when_its_delay_is_over() -> None:
    books = Partition(SPOT, 1, 0)
    for offset in range(3):
        books.read(offset, record(offset, None, "partition"))
    first, second, third = books.give(3, 3, 0.0)
    for one, delay in ((third, 0.0), (second, 0.0), (first, 2.0)):
        books.back(Return(one, delay), 1.0)
    assert books.give(3, 3, 2.0) == []
    assert books.next_due() == 3.0
    assert books.give(3, 3, 3.0) == [first, second, third]

"""Lanes by themselves: the loop's side, and which suspect is chosen."""

from __future__ import annotations

import math
from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from workers.batches import Intake
from workers.lanes import Lanes
from workers.pool import Lane, Task
from workers.sources.source import Delivery
from workers.suspects import sort_out


class Threads:
    """Pool of threads that are moved by hand."""

    def __init__(self) -> None:
        self.lanes: list[Lane] = []
        self._left: list[Lane] = []
        self._served: list[Task] = []
        self.calls = self.outstanding = 0

    def serve(self, lane: Lane) -> None:
        assert lane not in self.lanes, "two threads in one lane"
        lane.is_served = True
        self.calls += 1
        self.lanes.append(lane)

    def step(self, which: int, width: int, stays: bool) -> list[Task]:
        """Let one thread make one call, and stay or leave."""
        if not self.lanes:
            return []
        lane = self.lanes[which % len(self.lanes)]
        load = lane.next_load(width)
        self._served += load
        if not load or not stays:
            self.lanes.remove(lane)
            self._left.append(lane)
        return load

    def left(self) -> list[Lane]:
        lanes, self._left = self._left, []
        self.calls -= len(lanes)
        for lane in lanes:
            lane.is_served = False
        return lanes

    def collect(self) -> list[Task]:
        return []

    def served(self) -> list[Task]:
        tasks, self._served = self._served, []
        return tasks


def task(number: int, lane: int, **more: bool | int) -> Task:
    return Task(Delivery(number, "t", b"", lane=lane, **more), math.inf)  # type: ignore[arg-type]


STEPS = ("submit", "step", "stay", "collect", "decide", "give_up", "again", "take_back")

moves = st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 3)), max_size=200)


class Play:
    """A loop that is moved by hand, and what it has seen."""

    def __init__(self, width: int) -> None:
        self._width = width
        self.threads = Threads()
        self.lanes = Lanes(self.threads)  # type: ignore[arg-type]  # all that it needs of a pool
        self.fresh = 0
        self.undecided: list[Task] = []
        self.called: dict[int, list[int]] = defaultdict(list)
        self.back: dict[int, Task] = {}
        self.decided: set[int] = set()

    def submit(self, which: int) -> None:
        """The source gives what came back before anything new."""
        self.submit_again()
        self.fresh += 1
        self.lanes.submit(task(self.fresh, which % 3 + 1))

    def submit_again(self) -> None:
        for number in sorted(self.back):
            self.lanes.submit(self.back.pop(number))

    def step(self, which: int, *, stays: bool = False) -> None:
        load = self.threads.step(which, self._width, stays)
        for one in load:
            self.called[one.delivery.lane].append(one.delivery.number)
        if load and not stays:
            self.collect()

    def stay(self, which: int) -> None:
        self.step(which, stays=True)

    def collect(self, _which: int = 0) -> None:
        self.undecided += self.lanes.collect()

    def take_back(self, _which: int) -> None:
        self._returned(self.lanes.take_back())

    def decide(self, _which: int = 0) -> None:
        if self.undecided:
            self._decide(self.undecided.pop(0))

    def give_up(self, _which: int) -> None:
        if self.undecided and (one := self._alone()) is not None:
            self._returned([one, *self.lanes.give_up(one)])

    def again(self, _which: int) -> None:
        if self.undecided and (one := self._alone()) is not None:
            self.lanes.again(one)

    def _alone(self) -> Task | None:
        """Give the next one if it stopped its lane, as only such a one comes again."""
        one = self.undecided.pop(0)
        lane = one.delivery.lane
        busy = any(other.number == lane for other in self.threads.lanes)
        if busy or any(other.delivery.lane == lane for other in self.undecided):
            self._decide(one)
            return None
        return one

    def _decide(self, one: Task) -> None:
        self.decided.add(one.delivery.number)
        self.lanes.decided(one)

    def _returned(self, tasks: list[Task]) -> None:
        self.back.update((one.delivery.number, one) for one in tasks)


@given(moves, st.integers(1, 3))
def test_nothing_overtakes_and_nothing_is_lost(rows: list[tuple[str, int]], width: int) -> None:
    play = Play(width)
    for name, which in rows:
        getattr(play, name)(which)
    for _ in range(3 * play.fresh + 3):
        play.submit_again()
        while play.threads.lanes:
            play.stay(0)
        play.collect()
        while play.undecided:
            play.decide()
    assert play.decided == set(range(1, play.fresh + 1))
    assert play.lanes.outstanding == 0
    assert not any(number in play.lanes for number in (1, 2, 3))
    for numbers in play.called.values():
        assert numbers == sorted(numbers), "what was called again came before all behind it"


def test_a_lane_is_there_until_its_thread_has_left_it() -> None:
    threads = Threads()
    intake = Intake(threads, 1)  # type: ignore[arg-type]  # all that it needs of a pool
    intake.submit(task(1, 7))
    threads.step(0, 1, stays=True)
    [done] = intake.collect()
    intake.lanes.decided(done)
    assert intake.outstanding == 0
    threads.step(0, 1, stays=False)
    assert threads.calls == 1
    assert intake.collect() == []
    assert threads.calls == 0
    assert not intake.lanes


def test_of_several_suspects_the_first_is_chosen_with_what_comes_before_it_in_its_lane() -> None:
    tasks = [
        task(1, 7),
        task(2, 8),
        task(3, 7, suspect=True, crashes=3),
        task(4, 7, suspect=True),
        task(5, 7),
        task(6, 8, suspect=True),
    ]
    found = sort_out(tasks)
    assert [one.delivery.number for one in found.deadly] == [3]
    assert [one.delivery.number for one in found.ahead] == [1]
    assert found.chosen is tasks[3]
    assert [one.delivery.number for one in found.others] == [2, 5, 6]
    assert found.lane == 7


def test_without_lanes_nothing_goes_ahead_of_a_suspect() -> None:
    found = sort_out([task(1, 0), task(2, 0, suspect=True), task(3, 0)])
    assert found.ahead == []
    assert [one.delivery.number for one in found.others] == [1, 3]
    assert sort_out([task(1, 0, suspect=True, crashes=3), task(2, 0)]).chosen is None

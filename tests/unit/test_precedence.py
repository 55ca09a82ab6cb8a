"""Who goes first, in a world without processes: whatever depends on what, all come up and down."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from supervisor.board import Board
from supervisor.config import Job
from supervisor.dependencies import Dependency
from supervisor.precedence import Precedence
from supervisor.seat import Seat, Seats, policy_of
from supervisor.states import Action, Event, Goal, Kind, State, step

NAMES = [f"job{number}" for number in range(6)]


class World:
    """A supervisor of seats whose processes only do what the test lets them do."""

    def __init__(self, jobs: list[Job]) -> None:
        board = Board("test")
        self._due: dict[Hashable, Callable[[], None]] = {}
        self.seats = Seats()
        self.processes = {job.name: job.processes for job in jobs}
        for job in jobs:
            for number in range(job.processes):
                seat = Seat(job, number, board.allocate()[1], policy_of(job))
                self.seats.add(seat)
        board.close()
        self.precedence = Precedence(cast("Any", self), self.seats, self)
        self.spawned: list[str] = []
        self.asked_to_stop: list[str] = []

    def at(self, key: Hashable, _when: float, handler: Callable[[], None]) -> None:
        """Take the place of the loop."""
        self._due[key] = handler

    def turn(self) -> None:
        """Do what is due until nothing is."""
        while self._due:
            due, self._due = self._due, {}
            for handler in due.values():
                handler()

    def happen_to(self, seat: Seat, kind: Kind, code: int | None = None) -> None:
        event = self.precedence.gate(seat, Event(kind, 0.0, code))
        before = seat.status
        seat.status, actions = step(seat.policy, before, event)
        for action in actions:
            self._act(seat, action)
        if kind is Kind.EXIT and Action.SPAWN not in actions:
            seat.process = None
        self.precedence.changed()

    def _act(self, seat: Seat, action: Action) -> None:
        if action is Action.SPAWN:
            assert not self.missing(seat), "nobody starts before what it depends on"
            seat.process = cast("Any", object())
            self.spawned.append(seat.name)
        if action is Action.ASK_TO_STOP:
            left = [one.name for one in self.dependents(seat) if one.status.alive]
            assert not left, "nobody is asked to stop before those who depend on it are gone"
            self.asked_to_stop.append(seat.name)

    def stop_next(self) -> None:
        for seat in self.precedence.take_due():
            self.happen_to(seat, Kind.STOP)

    def wanted(self, job: str) -> int:
        return self.processes.get(job, 0)

    def missing(self, seat: Seat) -> list[Dependency]:
        """Give what is not yet as the seat needs it, read off the states alone."""
        return [
            one
            for one in seat.job.depends_on
            for other in self.of(one.job)
            if other.status.state not in GOOD[one.need]
        ]

    def of(self, job: str) -> list[Seat]:
        return [seat for seat in self.seats.by_name.values() if seat.job.name == job]

    def dependents(self, seat: Seat) -> list[Seat]:
        return [
            other
            for other in self.seats.by_name.values()
            if any(one.job == seat.job.name for one in other.job.depends_on)
        ]

    def alive(self) -> list[Seat]:
        return [seat for seat in self.seats.by_name.values() if seat.status.alive]


GOOD = {
    "ready": {State.RUNNING, State.EXITED},
    "started": {State.STARTING, State.RUNNING, State.EXITED, State.BACKOFF},
    "completed": {State.EXITED},
}


@st.composite
def jobs(draw: st.DrawFn) -> list[Job]:
    """Give jobs without a circle, in any order of the file."""
    found = []
    once = {name: draw(st.booleans()) for name in NAMES}
    for rank, name in enumerate(NAMES):
        others = draw(st.lists(st.sampled_from(NAMES[:rank]), unique=True)) if rank else []
        needs = [
            Dependency(other, draw(st.sampled_from(list(GOOD) if once[other] else list(GOOD)[:2])))
            for other in others
        ]
        found.append(
            Job(
                name=name,
                kind="daemon",
                type="worker",
                processes=draw(st.integers(0, 2)),
                restart="never" if once[name] else "always",
                depends_on=tuple(needs),
            )
        )
    return draw(st.permutations(found))


def come_up(world: World, data: st.DataObject) -> None:
    """Let everybody start, and get ready and complete in any order."""
    for seat in world.precedence.in_order(world.seats.by_name.values()):
        world.happen_to(seat, Kind.START)
    world.turn()
    while busy := [seat for seat in world.alive() if not _is_settled(seat)]:
        seat = data.draw(st.sampled_from(busy))
        if seat.status.state is State.STARTING:
            world.happen_to(seat, Kind.READY)
        else:
            world.happen_to(seat, Kind.EXIT, 0)
        world.turn()


def _is_settled(seat: Seat) -> bool:
    return seat.status.state is State.RUNNING and seat.job.restart == "always"


@given(jobs(), st.data())
def test_all_come_up_in_order_and_go_down_in_order(found: list[Job], data: st.DataObject) -> None:
    world = World(found)
    come_up(world, data)
    for seat in world.seats.by_name.values():
        assert seat.status.ready, "nobody waits for ever"
    assert sorted(world.spawned) == sorted(world.seats.by_name), "and nobody starts twice"

    up = {seat.name for seat in world.alive()}
    world.precedence.begin_stop()
    world.stop_next()
    world.turn()
    while alive := world.alive():
        asked = [seat for seat in alive if seat.status.state is State.STOPPING]
        assert asked, "a stop never gets stuck"
        world.happen_to(data.draw(st.sampled_from(asked)), Kind.EXIT, 0)
        world.turn()
    assert set(world.asked_to_stop) == up
    assert all(seat.at_rest for seat in world.seats.by_name.values())


@given(jobs(), st.data())
def test_a_stop_in_the_middle_of_a_start_ends_all(found: list[Job], data: st.DataObject) -> None:
    world = World(found)
    for seat in world.precedence.in_order(world.seats.by_name.values()):
        world.happen_to(seat, Kind.START)
    for _ in range(data.draw(st.integers(0, 5))):
        world.turn()
        if starting := [seat for seat in world.alive() if seat.status.state is State.STARTING]:
            world.happen_to(data.draw(st.sampled_from(starting)), Kind.READY)
    spawned = len(world.spawned)
    world.precedence.begin_stop()
    world.stop_next()
    world.turn()
    while asked := [s for s in world.alive() if s.status.state is State.STOPPING]:
        world.happen_to(data.draw(st.sampled_from(asked)), Kind.EXIT, 0)
        world.turn()
    assert not world.alive()
    assert all(seat.at_rest for seat in world.seats.by_name.values())
    assert len(world.spawned) == spawned, "nobody who waited starts during a stop"


@given(jobs(), st.data())
def test_who_waits_knows_whether_it_is_in_vain(found: list[Job], data: st.DataObject) -> None:
    """With some jobs stopped by hand, who waits is told so, and comes up when they do."""
    world = World(found)
    here = [seat for seat in world.seats.by_name.values() if data.draw(st.booleans())]
    for seat in world.precedence.in_order(here):
        world.happen_to(seat, Kind.START)
    world.turn()
    for _ in range(100):
        busy = [seat for seat in world.alive() if not _is_settled(seat)]
        if not busy:
            break
        kind = Kind.READY if busy[0].status.state is State.STARTING else Kind.EXIT
        world.happen_to(busy[0], kind, 0 if kind is Kind.EXIT else None)
        world.turn()
    for seat in here:
        assert seat.settled, "a command gets its answer"
        if seat.status.held:
            assert seat.waits_in_vain
            assert seat.status.why.startswith("waiting for ")
            assert seat.status.goal is Goal.UP
    for seat in world.seats.by_name.values():
        seat.wanted = True
    come_up(world, data)
    assert all(seat.status.ready for seat in world.seats.by_name.values())


def test_a_job_that_is_still_to_be_furnished_is_waited_for() -> None:
    """As when a reload brings both, and the one that depends comes first."""
    job = Job(name="web", kind="daemon", type="worker", depends_on=(Dependency("db"),))
    world = World([job])
    world.processes["db"] = 1
    (web,) = world.of("web")
    world.happen_to(web, Kind.START)
    assert web.status.why == "waiting for db to be ready"
    assert not web.settled
    world.processes["db"] = 0
    world.precedence.changed()
    world.turn()
    assert world.spawned == ["web:0"]

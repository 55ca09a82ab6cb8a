"""The loop: deadlines in their order, descriptors only while they are watched."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from supervisor.loop import READ, Loop, now, on_the_second


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def test_alarms_ring_in_the_order_of_their_time(loop: Loop) -> None:
    rung: list[str] = []
    begun = now()
    for key, delay in (("c", 0.003), ("a", 0.001), ("b", 0.002)):
        loop.at(key, begun + delay, lambda key=key: rung.append(key))
    while len(rung) < 3:
        loop.turn()
    assert rung == ["a", "b", "c"]


def test_an_alarm_set_anew_replaces_the_old_one(loop: Loop) -> None:
    rung: list[str] = []
    loop.at("key", now(), lambda: rung.append("old"))
    loop.at("key", now() + 0.001, lambda: rung.append("new"))
    while not rung:
        loop.turn()
    assert rung == ["new"]


def test_a_cancelled_alarm_is_silent(loop: Loop) -> None:
    rung: list[str] = []
    loop.at("one", now(), lambda: rung.append("one"))
    loop.at("two", now() + 0.001, lambda: rung.append("two"))
    loop.cancel("one")
    while "two" not in rung:
        loop.turn()
    assert rung == ["two"]


def test_alarms_that_are_set_a_million_times_do_not_pile_up(loop: Loop) -> None:
    for number in range(10_000):
        loop.at("beat", now() + 1000 + number, lambda: None)
    assert len(loop._heap) < 200


def test_a_descriptor_is_served_while_it_is_watched(loop: Loop, pipe: tuple[int, int]) -> None:
    seen: list[bytes] = []
    loop.watch(pipe[0], READ, lambda _mask: seen.append(os.read(pipe[0], 10)))
    os.write(pipe[1], b"one")
    loop.turn()
    loop.unwatch(pipe[0])
    os.write(pipe[1], b"two")
    loop.at("later", now() + 0.001, lambda: seen.append(b"later"))
    while b"later" not in seen:
        loop.turn()
    assert seen == [b"one", b"later"]


def test_a_handler_may_unwatch_what_is_ready_in_the_same_turn(loop: Loop) -> None:
    pipes = [os.pipe() for _ in range(2)]
    seen: list[int] = []

    def serve(mine: int) -> None:
        seen.append(mine)
        loop.unwatch(pipes[1 - mine][0])

    for number, (read_end, write_end) in enumerate(pipes):
        loop.watch(read_end, READ, lambda _mask, number=number: serve(number))
        os.write(write_end, b"x")
    loop.turn()
    assert len(seen) == 1
    for fd in (*pipes[0], *pipes[1]):
        loop.unwatch(fd)
        os.close(fd)


def test_unurgent_deadlines_meet_on_the_second() -> None:
    assert on_the_second(3.2) == on_the_second(3.9) == 4

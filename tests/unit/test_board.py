"""The board: what one process writes, another reads whole, also after the writer's death."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from supervisor.board import BUCKETS_S, UNKNOWN, Board, Phase
from tests.helpers.fork import fork, reap


@pytest.fixture
def board() -> Iterator[Board]:
    board = Board("test")
    yield board
    board.close()


def test_a_page_begins_clean_and_unknown(board: Board) -> None:
    _, page = board.allocate()
    reading = page.read()
    assert (reading.done, reading.beat_ns, reading.backlog, reading.lag) == (0, 0, UNKNOWN, UNKNOWN)
    assert page.suspects() == ()


def test_what_a_child_wrote_survives_its_kill(board: Board) -> None:
    _, page = board.allocate()
    told, tell = os.pipe()

    def work() -> None:
        page.enter(Phase.WORKING)
        page.count(done=5, failed=2)
        page.hands[3] = 77
        page.hands[255] = 78
        os.write(tell, b"x")
        signal.pause()

    pid = fork(work)
    os.close(tell)
    os.read(told, 1)
    os.kill(pid, signal.SIGKILL)
    assert reap(pid) == -signal.SIGKILL
    os.close(told)
    reading = page.read()
    assert (reading.phase, reading.done, reading.failed) == (Phase.WORKING, 5, 2)
    assert page.suspects() == (77, 78)


def test_a_new_incarnation_keeps_the_counters_and_nothing_else(board: Board) -> None:
    _, page = board.allocate()
    page.beat(1)
    page.count(done=5)
    page.set_in_flight(3)
    page.hands[0] = 9
    page.forget_beat()
    reading = page.read()
    assert (reading.done, reading.beat_ns, reading.in_flight) == (5, 0, 0)
    assert page.suspects() == ()


def test_a_page_given_to_another_slot_is_wiped(board: Board) -> None:
    number, page = board.allocate()
    page.count(done=5)
    page.observe([0.2])
    board.release(number)
    again, page = board.allocate()
    assert again == number
    assert page.read().done == 0
    assert page.histogram() == ((0,) * (len(BUCKETS_S) + 1), 0.0)


def test_the_histogram_counts_each_time_in_its_bucket(board: Board) -> None:
    _, page = board.allocate()
    for seconds in (0.001, 0.005, 0.006, 59.0, 61.0):
        page.observe([seconds])
    counts, total = page.histogram()
    assert (counts[0], counts[1], counts[-2], counts[-1]) == (2, 1, 1, 1)
    assert round(total, 3) == 120.012


def test_a_beat_ends_a_parking(board: Board) -> None:
    _, page = board.allocate()
    page.park(10_000)
    assert page.read().parked_until_ns == 10_000
    page.beat(5)
    assert page.read().parked_until_ns == 0

"""All seats of a supervisor: by name in the order of the file, and by their jobs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from supervisor.board import Board
from supervisor.config import Job
from supervisor.seat import Seat, Seats, policy_of


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board("test")
    yield made
    made.close()


def seats_of(board: Board, *names: str) -> Seats:
    seats = Seats()
    for name in names:
        job_name, _, number = name.partition(":")
        job = Job(name=job_name, kind="daemon", type="program")
        seats.add(Seat(job, int(number), board.allocate()[1], policy_of(job)))
    return seats


def test_a_job_has_its_seats_by_their_numbers(board: Board) -> None:
    seats = seats_of(board, "web:2", "mail:0", "web:10", "web:0")
    assert [seat.name for seat in seats.of("web")] == ["web:0", "web:2", "web:10"]
    assert seats.of("nobody") == []


def test_one_that_is_taken_out_is_in_no_place_any_more(board: Board) -> None:
    seats = seats_of(board, "web:0", "web:1", "mail:0")
    seats.remove(seats.by_name["web:0"])
    seats.remove(seats.by_name["mail:0"])
    assert list(seats.by_name) == ["web:1"]
    assert [seat.name for seat in seats.of("web")] == ["web:1"]
    assert seats.of("mail") == []
    seats.sort(["mail", "web"])
    assert list(seats.by_name) == ["web:1"]


def test_they_stand_in_the_order_of_the_file_and_what_has_left_it_last(board: Board) -> None:
    seats = seats_of(board, "old:0", "web:1", "mail:0", "web:0", "new:0")
    seats.sort(["new", "web", "empty", "mail"])
    assert list(seats.by_name) == ["new:0", "web:0", "web:1", "mail:0", "old:0"]

"""The crew: who is hired, and when nobody can be."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from supervisor.board import Board
from supervisor.config import Job
from supervisor.crew import Crew
from supervisor.seat import Seats


def test_a_full_board_is_no_reason_to_die() -> None:
    seats, board = Seats(), Board("test", pages=2)
    supervisor = cast("Any", SimpleNamespace(remnants_of=lambda _slot: set()))
    crew = Crew(supervisor, seats, board)
    job = Job(name="web", kind="daemon", type="worker", processes=3)
    assert [seat.name for seat in crew.hire(job)] == ["web:0", "web:1"]
    assert crew.hire(job) == []
    assert len(crew.of("web")) == 2
    board.close()

"""The rate of a stream: what passes, what is dropped, and that no drop goes uncounted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.rate import LONGEST_S, QUIET_S, Throttle, first_lines


def test_the_lines_of_one_second_pass_at_once() -> None:
    throttle = Throttle(10, 0.0)
    assert [throttle.admit(6, 0.0), throttle.admit(6, 0.0), throttle.admit(1, 0.0)] == [6, 4, 0]
    assert throttle.dropped == 3


def test_time_gives_tokens_back_up_to_those_of_one_second() -> None:
    throttle = Throttle(10, 0.0)
    throttle.admit(10, 0.0)
    assert throttle.admit(9, 0.5) == 5
    assert throttle.admit(99, 100.0) == 10


def test_a_flood_is_told_when_it_is_over_or_lasts() -> None:
    throttle = Throttle(1, 0.0)
    throttle.admit(5, 0.0)
    assert throttle.tell_at() == QUIET_S
    throttle.admit(5, 0.5)
    assert throttle.tell_at() == 0.5 + QUIET_S
    throttle.admit(50, LONGEST_S - 0.1)
    assert throttle.tell_at() == LONGEST_S


@given(
    rate=st.integers(1, 100),
    chunks=st.lists(st.tuples(st.integers(1, 300), st.floats(0, 5)), max_size=50),
)
def test_every_line_is_admitted_or_counted(rate: int, chunks: list[tuple[int, float]]) -> None:
    throttle = Throttle(rate, 0.0)
    moment = 0.0
    admitted = 0
    for count, pause in chunks:
        moment += pause
        admitted += throttle.admit(count, moment)
    assert admitted + throttle.dropped == sum(count for count, _ in chunks)
    assert admitted <= rate * (moment + 1) + 1e-6


@pytest.mark.parametrize(
    ("lines", "count", "first"),
    [
        (b"a\nb\nc", 2, b"a\nb"),
        (b"a\nb\nc", 3, b"a\nb\nc"),
        (b"a\nb\nc", 0, None),
        (b"", 1, b""),
        (b"\n\n", 1, b""),
        (b"\n\n", 2, b"\n"),
    ],
)
def test_the_first_of_some_lines(lines: bytes, count: int, first: bytes | None) -> None:
    assert first_lines(lines, count) == first

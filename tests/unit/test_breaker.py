"""The circuit breaker: a pure machine under random events, and the tasks that wait for its word."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import Reject, Skip, Unavailable
from workers.base import Retry
from workers.breaker import (
    HOLD_S,
    ROW,
    Breaker,
    Circuit,
    Fate,
    Result,
    State,
    result_of,
)
from workers.pool import Task
from workers.sources.source import Delivery

EVERY_S = 30.0


def opened(now: float = 0.0) -> Circuit:
    return Circuit().heard(1, Result.UNAVAILABLE, "payments", now, EVERY_S)


# --- the machine


def test_one_word_opens_it() -> None:
    circuit = opened(100.0)
    assert (circuit.state, circuit.why, circuit.probe_at) == (State.OPEN, "payments", 130.0)


def test_five_messages_in_a_row_open_it_and_four_do_not() -> None:
    circuit = Circuit()
    for number in range(1, ROW):
        circuit = circuit.heard(number, Result.UNREACHABLE, "no", 0.0, EVERY_S)
        assert circuit.state is State.CLOSED
    again = circuit.heard(1, Result.UNREACHABLE, "no", 0.0, EVERY_S)
    assert again.state is State.CLOSED, "the same message a second time is no fifth one"
    assert circuit.heard(9, Result.UNREACHABLE, "no", 0.0, EVERY_S).state is State.OPEN


@pytest.mark.parametrize("between", [Result.REACHED, Result.UNCLEAR])
def test_any_other_end_breaks_the_row(between: Result) -> None:
    circuit = Circuit()
    for number in range(1, ROW):
        circuit = circuit.heard(number, Result.UNREACHABLE, "no", 0.0, EVERY_S)
    circuit = circuit.heard(50, between, "", 0.0, EVERY_S)
    assert circuit.heard(9, Result.UNREACHABLE, "no", 0.0, EVERY_S).state is State.CLOSED


def test_a_probe_closes_it_or_sets_the_time_of_the_next() -> None:
    probing = opened(0.0).probes(7)
    assert probing.heard(8, Result.REACHED, "", 40.0, EVERY_S) == probing, "begun before it opened"
    assert probing.heard(7, Result.REACHED, "", 40.0, EVERY_S) == Circuit()
    failed = probing.heard(7, Result.UNREACHABLE, "still", 40.0, EVERY_S)
    assert (failed.state, failed.probe_at, failed.why) == (State.OPEN, 70.0, "still")
    unclear = probing.heard(7, Result.UNCLEAR, "ValueError", 40.0, EVERY_S)
    assert (unclear.state, unclear.probe_at, unclear.why) == (State.OPEN, 40.0, "payments")
    assert probing.lost(8, 40.0) == probing
    assert probing.lost(7, 40.0).probe_at == 40.0


events = st.lists(
    st.tuples(
        st.integers(1, 8),
        st.sampled_from(Result),
        st.floats(0, 100),
        st.sampled_from(["heard", "probe", "lost"]),
    ),
    max_size=60,
)


@given(events)
def test_whatever_happens_the_machine_stays_whole(
    rows: Sequence[tuple[int, Result, float, str]],
) -> None:
    circuit, now = Circuit(), 0.0
    for number, result, later, what in rows:
        now += later
        before = circuit
        if what == "probe":
            if circuit.state is State.OPEN and now >= circuit.probe_at:
                circuit = circuit.probes(number)
        elif what == "lost":
            circuit = circuit.lost(number, now)
        else:
            circuit = circuit.heard(number, result, "why", now, EVERY_S)
        assert (circuit.state is State.CLOSED) == (circuit.why == "")
        assert len(circuit.row) < ROW
        assert not circuit.row or circuit.state is State.CLOSED
        assert (circuit.probe > 0) == (circuit.state is State.PROBING)
        assert circuit.probe_at <= now + EVERY_S
        if before.state is not State.CLOSED and circuit.state is State.CLOSED:
            assert before.state is State.PROBING
            assert result is Result.REACHED
        if before.state is State.CLOSED and circuit.state is not State.CLOSED:
            assert result in (Result.UNREACHABLE, Result.UNAVAILABLE)


class ClientConnectionError(Exception):
    """As client libraries have them."""


ClientConnectionError.__name__ = "ConnectionError"


@pytest.mark.parametrize(
    ("error", "result"),
    [
        (None, Result.REACHED),
        (Skip("why"), Result.REACHED),
        (Unavailable("x"), Result.UNAVAILABLE),
        (ConnectionRefusedError(), Result.UNREACHABLE),
        (TimeoutError(), Result.UNREACHABLE),
        (ClientConnectionError(), Result.UNREACHABLE),
        (Retry("why"), Result.UNCLEAR),
        (Reject("why"), Result.UNCLEAR),
        (OSError(), Result.UNCLEAR),
    ],
)
def test_what_the_end_of_a_call_tells(error: BaseException | None, result: Result) -> None:
    assert result_of(error) is result


# --- the tasks of a process


def task(number: int, error: BaseException | None = None) -> Task:
    made = Task(Delivery(number, "t", b""), math.inf)
    made.error = error
    return made


def rule(breaker: Breaker, one: Task, now: float = 0.0) -> list[tuple[int, Fate]]:
    return [(ruling.task.delivery.number, ruling.fate) for ruling in breaker.rule(one, now)]


def test_a_row_waits_until_it_is_decided_and_burns_nothing() -> None:
    breaker = Breaker(EVERY_S)
    for number in range(1, ROW):
        assert rule(breaker, task(number, ConnectionError("refused"))) == []
    assert breaker.undecided == ROW - 1
    ruled = rule(breaker, task(ROW, ConnectionError("refused")))
    assert ruled == [(number, Fate.SPARE) for number in range(1, ROW + 1)]
    assert breaker.circuit.why == "no connection (ConnectionError: refused)"
    assert rule(breaker, task(9, TimeoutError())) == [(9, Fate.SPARE)]
    assert rule(breaker, task(10, ValueError())) == [(10, Fate.JUDGE)]
    assert rule(breaker, task(11)) == [(11, Fate.JUDGE)]


def test_a_success_decides_that_they_failed_by_themselves() -> None:
    breaker = Breaker(EVERY_S)
    rule(breaker, task(1, ConnectionError()))
    assert rule(breaker, task(2)) == [(1, Fate.JUDGE), (2, Fate.JUDGE)]
    assert breaker.undecided == 0


def test_nobody_waits_for_long() -> None:
    breaker = Breaker(EVERY_S, hold_s=60.0)
    assert breaker.due_at() == math.inf
    rule(breaker, task(1, ConnectionError()), 5.0)
    assert breaker.due_at() == 5.0 + HOLD_S
    assert list(breaker.due(5.5)) == []
    assert [ruling.fate for ruling in breaker.due(5.0 + HOLD_S)] == [Fate.JUDGE]
    rule(breaker, task(2, ConnectionError()), 7.0)
    assert len(list(breaker.due(7.0, all_of_them=True))) == 1


def test_the_brake_lets_one_through_each_interval() -> None:
    breaker = Breaker(EVERY_S)
    assert breaker.brake(0.0).room > 1
    breaker.fetched(1)
    assert breaker.is_closed
    rule(breaker, task(1, Unavailable("payments")), 0.0)
    assert breaker.brake(29.0) == (0, 30.0, "payments is unavailable")
    assert breaker.brake(30.0).room == 1
    breaker.fetched(2)
    assert breaker.brake(30.0).room == 0
    rule(breaker, task(2, ConnectionError("x")), 31.0)
    assert breaker.brake(60.0) == (0, 61.0, "no connection (ConnectionError: x)")
    breaker.fetched(3)
    breaker.given_back(3, 61.0)
    assert breaker.brake(61.0).room == 1
    breaker.fetched(4)
    rule(breaker, task(4), 62.0)
    assert breaker.brake(62.0).room > 1


def test_what_is_down_is_said_in_one_line() -> None:
    breaker = Breaker(EVERY_S)
    rule(breaker, task(1, Unavailable("a\nb\x1b[1m" + "c" * 1000)))
    assert breaker.circuit.why.startswith("a b [1mccc")
    assert len(breaker.circuit.why) < 250
    breaker = Breaker(EVERY_S)
    rule(breaker, task(1, Unavailable()))
    assert breaker.circuit.why == "what the handler needs is unavailable"

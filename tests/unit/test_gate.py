"""The gate before the fetch: bars, brakes, and what they give leave to together."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from workers.gate import FREE, MANY, Gate, Leave

leaves = st.builds(Leave, st.integers(0, 100), st.floats(0, 1000), st.sampled_from(["", "a", "b"]))


def test_a_gate_without_reasons_is_open() -> None:
    assert Gate().leave(5.0) == Leave(MANY, 0.0, "")


def test_a_bar_shuts_it_until_it_is_lifted_by_its_name() -> None:
    gate = Gate()
    gate.add(lambda _now: FREE)
    gate.bar("quiet", "quiet")
    gate.bar("drain")
    assert gate.leave(1.0) == Leave(0, math.inf, "quiet")
    gate.lift("quiet")
    assert gate.is_barred("drain")
    assert not gate.is_barred("quiet")
    assert gate.leave(1.0).room == 0
    gate.lift("drain")
    gate.lift("drain")
    assert gate.leave(1.0).room == MANY


def test_a_brake_is_asked_with_the_time_of_now() -> None:
    gate = Gate()
    gate.add(lambda now: Leave(0, 10.0) if now < 10 else FREE)
    assert gate.leave(9.0) == Leave(0, 10.0)
    assert gate.leave(10.0).room == MANY


@given(st.lists(leaves, max_size=5))
def test_the_least_room_counts_and_the_latest_time_of_those_that_are_shut(
    given_leaves: list[Leave],
) -> None:
    gate = Gate()
    for one in given_leaves:
        gate.add(lambda _now, one=one: one)
    leave = gate.leave(0.0)
    assert leave.room == min((one.room for one in given_leaves), default=MANY)
    shut = [one.again_at for one in given_leaves if one.room == 0]
    assert leave.again_at == max(shut, default=0.0)
    assert leave.why == ", ".join(one.why for one in given_leaves if one.why)

"""How many threads there should be: bounds, hysteresis, no swinging."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import Job
from workers.autoscale import CALM_S, EVERY_S, HIGH, LOW, Scale


def job(**more: int) -> Job:
    return Job(name="a", kind="daemon", type="queue", **more)  # type: ignore[arg-type]


def test_concurrency_alone_is_fixed() -> None:
    scale = Scale.of(job(concurrency=7))
    assert scale.is_fixed
    assert scale.seen(1.0, 100.0, held=False).size == 7


def test_the_cells_of_the_board_are_the_last_bound() -> None:
    scale = Scale.of(job(concurrency=2, min_concurrency=2, max_concurrency=200, batch=64))
    assert (scale.least, scale.size, scale.most) == (2, 2, 4)


def test_it_doubles_each_second_and_halves_after_calm() -> None:
    scale = Scale.of(job(concurrency=2, min_concurrency=2, max_concurrency=20))
    sizes, now = [], 0.0
    for fill in [1.0] * 5 + [0.5] * 5 + [0.0] * 20:
        scale = scale.seen(fill, now, held=False)
        sizes.append(scale.size)
        now += EVERY_S
    assert sizes[:10] == [4, 8, 16, 20, 20, 20, 20, 20, 20, 20]
    assert sorted(set(sizes[10:]), reverse=True) == [20, 10, 5, 2]
    assert sizes[10 + int(CALM_S) - 1] == 20
    assert sizes[10 + int(CALM_S)] == 10


def test_it_is_thought_over_once_a_second() -> None:
    scale = Scale(1, 8, 1).seen(1.0, 10.0, held=False)
    assert scale.size == 2
    assert scale.seen(1.0, 10.9, held=False) is scale


def test_what_is_held_for_other_reasons_does_not_grow() -> None:
    assert Scale(1, 8, 2).seen(1.0, 10.0, held=True).size == 2


def test_a_short_calm_changes_nothing() -> None:
    scale = Scale(1, 8, 8)
    for now, fill in enumerate([0.0, 0.0, 0.5] * 10):
        scale = scale.seen(fill, float(now), held=False)
    assert scale.size == 8


looks = st.lists(st.tuples(st.floats(0, 2), st.floats(0, 5), st.booleans()), max_size=60)


@given(st.integers(1, 50), st.integers(0, 200), looks)
def test_it_stays_within_its_bounds_and_moves_only_as_told(
    least: int, more: int, rows: Sequence[tuple[float, float, bool]]
) -> None:
    scale, now = Scale(least, least + more, least), 0.0
    for fill, later, held in rows:
        now += later
        before, scale = scale.size, scale.seen(fill, now, held=held)
        assert least <= scale.size <= least + more
        if scale.size > before:
            assert fill > HIGH
            assert not held
        if scale.size < before:
            assert fill < LOW


@given(st.floats(0, 2), st.integers(1, 8))
def test_a_queue_that_stays_as_it_is_leads_to_one_size(fill: float, size: int) -> None:
    scale, now, sizes = Scale(1, 8, size), 0.0, []
    for _ in range(60):
        scale = scale.seen(fill, now, held=False)
        sizes.append(scale.size)
        now += EVERY_S
    changes = [second - first for first, second in pairwise(sizes)]
    assert all(change >= 0 for change in changes) or all(change <= 0 for change in changes)
    assert sizes[-1] == sizes[-10]

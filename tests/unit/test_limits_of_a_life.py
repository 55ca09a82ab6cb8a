"""When a process has met a limit of its life."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import Job
from supervisor.recycling import JITTER, Life, excess

MB = 1 << 20


def job(**limits: int | float) -> Job:
    return Job(name="q", kind="daemon", type="queue", **limits)  # type: ignore[arg-type]  # keys of a Job


def test_without_a_limit_nothing_is_too_much() -> None:
    assert excess(job(), 0.9, Life(1 << 50, 1e9, 1 << 50)) == ""


def test_each_limit_says_what_was_met() -> None:
    assert excess(job(max_memory=128 * MB), 0.95, Life(122 * MB, 5.0, 7)) == (
        "122.0MB of memory, limit 121.6MB (max_memory = 128MB)"
    )
    assert excess(job(max_lifetime=3600.0), 0.9, Life(0, 3240.0, 7)) == (
        "3240.0s old, limit 3240s (max_lifetime = 1h)"
    )
    assert excess(job(max_messages=1000), 1.0, Life(0, 5.0, 1003)) == (
        "1003 messages, limit 1000 (max_messages = 1000)"
    )


def test_memory_that_a_process_has_from_the_start_does_not_count() -> None:
    fat = Life(200 * MB, 5.0, 7, fresh=150 * MB)
    assert not excess(job(max_memory=128 * MB), 1.0, fat)
    assert excess(job(max_memory=160 * MB), 1.0, fat)
    assert excess(job(max_memory=128 * MB, max_lifetime=5.0), 1.0, fat).startswith("5.0s old")


@given(st.floats(1 - JITTER, 1), st.floats(0, 2), st.sampled_from(["memory", "age", "messages"]))
def test_a_limit_is_met_within_its_jitter_and_never_beyond(
    part: float, share: float, what: str
) -> None:
    limits = {"memory": "max_memory", "age": "max_lifetime", "messages": "max_messages"}
    limit = 1000 * MB
    life = Life(**{"memory": 0, "age": 0.0, "messages": 0, what: int(limit * share)})  # type: ignore[arg-type]  # by name
    met = bool(excess(job(**{limits[what]: limit}), part, life))
    if share < 1 - JITTER - 1e-6:
        assert not met
    if share >= 1:
        assert met

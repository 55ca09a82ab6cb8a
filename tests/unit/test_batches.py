"""Batches: how they are formed, and what `handle_batch` may return."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.config import Job
from workers import Message, Skip, Unavailable
from workers.batches import Intake, threads_of, width_of
from workers.handlers import BATCH, Handler, outcomes
from workers.judge import Judge
from workers.pool import Load, Task
from workers.sources.source import Delivery
from workers.testing import run


class FakePool:
    """Threads that take what they get and keep it."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.calls = self.outstanding = 0
        self.loads: list[Load] = []

    def submit(self, load: Load) -> None:
        self.calls += 1
        self.outstanding += len(load)
        self.loads.append(load)

    def finish(self) -> None:
        self.calls = self.outstanding = 0

    def take_back(self) -> list[Task]:
        return []


def intake(size: int, width: int) -> tuple[Intake, FakePool]:
    pool = FakePool(size)
    return Intake(pool, width), pool  # type: ignore[arg-type]  # all that it needs of one


arrivals = st.lists(st.tuples(st.sampled_from("ab"), st.booleans()), max_size=60)


@given(arrivals, st.integers(2, 8), st.integers(1, 3))
def test_each_task_gets_into_one_load_of_its_topic_in_order(
    rows: list[tuple[str, bool]], width: int, size: int
) -> None:
    made, pool = intake(size, width)
    for number, (topic, failed) in enumerate(rows, 1):
        made.submit(Task(Delivery(number, topic, b"", failures=int(failed)), math.inf))
    assert made.outstanding == len(rows)
    while made.outstanding:
        made.feed()
        assert pool.calls <= size
        pool.finish()
    for load in pool.loads:
        assert len({task.delivery.topic for task in load}) == 1
        assert len(load) <= width
        assert len(load) == 1 or not any(task.delivery.failures for task in load)
    for topic in "ab":
        numbers = [task.delivery.number for load in pool.loads for task in load]
        wanted = [number for number, (name, _) in enumerate(rows, 1) if name == topic]
        assert [number for number in numbers if number in set(wanted)] == wanted


def test_without_batches_nothing_waits_before_the_pool() -> None:
    made, pool = intake(1, 1)
    for number in (1, 2):
        made.submit(Task(Delivery(number, "t", b""), math.inf))
    assert pool.calls == 2
    assert made.take_back() == []


def test_what_waits_can_be_taken_back() -> None:
    made, _ = intake(1, 2)
    for number in range(1, 6):
        made.submit(Task(Delivery(number, "t", b""), math.inf))
    made.feed()
    assert [task.delivery.number for task in made.take_back()] == [3, 4, 5]
    assert made.outstanding == 2
    made.feed()
    assert made.outstanding == 2


@given(st.integers(1, 100_000), st.integers(1, 256))
def test_each_message_in_a_handler_has_a_cell_on_the_board(batch: int, threads: int) -> None:
    job = Job(name="a", kind="daemon", type="queue", batch=batch)
    assert 1 <= width_of(job) <= batch
    assert 1 <= threads_of(job, threads) <= threads
    assert width_of(job) * threads_of(job, threads) <= 256


def a_generator() -> Iterator[None]:
    yield


def test_a_result_without_exceptions_says_nothing() -> None:
    for result in (None, 3, [], [1, 2, 3], {"a": 1}, True):
        assert list(outcomes(result, 2)) == [None, None]


def test_a_list_with_exceptions_speaks_of_each_message() -> None:
    skip = Skip("why")
    assert list(outcomes([None, skip, True], 3)) == [None, skip, None]
    with pytest.raises(ValueError, match="2 outcomes for 3 messages"):
        outcomes([None, skip], 3)
    with pytest.raises(TypeError, match="generator: its body has not run"):
        outcomes(a_generator(), 1)


def handle_batch(messages: list[Message], _context: Any) -> list[Exception | None]:
    return [Skip("why") if message.data == 1 else None for message in messages]


def test_a_batch_handler_can_be_tried_without_a_server() -> None:
    assert run(handle_batch, 1).status == "skipped"
    assert run(handle_batch, 2).ok


def test_a_function_that_is_to_get_a_list_says_so_by_its_name() -> None:
    assert Handler.of(handle_batch, BATCH).takes_many
    assert Handler.of(handle_batch, "handle", BATCH).takes_many
    with pytest.raises(TypeError, match="call it handle_batch"):
        Handler.of(put_off, BATCH)
    assert not Handler.of(put_off, "handle", BATCH).takes_many


def put_off(_message: Message, _context: Any) -> object:
    return a_generator()


def test_work_that_was_put_off_is_not_done() -> None:
    with pytest.raises(TypeError, match="a_generator is a generator; write a plain function"):
        Handler.of(a_generator, "handle", BATCH)
    outcome = run(put_off, 1)
    assert not outcome.ok
    assert "returned a generator: its body has not run" in outcome.reason


def test_a_handler_that_finds_a_system_down_burns_no_retry() -> None:
    def handle(_message: Message, _context: Any) -> None:
        raise Unavailable("payments")

    outcome = run(handle, 1, retries=0)
    assert (outcome.status, outcome.reason, outcome.after) == ("returned", "payments", None)


def test_a_dead_letter_keeps_both_ends_of_an_error_that_quotes_everything() -> None:
    task = Task(Delivery(1, "mail", b"7"), math.inf)
    task.error = ValueError("begin" + "x" * 1_000_000 + "end")
    task.traceback = f"Traceback\n{task.error}\n"
    job = Job(name="mails", kind="daemon", type="queue", retries=0)
    _, burial = Judge(job, "mails:0", logging.getLogger("test")).judge(task, stopping=False)
    assert burial is not None
    assert burial.error.startswith("ValueError: begin")
    assert " characters more ... " in burial.error
    assert burial.error.endswith("end")
    assert len(burial.error) < 11_000
    assert burial.traceback.startswith("Traceback")
    assert len(burial.traceback) < 101_000

"""The pool of handler threads: noting, taking back, errors, leases that ran out."""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.board import Page
from tests.helpers.eventually import PATIENCE_S, eventually
from workers.base import Skip
from workers.pool import Doorbell, Load, Pool, Task
from workers.sources.source import Delivery


def task(number: int, until: float = math.inf) -> Task:
    return Task(Delivery(number, "t", b""), until)


@contextmanager
def pool(
    size: int, call: Callable[[Task], None], *, most: int = 0, width: int = 1
) -> Iterator[tuple[Pool, Page, Doorbell]]:
    import os

    def call_all(load: Load) -> None:
        for one in load:
            call(one)

    page = Page(memoryview(bytearray(4096)).cast("q"))
    doorbell = Doorbell()
    made = Pool(size, call_all, page, doorbell, most=most, width=width)
    before = set(threading.enumerate())
    made.start()
    try:
        yield made, page, doorbell
    finally:
        made.close()
        for thread in set(threading.enumerate()) - before:
            thread.join(PATIENCE_S)
        os.close(doorbell.fd)


def collect(pool: Pool, doorbell: Doorbell, count: int) -> list[Task]:
    found: list[Task] = []
    while len(found) < count:
        assert select.select([doorbell.fd], [], [], PATIENCE_S)[0], "nobody rang"
        doorbell.answer()
        found += pool.collect()
    return found


def test_each_task_is_called_and_comes_back() -> None:
    with pool(3, lambda _task: None) as (made, _, doorbell):
        for number in range(1, 101):
            made.submit([task(number)])
        done = collect(made, doorbell, 100)
        assert sorted(one.delivery.number for one in done) == list(range(1, 101))
        assert made.outstanding == made.busy() == 0


def test_no_more_run_than_there_are_threads() -> None:
    running, most, lock = 0, 0, threading.Lock()
    barrier = threading.Barrier(3)

    def call(_task: Task) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        barrier.wait(PATIENCE_S)
        with lock:
            running -= 1

    with pool(3, call) as (made, _, doorbell):
        for number in range(1, 13):
            made.submit([task(number)])
        collect(made, doorbell, 12)
    assert most == 3


def test_the_delivery_is_noted_before_the_call_and_gone_after_it() -> None:
    seen: list[tuple[int, ...]] = []
    with pool(1, lambda _task: seen.append(page.suspects())) as (made, page, doorbell):
        made.submit([task(7)])
        collect(made, doorbell, 1)
        assert seen == [(7,)]
        assert page.suspects() == ()


def test_a_batch_has_a_cell_for_each_of_its_members() -> None:
    seen: list[tuple[int, ...]] = []
    with pool(1, lambda _task: seen.append(page.suspects()), width=3) as (made, page, doorbell):
        made.submit([task(7), task(8, until=0.0), task(9)])
        done = collect(made, doorbell, 3)
        assert seen == [(7, 9), (7, 9)]
        assert page.suspects() == ()
        assert [one.expired for one in done] == [False, True, False]
        assert made.outstanding == made.calls == 0


def test_an_error_of_a_batch_tells_nothing_of_its_members() -> None:
    def call(one: Task) -> None:
        if one.delivery.number == 2:
            raise ValueError("no")

    with pool(1, call, width=3) as (made, _, doorbell):
        made.submit([task(1), task(2), task(3)])
        made.submit([task(2)])
        done = collect(made, doorbell, 4)
    assert [one.spoiled for one in done] == [True, True, True, False]
    assert all(isinstance(one.error, ValueError) for one in done)


def at_work() -> int:
    return sum(thread.name.startswith("handler-") for thread in threading.enumerate())


def test_it_grows_at_once_and_shrinks_when_threads_are_free() -> None:
    go, others = threading.Event(), at_work()

    def wait(_task: Task) -> None:
        go.wait(PATIENCE_S)

    with pool(2, wait, most=8) as (made, _, doorbell):
        for number in range(1, 9):
            made.submit([task(number)])
        made.resize(8)
        eventually(lambda: made.busy() == 8)
        made.resize(1)
        assert made.busy() == 8
        made.resize(3)
        go.set()
        collect(made, doorbell, 8)
        eventually(lambda: at_work() - others == 3)
        made.resize(8)
        assert at_work() - others == 8


@given(st.lists(st.integers(1, 6), max_size=12))
def test_after_any_changes_of_size_there_are_as_many_as_wanted(sizes: list[int]) -> None:
    others = at_work()
    with pool(3, lambda _task: None, most=6) as (made, _, doorbell):
        for number, size in enumerate(sizes, 1):
            made.resize(size)
            made.submit([task(number)])
            assert at_work() - others <= 6
        collect(made, doorbell, len(sizes))
        made.take_back()
        eventually(lambda: at_work() - others == made.size)


def test_it_stays_smaller_where_no_more_threads_are_to_be_had(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    others, real = at_work(), threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if at_work() - others == 4:
            raise RuntimeError("can't start new thread")
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    with pool(2, lambda _task: None, most=8) as (made, _, doorbell):
        made.resize(8)
        assert made.size == at_work() - others == 4
        monkeypatch.undo()
        made.resize(8)
        assert made.size == at_work() - others == 8
        made.submit([task(1)])
        collect(made, doorbell, 1)


def test_it_tells_since_when_calls_go_on() -> None:
    begun, go = threading.Event(), threading.Event()

    def call(_task: Task) -> None:
        begun.set()
        go.wait(PATIENCE_S)

    with pool(2, call) as (made, _, doorbell):
        assert made.oldest() == math.inf
        before = time.monotonic()
        made.submit([task(1)])
        assert begun.wait(PATIENCE_S)
        assert before <= made.oldest() <= time.monotonic()
        assert made.begun_before(before) == []
        [(load, thread)] = made.begun_before(math.inf)
        assert thread in {one.ident for one in threading.enumerate()}
        assert [one.delivery.number for one in load] == [1]
        go.set()
        collect(made, doorbell, 1)
        assert made.begun_before(math.inf) == []


def test_what_is_not_begun_can_be_taken_back() -> None:
    begun, go = threading.Event(), threading.Event()

    def call(_task: Task) -> None:
        begun.set()
        go.wait(PATIENCE_S)

    with pool(1, call) as (made, _, doorbell):
        for number in range(1, 6):
            made.submit([task(number)])
        assert begun.wait(PATIENCE_S)
        assert [one.delivery.number for one in made.take_back()] == [2, 3, 4, 5]
        assert made.outstanding == made.busy() == 1
        go.set()
        assert [one.delivery.number for one in collect(made, doorbell, 1)] == [1]


def test_errors_come_back_with_their_traceback_and_words_without() -> None:
    errors: dict[int, BaseException] = {1: ValueError("no"), 2: Skip("why"), 3: SystemExit(4)}

    def call(one: Task) -> None:
        raise errors[one.delivery.number]

    with pool(1, call) as (made, _, doorbell):
        for number in errors:
            made.submit([task(number)])
        done = collect(made, doorbell, 3)
    assert [one.error for one in done] == list(errors.values())
    assert [bool(one.traceback) for one in done] == [True, False, True]


def test_a_task_whose_lease_ran_out_is_not_begun() -> None:
    called: list[Task] = []
    with pool(1, called.append) as (made, _, doorbell):
        made.submit([task(1, until=0.0)])
        [done] = collect(made, doorbell, 1)
    assert done.expired
    assert called == []


def test_a_doorbell_rung_often_is_answered_once() -> None:
    import os

    doorbell = Doorbell()
    for _ in range(3):
        doorbell.ring()
    assert select.select([doorbell.fd], [], [], 0)[0]
    doorbell.answer()
    assert not select.select([doorbell.fd], [], [], 0)[0]
    doorbell.ring()
    assert select.select([doorbell.fd], [], [], 0)[0]
    os.close(doorbell.fd)

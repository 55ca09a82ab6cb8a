"""The pool of handler threads: noting, taking back, errors, leases that ran out."""

from __future__ import annotations

import math
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from supervisor.board import Page
from tests.helpers.eventually import PATIENCE_S
from workers.base import Skip
from workers.pool import Doorbell, Pool, Task
from workers.sources.source import Delivery


def task(number: int, until: float = math.inf) -> Task:
    return Task(Delivery(number, "t", b""), until)


@contextmanager
def pool(size: int, call: Callable[[Task], None]) -> Iterator[tuple[Pool, Page, Doorbell]]:
    import os

    page = Page(memoryview(bytearray(4096)).cast("q"))
    doorbell = Doorbell()
    made = Pool(size, call, page, doorbell)
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
            made.submit(task(number))
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
            made.submit(task(number))
        collect(made, doorbell, 12)
    assert most == 3


def test_the_delivery_is_noted_before_the_call_and_gone_after_it() -> None:
    seen: list[tuple[int, ...]] = []
    with pool(1, lambda _task: seen.append(page.suspects())) as (made, page, doorbell):
        made.submit(task(7))
        collect(made, doorbell, 1)
        assert seen == [(7,)]
        assert page.suspects() == ()


def test_what_is_not_begun_can_be_taken_back() -> None:
    begun, go = threading.Event(), threading.Event()

    def call(_task: Task) -> None:
        begun.set()
        go.wait(PATIENCE_S)

    with pool(1, call) as (made, _, doorbell):
        for number in range(1, 6):
            made.submit(task(number))
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
            made.submit(task(number))
        done = collect(made, doorbell, 3)
    assert [one.error for one in done] == list(errors.values())
    assert [bool(one.traceback) for one in done] == [True, False, True]


def test_a_task_whose_lease_ran_out_is_not_begun() -> None:
    called: list[Task] = []
    with pool(1, called.append) as (made, _, doorbell):
        made.submit(task(1, until=0.0))
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

"""Threads that come with a backlog and go with it, over every source."""

from __future__ import annotations

from pathlib import Path

from supervisor import kernel
from tests.conformance.conftest import Bench, by_the_clock
from tests.helpers import shop
from tests.helpers.forked import Forked, Nursery

pytestmark = by_the_clock


def handlers(one: Forked) -> int:
    """Count the threads that run handlers: all but the main one and the lifeline's."""
    return len(list(Path(f"/proc/{one.pid}/task").iterdir())) - 2


def test_threads_grow_with_the_backlog_and_shrink_in_calm(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *({"gate": True, "n": n} for n in range(60)))
    job = bench.job(
        journal.path,
        concurrency=2,
        min_concurrency=2,
        max_concurrency=9,
        queue_size=20,
    )
    one = nursery.fork(job)
    one.until_ready()
    one.until(lambda: one.page.read().in_flight == 9)
    assert handlers(one) == 9
    one.until(lambda: "threads 9" in kernel.title_of(one.pid))
    one.until(lambda: journal.counts("begin").total() >= 9)
    assert journal.counts("begin").total() == 9, "no more than there are threads"
    shop.open_gate(journal.path)
    one.until(lambda: one.page.read().done == 60)
    one.until(lambda: handlers(one) == 2)
    bench.publish("t", *range(1000, 1010))
    one.until(lambda: one.page.read().done == 70)
    assert one.stop() == 0
    assert set(journal.counts("end").values()) == {1}
    assert one.page.suspects() == ()


def test_a_crash_of_a_grown_process_leaves_all_its_suspects(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *({"gate": True, "n": n} for n in range(40)))
    job = bench.job(
        journal.path, concurrency=1, min_concurrency=1, max_concurrency=8, queue_size=10
    )
    one = nursery.fork(job)
    one.until(lambda: len(one.page.suspects()) == 8)
    one.kill()
    one.wait()
    assert len(set(one.page.suspects())) == 8

"""`handler_timeout` over every source: its process ends; the overdue message is the suspect."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from supervisor.secret import Secret
from supervisor.slot import OVERDUE, Fallen
from tests.conformance.conftest import Bench, by_the_clock, empty
from tests.helpers import shop
from tests.helpers.forked import Nursery

pytestmark = by_the_clock


def test_the_rest_drains_and_the_process_leaves_with_a_failure(
    bench: Bench, nursery: Nursery, journal: shop.Journal, tmp_path: Path
) -> None:
    bench.publish("t", *range(20))
    stderr = os.open(tmp_path / "stderr", os.O_WRONLY | os.O_CREAT)
    job = bench.job(journal.path, concurrency=2, handler_timeout=4.0)
    one = nursery.fork(job, stdout=stderr)
    os.close(stderr)
    one.until(lambda: one.page.read().done == 20)
    bench.publish("t", {"for_ever": True}, {"until_overdue": True}, *range(100, 110))
    one.until(lambda: OVERDUE in one.lines)
    assert one.wait() == 1
    [suspect] = one.page.suspects()
    assert one.said("has taken longer than handler_timeout (4s)")
    assert "in _never_end" in (tmp_path / "stderr").read_text(), "the stacks of all threads"
    source = bench.source("instance/orders:0/2")
    source.open()
    source.release(one.slot.owner, (suspect,))
    left = source.fetch([("t", 50)], 50)
    source.close()
    assert [b"for_ever" in delivery.body for delivery in left if delivery.suspect] == [True]
    assert all((one.attempts, one.failures, one.crashes) == (0, 0, 0) for one in left)
    ended = journal.counts("end")
    assert set(ended.values()) == {1}
    assert len(ended) + len(left) == 32, "nobody is lost"
    assert ended[next(name for name in ended if "until_overdue" in name)] == 1


@pytest.mark.parametrize(("handler", "batch"), [("handle", 1), ("Packer", 4)])
def test_one_that_never_ends_is_buried_like_one_that_kills(
    bench: Bench,
    nursery: Nursery,
    journal: shop.Journal,
    tmp_path: Path,
    handler: str,
    batch: int,
) -> None:
    """And nobody whose call it shared: all had claimed their keys, and each is free again."""
    bench.publish("t", {"for_ever": True}, *range(5))
    keys = Secret((f"sqlite:///{tmp_path}/keys.db",)) if batch > 1 else None
    job = bench.job(
        journal.path, handler, handler_timeout=0.3, batch=batch, idempotency=keys, lease=600.0
    )
    one = nursery.fork(job)
    while not empty(bench)():
        one.until(lambda one=one: one.gone() or empty(bench)())
        if one.gone():
            assert one.status == 1
            one = nursery.fork(job, 0, (Fallen(one.slot.owner, one.page.suspects()),))
    assert one.stop() == 0
    [letter] = bench.letters("t")
    assert "for_ever" in letter.id
    assert letter.crashes == 3
    assert len(journal.counts("end")) == 5


def test_neighbours_that_do_not_end_in_time_are_suspects_too(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"for_ever": True})
    job = bench.job(journal.path, handler_timeout=1.0, stop_timeout=0.3)
    one = nursery.fork(job)
    one.until(lambda: journal.counts("begin"))
    one.until(lambda: one.page.read().in_flight == 1)
    # It begins when the other one is nearly overdue, and waits for a gate that stays shut.
    one.until(lambda: one.page.read().beat_ns > 0)
    bench.publish("t", {"gate": True})
    one.until(lambda: len(journal.counts("begin")) == 2 or one.gone())
    begun = len(journal.counts("begin"))
    assert one.wait() == 1
    # One may be in the hands of a thread that has not come to its handler.
    assert begun <= len(one.page.suspects()) <= 2


def test_calls_in_time_are_left_alone(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *({"wait": 0.05, "n": n} for n in range(20)))
    one = nursery.fork(bench.job(journal.path, handler_timeout=60.0))
    one.until(lambda: one.page.read().done == 20)
    assert one.stop() == 0
    assert OVERDUE not in one.lines

"""A system behind the handlers that is down, over every source: no retry is burned."""

from __future__ import annotations

import pytest

from supervisor.slot import READY
from tests.conformance.conftest import Bench, by_the_clock
from tests.helpers import shop
from tests.helpers.forked import Nursery
from workers.breaker import HOLD_S

pytestmark = by_the_clock


@pytest.mark.parametrize("down", ["unavailable", "refused"])
def test_an_outage_burns_no_retry_and_ends_by_itself(
    bench: Bench, nursery: Nursery, journal: shop.Journal, down: str
) -> None:
    bench.publish("t", *({"needs": down, "n": n} for n in range(40)))
    one = nursery.fork(bench.job(journal.path, retries=0, retry_backoff=HOLD_S))
    one.until(lambda: any(line.startswith(b"unready ") for line in one.lines))
    # Probes go on, one at a time.
    calls = journal.counts("begin").total()
    one.until(lambda: journal.counts("begin").total() > calls + 2)
    assert one.page.read().done == one.page.read().failed == 0
    shop.open_gate(journal.path)
    one.until(lambda: one.page.read().done == 40)
    one.until(lambda: one.lines.count(READY) >= 2)
    assert one.stop() == 0
    read = one.page.read()
    assert (read.done, read.failed, read.retried, read.dead) == (40, 0, 0, 0)
    assert set(journal.counts("end").values()) == {1}
    assert bench.letters("t") == []
    told = b"shop is unavailable" if down == "unavailable" else b"no connection"
    assert any(line.startswith(b"unready " + told) for line in one.lines)


def test_while_it_is_down_only_one_message_is_tried_at_a_time(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"needs": "unavailable"})
    job = bench.job(journal.path, retry_backoff_max=3600.0, retry_backoff=0.05)
    one = nursery.fork(job)
    one.until(lambda: any(line.startswith(b"unready ") for line in one.lines))
    bench.publish("t", *range(30))
    one.until(lambda: one.page.read().backlog == 30)
    assert journal.counts("begin").total() == 1
    assert one.stop() == 0
    depth = bench.depth("t")
    seen = (30, 1, 0) if bench.SEES_WORK else (31, 0, 0)
    assert (depth.depth, depth.delayed, depth.in_flight) == seen


def test_a_single_message_that_cannot_connect_is_an_ordinary_failure(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"needs": "refused"}, *range(10))
    one = nursery.fork(bench.job(journal.path, retries=1))
    one.until(lambda: len(bench.letters("t")) == 1)
    one.until(lambda: one.page.read().done == 10)
    assert one.stop() == 0
    assert bench.letters("t")[0].failures == 2
    assert not any(line.startswith(b"unready") for line in one.lines)


def test_an_outage_meets_a_stop(bench: Bench, nursery: Nursery, journal: shop.Journal) -> None:
    bench.publish("t", *({"needs": "refused", "until_overdue": True, "n": n} for n in range(3)))
    one = nursery.fork(bench.job(journal.path, retries=0, retry_backoff=HOLD_S))
    one.until(lambda: journal.counts("begin").total() == 3)
    assert one.stop() == 0
    assert bench.depth("t").depth == 3
    assert bench.letters("t") == []


def test_a_batch_that_cannot_connect_opens_it_too(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *({"needs": "refused", "n": n} for n in range(20)))
    one = nursery.fork(bench.job(journal.path, "Packer", batch=10, retries=0, retry_backoff=HOLD_S))
    one.until(lambda: any(line.startswith(b"unready ") for line in one.lines))
    shop.open_gate(journal.path)
    one.until(lambda: one.page.read().done == 20)
    assert one.stop() == 0
    assert (one.page.read().failed, one.page.read().dead) == (0, 0)
    assert set(journal.counts("end").values()) == {1}

"""Two features that meet, over every source: nothing is lost, burned or stuck between them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor import kernel
from supervisor.secret import Secret
from supervisor.slot import QUIET, READY, RESUME
from supervisor.values import Topic
from tests.conformance.conftest import Bench, empty, leasing, several_topics
from tests.helpers import shop
from tests.helpers.forked import Forked, Nursery


def threads(one: Forked) -> int:
    """Count the threads that run handlers: all but the main one and the lifeline's."""
    return len(list(Path(f"/proc/{one.pid}/task").iterdir())) - 2


def hush(one: Forked) -> None:
    """Have it take nothing new, and wait until it does so."""
    one.order(QUIET)
    one.until(lambda: "quiet" in kernel.title_of(one.pid))


@pytest.mark.parametrize("how", ["paused", "quiet"])
def test_an_outage_that_ends_while_nothing_is_taken(
    bench: Bench, nursery: Nursery, journal: shop.Journal, how: str
) -> None:
    bench.publish("t", *({"needs": "unavailable", "n": n} for n in range(20)))
    one = nursery.fork(bench.job(journal.path, retries=0))
    one.until(lambda: any(line.startswith(b"unready ") for line in one.lines))
    if how == "paused":
        bench.pause("t")
        one.until(one.page.paused)
    else:
        hush(one)
    shop.open_gate(journal.path)
    if how == "paused":
        bench.resume("t")
    else:
        one.order(RESUME)
    one.until(lambda: one.page.read().done == 20)
    one.until(lambda: one.lines.count(READY) >= 2)
    assert one.stop() == 0
    read = one.page.read()
    assert (read.failed, read.retried, read.dead) == (0, 0, 0)
    assert set(journal.counts("end")) == set(journal.counts("begin"))


@leasing
def test_a_backlog_of_a_quiet_process_brings_no_threads(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    job = bench.job(
        journal.path, concurrency=1, min_concurrency=1, max_concurrency=8, queue_size=10
    )
    one = nursery.fork(job)
    one.until_ready()
    hush(one)
    bench.publish("t", *({"gate": True, "n": n} for n in range(50)))
    one.until(lambda: one.page.read().backlog == 50)
    seen = one.page.read().beat_ns
    one.until(lambda: one.page.read().beat_ns > seen + 3_000_000_000)
    assert threads(one) == 1
    one.order(RESUME)
    one.until(lambda: threads(one) == 8)
    shop.open_gate(journal.path)
    one.until(empty(bench))
    assert one.stop() == 0
    assert len(journal.counts("end")) == 50


@several_topics
@pytest.mark.parametrize("order", ["weighted", "strict"])
def test_a_paused_topic_leaves_its_share_to_the_others(
    bench: Bench, nursery: Nursery, journal: shop.Journal, order: str
) -> None:
    for topic in ("high", "low"):
        bench.publish(topic, *(f"{topic}{n}" for n in range(300)))
    bench.pause("high")
    topics = (Topic("high", 99), Topic("low", 1))
    one = nursery.fork(replace(bench.job(journal.path), topics=topics, order_topics=order))
    one.until(empty(bench, "low"))
    assert bench.depth("high").depth == 300
    bench.resume("high")
    one.until(empty(bench, "high"))
    assert one.stop() == 0
    assert one.page.read().done == 600


def test_a_letter_that_is_replayed_is_handled_and_its_key_is_kept_then(
    bench: Bench, nursery: Nursery, journal: shop.Journal, tmp_path: Path
) -> None:
    keys = Secret((f"sqlite:///{tmp_path}/keys.db",))
    bench.publish("t", {"fail": 99})
    one = nursery.fork(bench.job(journal.path, retries=1, idempotency=keys))
    one.until(lambda: bench.letters("t"))
    assert one.stop() == 0
    with closing(bench.desk()) as desk:
        assert desk.replay([letter.number for letter in desk.walk("t")]) == 1
    two = nursery.fork(bench.job(journal.path, "Packer", idempotency=keys))
    two.until(empty(bench))
    bench.publish("t", {"fail": 99})
    two.until(empty(bench))
    assert two.stop() == 0
    assert bench.letters("t") == []
    assert (two.page.read().done, two.page.read().skipped) == (1, 1)

"""Batches over every source: how they are formed, and what one bad message does to the others."""

from __future__ import annotations

import signal

from supervisor.slot import Fallen
from tests.conformance.conftest import Bench, empty, leasing, several_topics
from tests.helpers import shop
from tests.helpers.forked import Forked, Nursery


def until_done(one: Forked, bench: Bench, *topics: str) -> None:
    one.until(empty(bench, *topics))
    assert one.stop() == 0


def batches(journal: shop.Journal) -> list[list[str]]:
    return [line[1].split("+") for line in journal.lines() if line[0] == "batch"]


@several_topics
def test_a_backlog_is_handled_in_batches_of_one_topic(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *(f"t{n}" for n in range(60)))
    bench.publish("u", *(f"u{n}" for n in range(60)))
    job = bench.job(journal.path, "Packer", topics=("t", "u"), batch=20, concurrency=2)
    one = nursery.fork(job)
    until_done(one, bench, "t", "u")
    found = batches(journal)
    assert max(map(len, found)) <= 20
    assert len(found) < 30, "they came in batches"
    assert all(len({name[0] for name in batch}) == 1 for batch in found)
    assert len(journal.counts("end")) == one.page.read().done == 120
    assert set(journal.counts("end").values()) == {1}


@leasing
def test_one_bad_message_does_not_bury_its_neighbours(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *range(9), {"spoil": 99})
    one = nursery.fork(bench.job(journal.path, "Packer", batch=10, retries=1))
    until_done(one, bench)
    assert len(journal.counts("end")) == one.page.read().done == 9
    [letter] = bench.letters("t")
    assert letter.failures == 2
    assert letter.error.startswith("ValueError: spoiled by")
    assert one.said("a batch failed, its messages are called one by one: ValueError: spoiled")
    assert one.page.read().failed == 2, "the failure of the batch is nobody's"
    bad = next(batch for batch in batches(journal) if len(batch) > 1)
    assert [letter.id] in batches(journal)
    assert letter.id in bad


@leasing
def test_a_message_that_failed_stays_alone(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"spoil": 9})
    one = nursery.fork(bench.job(journal.path, "Packer", batch=10, concurrency=1, retries=9))
    one.until(lambda: one.page.read().retried > 0)
    bench.publish("t", {"gate": True})
    one.until(lambda: any("gate" in batch[0] for batch in batches(journal)))
    # While the gate keeps the only thread busy, the retry comes due and waits.
    bench.publish("t", *range(5))
    one.until(lambda: bench.depth("t").delayed == 0)
    shop.open_gate(journal.path)
    until_done(one, bench)
    bad = batches(journal)[0]
    assert all(batch == bad for batch in batches(journal) if bad[0] in batch)


@leasing
def test_what_a_batch_returns_settles_single_messages(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", 1, {"word": "skip"}, 2, {"word": "reject"}, 3)
    one = nursery.fork(bench.job(journal.path, "Packer", batch=5))
    until_done(one, bench)
    read = one.page.read()
    assert (read.done, read.skipped, read.dead, read.failed) == (3, 1, 1, 0)
    assert [letter.error for letter in bench.letters("t")] == ["why"]
    assert set(journal.counts("end").values()) == {1}


@leasing
def test_after_a_crash_all_members_are_suspects_and_run_alone(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *({"gate": True, "n": n} for n in range(6)))
    one = nursery.fork(bench.job(journal.path, "Packer", batch=6, concurrency=1))
    one.until(lambda: batches(journal))
    members = len(batches(journal)[0])
    assert len(one.page.suspects()) == members == 6
    one.kill(signal.SIGKILL)
    one.wait()
    shop.open_gate(journal.path)
    two = nursery.fork(one.slot.job, 0, (Fallen(one.slot.owner, one.page.suspects()),))
    until_done(two, bench)
    assert [len(batch) for batch in batches(journal)] == [6] + [1] * 6
    assert set(journal.counts("end").values()) == {1}
    assert bench.letters("t") == []


@leasing
def test_a_message_that_kills_its_batch_is_buried_alone(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *range(4), {"die": True})
    one = nursery.fork(bench.job(journal.path, "Packer", batch=5, concurrency=1))
    for _ in range(4):
        assert one.wait() == -signal.SIGKILL
        fallen = (Fallen(one.slot.owner, one.page.suspects()),)
        one = nursery.fork(one.slot.job, 0, fallen)
    until_done(one, bench)
    assert len(journal.counts("end")) == 4
    [letter] = bench.letters("t")
    assert letter.crashes == 3


@leasing
def test_a_stop_gives_back_what_waits_for_a_batch(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    # The quick ones first: what follows is fetched beyond what runs at once.
    bench.publish("t", *range(20))
    one = nursery.fork(bench.job(journal.path, "Packer", batch=4, concurrency=1))
    one.until(lambda: one.page.read().done == 20)
    before = len(batches(journal))
    bench.publish("t", *({"gate": True, "n": n} for n in range(10)))
    one.until(lambda: len(batches(journal)) > before)
    running = len(batches(journal)[-1])
    one.until(lambda: bench.depth("t").in_flight == 10)
    one.order(b"stop stop")
    one.until(lambda: bench.depth("t").depth == 10 - running)
    shop.open_gate(journal.path)
    assert one.wait() == 0
    assert one.page.read().done == 20 + running


@leasing
def test_a_class_with_handle_batch_alone_works_without_batches_too(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", 1, {"word": "reject"}, {"spoil": 1})
    one = nursery.fork(bench.job(journal.path, "Packer"))
    until_done(one, bench)
    read = one.page.read()
    assert (read.done, read.dead, read.retried) == (2, 1, 1)
    assert {len(batch) for batch in batches(journal)} == {1}


@leasing
def test_handle_alone_is_refused_where_batches_are_wanted(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    one = nursery.fork(bench.job(journal.path, "handle", batch=2))
    assert one.wait() == 1
    assert one.said("call it handle_batch, or give a class with a method handle_batch")

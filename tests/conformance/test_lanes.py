"""Order in lanes: never two messages of one lane at once, never one before its time.

The loop's half of the bargain, over a queue file whose messages are given lanes by a wrapper.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from supervisor import kernel
from supervisor.config import Job
from supervisor.slot import QUIET, RESUME, Fallen, Slot
from tests.conformance.conftest import Bench, Servers, SqliteBench, empty
from tests.helpers import laned, shop
from tests.helpers.forked import Forked, Nursery
from workers import codec, runtime
from workers.breaker import HOLD_S
from workers.consumer import Consumer


class Lanes:
    """A queue file with lanes, and one process at a time that consumes it."""

    def __init__(self, bench: Bench, nursery: Nursery, journal: shop.Journal) -> None:
        self.bench = bench
        self.journal = journal
        self._nursery = nursery

    def job(self, handler: str = "handle", **more: Any) -> Job:
        more = {"lease": 600.0, "concurrency": 6} | more
        job = self.bench.job(self.journal.path, handler, **more)
        return Job(**{**_fields(job), "handler": f"{laned.__name__}:{handler}"})

    def fork(self, job: Job, fallen: tuple[Fallen, ...] = ()) -> Forked:
        def main(seat: Slot) -> int:
            source = laned.Laned(self.bench.source(seat.owner))
            return runtime.main(seat, lambda child: Consumer(child, source).run())

        return self._nursery.fork(job, fallen=fallen, main=main)

    def successor(self, one: Forked) -> Forked:
        return self.fork(one.slot.job, (Fallen(one.slot.owner, one.page.suspects()),))

    def until_empty(self, one: Forked) -> Forked:
        """Go on until nothing is left, over as many deaths as it takes."""
        while not empty(self.bench)():
            one.until(lambda one=one: one.gone() or empty(self.bench)())  # type: ignore[misc]
            if one.gone():
                one = self.successor(one)
        return one

    def dead(self) -> list[str]:
        return [letter.id for letter in self.bench.letters("t")]


def _fields(job: Job) -> dict[str, Any]:
    return {name: getattr(job, name) for name in job.__dataclass_fields__}


@pytest.fixture
def lanes(
    tmp_path: Path, nursery: Nursery, journal: shop.Journal, servers: Servers
) -> Iterator[Lanes]:
    with closing(SqliteBench(tmp_path, servers)) as bench:
        yield Lanes(bench, nursery, journal)


def test_lanes_keep_their_order_and_go_side_by_side(lanes: Lanes) -> None:
    gate: dict[str, object] = {f"{lane}/5": {"gate": True} for lane in (1, 2, 3)}
    lanes.bench.publish_raw("t", *laned.bodies(9, 40, gate))
    one = lanes.fork(lanes.job())
    # Three lanes stand still, and six threads are enough for the others.
    one.until(lambda: one.page.read().done == 3 * 5 + 6 * 40)
    one.until(lambda: one.page.read().in_flight == 3)
    shop.open_gate(lanes.journal.path)
    one.until(empty(lanes.bench))
    assert one.stop() == 0
    assert laned.disorder(lanes.journal) == []
    assert set(lanes.journal.counts("end").values()) == {1}
    assert one.page.read().done == 9 * 40
    assert one.page.read().in_flight == 0


def test_more_lanes_than_threads_have_their_turns(lanes: Lanes) -> None:
    lanes.bench.publish_raw("t", *laned.bodies(50, 20))
    one = lanes.fork(lanes.job(concurrency=2))
    one.until(empty(lanes.bench))
    assert one.stop() == 0
    assert laned.disorder(lanes.journal) == []
    assert one.page.read().done == 1000


def test_what_waits_for_its_retry_lets_nothing_pass(lanes: Lanes) -> None:
    orders: dict[str, object] = {
        "1/3": {"fail": 2},
        "1/4": {"fail": 1},
        "2/0": {"fail": 99},
        "2/1": {"raise": "skip"},
        "3/7": {"raise": "retry"},
        "3/8": {"raise": "reject"},
    }
    lanes.bench.publish_raw("t", *laned.bodies(5, 30, orders))
    one = lanes.fork(lanes.job(retries=2))
    one.until(empty(lanes.bench))
    assert one.stop() == 0
    gone = lanes.dead()
    assert sorted(gone) == ["2/0", "3/8"]
    assert laned.disorder(lanes.journal, [*gone, "2/1"]) == []
    read = one.page.read()
    assert (read.done, read.skipped, read.dead, read.failed) == (147, 1, 2, 6)
    assert set(lanes.journal.counts("end").values()) == {1}


def test_deaths_keep_the_order(lanes: Lanes) -> None:
    orders: dict[str, object] = {f"{lane}/{n}": {"fail": 1} for lane in (2, 3) for n in (5, 30)}
    orders |= {"4/20": {"die": True}, "5/10": {"wait": 0.05}}
    lanes.bench.publish_raw("t", *laned.bodies(6, 60, orders))
    one = lanes.fork(lanes.job())
    chance = random.Random(1)
    for share in range(1, 6):
        enough = share * 50 + chance.randrange(20)
        one.until(
            lambda one=one, enough=enough: one.gone() or len(lanes.journal.counts("end")) > enough
        )
        if not one.gone():
            one.kill()
        one.wait()
        one = lanes.successor(one)
    one = lanes.until_empty(one)
    assert one.stop() == 0
    assert lanes.dead() == ["4/20"]
    assert laned.disorder(lanes.journal, lanes.dead()) == []
    assert len(lanes.journal.counts("end")) == 359


def test_stops_keep_the_order(lanes: Lanes) -> None:
    orders: dict[str, object] = {f"2/{n}": {"fail": 1} for n in range(0, 60, 7)}
    orders |= {f"3/{n}": {"wait": 0.01} for n in range(60)}
    lanes.bench.publish_raw("t", *laned.bodies(6, 60, orders))
    job = lanes.job()
    for enough in (40, 120, 200, 280):
        one = lanes.fork(job)
        one.until(lambda enough=enough: lanes.journal.counts("end").total() > enough)
        assert one.stop() == 0
        assert lanes.bench.depth("t").in_flight == 0
    one = lanes.fork(job)
    one.until(empty(lanes.bench))
    assert one.stop() == 0
    assert laned.disorder(lanes.journal) == []
    assert set(lanes.journal.counts("end").values()) == {1}


def test_batches_are_of_one_lane_and_one_bad_message_holds_up_only_its_lane(lanes: Lanes) -> None:
    orders: dict[str, object] = {"1/7": {"spoil": 2}, "2/9": {"spoil": 99}, "3/3": {"die": True}}
    lanes.bench.publish_raw("t", *laned.bodies(4, 50, orders))
    one = lanes.fork(lanes.job("Packer", batch=8, retries=2))
    one = lanes.until_empty(one)
    assert one.stop() == 0
    assert sorted(lanes.dead()) == ["2/9", "3/3"]
    assert laned.disorder(lanes.journal, lanes.dead(), batch=8) == []
    batches = [line[1].split("+") for line in lanes.journal.lines() if line[0] == "batch"]
    assert all(len({name.partition("/")[0] for name in batch}) == 1 for batch in batches)
    places = [[int(name.partition("/")[2]) for name in batch] for batch in batches]
    assert all(found == list(range(found[0], found[0] + len(found))) for found in places)
    assert len(lanes.journal.counts("end")) == 198


@pytest.mark.parametrize("down", ["unavailable", "refused"])
def test_an_outage_keeps_the_order(lanes: Lanes, down: str) -> None:
    # Whether a row of failures is an outage depends on how close they come to each other.
    one = lanes.fork(lanes.job(retries=1000, retry_backoff=HOLD_S))
    orders: dict[str, object] = {
        f"{lane}/{n}": {"needs": down} for lane in range(1, 7) for n in range(10)
    }
    lanes.bench.publish_raw("t", *laned.bodies(6, 30, orders))
    one.until(lambda: any(line.startswith(b"unready ") for line in one.lines))
    calls = lanes.journal.counts("begin").total()
    one.until(lambda: lanes.journal.counts("begin").total() > calls + 2)
    shop.open_gate(lanes.journal.path)
    one.until(empty(lanes.bench))
    assert one.stop() == 0
    assert lanes.dead() == []
    assert laned.disorder(lanes.journal) == []
    assert set(lanes.journal.counts("end").values()) == {1}


@pytest.mark.parametrize("number", [1, 3])
def test_an_outage_that_few_lanes_meet_burns_no_retry(lanes: Lanes, number: int) -> None:
    """Of each lane one message at a time can fail: too few for a row of different ones."""
    one = lanes.fork(lanes.job(retries=0))
    orders: dict[str, object] = {f"{lane}/0": {"needs": "refused"} for lane in range(1, number + 1)}
    lanes.bench.publish_raw("t", *laned.bodies(number, 10, orders))
    one.until(lambda: any(line.startswith(b"unready no connection") for line in one.lines))
    shop.open_gate(lanes.journal.path)
    one.until(empty(lanes.bench))
    assert one.stop() == 0
    assert lanes.dead() == []
    assert laned.disorder(lanes.journal) == []
    assert set(lanes.journal.counts("end").values()) == {1}


def test_a_message_that_alone_cannot_connect_is_buried_while_other_lanes_go_on(
    lanes: Lanes,
) -> None:
    one = lanes.fork(lanes.job(retries=1))
    lanes.bench.publish_raw("t", *laned.bodies(1, 3, {"1/1": {"needs": "refused"}}))
    sent = 0

    def is_buried() -> bool:
        nonlocal sent
        sent += 1
        lanes.bench.publish_raw("t", codec.encode("t", 0, message_id=f"2/{sent - 1}"))
        return lanes.dead() == ["1/1"]

    one.until(is_buried)
    one.until(empty(lanes.bench))
    assert one.stop() == 0
    assert laned.disorder(lanes.journal, ["1/1"]) == []
    assert len(lanes.journal.counts("end")) == 2 + sent


def test_a_call_that_never_ends_holds_up_its_lane_until_it_is_buried(lanes: Lanes) -> None:
    lanes.bench.publish_raw("t", *laned.bodies(3, 20, {"2/4": {"for_ever": True}}))
    one = lanes.fork(lanes.job(handler_timeout=0.5, stop_timeout=1.0))
    one = lanes.until_empty(one)
    assert one.stop() == 0
    [letter] = lanes.bench.letters("t")
    assert (letter.id, letter.crashes) == ("2/4", 3)
    assert laned.disorder(lanes.journal, ["2/4"]) == []
    assert len(lanes.journal.counts("end")) == 59


def test_a_message_that_runs_when_the_rest_goes_back_is_not_overtaken(lanes: Lanes) -> None:
    orders: dict[str, object] = {f"{lane}/2": {"gate": True} for lane in (1, 2)}
    lanes.bench.publish_raw("t", *laned.bodies(3, 10, orders))
    one = lanes.fork(lanes.job())
    one.until(lambda: one.page.read().done == 2 * 2 + 10)
    one.order(QUIET)
    one.until(lambda: "quiet" in kernel.title_of(one.pid))
    one.order(RESUME)
    shop.open_gate(lanes.journal.path)
    one.until(empty(lanes.bench))
    assert one.stop() == 0
    assert laned.disorder(lanes.journal) == []
    assert set(lanes.journal.counts("end").values()) == {1}

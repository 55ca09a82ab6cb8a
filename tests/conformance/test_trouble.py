"""A source that does not answer, or loses leases, under the consume loop in forked processes."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path

from supervisor import kernel
from supervisor.board import UNKNOWN
from supervisor.slot import READY, Slot
from tests.conformance.conftest import Bench, empty, leasing
from tests.helpers import shop
from tests.helpers.eventually import eventually
from tests.helpers.forked import Nursery
from workers import runtime
from workers.consumer import Consumer
from workers.sources.source import Around, Delivery, Share, Source, SourceTrouble


@leasing
def test_a_locked_queue_is_said_once_and_survived(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"gate": True})
    one = nursery.fork(bench.job(journal.path, io_timeout=4))
    one.until(lambda: journal.counts("begin"))
    with bench.out_of_order():
        shop.open_gate(journal.path)
        one.until(lambda: one.said("cannot be used"))
        one.until(lambda: any(line.startswith(b"unready the queue cannot") for line in one.lines))
        one.until(lambda: one.page.read().backlog == UNKNOWN)
        beat = one.page.read().beat_ns
        one.until(lambda: one.page.read().beat_ns > beat)
    one.until(empty(bench))
    bench.publish("t", 2)
    one.until(lambda: one.page.read().done == 2)
    one.until(lambda: one.lines.count(READY) >= 2)
    assert one.stop() == 0
    assert len([line for line in one.lines if b"cannot be used, trying" in line]) == 1
    assert one.said("can be used again")
    assert set(journal.counts("end").values()) == {1}


class Silent(Around):
    """A source whose fetch finds no server until the gate is open; each try is in the journal."""

    def __init__(self, source: Source, journal: Path) -> None:
        super().__init__(source)
        self._journal = journal

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Fail, or pass on."""
        if Path(f"{self._journal}.gate").exists():
            return super().fetch(shares, limit)
        with self._journal.open("a") as journal:
            journal.write("try - -\n")
        raise SourceTrouble("nobody answers")


@leasing
def test_an_outage_without_work_is_said_once_too(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    """Between two tries the leases are renewed, of which there are none: that tells nothing."""

    def main(seat: Slot) -> int:
        source = Silent(bench.source(seat.owner), journal.path)
        return runtime.main(seat, lambda child: Consumer(child, source).run())

    bench.publish("t", 1)
    one = nursery.fork(bench.job(journal.path, lease=0.6), main=main)
    one.until(lambda: journal.counts("try").total() >= 5)
    shop.open_gate(journal.path)
    one.until(empty(bench))
    assert one.stop() == 0
    assert len([line for line in one.lines if b"cannot be used, trying" in line]) == 1
    assert one.said("can be used again")


class Fickle(Around):
    """A source that says once of all leases that they were lost, though they were not."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._said = False

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Lose what is renewed with something else."""
        lost = super().extend(deliveries)
        if self._said or len(deliveries) < 2:
            return lost
        self._said = True
        return {delivery.number for delivery in deliveries}


@leasing
def test_what_was_not_begun_for_want_of_a_lease_does_not_wait_for_its_end(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    def main(seat: Slot) -> int:
        source = Fickle(bench.source(seat.owner))
        return runtime.main(seat, lambda child: Consumer(child, source).run())

    bench.publish("t", 1)
    one = nursery.fork(bench.job(journal.path, concurrency=1, lease=0.6), main=main)
    one.until(lambda: one.page.read().done == 1)
    bench.publish("t", {"gate": True}, 2)
    one.until(lambda: one.said("lease lost"))
    shop.open_gate(journal.path)
    one.until(empty(bench))
    assert one.stop() == 0
    assert len(journal.counts("end")) == 3


def test_a_queue_that_can_never_work_is_a_configuration_error(
    nursery: Nursery, journal: shop.Journal, tmp_path: Path
) -> None:
    (tmp_path / "q.db").write_bytes(b"no database" * 1000)
    one = nursery.fork(shop.job(f"sqlite:///{tmp_path}/q.db", journal.path))
    assert one.wait() == 78
    assert one.said("is not a database of SQLite")
    assert b"ready" not in one.lines


@leasing
def test_what_a_frozen_process_has_not_begun_is_left_to_others(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    """A process that slept through its leases must not begin what others have by now."""
    bench.publish("t", *range(8))
    bench.publish("t", *({"gate": True, "n": n} for n in range(6)))
    one = nursery.fork(bench.job(journal.path, concurrency=1, lease=4))
    one.until(lambda: len(journal.counts("begin")) == 9 and one.page.read().done == 8)
    one.kill(signal.SIGSTOP)
    eventually(lambda: (facts := kernel.facts(one.pid)) and facts.state == "T")
    shop.open_gate(journal.path)
    two = nursery.fork(one.slot.job, 1)
    two.until(empty(bench))
    one.kill(signal.SIGCONT)
    bench.publish("t", "last")
    one.until(empty(bench))
    assert two.stop() == one.stop() == 0
    ends = journal.counts("end")
    assert len(ends) == 15
    assert sum(ends.values()) - 15 <= 1

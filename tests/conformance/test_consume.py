"""The consume loop over every source, in forked processes: outcomes, stops, crashes."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from supervisor.slot import FALLEN, Fallen, Slot
from tests.conformance.conftest import Bench, empty, no_log, several_topics
from tests.helpers import shop
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.forked import Forked, Nursery
from workers import lifeline, runtime
from workers.consumer import Consumer
from workers.report import Report
from workers.sources.source import Source


def test_each_message_is_handled_once(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *range(500))
    one = nursery.fork(bench.job(journal.path))
    one.until(empty(bench))
    assert one.stop() == 0
    assert set(journal.counts("end").values()) == {1}
    assert len(journal.counts("end")) == one.page.read().done == 500
    assert one.page.read().in_flight == 0


def test_a_class_is_opened_before_ready_and_closed_at_the_end(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", 1)
    one = nursery.fork(bench.job(journal.path, "Shop"))
    one.until(empty(bench))
    assert one.stop() == 0
    assert [line[0] for line in journal.lines()] == ["open", "begin", "end", "close"]


def test_whoever_freezes_as_soon_as_it_is_ready_is_watched(
    bench: Bench, nursery: Nursery, journal: shop.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a beat no consumer would ever be missed."""
    ready = Report.ready

    def freeze(report: Report) -> None:
        ready(report)
        os.kill(os.getpid(), signal.SIGSTOP)

    monkeypatch.setattr(Report, "ready", freeze)
    one = nursery.fork(bench.job(journal.path))
    one.until_ready()
    assert one.page.read().beat_ns > 0


def test_failures_are_retried_and_then_dead(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"fail": 2})
    bench.publish("t", {"fail": 99})
    one = nursery.fork(bench.job(journal.path))
    one.until(empty(bench))
    assert one.stop() == 0
    read = one.page.read()
    assert (read.done, read.failed, read.retried, read.dead) == (1, 6, 5, 1)
    [letter] = bench.letters("t")
    assert (letter.attempts, letter.failures, letter.crashes) == (4, 4, 0)
    assert letter.error == "ValueError: failure 4"
    assert "raise ValueError" in letter.traceback
    assert letter.origin == "orders:0"
    assert one.said("message is dead: ValueError: failure 4")


def test_a_fork_that_comes_back_from_the_handler_is_no_second_consumer(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"fork": True}, *range(20))
    one = nursery.fork(bench.job(journal.path, concurrency=2))
    one.until(empty(bench))
    assert one.stop() == 0
    assert set(journal.counts("end").values()) == {1}
    assert (one.page.read().done, one.page.read().failed) == (21, 0)


def test_an_error_that_cannot_be_shown_is_a_failure_like_any_other(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"speechless": True}, 1)
    one = nursery.fork(bench.job(journal.path, retries=0))
    one.until(empty(bench))
    assert one.stop() == 0
    assert [letter.error for letter in bench.letters("t")] == ["Speechless"]
    assert set(journal.counts("end").values()) == {1}


def test_words_that_no_queue_can_write_down_are_escaped(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish_raw("t", rb'{"id": "\ud800", "data": 1}')  # it fails at writing its journal
    bench.publish("t", {"unwritable": True})
    one = nursery.fork(bench.job(journal.path, retries=0))
    one.until(empty(bench))
    assert one.stop() == 0
    errors = {letter.error: letter for letter in bench.letters("t")}
    assert "\\udcff" in errors.pop("ValueError: \\udcff").traceback
    assert [letter.id for letter in errors.values()] == ["\\ud800"]


def test_without_retries_and_dead_letters_a_failure_is_dropped(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"fail": 1})
    one = nursery.fork(bench.job(journal.path, retries=0, dead_letter="off"))
    one.until(empty(bench))
    assert one.stop() == 0
    assert one.page.read().dead == 1
    assert bench.letters("t") == []


def test_skip_reject_and_retry(bench: Bench, nursery: Nursery, journal: shop.Journal) -> None:
    for word in ("skip", "reject", "retry"):
        bench.publish("t", {"raise": word})
    one = nursery.fork(bench.job(journal.path))
    one.until(empty(bench))
    assert one.stop() == 0
    read = one.page.read()
    assert (read.skipped, read.dead, read.retried, read.done, read.failed) == (1, 1, 1, 1, 0)
    [letter] = bench.letters("t")
    assert (letter.error, letter.failures) == ("why", 0)


@several_topics
def test_without_a_handler_it_is_acknowledged_and_said_once(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("u", 1, 2, 3)
    job = bench.job(journal.path, topics=("t", "u"))
    one = nursery.fork(replace(job, handler=None, handlers={"t": job.handler or ""}))
    one.until(empty(bench, "u"))
    assert one.stop() == 0
    assert one.page.read().skipped == 3
    assert len([line for line in one.lines if b"no handler for topic u" in line]) == 1


def test_a_stop_finishes_what_runs_and_gives_back_the_rest_untouched(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *range(20))
    one = nursery.fork(bench.job(journal.path, concurrency=2))
    one.until(empty(bench))
    bench.publish("t", *({"gate": True, "n": n} for n in range(20)))
    one.until(lambda: len(journal.counts("begin")) == 22)
    one.order(b"stop recycle")
    one.until(lambda: bench.depth("t").depth == (18 if bench.SEES_WORK else 20))
    one.until(lambda: one.page.read().in_flight == 2)
    shop.open_gate(journal.path)
    assert one.wait() == 0
    assert bench.depth("t").in_flight == 0
    source = bench.source("instance/orders:0/2")
    source.open()
    left = source.fetch([("t", 50)], 50)
    source.close()
    assert len(left) == 18
    assert {(one.attempts, one.failures, one.suspect) for one in left} == {(0, 0, False)}


def test_a_failure_during_the_stop_burns_no_retry(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"until_stop": True})
    one = nursery.fork(bench.job(journal.path, retries=0))
    one.until(lambda: journal.counts("begin"))
    assert one.stop() == 0
    assert bench.depth("t").depth == 1
    assert one.page.read().failed == one.page.read().dead == 0


def test_a_fast_stop_abandons_after_a_second_and_makes_no_suspects(
    bench: Bench, nursery: Nursery, journal: shop.Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the second a tenth is for giving back: too little on a machine that stands still.
    monkeypatch.setattr(lifeline, "FAST_S", PATIENCE_S)
    bench.publish("t", {"gate": True})
    one = nursery.fork(bench.job(journal.path))
    one.until(lambda: journal.counts("begin"))
    one.order(b"stop stop")
    one.order(b"fast")
    assert one.wait() == 1
    assert one.page.suspects(), "the master counts by them what was abandoned"
    source = bench.source("instance/orders:0/2")
    source.open()
    source.release(one.slot.owner, one.page.suspects())
    [left] = source.fetch([("t", 1)], 1)
    source.close()
    assert (left.attempts, left.failures) == (0, 0)
    # A log is only told; and a master names nobody after a stop that was asked for.
    assert left.suspect != bench.SEES_WORK


def test_death_of_the_master_drains(bench: Bench, nursery: Nursery, journal: shop.Journal) -> None:
    bench.publish("t", {"gate": True})
    one = nursery.fork(bench.job(journal.path))
    one.until(lambda: journal.counts("begin"))
    one.cut()
    shop.open_gate(journal.path)
    eventually(one.gone)
    assert one.status == 0
    assert empty(bench)()


def again(nursery: Nursery, one: Forked, process: int = 0) -> Forked:
    """Start the next process of a slot, as the master does after a death."""
    fallen = Fallen(one.slot.owner, one.page.suspects())
    return nursery.fork(one.slot.job, process, (fallen,))


def test_a_message_that_kills_its_process_is_dead_the_third_time_it_ran_alone(
    bench: Bench,
    nursery: Nursery,
    journal: shop.Journal,
    after_lone_crashes: Callable[[float, float], None],
) -> None:
    after_lone_crashes(0.1, 0.2)
    # What had ended and was not yet acknowledged at a death would be done twice: so the others are
    # held until the first one, and come after the deadly one then.
    bench.publish("t", {"die": "always", "wait": 0.05})
    bench.publish("t", *({"gate": True, "n": n} for n in range(30)))
    one = nursery.fork(bench.job(journal.path))
    deaths = 0
    while not empty(bench)():
        one.until(lambda one=one: one.gone() or empty(bench)())
        if one.gone():
            deaths += 1
            shop.open_gate(journal.path)
            one = again(nursery, one)
    assert deaths == 4
    assert one.stop() == 0
    [letter] = bench.letters("t")
    assert "3 times while it ran alone" in letter.error
    assert letter.crashes == 3
    assert len(journal.counts("end")) == 30
    assert set(journal.counts("end").values()) == {1}


def test_suspects_run_with_nothing_beside_them(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", *({"gate": True, "n": n} for n in range(10)))
    one = nursery.fork(bench.job(journal.path))
    one.until(lambda: len(journal.counts("begin")) == 10)
    one.kill()
    one.wait()
    assert len(one.page.suspects()) == 10
    bench.publish("t", *range(100, 150))
    shop.open_gate(journal.path)
    two = again(nursery, one)
    two.until(empty(bench))
    assert two.stop() == 0
    mine = [line for line in journal.lines() if line[2] == str(two.pid)][:20]
    assert [line[0] for line in mine] == ["begin", "end"] * 10
    assert all("gate" in line[1] for line in mine)
    assert bench.letters("t") == []


@no_log
def test_a_living_sibling_takes_over_at_once(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    bench.publish("t", {"gate": True})
    one = nursery.fork(bench.job(journal.path))
    one.until(lambda: journal.counts("begin"))
    two = nursery.fork(one.slot.job, 1)
    two.until_ready()
    one.kill()
    one.wait()
    shop.open_gate(journal.path)
    two.order(FALLEN + b" " + Fallen(one.slot.owner, one.page.suspects()).encode())
    two.until(empty(bench), patience_s=one.slot.job.lease / 2)
    assert two.stop() == 0
    assert sum(journal.counts("begin").values()) == 2


class Deadly:
    """A source that kills its process at one step; everything else is the real one's."""

    def __init__(self, source: Source, step: str) -> None:
        self._source = source
        self._step = step

    def __getattr__(self, name: str) -> object:
        real = getattr(self._source, name)
        if name != self._step.partition(" ")[2]:
            return real

        def deadly(*args: object) -> object:
            if self._step.startswith("before"):
                os.kill(os.getpid(), signal.SIGKILL)
            if self._step.startswith("during"):
                threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGKILL)).start()
            result = real(*args)
            if result or name != "fetch":
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return deadly


STEPS = ("after fetch", "before ack", "during ack", "after ack", "before nack", "during dead")


@pytest.mark.parametrize("step", STEPS)
def test_kill_at_every_step_loses_nothing(
    bench: Bench, nursery: Nursery, journal: shop.Journal, step: str
) -> None:
    bench.publish("t", *range(50))
    bench.publish("t", {"fail": 99})
    bench.publish("t", {"fail": 1})

    def main(seat: Slot) -> int:
        source = Deadly(bench.source(seat.owner), step)
        return runtime.main(seat, lambda child: Consumer(child, source).run())  # type: ignore[arg-type]

    job = bench.job(journal.path)
    one = nursery.fork(job, main=main)
    assert one.wait() == -signal.SIGKILL
    in_handlers = len(one.page.suspects())
    depth, ended = bench.depth("t"), journal.counts("end").total()
    acknowledged = 52 - depth.depth - depth.delayed - depth.in_flight - depth.dead
    two = again(nursery, one)
    two.until(empty(bench))
    assert two.stop() == 0
    ends = journal.counts("end")
    assert len(ends) == 51
    assert [letter.failures for letter in bench.letters("t")] == [4]
    assert max(ends.values()) <= 2
    if step == "after fetch":
        assert in_handlers == 0
        assert set(ends.values()) == {1}
    if step == "after ack" and bench.SEES_WORK:
        assert acknowledged > 0
    assert ends.total() - 51 <= ended - acknowledged, "what was acknowledged is not done again"


def test_a_handler_that_cannot_be_imported_is_an_ordinary_failure(
    bench: Bench, nursery: Nursery, journal: shop.Journal
) -> None:
    one = nursery.fork(bench.job(journal.path, "nobody"))
    assert one.wait() == 1
    assert one.said("nobody")


def test_many_processes_may_make_the_queue_at_once(bench: Bench, nursery: Nursery) -> None:
    def main(seat: Slot) -> int:
        source = bench.source(seat.owner)
        source.open()
        bench.publish("t", seat.process)
        source.close()
        return 0

    job = bench.job(Path("unused"))
    assert [one.wait() for one in [nursery.fork(job, n, main=main) for n in range(8)]] == [0] * 8
    assert bench.depth("t").depth == 8

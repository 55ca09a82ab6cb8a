"""What every source has to keep, asked of it directly: leases, order, delays, dead letters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conformance.conftest import Bench, Guarded, empty, no_log, several_topics
from tests.helpers import rows
from tests.helpers.eventually import eventually
from workers import codec
from workers.retry import MAX_CRASHES
from workers.sources.source import Burial, Delivery, Return, Source


@pytest.fixture(params=[False, True], ids=["plain", "guarded"])
def is_guarded(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def bench(bench: Bench, is_guarded: bool, tmp_path: Path) -> Iterator[Bench]:
    """Each kind of source, and the same behind what may stand before it."""
    if not is_guarded:
        yield bench
        return
    with closing(Guarded(bench, tmp_path)) as guarded:
        yield guarded


@pytest.fixture
def mine(bench: Bench) -> Iterator[Source]:
    source = bench.source("i/a:0/1")
    source.open()
    yield source
    source.close()


@pytest.fixture
def other(bench: Bench) -> Iterator[Source]:
    source = bench.source("i/a:1/1")
    source.open()
    yield source
    source.close()


def fetch(source: Source, limit: int = 100, topic: str = "t") -> list[Delivery]:
    return source.fetch([(topic, limit)], limit)


def data(deliveries: list[Delivery]) -> list[object]:
    bodies = [rows.body_in(one.body) if b'"body":' in one.body else one.body for one in deliveries]
    return [codec.decode("t", one, fallback_id="", attempt=1).data for one in bodies]


def test_messages_of_a_topic_come_in_the_order_they_were_published(
    bench: Bench, mine: Source
) -> None:
    bench.publish("t", *range(5))
    bench.publish("t", 5)
    assert data(fetch(mine, 4)) == [0, 1, 2, 3]
    assert data(fetch(mine)) == [4, 5]


def test_numbers_are_positive_and_differ(bench: Bench, mine: Source) -> None:
    bench.publish("t", *range(5))
    numbers = [one.number for one in fetch(mine)]
    assert len(set(numbers)) == 5
    assert min(numbers) > 0


@no_log
def test_what_is_leased_is_not_given_twice(bench: Bench, mine: Source, other: Source) -> None:
    bench.publish("t", *range(3))
    assert len(fetch(mine)) == 3
    assert fetch(other) == []
    assert bench.depth("t").in_flight == 3


def test_an_acknowledged_message_is_gone(bench: Bench, mine: Source) -> None:
    bench.publish("t", 1, 2)
    taken = fetch(mine)
    mine.ack(taken)
    eventually(empty(bench))


@no_log
def test_a_returned_message_keeps_its_place_and_its_counters(
    bench: Bench, mine: Source, other: Source
) -> None:
    bench.publish("t", 1, 2)
    first, _second = fetch(mine)
    mine.nack([Return(replace(first, attempts=2, failures=1))])
    [again] = fetch(other)
    assert data([again]) == [1]
    assert (again.attempts, again.failures, again.crashes) == (2, 1, 0)


@no_log
def test_a_delayed_message_is_due_later(bench: Bench, mine: Source) -> None:
    bench.publish("t", 1, delay_s=60)
    assert fetch(mine) == []
    assert bench.depth("t").delayed == 1
    assert 0 <= mine.patience() <= 60, "it counts down where looks have a rhythm"
    bench.publish("t", 2, delay_s=0.05)
    assert data(_fetch_until_found(mine)) == [2]
    assert bench.depth("t").delayed == 1


def test_a_retry_with_a_delay_is_due_later(bench: Bench, mine: Source) -> None:
    bench.publish("t", 1, 2)
    one, two = fetch(mine)
    mine.nack([Return(one, 60)])
    assert fetch(mine) == []
    mine.nack([Return(two, 0.05)])
    assert data(_fetch_until_found(mine)) == [2]
    assert bench.depth("t").delayed == bench.SEES_WORK


def test_a_new_message_is_found_after_an_empty_look(bench: Bench, mine: Source) -> None:
    assert fetch(mine) == []
    bench.publish("t", 1)
    assert data(fetch(mine)) == [1]


@several_topics
def test_shares_are_kept_and_what_is_left_goes_to_others(bench: Bench, mine: Source) -> None:
    bench.publish("a", *range(10))
    bench.publish("b", 10)
    taken = mine.fetch([("a", 3), ("b", 3)], 6)
    assert sorted(data(taken), key=str) == [0, 1, 10, 2, 3, 4]


def test_a_paused_topic_gives_nothing_and_is_no_backlog(bench: Bench, mine: Source) -> None:
    bench.publish("t", 1)
    bench.pause("t")
    assert fetch(mine) == []
    assert mine.backlog(["t"]) == 0
    assert bench.depth("t").paused


@no_log
def test_backlog_counts_what_is_due_and_free(bench: Bench, mine: Source) -> None:
    bench.publish("t", 1, 2, 3)
    bench.publish("t", 4, delay_s=60)
    bench.publish("u", 5)
    fetch(mine, 1)
    assert mine.backlog(["t"]) == 2


@no_log
def test_a_lease_that_nobody_renews_runs_out(bench: Bench, other: Source) -> None:
    dead = bench.source("elsewhere/a:0/1", lease_s=0.05)
    dead.open()
    bench.publish("t", 1)
    assert len(fetch(dead)) == 1
    dead.close()
    [again] = _fetch_until_found(other)
    assert (again.suspect, again.crashes) == (False, 0)


@no_log
def test_extend_keeps_a_lease_and_tells_of_lost_ones(
    bench: Bench, mine: Source, other: Source
) -> None:
    bench.publish("t", 1, 2)
    kept, lost = fetch(mine)
    other.release("i/a:0/1", ())
    mine.nack([])
    assert fetch(other, 1) == [kept]
    assert mine.extend([kept, lost]) == {kept.number, lost.number}
    mine.ack([kept])
    assert bench.depth("t").in_flight == 1


@no_log
def test_release_frees_at_once_and_marks_only_the_suspects(
    bench: Bench, mine: Source, other: Source
) -> None:
    bench.publish("t", 1, 2, 3)
    first, _, _ = fetch(mine)
    assert other.release("i/a:0/1", [first.number]) == 3
    again = fetch(other)
    assert data(again) == [1, 2, 3]
    assert [one.suspect for one in again] == [True, False, False]
    assert [one.crashes for one in again] == [0, 0, 0]


@no_log
def test_only_a_suspect_that_dies_again_counts_a_crash(bench: Bench, other: Source) -> None:
    bench.publish("t", 1)
    for incarnation, crashes in ((1, 0), (2, 0), (3, 1), (4, 2)):
        source = bench.source(f"i/a:0/{incarnation}")
        source.open()
        [one] = fetch(source)
        assert one.crashes == crashes
        source.close()
        other.release(f"i/a:0/{incarnation}", [one.number])


@no_log
@pytest.mark.parametrize("lone_crashes", [1, 2, 3])
def test_what_has_killed_alone_waits_for_a_while_and_nobody_else(
    bench: Bench,
    other: Source,
    after_lone_crashes: Callable[[float, float], None],
    lone_crashes: int,
) -> None:
    """After the third time too it is there at once, to be buried."""
    after_lone_crashes(*(600.0 if place == lone_crashes else 0.0 for place in (1, 2)))
    bench.publish("t", 1)
    for incarnation in range(lone_crashes + 1):
        assert bench.depth("t").delayed == 0
        source = bench.source(f"i/a:0/{incarnation}")
        source.open()
        if incarnation == lone_crashes:
            bench.publish("t", 2)
        first, *_ = fetch(source)
        assert first.crashes == max(0, incarnation - 1)
        source.close()
        other.release(f"i/a:0/{incarnation}", [first.number])
    waits = lone_crashes < MAX_CRASHES
    assert bench.depth("t").delayed == waits
    assert data(fetch(other)) == ([2] if waits else [1, 2])


@no_log
def test_release_twice_counts_once(bench: Bench, mine: Source, other: Source) -> None:
    bench.publish("t", 1)
    [one] = fetch(mine)
    other.release("i/a:0/1", [one.number])
    assert other.release("i/a:0/1", [one.number]) == 0
    [again] = fetch(other)
    assert (again.suspect, again.crashes) == (True, 0)


@no_log
def test_release_seat_frees_earlier_incarnations_and_nobody_else(
    bench: Bench, mine: Source, other: Source
) -> None:
    bench.publish("t", 1, 2, 3)
    fetch(mine, 1)
    fetch(other, 1)
    next_one = bench.source("i/a:0/2")
    next_one.open()
    own = fetch(next_one, 1)
    assert next_one.release_seat("i/a:0/") == 1
    assert data(fetch(next_one)) == [1]
    assert data(own) == [3]
    next_one.close()


def test_a_dead_letter_keeps_everything(bench: Bench, mine: Source) -> None:
    bench.publish("t", {"order_id": 7})
    [one] = fetch(mine)
    spent = replace(one, attempts=4, failures=3, crashes=1)
    mine.dead([Burial(spent, "t", "the-id", "ValueError: no", "Traceback …", "a:0")])
    [letter] = bench.letters("t")
    assert (letter.id, letter.error, letter.traceback) == (
        "the-id",
        "ValueError: no",
        "Traceback …",
    )
    assert (letter.attempts, letter.failures, letter.crashes) == (4, 3, 1)
    assert (letter.topic, letter.origin, letter.body) == ("t", "a:0", bench.content(one))
    assert bench.depth("t").dead == 1
    assert bench.depth("t").in_flight == 0


@no_log
def test_who_lost_the_lease_buries_nothing(bench: Bench, mine: Source, other: Source) -> None:
    bench.publish("t", 1)
    [one] = fetch(mine)
    other.release("i/a:0/1", ())
    mine.dead([Burial(one, "t", "1", "late", "", "a:0")])
    assert bench.letters("t") == []
    assert bench.depth("t").depth == 1


def test_what_no_json_wrapped_is_taken_whole(bench: Bench, mine: Source) -> None:
    bench.publish("t", "x" * 100_000)
    [one] = fetch(mine)
    assert data([one]) == ["x" * 100_000]


def test_open_again_is_no_harm(bench: Bench, mine: Source) -> None:
    bench.publish("t", 1)
    mine.open()
    assert len(fetch(mine)) == 1
    mine.close()
    mine.close()


def _fetch_until_found(source: Source) -> list[Delivery]:
    return eventually(lambda: source.tend() or fetch(source))

"""The small parts of the consume loop: turns, appetite, settlement, codec, rhythm, stop."""

from __future__ import annotations

import json
import select
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.board import Page
from supervisor.values import Topic
from workers import codec
from workers.retry import Decision, Verdict
from workers.scheduled import Rhythm
from workers.settlement import Settlement
from workers.sources.source import Burial, Delivery, Return, SourceTrouble
from workers.stop import StopToken
from workers.topics import Appetite, Turns

# --- turns


def test_strict_topics_keep_their_order_and_may_take_all() -> None:
    turns = Turns((Topic("a", 1), Topic("b", 9)), "strict")
    assert turns.shares(10) == [("a", 10), ("b", 10)]


@given(
    st.lists(st.integers(1, 100), min_size=2, max_size=6),
    st.lists(st.integers(1, 100), min_size=1, max_size=50),
)
def test_weighted_shares_are_exact_over_any_number_of_fetches(
    weights: list[int], limits: list[int]
) -> None:
    topics = [Topic(f"t{number}", weight) for number, weight in enumerate(weights)]
    turns, got = Turns(topics, "weighted"), Counter[str]()
    for limit in limits:
        shares = dict(turns.shares(limit))
        assert set(shares) == {topic.name for topic in topics}
        assert sum(shares.values()) == limit
        assert min(shares.values()) >= 0
        got.update(shares)
    for topic in topics:
        fair = sum(limits) * topic.weight / sum(weights)
        assert abs(got[topic.name] - fair) < len(topics), "nobody gets more, and nobody starves"


def test_what_a_topic_leaves_goes_to_others_by_weight() -> None:
    turns = Turns((Topic("a", 5), Topic("b", 1)), "weighted")
    first = Counter(turns.shares(1)[0][0] for _ in range(3000))
    assert 0.75 < first["a"] / 3000 < 0.91


# --- appetite


@given(st.integers(1, 256), st.integers(1, 10_000), st.floats(0, 1000), st.integers(0, 20_000))
def test_room_never_overfills(threads: int, size: int, mean: float, held: int) -> None:
    appetite = Appetite(threads, size)
    assert appetite.room(0) == threads
    appetite.observe([mean])
    room = appetite.room(held)
    assert room == 0 or held + room == threads + appetite.ahead
    assert appetite.ahead <= size


def test_slow_handlers_keep_little_waiting_and_fast_ones_much() -> None:
    slow, fast = Appetite(10, 100), Appetite(10, 100)
    slow.observe([10.0])
    fast.observe([0.001])
    assert slow.ahead == 1
    assert fast.ahead == 100


# --- settlement


class Recorder:
    """A source that writes down what it is told, and fails on request."""

    def __init__(self) -> None:
        self.acked: list[int] = []
        self.back: list[tuple[int, float]] = []
        self.buried: list[int] = []
        self.dropped: list[int] = []
        self.broken = False

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        self._check()
        self.acked += [one.number for one in deliveries]

    def nack(self, returns: Sequence[Return]) -> None:
        self._check()
        self.back += [(one.delivery.number, one.delay_s) for one in returns]

    def dead(self, burials: Sequence[Burial]) -> None:
        self._check()
        self.buried += [one.delivery.number for one in burials]

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        self.dropped += [one.number for one in deliveries]

    def _check(self) -> None:
        if self.broken:
            raise SourceTrouble("out of order")


def settlement() -> tuple[Settlement, Page, list[int]]:
    page = Page(memoryview(bytearray(4096)).cast("q"))
    written: list[int] = []
    made = Settlement(page, 10, lambda those: written.extend(one.number for one in those))
    return made, page, written


verdicts = st.lists(st.tuples(st.sampled_from(Verdict), st.booleans(), st.booleans()), max_size=40)


@given(verdicts)
def test_every_decision_is_written_once_and_counted(
    rows: list[tuple[Verdict, bool, bool]],
) -> None:
    made, page, written = settlement()
    source = Recorder()
    for number, (verdict, failed, buried) in enumerate(rows, 1):
        delivery = Delivery(number, "t", b"")
        burial = Burial(delivery, "t", "", "", "", "") if buried else None
        made.add(Decision(verdict, delivery, 0.0, failed), burial, 0.0)
    source.broken = True
    if rows and not all(row == (Verdict.DEAD, row[1], False) for row in rows):
        with pytest.raises(SourceTrouble):
            made.write(source)  # type: ignore[arg-type]
    source.broken = False
    made.write(source)  # type: ignore[arg-type]
    made.write(source)  # type: ignore[arg-type]
    everything = source.acked + [number for number, _ in source.back] + source.buried
    assert sorted(everything + source.dropped) == list(range(1, len(rows) + 1))
    assert sorted(written) == list(range(1, len(rows) + 1))
    counts, read = Counter(verdict for verdict, _, _ in rows), page.read()
    assert read.done == counts[Verdict.DONE]
    assert read.skipped == counts[Verdict.SKIPPED]
    assert read.retried == counts[Verdict.RETRIED]
    assert read.dead == counts[Verdict.DEAD]
    assert len(made) == made.called() == 0


def test_a_batch_waits_10_ms_and_a_full_one_not_at_all() -> None:
    made, _, _ = settlement()
    assert made.due_at() is None
    for number in range(9):
        made.give_back(Delivery(number, "t", b""), 100.0 + number)
    assert made.due_at() == pytest.approx(100.01)
    made.give_back(Delivery(10, "t", b""), 200.0)
    assert made.due_at() == 0.0


# --- messages


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(
    json_values, st.text(min_size=1), st.none() | st.text(), st.dictionaries(st.text(), st.text())
)
def test_a_message_survives_its_journey(
    data: object, message_id: str, key: str | None, headers: dict[str, str]
) -> None:
    now = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
    raw = codec.encode("t", data, message_id=message_id, key=key, headers=headers, now=now)
    read = codec.decode("t", raw, fallback_id="f", attempt=2)
    assert (read.id, read.data, read.key, read.headers) == (message_id, data, key, headers)
    assert (read.attempt, read.published_at, read.raw) == (2, now, raw)


@pytest.mark.parametrize(
    ("raw", "data"),
    [
        (b'{"order_id": 1}', {"order_id": 1}),
        (b'{"id": 1, "x": 2}', {"id": 1, "x": 2}),
        (b"[1, 2]", [1, 2]),
        (b"hello", "hello"),
        (b"", ""),
        (b"\xff\xfe", "��"),
        (b"[" * 100_000, "[" * 100_000),
    ],
)
def test_what_publish_did_not_write_is_taken_whole(raw: bytes, data: object) -> None:
    read = codec.decode("t", raw, fallback_id="17", attempt=1)
    assert (read.id, read.data, read.published_at) == ("17", data, None)


def test_strange_fields_are_no_error() -> None:
    raw = json.dumps({"id": 5, "data": 1, "headers": 3, "key": 4, "published_at": "soon"}).encode()
    read = codec.decode("t", raw, fallback_id="", attempt=1)
    assert (read.id, read.key, read.headers, read.published_at) == ("5", "4", {}, None)


def test_nan_is_no_json() -> None:
    with pytest.raises(ValueError, match="JSON"):
        codec.encode("t", float("nan"), message_id="1")


# --- rhythm


@given(st.floats(0.01, 1e5), st.floats(0, 1e6), st.floats(0, 1e6))
def test_the_next_slot_is_on_the_grid_and_ahead(interval: float, slot: float, late: float) -> None:
    rhythm = Rhythm(interval, at_start=False)
    following = rhythm.after(slot, slot + late)
    assert following > slot + late or following == pytest.approx(slot + late)
    assert following - (slot + late) <= interval * 1.001
    beats = (following - slot) / interval
    assert beats == pytest.approx(round(beats), abs=1e-3)


def test_the_first_slot_is_now_or_an_interval_away() -> None:
    assert Rhythm(5, at_start=True).first(100.0) == 100.0
    assert Rhythm(5, at_start=False).first(100.0) == 105.0


# --- the stop token


def test_a_stop_wakes_waits_of_every_form_and_keeps_its_first_reason() -> None:
    token = StopToken()
    told: list[str] = []
    token.on_stop(lambda: told.append("before"))
    waiting = threading.Thread(target=token.wait, args=(60,))
    waiting.start()
    assert not select.select([token.fileno()], [], [], 0)[0]
    token.set("recycle")
    token.set("stop")
    waiting.join(60)
    assert not waiting.is_alive()
    assert select.select([token.fileno()], [], [], 0)[0]
    token.on_stop(lambda: told.append("after"))
    assert told == ["before", "after"]
    assert token.reason == "recycle"
    assert token.wait(60)
    token.close()


def test_a_wait_without_a_stop_ends_in_time() -> None:
    token = StopToken()
    assert not token.wait(0.001)
    assert not token.wait(-1)
    token.close()


# --- what an import may do


def test_importing_loads_nothing_heavy_and_starts_nothing() -> None:
    script = (
        "import sys, threading, workers; light = set(sys.modules);"
        "import workers.runtime, workers.consumer, workers.scheduled, workers.sources.sqlite;"
        "names = {name.partition('.')[0] for name in sys.modules};"
        "print('sqlite3' in light, threading.active_count(),"
        " names & {'asyncio', 'concurrent', 'http', 'email', 'multiprocessing', 'ssl'})"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split(maxsplit=2) == ["False", "1", "set()\n"]

"""The arithmetic of a rate, its shared cell, and a source that keeps to it."""

from __future__ import annotations

import fcntl
import math
import os
import signal
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import kernel
from supervisor.board import Page
from supervisor.errors import ConfigError
from supervisor.loading import load
from tests.helpers.fork import fork, reap
from workers.ratelimit import CellMeter, Rate, RatedSource
from workers.sources.source import Delivery, Share

SECOND = 1_000_000_000
RATES = st.floats(min_value=1e-9, max_value=1e9)
STEPS = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 200)), max_size=60)


@given(RATES, STEPS)
def test_no_stretch_of_time_has_more_than_the_rate_and_a_burst(
    per_second: float, steps: list[tuple[int, int]]
) -> None:
    rate = Rate.of(per_second)
    due = now = 0
    begun: list[tuple[int, int]] = []
    for pause, wanted in steps:
        now += pause
        granted, due = rate.take(due, now, wanted)
        assert 0 <= granted <= wanted
        begun.append((now, granted))
    for first in range(len(begun)):
        total = 0
        for moment, granted in begun[first:]:
            total += granted
            assert total <= rate.burst + (moment - begun[first][0]) // rate.interval


@given(RATES, st.integers(1, 300), st.integers(0, 10 * SECOND))
def test_nothing_that_is_allowed_is_refused(per_second: float, wanted: int, pause: int) -> None:
    rate = Rate.of(per_second)
    granted, due = rate.take(0, SECOND, wanted)
    assert granted == min(wanted, rate.burst)
    later = SECOND + pause
    room = rate.burst - granted + pause // rate.interval
    assert rate.take(due, later, wanted)[0] == min(wanted, rate.burst, room)


@given(RATES, STEPS)
def test_after_the_wait_there_is_something_and_before_it_less_than_half_a_burst(
    per_second: float, steps: list[tuple[int, int]]
) -> None:
    rate = Rate.of(per_second)
    due = now = 0
    for pause, wanted in steps:
        now += pause
        _, due = rate.take(due, now, wanted)
    wait = rate.wait(due, now)
    half = max(1, rate.burst // 2)
    assert rate.take(due, now + wait, rate.burst)[0] >= half
    if wait:
        assert rate.take(due, now + wait - 1, rate.burst)[0] < half
    assert wait <= rate.burst * rate.interval


@given(RATES, st.integers(0, 300), st.integers(0, 300))
def test_what_did_not_begin_is_there_again(per_second: float, wanted: int, begun: int) -> None:
    rate = Rate.of(per_second)
    granted, due = rate.take(0, SECOND, wanted)
    unused = max(0, granted - begun)
    due = rate.give_back(due, unused)
    assert rate.take(due, SECOND, 10**9)[0] == rate.burst - granted + unused


def test_a_slow_rate_of_before_does_not_bind_a_fast_one() -> None:
    _, due = Rate.of(1 / 3600).take(0, SECOND, 1)
    assert Rate.of(100).take(due, SECOND, 1)[0] == 1


@pytest.mark.parametrize(
    ("per_second", "interval", "burst"),
    [(100, SECOND // 100, 10), (5 / 3600, 720 * SECOND, 1), (1e9, 1, 10**8), (1e-9, 10**17, 1)],
)
def test_rates(per_second: float, interval: int, burst: int) -> None:
    rate = Rate.of(per_second)
    assert rate.interval == pytest.approx(interval)
    assert rate.burst == burst


@pytest.fixture
def cell() -> Iterator[int]:
    fd = os.memfd_create("rate", os.MFD_CLOEXEC)
    yield fd
    os.close(fd)


def test_processes_share_what_there_is(cell: int) -> None:
    meter = CellMeter(cell, Rate.of(1 / 3600))
    read_end, write_end = os.pipe()

    def work() -> None:
        os.write(write_end, bytes([sum(meter.take(1)[0] for _ in range(200))]))

    pids = [fork(work) for _ in range(4)]
    os.close(write_end)
    assert [reap(pid) for pid in pids] == [0] * 4
    assert sum(os.read(read_end, 10)) == 1
    os.close(read_end)


def test_who_dies_with_the_cell_in_hand_holds_nothing(cell: int) -> None:
    meter = CellMeter(cell, Rate.of(10))
    read_end, write_end = os.pipe()

    def work() -> None:
        fcntl.lockf(cell, fcntl.LOCK_EX)
        os.write(write_end, b"x")
        signal.pause()

    pid = fork(work)
    os.close(write_end)
    pidfd = kernel.pidfd_of_child(pid)
    assert os.read(read_end, 1) == b"x"
    assert meter.take(1) == (0, 0.002), "it is not waited for"
    meter.give_back(1)
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    assert reap(pid) == -signal.SIGKILL
    assert meter.take(1)[0] == 1
    os.close(pidfd)
    os.close(read_end)


class Shelf:
    """A source that has so many messages."""

    def __init__(self, stock: int) -> None:
        self.stock = stock
        self.asked: list[tuple[list[Share], int]] = []

    def fetch(self, shares: list[Share], limit: int) -> list[Delivery]:
        self.asked.append((shares, limit))
        found = min(self.stock, limit)
        self.stock -= found
        return [Delivery(number, "t", b"") for number in range(1, found + 1)]

    def patience(self) -> float:
        return 7.0


def rated(stock: int, per_second: float, cell: int) -> tuple[Shelf, RatedSource, Page]:
    shelf, page, rate = Shelf(stock), Page.alone(), Rate.of(per_second)
    return shelf, RatedSource(shelf, CellMeter(cell, rate), rate, page), page  # type: ignore[arg-type]


def test_a_source_gives_out_what_is_allowed(cell: int) -> None:
    shelf, source, page = rated(100, 0.01, cell)
    assert len(source.fetch([("a", 8), ("b", 3)], 10)) == 1
    assert shelf.asked == [([("a", 1), ("b", 1)], 1)]
    assert 0 < source.patience() <= 1.1
    assert page.read().progress_ns == 0
    assert source.fetch([("a", 10)], 10) == []
    assert len(shelf.asked) == 1, "not asked for what may not begin"
    assert page.read().progress_ns > 0, "to wait for the rate is no lack of progress"


def test_what_the_source_does_not_have_is_left_for_others(cell: int) -> None:
    shelf, source, _ = rated(0, 0.01, cell)
    for _ in range(5):
        assert source.fetch([("a", 10)], 10) == []
        assert source.patience() == 7.0
    shelf.stock = 1
    assert len(source.fetch([("a", 10)], 10)) == 1


def test_waits_differ(cell: int) -> None:
    # So slow a rate that the time between two looks makes no difference.
    _, source, _ = rated(1000, 0.01, cell)
    source.fetch([("a", 1)], 1)
    waits = []
    for _ in range(10):
        source.fetch([("a", 1)], 1)
        waits.append(source.patience())
    assert len(set(waits)) == 10
    assert all(math.isfinite(wait) and wait > 0 for wait in waits)
    assert all(abs(one - two) < 0.5 for one, two in pairwise(waits))


@pytest.mark.parametrize("text", ["0/s", "fast", "100", "100/d", "-1/s"])
def test_wrong_rates_are_refused(tmp_path: Path, text: str) -> None:
    conf = tmp_path / "w.ini"
    base = "[daemon:a]\ntype = queue\nurl = sqlite:///q.db\ntopics = t\nhandler = a:b\n"
    conf.write_text(f"{base}rate_limit = {text}\n")
    with pytest.raises(ConfigError, match="is no rate; write 100/s, 30/m or 5/h"):
        load(conf)
    conf.write_text(f"{base}rate_limit = 90/m\n")
    assert load(conf).jobs[0].rate_limit == 1.5

"""What handlers count: names and numbers on a page that explains itself, safe from threads."""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor.board import BUCKETS_S, THREADS, Page
from supervisor.tallies import COUNTERS, TIMERS, Tallies
from tests.helpers.fork import fork, reap
from workers import Context, Message
from workers.tally import Tally
from workers.testing import run

NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,39}", fullmatch=True)


def test_the_tallies_fill_their_part_of_the_page_and_no_more() -> None:
    page = Page.alone()
    before = bytes(page._cells)
    for number in range(COUNTERS):
        page.tallies.add(page.tallies.counter(f"c{number}".ljust(40, "x")) or 0, 1)
    for number in range(TIMERS):
        page.tallies.observe(page.tallies.timer(f"t{number}".ljust(40, "x")) or 0, 1e6)
    page.tallies.progress(1, 2)
    changed = [at for at, cell in enumerate(page._cells) if cell]
    assert before.strip(b"\0") == b""
    assert min(changed) == 54
    assert max(changed) == 512 - THREADS - 1
    assert Tallies.size(len(BUCKETS_S) + 1) == 512 - THREADS - 54


@given(st.lists(st.tuples(NAMES, st.integers(0, 1000)), max_size=60))
def test_counters_are_sums_by_name_as_far_as_there_is_room(calls: list[tuple[str, int]]) -> None:
    page = Page.alone()
    expected: Counter[str] = Counter()
    for name, number in calls:
        Tally(page.tallies).count(name, number)
        if name in expected or len(expected) < COUNTERS:
            expected[name] += number
    assert page.tallies.read_counters() == expected


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 1e6)), max_size=40))
def test_timers_are_histograms(calls: list[tuple[str, float]]) -> None:
    page = Page.alone()
    tally = Tally(page.tallies)
    expected: dict[str, list[float]] = {}
    for name, seconds in calls:
        tally.observe(name, seconds)
        if name in expected or len(expected) < TIMERS:
            expected.setdefault(name, []).append(seconds)
    found = page.tallies.read_timers()
    assert set(found) == set(expected)
    for name, times in expected.items():
        assert found[name].count == len(times)
        assert found[name].sum_s == pytest.approx(sum(times), abs=1e-6)
        assert found[name].buckets[0] == sum(one <= BUCKETS_S[0] for one in times)
        assert found[name].buckets[-1] == sum(one > BUCKETS_S[-1] for one in times)


def test_the_next_process_counts_on_and_progress_is_its_own() -> None:
    page = Page.alone()
    for _ in range(3):
        tally = Tally(page.tallies)
        tally.count("orders", 2)
        tally.progress(3, 10)
        assert page.tallies.read_progress() == (3, 10)
        page.forget_beat()
        assert page.tallies.read_progress() is None
    assert page.tallies.read_counters() == {"orders": 6}
    page.wipe()
    assert page.tallies.read_counters() == {}


def test_a_name_that_was_cut_off_is_not_there() -> None:
    page = Page.alone()
    cells = page._cells
    Tally(page.tallies).count("a_rather_long_name", 7)
    whole = list(cells)
    first = next(at for at, cell in enumerate(whole) if cell)
    for cell, word in enumerate(whole):
        cells[cell] = 0 if cell == first else word if cell < first + 5 else 0
    assert page.tallies.read_counters() == {}
    Tally(page.tallies).count("short", 1)
    assert page.tallies.read_counters() == {"short": 1}


def test_threads_lose_nothing() -> None:
    page = Page.alone()
    tally = Tally(page.tallies)

    def work() -> None:
        for number in range(2000):
            tally.count("n", 1)
            tally.observe(f"t{number % 3}", 0.001)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert page.tallies.read_counters() == {"n": 8000}
    assert sum(timer.count for timer in page.tallies.read_timers().values()) == 8000


def test_a_fork_of_a_handler_counts_nothing() -> None:
    read_end, write_end = os.pipe()
    page = Page.alone()
    tally = Tally(page.tallies)
    tally.count("n", 1)

    def work() -> None:
        tally.count("n", 5)
        tally.progress(1, 1)
        os.write(write_end, bytes([page.tallies.read_counters()["n"]]))

    assert reap(fork(work)) == 0
    assert os.read(read_end, 1) == b"\1"
    os.close(read_end)
    os.close(write_end)


def test_one_name_too_many_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    tally = Tally(Page.alone().tallies)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            for number in range(COUNTERS + 1):
                tally.count(f"n{number}", 1)
    [record] = caplog.records
    assert record.getMessage().startswith("counter n20 is not kept")


@pytest.mark.parametrize("name", ["", "1st", "a-b", "a b", "ä", "x" * 41, "a\n"])
def test_wrong_names_are_refused(name: str) -> None:
    tally = Tally(Page.alone().tallies)
    for change in (tally.count, tally.observe):
        with pytest.raises(ValueError, match="is no name; letters, digits"):
            change(name, 1)


@pytest.mark.parametrize("amount", [-1, 0.5, "1", True, 1 << 60, None])
def test_wrong_amounts_are_refused(amount: object) -> None:
    tally = Tally(Page.alone().tallies)
    with pytest.raises(ValueError, match="is no whole number of 0 or more"):
        tally.count("n", amount)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="is no whole number of 0 or more"):
        tally.progress(1, amount)  # type: ignore[arg-type]


@pytest.mark.parametrize("seconds", [-0.1, float("nan"), float("inf"), "1", 1e12])
def test_wrong_times_are_refused(seconds: object) -> None:
    with pytest.raises(ValueError, match=r"observe\('n', "):
        Tally(Page.alone().tallies).observe("n", seconds)  # type: ignore[arg-type]


def test_the_tests_of_handlers_see_what_was_counted() -> None:
    def handle(message: Message, context: Context) -> None:
        context.count("orders")
        context.count("items", message.data)
        context.observe("backend", 0.2)
        context.progress(1, 2)

    assert run(handle, 7).counters == {"orders": 1, "items": 7}

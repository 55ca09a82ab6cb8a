"""Rates that processes of many hosts share, counted on real servers and by their clocks."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.fork import fork, reap
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.redis_server import RedisServer
from workers.ratelimit import Meter, Rate
from workers.sources.postgres_meter import PostgresMeter
from workers.sources.redis_meter import RedisMeter
from workers.sources.source import SourceTrouble

SECOND = 1_000_000_000
HOUR = 3600 * SECOND

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(0, 12)),
        st.tuples(st.just("give back"), st.integers(0, 3)),
        st.tuples(st.just("hours"), st.integers(0, 9)),
        st.tuples(st.just("hours back"), st.integers(100, 200)),
    ),
    max_size=25,
)


class Shared(Protocol):
    """A server, and what a test has to do there beside the product."""

    def meter(self, interval: int, burst: int) -> Meter: ...

    def now(self) -> int:
        """Give its clock in nanoseconds."""
        ...

    def shift(self, hours: int) -> None:
        """Let so much time pass, or turn the clock back, as far as the cell can tell."""
        ...

    def forget(self) -> None:
        """Lose the cell, as a failover may."""
        ...


class OnRedis:
    def __init__(self, server: RedisServer, stack: ExitStack) -> None:
        server.empty()
        self._url = server.url
        self._client = stack.enter_context(server.client())

    def meter(self, interval: int, burst: int) -> Meter:
        return RedisMeter(self._url, "a", interval=interval, burst=burst, io_timeout=30)

    def now(self) -> int:
        seconds, microseconds = self._client.time()
        return int(seconds) * SECOND + int(microseconds) * 1000

    def shift(self, hours: int) -> None:
        if cell := self._client.get("mq:rate:a"):
            at, debt = map(int, cell.split())
            self._client.set("mq:rate:a", f"{at - hours * HOUR // 1000} {debt}")

    def forget(self) -> None:
        self._client.flushall()
        self._client.script_flush()


class OnPostgres:
    def __init__(self, server: PostgresServer, stack: ExitStack) -> None:
        server.empty()
        self._url = server.url
        self._cursor: Any = stack.enter_context(server.cursor())

    def meter(self, interval: int, burst: int) -> Meter:
        return PostgresMeter(self._url, "a", interval=interval, burst=burst, io_timeout=30)

    def now(self) -> int:
        self._cursor.execute("SELECT (extract(epoch FROM clock_timestamp()) * 1e9)::bigint")
        return int(self._cursor.fetchone()[0])

    def shift(self, hours: int) -> None:
        self._cursor.execute("UPDATE workers_rates SET due = due - %s", (hours * HOUR,))

    def forget(self) -> None:
        self._cursor.execute("TRUNCATE workers_rates")


@pytest.fixture(params=[OnRedis, OnPostgres])
def shared(
    request: pytest.FixtureRequest, redis_server: RedisServer, postgres_server: PostgresServer
) -> Iterator[Shared]:
    with ExitStack() as stack:
        is_redis = request.param is OnRedis
        yield request.param(redis_server if is_redis else postgres_server, stack)


def test_the_server_computes_as_the_cell_of_one_host_does(shared: Shared) -> None:
    rate = Rate(HOUR, 7)
    with closing(shared.meter(HOUR, 7)) as meter:
        meter.open()

        @given(STEPS)
        def same(steps: list[tuple[str, int]]) -> None:
            shared.forget()
            due, now = 0, 10_000 * HOUR
            for what, number in steps:
                if what == "give back":
                    due = rate.give_back(due, number)
                    meter.give_back(number)
                    continue
                wanted = number if what == "take" else 1
                if what != "take":
                    passed = number if what == "hours" else -number
                    now += passed * HOUR
                    shared.shift(passed)
                granted, after = rate.take(due, now, wanted)
                due = after if granted else due
                found, wait_s = meter.take(wanted)
                # The time that really passes meanwhile is nothing beside an hour.
                assert found == granted
                assert 0 <= rate.wait(due, now) / SECOND - wait_s < 1000

        same()


def summed(shared: Shared, work: Callable[[Meter], int], interval: int, burst: int) -> int:
    """Have four processes work with one cell; give the sum of what they give."""
    read_end, write_end = os.pipe()

    def one() -> None:
        with closing(shared.meter(interval, burst)) as meter:
            meter.open()
            os.write(write_end, b"%d\n" % work(meter))

    pids = [fork(one) for _ in range(4)]
    os.close(write_end)
    with os.fdopen(read_end) as lines:
        total = sum(map(int, lines))
    assert [reap(pid) for pid in pids] == [0] * 4
    return total


def test_processes_together_get_what_there_is_and_no_more(shared: Shared) -> None:
    def work(meter: Meter) -> int:
        begun = 0
        while granted := meter.take(3)[0]:
            meter.give_back(granted - 1)
            begun += 1
        return begun

    begun = summed(shared, work, HOUR, 60)
    with closing(shared.meter(HOUR, 60)) as meter:
        # What one gave back after the others had gone is there still.
        assert begun + meter.take(1000)[0] == 60
        assert meter.take(1) == (0, pytest.approx(30 * 3600, abs=1000))


def test_no_more_begins_than_the_clock_of_the_server_allows(shared: Shared) -> None:
    def work(meter: Meter) -> int:
        return sum(meter.take(5)[0] for _ in range(200))

    before = shared.now()
    begun = summed(shared, work, SECOND // 1000, 100)
    assert 100 <= begun <= 100 + (shared.now() - before) // (SECOND // 1000)


def test_a_cell_that_was_lost_begins_anew(shared: Shared) -> None:
    with closing(shared.meter(HOUR, 3)) as meter:
        meter.open()
        assert meter.take(5)[0] == 3
        assert meter.take(5)[0] == 0
        shared.forget()
        assert meter.take(5)[0] == 3


def test_a_server_that_is_away_is_in_trouble_and_nothing_in_hand_is_lost() -> None:
    for meter in (
        RedisMeter("redis://127.0.0.1:1/0", "a", interval=1, burst=1, io_timeout=30),
        PostgresMeter("postgresql://127.0.0.1:1/a", "a", interval=1, burst=1, io_timeout=30),
    ):
        meter.give_back(1)
        with pytest.raises(SourceTrouble, match="refused"):
            meter.take(1)


def test_a_table_that_may_not_be_made_is_said_with_its_statement(
    postgres_server: PostgresServer,
) -> None:
    postgres_server.empty()
    with postgres_server.cursor() as cursor:
        cursor.execute(
            "DROP ROLE IF EXISTS reader; CREATE ROLE reader LOGIN;"
            " GRANT USAGE ON SCHEMA public TO reader"
        )
    url = postgres_server.url.replace("tests@", "reader@")
    with closing(PostgresMeter(url, "a", interval=1, burst=1, io_timeout=30)) as meter:
        with pytest.raises(SourceTrouble, match="it needs CREATE TABLE ") as found:
            meter.open()
        with postgres_server.cursor() as cursor:
            cursor.execute(str(found.value).partition("it needs ")[2])
            cursor.execute("GRANT ALL ON workers_rates TO reader")
        meter.open()
        assert meter.take(1)[0] == 1


def test_the_cell_in_redis_needs_no_memory_and_goes_away(redis_server: RedisServer) -> None:
    redis_server.empty()
    with (
        redis_server.client() as client,
        closing(RedisMeter(redis_server.url, "a", interval=HOUR, burst=4, io_timeout=30)) as meter,
    ):
        client.config_set("maxmemory", 1)
        try:
            assert meter.take(3)[0] == 3
        finally:
            client.config_set("maxmemory", 0)
        assert meter.take(3)[0] == 1
        assert 3.9 * 3600 < client.ttl("mq:rate:a") <= 4 * 3600
        meter.give_back(4)
        assert meter.take(0)[0] == 0
        client.hset("mq:rate:b", "a", "b")
        other = RedisMeter(redis_server.url, "b", interval=HOUR, burst=4, io_timeout=30)
        with pytest.raises(SourceTrouble, match="mq:rate:b is a hash, and no string"):
            other.open()
        other.close()

"""Queues of Redis beyond the conformance suite: what others put in, and a server in need."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace

import pytest
import redis

from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.fork import fork, reap
from tests.helpers.redis_server import RedisServer
from workers import codec, publish
from workers.sources.redis_desk import RedisDesk
from workers.sources.redis_list import ListSource
from workers.sources.source import Burial, Delivery, Return, SourceTrouble

Make = Callable[..., ListSource]


@pytest.fixture
def client(redis_server: RedisServer) -> Iterator[redis.Redis]:
    redis_server.empty()
    with redis_server.client() as client:
        yield client


@pytest.fixture
def make(client: redis.Redis, redis_server: RedisServer) -> Iterator[Make]:
    """Give a maker of open sources of the topic "t"."""
    with ExitStack() as stack:

        def made(owner: str, lease_s: float = 600.0) -> ListSource:
            url = redis_server.url
            source = ListSource(url, owner, ["t"], lease_s=lease_s, io_timeout=PATIENCE_S)
            stack.enter_context(closing(source))
            source.open()
            return source

        yield made


@pytest.fixture
def desk(client: redis.Redis, redis_server: RedisServer) -> Iterator[RedisDesk]:
    with closing(RedisDesk(redis_server.url, ["t"], io_timeout=PATIENCE_S)) as desk:
        yield desk


def take(source: ListSource, count: int = 10) -> list[Delivery]:
    return source.fetch([("t", count)], count)


def name(delivery: Delivery) -> str:
    return codec.message_of(delivery).id


def test_messages_without_an_id_have_one_of_their_own_whoever_takes_them(
    make: Make, client: redis.Redis
) -> None:
    client.lpush("mq:t", *["the same"] * 6)
    sources = make("i/a:0/1"), make("i/a:1/2")
    names = [name(one) for source in sources for one in take(source, 3)]
    assert len(set(names)) == 6
    assert len({name(one) for one in take(make("i/a:0/1"))}) == 0


def test_the_id_stays_over_a_retry_a_death_and_the_end_of_a_lease(
    make: Make, client: redis.Redis
) -> None:
    client.lpush("mq:t", "one", "two")
    first, second = make("i/a:0/1", lease_s=0.001), make("i/a:1/2")
    one, two = take(first)
    first.nack(
        [Return(Delivery(one.number, "t", one.body, attempts=1, failures=1, envelope=one.envelope))]
    )
    # The lease of the other one is over, and somebody sees it.
    eventually(lambda: second.tend() == () and client.zcard("mq:t:lease") == 0)
    found = take(second)
    assert {name(again) for again in found} == {name(one), name(two)}
    second.release("i/a:1/2", [found[0].number])
    assert {name(again) for again in take(first)} == {name(one), name(two)}


def test_what_others_have_put_among_leases_or_delayed_ones_is_a_message(
    make: Make, client: redis.Redis
) -> None:
    client.zadd("mq:t:delayed", {"plain": 1, "1 2 x\nhalf a line": 2, b"\xff\x00": 3})
    client.zadd("mq:t:lease", {"leased": 1, "0 0 0 0 \nno id": 2})
    source = make("i/a:0/1")
    source.tend()
    found = take(source)
    bodies = {one.body for one in found}
    assert bodies == {b"plain", b"1 2 x\nhalf a line", b"\xff\x00", b"leased", b"0 0 0 0 \nno id"}
    assert {(one.attempts, one.failures, one.suspect) for one in found} == {(0, 0, False)}
    source.ack(found)
    assert client.keys() == []


def test_a_message_of_ten_megabytes_goes_all_the_ways(
    make: Make, client: redis.Redis, desk: RedisDesk
) -> None:
    body = b'"' + b"x" * 10_000_000 + b'"'
    desk.publish("t", [body], 0.0)
    source = make("i/a:0/1")
    [one] = take(source)
    source.nack([Return(Delivery(one.number, "t", body, attempts=1))])
    [one] = take(source)
    source.dead([Burial(one, "t", "big", "error", "", "a:0")])
    [letter] = desk.walk("t")
    assert letter.body == body
    assert desk.replay([letter.number]) == 1
    [one] = take(source)
    assert one.body == body


def test_the_server_that_forgets_its_scripts_and_cuts_connections_is_served_on(
    make: Make, client: redis.Redis
) -> None:
    source = make("i/a:0/1")
    client.lpush("mq:t", "one")
    client.script_flush()
    [one] = take(source)
    for _ in range(2):
        client.client_kill_filter(_type="normal", skipme=True)
        client.client_kill_filter(_type="pubsub", skipme=True)
        client.lpush("mq:t", "two")

        def again() -> list[Delivery]:
            try:
                return take(source)
            except SourceTrouble:
                return []

        [two] = eventually(again)
        assert two.body == b"two"
        source.ack([two])
    assert source.extend([one]) == set()


def test_a_clock_of_the_server_that_is_set_holds_up_nobody_who_lives(
    make: Make, client: redis.Redis
) -> None:
    lease_s, hour_ms = 600.0, 3_600_000
    living, dead, other = (make(f"i/a:{seat}/1", lease_s) for seat in range(3))
    client.lpush("mq:t", "one", "two", "three")
    [mine], [lost] = take(living, 1), take(dead, 1)

    def set_clock(by_ms: int) -> None:
        # All that is written down is then further ahead, or less far.
        for member, score in client.zrange("mq:t:lease", 0, -1, withscores=True):
            client.zadd("mq:t:lease", {member: score - by_ms})

    set_clock(-hour_ms)
    other.tend()
    assert [one.body for one in take(other)] == [b"three"], "leases are as much longer"
    assert living.extend([mine]) == set()
    set_clock(hour_ms)
    # Whoever renews has a lease by the new clock; and one that is set back again ends it early.
    assert living.extend([mine]) == set()
    set_clock(2 * hour_ms)
    other.tend()
    assert {one.body for one in take(other)} == {b"one", b"two", b"three"}
    assert living.extend([mine]) == {mine.number}
    living.ack([mine])
    dead.ack([lost])
    assert client.zcard("mq:t:lease") == 3, "who has lost a lease settles nothing"


def test_no_room_on_the_server_loses_and_doubles_nothing(
    make: Make, client: redis.Redis, desk: RedisDesk
) -> None:
    source = make("i/a:0/1")
    client.lpush("mq:t", *(f'"{number}"' for number in range(20)))
    held = take(source, 5)
    client.config_set("maxmemory", 1)
    try:
        for delay_s in (0.0, 1.0):
            with pytest.raises(SourceTrouble, match="maxmemory"):
                desk.publish("t", [b"x"], delay_s)
        # Whatever works off what is there needs no room, and goes on.
        held += take(source, 5)
        assert source.extend(held) == set()
        source.nack([Return(held[0]), Return(held[1], 0.001)])
        source.dead([Burial(held[2], "t", "i", "e", "", "a:0")])
        [letter] = desk.walk("t")
        assert desk.forget([letter.number]) == 1
        source.ack(held[3:])
        source.release("i/a:0/1", [])
    finally:
        client.config_set("maxmemory", 0)
    rest = eventually(lambda: client.zcount("mq:t:delayed", 0, 1) == 0 and take(source, 100))
    assert len({one.body for one in rest}) == len(rest) == 12


def test_many_dead_letters_are_put_back_and_deleted_without_a_walk_for_each(
    make: Make, client: redis.Redis, desk: RedisDesk
) -> None:
    source = make("i/a:0/1")
    for start in range(0, 2000, 100):
        desk.publish("t", [str(number).encode() for number in range(start, start + 100)], 0.0)
        found = take(source, 100)
        source.dead([Burial(one, "t", one.body.decode(), "e", "", "a:0") for one in found])
    letters = list(desk.walk("t"))
    assert [letter.id for letter in letters] == [str(number) for number in reversed(range(2000))]
    client.config_resetstat()
    chosen = [letter.number for letter in letters[500:]]
    assert desk.replay(chosen) == 1500
    assert desk.replay(chosen) == 0
    assert desk.forget([letter.number for letter in letters]) == 500
    calls = client.info("commandstats")
    assert calls["cmdstat_evalsha"]["calls"] < 30
    assert calls["cmdstat_lrange"]["calls"] < 60
    assert client.llen("mq:t:dead") == 0
    assert [client.lindex("mq:t", place) for place in (-1, 0)] == [b"0", b"1499"]


def test_a_fork_publishes_on_a_connection_of_its_own(
    client: redis.Redis, redis_server: RedisServer
) -> None:
    def say(message_id: str) -> None:
        publish("t", 1, url=redis_server.url, id=message_id)

    def work() -> None:
        say("parent")
        pid = fork(lambda: say("child"))
        say("parent again")
        assert reap(pid) == 0
        say("and again")

    # In a process of its own, as publish keeps its connection for the thread.
    assert reap(fork(work)) == 0
    pushed = client.lrange("mq:t", 0, -1)
    found = {codec.decode("t", raw, fallback_id="", attempt=1).id for raw in pushed}
    assert found == {"parent", "child", "parent again", "and again"}


def test_many_at_once_of_all_kinds_are_held_as_the_server_holds_them(
    make: Make, client: redis.Redis
) -> None:
    """Ids and numbers of what nobody has tried are counted on both sides."""
    source = make("i/a:0/1")
    client.lpush("mq:t", *map(str, range(5000)))
    tried = take(source, 7)
    source.nack([Return(replace(one, attempts=1)) for one in tried[:3]])
    client.zadd("mq:t:delayed", {"put there by another program": 1})
    found = [*take(source, 4990), *take(source, 4990)]
    assert {one.body for one in found[:4]} == {
        *(one.body for one in tried[:3]),
        b"put there by another program",
    }
    assert [int(one.body) for one in found[4:]] == list(range(7, 5000))
    assert len({name(one) for one in found}) == len({one.number for one in found}) == len(found)
    assert len(source.extend(found)) == 0
    source.ack(found + tried[3:])
    assert client.zcard("mq:t:lease") == 0

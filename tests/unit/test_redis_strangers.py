"""Keys of a queue in Redis that another program makes its own while it is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import replace

import pytest
import redis

from tests.helpers.eventually import PATIENCE_S
from tests.helpers.redis_server import RedisServer
from workers import codec
from workers.sources import redis_scripts, redis_stream_scripts
from workers.sources.redis_desk import RedisDesk
from workers.sources.redis_list import ListSource
from workers.sources.redis_source import RedisSource
from workers.sources.redis_stream import StreamSource
from workers.sources.redis_stream_desk import StreamDesk
from workers.sources.source import Burial, Delivery, Return, SourceTrouble

OWNER = "i/a:0/1"
IDS = {"one", "two", "three", "four"}


class Queue:
    """A topic of one of both kinds, with four messages."""

    def __init__(self, server: RedisServer, *, is_stream: bool) -> None:
        self.client = server.client()
        self._url = server.url
        self._is_stream = is_stream
        if is_stream:
            self.keys = [*redis_stream_scripts.kinds(["t"], "g")]
        else:
            self.keys = [*redis_scripts.kinds(["t"])]

    def __enter__(self) -> Queue:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def fill(self) -> None:
        self.client.flushall()
        with closing(self.desk()) as desk:
            desk.publish("t", [codec.encode("t", one, message_id=one) for one in IDS], 0.0)

    def desk(self) -> RedisDesk:
        if self._is_stream:
            return StreamDesk(self._url, ["t"], group="g", io_timeout=PATIENCE_S)
        return RedisDesk(self._url, ["t"], io_timeout=PATIENCE_S)

    def source(self, owner: str, lease_s: float = 600.0) -> RedisSource:
        times = {"lease_s": lease_s, "io_timeout": PATIENCE_S}
        if self._is_stream:
            return StreamSource(self._url, owner, "g", ["t"], **times)
        return ListSource(self._url, owner, ["t"], **times)

    def become(self, key: str, value: str | None) -> None:
        """Let another program have a key, or put back what was there."""
        if value is not None:
            with suppress(redis.ResponseError):
                self.client.rename(key, "aside")
            self.client.set(key, value)
        else:
            self.client.delete(key)
            with suppress(redis.ResponseError):
                self.client.rename("aside", key)

    def left(self) -> set[str]:
        """Give the ids of all that is there, in whatever place: it is all taken, or dead."""
        found: list[str] = []
        with closing(self.desk()) as desk:
            found += [letter.id for letter in desk.walk("t")]
        with closing(self.source("i/a:1/1")) as source:
            source.open()
            source.release(OWNER, ())
            source.release("i/a:2/1", ())
            source.nack([])
            found += [codec.message_of(one).id for one in source.fetch([("t", 10)], 10)]
        assert len(found) == len(set(found)), "nothing is there twice"
        return set(found)


Move = Callable[[Queue, RedisSource, Delivery], object]


@pytest.fixture(params=[False, True], ids=["list", "stream"])
def queue(request: pytest.FixtureRequest, redis_server: RedisServer) -> Iterator[Queue]:
    with Queue(redis_server, is_stream=request.param) as queue:
        yield queue


def letter_of(one: Delivery) -> Burial:
    return Burial(one, "t", codec.message_of(one).id, "error", "", "a:0")


def replay(queue: Queue) -> None:
    with closing(queue.desk()) as desk:
        desk.replay([letter.number for letter in desk.walk("t")])


MOVES: dict[str, Move] = {
    "fetch": lambda _, source, __: source.fetch([("t", 9)], 9),
    "retry": lambda _, source, one: source.nack([Return(replace(one, attempts=1), 0.001)]),
    "give back": lambda _, source, one: source.nack([Return(one)]),
    "bury": lambda _, source, one: source.dead([letter_of(one)]),
    "extend": lambda _, source, one: source.extend([one]),
    "tend": lambda _, source, __: source.tend(),
    "release": lambda _, source, one: source.release(OWNER, [one.number]),
    "replay": lambda queue, _, __: replay(queue),
}


@pytest.mark.parametrize("move", MOVES)
def test_a_key_that_another_program_takes_costs_no_message(queue: Queue, move: str) -> None:
    lost: dict[str, set[str]] = {}
    for key in queue.keys:
        queue.fill()
        with closing(queue.source(OWNER, 0.001 if move == "tend" else 600.0)) as source:
            source.open()
            one, two = source.fetch([("t", 2)], 2)
            source.dead([letter_of(two)])
            queue.become(key, "theirs")
            with suppress(SourceTrouble):
                MOVES[move](queue, source, one)
            queue.become(key, None)
        if (left := queue.left()) != IDS:
            lost[key] = IDS - left
    assert lost == {}


def test_it_is_said_which_key_that_is(queue: Queue) -> None:
    queue.fill()
    with closing(queue.source(OWNER)) as source:
        source.open()
        key = next(key for key in queue.keys if key not in ("t", "mq:t"))
        queue.become(key, "theirs")
        with pytest.raises(SourceTrouble) as caught:
            source.fetch([("t", 9)], 9)
        assert (
            str(caught.value) == f"{key} is a string, and no zset: another program uses that name"
        )
        queue.become(key, None)
        assert len(source.fetch([("t", 9)], 9)) == len(IDS)

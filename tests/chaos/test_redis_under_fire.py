"""10,000 messages in Redis: kill -9 of children, of their masters, and of the server itself.

In lists and in streams; what happens to them is the same.
"""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.fire import CONCURRENCY, HELD, MODULES, kill_one, only_the_killed, rounds
from tests.helpers.ledger import Ledger
from tests.helpers.redis_server import RedisServer
from tests.helpers.redis_topics import left
from tests.helpers.sections import section

MESSAGES = 10_000
TOPICS = ("orders", "mails")
GROUP = "shop"


@pytest.fixture
def durable(tmp_path: Path) -> Iterator[RedisServer]:
    """Give a Redis that has on its disk what it has said yes to."""
    folder = tmp_path / "redis"
    folder.mkdir()
    with closing(RedisServer(folder, fsync="always")) as server:
        yield server


@pytest.fixture(params=["queue", "stream"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def consumers(server: RedisServer, kind: str) -> str:
    group = {"group": GROUP} if kind == "stream" else {}
    return section(
        "orders",
        type=kind,
        url=server.url,
        **group,
        topics=", ".join(TOPICS),
        handler="handlers:handle",
        processes=3,
        concurrency=CONCURRENCY,
        backoff=0,
        max_failures=1_000_000,
        io_timeout="2s",
    )


def publish(server: RedisServer, kind: str) -> set[str]:
    """Put them all into their keys, as any other program would; gives their ids."""
    ids = [f"{topic}-{number}" for topic in TOPICS for number in range(MESSAGES // len(TOPICS))]
    with server.client() as client:
        for topic in TOPICS:
            mine = [one for one in ids if one.startswith(topic)]
            if kind == "stream":
                with client.pipeline() as pipeline:
                    for one in mine:
                        pipeline.xadd(topic, {"id": one, "data": 1})
                    pipeline.execute()
            else:
                client.lpush(f"mq:{topic}", *(json.dumps({"id": one, "data": 1}) for one in mine))
    return set(ids)


def twice(supervisor: Supervisor, server: RedisServer, kind: str, ids: set[str]) -> int:
    """See that all are done and nothing runs any more; give how many were done again."""
    eventually(lambda: left(server.url, kind, TOPICS, GROUP) == (0, 0), timeout_s=60)
    assert supervisor.stop() == 0
    assert set(supervisor.tree()) <= {server.pid}
    ended = Ledger(supervisor).counts("end")
    assert set(ended) == ids, "lost"
    with server.client() as client:
        left_over = [key for key in client.scan_iter() if client.type(key) != b"stream"]
        assert not left_over
        assert [client.xlen(key) for key in client.scan_iter()] == [0] * client.dbsize()
    return sum(ended.values()) - len(ids)


def test_kills_of_children_and_masters(
    supervise: Supervise, durable: RedisServer, kind: str
) -> None:
    ids = publish(durable, kind)
    supervisor = supervise(consumers(durable, kind), MODULES)
    chance = random.Random(17)
    killed: list[int] = []
    for number in rounds(supervisor, MESSAGES):
        if number in (3, 8):
            supervisor.kill()
            supervisor.start()
        else:
            pid = kill_one(supervisor, chance, MESSAGES)
            killed += [pid] if pid is not None else []
    # What was in a handler, or done and its acknowledgement not yet with the server.
    assert twice(supervisor, durable, kind, ids) <= len(killed) * HELD
    only_the_killed(supervisor, killed)


@pytest.mark.parametrize(
    "end",
    [lambda server: server.stop(signal.SIGKILL), lambda server: server.stop()],
    ids=["killed", "stopped"],
)
def test_the_server_goes_away_and_comes_back(
    supervise: Supervise, durable: RedisServer, kind: str, end: Callable[[RedisServer], None]
) -> None:
    ids = publish(durable, kind)
    supervisor = supervise(consumers(durable, kind), MODULES)
    pids = {row["pid"] for row in supervisor.status()["processes"]}
    for number in rounds(supervisor, MESSAGES):
        if number in (2, 6):
            end(durable)
            durable.start()
    # A claim or an acknowledgement whose answer was lost; their processes lived on.
    assert {row["pid"] for row in supervisor.status()["processes"]} == pids
    assert twice(supervisor, durable, kind, ids) <= 2 * 3 * HELD


def test_the_server_stands_still_for_a_while(
    supervise: Supervise, durable: RedisServer, kind: str
) -> None:
    ids = publish(durable, kind)
    supervisor = supervise(consumers(durable, kind), MODULES)
    for number in rounds(supervisor, MESSAGES):
        if number == 2:
            durable.send(signal.SIGSTOP)
            supervisor.wait_line("cannot be used")
            os.kill(durable.pid, signal.SIGCONT)
    assert twice(supervisor, durable, kind, ids) <= 3 * HELD

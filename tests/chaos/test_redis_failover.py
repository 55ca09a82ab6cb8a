"""Lists and streams of Redis whose server is demoted, replaced, loading, emptied or full."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest
import redis

from tests.conftest import Supervise
from tests.helpers import redis_topics
from tests.helpers.driver import Line, Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.redis_server import RedisServer
from tests.helpers.sections import section

HANDLERS = """
import time
from ledger import is_open, note

def handle(message, context):
    note("begin", message.id)
    while message.data == "held" and not is_open("gate"):
        time.sleep(0.01)
    note("end", message.id)
"""

MODULES = {"ledger": SOURCE, "shop": HANDLERS}

FILLERS = 2000
SLOWLY = {"key-load-delay": "100000", "loading-process-events-interval-bytes": "1024"}
"""So many keys make the server load for minutes, unless the test has it hurry. They are large: it
answers after each."""


class Queue:
    """A supervisor with consumers of one kind, and whichever server they have now."""

    def __init__(self, kind: str, server: RedisServer, supervise: Supervise) -> None:
        group = {"group": "shop"} if kind == "stream" else {}
        jobs = section(
            "orders",
            **{"type": kind, "url": server.url, "topics": "orders", "handler": "shop:handle"},
            **{"processes": 2, "concurrency": 4, "lease": "2s", "io_timeout": "30s"},
            **group,
        )
        self.kind = kind
        self.server = server
        self.supervisor: Supervisor = supervise(jobs, MODULES)
        self.ledger = Ledger(self.supervisor)
        self.names: list[str] = []

    def put(self, count: int, data: str = "plain") -> list[str]:
        """Put in messages as any other program would; give their ids."""
        names = [f"m{len(self.names) + number}" for number in range(count)]
        with self.server.client() as client:
            bodies = [json.dumps({"id": name, "data": data}) for name in names]
            redis_topics.put(client, self.kind, "orders", bodies)
        self.names += names
        return names

    def wait(self, word: str, names: list[str]) -> None:
        """Wait until these have begun, or ended."""
        eventually(lambda: set(names) <= set(self.ledger.counts(word)))

    def is_empty(self) -> bool:
        return redis_topics.left(self.server.url, self.kind, ["orders"], "shop") == (0, 0)

    def says(self, *words: str) -> None:
        """Wait until every process says that it is not ready, with one of these words."""

        def fits(found: Line) -> bool:
            return not found["ready"] and any(word in found["why"] for word in words)

        for name in ("orders:0", "orders:1"):
            self.supervisor.wait_process(name, fits)

    def refuses(self, *words: str) -> None:
        """See that a publisher is told in one line, and that nothing was taken."""
        done = self.supervisor.cli("publish", "orders", '"plain"', "--id", "refused")
        assert done.returncode == 69
        [line] = done.stderr.splitlines()
        assert any(word in line for word in words), line

    def works(self) -> None:
        """See that it works again by itself, down to the last message."""
        self.supervisor.wait_ready()
        self.wait("end", self.put(20))
        eventually(self.is_empty)


class Servers:
    """Servers that end with the test."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack

    def new(self, name: str) -> RedisServer:
        folder = self._folder / name
        folder.mkdir()
        return self._stack.enter_context(closing(RedisServer(folder, fsync="always")))


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    with ExitStack() as stack:
        yield Servers(tmp_path, stack)


@pytest.fixture(params=["queue", "stream"])
def queue(request: pytest.FixtureRequest, supervise: Supervise, servers: Servers) -> Queue:
    return Queue(request.param, servers.new("first"), supervise)


def calls(client: redis.Redis) -> int:
    """Count the scripts that were run."""
    return int(client.info("commandstats")["cmdstat_evalsha"]["calls"])


def test_a_failover_to_a_replica_that_lacks_the_latest(queue: Queue, servers: Servers) -> None:
    replica = servers.new("replica")
    pids = queue.supervisor.pids()
    held = queue.put(4, "held")
    queue.wait("begin", held)
    with queue.server.client() as old, replica.client() as new:
        old.config_set("repl-diskless-sync-delay", 0)
        new.replicaof("127.0.0.1", queue.server.port)
        eventually(lambda: new.info("replication")["master_link_status"] == "up")
        assert old.wait(1, int(PATIENCE_S * 1000)) == 1
        new.replicaof("NO", "ONE")
        # From here on it is told nothing: neither that these are done, nor of others.
        queue.ledger.open("gate")
        queue.wait("end", held)
        queue.wait("end", queue.put(20))
        if queue.kind == "stream":
            new.xgroup_destroy("orders", "shop")
        # The address goes over to it, as that of a virtual host would.
        queue.server.stop(signal.SIGKILL)
        new.config_set("port", queue.server.port)
        replica.port = queue.server.port
    queue.server = replica
    queue.works()
    # It had some in work that were done; they were done again when their lease was over.
    assert all(queue.ledger.counts("end")[name] > 1 for name in held)
    assert queue.supervisor.pids() == pids


def test_a_server_that_is_demoted_loading_emptied_or_full(queue: Queue) -> None:
    pids = queue.supervisor.pids()
    with queue.server.client() as client:
        client.replicaof("127.0.0.1", 1)
        queue.says("read only replica", "is a replica")
        queue.refuses("read only replica")
        client.replicaof("NO", "ONE")
        queue.works()

        held = queue.put(3, "held")
        queue.wait("begin", held)
        client.config_set("maxmemory", 1)
        queue.refuses("maxmemory")
        queue.ledger.open("gate")
        queue.wait("end", held)
        eventually(queue.is_empty)
        # Nor is anything wrong with those who have nothing to do.
        before = calls(client)
        eventually(lambda: calls(client) > before + 10)
        assert queue.supervisor.status()["master"]["ready"]
        client.config_set("maxmemory", 0)

        client.flushall()
        client.script_flush()
        queue.works()

        with client.pipeline() as pipeline:
            for number in range(FILLERS):
                pipeline.set(f"filler:{number}", os.urandom(1500))
            pipeline.execute()
        client.bgrewriteaof()
        eventually(lambda: client.info("persistence")["aof_rewrite_in_progress"] == 0)
    queue.server.stop()
    queue.server.options = SLOWLY
    queue.server.start()
    queue.says("loading")
    queue.refuses("loading")
    with queue.server.client() as client:
        client.config_set("key-load-delay", 0)
        eventually(lambda: client.info("persistence")["loading"] == 0)
    queue.works()
    assert "refused" not in queue.ledger.counts("begin")
    assert queue.supervisor.pids() == pids

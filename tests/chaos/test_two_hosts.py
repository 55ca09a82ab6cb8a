"""Two supervisors on two hosts share a server: work is divided, and each may die.

The hosts are network namespaces. The first one's processes have a PID namespace too, and are killed
all at one instant, as by a power cut; of the second one the master is killed.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from typing import Any

import pytest

from tests.conftest import Supervise
from tests.helpers import redis_topics
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.hosts import FarKafka, FarPostgres, FarRedis, Host, Network, network
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.pid_namespace import UNSHARE
from tests.helpers.sections import section
from workers import codec
from workers.sources import kafka_client
from workers.sources.kafka_desk import Interest, KafkaDesk

HANDLERS = """
import time
from ledger import is_open, note

def handle(message, context):
    if isinstance(message.data, dict):
        name, gate = message.data["name"], message.data["gate"]
        note("begin", name, gate or "-")
        while gate and not is_open(gate):
            time.sleep(0.01)
        note("end", name)
"""

MODULES = {"ledger": SOURCE, "shop": HANDLERS}


class Shared(ABC):
    """What the hosts share: a server with something to do."""

    keys: dict[str, Any]

    @abstractmethod
    def put(self, names: list[str], gate: str) -> None:
        """Have something done, as any other program would."""

    @abstractmethod
    def left(self) -> tuple[int, int]:
        """Count what is not done, and what is dead."""


class OnRedis(Shared):
    def __init__(self, server: FarRedis, kind: str) -> None:
        self._server = server
        self._kind = kind
        group = {"group": "shop"} if kind == "stream" else {}
        self.keys = {"type": kind, "url": server.far_url, "topics": "orders", **group}

    def put(self, names: list[str], gate: str) -> None:
        with self._server.client() as client:
            bodies = [{"id": name, "data": {"name": name, "gate": gate}} for name in names]
            redis_topics.put(client, self._kind, "orders", map(json.dumps, bodies))

    def left(self) -> tuple[int, int]:
        return redis_topics.left(self._server.url, self._kind, ["orders"], "shop")


class OnPostgres(Shared):
    def __init__(self, server: FarPostgres, claim: str) -> None:
        self._server = server
        self.keys = {
            "type": "table",
            "url": server.far_url,
            "table": "orders",
            "claim": claim,
            "notify": "orders",
            "poll_interval": "100ms",
        }
        with server.cursor() as cursor:
            cursor.execute(
                "CREATE TABLE orders (id bigserial PRIMARY KEY, status text DEFAULT 'pending',"
                " name text, gate text)"
            )

    def put(self, names: list[str], gate: str) -> None:
        with self._server.cursor() as cursor:
            cursor.execute(
                "INSERT INTO orders (name, gate) SELECT unnest(%s::text[]), %s", (names, gate)
            )

    def left(self) -> tuple[int, int]:
        with self._server.cursor() as cursor:
            cursor.execute(
                "SELECT count(*) FILTER (WHERE status = 'pending'),"
                " count(*) FILTER (WHERE status = 'failed') FROM orders"
            )
            undone, failed = cursor.fetchone()
        return undone, failed


class OnKafka(Shared):
    def __init__(self, server: FarKafka) -> None:
        self._server = server
        self.keys = {
            "type": "kafka",
            "brokers": server.brokers,
            "topics": "orders",
            "group": "shop",
            "client.session_timeout_ms": 6000,  # the broker's least; else all waits 45 s
        }
        with server.place.entered(), server.admin() as admin:
            admin.create_topics({"orders": {"num_partitions": 4}}, wait_for_metadata=True)

    @contextmanager
    def _asked(self) -> Iterator[KafkaDesk]:
        with self._server.place.entered():
            settings = kafka_client.settings_of([self._server.brokers], {}, 30)
            topics = ("orders",)
            try:
                with closing(KafkaDesk(settings, Interest("shop", False, topics, topics))) as desk:
                    yield desk
            finally:
                kafka_client.close_producers()

    def put(self, names: list[str], gate: str) -> None:
        bodies = [
            codec.encode("orders", {"name": name, "gate": gate}, message_id=name) for name in names
        ]
        with self._asked() as desk:
            desk.publish("orders", bodies, 0.0)

    def left(self) -> tuple[int, int]:
        with self._asked() as desk:
            depths = desk.depths()
        return sum(depth.depth for depth in depths), sum(depth.dead for depth in depths)


@contextmanager
def shared_on(world: Network, kind: str) -> Iterator[Shared]:
    if kind in ("lock", "lease"):
        with closing(FarPostgres(world.server)) as postgres:
            yield OnPostgres(postgres, kind)
    elif kind == "kafka":
        with closing(FarKafka(world.server)) as kafka:
            yield OnKafka(kafka)
    else:
        with closing(FarRedis(world.server)) as redis:
            yield OnRedis(redis, kind)


@pytest.fixture
def world() -> Iterator[Network]:
    """Give a network; to be asked for before `supervise`, as it ends after it."""
    with network(hosts=2) as made:
        yield made


class Pair:
    """The two supervisors with one configuration, and all that they were given to do."""

    def __init__(self, supervise: Supervise, world: Network, shared: Shared, **more: str) -> None:
        keys = {"processes": "2", "concurrency": "4", "io_timeout": "1s", "lease": "2s", **more}
        jobs = section("orders", **shared.keys, handler="shop:handle", **keys)
        self.one, self.two = (supervise(jobs, MODULES, start=False) for _ in world.hosts)
        self._hosts = world.hosts
        self._shared = shared
        self.names: list[str] = []
        self.one.start(within=(*world.hosts[0].within, *UNSHARE))
        self.start_two()

    @property
    def host_of_one(self) -> Host:
        return self._hosts[0]

    def start_two(self) -> None:
        self.two.start(within=self._hosts[1].within)

    def put(self, count: int, gate: str = "") -> None:
        names = [f"m{len(self.names) + number}" for number in range(count)]
        self.names += names
        self._shared.put(names, gate)

    def put_until_begun(self, supervisor: Supervisor, gate: str) -> list[str]:
        """Have more done until this one has begun with it; give what it is at."""

        def look() -> list[str]:
            self.put(10, gate)
            return self.begun(supervisor, gate)

        return eventually(look)

    def begun(self, supervisor: Supervisor, gate: str) -> list[str]:
        """Give what this one has begun with that waits for a gate."""
        lines = Ledger(supervisor).lines()
        return [words[1] for words in lines if words[0] == "begin" and words[2] == gate]

    def has_begun(self, supervisor: Supervisor, count: int) -> bool:
        """Tell whether this one has begun with so many that wait for the gate "any"."""
        return len(self.begun(supervisor, "any")) == count

    def all_is_done(self) -> None:
        """Wait until nothing is left, and see that nothing was lost."""
        eventually(lambda: self._shared.left() == (0, 0))
        ended = Ledger(self.one).counts("end") | Ledger(self.two).counts("end")
        assert set(ended) == set(self.names), "lost"


@pytest.mark.parametrize("kind", ["queue", "stream", "lock", "lease", "kafka"])
def test_a_host_loses_its_network_and_then_its_power_and_the_other_its_master(
    world: Network, supervise: Supervise, kind: str
) -> None:
    with shared_on(world, kind) as shared:
        pair = Pair(supervise, world, shared)
        one, two = pair.one, pair.two
        for gate in ("any", "first", "second"):
            Ledger(two).open(gate)
        # Both work; the first has some in hand when no packet comes through any more.
        pair.put(500)
        pair.put_until_begun(two, "any")
        Ledger(one).open("any")
        held = pair.put_until_begun(one, "first")
        pair.host_of_one.cut()
        for name in ("orders:0", "orders:1"):
            one.wait_process(name, lambda found: "cannot be used" in found["why"])
        # It renews nothing, and lives: the other has all of it when the lease is over.
        eventually(lambda: set(held) <= set(Ledger(two).counts("end")))
        # It comes back with work that is another's by now, and goes on as if nothing had been.
        pair.host_of_one.mend()
        one.wait_ready()
        Ledger(one).open("first")
        held = pair.put_until_begun(one, "second")
        pair.host_of_one.cut()
        one.kill()
        two.kill()
        pair.start_two()
        pair.all_is_done()
        assert set(held) <= set(Ledger(two).counts("end"))
        assert not set(held) & set(Ledger(one).counts("end"))
        assert two.stop() == 0


def test_a_rate_holds_over_both_hosts(world: Network, supervise: Supervise) -> None:
    with closing(FarRedis(world.server)) as redis:
        pair = Pair(supervise, world, OnRedis(redis, "queue"), rate_limit="20/s")
        both = (pair.one, pair.two)
        with redis.client() as client:
            before = client.time()
            pair.put(60)
            # One for each thread of both: a host alone has eight.
            pair.put(16, "any")
            for supervisor in both:
                eventually(partial(pair.has_begun, supervisor, 8))
            for supervisor in both:
                Ledger(supervisor).open("any")
            pair.all_is_done()
            after = client.time()
        passed_s = after[0] - before[0] + (after[1] - before[1]) / 1e6
        assert passed_s >= (76 - 2) / 20, "a burst of two, then one each twentieth of a second"
        for supervisor in both:
            assert supervisor.cli("stop").returncode == 0
            assert supervisor.wait_exit() == 0

"""10,000 messages in Kafka: kill -9 of children, of their masters, and of the broker itself.

All the while, each key's messages are handled one after the other, with more threads than there
are partitions.
"""

from __future__ import annotations

import random
import signal
import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.fire import MODULES, kill_one, rounds
from tests.helpers.in_order import InOrder
from tests.helpers.kafka_server import KafkaServer
from tests.helpers.ledger import Ledger
from tests.helpers.sections import section
from workers import codec
from workers.sources import kafka_client
from workers.sources.kafka_desk import Interest, KafkaDesk

MESSAGES = 10_000
KEYS = 200
PROCESSES = 2
CONCURRENCY = 16
HELD = 100 + CONCURRENCY
READ = 4 * 1000
"""What a process may have done of four partitions while the broker took no commit for once."""


@pytest.fixture
def own(tmp_path: Path) -> Iterator[KafkaServer]:
    """Give a broker that may be killed."""
    folder = tmp_path / "kafka"
    folder.mkdir()
    with closing(KafkaServer(folder)) as server:
        yield server


def consumers(server: KafkaServer, topic: str, **more: object) -> str:
    keys: dict[str, object] = {
        "type": "kafka",
        "brokers": server.brokers,
        "topics": topic,
        "group": "shop",
        "order": "key",
        "handler": "handlers:handle",
        "processes": PROCESSES,
        "concurrency": CONCURRENCY,
        "backoff": 0,
        "max_failures": 1_000_000,
        "io_timeout": "2s",
    }
    return section("orders", **(keys | more))


def publish(server: KafkaServer) -> str:
    """Put them all on a new topic with four partitions, key by key in turn; gives its name."""
    topic = f"orders-{uuid.uuid4().hex}"
    with server.admin() as admin:
        admin.create_topics({topic: {"num_partitions": 4}}, wait_for_metadata=True)
    settings = kafka_client.settings_of([server.brokers], {}, 30)
    with closing(KafkaDesk(settings, Interest())) as desk:
        desk.publish(topic, list(bodies(topic)), 0)
    # While the broker is away it would leave sockets behind.
    kafka_client.close_producers()
    return topic


def bodies(topic: str) -> Iterator[bytes]:
    for number in range(MESSAGES // KEYS):
        for key in range(KEYS):
            yield codec.encode(topic, number, message_id=f"k{key}:{number}", key=f"k{key}")


def uncommitted(supervisor: Supervisor) -> int:
    """Count what is done, and would be done again; while the broker is away that grows."""
    ended = len(Ledger(supervisor).counts("end"))
    return supervisor.left()[0] - (MESSAGES - ended)


def done(supervisor: Supervisor) -> InOrder:
    """See that all is done, and each key in order; the supervisor is stopped then."""
    eventually(lambda: supervisor.left() == (0, 0), timeout_s=60)
    assert supervisor.stop() == 0
    seen = InOrder()
    seen.look(Ledger(supervisor).lines())
    assert len(seen.done) == MESSAGES, "lost"
    assert not seen.wrong
    return seen


def test_kills_of_children_masters_and_the_broker(supervise: Supervise, own: KafkaServer) -> None:
    supervisor = supervise(consumers(own, publish(own)), MODULES)
    chance = random.Random(17)
    killed = 0
    for number in rounds(supervisor, MESSAGES):
        if number in (3, 12):
            supervisor.kill()
            supervisor.start()
        elif number == 7:
            own.stop(signal.SIGKILL)
            own.start()
            eventually(lambda: uncommitted(supervisor) <= PROCESSES * HELD)
        elif number % 10 == 9:
            # Partitions go from one to another, and come back.
            scaled = supervisor.cli("scale", f"orders={PROCESSES + number // 10 % 2}")
            assert scaled.returncode == 0, scaled.stderr
        else:
            killed += kill_one(supervisor, chance, MESSAGES) is not None
    # What was in a handler, and what was done beyond it and could not be committed.
    assert done(supervisor).again <= killed * 2 * HELD + READ, killed

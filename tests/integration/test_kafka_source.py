"""What only Kafka has: partitions that come and go, buffers that fill, bytes that are no text."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import kafka_bench, shop
from tests.helpers.eventually import eventually
from tests.helpers.forked import Nursery
from tests.helpers.kafka_server import KafkaServer
from workers.sources import kafka, kafka_client
from workers.sources.kafka import KafkaSource
from workers.sources.kafka_desk import Interest, KafkaDesk
from workers.sources.source import Delivery


class Topic:
    """A topic of four partitions, and a group, for one test."""

    def __init__(self, server: KafkaServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.name = self.group = f"t-{os.urandom(6).hex()}"
        kafka_bench.make_topics(server, [self.name], partitions=4)
        self.sources: list[KafkaSource] = []

    def source(self, process: int = 0, **more: Any) -> KafkaSource:
        """Give a member that is open."""
        member = kafka_bench.member(f"i/a:{process}/1", self.group, [self.name], 60.0, **more)
        source = KafkaSource(kafka_bench.settings(self.server), member, self.folder)
        source.open()
        self.sources.append(source)
        return source

    def behind(self) -> int:
        """Give how far the group is behind."""
        with closing(self.desk()) as desk:
            return desk.depths()[0].depth

    def desk(self) -> KafkaDesk:
        interest = Interest(self.group, False, (self.name,))
        return KafkaDesk(kafka_bench.settings(self.server), interest)

    def send(self, count: int, partition: int | None = None) -> None:
        """Append records to the partitions by turns, or to one."""
        producer = kafka_client.producer(kafka_bench.settings(self.server))
        for n in range(count):
            place = n % 4 if partition is None else partition
            producer.send(self.name, key=b"%d" % (n % 8), value=b"%d" % n, partition=place)
        producer.flush()
        kafka_client.close_producers()

    def fetch(self, source: KafkaSource, limit: int = 100) -> list[Delivery]:
        source.tend()
        return source.fetch([(self.name, limit)], limit)


@pytest.fixture
def topic(kafka_server: KafkaServer, tmp_path: Path) -> Iterator[Topic]:
    made = Topic(kafka_server, tmp_path)
    yield made
    for source in made.sources:
        source.close()
    kafka_client.close_producers()


def places(deliveries: list[Delivery]) -> list[tuple[int, int]]:
    origins = [delivery.envelope.record for delivery in deliveries]  # type: ignore[union-attr]
    return [(record.partition, record.offset) for record in origins]


def test_what_fills_the_buffers_comes_to_its_end_in_order(
    topic: Topic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka, "_FULL", 500)
    topic.send(16_000)
    source = topic.source(order="partition")
    found: list[Delivery] = []

    def is_done() -> bool:
        some = topic.fetch(source)
        source.ack(some)
        found.extend(some)
        return len(found) == 16_000

    eventually(is_done)
    for partition in range(4):
        offsets = [offset for one, offset in places(found) if one == partition]
        assert offsets == list(range(4000))
    eventually(lambda: topic.behind() == 0)


def test_a_partition_goes_only_when_nothing_of_it_is_in_a_handler(topic: Topic) -> None:
    one = topic.source(0)
    topic.send(4)
    held: list[Delivery] = []
    eventually(lambda: held.extend(topic.fetch(one)) or len(held) == 4)
    other = topic.source(1)
    # It gets some of the partitions, and waits for them.
    eventually(lambda: topic.fetch(one) or topic.fetch(other) or one._leaving)
    wanted = {spot.partition for spot in one._leaving}
    lost = {h.number for h in held if places([h])[0][0] in wanted}
    assert one.extend(held) == lost
    assert topic.behind() == 4
    topic.send(4)
    one.ack(held)
    found: dict[int, list[tuple[int, int]]] = {0: [], 1: []}

    def is_shared() -> bool:
        for number, source in enumerate((one, other)):
            some = topic.fetch(source)
            source.ack(some)
            found[number] += places(some)
        return sum(map(len, found.values())) >= 4

    eventually(is_shared)
    assert sorted(found[0] + found[1]) == [(place, 1) for place in range(4)], "none is done again"
    assert {place for place, _ in found[1]} == wanted
    eventually(lambda: topic.behind() == 0)


def test_a_suspect_is_told_from_others_and_a_crash_counts_only_alone(topic: Topic) -> None:
    topic.send(2, partition=1)
    for incarnation, crashes in enumerate((None, 0, 1, 2)):
        source = topic.source()
        found: list[Delivery] = []
        eventually(lambda found=found, source=source: found.extend(topic.fetch(source)) or found)
        assert found[0].suspect == (crashes is not None)
        assert found[0].crashes == (crashes or 0)
        assert not any(one.suspect for one in found[1:])
        source.close()
        other = KafkaSource(source._settings, source._member, topic.folder)
        for _ in range(2):  # the same death twice counts once
            assert other.release(f"i/a:0/{incarnation}", [found[0].number]) == 1
    source = topic.source()
    last: list[Delivery] = []
    eventually(lambda: last.extend(topic.fetch(source)) or last)
    assert last[0].crashes == 3
    source.ack(last)
    assert not source._suspects


def test_bytes_that_are_no_text_go_to_the_dead_letters_as_they_are(
    topic: Topic, nursery: Nursery, tmp_path: Path
) -> None:
    producer = kafka_client.producer(kafka_bench.settings(topic.server))
    producer.send(topic.name, key=b"k", value=b"\xff\x00{", headers=[("h", b"\xfe")], partition=0)
    producer.send(topic.name, value=b'{"id": "good", "data": 1}', partition=0)
    producer.flush()
    kafka_client.close_producers()
    journal = shop.Journal(tmp_path / "journal")
    job = shop.job("kafka:", journal.path, topics=(topic.name,))
    one = nursery.fork(
        replace(
            job,
            type="kafka",
            url=None,
            brokers=(topic.server.brokers,),
            consumer_group=topic.group,
        )
    )
    one.until(lambda: topic.behind() == 0)
    assert one.stop() == 0
    assert list(journal.counts("begin")) == ["good"]
    with closing(topic.desk()) as desk:
        [letter] = desk.walk(topic.name)
    assert (letter.id, letter.body, letter.failures) == (f"{topic.name}-0-0", b"\xff\x00{", 0)
    assert letter.error == "its bytes are no UTF-8 text"
    assert letter.envelope is not None
    assert letter.envelope.key == "k"

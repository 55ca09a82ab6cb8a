"""What the tests need to know about Kafka to treat it like any other source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from kafka import TopicPartition

from tests.helpers.eventually import eventually
from tests.helpers.kafka_server import KafkaServer
from workers.sources import kafka_client, kafka_letters
from workers.sources.kafka import KafkaSource, Member
from workers.sources.kafka_books import Spot
from workers.sources.kafka_desk import Interest, KafkaDesk
from workers.sources.source import Around, Delivery, Share


def settings(server: KafkaServer, io_timeout: float = 30.0) -> kafka_client.Settings:
    """Give what all clients of a server are made with."""
    return kafka_client.settings_of([server.brokers], {}, io_timeout)


def make_topics(server: KafkaServer, names: Sequence[str], partitions: int = 1) -> None:
    """Make topics, unless they are there."""
    with server.admin() as admin:
        there = set(admin.list_topics())
        new = {name: {"num_partitions": partitions} for name in names if name not in there}
        if new:
            admin.create_topics(new, wait_for_metadata=True)


def empty_topics(server: KafkaServer, names: Sequence[str]) -> None:
    """Make topics of one partition, or delete all that they hold, and their dead letters."""
    every = [*names, *map(kafka_letters.dead_topic, names)]
    if not server.topics.issuperset(every):
        make_topics(server, every)
        server.topics.update(every)
    with closing(KafkaDesk(settings(server), Interest())) as desk:
        for name in every:
            desk.purge(name)


def member(owner: str, group: str, topics: Sequence[str], lease_s: float, **more: Any) -> Member:
    """Give the member of a group that has a seat, of whose processes `owner` is one."""
    seat = owner.rpartition("/")[0]
    name = seat.replace("/", ".").replace(":", ".")
    return Member(
        name=name,
        job=seat.rpartition("/")[2].partition(":")[0],
        topics=topics,
        group=group,
        **{"order": "none", "leave_s": lease_s} | more,
    )


class Prompt(Around):
    """Gives out at once what was published before: a test asks once, and not until it comes."""

    def __init__(self, source: KafkaSource) -> None:
        super().__init__(source)
        self._real = source

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Wait until all is here, then pass on."""
        eventually(lambda: self._has_all({topic for topic, _ in shares}))
        return super().fetch(shares, limit)

    def _has_all(self, topics: set[str]) -> bool:
        lost = self._real.tend()
        assert not lost, "nobody else is in the group"
        poller, books = self._real._poller, self._real._books
        assert poller is not None
        spots = [Spot(topic, 0) for topic in topics - self._real.paused(list(topics))]
        if not books.keys() >= set(spots):
            return False
        places = {spot: TopicPartition(*spot) for spot in spots}
        ends = poller._consumer.end_offsets(list(places.values()))
        return all(books[spot].end >= ends[place] for spot, place in places.items())

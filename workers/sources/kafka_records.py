"""Records of Kafka as the loop knows them."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from workers.sources.kafka_books import Partition, Spot, lane_of
from workers.sources.kafka_letters import Origin, Record, text_of, texts_of
from workers.sources.source import Delivery


class RecordEnvelope:
    """What Kafka knows of a message; read out of the record when somebody asks."""

    __slots__ = ("record",)

    is_text = True

    def __init__(self, record: Any) -> None:  # noqa: ANN401 - a ConsumerRecord, which has no types
        self.record = record

    @property
    def id(self) -> str:
        """Give `topic-partition-offset`."""
        return str(self.origin)

    @property
    def key(self) -> str | None:
        """Give the key as text."""
        return text_of(self.record.key)

    @property
    def headers(self) -> Mapping[str, str]:
        """Give the headers as texts."""
        return texts_of(self.record.headers)

    @property
    def published_at(self) -> datetime | None:
        """Give the time that the producer, or the broker, has written down."""
        stamp = self.record.timestamp
        return None if stamp < 0 else datetime.fromtimestamp(stamp / 1000, UTC)

    @property
    def spot(self) -> Spot:
        """Give the partition."""
        return Spot(self.record.topic, self.record.partition)

    @property
    def origin(self) -> Origin:
        """Give the place in the log."""
        return Origin(self.record.topic, self.record.partition, self.record.offset)

    @property
    def raw(self) -> Record:
        """Give the bytes as they were."""
        return Record(self.record.key, self.record.value, self.record.headers)


def delivery_of(record: Any, books: Partition, order: str) -> Delivery:  # noqa: ANN401 - as above
    """Give a record as a message; one without a value has an empty body."""
    return Delivery(
        books.root + record.offset,
        record.topic,
        record.value or b"",
        envelope=RecordEnvelope(record),
        lane=lane_of(books.spot, record.key, order),
    )


def known_of(delivery: Delivery) -> RecordEnvelope:
    """Give what the record of a message was; it stays with the message for life."""
    assert isinstance(delivery.envelope, RecordEnvelope), "made by `delivery_of`"
    return delivery.envelope

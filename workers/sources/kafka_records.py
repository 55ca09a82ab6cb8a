"""Records of Kafka as the loop knows them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from workers.sources.kafka_books import Order, Partition, Spot, lane_of
from workers.sources.kafka_letters import LAST_S, Origin, Record, text_of, texts_of
from workers.sources.source import Delivery


class RecordEnvelope:
    """What Kafka knows of a message; read out of the record when somebody asks."""

    __slots__ = ("record", "spot")

    is_text = True

    def __init__(self, record: Any, spot: Spot) -> None:  # noqa: ANN401 - a ConsumerRecord
        self.record = record
        self.spot = spot

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
        """Give the time that the producer, or the broker, has written down, if it is one."""
        moment = self.record.timestamp / 1000
        return datetime.fromtimestamp(moment, UTC) if 0 <= moment < LAST_S else None

    @property
    def origin(self) -> Origin:
        """Give the place in the log."""
        return Origin(self.record.topic, self.record.partition, self.record.offset)

    @property
    def raw(self) -> Record:
        """Give the bytes as they were."""
        return Record(self.record.key, self.record.value, self.record.headers)


def deliveries_of(
    records: Iterable[Any], books: Partition, order: str
) -> Iterator[tuple[int, Delivery]]:
    """Give records as messages, each with its offset; one without a value has an empty body."""
    spot, root, topic = books.spot, books.root, books.spot.topic
    lane = lane_of(spot, None, order)
    by_key = order == Order.KEY
    for record in records:
        offset = record.offset
        yield (
            offset,
            Delivery(
                root + offset,
                topic,
                record.value or b"",
                0,
                0,
                0,
                False,
                RecordEnvelope(record, spot),
                lane_of(spot, record.key, order) if by_key else lane,
            ),
        )


def known_of(delivery: Delivery) -> RecordEnvelope:
    """Give what the record of a message was; it stays with the message for life."""
    assert isinstance(delivery.envelope, RecordEnvelope), "made by `deliveries_of`"
    return delivery.envelope

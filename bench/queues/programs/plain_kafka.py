"""Plain loops over kafka-python and confluent-kafka: read up to 500 records, decode and handle
them, commit. BENCH_VARIANT is `python` or `confluent`.
"""  # noqa: D205

from __future__ import annotations

import json
import os
from collections.abc import Sequence

import page

_BROKERS, _, _TOPIC = os.environ["BENCH_URL"].partition("/")
_SIZE = 500


def work() -> None:
    """Read with kafka-python."""
    from kafka import KafkaConsumer

    consumer = KafkaConsumer(
        _TOPIC,
        bootstrap_servers=_BROKERS,
        group_id=_TOPIC,
        enable_auto_commit=False,
        auto_offset_reset="earliest",
        max_poll_records=_SIZE,
    )
    while True:
        found = consumer.poll(timeout_ms=1000)
        for records in found.values():
            for record in records:
                page.done(json.loads(record.value)["data"])
        if found:
            consumer.commit()


def work_with_confluent() -> None:
    """Read with confluent-kafka, which is librdkafka."""
    from confluent_kafka import Consumer

    consumer = Consumer(
        {
            "bootstrap.servers": _BROKERS,
            "group.id": _TOPIC,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
        }
    )
    consumer.subscribe([_TOPIC])
    while True:
        # It waits for all of so many, or to the end of the time: an idle one must not.
        found = consumer.consume(_SIZE, 0) or consumer.consume(1, 1.0)
        for record in found:
            page.done(json.loads(record.value())["data"])
        if found:
            consumer.commit(asynchronous=False)


_producer = None


def publish(values: Sequence[int]) -> None:
    """Send records, over all partitions in turn, and wait until the broker has them."""
    global _producer
    if _producer is None:
        from kafka import KafkaProducer

        _producer = KafkaProducer(bootstrap_servers=_BROKERS, acks="all")
    for place, value in enumerate(values):
        body = json.dumps({"id": os.urandom(16).hex(), "topic": _TOPIC, "data": value})
        _producer.send(_TOPIC, body.encode(), partition=place % 4)
    _producer.flush()


if __name__ == "__main__":
    work_with_confluent() if os.environ["BENCH_VARIANT"] == "confluent" else work()

"""Burying messages of Kafka: a letter is safe on the broker before its message is settled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from kafka.errors import KafkaError, MessageSizeTooLargeError  # type: ignore[import-untyped]

from workers.sources import kafka_client
from workers.sources.kafka_client import Settings
from workers.sources.kafka_letters import Level, dead_topic, record_of
from workers.sources.kafka_records import known_of
from workers.sources.source import Burial

_LEVELS: Final = (Level.WHOLE, Level.NO_TRACEBACK, Level.LEAST)
"""How much of its history a letter takes along, the next where the last was too large."""


class Graves:
    """The topics of dead letters of one process of a group. Used by the work loop's thread."""

    def __init__(self, settings: Settings, group: str) -> None:
        self._settings = settings
        self._group = group
        self._limit_s = settings["request_timeout_ms"] / 1000
        self._there: set[str] = set()

    def bury(self, burials: Sequence[Burial]) -> None:
        """Send the letters, and wait until the broker has them all. Raises: SourceTrouble.

        Of several, some may be there then, and are sent once more.
        """
        if not burials:
            return
        for topic in {dead_topic(burial.queue) for burial in burials} - self._there:
            kafka_client.ensure_dead(self._settings, topic)
            self._there.add(topic)
        producer = kafka_client.producer(self._settings)
        try:
            sent = [(burial, *self._send(producer, burial)) for burial in burials]
            for burial, future, level in sent:
                self._wait(producer, burial, future, level)
        except KafkaError as error:
            brokers = self._settings["bootstrap_servers"]
            raise kafka_client.trouble_of(error, brokers) from error

    def _send(self, producer: Any, burial: Burial, level: int = 0) -> tuple[Any, int]:  # noqa: ANN401
        """Hand a letter to the client; it may say at once that it is too large."""
        was = known_of(burial.delivery)
        letter = record_of(burial, was.raw, was.origin, _LEVELS[level], group=self._group)
        words = {"key": letter.key, "value": letter.value, "headers": list(letter.headers)}
        try:
            return producer.send(dead_topic(burial.queue), **words), level
        except MessageSizeTooLargeError:
            if level + 1 == len(_LEVELS):
                raise
            return self._send(producer, burial, level + 1)

    def _wait(self, producer: Any, burial: Burial, future: Any, level: int) -> None:  # noqa: ANN401
        try:
            future.get(self._limit_s)
        except MessageSizeTooLargeError:
            if level + 1 == len(_LEVELS):
                raise
            self._wait(producer, burial, *self._send(producer, burial, level + 1))

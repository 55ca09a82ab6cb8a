"""A bench: what the conformance suite needs to know about one kind of source."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supervisor.config import Job
from tests.helpers.kafka_server import KafkaServer
from tests.helpers.postgres_server import PostgresServer
from tests.helpers.redis_server import RedisServer
from workers import codec
from workers.sources.desk import Depth, Desk, Letter, depths_of
from workers.sources.source import Delivery, Source

LEASE_S = 600.0

IO_S = 30.0
"""Nobody waits so long for the file, however busy the disk."""


@dataclass(frozen=True)
class Servers:
    """The servers of the test run."""

    redis: RedisServer
    postgres: PostgresServer
    kafka: KafkaServer | None


class Bench(ABC):
    """What the suite needs to know about one kind of source: how to come to it, and its job."""

    KEEPS_PLACES = True
    """What is given back without delay comes where it stood; else before what nobody has had."""
    COUNTS_FREED = True
    """What a dead process held is freed by us; else the server may have done it before."""
    SEES_WORK = True
    """Its desk tells what waits for a process from what one has; a log only what is not done."""
    BOOKS: tuple[str, ...] = ("a", "b")
    """The topics that one source of it may serve together."""

    @abstractmethod
    def source(self, owner: str, lease_s: float = LEASE_S) -> Source:
        """Give a source that is not open yet."""

    @abstractmethod
    def desk(self) -> Desk:
        """Give a new desk: a connection must not be open at a fork."""

    @abstractmethod
    def job(self, journal: Path, handler: str = "handle", **more: Any) -> Job:
        """Give a job that consumes from it, with a handler of `shop`."""

    @abstractmethod
    def out_of_order(self) -> AbstractContextManager[None]:
        """Have it fail or not answer. No fork may happen meanwhile."""

    def publish(self, topic: str, *data: object, delay_s: float = 0.0) -> None:
        """Put messages on a topic, with ids that tell their data."""
        bodies = [codec.encode(topic, one, message_id=str(one).replace(" ", "")) for one in data]
        self.publish_raw(topic, *bodies, delay_s=delay_s)

    def publish_raw(self, topic: str, *bodies: bytes, delay_s: float = 0.0) -> None:
        """Put bodies on a topic as they are."""
        with closing(self.desk()) as desk:
            desk.publish(topic, bodies, delay_s)

    def depth(self, topic: str) -> Depth:
        """Look at one topic."""
        with closing(self.desk()) as desk:
            [depth, *_] = depths_of(desk, [topic])
        return depth

    def letters(self, topic: str) -> list[Letter]:
        """Look at all its dead letters."""
        with closing(self.desk()) as desk:
            return list(desk.walk(topic))

    def pause(self, topic: str) -> None:
        """Let nobody take from a topic."""
        with closing(self.desk()) as desk:
            desk.pause(topic)

    def resume(self, topic: str) -> None:
        """Undo `pause`."""
        with closing(self.desk()) as desk:
            desk.resume(topic)

    def content(self, delivery: Delivery) -> bytes:
        """Give what was published, of a delivery."""
        return delivery.body

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Let go of what the bench itself holds."""


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock that every change of a file needs. No fork may happen meanwhile."""
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("BEGIN IMMEDIATE")
    yield
    database.execute("ROLLBACK")
    database.close()

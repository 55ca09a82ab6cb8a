"""What the two kinds of source in Redis share: the claim, its bells, and what its answer held."""

from __future__ import annotations

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from workers.sources import redis_scripts as keys
from workers.sources.redis_bells import Bells
from workers.sources.redis_server import Argument, RedisServer
from workers.sources.source import Delivery, Return, Share

Claimed = tuple[int, Sequence[int], list[Delivery]]
"""Milliseconds until something is due, or -1; for each topic whether it is paused; what is ours."""

_LATER_S: Final = 1.0
"""How long to sleep when every topic has its bell: what another program puts among the delayed
messages rings none."""

_POLL_S: Final = 0.05
"""How long when one has not."""

CHUNK: Final = 500
"""So many messages are sent in one call."""


class RedisSource(ABC):
    """A Source at `redis://HOST:PORT/DATABASE`. Used by the work loop's thread only."""

    def __init__(
        self, url: str, owner: str, topics: Sequence[str], *, lease_s: float, io_timeout: float
    ) -> None:
        self._server = RedisServer(url, io_timeout=io_timeout)
        self._bells = Bells(self._server, self._bell)
        self._owner = owner
        self._topics = tuple(topics)
        self._lease_ms = int(lease_s * 1000)
        self._held: dict[int, bytes] = {}
        """By its number, that by which the server knows what this process has claimed."""
        self._next_look = 0.0
        self._is_unsure = False

    def open(self) -> None:
        """See that the server is there, new enough, and has no keys in our way."""
        self._server.check(self._kinds())

    def close(self) -> None:
        """Disconnect."""
        self._bells.close()
        self._server.close()

    def bells(self) -> Sequence[int]:
        """Give the descriptors of the connections that wait for a message."""
        return self._bells.fds()

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Claim in one script; when less than was wanted is there, let more of it ring."""
        self._bells.answer()
        if self._is_unsure:
            self._give_back_unknown()
        self._is_unsure = True
        until_due_ms, pauses, found = self._claim(shares, limit)
        self._is_unsure = False
        topics = [topic for topic, _ in shares]
        if len(found) < limit:
            self._bells.hang(topics, [t for t, pause in zip(topics, pauses, strict=True) if pause])
        covered = self._bells.covers(topics)
        silence_s = 0.0 if len(found) >= limit else _LATER_S if covered else _POLL_S
        if until_due_ms >= 0:
            silence_s = min(silence_s, until_due_ms / 1000)
        self._next_look = time.monotonic() + silence_s
        return found

    def patience(self) -> float:
        """Give the time until something is due, or nothing of what would ring was heard."""
        return max(0.0, self._next_look - time.monotonic())

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Settle as if it were done."""
        self.ack(deliveries)

    def paused(self, topics: Sequence[str]) -> set[str]:
        """Look for the marks."""
        marks = self._server.do_each(("EXISTS", keys.paused(topic)) for topic in topics)
        return {topic for topic, mark in zip(topics, marks, strict=True) if mark}

    @abstractmethod
    def _kinds(self) -> Mapping[str, str]:
        """Name the type of each key, as it is when the key is there."""

    @abstractmethod
    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle for good."""

    @abstractmethod
    def _claim(self, shares: Sequence[Share], limit: int) -> Claimed:
        """Take leases, in one script."""

    @abstractmethod
    def _give_back_unknown(self) -> None:
        """Free what a claim has leased whose answer was lost: nobody else would, while we live."""

    @abstractmethod
    def _bell(self, topic: str) -> Sequence[Argument]:
        """Give the command that blocks until a topic has a message, and takes none."""

    def _back(self, returns: Iterable[Return], topics: Sequence[str]) -> list[Argument]:
        """Give what a script has to know of what goes back: four words for each message.

        The number of its topic, what it is held by, its counters, and the delay in ms.
        """
        arguments: list[Argument] = []
        for back in returns:
            one = back.delivery
            line = f"{one.attempts} {one.failures} {one.crashes} {one.suspect:d}"
            delay_ms = math.ceil(back.delay_s * 1000)
            arguments += [topics.index(one.topic) + 1, self._held[one.number], line, delay_ms]
        return arguments

    def _look_again(self) -> None:
        """Expect that the next claim finds something."""
        self._next_look = 0.0

    def _forget(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._held.pop(delivery.number, None)

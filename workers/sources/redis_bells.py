"""How an idle consumer of Redis is woken: by connections that block on the server.

`BLMOVE mq:TOPIC mq:TOPIC RIGHT RIGHT` waits until a list has a message and leaves it where it is,
whoever pushed it (Redis 6.2); `XREAD BLOCK` does it for a stream. What waits for its time makes no
such call return; those who publish it say so on a channel. The answers are only hints: what is
taken is up to the next claim.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from typing import Final

from workers.sources import redis_scripts as keys
from workers.sources.redis_server import Argument, Line, RedisServer
from workers.sources.source import SourceTrouble

_MOST: Final = 16
"""Topics beyond so many have no connection of their own: they are found by looking."""


_REFUSED_S: Final = 1.0
"""For so long nothing blocks where the server had no memory for it; topics are looked at then."""


class Bells:
    """The blocked connections of one process. Used by the work loop's thread only.

    `command` gives what blocks until a topic has a message, and takes none.
    """

    def __init__(self, server: RedisServer, command: Callable[[str], Sequence[Argument]]) -> None:
        self._server = server
        self._command = command
        self._lines: dict[str, Line] = {}
        self._blocked: set[str] = set()
        self._refused_until = 0.0
        self._channel: Line | None = None
        self._channels: frozenset[str] = frozenset()

    def hang(self, topics: Sequence[str], silent: Collection[str]) -> None:
        """Block on the topics, save of those that are silent, and listen to all.

        One that blocks already goes on. Raises: SourceTrouble.
        """
        try:
            self._listen(frozenset(map(keys.bell, topics)))
            if time.monotonic() >= self._refused_until:
                for topic in topics[:_MOST]:
                    if topic not in self._blocked and topic not in silent:
                        self._block(topic)
        except SourceTrouble:
            self.close()
            raise

    def covers(self, topics: Collection[str]) -> bool:
        """Tell whether a message on any of the topics would ring."""
        return self._blocked.issuperset(topics)

    def fds(self) -> list[int]:
        """Give the descriptors that become readable when one rings."""
        lines = [self._lines[topic] for topic in self._blocked]
        return [line.fileno() for line in (*lines, self._channel) if line is not None]

    def answer(self) -> None:
        """Read what has rung. Raises: SourceTrouble when a connection is lost."""
        try:
            for topic in [topic for topic in self._blocked if self._lines[topic].has_answer()]:
                self._blocked.discard(topic)
                if not self._lines[topic].answer():
                    self._refused_until = time.monotonic() + _REFUSED_S
            while self._channel is not None and self._channel.has_answer():
                self._channel.answer()
        except SourceTrouble:
            self.close()
            raise

    def close(self) -> None:
        """Disconnect all."""
        for line in (*self._lines.values(), self._channel):
            if line is not None:
                line.close()
        self._lines.clear()
        self._blocked.clear()
        self._channel, self._channels = None, frozenset()

    def _block(self, topic: str) -> None:
        if topic not in self._lines:
            self._lines[topic] = self._server.line()
        self._lines[topic].ask(*self._command(topic))
        self._blocked.add(topic)

    def _listen(self, channels: frozenset[str]) -> None:
        if self._channel is None:
            self._channel = self._server.line()
        if new := sorted(channels - self._channels):
            self._channel.ask("SUBSCRIBE", *new)
            for _ in new:
                self._channel.answer()
            self._channels |= channels

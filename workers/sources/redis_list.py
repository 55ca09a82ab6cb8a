"""Queues in lists of Redis: `mq:TOPIC`, into which any program may `LPUSH` a message.

What a process has claimed is a member of `mq:TOPIC:lease` until it is settled: nothing is ever
only in the memory of a process. A lease is renewed while its process lives, freed at once when the
supervisor says that the process is dead, and runs out by the server's clock when nobody is left to
say so. Needs Redis 6.2.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Sequence
from typing import Final

from workers.sources import redis_letters
from workers.sources import redis_scripts as keys
from workers.sources.redis_bells import Bells
from workers.sources.redis_server import Argument, RedisServer
from workers.sources.source import Burial, Delivery, Return, Share

_LATER_S: Final = 1.0
"""How long to sleep when every topic has its bell: what another program puts among the delayed
messages rings none."""

_POLL_S: Final = 0.05
"""How long when one has not."""

_CHUNK: Final = 500
"""So many members are sent in one call."""


class RedisSource:
    """The Source of `redis://HOST:PORT/DATABASE`. Used by the work loop's thread only."""

    def __init__(
        self, url: str, owner: str, topics: Sequence[str], *, lease_s: float, io_timeout: float
    ) -> None:
        self._server = RedisServer(url, io_timeout=io_timeout)
        self._bells = Bells(self._server)
        self._owner = owner
        self._topics = tuple(topics)
        self._lease_ms = int(lease_s * 1000)
        self._number = 0
        self._members: dict[int, bytes] = {}
        self._next_look = 0.0
        self._is_unsure = False

    def open(self) -> None:
        """See that the server is there, new enough, and has no keys in our way."""
        self._server.check(keys.kinds(self._topics))

    def close(self) -> None:
        """Disconnect."""
        self._bells.close()
        self._server.close()

    def tend(self) -> Collection[int]:
        """Free leases that have run out, in one script."""
        self._server.run(keys.SWEEP, keys.places(self._topics), *map(keys.bell, self._topics))
        return ()

    def bells(self) -> Sequence[int]:
        """Give the descriptors of the connections that wait for a message."""
        return self._bells.fds()

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Claim in one script; when less than was wanted is there, let more of it ring."""
        self._bells.answer()
        self._give_back_unknown()
        topics = [topic for topic, _ in shares]
        names = _with_pauses(topics)
        wanted = (self._owner, self._lease_ms, limit, self._number + 1)
        self._is_unsure = True
        until_due_ms, pauses, taken = self._server.run(
            keys.CLAIM, names, *wanted, *(share for _, share in shares)
        )
        self._is_unsure = False
        found = [self._hold(topics[place - 1], line, raw) for place, line, raw in taken]
        if len(found) < limit:
            self._bells.hang(topics, [t for t, pause in zip(topics, pauses, strict=True) if pause])
        covered = self._bells.covers(topics)
        silence_s = 0.0 if found else _LATER_S if covered else _POLL_S
        if until_due_ms >= 0:
            silence_s = min(silence_s, until_due_ms / 1000)
        self._next_look = time.monotonic() + silence_s
        return found

    def patience(self) -> float:
        """Give the time until something is due, or nothing of what would ring was heard."""
        return max(0.0, self._next_look - time.monotonic())

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove the leases; the messages are nowhere else."""
        by_topic: dict[str, list[bytes]] = {}
        for delivery in deliveries:
            by_topic.setdefault(delivery.topic, []).append(self._members[delivery.number])
        if by_topic:
            self._server.do_all(
                ("ZREM", keys.lease(topic), *members) for topic, members in by_topic.items()
            )
        self._forget(deliveries)

    drop = ack

    def nack(self, returns: Sequence[Return]) -> None:
        """Put back in one script, the last one first: it goes to the right end of its list."""
        topics = tuple(dict.fromkeys(back.delivery.topic for back in returns))
        arguments: list[Argument] = []
        for back in sorted(returns, key=lambda back: -back.delivery.number):
            one = back.delivery
            line = f"{one.attempts} {one.failures} {one.crashes} {one.suspect:d}"
            delay_ms = math.ceil(back.delay_s * 1000)
            arguments += [topics.index(one.topic) + 1, self._members[one.number], line, delay_ms]
        if arguments:
            self._server.run(keys.RETURN, keys.places(topics), *arguments)
        self._forget(back.delivery for back in returns)
        self._next_look = 0.0

    def dead(self, burials: Sequence[Burial]) -> None:
        """Move to the dead letters in one script."""
        names: list[str] = []
        arguments: list[Argument] = []
        for burial in burials:
            names += [keys.lease(burial.delivery.topic), keys.dead(burial.queue)]
            arguments += [self._members[burial.delivery.number], redis_letters.encode(burial)]
        if names:
            self._server.run(keys.BURY, names, *arguments)
        self._forget(burial.delivery for burial in burials)

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Renew in one script for so many."""
        lost: set[int] = set()
        for start in range(0, len(deliveries), _CHUNK):
            some = deliveries[start : start + _CHUNK]
            topics = tuple(dict.fromkeys(one.topic for one in some))
            arguments: list[Argument] = [self._lease_ms]
            for one in some:
                arguments += [topics.index(one.topic) + 1, self._members[one.number]]
            kept = self._server.run(keys.EXTEND, [*map(keys.lease, topics)], *arguments)
            lost.update(one.number for one, ours in zip(some, kept, strict=True) if not ours)
        return lost

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Free in one script, over all topics of the job."""
        return self._free(owner, whole=True, suspects=suspects)

    def release_seat(self, seat: str) -> int:
        """Free what earlier processes of the own slot held."""
        return self._free(seat, whole=False)

    def backlog(self, topics: Sequence[str]) -> int:
        """Count the lists, and what is due, in one script."""
        return int(self._server.run(keys.BACKLOG, _with_pauses(topics)))

    def paused(self, topics: Sequence[str]) -> set[str]:
        """Look for the marks."""
        marks = self._server.do_all(("EXISTS", keys.paused(topic)) for topic in topics)
        return {topic for topic, mark in zip(topics, marks, strict=True) if mark}

    def _hold(self, topic: str, line: bytes, raw: bytes) -> Delivery:
        self._number += 1
        head = b"%b %d %b\n" % (line, self._number, self._owner.encode())
        self._members[self._number] = head + raw
        attempts, failures, crashes, suspect = map(int, line.split())
        return Delivery(self._number, topic, raw, attempts, failures, crashes, bool(suspect))

    def _forget(self, deliveries: Iterable[Delivery]) -> None:
        for delivery in deliveries:
            self._members.pop(delivery.number, None)

    def _give_back_unknown(self) -> None:
        """Free what a claim has leased whose answer was lost: nobody else would, while we live."""
        if self._is_unsure:
            self._free(self._owner, whole=True, spared=tuple(self._members))
            self._is_unsure = False

    def _free(
        self,
        name: str,
        *,
        whole: bool,
        suspects: Sequence[int] = (),
        spared: Sequence[int] = (),
    ) -> int:
        self._next_look = 0.0
        other = "" if whole else self._owner
        wanted = (name, int(whole), other, len(suspects))
        places = keys.places(self._topics)
        return int(self._server.run(keys.FREE, places, *wanted, *suspects, *spared))


def _with_pauses(topics: Sequence[str]) -> list[str]:
    return [*keys.places(topics), *map(keys.paused, topics)]

"""Queues in lists of Redis: `mq:TOPIC`, into which any program may `LPUSH` a message.

What a process has claimed is a member of `mq:TOPIC:lease` until it is settled: nothing is ever
only in the memory of a process. A lease is renewed while its process lives, freed at once when the
supervisor says that the process is dead, and runs out by the server's clock when nobody is left to
say so. Needs Redis 6.2.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence

from workers.sources import redis_letters
from workers.sources import redis_scripts as keys
from workers.sources.redis_server import Argument
from workers.sources.redis_source import CHUNK, Claimed, RedisSource
from workers.sources.source import Burial, Delivery, Envelope, Return, Share, lone_crashes_ms


class ListSource(RedisSource):
    """The Source of lists. What is held is known by its member in the set of leases."""

    _number = 0
    _stem = ""

    def tend(self) -> Collection[int]:
        """Free leases that have run out, in one script."""
        self._server.run(keys.SWEEP, keys.places(self._topics), *map(keys.bell, self._topics))
        return ()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Remove the leases; the messages are nowhere else."""
        topics = tuple(dict.fromkeys([one.topic for one in deliveries]))
        if len(topics) == 1:
            # What a script of one call does, for half the price.
            members = [self._held[one.number] for one in deliveries]
            self._server.do("ZREM", keys.lease(topics[0]), *members)
        elif topics:
            arguments: list[Argument] = []
            for one in deliveries:
                arguments += [topics.index(one.topic) + 1, self._held[one.number]]
            self._server.run(keys.ACK, [*map(keys.lease, topics)], *arguments)
        self._forget(deliveries)

    def nack(self, returns: Sequence[Return]) -> None:
        """Put back in one script, the last one first: it goes to the right end of its list."""
        topics = tuple(dict.fromkeys(back.delivery.topic for back in returns))
        last_first = sorted(returns, key=lambda back: -back.delivery.number)
        if returns:
            self._server.run(keys.RETURN, keys.places(topics), *self._back(last_first, topics))
        self._forget(back.delivery for back in returns)
        self._look_again()

    def dead(self, burials: Sequence[Burial]) -> None:
        """Move to the dead letters in one script."""
        names: list[str] = []
        arguments: list[Argument] = []
        for burial in burials:
            names += [keys.lease(burial.delivery.topic), keys.dead(burial.queue)]
            arguments += [self._held[burial.delivery.number], redis_letters.encode(burial)]
        if names:
            self._server.run(keys.BURY, names, *arguments)
        self._forget(burial.delivery for burial in burials)

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Renew in one script for so many."""
        lost: set[int] = set()
        for start in range(0, len(deliveries), CHUNK):
            some = deliveries[start : start + CHUNK]
            topics = tuple(dict.fromkeys(one.topic for one in some))
            arguments: list[Argument] = [self._lease_ms]
            for one in some:
                arguments += [topics.index(one.topic) + 1, self._held[one.number]]
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

    def _kinds(self) -> Mapping[str, str]:
        return keys.kinds(self._topics)

    def _claim(self, shares: Sequence[Share], limit: int) -> Claimed:
        topics = [topic for topic, _ in shares]
        self._stem = self._stem or os.urandom(8).hex()
        wanted = (self._owner, self._lease_ms, limit, self._number + 1, self._stem)
        until_due_ms, pauses, taken = self._server.run(
            keys.CLAIM, _with_pauses(topics), *wanted, *(share for _, share in shares)
        )
        found: list[Delivery] = []
        for place, tried, fresh in taken:
            topic = topics[place - 1]
            found += [self._hold(topic, *one) for one in tried]
            found += self._hold_fresh(topic, fresh)
        return until_due_ms, pauses, found

    def _bell(self, topic: str) -> Sequence[Argument]:
        name = keys.ready(topic)
        return ("BLMOVE", name, name, "RIGHT", "RIGHT", 0)

    def _hold_fresh(self, topic: str, raws: Sequence[bytes]) -> Iterator[Delivery]:
        """Keep what nobody has tried; as in the script, but most of all in few steps."""
        owner, stem, held = self._owner.encode(), self._stem, self._held
        for number, raw in enumerate(raws, self._number + 1):
            name = f"{stem}-{number:010d}"
            held[number] = b"0 0 0 0 %b %d %b\n%b" % (name.encode(), number, owner, raw)
            yield Delivery(number, topic, raw, 0, 0, 0, False, Envelope(name))
        self._number += len(raws)

    def _hold(self, topic: str, counters: bytes, name: bytes, raw: bytes) -> Delivery:
        self._number += 1
        head = b"%b %b %d %b\n" % (counters, name, self._number, self._owner.encode())
        self._held[self._number] = head + raw
        attempts, failures, crashes, suspect = map(int, counters.split())
        return Delivery(
            *(self._number, topic, raw, attempts, failures, crashes, bool(suspect)),
            envelope=Envelope(name.decode(errors="replace")),
        )

    def _give_back_unknown(self) -> None:
        self._free(self._owner, whole=True, spared=tuple(self._held))

    def _free(
        self,
        name: str,
        *,
        whole: bool,
        suspects: Sequence[int] = (),
        spared: Sequence[int] = (),
    ) -> int:
        self._look_again()
        other = "" if whole else self._owner
        delays = " ".join(map(str, lone_crashes_ms()))
        wanted = (name, int(whole), other, delays, len(suspects))
        places = keys.places(self._topics)
        return int(self._server.run(keys.FREE, places, *wanted, *suspects, *spared))


def _with_pauses(topics: Sequence[str]) -> list[str]:
    return [*keys.places(topics), *map(keys.paused, topics)]

"""Queues in streams of Redis: the stream `TOPIC`, to which any program may `XADD`.

What a process has claimed is pending in the consumer group until it is settled: nothing is ever
only in the memory of a process. A lease is the time since an entry was claimed or renewed. It is
freed at once when the supervisor says that its process is dead, and by any other process of the
group when nobody is left to say so. Needs Redis 6.2.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from typing import Final

from workers.sources import redis_letters
from workers.sources import redis_scripts as keys
from workers.sources import redis_stream_freeing as freeing
from workers.sources import redis_stream_scripts as scripts
from workers.sources.redis_server import Argument
from workers.sources.redis_source import CHUNK, Claimed, RedisSource
from workers.sources.source import Burial, Delivery, Envelope, Return, Share, lone_crashes_ms

BODY: Final = b"body"
"""The field that holds a message as `publish` writes it."""

_WHOLE: Final = frozenset({BODY, b"data"})
"""A field that is alone and has one of these names holds a whole message."""

_JSON: Final = frozenset({"data", "headers"})
"""Fields that hold JSON, in an entry that has an `id` and `data`."""


class StreamSource(RedisSource):
    """The Source of streams. What is held is known by the id of its entry."""

    def __init__(
        self,
        url: str,
        owner: str,
        group: str,
        topics: Sequence[str],
        *,
        lease_s: float,
        io_timeout: float,
        others: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Connect later. `others`: further groups that are known, as topic and group."""
        super().__init__(url, owner, topics, lease_s=lease_s, io_timeout=io_timeout)
        self._group = group
        self._others = tuple(others)
        self._consumer = scripts.consumer(owner, self._lease_ms)
        self._last: dict[str, bytes] = {}
        self._cursors: list[bytes | str] = ["0-0"] * len(self._topics)

    def open(self) -> None:
        """See that the server can be used; make streams and groups that are missing.

        A group begins with the oldest entry that there is. Those of other jobs are made too, before
        anything is taken: what the only group of a stream has settled is deleted.
        """
        super().open()
        pairs = [*((topic, self._group) for topic in self._topics), *self._others]
        topics, groups = zip(*pairs, strict=True)
        self._server.run(scripts.OPEN, topics, *groups)

    def tend(self) -> Collection[int]:
        """Free leases that have run out, and delete what every group has settled."""
        arguments = (self._group, self._lease_ms, *map(keys.bell, self._topics), *self._cursors)
        self._cursors = self._server.run(freeing.SWEEP, self._places(self._topics), *arguments)
        return ()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle in one script for a topic; what was settled before one failed is let alone."""
        for topic, entries in self._by_topic(deliveries):
            self._server.run(scripts.SETTLE, self._places([topic]), *self._we, *entries)
        self._forget(deliveries)

    def nack(self, returns: Sequence[Return]) -> None:
        """Put back in one script."""
        topics = tuple(dict.fromkeys(back.delivery.topic for back in returns))
        if returns:
            arguments = (*self._we, *map(keys.bell, topics), *self._back(returns, topics))
            self._server.run(scripts.RETURN, self._places(topics), *arguments)
        self._forget(back.delivery for back in returns)
        self._look_again()

    def dead(self, burials: Sequence[Burial]) -> None:
        """Move to the dead letters in one script."""
        names: list[str] = []
        arguments: list[Argument] = [*self._we]
        for burial in burials:
            names += [*self._places([burial.delivery.topic]), keys.dead(burial.queue)]
            letter = redis_letters.encode(burial, group=self._group)
            arguments += [self._held[burial.delivery.number], letter]
        if burials:
            self._server.run(scripts.BURY, names, *arguments)
        self._forget(burial.delivery for burial in burials)

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Renew in one script for a topic and so many."""
        kept: set[int] = set()
        for topic, entries in self._by_topic(deliveries):
            ours = self._server.run(scripts.EXTEND, self._places([topic]), *self._we, *entries)
            kept.update(_number(topic, entry) for entry in ours)
        return {one.number for one in deliveries} - kept

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Free in one script, over all topics of the job; the dead claim nothing more before it."""
        marked: list[Argument] = []
        if suspects:
            wanted = frozenset(suspects)
            places = self._places(self._topics)
            for place, entry in self._server.run(freeing.HELD, places, self._group, owner):
                if _number(self._topics[place - 1], entry) in wanted:
                    marked += [place, entry]
        return self._free(owner, whole=True, suspects=marked)

    def release_seat(self, seat: str) -> int:
        """Free what earlier processes of the own slot held, and forget these consumers."""
        return self._free(seat, whole=False)

    def backlog(self, topics: Sequence[str]) -> int:
        """Count what the group has not got, and what is due again, in one script."""
        return int(self._server.run(scripts.BACKLOG, self._with_pauses(topics), self._group))

    def _kinds(self) -> Mapping[str, str]:
        return scripts.kinds(self._topics, self._group)

    @property
    def _we(self) -> tuple[str, str]:
        return self._consumer, self._group

    def _places(self, topics: Iterable[str]) -> list[str]:
        return scripts.places(topics, self._group)

    def _with_pauses(self, topics: Sequence[str]) -> list[str]:
        return [*self._places(topics), *map(keys.paused, topics)]

    def _by_topic(self, deliveries: Sequence[Delivery]) -> Iterator[tuple[str, list[bytes]]]:
        """Give each topic with ids of its entries, so many at once."""
        entries: dict[str, list[bytes]] = {}
        for one in deliveries:
            entries.setdefault(one.topic, []).append(self._held[one.number])
        for topic, found in entries.items():
            for start in range(0, len(found), CHUNK):
                yield topic, found[start : start + CHUNK]

    def _claim(self, shares: Sequence[Share], limit: int) -> Claimed:
        topics = [topic for topic, _ in shares]
        wanted: list[Argument] = [*self._we, limit, *(share for _, share in shares)]
        names = self._with_pauses(topics)
        until_due_ms, pauses, lasts, taken = self._server.run(scripts.CLAIM, names, *wanted)
        self._last.update(zip(topics, lasts, strict=False))
        found: list[Delivery] = []
        for place, entries, counters in taken:
            lines = counters or [b""] * len(entries)
            found += [
                self._hold(topics[place - 1], entry, fields, line)
                for (entry, fields), line in zip(entries, lines, strict=True)
            ]
        return until_due_ms, pauses, found

    def _bell(self, topic: str) -> Sequence[Argument]:
        last = self._last.get(topic, b"0-0")
        return ("XREAD", "COUNT", 1, "BLOCK", 0, "STREAMS", topic, last)

    def _hold(self, topic: str, entry: bytes, fields: list[bytes], line: bytes) -> Delivery:
        number = _number(topic, entry)
        self._held[number] = entry
        envelope = Envelope(entry.decode(), published_at=_moment(entry))
        if not line:
            return Delivery(number, topic, body_of(fields), envelope=envelope)
        attempts, failures, crashes, suspect = map(int, line.split())
        counters = (attempts, failures, crashes, bool(suspect))
        return Delivery(number, topic, body_of(fields), *counters, envelope)

    def _give_back_unknown(self) -> None:
        spared: list[Argument] = []
        places = self._places(self._topics)
        known = frozenset(self._held)
        for place, entry in self._server.run(freeing.HELD, places, self._group, self._owner):
            if _number(self._topics[place - 1], entry) in known:
                spared += [place, entry]
        self._free(self._owner, whole=True, spared=spared)

    def _free(
        self,
        name: str,
        *,
        whole: bool,
        suspects: Sequence[Argument] = (),
        spared: Sequence[Argument] = (),
    ) -> int:
        self._look_again()
        other = "" if whole else self._consumer
        delays = " ".join(map(str, lone_crashes_ms()))
        wanted = (self._group, name, int(whole), other, delays, len(suspects) // 2)
        rest = (*map(keys.bell, self._topics), *suspects, *spared)
        return int(self._server.run(freeing.FREE, self._places(self._topics), *wanted, *rest))


def body_of(fields: Sequence[bytes]) -> bytes:
    """Give the message that the fields of an entry are, in the form that `codec` reads.

    A single field `body` or `data` is the message itself, and so is the `body` of an entry that
    `replay` wrote for one group. All else is an object of its fields, whose values are text; only
    where there are an `id` and `data`, `data` and `headers` are read as JSON if they can be.
    """
    if fields[0] in _WHOLE and (len(fields) == 2 or (len(fields) == 4 and fields[2] == b"for")):
        return fields[1]
    names, values = fields[::2], fields[1::2]
    found: dict[str, object] = {
        name.decode("utf-8", "replace"): value.decode("utf-8", "replace")
        for name, value in zip(names, values, strict=True)
    }
    if found.keys() >= {"id", "data"}:
        found |= {name: _read(found[name]) for name in _JSON & found.keys()}
    return json.dumps(found, ensure_ascii=False).encode("utf-8", "surrogatepass")


def _read(value: object) -> object:
    try:
        return json.loads(str(value))
    except (ValueError, RecursionError):
        return value


def _number(topic: str, entry: bytes) -> int:
    digest = blake2b(topic.encode() + b"\0" + entry, digest_size=8).digest()
    return int.from_bytes(digest) >> 1 or 1


def _moment(entry: bytes) -> datetime | None:
    """Read the time in an id; an id that somebody has chosen himself may be any."""
    try:
        return datetime.fromtimestamp(int(entry.partition(b"-")[0]) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return None

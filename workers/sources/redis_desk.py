"""The other side of a queue in Redis: those who publish, and those who look."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final

from workers import codec
from workers.sources import redis_letters
from workers.sources import redis_scripts as keys
from workers.sources.desk import Depth, Letter
from workers.sources.redis_server import Argument, RedisServer

_PAGE: Final = 200
_PURGE: Final = 5000
"""So many messages are deleted in one call."""


class RedisDesk:
    """A connection for those who publish, look and tidy up. Used by the thread that made it.

    Every call may raise SourceTrouble. `topics` are those that the configuration lists: a server
    that others use too is not searched for more.
    """

    _group = ""

    def __init__(self, url: str, topics: Iterable[str], *, io_timeout: float) -> None:
        self._server = RedisServer(url, io_timeout=io_timeout)
        self._topics = tuple(topics)

    def close(self) -> None:
        """Disconnect."""
        self._server.close()

    def look(self) -> Sequence[str]:
        """See that the server is there, lets us in, is new enough, and has no keys in our way."""
        self._server.check(self._kinds())
        return ()

    def publish(self, topic: str, bodies: Iterable[bytes], delay_s: float) -> None:
        """Put messages on a topic, all or none; the server has them when this returns."""
        some = list(bodies)
        if not some:
            return
        if delay_s > 0:
            delay_ms, nonce = int(delay_s * 1000), os.urandom(8).hex()
            places = [keys.delayed(topic)]
            self._server.run(keys.DELAY, places, keys.bell(topic), delay_ms, nonce, *some)
        else:
            self._add(topic, some)

    def depths(self) -> list[Depth]:
        """Look at every topic."""
        return [self._depth(topic) for topic in self._topics]

    def walk(self, queue: str, message_id: str | None = None) -> Iterator[Letter]:
        """Go through the dead letters under a name or of a topic, the newest first."""
        for name in dict.fromkeys((queue, *self._topics)):
            for *_, letter in self._letters(name):
                if queue in (name, letter.topic) and message_id in (None, letter.id):
                    yield letter

    def replay(self, numbers: Iterable[int]) -> int:
        """Put dead letters back on their topics, as if never tried, the oldest first.

        Each moves whole or not at all, and once. Gives how many were moved.
        """
        return self._take_out(numbers, is_replay=True)

    def forget(self, numbers: Iterable[int]) -> int:
        """Delete dead letters for good. Gives how many were there."""
        return self._take_out(numbers, is_replay=False)

    def pause(self, topic: str) -> None:
        """Let nobody claim from a topic until `resume`."""
        self._server.do("SET", keys.paused(topic), int(time.time()), "NX")

    def resume(self, topic: str) -> None:
        """Undo `pause`."""
        paused, bell = keys.paused(topic), keys.bell(topic)
        self._server.do_each([("DEL", paused), ("PUBLISH", bell, "")])

    def purge(self, topic: str) -> int:
        """Delete what waits on a topic, delayed or not, and was there before this call."""
        found = self._depth(topic)
        places = [keys.ready(topic), keys.delayed(topic)]
        return self._delete(found.depth + found.delayed, keys.PURGE, places)

    def _delete(self, most: int, script: str, places: Sequence[str], *words: Argument) -> int:
        """Run a script that deletes up to so many, until it has, or nothing more is there.

        Gives how many were deleted.
        """
        total = 0
        while total < most:
            wanted = min(most - total, _PURGE)
            deleted = int(self._server.run(script, places, *words, wanted))
            if not deleted:
                break
            total += deleted
        return total

    def _kinds(self) -> Mapping[str, str]:
        return keys.kinds(self._topics)

    def _add(self, topic: str, bodies: list[bytes]) -> None:
        self._server.do("LPUSH", keys.ready(topic), *bodies)

    def _depth(self, topic: str) -> Depth:
        names = [*keys.places([topic]), keys.dead(topic), keys.paused(topic)]
        depth, delayed, leased, dead, paused, age_ms, first = self._server.run(keys.DEPTH, names)
        ages = [age_ms / 1000] if age_ms >= 0 else []
        if first is not None:
            message = codec.decode(topic, first, fallback_id="", attempt=1)
            if message.published_at is not None:
                ages.append(max(0.0, time.time() - message.published_at.timestamp()))
        return Depth(topic, depth, delayed, leased, dead, max(ages, default=None), bool(paused))

    @staticmethod
    def _place(topic: str) -> str:
        """Name the key where the messages of a topic lie."""
        return keys.ready(topic)

    def _letters(self, name: str) -> Iterator[tuple[int, bytes, Letter]]:
        """Go through one list by pages, each with how many letters are to its right.

        What is added meanwhile is on the left, and changes no place. Where somebody takes letters
        out meanwhile, places are a guess, and those of one page may be met twice: not here.
        """
        seen: set[bytes] = set()
        left = int(self._server.do("LLEN", keys.dead(name)))
        while left > 0:
            end = max(0, left - _PAGE)
            page = self._server.do("LRANGE", keys.dead(name), -left, -end - 1)
            for place, raw in enumerate(page):
                letter = redis_letters.decode(raw, name)
                if letter is not None and raw not in seen:
                    yield left - 1 - place, raw, letter
            seen = set(page)
            left = end

    def _take_out(self, numbers: Iterable[int], *, is_replay: bool) -> int:
        wanted, taken = set(numbers), 0
        for name in self._topics if wanted else ():
            found = [one for one in self._letters(name) if one[2].number in wanted]
            found.sort(key=lambda one: one[0])
            gone = 0
            for start in range(0, len(found), _PAGE):
                places = [keys.dead(name)]
                arguments: list[Argument] = [os.urandom(16).hex(), self._group]
                for place, raw, letter in found[start : start + _PAGE]:
                    places += [self._place(letter.topic)] * is_replay
                    arguments += [place - gone, raw, letter.body]
                gone += int(self._server.run(keys.TAKE_OUT, places, *arguments))
            taken += gone
        return taken

"""Lanes over a source that has none: what is asked of a source with an order, in memory.

The lane and the place in it are told by the id of a message, `LANE/PLACE`.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from tests.helpers import shop
from workers import Context, Message, codec
from workers.sources.source import Around, Burial, Delivery, Return, Share, Source

_SOON_S: Final = 0.005


class Laned(Around):
    """Gives lanes to the messages of another source, and keeps what comes back to it.

    Of one lane no more than `most` are out at a time, so that those behind a slow message do not
    fill the process, and keep other lanes out of it.
    """

    def __init__(self, source: Source, most: int = 10) -> None:
        super().__init__(source)
        self._most = most
        self._lanes: dict[int, dict[int, tuple[float, Delivery]]] = {}
        self._out: dict[int, set[int]] = {}

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Give out each lane in order, up to the first that is not due."""
        for one in self._source.fetch(shares, limit):
            self._keep(replace(one, lane=int(place_of(one)[0])), 0.0)
        now, found = time.monotonic(), list[Delivery]()
        for number, lane in self._lanes.items():
            for place, (due, one) in sorted(lane.items()):
                if due > now or len(found) == limit or len(self._out[number]) >= self._most:
                    break
                found.append(one)
                self._out[number].add(place)
                del lane[place]
        return found

    def patience(self) -> float:
        """Give the time until the first of a lane is due, where that is earlier."""
        heads = (min(lane.items())[1][0] for lane in self._lanes.values() if lane)
        soon = [max(_SOON_S, due - time.monotonic()) for due in heads]
        return min([self._source.patience(), *soon])

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Pass on, and make room."""
        self._source.ack(deliveries)
        self._forget(deliveries)

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Pass on, and make room."""
        self._source.drop(deliveries)
        self._forget(deliveries)

    def dead(self, burials: Sequence[Burial]) -> None:
        """Pass on, and make room."""
        self._source.dead(burials)
        self._forget([burial.delivery for burial in burials])

    def nack(self, returns: Sequence[Return]) -> None:
        """Keep them."""
        self._forget([back.delivery for back in returns])
        for back in returns:
            self._keep(back.delivery, time.monotonic() + back.delay_s if back.delay_s else 0.0)

    def close(self) -> None:
        """Give back what is kept, at its place."""
        kept = [one for lane in self._lanes.values() for _, one in lane.values()]
        self._source.nack([Return(one) for one in kept])
        self._source.close()

    def _keep(self, one: Delivery, due: float) -> None:
        self._lanes.setdefault(one.lane, {})[one.number] = (due, one)
        self._out.setdefault(one.lane, set())

    def _forget(self, deliveries: Iterable[Delivery]) -> None:
        for one in deliveries:
            self._out[one.lane].discard(one.number)


def place_of(delivery: Delivery) -> tuple[str, str]:
    """Give the lane of a message, and its place there."""
    lane, _, place = codec.message_of(delivery).id.partition("/")
    return lane, place


def bodies(lanes: int, length: int, orders: dict[str, object] | None = None) -> list[bytes]:
    """Give messages for lanes from 1 on, by turns; `orders` are the data of some, by their id."""
    names = [f"{lane}/{place}" for place in range(length) for lane in range(1, lanes + 1)]
    known = orders or {}
    return [codec.encode("t", known.get(name, 0), message_id=name) for name in names]


def handle(message: Message, context: Context) -> None:
    """Do what `shop.handle` does, and write down a failure too."""
    try:
        shop.handle(message, context)
    except BaseException:
        shop.write(context, "fail", message.id)
        raise


class Packer(shop.Packer):
    """Does what `shop.Packer` does, and writes down a failure too."""

    def handle_batch(self, messages: list[Message], context: Context) -> object:
        """Begin them all, and end them all or none."""
        for message in messages:
            shop.write(context, "begin", message.id)
        try:
            return super().handle_batch(messages, context)
        except BaseException:
            for message in messages:
                shop.write(context, "fail", message.id)
            raise


def disorder(journal: shop.Journal, given_up: Iterable[str] = (), batch: int = 1) -> list[str]:
    """Say where messages of one lane were in a handler at once, or out of order.

    With one process at a time: what one has begun, its successor begins once more. `given_up`
    are the ids of those that never end.
    """
    lanes: dict[str, _Walk] = {}
    wrong = []
    dead = set(given_up)
    for number, (word, name, pid) in enumerate(journal.lines(), 1):
        lane, _, place = name.partition("/")
        if word not in ("begin", "end", "fail") or not place:
            continue
        walk = lanes.setdefault(lane, _Walk(lane, dead, batch))
        if complaint := walk.step(word, int(place), pid):
            wrong.append(f"line {number}, {word} {name} {pid}: {complaint}")
    return wrong


class _Walk:
    """The way through one lane."""

    def __init__(self, lane: str, dead: set[str], batch: int) -> None:
        self._lane = lane
        self._dead = dead
        self._batch = batch
        self._ended: set[int] = set()
        self._open: list[int] = []
        self._pid = ""
        self._last = -1

    def step(self, word: str, place: int, pid: str) -> str:
        """Take the next line; say what is wrong with it."""
        if pid != self._pid:
            self._pid, self._open, self._last = pid, [], -1
        if word != "begin":
            self._open.remove(place)
            if word == "end":
                self._ended.add(place)
            return ""
        before, self._last = self._last, place
        busy = len(self._open) >= self._batch
        self._open.append(place)
        if busy:
            return f"beside {self._open[:-1]}"
        if place < before and self._batch == 1:
            return f"after {before}"
        skipped = [
            one
            for one in range(place)
            if one not in self._ended
            and one not in self._open
            and f"{self._lane}/{one}" not in self._dead
        ]
        return f"before {skipped}" if skipped else ""

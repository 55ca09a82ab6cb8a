"""Whose turn it is: how a fetch is shared out among the topics of a job."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from supervisor.config import Topic
from workers.sources.source import Share


class Turns:
    """Gives the order and the shares of each fetch.

    strict: a topic gets what the topics before it leave. weighted: each gets its part by weight,
    exactly, over any number of fetches: what rounding takes from it in one it has to its credit in
    the next, so that none is starved. What a topic leaves goes to others by chance, with the same
    weights.
    """

    def __init__(self, topics: Sequence[Topic], order: str) -> None:
        self._topics = tuple(topics)
        self._strict = order == "strict"
        self._total = sum(topic.weight for topic in topics)
        # In parts of `_total`, so that they are whole numbers; together they are always 0.
        self._credit = dict.fromkeys((topic.name for topic in topics), 0)

    def shares(self, limit: int) -> list[Share]:
        """Share out a fetch of up to `limit` messages."""
        if self._strict or len(self._topics) == 1:
            return [(topic.name, limit) for topic in self._topics]
        shares = self._weigh(limit)
        # Efraimidis and Spirakis: the largest u ** (1 / weight) first is a weighted shuffle.
        shuffled = sorted(self._topics, key=lambda topic: -(random.random() ** (1 / topic.weight)))
        return [(topic.name, shares[topic.name]) for topic in shuffled]

    def _weigh(self, limit: int) -> dict[str, int]:
        """Give whole shares that sum up to the limit, to those with the most credit first."""
        credit, total = self._credit, self._total
        shares = {}
        for topic in self._topics:
            credit[topic.name] += limit * topic.weight
            shares[topic.name] = max(0, credit[topic.name] // total)
            credit[topic.name] -= shares[topic.name] * total
        left = limit - sum(shares.values())
        while left:
            step = 1 if left > 0 else -1
            takers = shares if left > 0 else [name for name in shares if shares[name]]
            name = max(takers, key=lambda name: step * credit[name])
            shares[name] += step
            credit[name] -= step * total
            left -= step
        return shares


class Appetite:
    """How many messages a process should hold: what its threads will do soon, and no more.

    What one process has claimed no other can do; so only as much waits in it as its handlers,
    at the speed they showed so far, finish in a quarter of a second, and never more than
    `queue_size`. The first fetch takes one message a thread.
    """

    HORIZON_S = 0.25
    _WEIGHT = 0.1

    def __init__(self, concurrency: int, queue_size: int) -> None:
        self._concurrency = concurrency
        self._queue_size = queue_size
        self._mean_s = math.inf

    def observe(self, times: Sequence[float]) -> None:
        """Learn from the seconds that handlers took."""
        if not times:
            return
        mean = sum(times) / len(times)
        if math.isinf(self._mean_s):
            self._mean_s = mean
        else:
            self._mean_s += (mean - self._mean_s) * (1 - (1 - self._WEIGHT) ** len(times))

    def resize(self, concurrency: int) -> None:
        """Take note of more threads, or fewer."""
        self._concurrency = concurrency

    @property
    def ahead(self) -> int:
        """Give how many messages may wait beside those in the hands of the threads."""
        soon = self.HORIZON_S * self._concurrency / max(self._mean_s, 1e-6)
        return min(self._queue_size, math.ceil(soon))

    def room(self, held: int) -> int:
        """Give how many more to fetch; 0 until half of what waited is gone, to fetch in batches."""
        ahead = self.ahead
        if held > self._concurrency - 1 + ahead // 2:
            return 0
        return self._concurrency + ahead - held

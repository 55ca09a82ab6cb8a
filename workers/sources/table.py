"""A table whose rows are the messages: what a job says of it, in the words of both engines.

A row that is to be done has the word `pending` in its column of the status, and gets another one
when it is done or has failed. Whatever else has to be known of it, who works on it until when and
how often it was tried, lies beside it in the table TABLE_work, so that the table itself needs no
columns for us.
"""

from __future__ import annotations

import heapq
import json
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final

from supervisor.errors import ConfigError
from workers.sources.source import Delivery

MOST: Final = 10_000
"""A backlog is counted up to here: to know more would cost more than it is worth."""

_SPREAD: Final = 0.1
"""By so much, and by chance, looks at the table come later: not those of all processes at once."""

COUNTERS: Final = "attempts, failures, crashes, suspect"
"""The columns of TABLE_work that a delivery carries, in its order."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table as `[daemon:NAME]` describes it. Names are as given; `where` is trusted SQL."""

    name: str
    key: str
    status: str
    pending: str
    done: str
    failed: str
    order_by: str
    where: str | None = None
    attempts_column: str | None = None
    error_column: str | None = None
    notify: str | None = None
    poll_interval: float = 1.0
    is_locked: bool = field(default=False, compare=False, repr=False)
    """Its rows are held by locks, and not by leases."""
    wrong: Callable[[str, str], ConfigError] = field(
        default=lambda key, words: ConfigError(), compare=False, repr=False
    )
    """Builds the error about a key of the job."""

    @property
    def here(self) -> str:
        """Give its name as SQL; a dot parts it from its schema."""
        return ".".join(map(quoted, self.name.split(".")))

    @property
    def work(self) -> str:
        """Give the name of the table beside it as SQL."""
        return self.beside("_work")

    def beside(self, end: str) -> str:
        """Give the name of something beside it as SQL."""
        *schema, name = self.name.split(".")
        return ".".join(map(quoted, (*schema, name + end)))

    @property
    def columns(self) -> dict[str, str]:
        """Give the columns that it has to have, each with the key of the job that names it."""
        names = {
            self.key: "key",
            self.status: "status",
            self.order_by: "order_by",
            self.attempts_column: "attempts_column",
            self.error_column: "error_column",
        }
        return {name: key for name, key in reversed(names.items()) if name is not None}

    @property
    def is_pending(self) -> str:
        """Give the SQL that is true for a row `t` that is to be done.

        The word stands in it as a literal: a parameter would hide a partial index.
        """
        return f"{self.still_pending} AND ({self.where})" if self.where else self.still_pending

    @property
    def still_pending(self) -> str:
        """Give the SQL that is true for a row `t` that nobody has settled meanwhile."""
        return f"t.{quoted(self.status)} = {literal(self.pending)}"

    @property
    def has_failed(self) -> str:
        """Give the SQL that is true for a row `t` that has failed."""
        return f"t.{quoted(self.status)} = {literal(self.failed)}"

    @property
    def begin_again(self) -> str:
        """Give the SQL that makes a row one that is to be done."""
        return f"{quoted(self.status)} = {literal(self.pending)}"

    def settled(self, word: str, attempts: str, error: str | None = None) -> str:
        """Give the SQL that writes how a row ended; `attempts` and `error` are SQL too."""
        parts = {self.status: literal(word), self.attempts_column: attempts}
        if error is not None:
            parts[self.error_column] = error
        return ", ".join(f"{quoted(name)} = {sql}" for name, sql in parts.items() if name)


def quoted(name: str) -> str:
    """Write a name as SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """Write a word as SQL."""
    return "'" + text.replace("'", "''") + "'"


def body_of(key: object, row: str) -> bytes:
    """Build the message of a row, which is JSON: its key is the id, the row itself the data."""
    return f'{{"id":{json.dumps(str(key))},"data":{row}}}'.encode("utf-8", "surrogatepass")


class Held:
    """The keys of the rows that a process holds, by the numbers that the loop knows."""

    def __init__(self, topic: str) -> None:
        self._topic = topic
        self._keys: dict[int, Any] = {}

    def take(self, key: object, row: str, number: int, *counters: int) -> Delivery:
        """Take note of a row; give its delivery."""
        self._keys[number] = key
        attempts, failures, crashes, suspect = counters
        body = body_of(key, row)
        return Delivery(number, self._topic, body, attempts, failures, crashes, bool(suspect))

    def __getitem__(self, delivery: Delivery) -> Any:  # noqa: ANN401 - a key is of any type
        """Give the key of a delivery; of one that was settled before None, which no row has."""
        return self._keys.get(delivery.number)

    def keys(self, deliveries: Iterable[Delivery]) -> list[Any]:
        """Give the keys of deliveries, in their order."""
        return [self[one] for one in deliveries]

    def all(self) -> list[Any]:
        """Give all keys that are held."""
        return [*self._keys.values()]

    def forget(self, deliveries: Iterable[Delivery]) -> None:
        """Let go of what is settled."""
        for one in deliveries:
            self._keys.pop(one.number, None)


class Pace:
    """When the table is to be looked at: each so often, and when a delay of our own is over."""

    def __init__(self, poll_interval_s: float) -> None:
        self._poll_interval_s = poll_interval_s
        self._next = 0.0
        self._delays: list[float] = []

    def looked(self, *, is_full: bool) -> None:
        """Note a look: after one that found as much as it wanted the next follows at once."""
        now = time.monotonic()
        while self._delays and self._delays[0] <= now:
            heapq.heappop(self._delays)
        pause = self._poll_interval_s * random.uniform(1, 1 + _SPREAD)
        self._next = 0.0 if is_full else now + pause

    def delay(self, seconds: float) -> None:
        """Note that something comes back then."""
        heapq.heappush(self._delays, time.monotonic() + seconds)

    def hurry(self) -> None:
        """Look now."""
        self._next = 0.0

    def left(self) -> float:
        """Give the seconds to the next look."""
        due = min(self._next, self._delays[0]) if self._delays else self._next
        return max(0.0, due - time.monotonic())

"""A dead letter as a record of `TOPIC.dead`: what the message was, and headers that say why.

Key, value and headers of the message are kept as they are. What lies in such a topic without our
headers was put there by somebody else, and is a letter too. A letter that was replayed or deleted
is named by a mark, a later record of the same partition: a log forgets nothing by itself.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple

from workers.sources.desk import Letter
from workers.sources.kafka_books import number_of
from workers.sources.source import Burial, Envelope

Headers = Sequence[tuple[str, bytes | None]]
"""Headers as kafka-python has them; a value may be missing, as Kafka's may be null."""

_OURS: Final = "dead-"
_SETTLED: Final = "dead-settled"
_FROM: Final = "replayed-from"

_TRACEBACK: Final = 8192
_ERROR: Final = 1024
_SHORT_ERROR: Final = 200

_DIGITS: Final = 18
"""A number with more of them is none of ours."""

LAST_S: Final = 1e11
"""In the year 5138: what says it is later is no time in seconds, and no date can be made of it."""


class Origin(NamedTuple):
    """Where a record lies."""

    topic: str
    partition: int
    offset: int

    def __str__(self) -> str:
        """Give it as the id of a message."""
        return f"{self.topic}-{self.partition}-{self.offset}"


@dataclass(frozen=True, slots=True)
class Record:
    """What a record holds, as it came or as it is to be sent."""

    key: bytes | None
    value: bytes | None
    headers: Headers = ()


class Level:
    """How much of its history a letter brings along: a record has a largest size."""

    WHOLE: Final = 0
    NO_TRACEBACK: Final = 1
    LEAST: Final = 2


def dead_topic(queue: str) -> str:
    """Give the topic of the letters under a name."""
    return f"{queue}.dead"


def record_of(
    burial: Burial, was: Record, origin: Origin, level: int = Level.WHOLE, *, group: str = ""
) -> Record:
    """Build the record of one letter; `group` is whose consumer gave it up."""
    delivery = burial.delivery
    fields: dict[str, object] = {
        "id": burial.id,
        "topic": delivery.topic,
        "group": group,
        "origin": origin,
        "at": f"{time.time():.3f}",
        "error": burial.error[: _SHORT_ERROR if level == Level.LEAST else _ERROR],
        "attempts": delivery.attempts,
        "failures": delivery.failures,
        "crashes": delivery.crashes,
    }
    if level < Level.LEAST:
        fields["process"] = burial.origin
    if level < Level.NO_TRACEBACK:
        fields["traceback"] = burial.traceback[-_TRACEBACK:]
    ours = [
        (_OURS + name, str(value).encode("utf-8", "surrogatepass"))
        for name, value in fields.items()
    ]
    return Record(was.key, _value(was), [*_theirs(was.headers), *ours])


def replayed(was: Record, place: Origin) -> Record:
    """Build the record that goes back to the topic of a letter."""
    theirs = [header for header in _theirs(was.headers) if header[0] != _FROM]
    return Record(was.key, _value(was), [*theirs, (_FROM, str(place).encode())])


def mark(offsets: Iterable[int]) -> Record:
    """Build the record that settles letters of its partition."""
    return Record(None, b"", [(_SETTLED, ",".join(map(str, offsets)).encode())])


def settled_by(was: Record) -> frozenset[int] | None:
    """Give the letters that a mark settles; None for what is no mark."""
    for name, value in was.headers:
        if name == _SETTLED:
            words = [word for word in (value or b"").split(b",") if len(word) <= _DIGITS]
            return frozenset(int(word) for word in words if word.isdigit())
    return None


def letter_of(was: Record, place: Origin, at: float) -> Letter:
    """Read a letter; `at` is when the record was written, in epoch seconds."""
    said = _said(was)
    queue = place.topic.removesuffix(".dead")
    return Letter(
        number=number_of(*place),
        queue=queue,
        topic=said.get("topic", queue),
        id=said.get("id", str(place)),
        body=was.value or b"",
        error=said.get("error", ""),
        traceback=said.get("traceback", ""),
        attempts=_count(said.get("attempts", "")),
        failures=_count(said.get("failures", "")),
        crashes=_count(said.get("crashes", "")),
        origin=said.get("process", ""),
        at=_moment(said.get("at", ""), at),
        envelope=Envelope(
            said.get("id", str(place)), text_of(was.key), texts_of(_theirs(was.headers))
        ),
    )


def is_of_group(was: Record, group: str) -> bool:
    """Tell whether a letter is one of a group; one that no group has sent is everybody's."""
    return _said(was).get("group", "") in (group, "")


def _said(was: Record) -> dict[str, str]:
    """Read the headers of ours; of two with one name the later one counts."""
    return {
        name.removeprefix(_OURS): (value or b"").decode("utf-8", "replace")
        for name, value in was.headers
        if name.startswith(_OURS)
    }


def text_of(key: bytes | None) -> str | None:
    """Read a key, or a value of a header."""
    return None if key is None else key.decode("utf-8", "backslashreplace")


def texts_of(headers: Headers) -> Mapping[str, str]:
    """Read headers; of two with one name the later one counts."""
    return {name: text_of(value) or "" for name, value in headers}


def _value(was: Record) -> bytes | None:
    """Give the value; kafka-python sends nothing that has neither a key nor a value."""
    return b"" if was.key is None and was.value is None else was.value


def _theirs(headers: Headers) -> Headers:
    return [header for header in headers if not header[0].startswith(_OURS)]


def _count(text: str) -> int:
    return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0


def _moment(*told: str | float) -> float:
    """Give the first that is a time of the calendar, in epoch seconds; else its beginning."""
    for one in told:
        with suppress(ValueError):
            if 0 <= float(one) < LAST_S:
                return float(one)
    return 0.0

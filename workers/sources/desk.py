"""What the command line and `publish` ask of a place where messages wait, and the words they share.

The other side of a Source: no leases and no loop, only those who put messages in, look, and tidy
up, while consumers work or while nobody does. Every call may raise SourceTrouble.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

from workers.sources.source import Envelope

PAGE: Final = 500
"""So many dead letters are read, moved or deleted at once, so that consumers wait for no long
transaction, and no command holds all of them in its memory."""

NUMBER_MAX: Final = (1 << 63) - 1
"""No letter in a database has a higher number."""


@dataclass(frozen=True, slots=True)
class Depth:
    """How much of one topic waits, is in work, and is dead. Ages are seconds.

    `parts` is how much waits in each part of it, where it has some.
    """

    topic: str
    depth: int = 0
    delayed: int = 0
    in_flight: int = 0
    dead: int = 0
    oldest_age_s: float | None = None
    paused: bool | int = False
    parts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Letter:
    """One dead letter. `number` identifies it in its place, `at` is epoch seconds."""

    number: int
    queue: str
    topic: str
    id: str
    body: bytes
    error: str
    traceback: str
    attempts: int
    failures: int
    crashes: int
    origin: str
    at: float
    envelope: Envelope | None = None


class Desk(Protocol):
    """A connection for those who publish, look and tidy up. Used by the thread that made it.

    It connects at the first call, and again after trouble. One that is not to create anything
    finds an empty place where there is none yet.
    """

    def look(self) -> Sequence[str]:
        """See whether the place can be used; changes nothing. Gives what would be better."""
        ...

    def publish(self, topic: str, bodies: Iterable[bytes], delay_s: float) -> None:
        """Put messages on a topic, all or none; they are safe when this returns."""
        ...

    def depths(self) -> list[Depth]:
        """Look at every topic that the place knows, in the order of their names."""
        ...

    def walk(self, queue: str, message_id: str | None = None) -> Iterator[Letter]:
        """Go through the dead letters under a name or of a topic, the newest first.

        They are read as they are needed. What dies meanwhile is not met.
        """
        ...

    def replay(self, numbers: Iterable[int]) -> int:
        """Put dead letters back on their topics, as if never tried, the oldest first.

        Each moves whole or not at all, and once, whoever else moves or deletes it at the same
        time. Gives how many were moved.
        """
        ...

    def forget(self, numbers: Iterable[int]) -> int:
        """Delete dead letters for good. Gives how many were there."""
        ...

    def pause(self, topic: str) -> None:
        """Let nobody fetch from a topic until `resume`. A fetch that is going on is never cut."""
        ...

    def resume(self, topic: str) -> None:
        """Undo `pause`."""
        ...

    def purge(self, topic: str) -> int:
        """Delete what waits on a topic, delayed or not, and was published before this call.

        What is in flight stays, and so do dead letters. Gives how many were deleted.
        """
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


def depths_of(desk: Desk, topics: Sequence[str]) -> list[Depth]:
    """Look at the topics of a job, and at what else the place holds: somebody may miss it."""
    known = {depth.topic: depth for depth in desk.depths()}
    listed = [known.pop(topic, Depth(topic)) for topic in topics]
    return listed + list(known.values())


def by_pages(numbers: Iterable[int]) -> Iterator[list[int]]:
    """Give numbers of letters in their order, so many at once."""
    rest = iter(sorted(numbers))
    while page := list(islice(rest, PAGE)):
        yield page

"""What `workers.idempotency` asks of a place where the keys of handled messages are kept."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Protocol

Key = tuple[str, str]
"""A scope (which job, which topic) and the key of a message within it."""


class Claim(Enum):
    """What became of the wish to handle a key."""

    MINE = "mine"
    BUSY = "busy"
    DONE = "done"


class Keys(Protocol):
    """A place where keys of handled messages are kept. Used by one thread.

    Every call may raise SourceTrouble, and is all or nothing.
    """

    def open(self) -> None:
        """Connect; make what is missing."""
        ...

    def claim(self, keys: Sequence[Key]) -> list[Claim]:
        """Take the keys that nobody works on and nobody has done; each for the time of a lease."""
        ...

    def extend(self, keys: Iterable[Key]) -> None:
        """Hold claims for another lease."""
        ...

    def done(self, keys: Iterable[Key]) -> None:
        """Remember that the work is done, whoever may have claimed the key meanwhile."""
        ...

    def release(self, keys: Iterable[Key]) -> None:
        """Give own claims up: the work was not done."""
        ...

    def release_owner(self, owner: str) -> None:
        """Give up what a dead process has claimed."""
        ...

    def release_seat(self, seat: str) -> None:
        """Give up what every owner whose name begins so has claimed, save this process itself."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...

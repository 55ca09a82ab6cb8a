"""What the consume loop asks of a place where messages wait, and the words they share.

A source owns its client and nothing else: no retries, no decisions, and no threads but what its
client cannot do without. All sources pass one conformance suite (tests/conformance). Every call may
raise SourceTrouble, which means "not now"; what can never work is a ConfigError.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, Protocol

LONE_CRASHES_S: Final = (1.0, 4.0)
"""How long a message waits that has killed its process alone, for the first time and the second.

What chance kills, in a storm of kills, gets by later; others do not wait. Where its lane has an
order, it comes at once.
"""


class SourceTrouble(Exception):
    """The server or file cannot be used at the moment; the same call may work later."""


class SessionLost(Exception):
    """The connection that held a message was lost, in its handler or at the end of it."""


class Session(Protocol):
    """The open transaction that holds a message, where its source works so.

    While its handler is called it is the handler's thread's; else the loop's.
    """

    connection: Any
    """What the handler may work with in the same transaction; of the type of its driver."""

    def enter(self) -> None:
        """Hand it over to the thread that calls the handler."""
        ...

    def leave(self) -> None:
        """Hand it back."""
        ...

    def finish(self, attempts: int) -> None:
        """Commit what the handler did together with the word that its message is done.

        `attempts` are its calls, this one included. Raises: SessionLost, and what the server
        says against it, which is a failure of the handler.
        """
        ...

    def is_lost(self) -> bool:
        """Tell whether a call has found the connection broken."""
        ...


class Known(Protocol):
    """What a source knows of a message; a body that says so itself is believed first.

    Where `is_text` is true a body that is no text was spoiled on its way, and no handler sees it.
    """

    @property
    def id(self) -> str:
        """Give the id."""
        ...

    @property
    def key(self) -> str | None:
        """Give the key."""
        ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Give the headers."""
        ...

    @property
    def published_at(self) -> datetime | None:
        """Give when it was published."""
        ...

    @property
    def is_text(self) -> bool:
        """Tell whether its body has to be text."""
        ...


@dataclass(slots=True, unsafe_hash=True)
class Envelope:
    """What is `Known` of a message, at hand.

    Nobody changes one. It is not `frozen` as that takes four times as long, for every message.
    """

    id: str
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    published_at: datetime | None = None
    is_text: bool = False


@dataclass(slots=True, unsafe_hash=True)
class Delivery:
    """One message that this process holds a lease on. Nobody changes one, as an Envelope.

    `number` is positive and identifies the message in its source. `attempts` counts the calls of
    a handler that ended, `failures` those that raised, `crashes` the processes that it killed
    while it ran alone; a mere delivery, or a stop, counts in none of them. A `suspect` was in a
    handler when its process died. Messages of one `lane` are handled one after the other, in the
    order in which they were given out; 0 is no lane. What a `session` holds is acknowledged by
    it; `ack` then only takes note.
    """

    number: int
    topic: str
    body: bytes
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    suspect: bool = False
    envelope: Known | None = None
    lane: int = 0
    session: Session | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Return:
    """A delivery that goes back, with the counters it carries, to come again after a delay."""

    delivery: Delivery
    delay_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Burial:
    """A delivery that goes to the dead letters, and all that is known about why.

    `queue` is the name under which the letter lies, the topic's own unless `dead_letter` names
    another; `origin` is the process that gave it up.
    """

    delivery: Delivery
    queue: str
    id: str
    error: str
    traceback: str
    origin: str


Share = tuple[str, int]
"""A topic and how many of its messages are wanted before other topics get what is left.

0 is a share too: such a topic gets of what is left.
"""


class Source(Protocol):
    """A place where messages wait. Used by one thread; opened after the fork."""

    def open(self) -> None:
        """Connect; make what is missing. May be called again after it raised SourceTrouble."""
        ...

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Take a lease on up to `limit` messages that are due, oldest first within a topic.

        Topics come in the order given, each with its share first; what one topic leaves, others
        may take. Paused topics give nothing. Does not wait; `patience` tells when to ask again.
        The messages of a lane come in its order; while one of them waits after a `nack`, none
        behind it comes. Of one lane only so many are out at a time that those which wait behind
        a slow one do not keep other lanes out.
        """
        ...

    def patience(self) -> float:
        """Give the seconds after which `fetch` may find something that the last one did not."""
        ...

    def tend(self) -> Collection[int]:
        """Do what is to be done though nothing is fetched; give the numbers of lost leases.

        Called once a second, whatever else goes on, drain and quiet included. It asks the server
        for a sign of life, and gives free what nobody renews: of a host that is no more.
        """
        ...

    def bells(self) -> Sequence[int]:
        """Give descriptors that become readable when it may find something before that.

        They are hints, answered by the next `fetch`.
        """
        ...

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle for good, all or none.

        What is settled in this or another way, and had its lease lost meanwhile, is left alone,
        without an error.
        """
        ...

    def nack(self, returns: Sequence[Return]) -> None:
        """Give back, all or none: without delay to its place, or before what nobody has had."""
        ...

    def dead(self, burials: Sequence[Burial]) -> None:
        """Move to the dead letters, all or none."""
        ...

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Settle without success, where dead letters are off."""
        ...

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Renew the leases; give the numbers of those that were lost to somebody else."""
        ...

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Free at once what a dead process held; give how many.

        Of the suspects, those that already were suspects ran alone, so this crash counts, and they
        come again after a while (`LONE_CRASHES_S`).
        """
        ...

    def release_seat(self, seat: str) -> int:
        """Free what every owner whose name begins so holds, save this process itself."""
        ...

    def backlog(self, topics: Sequence[str]) -> int:
        """Count the messages that are due and wait for a process; paused topics have none."""
        ...

    def paused(self, topics: Sequence[str]) -> set[str]:
        """Give those of the topics that an operator has paused."""
        ...

    def close(self) -> None:
        """Disconnect."""
        ...


def lone_crashes_ms() -> tuple[int, ...]:
    """Give the delays after lone crashes in milliseconds."""
    return tuple(int(delay_s * 1000) for delay_s in LONE_CRASHES_S)


class Around:
    """A Source around another one, as the base of those that change a part of what it does."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def open(self) -> None:
        """Pass on."""
        self._source.open()

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Pass on."""
        return self._source.fetch(shares, limit)

    def patience(self) -> float:
        """Pass on."""
        return self._source.patience()

    def tend(self) -> Collection[int]:
        """Pass on."""
        return self._source.tend()

    def bells(self) -> Sequence[int]:
        """Pass on."""
        return self._source.bells()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Pass on."""
        self._source.ack(deliveries)

    def nack(self, returns: Sequence[Return]) -> None:
        """Pass on."""
        self._source.nack(returns)

    def dead(self, burials: Sequence[Burial]) -> None:
        """Pass on."""
        self._source.dead(burials)

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Pass on."""
        self._source.drop(deliveries)

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Pass on."""
        return self._source.extend(deliveries)

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Pass on."""
        return self._source.release(owner, suspects)

    def release_seat(self, seat: str) -> int:
        """Pass on."""
        return self._source.release_seat(seat)

    def backlog(self, topics: Sequence[str]) -> int:
        """Pass on."""
        return self._source.backlog(topics)

    def paused(self, topics: Sequence[str]) -> set[str]:
        """Pass on."""
        return self._source.paused(topics)

    def close(self) -> None:
        """Pass on."""
        self._source.close()

"""Once a key: a source in which messages whose key was handled before are not seen any more.

It stands between the consume loop and the real source, and claims the key of each message before
the loop gets it. The order of the steps is what makes it safe:

    fetch    lease the messages, then claim their keys: done ones are acknowledged without a call,
             those that somebody else works on come again a little later
    ack      write the keys down as done, then acknowledge: dying between the two, the message
             comes again and is skipped
    nack     give the claims up, then give the messages back: a retry is never blocked
    release  a dead process's claims go with its leases

So a key is handled again only when a process dies between the end of the handler's work and the
write of the key: at most 10 ms, as with any acknowledgement.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Final

from supervisor.board import Page
from supervisor.config import Job
from workers import codec
from workers.base import Message
from workers.sources.keys import Claim, Key, Keys
from workers.sources.source import (
    Around,
    Burial,
    Delivery,
    Return,
    Share,
    Source,
    SourceTrouble,
)

_BUSY_S: Final = 1.0
"""When a message comes again whose key somebody else works on."""

_LONGEST: Final = 200
"""A longer key is kept as its hash."""


def key_of(message: Message, rule: str) -> str | None:
    """Give the key of a message by `idempotency_key`; None when it has none.

    A field of the data counts by its JSON, so that 7 and "7" are two.
    """
    if rule == "id":
        key: str | None = message.id
    elif rule == "key":
        key = message.key
    else:
        value: object = message.data
        for name in rule.split(".")[1:]:
            value = value.get(name) if isinstance(value, Mapping) else None
        key = None if value is None else json.dumps(value, sort_keys=True, separators=(",", ":"))
    if not key:
        return None
    text = key.encode(errors="backslashreplace")
    return text.decode() if len(text) <= _LONGEST else _hash(text)


def _hash(text: bytes) -> str:
    # Here, as it brings four megabytes of OpenSSL with it, and few keys are so long.
    from hashlib import sha256

    return sha256(text).hexdigest()


class OnceSource(Around):
    """A Source that gives each key out once. Used by the work loop's thread only.

    What is acknowledged without a call is counted on the page; `refuse` settles a message that has
    no key, with the reason.
    """

    def __init__(
        self,
        source: Source,
        keys: Keys,
        job: Job,
        page: Page,
        refuse: Callable[[Delivery, str], None],
    ) -> None:
        super().__init__(source)
        self._keys = keys
        self._job = job
        self._page = page
        self._log = logging.getLogger(job.name)
        self._refuse = refuse
        self._claimed: dict[int, Key] = {}
        self._owed: list[Delivery] = []
        self._short = False

    def open(self) -> None:
        """Open both."""
        self._keys.open()
        self._source.open()

    def close(self) -> None:
        """Close both, after giving back what should not wait for the end of its lease."""
        with suppress(SourceTrouble):
            self._give_back_owed()
        self._keys.close()
        self._source.close()

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Lease messages and claim their keys; give those that are to be handled."""
        self._give_back_owed()
        deliveries = self._source.fetch(shares, limit)
        # Its lease had run out, and with it the claim, while this process was away: a new one.
        again = [one for one in deliveries if one.number in self._claimed]
        self._owed = [one for one in deliveries if one.number not in self._claimed]
        self._settle(again, self._keys.release)
        self._forget(again)
        self._claim(deliveries)
        self._owed = []
        kept = [one for one in deliveries if one.number in self._claimed]
        self._short = len(kept) < len(deliveries)
        return kept

    def _claim(self, fresh: Sequence[Delivery]) -> None:
        """Claim the keys of new deliveries; see off those that are not to be handled."""
        wanted = []
        keyless = []
        for one in fresh:
            key = self._key(one)
            if key is None:
                keyless.append(one)
            else:
                wanted.append((one, key))
        claims = self._keys.claim([key for _, key in wanted]) if wanted else []
        by_claim: dict[Claim, list[tuple[Delivery, Key]]] = {claim: [] for claim in Claim}
        for pair, claim in zip(wanted, claims, strict=True):
            by_claim[claim].append(pair)
        self._claimed.update((one.number, key) for one, key in by_claim[Claim.MINE])
        if busy := by_claim[Claim.BUSY]:
            self._put_off([one for one, _ in busy], fresh)
        if done := by_claim[Claim.DONE]:
            self._source.ack([one for one, _ in done])
            for one, (_, text) in done:
                self._skip(one, text)
        rule = self._job.idempotency_key
        for one in keyless:
            self._refuse(one, f"the message has no {rule}, which is its idempotency_key")

    def _put_off(self, busy: Sequence[Delivery], fresh: Sequence[Delivery]) -> None:
        """Give back what somebody else works on, and what must not overtake it in its lane."""
        numbers = {one.number for one in busy}
        lanes: set[int] = set()
        behind = []
        for one in fresh:
            if one.number in numbers:
                lanes |= {one.lane} - {0}
            elif one.lane in lanes and one.number in self._claimed:
                behind.append(one)
        self._settle(behind, self._keys.release)
        self._source.nack([Return(one, _BUSY_S) for one in busy] + [Return(one) for one in behind])
        self._forget(behind)

    def _skip(self, delivery: Delivery, key: str) -> None:
        self._page.count(skipped=1)
        self._page.progressed(time.monotonic_ns())
        self._log.info(
            "message skipped: its idempotency key %s was handled before",
            key,
            extra={"topic": delivery.topic, "number": delivery.number},
        )

    def _give_back_owed(self) -> None:
        """Give back what was leased when the store, or the source, failed halfway."""
        if self._owed:
            self.nack([Return(one) for one in self._owed])
            self._owed = []

    def patience(self) -> float:
        """Ask again at once where messages were fetched and none of them was for a handler."""
        return 0.0 if self._short else self._source.patience()

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Write the keys down, then acknowledge."""
        self._settle(deliveries, self._keys.done)
        self._source.ack(deliveries)
        self._forget(deliveries)

    def nack(self, returns: Sequence[Return]) -> None:
        """Give up the claims, then give back the messages."""
        deliveries = [back.delivery for back in returns]
        self._settle(deliveries, self._keys.release)
        self._source.nack(returns)
        self._forget(deliveries)

    def dead(self, burials: Sequence[Burial]) -> None:
        """Give up the claims, then bury: a replay is a new try."""
        deliveries = [burial.delivery for burial in burials]
        self._settle(deliveries, self._keys.release)
        self._source.dead(burials)
        self._forget(deliveries)

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Give up the claims, then drop: it was not done."""
        self._settle(deliveries, self._keys.release)
        self._source.drop(deliveries)
        self._forget(deliveries)

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Hold the claims as long as the leases."""
        self._settle(deliveries, self._keys.extend)
        return self._source.extend(deliveries)

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Free what a dead process held: the claims first, so that nobody finds them busy."""
        self._keys.release_owner(owner)
        return self._source.release(owner, suspects)

    def release_seat(self, seat: str) -> int:
        """Free what earlier processes of the own slot held."""
        self._keys.release_seat(seat)
        return self._source.release_seat(seat)

    def _key(self, delivery: Delivery) -> Key | None:
        key = key_of(codec.message_of(delivery), self._job.idempotency_key)
        return None if key is None else (f"{self._job.name}/{delivery.topic}", key)

    def _settle(
        self, deliveries: Iterable[Delivery], write: Callable[[Iterable[Key]], None]
    ) -> None:
        keys = [self._claimed[one.number] for one in deliveries if one.number in self._claimed]
        if keys:
            write(keys)

    def _forget(self, deliveries: Iterable[Delivery]) -> None:
        for one in deliveries:
            self._claimed.pop(one.number, None)

"""Messages from topics of Kafka, as a member of a consumer group.

A partition is one process's alone, and a group has one number for it: the offset up to which all is
done. So nothing is leased here, and nothing about a single record can be kept on the broker: what
waits for a retry waits in this process, with its counters, and what is done beyond a record that is
not is committed when that one is done too. After a death the records since the last commit come
again.

What is done is committed soon after `ack` has returned (kafka_poller.py), at most about 10 ms and
one call later.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from supervisor.errors import configuration_fault
from workers.sources import kafka_client, kafka_pause
from workers.sources.kafka_books import Order, Partition, Spot
from workers.sources.kafka_client import Settings
from workers.sources.kafka_graves import Graves
from workers.sources.kafka_poller import Poller
from workers.sources.kafka_records import deliveries_of, known_of
from workers.sources.kafka_shares import Assigned, Gone, News, Read, Wanted
from workers.sources.kafka_suspects import Suspects
from workers.sources.source import Burial, Delivery, Return, Share, SourceTrouble

_FULL: Final = 4000
_FULL_BYTES: Final = 16 << 20
"""A partition of which so much waits here is not read further, until half of it is gone."""

_PATIENCE_S: Final = 1.0
"""Whatever comes rings a bell, so looks are rare."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """Who consumes what, and how. Times are seconds.

    `name` tells this seat from all other members of the group, over its restarts. `leave_s` is how
    long a partition that is to go elsewhere waits for what is in a handler.
    """

    name: str
    job: str
    topics: Sequence[str]
    group: str
    order: str = Order.PARTITION
    reset: str = "earliest"
    leave_s: float = 30.0
    threads: int = 10
    queue_size: int = 100


class KafkaSource:
    """A member of a group. Used by the work loop's thread."""

    def __init__(
        self,
        settings: Settings,
        member: Member,
        state_dir: Path,
        tell_lag: Callable[[int], None] = lambda lag: None,
    ) -> None:
        self._settings = settings
        self._member = member
        self._state_dir = state_dir
        self._tell_lag = tell_lag
        self._limit_s = settings["request_timeout_ms"] / 1000
        self._poller: Poller | None = None
        self._books: dict[Spot, Partition] = {}
        self._leaving: set[Spot] = set()
        self._full: set[Spot] = set()
        self._lost: set[int] = set()
        self._paused: set[str] = set()
        self._suspects = Suspects(state_dir, member.job)
        self._graves = Graves(settings, member.group)
        self._turn = 0
        self._keeps_back = False

    # --- connecting

    def open(self) -> None:
        """Connect and join the group, whose word comes later. Raises: SourceTrouble."""
        if self._poller is not None:
            return
        member = self._member
        poller = Poller(
            self._settings,
            member.topics,
            member.group,
            member.name,
            f"supervisor-{member.job}",
            member.reset,
            member.leave_s,
        )
        try:
            poller.open()
        except kafka_client.WrongSettingError as error:
            poller.abandon()
            raise configuration_fault(f"client.{error.key}", str(error)) from None
        except BaseException:
            poller.abandon()
            raise
        self._poller = poller
        self._look()

    def close(self) -> None:
        """Commit what is done, and leave."""
        poller, self._poller = self._poller, None
        if poller is None:
            return
        self._books.clear()
        self._leaving.clear()
        if not poller.close(self._limit_s):
            _log.warning("not everything that was done could be committed; it comes again")
        kafka_client.close_producers()

    # --- giving out

    def fetch(self, shares: Sequence[Share], limit: int) -> list[Delivery]:
        """Give out what was read and is due; a lane in its order."""
        if self._poller is not None:
            self._poller.hear()
        poller = self._hear()
        now = time.monotonic()
        found: list[Delivery] = []
        open_ones = [(topic, share) for topic, share in shares if topic not in self._paused]
        for topic, share in open_ones:
            found += self._of_topic(topic, min(share, limit - len(found)), now)
        for topic, _ in open_ones:
            if len(found) < limit:
                found += self._of_topic(topic, limit - len(found), now)
        self._turn += 1
        self._keeps_back = any(books.out < books.waiting for books in self._books.values())
        self._hold(poller)
        if self._suspects and found:
            found = [self._as_suspect(one) for one in found]
        return found

    def patience(self) -> float:
        """Give the time until the next retry is due; whatever else comes rings."""
        dues = [due for books in self._books.values() if (due := books.next_due()) is not None]
        return max(0.0, min(_PATIENCE_S, min(dues, default=math.inf) - time.monotonic()))

    def bells(self) -> Sequence[int]:
        """Give the bell of the poller."""
        return () if self._poller is None else (self._poller.bell,)

    def tend(self) -> Collection[int]:
        """Look whether the broker answers, and for pauses; give what went elsewhere."""
        self._hear()
        self._look()
        lost, self._lost = self._lost, set()
        return lost

    def _look(self) -> None:
        self._paused = kafka_pause.paused_in(self._state_dir, self._member.topics)
        self._suspects.look()

    def _of_topic(self, topic: str, limit: int, now: float) -> list[Delivery]:
        found: list[Delivery] = []
        if limit <= 0:
            return found
        ours = [
            books
            for spot, books in self._books.items()
            if spot.topic == topic and spot not in self._leaving
        ]
        if not ours:
            return found
        first = self._turn % len(ours)
        most = self._most(len(ours))
        for books in (*ours[first:], *ours[:first]):
            found += books.give(limit - len(found), most, now)
            if len(found) >= limit:
                break
        return found

    def _most(self, partitions: int) -> int:
        """Give how many of a lane may be out, so that one slow lane leaves room for others."""
        lanes = self._member.threads
        if self._member.order == Order.PARTITION:
            lanes = min(lanes, partitions)
        return max(1, self._member.queue_size // lanes)

    def _as_suspect(self, one: Delivery) -> Delivery:
        if one.number not in self._suspects:
            return one
        self._suspects.met(one.number, known_of(one).id)
        return replace(one, suspect=True, crashes=self._suspects.crashes(one.number))

    # --- settling

    def ack(self, deliveries: Sequence[Delivery]) -> None:
        """Settle for good; it is committed soon, as far as nothing before it is open."""
        self._settle(self._hear(), deliveries)

    def drop(self, deliveries: Sequence[Delivery]) -> None:
        """Settle without success."""
        self._settle(self._hear(), deliveries)

    def nack(self, returns: Sequence[Return]) -> None:
        """Keep here what is to come again, with its counters."""
        poller = self._hear()
        now = time.monotonic()
        for given in returns:
            books = self._books.get(known_of(given.delivery).spot)
            if books is not None:
                books.back(given, now)
        self._suspects.clear([one.delivery.number for one in returns if not one.delivery.suspect])
        self._go_on(poller)

    def dead(self, burials: Sequence[Burial]) -> None:
        """Settle when the broker has the letters of all; some may be there twice after trouble."""
        poller = self._hear()
        ours = [one for one in burials if self._holds(one.delivery)]
        self._graves.bury(ours)
        self._settle(poller, [burial.delivery for burial in ours])

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Give those that went elsewhere; nothing is to be renewed."""
        self._hear()
        return {one.number for one in deliveries if not self._holds(one)}

    def release(self, owner: str, suspects: Sequence[int]) -> int:
        """Write down what a dead process was working on: its partitions come back by themselves."""
        if suspects:
            self._suspects.add(owner, suspects)
        return len(suspects)

    def release_seat(self, seat: str) -> int:
        """Do nothing: this member has what its seat had."""
        return 0

    def _settle(self, poller: Poller, deliveries: Sequence[Delivery]) -> None:
        moved: dict[Spot, Partition] = {}
        for one in deliveries:
            spot = known_of(one).spot
            books = self._books.get(spot)
            if books is not None:
                base = books.base
                books.done(one.number)
                if books.base != base:
                    moved[spot] = books
        for spot, books in moved.items():
            poller.commit(spot, books.epoch, books.base)
        if self._suspects:
            self._suspects.clear([one.number for one in deliveries])
        self._go_on(poller)

    def _go_on(self, poller: Poller) -> None:
        """Let go what may, and give out more where there is room now."""
        for spot in self._leaving:
            if not self._books[spot].out:
                poller.let_go(spot, self._books[spot].epoch)
        if self._keeps_back:
            self._keeps_back = False
            poller.ring()

    def _holds(self, one: Delivery) -> bool:
        spot = known_of(one).spot
        books = self._books.get(spot)
        return books is not None and spot not in self._leaving and books.holds(one.number)

    # --- looking

    def backlog(self, topics: Sequence[str]) -> int:
        """Count what waits in the partitions of this member."""
        poller = self._hear()
        now = time.monotonic()
        waiting = lag = 0
        for spot, books in self._books.items():
            unread = max(0, poller.ends.get(spot, 0) - books.end)
            lag += unread + books.end - books.base
            if spot.topic in topics and spot.topic not in self._paused:
                waiting += unread + books.waiting - books.out - books.parked(now)
        self._tell_lag(lag)
        return waiting

    def paused(self, topics: Sequence[str]) -> set[str]:
        """Give the topics that are paused here, by this supervisor."""
        return self._paused & set(topics)

    # --- what the poller tells

    def _hear(self) -> Poller:
        """Take in what has come. Raises: SourceTrouble, and what ends the process."""
        poller = self._poller
        if poller is None:
            raise SourceTrouble("not connected")
        while poller.news:
            self._take_in(poller, poller.news.popleft())
        trouble = poller.trouble()
        if trouble is not None:
            raise trouble
        return poller

    def _take_in(self, poller: Poller, news: News) -> None:
        spot, epoch = news.spot, news.epoch
        if isinstance(news, Assigned):
            self._books[spot] = Partition(spot, epoch, news.offset)
            # A group that reads from the end would have no beginning before its first commit.
            poller.commit(spot, epoch, news.offset)
            return
        books = self._books.get(spot)
        if books is None or books.epoch != epoch:
            if isinstance(news, Wanted):
                poller.let_go(spot, epoch)
        elif isinstance(news, Read):
            for offset, delivery in deliveries_of(news.records, books, self._member.order):
                books.read(offset, delivery)
        else:
            self._lost.update(books.numbers())
            self._leaving.add(spot)
            if isinstance(news, Gone):
                self._leaving.discard(spot)
                del self._books[spot]
            elif not books.out:
                poller.let_go(spot, epoch)

    def _hold(self, poller: Poller) -> None:
        """Say which partitions are not to be read further, for whatever reason."""
        poller.hold(spot for spot, books in self._books.items() if self._is_held(spot, books))

    def _is_held(self, spot: Spot, books: Partition) -> bool:
        if spot.topic in self._paused or spot in self._leaving or books.has_to_stop:
            return True
        part = 2 if spot in self._full else 1
        is_full = (books.waiting - books.out) * part > _FULL or books.size * part > _FULL_BYTES
        (self._full.add if is_full else self._full.discard)(spot)
        return is_full

"""The client of one Kafka consumer, and the two threads that it needs; the loop only leaves words.

One thread polls, since a consumer that does not poll is no member of its group. What it hears goes
into `news`, in order, with a bell. It stands still while partitions are taken away: they go only
when what is in a handler is settled, or its time is over. So another thread commits, and asks the
broker once a second for a sign of life.

Which partitions are ours, and what of them is committed, is kept by kafka_shares.py.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]  # it has no types
from kafka.consumer.fetcher import RecordTooLargeError  # type: ignore[import-untyped]
from kafka.consumer.subscription_state import (  # type: ignore[import-untyped]
    AsyncConsumerRebalanceListener,
)
from kafka.coordinator.assignors.cooperative_sticky import (  # type: ignore[import-untyped]
    CooperativeStickyAssignor,
)
from kafka.errors import (  # type: ignore[import-untyped]
    CommitFailedError,
    CorruptRecordError,
    FencedInstanceIdError,
    IllegalGenerationError,
    KafkaError,
    RebalanceInProgressError,
    UnknownMemberIdError,
    UnsupportedCodecError,
)
from kafka.structs import OffsetAndMetadata  # type: ignore[import-untyped]

from workers.sources import kafka_client
from workers.sources.kafka_books import Spot
from workers.sources.kafka_client import Settings
from workers.sources.kafka_shares import Assigned, Gone, News, Read, Shares, Wanted
from workers.sources.source import SourceTrouble

_POLL_MS: Final = 100
_SHORT_POLL_MS: Final = 20
"""How long a poll waits for records, and how long while some partitions are not to be read."""

_MOST: Final = 500
"""Records of one poll."""

_PACE_S: Final = 0.01
"""Commits are so far from each other at least."""

_ASK_S: Final = 1.0
"""How often the broker is asked for a sign of life, and for the ends of the partitions."""

_LOOK_S: Final = 0.005
"""How often the end of a commit is looked for, where there is nothing else to do."""

_AGAIN_S: Final = 0.1
"""The pause after a call that failed."""

_GRACE_S: Final = 3.0
"""Beyond its time limit, what a call may take on a busy machine."""

_MOVED: Final = (
    CommitFailedError,
    RebalanceInProgressError,
    IllegalGenerationError,
    UnknownMemberIdError,
)
"""The group is about to share its partitions anew: no trouble, a commit waits for the end of it."""

_DEADLY: Final = (
    FencedInstanceIdError,
    CorruptRecordError,
    UnsupportedCodecError,
    RecordTooLargeError,
)
"""After these the client cannot go on, or would go in circles."""


class LostIdentityError(Exception):
    """Another process is the same member of the group."""


class UnreadableError(Exception):
    """The log holds what this client cannot read."""


@dataclass
class Poller:
    """A member of a group. All its methods are called by the work loop's thread.

    `patience_s` is how long a partition that is to go waits for what is in a handler.
    """

    settings: Settings
    topics: Collection[str]
    group: str
    member: str
    name: str
    reset: str
    patience_s: float
    news: deque[News] = field(default_factory=deque)

    def __post_init__(self) -> None:
        """Get ready to open."""
        self.bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._limit_s = self.settings["request_timeout_ms"] / 1000
        self._shares = Shares()
        self._work = threading.Event()
        self._wake = threading.Event()
        self._held: frozenset[Spot] = frozenset()
        self._tried = threading.Event()
        self._closing = threading.Event()
        self._consumer: Any = None
        self._threads: list[threading.Thread] = []
        self._error: dict[str, BaseException] = {}
        self._alive_at = 0.0
        self._missing = ""
        self._unknown: set[str] = set()
        self.deadly: BaseException | None = None
        self.ends: Mapping[Spot, int] = {}

    def open(self) -> None:
        """Connect, and begin to be a member. Raises: SourceTrouble, WrongSettingError."""
        self._consumer = consumer = kafka_client.opened(
            KafkaConsumer,
            {
                "heartbeat_interval_ms": 1000,
                "metrics_enabled": False,
                "allow_auto_create_topics": False,
                "client_id": self.name,
                **self.settings,
            },
            group_id=self.group,
            group_instance_id=self.member,
            enable_auto_commit=False,
            auto_offset_reset=self.reset,
            partition_assignment_strategy=[CooperativeStickyAssignor()],
        )
        consumer.subscribe(list(self.topics), listener=_Listener(self))
        self._alive_at = time.monotonic()
        for target in (self._poll_on, self._commit_on):
            thread = threading.Thread(target=target, name=f"kafka{target.__name__}", daemon=True)
            self._threads.append(thread)
            thread.start()

    def abandon(self) -> None:
        """Undo what was begun before `open` has failed."""
        os.close(self.bell)

    def trouble(self) -> SourceTrouble | None:
        """Say why it cannot work at the moment. Raises: what it cannot go on after."""
        if self.deadly is not None:
            raise self._fatal(self.deadly)
        brokers = self.settings["bootstrap_servers"]
        for error in tuple(self._error.values()):
            return kafka_client.trouble_of(error, brokers)
        silence = time.monotonic() - self._alive_at
        if silence > _ASK_S + self._limit_s + _GRACE_S:
            return SourceTrouble(f"{','.join(brokers)}: no answer for {silence:.0f} s")
        if self._missing:
            return SourceTrouble(f"{','.join(brokers)}: there is no topic {self._missing}")
        return None

    def hold(self, spots: Iterable[Spot]) -> None:
        """Read no more of these partitions, and of all others."""
        held = frozenset(spots)
        if held != self._held:
            self._held = held
            self._wake.set()

    def commit(self, spot: Spot, epoch: int, offset: int) -> None:
        """Have an offset committed soon."""
        self._shares.want(spot, epoch, offset)
        self._work.set()

    def let_go(self, spot: Spot, epoch: int) -> None:
        """Give a partition away that is wanted: nothing of it is in a handler."""
        self._shares.free(spot, epoch)

    def hear(self) -> None:
        """Make the bell silent; to be called before a look at the news."""
        with suppress(BlockingIOError):
            os.eventfd_read(self.bell)

    def ring(self) -> None:
        """Make the bell readable."""
        os.eventfd_write(self.bell, 1)

    def close(self, limit_s: float) -> bool:
        """Commit what is done, and leave. Gives False when that was not possible in time."""
        if self._consumer is None:
            return True
        until = time.monotonic() + limit_s
        # Polls go on until then: without them a group that shares anew would never let us commit.
        while not self._shares.is_settled() and self.deadly is None and time.monotonic() < until:
            self._tried.wait(_AGAIN_S)
            self._tried.clear()
        self._closing.set()
        self._work.set()
        self._wake.set()
        for thread in reversed(self._threads):
            thread.join(max(0.0, until - time.monotonic()))
        is_clean = not any(thread.is_alive() for thread in self._threads)
        is_clean = is_clean and self._shares.is_settled()
        consumer, self._consumer = self._consumer, None
        rest_ms = max(100, int((until - time.monotonic()) * 1000))
        try:
            consumer.close(autocommit=False, timeout_ms=rest_ms)
        except KafkaError:
            is_clean = False
        os.close(self.bell)
        return is_clean

    # --- the thread that polls

    def _poll_on(self) -> None:
        while not self._closing.is_set():
            try:
                self._poll_once()
                self._error.pop("poll", None)
            except _DEADLY as error:
                self._die(error)
                return
            except KafkaError as error:
                self._error["poll"] = error
                self._wake.wait(_AGAIN_S)
            except Exception as error:  # raised in the loop's thread
                self._die(error)
                return

    def _poll_once(self) -> None:
        consumer = self._consumer
        wait_ms = self._follow_holds()
        if not consumer._fetcher._next_partition_records:
            # What it has read of a partition that was not to be read meanwhile it looks at again
            # only when there is nothing else, and takes for that also what it is through with.
            consumer._fetcher._next_partition_records = None
        found = consumer.poll(timeout_ms=wait_ms, max_records=_MOST)
        group = consumer._coordinator
        if group.rebalance_in_progress():
            # A poll whose time is over leaves a join to the next one, which takes it for done when
            # what it was for, new partitions, is seen to: then the client would wait for ever.
            group.request_rejoin()
        self._tell_assigned(found)
        for place, records in found.items():
            spot = Spot(*place)
            self.news.append(Read(spot, self._shares.epoch(spot), records))
        if found:
            self._alive_at = time.monotonic()
            self.ring()

    def _follow_holds(self) -> int:
        """Have the client read what is to be read; give how long a poll may wait."""
        consumer, wanted = self._consumer, self._held
        self._wake.clear()
        ours = consumer.assignment()
        paused = consumer.paused()
        if not wanted and not paused:
            return _POLL_MS
        held = {place for place in ours if Spot(*place) in wanted}
        consumer.pause(*(held - paused))
        consumer.resume(*(paused - held))
        if not held:
            return _POLL_MS
        if held != ours:
            return _SHORT_POLL_MS
        self._wake.wait(_POLL_MS / 1000)
        return 0

    def _tell_assigned(self, found: Mapping[Any, list[Any]]) -> None:
        """Tell where the records begin of the partitions that are new."""
        for spot, epoch in self._shares.unknown():
            place = TopicPartition(*spot)
            records = found.get(place)
            # Asked only when the client has found it out: otherwise it would wait.
            offset = records[0].offset if records else self._position(place)
            if offset is not None:
                self._shares.know(spot, epoch)
                self.news.append(Assigned(spot, epoch, offset))
                self.ring()

    def _position(self, place: Any) -> int | None:  # noqa: ANN401 - it has no types
        state = self._consumer._subscription.assignment.get(place)  # `position` would ask
        known = None if state is None else state.position
        return None if known is None else int(known.offset)

    def _die(self, error: BaseException) -> None:
        self.deadly = error
        self.ring()

    def _fatal(self, error: BaseException) -> Exception:
        brokers = ",".join(self.settings["bootstrap_servers"])
        words = kafka_client.words_of(error)
        if isinstance(error, FencedInstanceIdError):
            return LostIdentityError(
                f"{brokers}: another process is {self.member} in group {self.group}"
            )
        if isinstance(error, _DEADLY):
            return UnreadableError(f"{brokers}: a log cannot be read: {words}")
        return RuntimeError(f"{brokers}: the client has failed: {type(error).__name__}: {words}")

    # --- the thread that commits

    def _commit_on(self) -> None:
        ask_at = 0.0
        while True:
            self._work.wait(max(0.0, ask_at - time.monotonic()))
            self._work.clear()
            is_last = self._closing.is_set()
            begun = time.monotonic()
            try:
                self._commit_wanted()
                if begun >= ask_at and not is_last:
                    self._ask()
                    ask_at = begun + _ASK_S
                self._error.pop("commit", None)
            except _MOVED:
                self._work.set()
                self._closing.wait(_AGAIN_S)
            except FencedInstanceIdError as error:
                self._die(error)
                return
            except KafkaError as error:
                self._error["commit"] = error
                self._work.set()
                self._closing.wait(_AGAIN_S)
            except Exception as error:  # raised in the loop's thread
                self._die(error)
                return
            if is_last:
                return
            self._tried.set()
            self._closing.wait(max(0.0, begun + _PACE_S - time.monotonic()))

    def _commit_wanted(self) -> None:
        wanted = self._shares.begin()
        if not wanted:
            return
        offsets = {
            TopicPartition(*spot): OffsetAndMetadata(offset, "", -1)
            for spot, offset in wanted.items()
        }
        done: Mapping[Spot, int] = {}
        try:
            # Called here while the other thread polls: it runs in the client's own thread.
            self._consumer.commit(offsets, timeout_ms=self.settings["request_timeout_ms"])
            done = wanted
        finally:
            self._shares.end(done)
        self._alive_at = time.monotonic()

    def _ask(self) -> None:
        """Ask for the ends of what is ours, or for anything at all."""
        consumer, limit_ms = self._consumer, self.settings["request_timeout_ms"]
        cluster = consumer._client.cluster  # the client has no other way to it that never waits
        missing = {topic for topic in self.topics if not cluster.partitions_for_topic(topic)}
        # At first nothing is known of any.
        self._missing = ", ".join(sorted(missing & self._unknown))
        self._unknown = missing
        if missing:
            cluster.request_update()
        places = [TopicPartition(*spot) for spot in self._shares.spots()]
        if places:
            found = consumer.end_offsets(places, timeout_ms=limit_ms)
            self.ends = {Spot(*place): end for place, end in found.items()}
        else:
            consumer.committed(TopicPartition(next(iter(self.topics)), 0), timeout_ms=limit_ms)
        self._alive_at = time.monotonic()

    # --- the client's own thread, in which the listener is called

    def assigned(self, spots: Iterable[Spot]) -> None:
        """Take in what is ours from now on."""
        self._shares.assign(spots)

    def want(self, spots: Collection[Spot]) -> None:
        """Ask the loop to come to an end with some partitions."""
        self.news.extend(
            Wanted(spot, epoch) for spot in spots if (epoch := self._shares.epoch(spot))
        )
        self.ring()

    def may_go(self, spots: Collection[Spot]) -> bool:
        """Tell whether the loop has, and all that was done is committed."""
        return self._closing.is_set() or self._shares.may_go(spots)

    def gone(self, spots: Collection[Spot]) -> None:
        """Take in what is not ours any more."""
        self.news.extend(Gone(spot, epoch) for spot, epoch in self._shares.take(spots))
        self.ring()

    async def wait(self, seconds: float) -> None:
        """Wait without holding up the client's thread, which sends the heartbeats."""
        await self._consumer._client._net.sleep(seconds)


class _Listener(AsyncConsumerRebalanceListener):  # type: ignore[misc]  # it has no types
    """Hears what the group gives to this member and takes from it. Runs in: the client's thread."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    async def on_partitions_assigned(self, assigned: Collection[Any]) -> None:
        """Take them in."""
        self._poller.assigned([Spot(*place) for place in assigned])

    async def on_partitions_revoked(self, revoked: Collection[Any]) -> None:
        """Give them away when nothing of them is in a handler, or the time for that is over."""
        poller = self._poller
        spots = [Spot(*place) for place in revoked]
        until = time.monotonic() + poller.patience_s
        poller.want(spots)
        while not poller.may_go(spots) and time.monotonic() < until:
            await poller.wait(_LOOK_S)
        poller.gone(spots)

    async def on_partitions_lost(self, lost: Collection[Any]) -> None:
        """Let them go: others have them already."""
        self._poller.gone([Spot(*place) for place in lost])

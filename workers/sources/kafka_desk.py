"""The other side of topics of Kafka: those who publish, and those who look.

A log has no place for much of what a queue has: nothing waits for a time, nothing is taken out. So
there is no delayed message; a pause lies in the supervisor's folder; and a dead letter that was
settled is named by a mark behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from heapq import merge
from pathlib import Path
from threading import Event
from typing import Any, Final, TypeVar

from kafka import KafkaAdminClient, KafkaConsumer, TopicPartition  # type: ignore[import-untyped]
from kafka.admin import OffsetSpec  # type: ignore[import-untyped]
from kafka.errors import KafkaError, for_code  # type: ignore[import-untyped]

from supervisor.errors import UsageError
from workers import codec
from workers.sources import kafka_client, kafka_letters, kafka_pause
from workers.sources.desk import PAGE, Depth, Letter, by_pages
from workers.sources.kafka_books import Spot, number_of
from workers.sources.kafka_client import RefusedError, Settings, WrongSettingError
from workers.sources.kafka_letters import Origin, Record
from workers.sources.source import SourceTrouble

T = TypeVar("T")

_AGAIN_S: Final = 0.1
_COUNTED: Final = 10_000
"""So many records of dead letters are looked through to count those that are not settled."""

_UNKNOWN_TOPIC: Final = 3

Wrong = Callable[[str, str], Exception]
"""Makes the error for a key of the job that can never work."""


@dataclass(frozen=True, slots=True)
class Interest:
    """What a job has to do with a cluster; `names` are also those of its dead letters.

    Without a group there is nobody who could be behind. `is_new_from_end`: a group that has
    committed nothing yet begins at the end.
    """

    group: str = ""
    is_new_from_end: bool = False
    topics: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    state_dir: Path | None = None
    wrong: Wrong = field(default=lambda key, words: UsageError(f"{key} {words}"), compare=False)


@dataclass(frozen=True, slots=True)
class _Found:
    """A record of a topic of dead letters."""

    place: Origin
    at: float
    record: Record


@dataclass(frozen=True, slots=True)
class _Reach:
    """From where to where a partition holds records, and which one its group does next."""

    first: int
    end: int
    next: int


class KafkaDesk:
    """A connection for those who publish, look and tidy up. Used by the thread that made it."""

    def __init__(self, settings: Settings, interest: Interest) -> None:
        self._settings = settings
        self._brokers: list[str] = settings["bootstrap_servers"]
        self._io_timeout: float = settings["request_timeout_ms"] / 1000
        self._interest = interest
        self._admin: KafkaAdminClient | None = None
        self._consumer: KafkaConsumer | None = None

    def close(self) -> None:
        """Disconnect. The producer belongs to the process, which other threads may use."""
        admin, self._admin = self._admin, None
        consumer, self._consumer = self._consumer, None
        if admin is not None:
            admin.close()
        if consumer is not None:
            consumer.close(autocommit=False, timeout_ms=1000)

    def look(self) -> Sequence[str]:
        """See that a broker lets us in, and has the topics and the group. Raises: what is wrong."""
        wrong = self._interest.wrong
        try:
            self._look()
        except RefusedError as error:
            raise wrong("brokers", str(error)) from error
        return ()

    def _look(self) -> None:
        wrong, group = self._interest.wrong, self._interest.group
        brokers = ",".join(self._brokers)
        for topic, found in self._described(self._interest.topics).items():
            if found["error_code"] == _UNKNOWN_TOPIC:
                raise wrong("topics", f"{brokers} has no topic {topic}; create it")
            if found["error_code"]:
                name = kafka_client.words_of(for_code(found["error_code"])())
                raise wrong("topics", f"{brokers} says of the topic {topic}: {name}")
            rights = found.get("authorized_operations")
            if rights and "READ" not in rights:
                raise wrong("topics", f"{brokers} does not let this user read the topic {topic}")
        if group:
            told = self._ask(lambda admin: admin.describe_groups([group]))[group]
            if told["protocol_type"] not in ("", "consumer"):
                kind = told["protocol_type"]
                raise wrong("group", f"{group} is a group of another kind ({kind}); take another")

    def publish(self, topic: str, bodies: Iterable[bytes], delay_s: float) -> None:
        """Append messages to a topic; all in-sync replicas have them when this returns.

        When it fails, some of several may be there all the same.
        """
        if delay_s > 0:
            raise UsageError(f"{topic} is a topic of Kafka, which has no delayed messages")
        self._send([(topic, None, _as_record(topic, body)) for body in bodies])

    def depths(self) -> list[Depth]:
        """Look at every topic: how far the group is behind, what it has in flight included."""
        names = self._names()
        topics, dead = self._partitions(names), self._dead()
        reach = self._reach(
            [spot for spots in (*topics.values(), *dead.values()) for spot in spots]
        )
        paused = set()
        if self._interest.state_dir is not None:
            paused = kafka_pause.paused_in(self._interest.state_dir, names)
        return [
            Depth(
                name,
                depth=sum(reach[spot].end - reach[spot].next for spot in topics.get(name, ())),
                dead=self._count(dead.get(kafka_letters.dead_topic(name), ()), reach),
                oldest_age_s=self._age(topics.get(name, ()), reach),
                paused=name in paused,
                parts={
                    str(spot.partition): reach[spot].end - reach[spot].next
                    for spot in topics.get(name, ())
                },
            )
            for name in names
        ]

    def walk(self, queue: str, message_id: str | None = None) -> Iterator[Letter]:
        """Go through the dead letters under a name or of a topic, the newest first."""
        spots = [spot for spots in self._dead().values() for spot in spots]
        reach = self._reach(spots)
        logs = [self._backwards(spot, reach[spot]) for spot in spots]
        for found in merge(*logs, key=lambda one: -one.at):
            letter = kafka_letters.letter_of(found.record, found.place, found.at)
            is_meant = queue in (letter.queue, letter.topic) and message_id in (None, letter.id)
            if is_meant and self._is_ours(found):
                yield letter

    def replay(self, numbers: Iterable[int]) -> int:
        """Put dead letters back on their topics, as if never tried, the oldest first.

        Each is put back, and then named in a mark: a process that dies between these two has put
        it back, and it lies there still. Gives how many were put back.
        """
        return self._settle(numbers, is_replay=True)

    def forget(self, numbers: Iterable[int]) -> int:
        """Settle dead letters for good, whose records the broker then deletes in its time."""
        return self._settle(numbers, is_replay=False)

    def pause(self, topic: str) -> None:
        """Let no consumer of this supervisor fetch from a topic until `resume`."""
        self._note(kafka_pause.pause, topic)

    def resume(self, topic: str) -> None:
        """Undo `pause`."""
        self._note(kafka_pause.resume, topic)

    def purge(self, topic: str) -> int:
        """Delete all records that a topic holds now, for all its groups.

        What is in flight is handled to its end. Gives how many of them this group had to do.
        """
        spots = self._partitions([topic]).get(topic, ())
        reach = self._reach(spots)
        ends = {_of(spot): reach[spot].end for spot in spots}
        if ends:
            self._ask(lambda admin: admin.delete_records(ends))
        return sum(reach[spot].end - reach[spot].next for spot in spots)

    def _note(self, note: Callable[[Path, str], None], topic: str) -> None:
        if self._interest.state_dir is None:
            raise UsageError("a pause of Kafka's topics lies in the state_dir of a configuration")
        try:
            note(self._interest.state_dir, topic)
        except OSError as error:
            raise SourceTrouble(f"{error.filename}: {error.strerror}") from error

    def _names(self) -> dict[str, None]:
        """Give the topics, and what else dead letters may lie under, each once."""
        return dict.fromkeys((*self._interest.topics, *self._interest.names))

    def _dead(self) -> dict[str, list[Spot]]:
        """Give the partitions of dead letters."""
        return self._partitions(map(kafka_letters.dead_topic, self._names()))

    def _partitions(self, topics: Iterable[str]) -> dict[str, list[Spot]]:
        """Give the partitions of those topics that are there."""
        return {
            topic: [Spot(topic, one["partition_index"]) for one in found["partitions"]]
            for topic, found in self._described(topics).items()
            if not found["error_code"]
        }

    def _described(self, topics: Iterable[str]) -> dict[str, Any]:
        wanted = list(topics)
        if not wanted:
            return {}
        found = self._ask(lambda admin: admin.describe_topics(wanted))
        return {one["name"]: one for one in found}

    def _reach(self, spots: Sequence[Spot]) -> dict[Spot, _Reach]:
        """Look at the ends of partitions."""
        if not spots:
            return {}
        group = self._interest.group
        committed: Mapping[TopicPartition, Any] = {}
        if group:
            committed = self._ask(lambda admin: admin.list_group_offsets({group: None}))[group]
        first = self._offsets(spots, OffsetSpec.EARLIEST)
        end = self._offsets(spots, OffsetSpec.LATEST)
        new = end if self._interest.is_new_from_end else first
        found = {}
        for spot in spots:
            place = _of(spot)
            # -1 is none; what was committed may have been deleted since.
            told = committed[place].offset if place in committed else -1
            following = max(told, first[place]) if told >= 0 else new[place]
            found[spot] = _Reach(first[place], end[place], min(following, end[place]))
        return found

    def _offsets(self, spots: Sequence[Spot], spec: int) -> dict[TopicPartition, int]:
        wanted = {_of(spot): spec for spot in spots}
        found = self._ask(lambda admin: admin.list_partition_offsets(wanted))
        return {place: one.offset for place, one in found.items()}

    def _count(self, spots: Sequence[Spot], reach: Mapping[Spot, _Reach]) -> int:
        """Count the letters of a topic; where there are very many, their records."""
        records = sum(reach[spot].end - reach[spot].first for spot in spots)
        if records > _COUNTED:
            return records
        return sum(
            self._is_ours(one) for spot in spots for one in self._backwards(spot, reach[spot])
        )

    def _age(self, spots: Sequence[Spot], reach: Mapping[Spot, _Reach]) -> float | None:
        """Give how long ago the oldest message was published that the group has not done."""
        moments = [
            found[0].at
            for spot in spots
            if reach[spot].next < reach[spot].end
            for found in [self._read(spot, reach[spot].next, reach[spot].next + 1)]
            if found
        ]
        return max(0.0, time.time() - min(moments)) if moments else None

    def _backwards(self, spot: Spot, reach: _Reach) -> Iterator[_Found]:
        """Go through the letters of a partition that are not settled, the newest first."""
        settled: set[int] = set()
        end = reach.end
        while end > reach.first:
            begin = max(reach.first, end - PAGE)
            for found in reversed(self._read(spot, begin, end)):
                mark = kafka_letters.settled_by(found.record)
                if mark is not None:
                    settled |= mark
                elif found.place.offset not in settled:
                    yield found
            end = begin

    def _is_ours(self, found: _Found) -> bool:
        return kafka_letters.is_of_group(found.record, self._interest.group)

    def _read(self, spot: Spot, begin: int, end: int) -> list[_Found]:
        """Read the records between two offsets; there may be none. Raises: SourceTrouble."""
        place = _of(spot)
        consumer = self._reader()
        records: list[_Found] = []
        try:
            consumer.assign([place])
            consumer.seek(place, begin)
            position, until = begin, time.monotonic() + self._io_timeout
            while position < end:
                got = consumer.poll(timeout_ms=200, max_records=PAGE).get(place, [])
                records += [_found(one) for one in got if one.offset < end]
                was, position = position, consumer.position(place, timeout_ms=1000)
                if position > was:
                    until = time.monotonic() + self._io_timeout
                elif time.monotonic() > until:
                    raise SourceTrouble(f"{','.join(self._brokers)}: no answer in time")
        except (KafkaError, SourceTrouble) as error:
            self.close()  # after an error in a batch the client would read on for ever
            raise self._in_words(error) from error
        return records

    def _settle(self, numbers: Iterable[int], *, is_replay: bool) -> int:
        wanted, taken = set(numbers), 0
        dead = self._dead() if wanted else {}
        spots = [spot for spots in dead.values() for spot in spots]
        reach = self._reach(spots)
        for spot in spots:
            # Those of other groups too: nothing that one of them may want is deleted.
            live = [found.place.offset for found in self._backwards(spot, reach[spot])]
            chosen = [one for one in live if number_of(*spot, one) in wanted]
            for page in by_pages(chosen):
                if is_replay:
                    self._put_back(spot, page)
                self._send([(spot.topic, spot.partition, kafka_letters.mark(page))])
            taken += len(chosen)
            if chosen:
                left = set(live) - set(chosen)
                self._trim(spot, min(left, default=reach[spot].end))
        return taken

    def _put_back(self, spot: Spot, offsets: Sequence[int]) -> None:
        wanted = set(offsets)
        found = [
            one
            for one in self._read(spot, offsets[0], offsets[-1] + 1)
            if one.place.offset in wanted
        ]
        self._send(
            [
                (
                    kafka_letters.letter_of(one.record, one.place, one.at).topic,
                    None,
                    kafka_letters.replayed(one.record, one.place),
                )
                for one in found
            ]
        )

    def _trim(self, spot: Spot, first: int) -> None:
        """Delete what lies before the first letter that is left; only to save room."""
        with suppress(SourceTrouble):
            self._ask(lambda admin: admin.delete_records({_of(spot): first}))

    def _send(self, records: Sequence[tuple[str, int | None, Record]]) -> None:
        """Append records, each to a topic and maybe to a partition. Raises: SourceTrouble."""
        until = time.monotonic() + self._io_timeout
        safe = 0
        try:
            producer = kafka_client.producer(self._settings)
            sent = [
                producer.send(
                    topic,
                    value=record.value,
                    key=record.key,
                    headers=list(record.headers),
                    partition=partition,
                )
                for topic, partition, record in records
            ]
            for one in sent:
                one.get(max(0.0, until - time.monotonic()))
                safe += 1
        except (KafkaError, SourceTrouble, WrongSettingError, ValueError, AssertionError) as error:
            trouble = self._in_words(error)
            if len(records) > 1:
                trouble = type(trouble)(f"{trouble}; {safe} of {len(records)} are known to be safe")
            raise trouble from error

    def _ask(self, question: Callable[[Any], T]) -> T:
        """Ask the broker, again while it says "not yet". Raises: SourceTrouble."""
        until = time.monotonic() + self._io_timeout
        while True:
            try:
                if self._admin is None:
                    self._admin = kafka_client.opened(KafkaAdminClient, self._settings)
                return question(self._admin)
            except (KafkaError, SourceTrouble, WrongSettingError) as error:
                is_early = isinstance(error, KafkaError) and error.retriable
                if not is_early or time.monotonic() > until:
                    self.close()
                    raise self._in_words(error) from error
                Event().wait(_AGAIN_S)

    def _reader(self) -> KafkaConsumer:
        if self._consumer is None:
            self._consumer = kafka_client.opened(
                KafkaConsumer,
                self._settings,
                enable_auto_commit=False,
                auto_offset_reset="earliest",
            )
        return self._consumer

    def _in_words(self, error: Exception) -> Exception:
        if isinstance(error, WrongSettingError):
            return self._interest.wrong(f"client.{error.key}", str(error))
        if isinstance(error, SourceTrouble):
            return error
        return kafka_client.trouble_of(error, self._brokers)


def _as_record(topic: str, body: bytes) -> Record:
    """Give what a message is in Kafka: its key and headers stand beside it too."""
    message = codec.decode(topic, body, fallback_id="", attempt=1)
    headers = [(name, str(value).encode()) for name, value in message.headers.items()]
    return Record(None if message.key is None else message.key.encode(), body, headers)


def _found(record: Any) -> _Found:  # noqa: ANN401 - the client has no types
    place = Origin(record.topic, record.partition, record.offset)
    return _Found(
        place,
        max(0, record.timestamp) / 1000,
        Record(record.key, record.value, record.headers),
    )


def _of(spot: Spot) -> TopicPartition:
    return TopicPartition(spot.topic, spot.partition)

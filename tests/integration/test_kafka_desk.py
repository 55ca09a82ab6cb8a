"""The other side of topics of Kafka, on a real broker: who publishes, looks and tidies up."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from kafka import KafkaConsumer, OffsetAndMetadata, TopicPartition
from kafka.admin import ConfigResource, ConfigResourceType

from supervisor.errors import UsageError
from tests.helpers.kafka_server import KafkaServer
from workers import codec
from workers.sources import kafka_client, kafka_letters
from workers.sources.desk import Depth, Letter
from workers.sources.kafka_desk import Interest, KafkaDesk
from workers.sources.kafka_letters import Origin, Record
from workers.sources.source import Burial, Delivery, SourceTrouble

GROUP = "desk"


class Shop:
    """A topic of its own with four partitions, its dead letters, and a desk that looks at both."""

    def __init__(self, server: KafkaServer, state_dir: Path) -> None:
        self.server = server
        self.topic = f"orders-{uuid.uuid4().hex}"
        with server.admin() as admin:
            admin.create_topics({self.topic: {"num_partitions": 4}}, wait_for_metadata=True)
        self.settings = kafka_client.settings_of([server.brokers], {}, 30)
        self.interest = Interest(
            GROUP, False, (self.topic,), (self.topic,), state_dir, wrong=_wrong
        )
        self.desk = KafkaDesk(self.settings, self.interest)

    def publish(self, *messages: object, **more: str) -> None:
        self.desk.publish(
            self.topic,
            [
                codec.encode(self.topic, data, message_id=f"m{number}", **more)
                for number, data in enumerate(messages)
            ],
            0,
        )

    def records(self, count: int) -> list[tuple[int, Record]]:
        """Read so many records of the topic, as any other program would, with their partitions."""
        found: list[tuple[int, Record]] = []
        with closing(KafkaConsumer(bootstrap_servers=self.server.brokers)) as consumer:
            places = [TopicPartition(self.topic, number) for number in range(4)]
            consumer.assign(places)
            consumer.seek_to_beginning(*places)
            until = time.monotonic() + 30
            while len(found) < count and time.monotonic() < until:
                for some in consumer.poll(timeout_ms=200).values():
                    found += [
                        (one.partition, Record(one.key, one.value, one.headers)) for one in some
                    ]
        return found

    def commit(self, partition: int, offset: int) -> None:
        """Let the group have done all before an offset."""
        place = TopicPartition(self.topic, partition)
        with self.server.admin() as admin:
            admin.alter_group_offsets(GROUP, {place: OffsetAndMetadata(offset, "", -1)})

    def bury(self, *numbers: int, group: str = GROUP) -> None:
        """Write dead letters as a consumer would."""
        producer = kafka_client.producer(self.settings)
        for number in numbers:
            delivery = Delivery(number, self.topic, b"", attempts=4, failures=4)
            burial = Burial(delivery, self.topic, f"id-{number}", f"error {number}", "tb", "o:0")
            value = codec.encode(self.topic, number, message_id=f"id-{number}")
            was = Record(b"k%d" % number, value, [("trace", b"abc")])
            letter = kafka_letters.record_of(
                burial, was, Origin(self.topic, 2, number), group=group
            )
            producer.send(
                kafka_letters.dead_topic(self.topic),
                value=letter.value,
                key=letter.key,
                headers=list(letter.headers),
                partition=0,
            ).get(30)

    def letters(self, message_id: str | None = None) -> list[Letter]:
        return list(self.desk.walk(self.topic, message_id))

    def depth(self) -> Depth:
        [found] = self.desk.depths()
        return found


def _wrong(key: str, words: str) -> Exception:
    return LookupError(f"{key}: {words}")


@pytest.fixture(scope="module", autouse=True)
def _producers() -> Iterator[None]:
    """End those of this process, before somebody looks for what was left behind."""
    yield
    kafka_client.close_producers()


@pytest.fixture
def shop(kafka_server: KafkaServer, tmp_path: Path) -> Iterator[Shop]:
    """Give a topic, and a desk."""
    made = Shop(kafka_server, tmp_path)
    with closing(made.desk):
        yield made
    kafka_client.close_producers()


def test_what_is_published_has_its_key_and_headers_beside_it_too(shop: Shop) -> None:
    shop.publish({"n": 1}, {"n": 2}, key="ä", headers={"trace": "abc"})  # type: ignore[arg-type]
    shop.publish("alone")
    found = shop.records(3)
    with_key = [(partition, one) for partition, one in found if one.key is not None]
    assert len(with_key) == 2
    assert len({partition for partition, _ in with_key}) == 1, "one key, one partition"
    for _, one in with_key:
        assert (one.key, list(one.headers)) == ("ä".encode(), [("trace", b"abc")])
    message = codec.decode(shop.topic, with_key[0][1].value or b"", fallback_id="-", attempt=1)
    assert (message.id, message.data, message.key) == ("m0", {"n": 1}, "ä")
    [alone] = [one for _, one in found if one.key is None]
    assert list(alone.headers) == []


def test_there_is_no_delayed_message_and_too_large_a_one_says_so(shop: Shop) -> None:
    with pytest.raises(UsageError, match="which has no delayed messages"):
        shop.desk.publish(shop.topic, [b"{}"], 1.0)
    with pytest.raises(SourceTrouble, match=r"1200\d+ bytes .* max_request_size"):
        shop.publish("x" * 1_200_000)
    assert shop.depth().depth == 0


def test_the_depth_is_what_the_group_is_behind_by_partitions(shop: Shop) -> None:
    shop.publish(*range(5), key="one")
    [partition] = {partition for partition, _ in shop.records(5)}
    assert shop.depth().depth == 5
    shop.commit(partition, 3)
    found = shop.depth()
    assert (found.depth, found.dead, found.in_flight, found.paused) == (2, 0, 0, False)
    assert found.parts == {str(one): 2 * (one == partition) for one in range(4)}
    assert found.oldest_age_s is not None
    shop.commit(partition, 5)
    assert (shop.depth().depth, shop.depth().oldest_age_s) == (0, None)


def test_a_new_group_that_begins_at_the_end_has_nothing_to_do(shop: Shop) -> None:
    shop.publish(1, 2)
    interest = Interest("nobody", True, (shop.topic,), (shop.topic,))
    with closing(KafkaDesk(shop.settings, interest)) as desk:
        [found] = desk.depths()
    assert found.depth == 0


def test_a_purge_deletes_what_is_there(shop: Shop) -> None:
    shop.publish(*range(7))
    assert shop.desk.purge(shop.topic) == 7
    assert shop.depth().depth == 0
    assert shop.desk.purge(shop.topic) == 0
    shop.publish("later")
    assert shop.depth().depth == 1


def test_a_pause_lies_in_the_folder_of_the_supervisor(shop: Shop, tmp_path: Path) -> None:
    shop.desk.pause(shop.topic)
    shop.desk.pause(shop.topic)
    assert shop.depth().paused
    assert (tmp_path / "paused" / shop.topic).exists()
    shop.desk.resume(shop.topic)
    shop.desk.resume(shop.topic)
    assert not shop.depth().paused


def test_dead_letters_are_met_the_newest_first(shop: Shop) -> None:
    assert shop.letters() == []
    shop.bury(*range(3))
    found = shop.letters()
    assert [letter.id for letter in found] == ["id-2", "id-1", "id-0"]
    assert found[0].topic == shop.topic
    assert (found[0].error, found[0].attempts, found[0].traceback) == ("error 2", 4, "tb")
    assert [letter.id for letter in shop.letters("id-1")] == ["id-1"]
    assert shop.depth().dead == 3


def test_a_letter_under_another_name_is_found_by_its_topic(shop: Shop) -> None:
    shop.bury(1)
    interest = Interest(GROUP, False, ("elsewhere",), (shop.topic,))
    with closing(KafkaDesk(shop.settings, interest)) as desk:
        assert [letter.id for letter in desk.walk(shop.topic)] == ["id-1"]
        assert list(desk.walk("elsewhere")) == []


def test_each_group_has_its_own_letters_of_a_topic(shop: Shop) -> None:
    shop.bury(1)
    shop.bury(2, group="another")
    shop.bury(3, group="")  # of somebody else's program
    assert [letter.id for letter in shop.letters()] == ["id-3", "id-1"]
    assert shop.depth().dead == 2
    assert shop.desk.forget([letter.number for letter in shop.letters()]) == 2
    interest = Interest("another", False, (shop.topic,), (shop.topic,))
    with closing(KafkaDesk(shop.settings, interest)) as desk:
        assert [letter.id for letter in desk.walk(shop.topic)] == ["id-2"]


def test_a_replay_puts_back_what_was_sent_and_the_rest_stays(shop: Shop) -> None:
    shop.bury(*range(4))
    chosen = [letter.number for letter in shop.letters() if letter.id in ("id-1", "id-3")]
    assert shop.desk.replay(chosen) == 2
    assert [letter.id for letter in shop.letters()] == ["id-2", "id-0"]
    assert shop.depth().dead == 2
    back = sorted((one for _, one in shop.records(2)), key=lambda one: one.key or b"")
    assert [one.key for one in back] == [b"k1", b"k3"]
    for number, one in zip((1, 3), back, strict=True):
        names = dict(one.headers)
        assert names["trace"] == b"abc"
        assert names["replayed-from"].startswith(f"{shop.topic}.dead-0-".encode())
        assert not [name for name in names if name.startswith("dead-")]
        message = codec.decode(shop.topic, one.value or b"", fallback_id="-", attempt=1)
        assert (message.id, message.data) == (f"id-{number}", number)
    # What was put back lies there no more.
    assert shop.desk.replay(chosen) == 0


def test_the_topic_of_dead_letters_is_made_once_and_forgets_nothing(shop: Shop) -> None:
    topic = kafka_letters.dead_topic(shop.topic)
    for _ in range(2):
        kafka_client.ensure_dead(shop.settings, topic)
    resource = ConfigResource(ConfigResourceType.TOPIC, topic)
    with shop.server.admin() as admin:
        [found] = admin.describe_topics([topic])
        told = admin.describe_configs([resource])
    assert len(found["partitions"]) == 1
    assert "'retention.ms': {'value': '-1'" in str(told)


def test_forgotten_letters_are_gone_and_so_are_their_records(shop: Shop) -> None:
    shop.bury(*range(600))  # more than a page
    numbers = [letter.number for letter in shop.letters()]
    assert len(numbers) == 600
    assert shop.desk.forget(numbers[1:]) == 599
    assert [letter.number for letter in shop.letters()] == numbers[:1]
    assert shop.desk.forget(numbers) == 1
    shop.bury(7)
    assert [letter.id for letter in shop.letters()] == ["id-7"]
    place = TopicPartition(f"{shop.topic}.dead", 0)
    with shop.server.admin() as admin:
        first = admin.list_partition_offsets({place: -2})[place].offset
    assert first >= 600, "nothing of them is kept"


@contextmanager
def looking(shop: Shop, **more: object) -> Iterator[KafkaDesk]:
    settings = {**shop.settings, **more}
    with closing(KafkaDesk(settings, shop.interest)) as desk:
        yield desk


def test_a_look_finds_what_is_not_there(shop: Shop) -> None:
    assert shop.desk.look() == ()
    interest = Interest(GROUP, False, (shop.topic, "no.such"), (), wrong=_wrong)
    with (
        closing(KafkaDesk(shop.settings, interest)) as desk,
        pytest.raises(LookupError, match=r"^topics: .* has no topic no\.such; create it$"),
    ):
        desk.look()
    with (
        looking(shop, bootstrap_servers=["127.0.0.1:1"]) as desk,
        pytest.raises(SourceTrouble, match=r"^127\.0\.0\.1:1: Connection refused$"),
    ):
        desk.look()

"""What kafka-python is told, what is made of its errors, and what a dead letter looks like."""

from __future__ import annotations

import socket
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from kafka import KafkaAdminClient, KafkaConsumer, KafkaProducer
from kafka.errors import KafkaConnectionError, TopicAuthorizationFailedError

from workers import codec
from workers.sources import kafka_client, kafka_letters
from workers.sources.kafka_books import Spot
from workers.sources.kafka_client import RefusedError, WrongSettingError
from workers.sources.kafka_letters import Level, Origin, Record
from workers.sources.kafka_records import RecordEnvelope
from workers.sources.source import Burial, Delivery, SourceTrouble


def test_settings_become_what_their_defaults_are() -> None:
    words = {
        "session_timeout_ms": " 6000 ",
        "check_crcs": "False",
        "security_protocol": "SASL_SSL",
        "sasl_plain_password": "12345",
        "receive_buffer_bytes": "65536",
        "api_version": "2.3",
    }
    settings = kafka_client.settings_of(["a:1", "b:2"], words, 2.5)
    assert settings == {
        "bootstrap_servers": ["a:1", "b:2"],
        "bootstrap_timeout_ms": 2500,
        "request_timeout_ms": 2500,
        "fetch_max_wait_ms": 500,
        "reconnect_backoff_max_ms": 1000,
        "session_timeout_ms": 6000,
        "check_crcs": False,
        "security_protocol": "SASL_SSL",
        "sasl_plain_password": "12345",
        "receive_buffer_bytes": 65536,
        "api_version": (2, 3),
    }


@pytest.mark.parametrize(
    ("key", "text", "words"),
    [
        ("sesion_timeout_ms", "1", "no setting of kafka-python"),
        ("session_timeout_ms", "ten", "write a number"),
        ("check_crcs", "yes", "write true or false"),
        ("security_protocol", "TLS", "write PLAINTEXT, SSL"),
        ("partitioner", "mine", "an object of Python's"),
        ("group_id", "mine", "leave it out"),
        ("value_deserializer", "json", "leave it out"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_by_its_name(key: str, text: str, words: str) -> None:
    with pytest.raises(WrongSettingError, match=words) as raised:
        kafka_client.settings_of(["a:1"], {key: text}, 5)
    assert raised.value.key == key


@pytest.mark.parametrize("kind", [KafkaAdminClient, KafkaProducer, KafkaConsumer])
def test_a_broker_that_is_not_there_is_said_at_once(kind: type[KafkaAdminClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    settings = kafka_client.settings_of([f"127.0.0.1:{port}"], {}, 600)
    with pytest.raises(SourceTrouble, match=f"^127.0.0.1:{port}: Connection refused$"):
        kafka_client.opened(kind, settings)


@pytest.mark.parametrize("kind", [KafkaAdminClient, KafkaProducer, KafkaConsumer])
def test_who_listens_and_says_nothing_leaves_no_thread_behind(kind: type[KafkaAdminClient]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        broker = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(SourceTrouble, match=f"^{broker}: "):
            kafka_client.opened(kind, kafka_client.settings_of([broker], {}, 0.3))


def test_errors_are_one_line_and_a_refusal_is_told_apart() -> None:
    lost = kafka_client.trouble_of(KafkaConnectionError("111 ECONNREFUSED"), ["a:1", "b:2"])
    assert str(lost) == "a:1,b:2: Connection refused"
    assert not isinstance(lost, RefusedError)
    refused = kafka_client.trouble_of(TopicAuthorizationFailedError("orders"), ["a:1"])
    assert isinstance(refused, RefusedError)
    assert str(refused) == "a:1: orders"


def test_a_letter_keeps_the_message_and_says_why() -> None:
    delivery = Delivery(7, "orders", b"\xff raw", attempts=4, failures=3, crashes=1)
    burial = Burial(delivery, "orders", "o-1", "ValueError: ä", "Traceback", "jobs/orders:0/1")
    was = Record(b"k", b"\xff raw", [("trace", b"abc"), ("dead-id", b"of an earlier death")])
    sent = kafka_letters.record_of(burial, was, Origin("or-ders", 3, 17))
    assert (sent.key, sent.value) == (b"k", b"\xff raw")
    letter = kafka_letters.letter_of(sent, Origin("orders.dead", 0, 5), at=1.0)
    assert (letter.queue, letter.topic, letter.id) == ("orders", "orders", "o-1")
    assert (letter.body, letter.error, letter.traceback) == (
        b"\xff raw",
        "ValueError: ä",
        "Traceback",
    )
    assert (letter.attempts, letter.failures, letter.crashes) == (4, 3, 1)
    assert letter.origin == "jobs/orders:0/1"
    assert letter.at > 1.0
    assert letter.envelope is not None
    assert (letter.envelope.key, letter.envelope.headers) == ("k", {"trace": "abc"})
    assert ("dead-origin", b"or-ders-3-17") in sent.headers
    again = kafka_letters.replayed(sent, Origin("orders.dead", 0, 5))
    assert again.headers == [("trace", b"abc"), ("replayed-from", b"orders.dead-0-5")]
    assert kafka_letters.replayed(again, Origin("orders.dead", 0, 9)).headers[-1][1].endswith(b"-9")


def test_a_letter_that_is_too_large_leaves_out_its_history_first() -> None:
    burial = Burial(Delivery(7, "orders", b"x"), "orders", "o-1", "e" * 5000, "t" * 9000, "me")
    sizes = [
        sum(len(value) for _, value in record.headers)
        for level in (Level.WHOLE, Level.NO_TRACEBACK, Level.LEAST)
        for record in [
            kafka_letters.record_of(burial, Record(None, b"x"), Origin("o", 0, 1), level)
        ]
    ]
    assert 9000 < sizes[0] < 10000
    assert 1000 < sizes[1] < 1300
    assert sizes[2] < 300


def test_what_somebody_else_puts_there_is_a_letter_too() -> None:
    place = Origin("orders.dead", 2, 9)
    letter = kafka_letters.letter_of(Record(None, None), place, at=5.0)
    assert (letter.id, letter.topic, letter.body) == ("orders.dead-2-9", "orders", b"")
    assert letter.at == 5.0
    odd = Record(None, b"x", [("dead-attempts", b"many"), ("dead-at", b"-")])
    assert kafka_letters.letter_of(odd, place, at=5.0).attempts == 0
    for name, word in (("at", b"nan"), ("at", b"1e300"), ("attempts", b"9" * 5000)):
        wild = kafka_letters.letter_of(Record(None, b"", [(f"dead-{name}", word)]), place, at=5.0)
        assert (wild.at, wild.attempts) == (5.0, 0)
    wrong = Record(None, b"", [("dead-settled", b"9" * 5000 + b",x,3")])
    assert kafka_letters.settled_by(wrong) == {3}
    empty = Record(None, b"x", [(f"dead-{name}", None) for name in ("error", "group", "settled")])
    assert kafka_letters.letter_of(empty, place, at=5.0).error == ""
    assert kafka_letters.is_of_group(empty, "any")
    assert kafka_letters.settled_by(empty) == frozenset()


@pytest.mark.parametrize(
    ("timestamp", "moment"),
    [
        (1_700_000_000_123, datetime(2023, 11, 14, 22, 13, 20, 123000, UTC)),
        (-1, None),
        (1_700_000_000_123_456_789, None),  # somebody's nanoseconds
    ],
)
def test_the_time_of_a_record_is_one_of_the_calendar_or_none(
    timestamp: int, moment: datetime | None
) -> None:
    record = SimpleNamespace(
        topic="a", partition=0, offset=1, key=None, headers=[], timestamp=timestamp
    )
    envelope = RecordEnvelope(record, Spot("a", 0))
    message = codec.message_of(Delivery(1, "a", b"theirs", envelope=envelope))
    assert (message.id, message.published_at) == ("a-0-1", moment)


def test_a_mark_names_the_letters_that_it_settles() -> None:
    assert kafka_letters.settled_by(kafka_letters.mark([3, 1])) == {1, 3}
    assert kafka_letters.settled_by(Record(b"k", b"v", [("other", b"3")])) is None

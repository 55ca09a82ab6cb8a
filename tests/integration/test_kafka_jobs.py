"""A supervisor whose messages are in Kafka: used, looked at, and met when it is not well."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing

import pytest
from kafka import KafkaProducer

from tests.conftest import Supervise
from tests.helpers.driver import REPOSITORY, Line, Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.kafka_server import KafkaServer
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section
from tests.integration.test_examples import shipped

HANDLERS = """
import threading
from ledger import is_open, note
from workers import Reject, publish

def handle(message, context):
    note("begin", message.id, message.key, message.headers.get("trace"))
    if message.data == "bad" and not is_open("mended"):
        raise Reject("it is bad")
    if message.data == "slow" and not is_open("gate"):
        while not context.stopping and not is_open("gate"):
            threading.Event().wait(0.01)
        threading.Event().wait(0.2)
    note("end", message.id)

def run(context):
    note("works")
    context.wait(1e6)

def publishes(context):
    publish("orders-TOPIC", 1, id="from-a-job", key="k", headers={"trace": "abc"})
    context.wait(1e6)
"""

OTHER = section("other", target="shop:run")


@pytest.fixture
def topic(kafka_server: KafkaServer) -> str:
    """Give a topic of its own with four partitions."""
    name = f"orders-{uuid.uuid4().hex}"
    with kafka_server.admin() as admin:
        admin.create_topics({name: {"num_partitions": 4}}, wait_for_metadata=True)
    return name


def modules(topic: str) -> dict[str, str]:
    return {"shop": HANDLERS.replace("orders-TOPIC", topic), "ledger": SOURCE}


def orders(server: KafkaServer, topic: str, **more: object) -> str:
    keys = {
        "type": "kafka",
        "brokers": server.brokers,
        "topics": topic,
        "group": f"group-{topic}",
        "handler": "shop:handle",
        "io_timeout": 30,
    }
    return section("orders", **(keys | more)).replace("client_", "client.")


def row(supervisor: Supervisor) -> Line:
    [found] = supervisor.json("queue", "list")
    return dict(found)


# --- messages ------------------------------------------------------------------------------------


def test_messages_of_ours_and_of_others_are_handled(
    supervise: Supervise, kafka_server: KafkaServer, topic: str
) -> None:
    jobs = orders(kafka_server, topic) + section("publishes", target="shop:publishes")
    supervisor = supervise(jobs, modules(topic))
    ledger = Ledger(supervisor)
    ledger.wait("begin", "from-a-job", "k", "abc")
    assert supervisor.cli("publish", topic, "2", "--id", "by-hand").returncode == 0
    ledger.wait("begin", "by-hand", "None", "None")
    with closing(KafkaProducer(bootstrap_servers=kafka_server.brokers)) as producer:
        sent = producer.send(
            topic, b"no json", key=b"theirs", headers=[("trace", b"xyz")], partition=3
        ).get(PATIENCE_S)
    ledger.wait("end", f"{topic}-3-{sent.offset}")
    assert ["begin", f"{topic}-3-{sent.offset}", "theirs", "xyz"] in [
        line[:4] for line in ledger.lines()
    ]
    eventually(lambda: supervisor.left() == (0, 0))
    late = supervisor.cli("publish", topic, "2", "--delay", "1s")
    assert late.returncode == 2
    assert "has no delayed messages" in late.stderr
    url = f"kafka://{kafka_server.brokers}"
    assert supervisor.cli("publish", topic, "3", "--id", "by-url", "--url", url).returncode == 0
    ledger.wait("end", "by-url")


def test_a_pause_holds_until_the_topic_is_resumed(
    supervise: Supervise, kafka_server: KafkaServer, topic: str
) -> None:
    supervisor = supervise(orders(kafka_server, topic), modules(topic), start=False)
    assert supervisor.cli("queue", "pause", topic).returncode == 0
    supervisor.start()
    supervisor.publish(topic, 5)
    found = row(supervisor)
    assert (found["depth"], found["paused"], found["group"]) == (5, True, f"group-{topic}")
    assert sum(found["partitions"].values()) == 5
    assert found["url"] == f"kafka://{kafka_server.brokers}"
    assert Ledger(supervisor).lines() == []
    assert supervisor.cli("queue", "resume", topic).returncode == 0
    eventually(lambda: supervisor.left() == (0, 0))
    assert len(Ledger(supervisor).counts("end")) == 5


def test_dead_letters_are_shown_put_back_and_deleted(
    supervise: Supervise, kafka_server: KafkaServer, topic: str
) -> None:
    supervisor = supervise(orders(kafka_server, topic), modules(topic))
    for name in ("one", "two"):
        assert supervisor.cli("publish", topic, '"bad"', "--id", name).returncode == 0
    eventually(lambda: supervisor.left() == (0, 2))
    letters = supervisor.json("dead", "list", topic)
    assert {letter["id"] for letter in letters} == {"one", "two"}
    shown = supervisor.json("dead", "show", topic, "--id", "one")
    assert (shown["error"], shown["data"], shown["attempts"]) == ("it is bad", "bad", 1)
    assert "orders:0" in shown["origin"]
    Ledger(supervisor).open("mended")
    assert supervisor.json("dead", "replay", topic, "--id", "one")["replayed"] == 1
    Ledger(supervisor).wait("end", "one")
    assert supervisor.json("dead", "purge", topic, "--yes")["purged"] == 1
    eventually(lambda: supervisor.left() == (0, 0))


def test_a_drain_in_the_middle_of_a_thousand_slow_messages(
    supervise: Supervise, kafka_server: KafkaServer, topic: str
) -> None:
    supervisor = supervise(
        orders(kafka_server, topic, order="none", concurrency=8), modules(topic), start=False
    )
    supervisor.cli("publish", topic, stdin='"slow"\n' * 1000)
    supervisor.start()
    ledger = Ledger(supervisor)
    eventually(lambda: len(ledger.counts("begin")) >= 8)
    assert supervisor.stop() == 0
    begun, ended = ledger.counts("begin"), ledger.counts("end")
    assert begun == ended, "what was begun was finished"
    assert set(ended.values()) == {1}
    # The rest is there for others; what was finished is not done by them again.
    ledger.open("gate")
    supervisor.start()
    eventually(lambda: len(ledger.counts("end")) == 1000)
    eventually(lambda: supervisor.left() == (0, 0))
    assert supervisor.stop() == 0
    # Of those that ended beyond one that was never begun, none could be committed.
    again = [one for one, times in ledger.counts("end").items() if times > 1]
    assert set(again) <= set(ended)


# --- what is not as it should be -----------------------------------------------------------------


def test_check_says_what_is_wrong_and_whose_line_it_is(
    supervise: Supervise, kafka_server: KafkaServer, topic: str
) -> None:
    supervisor = supervise(orders(kafka_server, topic), modules(topic), start=False)
    assert supervisor.cli("check").returncode == 0
    supervisor.configure(orders(kafka_server, f"{topic}, no.such"))
    ended = supervisor.cli("check")
    assert ended.returncode == 78
    assert "topics: " in ended.stderr
    assert "has no topic no.such; create it" in ended.stderr
    supervisor.configure(orders(kafka_server, topic, client_sesion_timeout_ms=1))
    ended = supervisor.cli("check")
    assert ended.returncode == 78
    assert "client.sesion_timeout_ms: is no setting of kafka-python" in ended.stderr
    supervisor.configure(orders(kafka_server, topic, brokers="127.0.0.1:1"))
    ended = supervisor.cli("check")
    assert ended.returncode == 69
    assert "127.0.0.1:1: Connection refused" in ended.stderr
    ended = supervisor.cli("publish", topic, "1")
    assert ended.returncode == 69
    assert "127.0.0.1:1: Connection refused" in ended.stderr


def test_other_jobs_work_while_a_broker_or_a_topic_is_not_there(
    supervise: Supervise, kafka_server: KafkaServer, topic: str
) -> None:
    nowhere = orders(kafka_server, topic, brokers="127.0.0.1:1", required=False)
    nothing = orders(kafka_server, "no.such", required=False).replace("orders]", "nothing]")
    supervisor = supervise(nowhere + nothing + OTHER, modules(topic))
    Ledger(supervisor).wait("works")
    supervisor.wait_line(lambda line: "127.0.0.1:1: Connection refused" in line["message"])
    supervisor.wait_line(lambda line: "no.such" in line["message"] and line["job"] == "nothing")
    for name in ("orders:0", "nothing:0"):
        supervisor.wait_process(
            name, lambda found: found["state"] == "RUNNING" and not found["ready"]
        )


def test_two_consumers_with_groups_of_their_own(
    supervise: Supervise, kafka_server: KafkaServer
) -> None:
    with kafka_server.admin() as admin:
        admin.create_topics(["user-events", "order-events"], wait_for_metadata=True)
    brokers = {"KAFKA_BROKERS": kafka_server.brokers}
    supervisor = shipped(supervise, "examples/events.ini", "events", **brokers)
    supervisor.write("examples/events.py", (REPOSITORY / "examples/events.py").read_text())
    assert supervisor.cli("check").returncode == 0
    for topic, message in (
        ("user-events", '{"user_id": 7, "event": "registered"}'),
        ("user-events", '{"user_id": 8, "event": "looked"}'),
        ("order-events", '{"order_id": 1, "user_id": 7, "status": "paid"}'),
        ("order-events", '{"order_id": 2}'),
    ):
        assert supervisor.cli("publish", topic, message).returncode == 0
    supervisor.start()
    eventually(lambda: supervisor.left() == (0, 1))
    [letter] = supervisor.json("dead", "list", "order-events")
    assert letter["error"] == "order-events needs user_id, status"
    path = supervisor.folder / "examples" / "var" / "events.db"
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("SELECT * FROM users").fetchall() == [("7", 1)]
        assert database.execute("SELECT * FROM orders").fetchall() == [("1", "7", "paid")]
    groups = {row["topic"]: row["group"] for row in supervisor.json("queue", "list")}
    assert groups["user-events"] == "user-event-consumer-group"
    assert groups["order-events"] == "order-event-consumer-group"

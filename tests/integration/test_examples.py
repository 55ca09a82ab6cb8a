"""The shipped configurations, run as a reader of them would."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.conftest import Supervise
from tests.helpers.driver import REPOSITORY, Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.redis_server import RedisServer


def shipped(supervise: Supervise, path: str, name: str, **environment: str) -> Supervisor:
    """Give a supervisor with a copy of a file, in folders of its own; it is not started."""
    supervisor = supervise("", start=False, environment=environment)
    head = f"name = test\nrun_dir = {supervisor.run_dir}\nstate_dir = {supervisor.state_dir}\n"
    text = (REPOSITORY / path).read_text().replace(f"name = {name}\n", f"{head}log_format = json\n")
    assert head in text
    supervisor.conf = supervisor.write(path, text)
    return supervisor


def test_the_table_of_the_ants(supervise: Supervise) -> None:
    supervisor = shipped(supervise, "etc/workers.ini", "workers")
    assert supervisor.cli("check").returncode == 0
    supervisor.start()
    path = supervisor.folder / "var/lib/workers/gateway.db"
    with closing(sqlite3.connect(path, timeout=PATIENCE_S)) as database, database:
        database.executemany(
            "INSERT INTO ants (user_id, text) VALUES (?, ?)", [("67890", "hello"), ("67890", None)]
        )

    def states() -> list[tuple[str]]:
        with closing(sqlite3.connect(path, timeout=PATIENCE_S)) as database:
            return database.execute("SELECT status FROM ants ORDER BY id").fetchall()

    eventually(lambda: states() == [("done",), ("failed",)])
    with closing(sqlite3.connect(path, timeout=PATIENCE_S)) as database:
        sent = database.execute("SELECT message_id, user_id, text FROM sent").fetchall()
    assert sent == [("ant-1", "67890", "hello")]
    [letter] = supervisor.json("dead", "list", "ants")
    assert (letter["id"], letter["error"]) == ("2", "ants needs text")


def test_the_gateway_of_five_topics_on_a_redis(
    supervise: Supervise, redis_server: RedisServer
) -> None:
    redis_server.empty()
    port = str(redis_server.port)
    supervisor = shipped(supervise, "etc/gateway-worker.ini", "gateway-worker", REDIS_PORT=port)
    assert supervisor.cli("check").returncode == 0
    supervisor.start()
    messages = {
        "order.reminder": {"order_id": "12345", "user_id": "67890", "amount": 299.99},
        "user.notification": {"user_id": 67890, "title": "hello"},
        "inventory.alert": {"product_id": "tea", "stock": 3},
        "payment.retry": {"order_id": "12345", "user_id": "67890", "amount": 299.99},
        "system.cleanup": {},
    }
    with redis_server.client() as client:
        for topic, message in messages.items():
            client.lpush(f"mq:{topic}", json.dumps(message))
    # The account is empty: the payment waits for its minute, and all else is done.
    supervisor.wait_line("cleanup done")
    depths = {"depth": 0, "in_flight": 0, "dead": 0}

    def settled() -> bool:
        rows = supervisor.json("queue", "list")
        delayed = {row["topic"] for row in rows if row["delayed"]}
        return delayed == {"payment.retry"} and all(
            row[key] == value for row in rows for key, value in depths.items()
        )

    eventually(settled)
    path = supervisor.folder / "var" / "lib" / "gateway-worker" / "gateway.db"
    with closing(sqlite3.connect(path)) as database:
        kinds = database.execute("SELECT kind FROM sent ORDER BY kind").fetchall()
    assert kinds == [("inventory",), ("notification",), ("reminder",)]
    assert supervisor.stop() == 0


def test_topics_of_ones_own(supervise: Supervise) -> None:
    supervisor = shipped(supervise, "examples/topics.ini", "topics")
    supervisor.write("examples/topics.py", (REPOSITORY / "examples" / "topics.py").read_text())
    folder = supervisor.folder / "examples" / "var"
    supervisor.write("examples/var/files/a.txt", "text")
    supervisor.write("examples/var/data/here/b.txt", "more text")
    assert supervisor.cli("check").returncode == 0
    supervisor.start()
    messages: dict[str, dict[str, str]] = {
        "email.send": {"to": "ada@example.org", "subject": "Hi", "content": "There."},
        "sms.send": {"phone": "+4912345", "content": "Hi"},
        "push.notification": {"user_id": "7", "title": "Hi", "body": "There."},
        "file.process": {"file_id": "a.txt", "process_type": "gzip"},
        "data.sync": {"sync_type": "full", "source": "here", "target": "there"},
    }
    for topic, data in messages.items():
        done = supervisor.cli("publish", topic, json.dumps(data), "--id", "one")
        assert done.returncode == 0, done.stderr
    wanted = {
        *(Path("outbox") / "one.eml", Path("sms") / "one.json", Path("push") / "one.json"),
        *(Path("files") / "a.txt.gz", Path("data") / "there" / "b.txt"),
    }
    eventually(lambda: wanted <= {path.relative_to(folder) for path in folder.rglob("*")})
    supervisor.cli("publish", "file.process", '{"file_id": "../x", "process_type": "gzip"}')
    eventually(lambda: supervisor.left() == (0, 1))
    assert supervisor.stop() == 0


def test_a_file_in_parts(supervise: Supervise) -> None:
    supervisor = shipped(supervise, "examples/imports.ini", "imports")
    supervisor.write("examples/imports.py", (REPOSITORY / "examples" / "imports.py").read_text())
    folder = supervisor.folder / "examples" / "var"
    rows = [f"row {number},{number}" for number in range(1, 2001)]
    supervisor.write("examples/var/orders.csv", "\n".join(["name,amount", *rows]))
    assert supervisor.cli("check").returncode == 0
    supervisor.start()
    for _ in range(2):  # as if who splits it had been killed half way
        done = supervisor.cli("publish", "import.start", '{"file": "orders.csv"}')
        assert done.returncode == 0, done.stderr
    written = folder / "orders.csv.report"
    wanted = "2000 rows, 2001000.00 in all\n"
    eventually(lambda: written.exists() and written.read_text() == wanted)
    eventually(lambda: supervisor.left() == (0, 0))
    whole = {"done": 2000, "total": 2000}
    assert whole in [found["progress"] for found in supervisor.status()["processes"]]
    assert supervisor.stop() == 0

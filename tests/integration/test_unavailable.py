"""A system behind a consumer that is down, as an operator meets it: running, and not ready."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from tests.conftest import Supervise
from tests.helpers.ledger import SOURCE
from tests.helpers.redis_server import RedisServer
from tests.helpers.sections import section

SHOP = """
from ledger import is_open, note
from workers import Unavailable

def handle(message, context):
    if not is_open("gate"):
        raise Unavailable("redis://shop:hunter2@db/0")
    note("ended", message.data)
"""


def test_it_is_running_and_not_ready_and_says_why(supervise: Supervise) -> None:
    jobs = section(
        "orders",
        type="queue",
        url="sqlite:///queue.db",
        topics="orders",
        handler="shop:handle",
        retries=0,
        retry_backoff="50ms",
        retry_backoff_max="200ms",
    )
    supervisor = supervise(jobs, {"shop": SHOP, "ledger": SOURCE})
    supervisor.cli("publish", "orders", stdin="1\n2\n3\n")
    row = supervisor.wait_process("orders:0", lambda row: not row["ready"])
    assert row["state"] == "RUNNING"
    assert row["why"] == "not ready: redis://shop:***@db/0 is unavailable"
    assert not supervisor.status()["master"]["ready"]
    assert "not ready: redis://shop:***@db/0 is unavailable" in supervisor.cli("status").stdout
    assert supervisor.cli("status", "--check").returncode == 1
    supervisor.write("gate", "")
    row = supervisor.wait_process("orders:0", lambda row: row["ready"] and row["done"] == 3)
    assert (row["failed"], row["dead"], row["why"]) == (0, 0, "ready")
    assert supervisor.status()["master"]["ready"]
    supervisor.wait_line("available again, it was:")


def test_a_queue_that_is_not_there_is_waited_for_and_named(
    supervise: Supervise, tmp_path: Path
) -> None:
    with closing(RedisServer(tmp_path)) as server:
        common = {"type": "queue", "handler": "shop:handle"}
        jobs = section("orders", url=server.url, topics="orders", **common)
        jobs += section("other", url="sqlite:///q.db", topics="others", **common)
        server.stop()
        supervisor = supervise(jobs, {"shop": SHOP, "ledger": SOURCE}, start=False)
        supervisor.write("gate", "")
        supervisor.start(wait=False)
        supervisor.wait_process("other:0", lambda row: row["ready"])
        wanted = (
            f"not ready: the queue cannot be used: Error 111 connecting to 127.0.0.1:{server.port}"
        )
        row = supervisor.wait_process("orders:0", lambda row: row["why"].startswith(wanted))
        assert row["state"] == "RUNNING"
        server.start()
        row = supervisor.wait_process("orders:0", lambda row: row["ready"])
        server.stop()
        row = supervisor.wait_process("orders:0", lambda row: row["why"].startswith(wanted))
        assert (row["state"], row["ready"], row["restarts"]) == ("RUNNING", False, 0)
        assert not supervisor.status()["master"]["ready"]
        server.start()
        row = supervisor.wait_process("orders:0", lambda row: row["ready"])
        assert (row["why"], row["restarts"]) == ("ready", 0)
        assert supervisor.stop() == 0

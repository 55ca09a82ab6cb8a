"""A consumer that finishes nothing while work waits is running, and not ready."""

from __future__ import annotations

from tests.conftest import Supervise
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

SLOW = """
import threading
from ledger import is_open, note

def handle(message, context):
    note("began", message.id)
    while not is_open("gate"):
        threading.Event().wait(0.01)
    note("ended", message.id)
"""


def test_a_backlog_with_nothing_done_is_not_ready(supervise: Supervise) -> None:
    jobs = section(
        "orders",
        type="queue",
        url="sqlite:///queue.db",
        topics="orders",
        handler="slow:handle",
        concurrency=1,
        queue_size=1,
        progress_timeout="200ms",
    )
    supervisor = supervise(jobs, {"slow": SLOW, "ledger": SOURCE})
    ledger = Ledger(supervisor)
    # More than one process takes for itself in advance, so that some of them wait.
    supervisor.cli("publish", "orders", stdin="1\n2\n3\n4\n")
    ledger.wait("began")
    row = supervisor.wait_process("orders:0", lambda row: not row["ready"])
    assert row["state"] == "RUNNING"
    assert "nothing was done for 0.2s" in row["why"]
    assert supervisor.cli("status", "--check").returncode == 1
    supervisor.write("gate", "open")
    supervisor.wait_process(
        "orders:0", lambda row: row["done"] == 4 and row["backlog"] == 0 and row["ready"]
    )
    assert supervisor.cli("status", "--check").returncode == 0

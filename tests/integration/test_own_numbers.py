"""What handlers count is in `status`, survives a kill, and their calls know their deadline."""

from __future__ import annotations

import os
import signal

from tests.conftest import Supervise
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

HANDLERS = """
from datetime import UTC, datetime, timedelta
from ledger import note

def handle(message, context):
    context.count("orders")
    context.count("items", message.data)
    context.observe("backend", 0.25)
    left = context.deadline - datetime.now(UTC)
    note("left", timedelta(seconds=590) < left <= timedelta(seconds=600))

def work(context):
    assert context.deadline is None
    context.progress(30, 100)
    context.count("rounds")
    note("worked")
    context.stop.wait(3600)
"""

JOBS = section(
    "orders",
    type="queue",
    url="sqlite:///q.db",
    topics="t",
    handler="shop:handle",
    handler_timeout="10m",
    backoff="10ms",
) + section("walk", type="worker", target="shop:work", backoff="10ms")


def test_counters_outlive_the_process_that_counted(supervise: Supervise) -> None:
    supervisor = supervise(JOBS, {"shop": HANDLERS, "ledger": SOURCE})
    ledger = Ledger(supervisor)
    for life in (1, 2):
        assert supervisor.cli("publish", "t", "3").returncode == 0
        row = supervisor.wait_process("orders:0", lambda found, life=life: found["done"] == life)
        assert row["counters"] == {"orders": life, "items": 3 * life}
        assert row["timers"] == {"backend": {"count": life, "sum_s": 0.25 * life}}
        assert row["progress"] is None
        os.kill(row["pid"], signal.SIGKILL)
        ledger.wait("worked", count=life)
        row = supervisor.wait_process(
            "walk:0", lambda found, life=life: found["counters"] == {"rounds": life}
        )
        assert row["progress"] == {"done": 30, "total": 100}
        os.kill(row["pid"], signal.SIGKILL)
    assert {words[1] for words in ledger.lines() if words[0] == "left"} == {"True"}
    supervisor.wait_process("walk:0", lambda found: found["progress"] is not None)
    assert "progress 30 of 100" in supervisor.cli("status").stdout

"""`scale 4 -> 16 -> 2` and a rolling restart under 20,000 messages: none lost, none doubled."""

from __future__ import annotations

import select
import time
from collections import Counter

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

MESSAGES = 20_000

HANDLERS = """
import time
from ledger import note

def handle(message, context):
    time.sleep(0.01)
    note("end", message.id)
"""

ORDERS = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="handlers:handle",
    processes=4,
    concurrency=2,
    directory=".",
    # Who waits for the file behind sixteen others on a busy machine has no error to tell.
    io_timeout="60s",
)


def done(supervisor: Supervisor) -> int:
    return supervisor.read("ledger").count("\n")


def test_scale_up_scale_down_and_a_roll_lose_and_double_nothing(supervise: Supervise) -> None:
    supervisor = supervise(ORDERS, {"ledger": SOURCE, "handlers": HANDLERS}, start=False)
    ids = supervisor.publish("orders", MESSAGES)
    supervisor.start()
    first = supervisor.pids()
    rounds = 0
    patience = time.monotonic() + 180
    while done(supervisor) < MESSAGES or rounds < 3:
        supervisor.call("scale", jobs={"orders": 16})
        assert len(supervisor.pids()) == 16
        supervisor.call("restart", names=["orders"])
        supervisor.call("scale", jobs={"orders": 2})
        assert list(supervisor.pids()) == ["orders:0", "orders:1"]
        supervisor.call("quiet", names=[])
        supervisor.call("resume", names=[])
        supervisor.call("scale", jobs={"orders": 4})
        rounds += 1
        select.select((), (), (), 0.2)
        assert time.monotonic() < patience, f"{done(supervisor)} done in {rounds} rounds"
    eventually(lambda: supervisor.left()[0] == 0)
    last = supervisor.pids()
    assert first.keys() == last.keys()
    assert not set(first.values()) & set(last.values()), "all were begun anew"
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    assert Ledger(supervisor).counts("end") == Counter(ids), "each exactly once"
    assert not [line for line in supervisor.log_lines() if line["level"] == "error"]

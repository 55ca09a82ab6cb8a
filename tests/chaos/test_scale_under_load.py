"""`scale 4 -> 16 -> 2` and a rolling restart under 20,000 messages: none lost, none doubled."""

from __future__ import annotations

import select
import time
from collections import Counter

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.sections import section

MESSAGES = 20_000

HANDLERS = """
import os
import time

class Journal:
    def open(self, context):
        self.fd = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def handle(self, message, context):
        time.sleep(0.01)
        os.write(self.fd, f"{message.id}\\n".encode())
"""

ORDERS = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="handlers:Journal",
    processes=4,
    concurrency=2,
    directory=".",
)


def done(supervisor: Supervisor) -> int:
    return supervisor.read("journal").count("\n")


def names(supervisor: Supervisor) -> list[str]:
    return [row["name"] for row in supervisor.status()["processes"]]


def test_scale_up_scale_down_and_a_roll_lose_and_double_nothing(supervise: Supervise) -> None:
    supervisor = supervise(ORDERS, {"handlers": HANDLERS}, start=False)
    text = "".join(f"{number}\n" for number in range(MESSAGES))
    ids = supervisor.cli("publish", "orders", stdin=text).stdout.split()
    assert len(ids) == MESSAGES
    supervisor.start()
    first = {row["name"]: row["pid"] for row in supervisor.status()["processes"]}
    rounds = 0
    patience = time.monotonic() + 180
    while done(supervisor) < MESSAGES or rounds < 3:
        supervisor.call("scale", jobs={"orders": 16})
        assert len(names(supervisor)) == 16
        supervisor.call("restart", names=["orders"])
        supervisor.call("scale", jobs={"orders": 2})
        assert names(supervisor) == ["orders:0", "orders:1"]
        supervisor.call("quiet", names=[])
        supervisor.call("resume", names=[])
        supervisor.call("scale", jobs={"orders": 4})
        rounds += 1
        select.select((), (), (), 0.2)
        assert time.monotonic() < patience, f"{done(supervisor)} done in {rounds} rounds"
    eventually(lambda: supervisor.json("queue", "list")[0]["in_flight"] == 0)
    last = {row["name"]: row["pid"] for row in supervisor.status()["processes"]}
    assert first.keys() == last.keys()
    assert not set(first.values()) & set(last.values()), "all were begun anew"
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    assert Counter(supervisor.read("journal").split()) == Counter(ids), "each exactly once"
    assert not [line for line in supervisor.log_lines() if line["level"] == "error"]

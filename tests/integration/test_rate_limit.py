"""`rate_limit` of a running supervisor: over all processes, fair, survived by a kill, and no
brake on a stop."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

HANDLERS = """
import time
from ledger import note

def handle(message, context):
    note("call", message.id, time.monotonic())
"""


def jobs(**more: str) -> str:
    keys = {"type": "queue", "url": "sqlite:///q.db", "topics": "t", "handler": "shop:handle"}
    return section("calls", **keys, **more)


def calls(ledger: Ledger) -> list[tuple[float, int]]:
    return sorted((float(words[2]), int(words[3])) for words in ledger.lines())


@pytest.mark.parametrize("batch_of_kills", [0, 3])
def test_all_processes_together_keep_to_the_rate(supervise: Supervise, batch_of_kills: int) -> None:
    supervisor = supervise(
        jobs(rate_limit="50/s", processes="3", backoff="10ms"),
        {"shop": HANDLERS, "ledger": SOURCE},
    )
    ledger = Ledger(supervisor)
    before = time.monotonic()
    supervisor.publish("t", 150)
    for kill in range(batch_of_kills):
        ledger.wait("call", count=20 * (kill + 1))
        pid = supervisor.process(f"calls:{kill}")["pid"]
        os.kill(pid, signal.SIGKILL)
    ledger.wait("call", count=150)
    # What a kill has interrupted counts twice, and others may wait still.
    eventually(lambda: supervisor.left() == (0, 0))
    moments = calls(ledger)
    # A burst of five at first; after that it cannot be faster, however they share it out.
    assert moments[-1][0] - before >= (150 - 5) / 50
    assert len({pid for _, pid in moments}) >= 2, "nobody takes it all"


def test_a_stop_waits_for_no_rate(supervise: Supervise) -> None:
    supervisor = supervise(
        jobs(rate_limit="1/h", processes="2"), {"shop": HANDLERS, "ledger": SOURCE}
    )
    ledger = Ledger(supervisor)
    supervisor.publish("t", 5)
    ledger.wait("call")
    begun = time.monotonic()
    assert supervisor.stop() == 0
    assert time.monotonic() - begun < 20
    assert len(ledger.lines()) == 1
    row = supervisor.json("queue", "list")[0]
    assert (row["depth"], row["in_flight"], row["delayed"]) == (4, 0, 0)

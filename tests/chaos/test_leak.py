"""A consumer that leaks is recycled over and over, and nobody who publishes notices."""

from __future__ import annotations

from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.moves import most_away
from tests.helpers.sections import section

PROCESSES = 3
BATCH = 1_000
TIMES = 2
"""How often each process has to be recycled, at least."""

HANDLERS = """
import os
import time
from ledger import note

LEAK = []

def leak(message, context):
    '''Keep 100 kB of each message.'''
    note("begin", message.id)
    LEAK.append(os.urandom(100_000))
    time.sleep(0.01)
    note("end", message.id)
"""

LEAKS = section(
    "leaks",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="handlers:leak",
    processes=PROCESSES,
    concurrency=4,
    max_memory="96MB",
    directory=".",
    # Nothing may be counted as a failure: one would end the job.
    max_failures=1,
    backoff="10m",
    backoff_max="10m",
)


def test_a_leak_costs_no_message_and_never_two_processes_at_once(supervise: Supervise) -> None:
    supervisor = supervise(LEAKS, {"ledger": SOURCE, "handlers": HANDLERS})
    ledger = Ledger(supervisor)
    ids: list[str] = []

    def feed() -> bool:
        rows = supervisor.status()["processes"]
        if all(row["restarts"] >= TIMES for row in rows):
            return True
        if sum(row["done"] for row in rows) > len(ids) - BATCH:
            ids.extend(supervisor.publish("orders", BATCH))
        return False

    eventually(feed, 180)
    eventually(lambda: supervisor.left()[0] == 0, 120)
    assert supervisor.left() == (0, 0), "none is dead"
    eventually(lambda: all(row["ready"] for row in supervisor.status()["processes"]))
    for row in supervisor.status()["processes"]:
        assert (row["last_exit"]["cause"], row["last_exit"]["code"]) == ("recycled", 0)
        assert row["failures"] == 0
    assert most_away(supervisor, "leaks") == 1
    assert supervisor.stop() == 0
    done = ledger.counts("end")
    assert set(done) == set(ids), "lost, or invented"
    assert ledger.counts("begin") == done, "broken off in the middle"
    assert sum(done.values()) == len(ids), "done twice"

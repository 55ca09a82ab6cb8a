"""The main job, from outside: publish, let a real supervisor work, kill its children with -9."""

from __future__ import annotations

import os
import random
import select
import signal
import time
from contextlib import suppress

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger

MESSAGES = 15_000
TOPICS = ("orders", "mails", "invoices")
EVERY_S = 0.2

JOBS = """
    [daemon:shop]
    type = queue
    url = sqlite:///queue.db
    topics = orders, mails, invoices
    handler = shop:handle
    processes = 3
    # Death by our hand is no fault of the job: it must not end in FATAL.
    max_failures = 1000000
    backoff = 20ms
    backoff_max = 100ms
"""

SHOP = """
    from ledger import note

    def handle(message, context):
        context.wait(0.005)
        note("end", message.id)
"""


def test_nothing_is_lost_and_little_done_twice(supervise: Supervise) -> None:
    shop = supervise(JOBS, {"ledger": SOURCE, "shop": SHOP}, start=False)
    ids = [one for topic in TOPICS for one in shop.publish(topic, MESSAGES // len(TOPICS))]
    shop.start()
    kills = 0
    patience = time.monotonic() + 300
    while _done(shop) < MESSAGES * 0.95 or kills < 3:
        select.select([], [], [], EVERY_S)
        living = [one["pid"] for one in shop.status()["processes"] if one["state"] == "RUNNING"]
        if living:
            with suppress(ProcessLookupError):  # of an earlier kill, and reaped since we asked
                os.kill(random.choice(living), signal.SIGKILL)
                kills += 1
        assert time.monotonic() < patience, "it does not come to an end"
    eventually(lambda: shop.left()[0] == 0, 60)
    _, dead = shop.left()
    assert shop.stop() == 0
    done = Ledger(shop).counts("end")
    assert set(done) == set(ids), "lost, or invented"
    assert dead == 0
    # Per kill all that a process can have fetched: in a handler, or finished and not yet written.
    assert sum(done.values()) - MESSAGES <= kills * 110


def _done(shop: Supervisor) -> int:
    return sum(process["done"] for process in shop.status()["processes"])

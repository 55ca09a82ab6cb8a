"""The main job, from outside: publish, let a real supervisor work, kill its children with -9."""

from __future__ import annotations

import random
import select
import time

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.fire import kill_one, only_the_killed
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
    chance = random.Random()
    killed: list[int] = []
    patience = time.monotonic() + 300
    while _done(shop) < MESSAGES * 0.95 or len(killed) < 3:
        select.select([], [], [], EVERY_S)
        pid = kill_one(shop, chance, MESSAGES)
        killed += [pid] if pid is not None else []
        assert time.monotonic() < patience, "it does not come to an end"
    eventually(lambda: shop.left()[0] == 0, 60)
    _, dead = shop.left()
    assert shop.stop() == 0
    done = Ledger(shop).counts("end")
    assert set(done) == set(ids), "lost, or invented"
    assert dead == 0
    only_the_killed(shop, killed)


def _done(shop: Supervisor) -> int:
    return sum(process["done"] for process in shop.status()["processes"])

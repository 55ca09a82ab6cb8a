"""The main job, from outside: publish, let a real supervisor work, kill its children with -9."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
from collections import Counter
from contextlib import suppress

from tests.conftest import Supervise
from tests.helpers.eventually import eventually

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
    import os, time
    PATH = os.path.join(os.path.dirname(__file__), "journal")

    def handle(message, context):
        context.wait(0.005)
        fd = os.open(PATH, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.write(fd, f"{message.id}\\n".encode())
        os.close(fd)
"""


def test_nothing_is_lost_and_little_done_twice(supervise: Supervise) -> None:
    shop = supervise(JOBS, {"shop": SHOP}, start=False)
    ids: list[str] = []
    for topic in TOPICS:
        lines = "\n".join(json.dumps({"n": number}) for number in range(MESSAGES // len(TOPICS)))
        ids += shop.cli("publish", topic, stdin=lines).stdout.split()
    assert len(set(ids)) == MESSAGES, "publish gives the id of each message"
    shop.start()
    kills = 0
    patience = time.monotonic() + 300
    while sum(process["done"] for process in shop.status()["processes"]) < MESSAGES * 0.95:
        select.select([], [], [], EVERY_S)
        living = [one["pid"] for one in shop.status()["processes"] if one["state"] == "RUNNING"]
        if living:
            with suppress(ProcessLookupError):  # of an earlier kill, and reaped since we asked
                os.kill(random.choice(living), signal.SIGKILL)
                kills += 1
        assert time.monotonic() < patience, "it does not come to an end"
    eventually(lambda: all(not waiting(row) for row in shop.json("queue", "list")), 60)
    rows = shop.json("queue", "list")
    assert shop.stop() == 0
    done = Counter(shop.read("journal").split())
    assert set(done) == set(ids), "lost, or invented"
    assert sum(row["dead"] for row in rows) == 0
    assert kills >= 3
    # Per kill: in one of ten handlers, or finished by one and not yet written.
    assert sum(done.values()) - MESSAGES <= kills * 20


def waiting(row: dict[str, int]) -> int:
    return row["depth"] + row["delayed"] + row["in_flight"]

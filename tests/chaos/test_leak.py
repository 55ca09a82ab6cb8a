"""A consumer that leaks is recycled over and over, and nobody who publishes notices."""

from __future__ import annotations

from collections import Counter

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.moves import most_away
from tests.helpers.sections import section

PROCESSES = 3
BATCH = 1_000
TIMES = 2
"""How often each process has to be recycled, at least."""

HANDLERS = """
import os
import time

LEAK = []

class Leaks:
    '''Keeps 100 kB of each message, and writes down when it begins and ends.'''

    def open(self, context):
        self.fd = os.open("journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def handle(self, message, context):
        self.note("begin", message.id)
        LEAK.append(os.urandom(100_000))
        time.sleep(0.01)
        self.note("end", message.id)

    def note(self, word, one):
        os.write(self.fd, f"{word} {one} {os.getpid()}\\n".encode())
"""

LEAKS = section(
    "leaks",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="handlers:Leaks",
    processes=PROCESSES,
    concurrency=4,
    max_memory="96MB",
    directory=".",
    # Nothing may be counted as a failure: one would end the job.
    max_failures=1,
    backoff="10m",
    backoff_max="10m",
)


def publish(supervisor: Supervisor) -> list[str]:
    """Publish one batch; gives the ids."""
    text = "".join(f'{{"n": {number}}}\n' for number in range(BATCH))
    return supervisor.cli("publish", "orders", stdin=text).stdout.split()


def counts(supervisor: Supervisor, word: str) -> Counter[str]:
    lines = [line.split() for line in supervisor.read("journal").splitlines()]
    return Counter(line[1] for line in lines if line[0] == word)


def left(supervisor: Supervisor) -> int:
    (row,) = supervisor.json("queue", "list")
    assert row["dead"] == 0
    return int(row["depth"] + row["delayed"] + row["in_flight"])


def test_a_leak_costs_no_message_and_never_two_processes_at_once(supervise: Supervise) -> None:
    supervisor = supervise(LEAKS, {"handlers": HANDLERS})
    ids: list[str] = []

    def feed() -> bool:
        rows = supervisor.status()["processes"]
        if all(row["restarts"] >= TIMES for row in rows):
            return True
        if sum(row["done"] for row in rows) > len(ids) - BATCH:
            ids.extend(publish(supervisor))
        return False

    eventually(feed, 180)
    eventually(lambda: not left(supervisor), 120)
    eventually(lambda: all(row["ready"] for row in supervisor.status()["processes"]))
    for row in supervisor.status()["processes"]:
        assert (row["last_exit"]["cause"], row["last_exit"]["code"]) == ("recycled", 0)
        assert row["failures"] == 0
    assert most_away(supervisor, "leaks") == 1
    assert supervisor.stop() == 0
    done = counts(supervisor, "end")
    assert set(done) == set(ids), "lost, or invented"
    assert counts(supervisor, "begin") == done, "broken off in the middle"
    assert sum(done.values()) == len(ids), "done twice"

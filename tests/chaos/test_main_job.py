"""The main job under a whole supervisor: 10,000 messages, and a kill -9 every 200 ms."""

from __future__ import annotations

import random
import select
import time
from collections import Counter

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.fire import CONCURRENCY, EVERY_S, MODULES, kill_one, only_the_killed
from tests.helpers.ledger import Ledger, counts
from tests.helpers.sections import section

MESSAGES = 10_000
TOPICS = ("orders", "mails", "invoices", "alerts")
PROCESSES = 3
ORDERS = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics=", ".join(TOPICS),
    handler="handlers:handle",
    processes=PROCESSES,
    concurrency=CONCURRENCY,
    backoff=0,
    max_failures=1_000_000,
    directory=".",
)


def publish(supervisor: Supervisor) -> set[str]:
    """Publish them all; gives their ids."""
    each = MESSAGES // len(TOPICS)
    return {one for topic in TOPICS for one in supervisor.publish(topic, each)}


def test_ten_thousand_messages_survive_kills_of_all_their_processes(supervise: Supervise) -> None:
    supervisor = supervise(ORDERS, MODULES, start=False)
    ids = publish(supervisor)
    supervisor.start()
    chance = random.Random(7)
    killed: list[int] = []
    patience = time.monotonic() + 180
    while len(Ledger(supervisor).counts("end")) < MESSAGES or len(killed) < 3:
        select.select((), (), (), EVERY_S)
        pid = kill_one(supervisor, chance, MESSAGES)
        killed += [pid] if pid is not None else []
        assert time.monotonic() < patience, f"not done: {supervisor.left()}"
    # What had ended and was not yet written at a kill comes once more.
    eventually(lambda: supervisor.left()[0] == 0)
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    lines = Ledger(supervisor).lines()
    begun, ended = counts(lines, "begin"), counts(lines, "end")
    assert set(ended) == ids, "lost"
    assert supervisor.left() == (0, 0), "nothing waits, nothing is dead"
    only_the_killed(supervisor, killed)
    # A handler that was begun and not ended died with its process: none was cut off otherwise.
    cut_off = sum(begun.values()) - sum(ended.values())
    assert cut_off <= len(killed) * CONCURRENCY
    unfinished = {line[2] for line in lines if line[0] == "begin"} - set(map(str, killed))
    for pid in unfinished:
        mine = [line for line in lines if line[2] == pid]
        assert counts(mine, "begin") == counts(mine, "end"), "a process that was not killed drains"


def test_the_master_and_its_children_are_killed_in_the_middle(supervise: Supervise) -> None:
    supervisor = supervise(ORDERS, MODULES, start=False)
    ids = publish(supervisor)
    supervisor.start()
    chance = random.Random(11)
    killed: list[int] = []
    patience = time.monotonic() + 180
    while len(Ledger(supervisor).counts("end")) < MESSAGES:
        select.select((), (), (), EVERY_S)
        if chance.random() < 0.3:
            supervisor.kill()
            supervisor.start()
        else:
            pid = kill_one(supervisor, chance, MESSAGES)
            killed += [pid] if pid is not None else []
        assert time.monotonic() < patience, f"not done: {supervisor.left()}"
    # What had ended and was not yet written at a kill comes once more.
    eventually(lambda: supervisor.left()[0] == 0)
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    ended = Ledger(supervisor).counts("end")
    assert set(ended) == ids
    assert supervisor.left() == (0, 0)
    # A master's death makes nothing double: its children finish what they have.
    only_the_killed(supervisor, killed)


def test_a_term_in_the_middle_drains_and_the_next_start_goes_on(supervise: Supervise) -> None:
    supervisor = supervise(ORDERS, MODULES, start=False)
    ids = publish(supervisor)
    chance = random.Random(13)
    starts = 0
    while len(Ledger(supervisor).counts("end")) < MESSAGES:
        supervisor.start()
        starts += 1
        select.select((), (), (), chance.uniform(0, 1))
        assert supervisor.stop() == 0
        assert [pid for pid in supervisor.tree() if kernel.facts(pid)] == []
        assert starts < 100
    lines = Ledger(supervisor).lines()
    assert counts(lines, "end") == Counter(ids), "each exactly once"
    assert counts(lines, "begin") == Counter(ids), "no handler was cut off"
    assert supervisor.left() == (0, 0)

"""What the tests share in which processes of a job are killed with -9 all the time.

What may be done twice is what a killed process had begun and not yet acknowledged. That is little,
but on a slow disk or server it may be all that the process has fetched.
"""

from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.helpers.driver import Supervisor
from tests.helpers.ledger import SOURCE, Ledger

CONCURRENCY = 10
HELD = 100 + CONCURRENCY
"""What one process can have fetched: `queue_size`, and as much as its threads have in hand."""

EVERY_S = 0.2

HANDLERS = """
import time
from ledger import note

def handle(message, context):
    note("begin", message.id)
    time.sleep(0.005)
    note("end", message.id)
"""

MODULES = {"ledger": SOURCE, "handlers": HANDLERS}


def held_by(path: Path, owner: str) -> list[Any]:
    """Give the messages that a dead process had claimed in a queue file, and not settled."""
    with closing(sqlite3.connect(path)) as database:
        rows = database.execute("SELECT body FROM messages WHERE owner = ?", (owner,)).fetchall()
    return [json.loads(body) for (body,) in rows]


def kill_one(supervisor: Supervisor, chance: random.Random, messages: int) -> int | None:
    """Kill a process of the job as it is now; gives its pid.

    While there is work, one that has handled a message: who has not may still run the first
    suspect, alone, and one that chance kills there three times in a row is dead, and rightly so.
    """
    ends = [line for line in Ledger(supervisor).lines() if line[0] == "end"]
    is_over = len({line[1] for line in ends}) >= messages
    at_work = {line[2] for line in ends}
    rows = [
        row
        for row in supervisor.status()["processes"]
        if row["pid"] is not None and (is_over or str(row["pid"]) in at_work)
    ]
    if not rows:
        return None
    pid: int = chance.choice(rows)["pid"]
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return None  # of an earlier kill, and not yet reaped when we asked
    return pid


def rounds(supervisor: Supervisor, messages: int) -> Iterator[int]:
    """Give the number of each round, one every so often, ten at least, until all is done."""
    patience = time.monotonic() + 240
    number = 0
    while len(Ledger(supervisor).counts("end")) < messages or number < 10:
        select.select((), (), (), EVERY_S)
        yield number
        number += 1
        assert time.monotonic() < patience, f"not done: {supervisor.log_lines()[-5:]}"


def done_again(supervisor: Supervisor) -> dict[int, int]:
    """Give who has ended messages that another process had to do again, and how many."""
    ends: dict[str, list[int]] = defaultdict(list)
    for word, *rest in Ledger(supervisor).lines():
        if word == "end":
            ends[rest[0]].append(int(rest[1]))
    found: dict[int, int] = defaultdict(int)
    for pids in ends.values():
        for pid in pids[:-1]:
            found[pid] += 1
    return found


def only_the_killed(supervisor: Supervisor, killed: Iterable[int]) -> None:
    """See that only what a killed process had was done again, and no more than it could have."""
    again = done_again(supervisor)
    assert set(again) <= set(killed), "a process that was not killed has drained all it had"
    assert all(number <= HELD for number in again.values()), again

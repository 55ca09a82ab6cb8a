"""A thousand restarts, and a mob of troubled jobs: the master is afterwards as it was before."""

from __future__ import annotations

import os
import random
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

RESTARTS = 1_000

MOB = """
import itertools
import os
import signal
import sys
from ledger import join, note, sit

def ends(context):
    sys.exit(0)

def steady(context):
    sit(context.name)
    context.wait(1e6)

def hangs(context):
    context.beat()
    sum(itertools.repeat(0))

def leaves(context):
    '''Leave a daemon behind, and fail.'''
    sit(context.name)
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 4096)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        join(context.name)
        while True:
            signal.pause()
    os.wait()
    raise RuntimeError("leaves")

def prints(context):
    while not context.stopping:
        print("x" * 900)
        context.beat()
"""

MODULES = {"ledger": SOURCE, "mob": MOB}


@dataclass(frozen=True)
class Belongings:
    """What a master holds: the kinds and numbers of its descriptors, its memory, its children."""

    descriptors: tuple[str, ...]
    threads: int
    children: int
    zombies: int
    bytes: int

    @classmethod
    def of(cls, pid: int) -> Belongings:
        folder = Path(f"/proc/{pid}/fd")
        links = []
        for name in os.listdir(folder):
            with suppress(FileNotFoundError):  # closed meanwhile
                links.append(os.readlink(folder / name))
        facts = [found for child in kernel.children(pid) if (found := kernel.facts(child))]
        return cls(
            tuple(sorted(link.partition(":[")[0] for link in links)),
            len(os.listdir(f"/proc/{pid}/task")),
            len(facts),
            sum(found.zombie for found in facts),
            kernel.resident_bytes(pid),
        )


def ask_only(supervisor: Supervisor) -> Belongings:
    """Look at the master when the connection of our last question is closed on its side too."""
    found = Belongings.of(supervisor.pid)
    assert sum(link == "socket" for link in found.descriptors) == 1
    return found


def test_a_thousand_restarts_leave_the_master_as_it_was(supervise: Supervise) -> None:
    keys = {"backoff": 0, "max_failures": 1_000_000, "processes": 4}
    supervisor = supervise(section("steady", target="mob:steady", **keys), MODULES)
    master = supervisor.pid

    killed: set[int] = set()

    def all_anew() -> bool:
        """Tell whether all are ready, and none is one that we have killed and that still falls."""
        rows = supervisor.status()["processes"]
        return all(row["ready"] and row["pid"] not in killed for row in rows)

    def restart(until: int) -> None:
        while True:
            rows = supervisor.status()["processes"]
            if sum(row["restarts"] for row in rows) >= until:
                break
            killed.clear()  # who still falls is among the next ones again
            for row in rows:
                if row["state"] == "RUNNING":
                    with suppress(ProcessLookupError):  # it has just been reaped
                        os.kill(row["pid"], signal.SIGKILL)
                        killed.add(row["pid"])
        eventually(all_anew)

    restart(100)  # every cache and buffer has been there once
    before = eventually(lambda: ask_only(supervisor))
    restart(100 + RESTARTS)
    after = eventually(lambda: ask_only(supervisor))
    assert after.descriptors == before.descriptors
    assert (after.threads, after.children, after.zombies) == (1, before.children, 0)
    assert after.bytes < before.bytes + 2_000_000, "2 KB a restart would be a leak"
    assert supervisor.pid == master
    assert supervisor.stop() == 0
    assert Ledger(supervisor).no_twins()


def test_restarts_of_programs_that_leave_by_themselves(supervise: Supervise) -> None:
    keys = {"backoff": 0, "stable_after": 0, "max_failures": 1_000_000}
    jobs = section("worker", target="mob:ends", **keys) + section("program", command="true", **keys)
    supervisor = supervise(jobs, MODULES, start=False).start(wait=False)

    def restarted(times: int) -> None:
        for name in ("worker:0", "program:0"):
            supervisor.wait_process(name, lambda row: row["restarts"] >= times, 300)

    def back_again() -> bool:
        after = Belongings.of(supervisor.pid)
        return len(after.descriptors) <= most and after.bytes < before.bytes + 2_000_000

    restarted(50)
    before = Belongings.of(supervisor.pid)
    # Two seats, each with five descriptors or, between two lives, none, and the connection of our
    # question. While a seat is being filled there are some more for a moment.
    most = len(before.descriptors) + 2 * 5 + 1
    restarted(50 + RESTARTS // 2)
    eventually(back_again)
    assert supervisor.stop() == 0


def test_a_mob_of_troubled_jobs_hurts_nobody_else(supervise: Supervise) -> None:
    often = {"backoff": "10ms", "max_failures": 1_000_000, "backoff_max": "50ms", "required": "no"}
    soon = {"stop_timeout": "300ms"}
    deaf = f"{sys.executable} -S -c 'import signal; signal.signal(15, 1); signal.pause()'"
    jobs = [
        section("steady", target="mob:steady", processes=3, backoff=0, max_failures=1_000_000),
        section("hangs", target="mob:hangs", heartbeat_timeout="50ms", **soon, **often),
        section("leaves", target="mob:leaves", **often),
        section("prints", target="mob:prints", log_file="prints.log", **often),
        section("wrong", command="sh -c 'exit 78'", **often),
        section("nothing", command="no-such-program", **often),
        section("deaf", command=deaf, **soon, **often),
        section("silent", command="sleep 1000", notify="yes", ready_timeout="50ms", **often),
    ]
    supervisor = supervise("".join(jobs), MODULES)
    before = eventually(lambda: ask_only(supervisor))
    chance = random.Random(3)
    for restarts in range(1, 21):
        pid = supervisor.process("steady:1")["pid"]
        os.kill(pid, signal.SIGKILL)
        supervisor.wait_process(
            "steady:1", lambda row, n=restarts: row["restarts"] >= n and row["ready"]
        )
        name = chance.choice(["prints", "deaf", "hangs"])
        supervisor.cli("restart", name)
    for name in ("hangs", "leaves", "nothing", "silent"):
        supervisor.wait_process(f"{name}:0", lambda row: row["restarts"] >= 10)
    rows = {row["name"]: row for row in supervisor.status()["processes"]}
    assert rows["wrong:0"]["state"] == "FATAL"
    assert rows["steady:0"]["restarts"] == rows["steady:2"]["restarts"] == 0
    assert rows["steady:1"]["restarts"] == 20
    assert Ledger(supervisor).no_twins()
    supervisor.cli("stop", *(name.partition(":")[0] for name in rows if "steady" not in name))
    after = eventually(lambda: ask_only(supervisor))
    assert after.children == 3
    assert after.zombies == 0
    assert after.threads == 1
    assert len(after.descriptors) <= len(before.descriptors)
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()

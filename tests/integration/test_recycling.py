"""Recycling: what is too large, too old or has done enough is begun anew, one at a time."""

from __future__ import annotations

import os
import signal

from tests.conftest import Supervise
from tests.helpers.driver import Line, Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.moves import most_away
from tests.helpers.sections import section

LIVES = """
import os
import signal
from ledger import is_open, note, sit
from workers import Worker

HELD = []

def steady(context):
    sit(context.name)
    context.wait(1e6)
    note("why", context.name, context.stop.reason)

class Grows(Worker):
    '''Take 128 MB when the gate "grow" is open; get ready again only while "stuck" is missing.'''
    def setup(self):
        sit(self.context.name)
        if is_open("grow"):
            while is_open("stuck") and not self.context.wait(0.01):
                pass
    def run(self, context):
        while not context.wait(0.01):
            if is_open("grow") and not HELD:
                HELD.append(b"x" * (128 << 20))
        note("why", context.name, context.stop.reason)

def lingers(context):
    context.wait(1e6)
    note("draining", context.name)
    while not is_open("way out"):
        context.stop.fast.wait(0.01)

def handle(message, context):
    note("done", message.id)
"""

MODULES = {"ledger": SOURCE, "lives": LIVES}

ROOMY = "96MB"
"""More than a process takes here, and less than it takes with 128 MB of its own."""


def recycled(supervisor: Supervisor, name: str, times: int = 1) -> Line:
    """Wait until a process was recycled so often, and is ready again."""
    row = supervisor.wait_process(name, lambda row: row["restarts"] >= times and row["ready"])
    assert row["last_exit"]["cause"] == "recycled"
    assert row["failures"] == 0
    return row


def test_max_lifetime_recycles_gracefully_and_one_at_a_time(supervise: Supervise) -> None:
    jobs = section("old", target="lives:steady", processes=3, max_lifetime="2s", backoff="10m")
    supervisor = supervise(jobs.replace("10m", "10m\nbackoff_max = 10m"), MODULES)
    for name in ("old:0", "old:1", "old:2"):
        recycled(supervisor, name, 2)
    assert most_away(supervisor, "old") == 1
    reasons = {line[2] for line in Ledger(supervisor).lines() if line[0] == "why"}
    assert reasons == {"recycle"}
    lives = [
        float(event["why"].split()[1].removesuffix("s"))
        for event in supervisor.call("events", names=["old"])
        if event["to"] == "STOPPING"
    ]
    assert min(lives) >= 1.8, "the jitter takes a tenth at most"
    assert Ledger(supervisor).no_twins()


def test_max_memory_recycles_what_has_grown(supervise: Supervise) -> None:
    jobs = section("grows", target="lives:Grows", processes=2, max_memory=ROOMY)
    jobs += section("other", target="lives:Grows")
    supervisor = supervise(jobs, MODULES)
    Ledger(supervisor).open("grow")
    for name in ("grows:0", "grows:1"):
        recycled(supervisor, name)
    assert most_away(supervisor, "grows") == 1
    assert supervisor.process("other:0")["restarts"] == 0
    why = next(
        event["why"]
        for event in supervisor.call("events", names=["grows"])
        if event["to"] == "STOPPING"
    )
    assert why.startswith("recycled: ")
    assert why.endswith("(max_memory = 96MB)")
    supervisor.wait_line("RUNNING -> STOPPING: recycled: ")
    (death,) = supervisor.call("why", names=["grows:0"])[0]["deaths"][:1]
    assert death["why"].startswith("recycled: ")
    assert death["uptime_s"] > 0.1, "its own, not that of its successor"
    assert "(max_memory = 96MB) (exit 0), after " in supervisor.cli("why", "grows:0").stdout


def test_a_replacement_that_does_not_get_ready_holds_the_next_back(supervise: Supervise) -> None:
    jobs = section("grows", target="lives:Grows", processes=2, max_memory=ROOMY)
    supervisor = supervise(jobs, MODULES)
    ledger = Ledger(supervisor)
    ledger.open("stuck")
    ledger.open("grow")
    message = supervisor.wait_line("to be recycled (")["message"]
    assert message.endswith(" is ready")
    first, second = ("grows:0", "grows:1") if "grows:1: " in message else ("grows:1", "grows:0")
    supervisor.wait_state(first, "STARTING")
    assert supervisor.process(second)["restarts"] == 0
    (supervisor.folder / "stuck").unlink()
    recycled(supervisor, second)
    assert most_away(supervisor, "grows") == 1


def test_a_program_gets_its_stop_signal(supervise: Supervise) -> None:
    command = "sh -c 'trap \"echo ended >>ended; exit 0\" INT; while :; do sleep 0.02; done'"
    jobs = section("prog", command=command, max_lifetime="1s", stop_signal="INT")
    supervisor = supervise(jobs, MODULES)
    recycled(supervisor, "prog:0")
    # Of a life in which the shell had come as far as its trap.
    eventually(lambda: supervisor.read("ended").startswith("ended"))


def test_max_messages_counts_since_the_process_began(supervise: Supervise) -> None:
    jobs = section(
        "queue",
        type="queue",
        url="sqlite:///q.db",
        topics="orders",
        handler="lives:handle",
        max_messages=50,
    )
    supervisor = supervise(jobs, MODULES)
    for times in (1, 2):
        supervisor.publish("orders", 60)
        recycled(supervisor, "queue:0", times)
    # Ten more than the second life may have: they do not end the third.
    supervisor.publish("orders", 10)
    supervisor.wait_process("queue:0", lambda row: row["done"] == 130)
    os.kill(supervisor.process("queue:0")["pid"], signal.SIGKILL)
    row = supervisor.wait_process("queue:0", lambda row: row["restarts"] == 3 and row["ready"])
    assert row["last_exit"]["cause"] == "signaled", "it was there to be killed"


def test_what_is_too_large_from_the_start_is_not_recycled_for_ever(supervise: Supervise) -> None:
    jobs = section("fat", target="lives:steady", max_memory="1MB")
    jobs += section("old", target="lives:steady", max_lifetime="500ms")
    supervisor = supervise(jobs, MODULES)
    supervisor.wait_line("fat:0: max_memory = 1MB is less than a new process takes (")
    recycled(supervisor, "old:0", 8)
    assert supervisor.process("fat:0")["restarts"] == 0


def test_nobody_is_recycled_during_a_stop(supervise: Supervise) -> None:
    jobs = section("old", target="lives:steady", max_lifetime="700ms")
    # Who depends on it takes its time, and keeps it alive beyond its time.
    jobs += section("slow", target="lives:lingers", depends_on="old")
    supervisor = supervise(jobs, MODULES)
    ledger = Ledger(supervisor)
    supervisor.send(signal.SIGTERM)
    ledger.wait("draining", "slow:0")
    supervisor.wait_process("old:0", lambda row: row["ready"] and row["uptime_s"] > 1.5)
    ledger.open("way out")
    assert supervisor.wait_exit() == 0
    assert ledger.lines()[-1][:3] == ["why", "old:0", "stop"]


def test_a_limit_can_be_set_while_the_process_runs(supervise: Supervise) -> None:
    supervisor = supervise(section("old", target="lives:steady"), MODULES)
    pid = supervisor.process("old:0")["pid"]
    supervisor.configure(section("old", target="lives:steady", max_lifetime="1d"))
    assert supervisor.cli("reload").returncode == 0
    assert supervisor.process("old:0")["pid"] == pid, "which restarts nobody"
    supervisor.configure(section("old", target="lives:steady", max_lifetime="1s"))
    assert supervisor.cli("reload").returncode == 0
    recycled(supervisor, "old:0")

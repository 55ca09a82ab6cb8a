"""Processes that live and do nothing: found by their board, shown by their stacks, replaced."""

from __future__ import annotations

import os
import signal

import pytest

from tests.conftest import Supervise
from tests.helpers import patience
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

HANGS = '''
import itertools
import re
import signal
from ledger import is_open, note, sit

def steady(context):
    sit(context.name)
    context.wait(1e6)

def adds_up_for_ever(context):
    """Never come back from C, and never let the GIL go."""
    sit(context.name)
    context.beat()
    sum(itertools.repeat(0))

def matches_for_ever(context):
    sit(context.name)
    context.beat()
    re.match("(a*)*b", "a" * 64)

def waits_outside(context):
    sit(context.name)
    context.beat()
    while True:
        signal.pause()

def never_beats(context):
    sit(context.name)
    while True:
        signal.pause()

def parks(context):
    sit(context.name)
    context.beat()
    context.wait(1e6)

def hangs_at_stop(context):
    sit(context.name)
    context.wait(1e6)
    note("stopping")
    sum(itertools.repeat(0))

def leaves_slowly(context):
    sit(context.name)
    context.beat()
    context.wait(1e6)
    while not is_open("gate"):
        context.stop.fast.wait(0.01)

def handle(message, context):
    note("handled", message.id)
'''

MODULES = {"ledger": SOURCE, "hangs": HANGS}

STEADY = section("steady", target="hangs:steady", backoff=0)


def hanging(target: str, **keys: object) -> str:
    usual = {
        "heartbeat_timeout": "300ms",
        "backoff": "10ms",
        "max_failures": 2,
        "stop_timeout": "300ms",
    }
    return section("hangs", target=f"hangs:{target}", **(usual | keys))


@pytest.mark.parametrize("target", ["adds_up_for_ever", "matches_for_ever", "waits_outside"])
def test_a_hang_is_shown_killed_and_a_failure(supervise: Supervise, target: str) -> None:
    jobs = STEADY + hanging(target, required="no")
    supervisor = supervise(jobs, MODULES | patience.MODULES, settings=patience.KILL_IF_SHOWN)
    steady = supervisor.process("steady:0")["pid"]
    supervisor.wait_line(f"in {target}")
    Ledger(supervisor).open("shown")
    fatal = supervisor.wait_state("hangs:0", "FATAL")
    assert fatal["restarts"] == 1
    assert fatal["failures"] == 2
    assert (fatal["last_exit"]["signal"], fatal["last_exit"]["cause"]) == ("KILL", "hung")
    lines = supervisor.log_lines()
    said = next(i for i, line in enumerate(lines) if "no heartbeat for " in line["message"])
    stack = next(i for i, line in enumerate(lines) if f"in {target}" in line["message"])
    killed = next(i for i, line in enumerate(lines) if "hangs:0: killing" in line["message"])
    assert said < stack < killed
    assert lines[said]["level"] == "error"
    assert lines[stack]["stream"] == "stderr"
    assert lines[stack]["job"] == "hangs"
    assert len(Ledger(supervisor).pids("sit", "hangs:0")) == 2
    assert supervisor.process("steady:0")["pid"] == steady


def test_a_stopped_consumer_is_killed_and_replaced(supervise: Supervise) -> None:
    jobs = section(
        "orders",
        type="queue",
        url="sqlite:///queue.db",
        topics="orders",
        handler="hangs:handle",
        heartbeat_timeout="4s",
        backoff=0,
    )
    supervisor = supervise(STEADY + jobs, MODULES)
    pid = supervisor.process("orders:0")["pid"]
    os.kill(pid, signal.SIGSTOP)
    # On a machine that stands still its successor may be taken for hung too.
    row = supervisor.wait_process("orders:0", lambda row: row["restarts"] >= 1 and row["ready"])
    assert (row["last_exit"]["signal"], row["last_exit"]["cause"]) == ("KILL", "hung")
    assert supervisor.cli("publish", "orders", '{"n": 1}', "--id", "one").returncode == 0
    Ledger(supervisor).wait("handled", "one")


def test_who_never_beats_or_parks_is_no_hang(supervise: Supervise) -> None:
    # More than may lie between a beat and the park after it, on a machine that stands still.
    keys = {"heartbeat_timeout": "4s", "stop_timeout": "300ms"}
    quiet = section("quiet", target="hangs:never_beats", **keys)
    parked = section("parked", target="hangs:parks", **keys)
    off = section("off", target="hangs:waits_outside", heartbeat_timeout="0", stop_timeout="300ms")
    # A program has no board; were it watched, the default of its kind would hold for it.
    program = section("program", command="sleep 1000")
    hangs = hanging("waits_outside", heartbeat_timeout="2s", required="no")
    supervisor = supervise(quiet + parked + off + program + hangs, MODULES)
    pids = {name: supervisor.process(f"{name}:0")["pid"] for name in ("quiet", "parked", "off")}
    # Two hangs were noticed, and theirs would have been by now.
    supervisor.wait_state("hangs:0", "FATAL")
    for name in ("parked:0", "off:0"):
        supervisor.wait_process(name, lambda row: (row["heartbeat_age_s"] or 0) > 5.5)
    supervisor.wait_process("quiet:0", lambda row: row["uptime_s"] > 5.5)
    assert {name: supervisor.process(f"{name}:0")["pid"] for name in pids} == pids


@pytest.mark.parametrize("target", ["hangs_at_stop", "never_beats"])
def test_a_hang_at_the_stop_is_shown_and_killed(supervise: Supervise, target: str) -> None:
    jobs = section("hangs", target=f"hangs:{target}", stop_timeout="600s")
    modules = MODULES | patience.MODULES
    supervisor = supervise(STEADY + jobs, modules, settings=patience.STACKS_AT_STOP)
    Ledger(supervisor).wait("sit", "hangs:0")
    supervisor.send(signal.SIGTERM)
    told = supervisor.wait_line(f"in {target}")
    assert (told["job"], told["stream"]) == ("hangs", "stderr")
    assert supervisor.process("hangs:0")["state"] == "STOPPING", "the kill comes later"
    done = supervisor.cli("stop", "--timeout", "300ms")
    assert done.returncode == 1
    assert "killed: hangs:0" in done.stdout
    assert supervisor.wait_exit() == 0


def test_a_silent_drain_is_no_hang(supervise: Supervise) -> None:
    # More than may lie between its beat and the park after it, on a machine that stands still.
    jobs = section("slow", target="hangs:leaves_slowly", heartbeat_timeout="4s")
    supervisor = supervise(jobs, MODULES)
    supervisor.send(signal.SIGTERM)
    supervisor.wait_process("slow:0", lambda row: (row["heartbeat_age_s"] or 0) > 5.5)
    Ledger(supervisor).open("gate")
    assert supervisor.wait_exit() == 0
    assert not any("heartbeat" in message for message in supervisor.messages())


def test_a_hang_of_one_process_leaves_its_siblings_alone(supervise: Supervise) -> None:
    modules = MODULES | {
        "mixed": """
import signal
from ledger import sit

def run(context):
    sit(context.name)
    context.beat()
    while context.process != 1:
        if context.wait(0.05):
            return
        context.beat()
    while True:
        signal.pause()
"""
    }
    # More than a sibling may stand still between two beats, on a busy machine.
    keys = {"heartbeat_timeout": "4s", "stop_timeout": "300ms", "backoff": 0}
    jobs = section("mixed", target="mixed:run", processes=3, **keys)
    supervisor = supervise(jobs, modules)
    supervisor.wait_process("mixed:1", lambda row: row["restarts"] >= 1)
    rows = supervisor.status()["processes"]
    assert [row["restarts"] for row in rows if row["name"] != "mixed:1"] == [0, 0]
    assert Ledger(supervisor).no_twins()

"""Start, stop, and stop again: exit codes, the three presses, names, and two supervisors."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers import patience
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.ledger import SOURCE, Ledger

WAITS = """
import signal
from workers import Worker
from ledger import is_open, note, sit

def polite(context):
    sit(context.name)
    context.wait(1e6)
    note("left", context.name)

def gated(context):
    '''Drain for as long as the file "gate" is missing.'''
    sit(context.name)
    context.wait(1e6)
    note("draining", context.name)
    while not is_open("gate"):
        context.stop.fast.wait(0.01)
        if context.stop.fast.is_set():
            note("hurried", context.name)
            raise SystemExit(1)
    note("left", context.name)

def deaf(context):
    note("deaf", context.name)
    while True:
        signal.pause()

def fails(context):
    raise SystemExit(5)

class Broken(Worker):
    def setup(self):
        raise SystemExit(5)
"""

MODULES = {"ledger": SOURCE, "waits": WAITS}

POLITE = """
[daemon:polite]
type = worker
target = waits:polite
"""

GATED = """
[daemon:gated]
type = worker
target = waits:gated
stop_timeout = 600s
"""

DEAF = """
[daemon:deaf]
type = worker
target = waits:deaf
stop_timeout = 500ms
"""


def press(supervisor: Supervisor, number: int = signal.SIGTERM) -> None:
    """Send one more stop signal, clearly after an earlier one: two within 100 ms are one wish."""
    begun = time.monotonic()
    eventually(lambda: time.monotonic() > begun + 0.15)
    supervisor.send(number)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_one_signal_drains_and_exits_0(supervise: Supervise, number: int) -> None:
    supervisor = supervise(POLITE + "processes = 3", MODULES)
    assert supervisor.stop(number) == 0
    assert len(Ledger(supervisor).pids("left")) == 3
    assert supervisor.tree() == ()
    assert supervisor.errors() == ""
    assert "daemon job polite stopped gracefully" in supervisor.messages("polite")


def test_a_drain_is_waited_for(supervise: Supervise) -> None:
    supervisor = supervise(GATED + POLITE, MODULES)
    ledger = Ledger(supervisor)
    supervisor.send(signal.SIGTERM)
    ledger.wait("draining")
    ledger.wait("left", "polite:0")  # at once, beside the one that takes its time
    assert supervisor.status()["master"]["state"] == "STOPPING"
    assert not supervisor.status()["master"]["ready"]
    Ledger(supervisor).open("gate")
    assert supervisor.wait_exit() == 0
    assert ledger.pids("left", "gated:0") == ledger.pids("sit", "gated:0")


def test_the_second_signal_is_fast_and_exits_1(supervise: Supervise) -> None:
    supervisor = supervise(GATED, MODULES | patience.MODULES, settings=patience.FAST)
    ledger = Ledger(supervisor)
    supervisor.send(signal.SIGTERM)
    ledger.wait("draining")
    press(supervisor)
    ledger.wait("hurried")
    assert supervisor.wait_exit() == 1
    assert supervisor.tree() == ()
    assert not ledger.pids("left")


def test_two_signals_at_once_are_one_wish(supervise: Supervise) -> None:
    # timeout(1) and shells signal a process and its group.
    supervisor = supervise(GATED, MODULES)
    supervisor.send(signal.SIGSTOP)
    eventually(lambda: (facts := kernel.facts(supervisor.pid)) and facts.state == "T")
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCONT):
        supervisor.send(number)
    Ledger(supervisor).wait("draining")
    Ledger(supervisor).open("gate")
    assert supervisor.wait_exit() == 0


def test_the_third_signal_kills(supervise: Supervise) -> None:
    jobs = DEAF.replace("500ms", "600s") + "processes = 2"
    supervisor = supervise(jobs, MODULES, settings={"stop_timeout": "600s"})
    supervisor.send(signal.SIGTERM)
    supervisor.wait_line("stopping: draining")
    press(supervisor)
    supervisor.wait_line("asked to stop again: fast")
    press(supervisor)
    assert supervisor.wait_exit() == 1
    assert supervisor.tree() == ()


def test_what_ignores_term_is_killed_and_named(supervise: Supervise) -> None:
    supervisor = supervise(DEAF + POLITE, MODULES)
    Ledger(supervisor).wait("deaf")
    done = supervisor.cli("stop")
    assert done.returncode == 1
    assert done.stdout.splitlines() == ["stopped: 0 drained, 0 abandoned", "killed: deaf:0"]
    assert done.stderr == ""
    # What it had to kill is the stop's report; the master itself did what it was told.
    assert supervisor.wait_exit() == 0
    assert supervisor.tree() == ()


def test_the_timeout_of_a_stop_caps_that_of_the_jobs(supervise: Supervise) -> None:
    supervisor = supervise(GATED, MODULES)
    done = supervisor.cli("stop", "--timeout", "500ms", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout) == {"drained": 0, "abandoned": 0, "killed": ["gated:0"]}
    assert supervisor.wait_exit() == 0


def test_the_timeout_caps_the_stop_of_one_job_too(supervise: Supervise) -> None:
    supervisor = supervise(GATED + POLITE, MODULES)
    done = supervisor.cli("stop", "gated", "--timeout", "500ms")
    assert done.returncode == 1
    assert "killed: gated:0" in done.stdout
    assert supervisor.process("polite:0")["state"] == "RUNNING"


def test_a_shorter_stop_overtakes_a_longer_one(supervise: Supervise) -> None:
    supervisor = supervise(GATED, MODULES)
    supervisor.send(signal.SIGTERM)
    Ledger(supervisor).wait("draining")
    assert supervisor.cli("stop", "--timeout", "500ms").returncode == 1
    assert supervisor.wait_exit() == 0


def test_a_stopped_process_gets_its_stop(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES)
    os.kill(supervisor.process("polite:0")["pid"], signal.SIGSTOP)
    assert supervisor.stop() == 0
    assert Ledger(supervisor).pids("left", "polite:0")


def test_stop_start_and_restart_of_one_job(supervise: Supervise) -> None:
    supervisor = supervise(POLITE + "processes = 2", MODULES)
    first = {name: supervisor.process(name)["pid"] for name in ("polite:0", "polite:1")}

    done = supervisor.cli("stop", "polite:1")
    assert (done.returncode, done.stdout) == (0, "stopped: 0 drained, 0 abandoned\n")
    stopped = supervisor.process("polite:1")
    assert (stopped["state"], stopped["pid"], stopped["ready"]) == ("STOPPED", None, False)
    assert stopped["last_exit"]["cause"] == "asked"
    assert supervisor.cli("status", "--check").returncode == 1

    assert supervisor.cli("start", "polite").returncode == 0
    started = supervisor.process("polite:1")
    assert (started["state"], started["restarts"]) == ("RUNNING", 1)
    assert supervisor.process("polite:0")["pid"] == first["polite:0"], "it was up already"

    assert supervisor.cli("restart", "polite:0").returncode == 0
    again = supervisor.process("polite:0")
    assert (again["state"], again["restarts"]) == ("RUNNING", 1)
    assert again["last_exit"]["cause"] == "asked"
    assert again["pid"] != first["polite:0"]

    assert supervisor.cli("restart").returncode == 0
    assert [row["restarts"] for row in supervisor.status()["processes"]] == [2, 2]
    assert supervisor.status()["master"]["pid"] == supervisor.pid
    ledger = Ledger(supervisor)
    assert len(ledger.pids("left")) == 4
    assert ledger.no_twins()


@pytest.mark.parametrize("command", ["stop", "start", "restart", "status", "events", "logs"])
def test_an_unknown_name_is_exit_4(supervise: Supervise, command: str) -> None:
    supervisor = supervise(POLITE, MODULES)
    done = supervisor.cli(command, "pollite")
    assert done.returncode == 4
    assert done.stderr == "supervisor: no such job: pollite; did you mean polite?\n"
    assert supervisor.process("polite:0")["restarts"] == 0


def test_a_start_that_fails_says_why(supervise: Supervise) -> None:
    jobs = "[daemon:broken]\ntype = worker\ntarget = waits:Broken\nrequired = no\nbackoff = 20s\n"
    supervisor = supervise(POLITE + jobs, MODULES)
    supervisor.wait_state("broken:0", "BACKOFF")
    done = supervisor.cli("start", "broken")
    assert done.returncode == 1
    assert done.stderr == "supervisor: broken:0 is BACKOFF: exit 5 (1 of 10)\n"


def test_a_start_returns_when_its_job_is_stopped_meanwhile(supervise: Supervise) -> None:
    modules = MODULES | {
        "slow": """
    from workers import Worker

    class Slow(Worker):
        def setup(self):
            self.context.wait(1e6)
            raise SystemExit(0)
    """
    }
    jobs = "[daemon:slow]\ntype = worker\ntarget = slow:Slow\nrequired = no\nready_timeout = 600s\n"
    supervisor = supervise(POLITE + jobs, modules)
    assert supervisor.cli("stop", "slow").returncode == 0
    command = [sys.executable, "-m", "supervisor", "start", "-c", str(supervisor.conf), "slow"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as start:
        try:
            supervisor.wait_state("slow:0", "STARTING")
            assert supervisor.cli("stop", "slow").returncode == 0
            _, errors = start.communicate(timeout=PATIENCE_S)
        finally:
            start.kill()
    assert start.returncode == 1
    assert "slow:0 is STOPPED" in errors


def test_a_stop_returns_when_its_job_is_started_meanwhile(supervise: Supervise) -> None:
    supervisor = supervise(GATED, MODULES)
    command = [sys.executable, "-m", "supervisor", "stop", "-c", str(supervisor.conf), "gated"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as stop:
        try:
            Ledger(supervisor).wait("draining")
            start = [*command[:3], "start", *command[4:]]
            with subprocess.Popen(start) as start_again:
                _, errors = stop.communicate(timeout=PATIENCE_S)
                Ledger(supervisor).open("gate")
                assert start_again.wait(PATIENCE_S) == 0
        finally:
            stop.kill()
    assert stop.returncode == 1
    assert errors == "supervisor: started again before it had stopped: gated:0\n"
    assert supervisor.process("gated:0")["state"] == "RUNNING"


def test_a_stop_while_it_starts(supervise: Supervise) -> None:
    modules = MODULES | {
        "slow": """
    from ledger import note
    from workers import Worker

    class Slow(Worker):
        def setup(self):
            note("setup")
            self.context.wait(1e6)
        def run(self, context):
            note("ran")
        def close(self):
            note("closed")
    """
    }
    jobs = "[daemon:slow]\ntype = worker\ntarget = slow:Slow\n"
    supervisor = supervise(jobs, modules, start=False).start(wait=False)
    ledger = Ledger(supervisor)
    ledger.wait("setup")
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()


def test_a_second_start_is_75_and_disturbs_nobody(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES)
    done = supervisor.cli("start")
    assert done.returncode == 75
    assert f"already running as pid {supervisor.pid}" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert supervisor.cli("status", "--check").returncode == 0
    assert supervisor.process("polite:0")["restarts"] == 0
    assert supervisor.stop() == 0


def test_two_configurations_cannot_share_a_state_dir(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES)
    settings = {"name": "other", "state_dir": str(supervisor.state_dir)}
    other = supervise(POLITE, MODULES, start=False, settings=settings).start(wait=False)
    assert other.wait_exit() == 75
    assert str(supervisor.state_dir) in other.errors()
    assert not (other.run_dir / "other.pid").exists()
    assert supervisor.process("polite:0")["restarts"] == 0


def test_a_start_after_a_stop_begins_anew(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES)
    assert supervisor.stop() == 0
    assert supervisor.cli("status").returncode == 3
    assert supervisor.cli("stop").returncode == 3
    assert not list(supervisor.run_dir.iterdir())
    supervisor.start()
    assert supervisor.process("polite:0")["restarts"] == 0
    assert supervisor.cli("stop").returncode == 0
    assert supervisor.wait_exit() == 0


def test_without_jobs_it_warns_and_goes_on(supervise: Supervise) -> None:
    supervisor = supervise("", {}, start=False).start(wait=False)
    warning = supervisor.wait_line("no daemon jobs registered")
    assert warning["level"] == "warning"
    supervisor.wait_ready()
    assert supervisor.stop() == 0


def test_on_fatal_exit_drains_the_others_and_exits_1(supervise: Supervise) -> None:
    jobs = (
        "[daemon:fails]\ntype = worker\ntarget = waits:fails\nmax_failures = 1\non_fatal = exit\n"
    )
    supervisor = supervise(POLITE + jobs, MODULES, start=False).start(wait=False)
    assert supervisor.wait_exit() == 1
    assert supervisor.tree() == ()
    assert "daemon job polite stopped gracefully" in supervisor.messages("polite")


def test_a_master_asked_during_its_drain_starts_nothing(supervise: Supervise) -> None:
    supervisor = supervise(GATED, MODULES)
    supervisor.send(signal.SIGTERM)
    Ledger(supervisor).wait("draining")
    done = supervisor.cli("start", "gated")
    assert done.returncode == 1
    assert "stopping" in done.stderr
    Ledger(supervisor).open("gate")
    assert supervisor.wait_exit() == 0
    assert len(Ledger(supervisor).pids("sit")) == 1


def test_a_path_that_is_no_text_is_shown_escaped(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES, start=False)
    supervisor.conf = supervisor.conf.rename(supervisor.folder / os.fsdecode(b"\xff.ini"))
    supervisor.start()
    eventually(lambda: "/\\udcff.ini (ready)" in kernel.title_of(supervisor.pid))
    assert "/\\udcff.ini" in supervisor.cli("status").stdout
    assert supervisor.stop() == 0
    supervisor.conf.write_text("[daemon:polite]\ntype = nothing\n")
    refused = supervisor.cli("start", "--daemonize")
    assert refused.returncode == 78
    assert "/\\udcff.ini:2: [daemon:polite] type: " in refused.stderr

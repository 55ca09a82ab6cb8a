"""kill -9 of the master: its children leave by themselves, and no next one runs a twin."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

HEIRS = '''
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from ledger import is_open, join, note, sit

def polite(context):
    sit(context.name)
    context.wait(1e6)
    note("left", context.name)

def slow(context):
    """Drain until the gate is open."""
    sit(context.name)
    context.wait(1e6)
    note("draining", context.name, context.stop.reason.replace(" ", "-"))
    while not is_open("gate"):
        time.sleep(0.01)
    note("left", context.name)

def stuck(context):
    """Hold the GIL for ever: nothing of Python hears of any death."""
    sit(context.name)
    sum(itertools.repeat(0))

def handle(message, context):
    note("begin", message.id)
    while not is_open("gate"):
        time.sleep(0.01)
    print("the reader of this is dead")
    note("end", message.id)

def program(how, slot):
    sit(slot)
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how in ("parent", "late"):
        signal.signal(signal.SIGTERM, lambda *_: last_word(how, slot))
    if how == "parent":
        daemon(slot)
    note("up", slot)
    while True:
        signal.pause()

def last_word(how, slot):
    if how == "late":
        note("asked", slot)
        while not is_open("gate"):
            time.sleep(0.01)
        daemon(slot)
    os._exit(0)

def daemon(slot):
    """Leave a process in a session of its own that ignores TERM."""
    if os.fork():
        return
    os.setsid()
    os.closerange(0, 4096)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    join(slot)
    note("daemon", slot)
    while True:
        signal.pause()

if __name__ == "__main__":
    program(sys.argv[1], sys.argv[2])
'''

MODULES = {"ledger": SOURCE, "heirs": HEIRS}

POLITE = section("polite", target="heirs:polite", processes=2)
SLOW = section("slow", target="heirs:slow", stop_timeout="600s")
QUEUE = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="heirs:handle",
    stop_timeout="600s",
)


def program(how: str, **keys: object) -> str:
    command = f"{sys.executable} -S heirs.py {how} {how}:0"
    return section(how, command=command, **({"stop_timeout": "500ms"} | keys))


def lives(pid: int) -> bool:
    facts = kernel.facts(pid)
    return facts is not None and not facts.zombie


def gone(supervisor: Supervisor) -> None:
    """Wait until nothing of it lives."""
    eventually(lambda: supervisor.tree() == ())


def test_every_child_finishes_its_item_and_leaves(supervise: Supervise) -> None:
    supervisor = supervise(POLITE + SLOW + QUEUE + program("plain"), MODULES)
    ledger = Ledger(supervisor)
    ids = [f"m{number}" for number in range(5)]
    for one in ids:
        supervisor.cli("publish", "orders", "{}", "--id", one)
        ledger.wait("begin", one)
    supervisor.kill()
    assert len(ledger.wait("left", "polite:0") + ledger.wait("left", "polite:1")) == 2
    ledger.wait("draining", "slow:0", "the-supervisor-is-dead")
    assert not ledger.pids("end")
    ledger.open("gate")
    ledger.wait("left", "slow:0")
    gone(supervisor)
    assert sorted(line[1] for line in ledger.lines() if line[0] == "end") == ids
    # Each was acknowledged, though the master was dead and their output went nowhere.
    (queue,) = supervisor.json("queue", "list")
    assert (queue["depth"], queue["in_flight"], queue["dead"], queue["delayed"]) == (0, 0, 0, 0)
    assert supervisor.cli("stop").returncode == 3


def test_a_fault_of_the_masters_own_is_in_the_log_and_its_children_leave(
    supervise: Supervise,
) -> None:
    fault = """
    from supervisor.burial import Burial

    def fails(self):
        raise RuntimeError("a fault of our own")

    Burial.look = fails
    """
    supervisor = supervise(POLITE, MODULES | {"fault": fault}, settings={"preload": "fault"})
    supervisor.send(signal.SIGCHLD)
    assert supervisor.wait_exit() == 1
    told = supervisor.wait_line("the supervisor fails")
    assert told["level"] == "critical"
    assert "RuntimeError: a fault of our own" in told["exc_info"]
    Ledger(supervisor).wait("left", "polite:1")
    gone(supervisor)
    assert "RuntimeError: a fault of our own" in supervisor.errors()
    # Only a fault or a kill -9 may leave these two; `supervise` looks.
    supervisor.errors_path.unlink()
    (supervisor.run_dir / "test.sock").unlink()


def test_a_new_start_at_once_works_without_twins(supervise: Supervise) -> None:
    # `parent` is asked by the kernel and leaves a daemon; `deaf` hears nothing at all.
    jobs = POLITE + SLOW + program("plain") + program("deaf") + program("parent")
    supervisor = supervise(jobs, MODULES)
    ledger = Ledger(supervisor)
    for slot in ("plain:0", "deaf:0", "parent:0"):
        ledger.wait("up", slot)
    ledger.wait("daemon", "parent:0")
    ledger.wait("sit", "slow:0")
    first = {pid for slot in ("slow:0", "deaf:0", "parent:0") for pid in ledger.pids("sit", slot)}
    supervisor.kill()
    supervisor.start(wait=False)
    for slot in ("slow:0", "deaf:0", "parent:0"):
        supervisor.wait_line(f"{slot}: waiting for pid ")
    supervisor.wait_state("polite:0", "RUNNING")
    supervisor.wait_state("deaf:0", "RUNNING")  # killed after its stop_timeout
    supervisor.wait_state("parent:0", "RUNNING")
    waiting = supervisor.process("slow:0")
    assert (waiting["state"], waiting["pid"], waiting["ready"]) == ("STOPPED", None, False)
    assert (
        waiting["why"] == f"waiting for pid {ledger.pids('sit', 'slow:0')[0]}, of an earlier "
        "master, to end"
    )
    assert supervisor.cli("status", "--check").returncode == 1
    ledger.open("gate")
    supervisor.wait_ready()
    assert ledger.pids("left", "slow:0") == ledger.pids("sit", "slow:0")[:1]
    assert not any(lives(pid) for pid in first)
    for slot in ("plain:0", "deaf:0", "parent:0"):
        ledger.wait("up", slot, count=2)
    assert ledger.no_twins()
    supervisor.stop()
    gone(supervisor)


def test_what_a_full_disk_kept_from_writing_itself_down_is_waited_for_too(
    supervise: Supervise,
) -> None:
    supervisor = supervise(program("deaf", stop_timeout="600s"), MODULES)
    ledger = Ledger(supervisor)
    ledger.wait("up")
    os.truncate(supervisor.state_dir / "slots" / "deaf:0", 0)
    supervisor.kill()
    supervisor.start(wait=False)
    supervisor.wait_line("deaf:0: waiting for pid ")
    os.kill(*ledger.pids("up"), signal.SIGKILL)
    ledger.wait("up", count=2)
    assert ledger.no_twins()
    supervisor.send(signal.SIGTERM)
    os.kill(ledger.pids("up")[1], signal.SIGKILL)
    assert supervisor.wait_exit() == 0


def test_one_that_is_stuck_in_c_is_ended_by_the_next_master(supervise: Supervise) -> None:
    jobs = section("stuck", target="heirs:stuck", stop_timeout="500ms")
    supervisor = supervise(jobs, MODULES)
    ledger = Ledger(supervisor)
    (pid,) = ledger.wait("sit")
    supervisor.kill()
    supervisor.start()
    ledger.wait("sit", count=2)
    assert not lives(pid)
    assert ledger.no_twins()


def test_what_the_old_ones_begin_while_they_leave_is_waited_for_too(supervise: Supervise) -> None:
    supervisor = supervise(program("late", stop_timeout="600s"), MODULES)
    ledger = Ledger(supervisor)
    ledger.wait("up")
    supervisor.kill()
    ledger.wait("asked")
    supervisor.start(wait=False)
    supervisor.wait_line("late:0: waiting for pid ")
    ledger.open("gate")
    (daemon,) = ledger.wait("daemon")
    why = f"waiting for pid {daemon}, of an earlier master, to end"
    supervisor.wait_process("late:0", lambda row: bool(row["why"] == why))
    assert len(ledger.pids("up")) == 1
    os.kill(daemon, signal.SIGKILL)
    ledger.wait("up", count=2)
    assert ledger.no_twins()


def test_killed_again_and_again_it_never_runs_a_twin(supervise: Supervise) -> None:
    jobs = POLITE + program("plain") + program("parent", stop_timeout="100ms")
    supervisor = supervise(jobs, MODULES)
    ledger = Ledger(supervisor)
    for round_ in range(2, 8):
        if round_ % 2:  # in the middle of a life, and as early as it can be
            supervisor.wait_ready()
        supervisor.kill()
        supervisor.start(wait=False)
        supervisor.wait_state("plain:0", "RUNNING")
    supervisor.wait_ready()
    assert ledger.no_twins()
    assert supervisor.cli("stop").returncode in (0, 1)
    gone(supervisor)


def test_stop_without_a_master_waits_for_those_who_drain(supervise: Supervise) -> None:
    supervisor = supervise(POLITE + SLOW, MODULES)
    ledger = Ledger(supervisor)
    supervisor.kill()
    ledger.wait("draining")
    ledger.open("gate")
    done = supervisor.cli("stop")
    # Nothing is left if they were quicker than the command.
    assert done.returncode in (0, 3)
    assert ledger.pids("left", "slow:0")
    assert supervisor.tree() == ()
    assert supervisor.cli("stop").returncode == 3


@pytest.mark.parametrize("how", ["deaf", "parent"])
def test_stop_without_a_master_ends_what_was_left(supervise: Supervise, how: str) -> None:
    supervisor = supervise(program(how) + POLITE, MODULES)
    ledger = Ledger(supervisor)
    ledger.wait("up", f"{how}:0")
    if how == "parent":
        ledger.wait("daemon")
    supervisor.kill()
    done = supervisor.cli("stop")
    assert done.returncode == 1
    assert f"killed: {how}:0" in done.stdout
    assert supervisor.tree() == ()
    again = supervisor.cli("stop")
    assert again.returncode == 3
    assert "not running" in again.stderr
    # And nothing of it is in the way of the next start.
    supervisor.start()
    ledger.wait("up", f"{how}:0", count=2)
    assert ledger.no_twins()


def test_stop_without_a_master_keeps_to_its_timeout(supervise: Supervise) -> None:
    supervisor = supervise(program("deaf", stop_timeout="600s"), MODULES)
    Ledger(supervisor).wait("up")
    supervisor.kill()
    assert supervisor.cli("stop", "--timeout", "300ms").returncode == 1
    assert supervisor.tree() == ()


def test_stop_where_nothing_ever_ran_is_3(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES, start=False)
    assert supervisor.cli("stop").returncode == 3
    assert not supervisor.state_dir.exists()


def test_a_second_signal_shortens_the_wait_for_the_past(supervise: Supervise) -> None:
    supervisor = supervise(program("deaf", stop_timeout="600s") + POLITE, MODULES)
    Ledger(supervisor).wait("up")
    supervisor.kill()
    supervisor.start(wait=False)
    supervisor.wait_line("deaf:0: waiting for pid ")
    supervisor.send(signal.SIGTERM)
    supervisor.wait_line("stopping: draining")
    begun = supervisor.status()["master"]["uptime_s"]
    eventually(lambda: supervisor.status()["master"]["uptime_s"] > begun + 0.15)
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait_exit() == 1
    assert supervisor.tree() == ()


def test_a_stop_tells_what_of_the_past_it_had_to_kill(supervise: Supervise) -> None:
    supervisor = supervise(program("deaf", stop_timeout="600s"), MODULES)
    Ledger(supervisor).wait("up")
    supervisor.kill()
    supervisor.start(wait=False)
    supervisor.wait_line("deaf:0: waiting for pid ")
    done = supervisor.cli("stop", "--timeout", "300ms")
    assert done.returncode == 1
    assert "killed: deaf:0" in done.stdout
    assert supervisor.wait_exit() == 0


def test_a_job_that_waits_for_the_past_can_be_stopped(supervise: Supervise) -> None:
    supervisor = supervise(SLOW + POLITE, MODULES)
    ledger = Ledger(supervisor)
    supervisor.kill()
    ledger.wait("draining")
    supervisor.start(wait=False)
    supervisor.wait_line("slow:0: waiting for pid ")
    assert supervisor.cli("stop", "slow").returncode == 0
    ledger.open("gate")
    ledger.wait("left", "slow:0")
    supervisor.wait_process("slow:0", lambda row: row["why"] == "stopped" or not row["why"])
    assert supervisor.cli("restart", "polite").returncode == 0  # a later event
    assert len(ledger.pids("sit", "slow:0")) == 1
    assert supervisor.cli("start", "slow").returncode == 0
    assert len(ledger.wait("sit", "slow:0", count=2)) == 2


def test_a_start_of_a_job_that_waits_for_the_past_waits_too(supervise: Supervise) -> None:
    supervisor = supervise(program("deaf", stop_timeout="1s"), MODULES)
    Ledger(supervisor).wait("up")
    supervisor.kill()
    supervisor.start(wait=False)
    supervisor.wait_line("deaf:0: waiting for pid ")
    assert supervisor.cli("start", "deaf").returncode == 0
    assert supervisor.process("deaf:0")["state"] == "RUNNING"
    assert Ledger(supervisor).no_twins()


def test_a_pid_file_without_a_master_is_in_nobodys_way(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES)
    supervisor.kill()
    assert (supervisor.run_dir / "test.pid").exists()
    assert (supervisor.run_dir / "test.sock").exists()
    assert supervisor.cli("status").returncode == 3
    gone(supervisor)
    # A stranger now has the number of the old master.
    (supervisor.run_dir / "test.pid").write_text(f"{os.getpid()}\n")
    supervisor.start()
    assert supervisor.stop() == 0
    assert not list(supervisor.run_dir.iterdir())


def test_a_stranger_with_the_number_of_an_old_process_is_left_alone(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES)
    supervisor.kill()
    gone(supervisor)
    # A login shell and what it runs, long after: their session has the number of the dead one.
    command = ["sh", "-c", "sleep 1000 & echo $!; wait"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as shell:
        try:
            assert shell.stdout is not None
            sleep = int(shell.stdout.readline())
            file = supervisor.state_dir / "slots" / "polite:0"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"pid": shell.pid}))
            supervisor.start()
            assert supervisor.stop() == 0
            assert lives(sleep)
            file.write_text(
                json.dumps(
                    {
                        "name": "polite:0",
                        "pid": shell.pid,
                        "started": 1,
                        "boot": kernel.BOOT,
                        "stop_timeout": 1.0,
                    }
                )
            )
            assert supervisor.cli("stop").returncode == 3
            assert lives(sleep)
        finally:
            os.killpg(shell.pid, signal.SIGKILL)

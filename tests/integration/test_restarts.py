"""What comes after a death: backoff, FATAL, exit 78, the words of `restart`, and readiness."""

from __future__ import annotations

import os
import re
import resource
import signal
from datetime import datetime
from itertools import pairwise

import pytest

from tests.conftest import Supervise
from tests.helpers import patience
from tests.helpers.driver import Line, Supervisor
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

WAYS = """
import os
import signal
import sys
from ledger import has, is_open, note, sit
from workers import Worker

def steady(context):
    sit(context.name)
    context.wait(1e6)

def ends(context):
    '''Leave with the code of the option, or by a signal where it is negative.'''
    sit(context.name)
    code = int(context.options["code"])
    if code < 0:
        os.kill(os.getpid(), -code)
    sys.exit(code)

def until_open(context):
    '''Fail until the gate is open.'''
    sit(context.name)
    if is_open("gate"):
        context.wait(1e6)
    raise RuntimeError("still closed")

def talks(context):
    while not context.wait(0.001):
        print("word")

class InTurns(Worker):
    '''Fail over and over, never while the other one of the two is between two lives.'''
    def setup(self):
        job, number = self.context.name.split(":")
        life = 1
        while has("life", job, number, life):
            life += 1
        note("life", job, number, life)
        awaited = life + 1 if number == "1" else life
        while not has("life", job, 1 - int(number), awaited):
            if self.context.wait(0.005):
                return
        raise SystemExit(1)

class NeverReady(Worker):
    def setup(self):
        self.stuck_in_setup()
    def stuck_in_setup(self):
        sit(self.context.name)
        while True:
            signal.pause()
"""

MODULES = {"ledger": SOURCE, "ways": WAYS}

STEADY = section("steady", target="ways:steady", backoff=0)


def ending(name: str, code: int, **keys: object) -> str:
    """Write the section of a job that ends with this code."""
    # Nobody counts as stable because the machine stood still.
    usual = {"target": "ways:ends", "required": "no", "backoff": "10ms", "stable_after": "1h"}
    return section(name, option_code=code, **(usual | keys))


def restart_steady(supervisor: Supervisor) -> Line:
    """Kill `steady` and wait for its next process: an event after which others have had time."""
    before = supervisor.process("steady:0")
    os.kill(before["pid"], signal.SIGKILL)
    return supervisor.wait_process(
        "steady:0", lambda row: row["restarts"] > before["restarts"] and row["ready"]
    )


def test_a_flapping_job_waits_ever_longer_and_then_gives_up(supervise: Supervise) -> None:
    jobs = STEADY + ending("flaps", 1, backoff="100ms", max_failures=5)
    supervisor = supervise(jobs, MODULES)
    fatal = supervisor.wait_state("flaps:0", "FATAL")
    assert fatal["restarts"] == 4
    assert fatal["failures"] == 5
    assert fatal["last_exit"]["code"] == 1
    assert fatal["last_exit"]["cause"] == "exited"
    assert fatal["pid"] is None
    assert not fatal["ready"]
    assert fatal["why"] == "exit 1: 5 failures within 600s"
    waits = [
        float(found[1])
        for message in supervisor.messages("flaps")
        if (found := re.search(r"RUNNING -> BACKOFF: .*next start in ([\d.]+)s", message))
    ]
    # 0.1, 0.2, 0.4, 0.8 s with a jitter of 20 %; a busy machine says what is left, and is late.
    assert len(waits) == 4
    begun = [
        datetime.fromisoformat(event["at"]).timestamp()
        for event in supervisor.call("events", names=["flaps"])
        if event["to"] == "STARTING"
    ]
    for step, (said, (one, next_)) in enumerate(zip(waits, pairwise(begun), strict=True)):
        assert said < 0.12 * 2**step + 0.06, waits
        assert next_ - one > 0.08 * 2**step - 0.01, begun
    error = supervisor.wait_line(lambda line: bool(line["level"] == "error"))
    assert error["message"].startswith("flaps:0 RUNNING -> FATAL: exit 1: ")
    assert restart_steady(supervisor)["restarts"] == 1, "the others come back at once"
    assert len(Ledger(supervisor).pids("sit", "flaps:0")) == 5


def test_a_clean_exit_that_comes_too_soon_is_a_failure_too(supervise: Supervise) -> None:
    supervisor = supervise(STEADY + ending("flaps", 0, max_failures=3), MODULES)
    assert supervisor.wait_state("flaps:0", "FATAL")["restarts"] == 2


def test_after_a_stable_run_the_backoff_begins_anew(supervise: Supervise) -> None:
    # Every run counts as stable: no clean exit is a failure, and no wait is longer than the first.
    jobs = STEADY + ending("ends", 0, stable_after=0, max_failures=2)
    supervisor = supervise(jobs, MODULES)
    assert supervisor.wait_process("ends:0", lambda row: row["restarts"] >= 8)["failures"] == 0


def test_never_ready_is_killed_and_a_failure(supervise: Supervise) -> None:
    keys = {"target": "ways:NeverReady", "required": "no", "backoff": "10ms", "max_failures": 2}
    modules = MODULES | patience.MODULES
    jobs = STEADY + section("never", ready_timeout="10m", **keys)
    supervisor = supervise(jobs, modules, settings=patience.KILL_IF_SHOWN)
    Ledger(supervisor).wait("sit", "never:0")
    supervisor.configure(STEADY + section("never", ready_timeout="500ms", **keys))
    supervisor.call("reload")
    told = supervisor.wait_line("in stuck_in_setup")
    assert (told["job"], told["stream"]) == ("never", "stderr")
    Ledger(supervisor).open("shown")
    fatal = supervisor.wait_state("never:0", "FATAL")
    assert fatal["restarts"] == 1
    assert (fatal["last_exit"]["signal"], fatal["last_exit"]["cause"]) == ("KILL", "not-ready")
    events = [
        (event["from"], event["to"])
        for event in supervisor.call("events", names=["never"])
        if event["to"] != "STARTING"
    ]
    assert events == [
        ("STARTING", "STOPPING"),
        ("STOPPING", "BACKOFF"),
        ("STARTING", "STOPPING"),
        ("STOPPING", "FATAL"),
    ]


@pytest.mark.parametrize("kind", ["worker", "program"])
def test_exit_78_is_fatal_at_once(supervise: Supervise, kind: str) -> None:
    if kind == "worker":
        jobs = ending("wrong", 78, backoff=0)
    else:
        command = "sh -c 'echo sit wrong:0 0 $$$$ >>ledger; exit 78'"
        jobs = section("wrong", command=command, required="no", backoff=0)
    supervisor = supervise(STEADY + jobs, MODULES)
    fatal = supervisor.wait_state("wrong:0", "FATAL")
    assert fatal["last_exit"]["cause"] == "configuration"
    assert fatal["last_exit"]["code"] == 78
    assert fatal["next_start_s"] is None
    restart_steady(supervisor)
    assert supervisor.process("wrong:0")["restarts"] == 0
    assert len(Ledger(supervisor).pids("sit", "wrong:0")) == 1
    # An operator who has mended it starts it by hand.
    assert supervisor.cli("start", "wrong").returncode in (0, 1)
    supervisor.wait_process("wrong:0", lambda row: row["restarts"] == 1)


def test_78_can_be_an_expected_exit(supervise: Supervise) -> None:
    jobs = ending("odd", 78, restart="on-failure", expected_exits="0, 78")
    supervisor = supervise(STEADY + jobs, MODULES)
    assert supervisor.wait_state("odd:0", "EXITED")["ready"]


def test_the_three_words_of_restart(supervise: Supervise) -> None:
    expected = {
        "failure-good": ("on-failure", 0, "EXITED"),
        "failure-three": ("on-failure", 3, "EXITED"),
        "never-good": ("never", 0, "EXITED"),
        "never-three": ("never", 3, "EXITED"),
        "never-bad": ("never", 1, "FATAL"),
        "never-killed": ("never", -9, "FATAL"),
        "failure-bad": ("on-failure", 1, "FATAL"),  # after its max_failures
        "failure-killed": ("on-failure", -15, "FATAL"),
        "always-three": ("always", 3, "FATAL"),  # too soon, each time
    }
    jobs = STEADY + "".join(
        ending(name, code, restart=word, expected_exits="0, 3", max_failures=2)
        for name, (word, code, _) in expected.items()
    )
    supervisor = supervise(jobs, MODULES)
    rows = {
        name: supervisor.wait_state(f"{name}:0", state) for name, (*_, state) in expected.items()
    }
    restarts = {name: row["restarts"] for name, row in rows.items()}
    again = {"failure-bad", "failure-killed", "always-three"}
    assert restarts == {name: int(name in again) for name in expected}
    assert {name for name, row in rows.items() if row["ready"]} == {
        name for name, (*_, state) in expected.items() if state == "EXITED"
    }
    assert rows["never-killed"]["last_exit"]["signal"] == "KILL"
    assert rows["never-killed"]["last_exit"]["cause"] == "signaled"
    assert supervisor.process("steady:0")["restarts"] == 0
    assert supervisor.stop() == 0


def test_the_master_lives_on_when_all_jobs_have_ended(supervise: Supervise) -> None:
    supervisor = supervise(ending("once", 0, restart="never", required="yes"), MODULES)
    supervisor.wait_state("once:0", "EXITED")
    assert supervisor.cli("status", "--check").returncode == 0
    # By hand it runs once more.
    assert supervisor.cli("start", "once").returncode == 0
    supervisor.wait_process("once:0", lambda row: row["restarts"] == 1 and row["state"] == "EXITED")
    assert supervisor.stop() == 0


def test_a_start_of_what_ends_at_once_is_answered_by_its_end(supervise: Supervise) -> None:
    # Beside one who talks, READY is often read together with the death, and after it.
    jobs = section("talks", target="ways:talks")
    jobs += ending("good", 0, restart="never") + ending("bad", 1, restart="never")
    supervisor = supervise(jobs, MODULES)
    for name, state in (("good:0", "EXITED"), ("bad:0", "FATAL")):
        supervisor.wait_state(name, state)
    for _ in range(10):
        assert not refusal(supervisor, "good")
        said = refusal(supervisor, "bad")
        assert not said or "bad:0 is FATAL: exit 1" in said, "not seen ready for a moment either"
        supervisor.wait_state("bad:0", "FATAL")


def refusal(supervisor: Supervisor, job: str) -> str:
    """Start a job by hand; give what the master says against it."""
    try:
        supervisor.call("start", names=[job])
    except AssertionError as answer:
        return str(answer)
    return ""


def test_only_required_jobs_count_for_ready(supervise: Supervise) -> None:
    jobs = section("extra", target="ways:until_open", required="no", backoff="10ms", max_failures=2)
    supervisor = supervise(STEADY + jobs, MODULES)
    supervisor.wait_state("extra:0", "FATAL")
    assert supervisor.cli("status", "--check").returncode == 0
    assert supervisor.cli("status", "extra", "--check").returncode == 1
    supervisor.cli("stop", "steady")
    assert supervisor.cli("status", "--check").returncode == 1


def test_a_fatal_job_is_tried_again_after_fatal_retry(supervise: Supervise) -> None:
    jobs = section(
        "later",
        target="ways:until_open",
        required="no",
        backoff="10ms",
        max_failures=2,
        fatal_retry="200ms",
    )
    supervisor = supervise(STEADY + jobs, MODULES)
    supervisor.wait_state("later:0", "FATAL")
    Ledger(supervisor).open("gate")
    assert supervisor.wait_state("later:0", "RUNNING")["restarts"] >= 2


def test_a_start_by_hand_forgives_the_failures(supervise: Supervise) -> None:
    minutes = {"backoff": "10m", "backoff_max": "10m"}
    jobs = section("later", target="ways:until_open", required="no", max_failures=3, **minutes)
    supervisor = supervise(STEADY + jobs, MODULES)
    waiting = supervisor.wait_state("later:0", "BACKOFF")
    assert waiting["failures"] == 1
    assert waiting["next_start_s"] > 1
    # It does not wait for its backoff. Whether it was ready or is dead again, both are true.
    assert supervisor.cli("restart", "later").returncode in (0, 1)
    supervisor.wait_process("later:0", lambda row: row["restarts"] == 1 and row["failures"] == 1)
    Ledger(supervisor).open("gate")
    assert supervisor.cli("start", "later").returncode == 0
    assert supervisor.wait_state("later:0", "RUNNING")["failures"] == 0


def test_several_that_fail_over_and_over_are_told_of_without_waiting_for_luck(
    supervise: Supervise,
) -> None:
    keys = {"target": "ways:InTurns", "required": "no", "backoff": 0, "max_failures": 1_000_000}
    supervisor = supervise(STEADY + section("web", processes=0, **keys), MODULES)
    for command in (("scale", "web=2"), ("start", "web")):
        done = supervisor.cli(*command)
        assert done.returncode == 1
        for name in ("web:0", "web:1"):
            assert f"{name} is BACKOFF: exit 1" in done.stderr
    supervisor.configure(STEADY + section("other", processes=2, **keys))
    done = supervisor.cli("reload")
    assert done.returncode == 1
    assert "other:0 is BACKOFF: exit 1" in done.stdout + done.stderr


def test_a_killed_process_is_replaced_at_once(supervise: Supervise) -> None:
    supervisor = supervise(section("steady", target="ways:steady", backoff=0, processes=4), MODULES)
    pids = supervisor.pids()
    for pid in pids.values():
        os.kill(pid, signal.SIGKILL)
    for name, pid in pids.items():
        row = supervisor.wait_process(name, lambda row: row["restarts"] == 1 and row["ready"])
        assert row["pid"] != pid
        assert row["last_exit"]["signal"] == "KILL"
        assert row["last_exit"]["cause"] == "signaled"
    assert Ledger(supervisor).no_twins()


def test_a_master_without_descriptors_waits_for_some(supervise: Supervise) -> None:
    supervisor = supervise(STEADY, MODULES)
    pid = supervisor.process("steady:0")["pid"]
    free = resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, (8, free[1]))
    os.kill(pid, signal.SIGKILL)
    supervisor.wait_line("cannot open the pipes of a new process: Too many open files")
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, free)
    row = supervisor.wait_state("steady:0", "RUNNING")
    assert row["restarts"] == 1
    assert row["failures"] == 1, "the kill, and not that the machine had nothing to give"

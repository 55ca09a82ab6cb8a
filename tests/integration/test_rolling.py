"""`restart`, `signal`: one process after the other, and what a bad one stops."""

from __future__ import annotations

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

WORK = """
import signal
from ledger import has, is_open, note, sit
from supervisor.slot import OVERDUE
from workers import Worker, report

class Work(Worker):
    def setup(self):
        signal.signal(signal.SIGUSR1, lambda *_: note("usr1", self.name))
        sit(self.name)
        if is_open("broken"):
            raise RuntimeError("the new code is wrong")
        while is_open("slow") and not is_open("quick"):
            self.context.wait(0.01)

    def run(self, context):
        while not context.wait(0.01):
            pass

class Overdue(Work):
    def run(self, context):
        if not has("overdue"):
            note("overdue")
            report._HANDLER.report.line(OVERDUE)
            while not is_open("go"):
                context.stop.fast.wait(0.01)
        super().run(context)
"""

SLOW = """
from ledger import is_open, note, sit

def slow(context):
    sit(context.name)
    context.wait(1e6)
    note("asked", context.name)
    while not is_open(context.name):
        context.stop.fast.wait(0.01)
"""

MODULES = {"ledger": SOURCE, "work": WORK, "slow": SLOW}

KEYS = {"target": "work:Work", "backoff": "60s", "backoff_max": "60s"}


def order(supervisor: Supervisor) -> list[tuple[str, str]]:
    """Give who became what, in order, of the transitions that a roll makes."""
    events = supervisor.call("events", names=[])
    return [(event["name"], event["to"]) for event in events]


def test_the_next_is_touched_only_when_the_former_is_ready(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=3, **KEYS), MODULES)
    before, seen = supervisor.pids(), len(order(supervisor))
    done = supervisor.cli("restart", "web")
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["web:0", "web:1", "web:2"]
    assert order(supervisor)[seen:] == [
        (f"web:{number}", state)
        for number in range(3)
        for state in ("STOPPING", "STARTING", "RUNNING")
    ]
    assert not set(before.values()) & set(supervisor.pids().values())


def test_one_that_does_not_get_ready_stops_the_roll_and_is_named(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=3, **KEYS), MODULES)
    before = supervisor.pids()
    supervisor.write("broken", "")
    done = supervisor.cli("restart", "web")
    assert done.returncode == 1
    assert "web:0 is BACKOFF: exit 1 (1 of 10); 2 more left as they were" in done.stderr
    after = supervisor.pids()
    assert (after["web:1"], after["web:2"]) == (before["web:1"], before["web:2"])


def test_a_roll_goes_on_without_the_one_who_asked(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=4, **KEYS), MODULES)
    before = supervisor.pids()
    supervisor.write("slow", "")
    with supervisor.start_call("restart", names=[]):
        Ledger(supervisor).wait("sit", "web:0", count=2)
    supervisor.write("quick", "")
    eventually(lambda: not set(before.values()) & set(supervisor.pids().values()))
    supervisor.wait_ready()


def test_without_a_name_all_but_the_stopped_are_rolled_and_the_master_stays(
    supervise: Supervise,
) -> None:
    supervisor = supervise(
        section("web", processes=2, **KEYS) + section("mail", processes=2, **KEYS), MODULES
    )
    supervisor.call("stop", names=["mail:1"])
    before = supervisor.pids()
    done = supervisor.cli("restart")
    assert done.returncode == 0, done.stderr
    after = supervisor.pids()
    assert after["mail:1"] is None, "what was stopped on purpose stays so"
    moved = [name for name in after if before[name] != after[name]]
    assert moved == ["web:0", "web:1", "mail:0"]
    supervisor.call("restart", names=["mail:1"])
    assert supervisor.process("mail:1")["state"] == "RUNNING", "unless it is named"


def test_a_roll_calls_nobody_back_whom_a_scale_has_sent_away(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=3, target="slow:slow"), MODULES)
    ledger = Ledger(supervisor)
    asked = [supervisor.start_call("restart", names=["web"])]
    ledger.wait("asked", "web:0")
    asked.append(supervisor.start_call("scale", jobs={"web": 1}))
    ledger.wait("asked", "web:1")
    ledger.wait("asked", "web:2")
    supervisor.write("web:0", "")
    ledger.wait("sit", "web:0", count=2)
    # The roll is over with web:0, and comes to those who drain for good.
    eventually(lambda: supervisor.process("web:0")["ready"])
    supervisor.write("web:1", "")
    supervisor.write("web:2", "")
    for connection in asked:
        assert supervisor.answer(connection)["ok"]
    assert list(supervisor.pids()) == ["web:0"]


def test_a_failure_of_the_former_process_is_none_of_the_next(supervise: Supervise) -> None:
    keys = KEYS | {"target": "work:Overdue", "stop_timeout": "600s"}
    supervisor = supervise(section("web", **keys), MODULES, start=False)
    supervisor.start(wait=False)
    supervisor.wait_line("RUNNING -> STOPPING: a handler has taken longer")
    asked = supervisor.start_call("restart", names=["web"])
    supervisor.status()  # the wish is most likely known by now; what comes of it is the same if not
    Ledger(supervisor).open("go")
    assert supervisor.answer(asked)["ok"]
    row = supervisor.process("web:0")
    assert row["ready"]
    assert row["last_exit"]["cause"] == "timeout"


def test_two_rolls_of_a_job_take_turns(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=3, **KEYS), MODULES)
    seen = len(order(supervisor))
    wishes = (["web"], ["web:2", "web:1"])
    asked = [supervisor.start_call("restart", names=names) for names in wishes]
    for connection in asked:
        assert supervisor.answer(connection)["ok"]
    away = 0
    for _, state in order(supervisor)[seen:]:
        away += {"STOPPING": 1, "STARTING": 0, "RUNNING": -1}[state]
        assert away <= 1


def test_single_processes_and_patterns_are_stopped_and_started(supervise: Supervise) -> None:
    supervisor = supervise(
        section("web", processes=2, **KEYS) + section("mail", processes=2, **KEYS), MODULES
    )
    before = supervisor.pids()
    supervisor.call("stop", names=["web:0", "*:1"])
    states = {row["name"]: row["state"] for row in supervisor.status()["processes"]}
    assert states == {
        "web:0": "STOPPED",
        "web:1": "STOPPED",
        "mail:0": "RUNNING",
        "mail:1": "STOPPED",
    }
    assert supervisor.pids()["mail:0"] == before["mail:0"]
    done = supervisor.cli("start", "w*", "mail:1")
    assert done.returncode == 0, done.stderr
    assert supervisor.status()["master"]["ready"]


def test_a_signal_reaches_the_process_itself(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=2, **KEYS), MODULES)
    pid = supervisor.pids()["web:1"]
    done = supervisor.cli("signal", "web:1", "usr1")
    assert (done.returncode, done.stdout) == (0, "web:1: sent usr1\n"), done.stderr
    assert Ledger(supervisor).wait("usr1") == [pid]


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (("web", "NOPE"), 2, "no such signal: 'NOPE'"),
        (("web", "99"), 2, "no such signal: '99'"),
        (("wbe", "HUP"), 4, "no such job: wbe; did you mean web"),
        (("web", "mail", "HUP"), 1, "no process to signal: mail:0; nothing was sent"),
    ],
)
def test_a_signal_that_cannot_be_sent_is_refused_in_one_line(
    supervise: Supervise, words: tuple[str, ...], code: int, complaint: str
) -> None:
    supervisor = supervise(section("web", **KEYS) + section("mail", **KEYS), MODULES)
    supervisor.call("stop", names=["mail"])
    before = supervisor.pids()
    done = supervisor.cli("signal", *words)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1, done.stderr
    assert complaint in done.stderr
    assert supervisor.pids() == before


def test_a_restart_says_where_new_code_comes_from(supervise: Supervise) -> None:
    supervisor = supervise(section("web", **KEYS), MODULES, settings={"preload": "handlers"})
    done = supervisor.cli("restart")
    assert done.returncode == 0
    assert "new code comes only with a restart of the supervisor itself" in done.stderr

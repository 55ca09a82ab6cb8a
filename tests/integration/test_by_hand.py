"""What is changed on the running system: `scale`, `quiet`, `resume`, TSTP."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

WORK = """
import sys
from ledger import is_open, note, sit
from workers import Worker

class Work(Worker):
    def setup(self):
        sit(self.name)
        if is_open("broken"):
            raise RuntimeError("wrong")

    def run(self, context):
        print("hello from", self.name)
        while not context.wait(0.01):
            pass
        note("asked", self.name)
        while is_open("slow") and not is_open("quick"):
            context.wait(0.01)

def run(context):
    note("run")

def handle(message, context):
    note("begin", message.data)
    while message.data == "long" and not is_open("finish"):
        context.wait(0.01)
    note("end", message.data)
"""

MODULES = {"ledger": SOURCE, "work": WORK}

KEYS: dict[str, Any] = {"target": "work:Work", "backoff": "60s", "backoff_max": "60s"}

QUEUE = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="work:handle",
    concurrency=1,
    progress_timeout="300ms",
    heartbeat_timeout="5s",  # beats come each second, on a machine that may stand still
)


def job(supervisor: Supervisor, name: str) -> Any:
    return next(row for row in supervisor.status()["jobs"] if row["name"] == name)


def title(pid: int | None) -> str:
    return kernel.title_of(pid or 0)


# --- scale -------------------------------------------------------------------------------------


def test_more_and_fewer_processes_and_the_others_are_not_touched(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=2, **KEYS) + section("mail", **KEYS), MODULES)
    before = supervisor.pids()
    done = supervisor.cli("scale", "web=4")
    assert (done.returncode, done.stdout) == (0, "web: 4 (file: 2)\n"), done.stderr
    more = supervisor.pids()
    assert list(more) == ["web:0", "web:1", "web:2", "web:3", "mail:0"], "in the order of the file"
    assert {name: more[name] for name in before} == before
    assert (job(supervisor, "web")["processes"], job(supervisor, "web")["file"]) == (4, 2)
    assert "by hand: web: 4 (file: 2)" in supervisor.cli("status").stdout
    done = supervisor.cli("scale", "web=1", "mail=2")
    assert (done.returncode, done.stdout) == (0, "web: 1 (file: 2)\nmail: 2 (file: 1)\n")
    fewer = supervisor.pids()
    assert list(fewer) == ["web:0", "mail:0", "mail:1"]
    assert (fewer["web:0"], fewer["mail:0"]) == (before["web:0"], before["mail:0"])
    assert supervisor.cli("scale", "web=2", "mail=1").stdout == "web: 2\nmail: 1\n"
    assert "by hand" not in supervisor.cli("status").stdout


def test_who_has_to_go_drains_first(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=3, **KEYS), MODULES)
    supervisor.write("slow", "")
    before = supervisor.pids()
    ledger = Ledger(supervisor)
    supervisor.start_call("scale", jobs={"web": 1})
    assert sorted(ledger.wait("asked", count=2)) == sorted(
        [before["web:1"], before["web:2"]]  # type: ignore[type-var]  # both run
    )
    assert supervisor.process("web:2")["state"] == "STOPPING"
    assert supervisor.status()["master"]["ready"], "they are not missed"
    ledger.open("quick")
    eventually(lambda: list(supervisor.pids()) == ["web:0"])
    assert supervisor.cli("logs", "web:2").returncode == 4, "its last lines are gone with it"
    assert not (supervisor.state_dir / "slots" / "web:2").exists()


def test_one_that_is_called_back_while_it_leaves_comes_back(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=2, **KEYS), MODULES)
    supervisor.write("slow", "")
    before = supervisor.pids()
    ledger = Ledger(supervisor)
    supervisor.start_call("scale", jobs={"web": 1})
    ledger.wait("asked", "web:1")
    refused = supervisor.cli("start", "web:1")
    assert (refused.returncode, "drains for good" in refused.stderr) == (1, True)
    supervisor.start_call("scale", jobs={"web": 2})
    eventually(lambda: job(supervisor, "web")["processes"] == 2)
    ledger.open("quick")
    supervisor.wait_process("web:1", lambda row: row["ready"] and row["pid"] != before["web:1"])
    assert supervisor.pids()["web:0"] == before["web:0"]
    assert ledger.no_twins()


def test_none_at_all_and_back_again(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=2, **KEYS), MODULES)
    assert supervisor.cli("scale", "web=0").returncode == 0
    assert supervisor.status()["processes"] == []
    assert "by hand: web: 0 (file: 2)" in supervisor.cli("status", "web").stdout
    for word in ("start", "restart"):
        done = supervisor.cli(word, "web")
        assert (done.returncode, done.stdout) == (0, "")
        assert done.stderr.startswith(f"nothing was {word}ed; ")
        assert "`supervisor scale NAME=N`" in done.stderr
    assert supervisor.cli("scale", "web=2").returncode == 0
    assert supervisor.status()["master"]["ready"]
    assert Ledger(supervisor).no_twins()


def test_new_processes_that_fail_are_told(supervise: Supervise) -> None:
    supervisor = supervise(section("web", **KEYS), MODULES)
    supervisor.write("broken", "")
    done = supervisor.cli("scale", "web=2")
    assert done.returncode == 1
    assert "web:1 is BACKOFF: exit 1" in done.stderr


@pytest.mark.parametrize(
    ("wishes", "code", "complaint"),
    [
        (("web",), 2, "NAME=N is expected"),
        (("web=-1",), 2, "NAME=N is expected"),
        (("web=1", "web=2"), 2, "each NAME once"),
        (("web=4097",), 2, "0 to 4096"),
        (("web=4096",), 1, "4097 processes in all; at most 4096 for all jobs"),
        (("wbe=2",), 4, "did you mean web?"),
        (("web:0=2",), 4, "no such job: web:0"),
        (("w*=2",), 2, "the name of one job, without patterns"),
        (("web=3", "none=2"), 4, "no such job: none"),
    ],
)
def test_a_scale_that_makes_no_sense_changes_nothing(
    supervise: Supervise, wishes: tuple[str, ...], code: int, complaint: str
) -> None:
    supervisor = supervise(section("web", **KEYS) + section("mail", **KEYS), MODULES)
    before = supervisor.pids()
    done = supervisor.cli("scale", *wishes)
    assert done.returncode == code, done.stderr
    assert complaint in done.stderr
    assert done.stderr.count("\n") == 1
    assert supervisor.pids() == before


# --- quiet -------------------------------------------------------------------------------------


def publish(supervisor: Supervisor, *data: str) -> None:
    done = supervisor.cli("publish", "orders", stdin="".join(f'"{one}"\n' for one in data))
    assert done.returncode == 0, done.stderr


def test_a_quiet_consumer_finishes_what_it_has_and_takes_nothing_new(supervise: Supervise) -> None:
    supervisor = supervise(QUEUE, MODULES)
    ledger = Ledger(supervisor)
    publish(supervisor, "long", "first", "second")
    (pid,) = ledger.wait("begin", "long")
    done = supervisor.cli("quiet", "orders")
    assert (done.returncode, done.stdout) == (0, "orders:0 quiet\n"), done.stderr
    eventually(lambda: "quiet" in title(pid))
    ledger.open("finish")
    assert ledger.wait("end", "long") == [pid]

    # What it had fetched and not begun is free for others.
    def given_back() -> bool:
        (row,) = supervisor.json("queue", "list")
        return (row["depth"], row["in_flight"]) == (2, 0)

    eventually(given_back)
    # Longer than progress_timeout and heartbeat_timeout: it is neither stuck nor hung.
    since = supervisor.process("orders:0")["uptime_s"]
    found = supervisor.wait_process("orders:0", lambda one: one["uptime_s"] > since + 6)
    assert (found["pid"], found["ready"], found["quiet"], found["done"]) == (pid, True, True, 1)
    assert "quiet" in supervisor.cli("status").stdout
    assert supervisor.cli("resume", "orders").stdout == "orders:0 resumed\n"
    ledger.wait("end", "second")
    assert supervisor.pids()["orders:0"] == pid


def test_tstp_quiets_all_and_what_is_born_then_is_quiet_too(supervise: Supervise) -> None:
    supervisor = supervise(
        QUEUE
        + section("tick", type="scheduled", handler="work:run", interval="50ms")
        + section("web", **KEYS),
        MODULES,
    )
    ledger = Ledger(supervisor)
    ledger.wait("run")
    supervisor.send(signal.SIGTSTP)
    for name in ("orders:0", "tick:0", "web:0"):
        eventually(lambda name=name: "quiet" in title(supervisor.pids()[name]))
    eventually(lambda: title(supervisor.pid).endswith("(quiet)"))
    runs = len(ledger.pids("run"))
    publish(supervisor, "one")
    supervisor.call("restart", names=["orders"])
    supervisor.call("scale", jobs={"orders": 2})
    rows = supervisor.status()["processes"]
    assert [row["quiet"] for row in rows] == [True] * 4
    eventually(lambda: "quiet" in title(supervisor.pids()["orders:0"]))
    eventually(lambda: "quiet" in title(supervisor.pids()["orders:1"]))
    assert ledger.pids("begin") == []
    assert len(ledger.pids("run")) <= runs + 1, "one that had just begun"
    supervisor.call("resume", names=[])
    ledger.wait("end", "one")
    ledger.wait("run", count=runs + 1)
    eventually(lambda: title(supervisor.pid).endswith("(ready)"))


def test_a_program_cannot_be_told(supervise: Supervise) -> None:
    supervisor = supervise(section("sleep", command="sleep 1000") + QUEUE, MODULES)
    done = supervisor.cli("quiet", "sleep")
    assert done.returncode == 1
    assert "a program cannot be told to be quiet: sleep:0; stop it" in done.stderr
    done = supervisor.cli("quiet")
    assert (done.returncode, done.stdout) == (0, "orders:0 quiet\n")
    assert "not told, as they are programs: sleep:0" in done.stderr


def test_a_quiet_process_drains_like_any_other(supervise: Supervise) -> None:
    supervisor = supervise(QUEUE, MODULES)
    supervisor.call("quiet", names=[])
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()

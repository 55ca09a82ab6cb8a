"""The reload: what is planned, what is touched and what is not, and the way back."""

from __future__ import annotations

import json
import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

WORK = """
from ledger import has, is_open, note, sit
from workers import Worker

class Work(Worker):
    def setup(self):
        sit(self.name)
        note("colour", self.name, self.context.options.get("colour", "-"))
        if self.context.options.get("colour") == "black" and self.name.endswith(FAILS):
            raise RuntimeError("no such colour")

    def run(self, context):
        while not context.wait(0.01):
            pass

FAILS = (":0", ":1", ":2")

class Late(Work):
    def setup(self):
        super().setup()
        while not is_open("go") and not self.context.wait(0.01):
            pass

class Back(Work):
    def setup(self):
        super().setup()
        while has("colour", self.name, "black") and not self.context.wait(0.01):
            pass

class Slow(Work):
    def run(self, context):
        context.wait(1e6)
        note("asked", self.name)
        while not is_open("go"):
            context.stop.fast.wait(0.01)
"""

SLOW = """
import time
from ledger import is_open, note
note("importing")
while not is_open("imported"):
    time.sleep(0.01)
def run(context):
    context.wait(1e6)
"""

MODULES = {"ledger": SOURCE, "work": WORK, "slow": SLOW}

KEYS: dict[str, Any] = {"target": "work:Work", "backoff": "60s", "backoff_max": "60s"}

WEB = section("web", processes=2, **KEYS)
MAIL = section("mail", **KEYS)


def steps(report: Any) -> dict[str, tuple[str, list[str]]]:
    return {step["name"]: (step["change"], step["fields"]) for step in report["jobs"]}


def generation(supervisor: Supervisor) -> int:
    found: int = supervisor.status()["master"]["generation"]
    return found


def test_each_job_gets_what_its_change_needs(supervise: Supervise) -> None:
    supervisor = supervise(WEB + MAIL + section("old", **KEYS) + section("same", **KEYS), MODULES)
    before = supervisor.pids()
    jobs = (
        section("web", processes=3, stop_timeout="7s", **KEYS)
        + section("mail", option_colour="red", max_failures=3, **KEYS)
        + section("same", **KEYS)
        + section("new", processes=2, **KEYS)
    )
    supervisor.configure(jobs)
    wanted = {
        "web": ("applied live", ["processes", "stop_timeout"]),
        "mail": ("restart", ["max_failures", "option.colour"]),
        "same": ("unchanged", []),
        "new": ("added", []),
        "old": ("removed", []),
    }
    dry = supervisor.json("reload", "--dry-run")
    assert (dry["applied"], steps(dry)) == (False, wanted)
    assert (supervisor.pids(), generation(supervisor)) == (before, 1), "nothing was done"
    done = supervisor.json("reload")
    assert (done["applied"], done["errors"], steps(done)) == (True, [], wanted)
    after = supervisor.pids()
    assert list(after) == ["web:0", "web:1", "web:2", "mail:0", "same:0", "new:0", "new:1"]
    kept = [name for name in before if after.get(name) == before[name]]
    assert kept == ["web:0", "web:1", "same:0"]
    assert Ledger(supervisor).pids("colour", "mail:0", "red") == [after["mail:0"]]
    assert generation(supervisor) == 2
    assert supervisor.status()["master"]["ready"]
    assert [step["change"] for step in supervisor.json("reload")["jobs"]] == ["unchanged"] * 4


def test_a_live_change_takes_effect_at_once(supervise: Supervise) -> None:
    jobs = {"target": "work:Work", "backoff": "60s", "backoff_max": "60s"}
    supervisor = supervise(section("web", **jobs), MODULES)
    pid = supervisor.pids()["web:0"]
    supervisor.configure(section("web", **(jobs | {"backoff": "0", "restart": "never"})))
    supervisor.call("reload")
    assert supervisor.pids()["web:0"] == pid
    supervisor.call("signal", names=["web"], signal="KILL")
    assert supervisor.wait_state("web:0", "FATAL")["why"].endswith("restart = never")


@pytest.mark.parametrize(
    ("jobs", "complaint"),
    [
        ("[daemon:web]\ntype = worker\n", "[daemon:web] target: missing"),
        (WEB + "[daemon:mail]\ntype = worker\ntarget = work:Nothing\n", "work has no Nothing"),
        (WEB + "[daemon:mail]\ntype = worker\ntarget = nowhere:run\n", "cannot import nowhere"),
        ("no section\n", "test.ini:"),
        (section("web", log_file="/nowhere/log", **KEYS), "/nowhere"),
    ],
)
def test_an_invalid_file_changes_nothing_and_says_why(
    supervise: Supervise, jobs: str, complaint: str
) -> None:
    supervisor = supervise(WEB + MAIL, MODULES)
    before = supervisor.pids()
    supervisor.configure(jobs)
    done = supervisor.cli("reload")
    assert done.returncode == 78
    assert complaint in done.stderr
    assert f"{supervisor.conf}:" in done.stderr, "file and line"
    answer = json.loads(supervisor.cli("reload", "--json").stdout)
    assert (answer["applied"], answer["jobs"]) == (False, [])
    assert set(answer["errors"][0]) == {"file", "line", "section", "key", "message"}
    assert (supervisor.pids(), generation(supervisor)) == (before, 1)
    supervisor.configure(WEB + MAIL)
    assert supervisor.cli("reload").returncode == 0


def opened(pid: int) -> list[str]:
    """Give what another process has open; some of it may be closed while we look."""
    found = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            found.append(os.readlink(entry.path))
    return found


def test_a_file_that_is_refused_leaves_no_log_open(supervise: Supervise) -> None:
    supervisor = supervise(WEB + MAIL, MODULES)
    fine = supervisor.folder / "fine.log"
    supervisor.configure(
        section("web", log_file=fine, **KEYS) + section("mail", log_file="/nowhere/log", **KEYS)
    )
    (error,) = supervisor.call("reload")["errors"]
    assert "/nowhere" in error["message"]
    assert str(fine) not in opened(supervisor.pid)


def test_what_is_the_supervisors_own_waits_for_its_restart(supervise: Supervise) -> None:
    supervisor = supervise(WEB, MODULES)
    supervisor.configure(WEB, socket_mode="0660", preload="none", log_level="debug")
    found = supervisor.json("reload")
    assert [(step["change"], step["fields"]) for step in found["jobs"]] == [
        ("applied live", ["log_level"]),
        ("needs a restart of the supervisor", ["preload", "socket_mode"]),
        ("unchanged", []),
    ]
    again = supervisor.json("reload")
    assert next(step["change"] for step in again["jobs"]) == "needs a restart of the supervisor"


def test_a_form_that_does_not_get_ready_is_taken_back(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=3, option_colour="red", **KEYS) + MAIL, MODULES)
    before = supervisor.pids()
    supervisor.configure(
        section("web", processes=4, option_colour="black", max_failures=3, **KEYS)
        + section("mail", option_colour="blue", **KEYS)
    )
    done = supervisor.cli("reload")
    assert done.returncode == 1
    assert "web: web:0 is BACKOFF: exit 1 (1 of 3); back on its old settings" in done.stderr
    after = supervisor.pids()
    assert list(after) == ["web:0", "web:1", "web:2", "mail:0"]
    assert (after["web:1"], after["web:2"]) == (before["web:1"], before["web:2"])
    row = supervisor.process("web:0")
    assert (row["ready"], row["max_failures"]) == (True, 10)
    ledger = Ledger(supervisor)
    assert ledger.pids("colour", "web:0", "red")[-1] == after["web:0"]
    assert ledger.pids("colour", "mail:0", "blue") == [after["mail:0"]], "others go on"
    assert steps(supervisor.json("reload", "--dry-run"))["web"][0] == "restart", "and it is told"


def test_one_that_fails_later_takes_all_of_its_job_back(supervise: Supervise) -> None:
    modules = MODULES | {"work": WORK.replace('FAILS = (":0", ":1", ":2")', 'FAILS = ":2"')}
    supervisor = supervise(section("web", processes=3, option_colour="red", **KEYS), modules)
    supervisor.configure(section("web", processes=3, option_colour="black", **KEYS))
    done = supervisor.cli("reload")
    assert done.returncode == 1
    assert "web:2 is BACKOFF" in done.stderr
    supervisor.wait_ready()
    ledger = Ledger(supervisor)
    for name, pid in supervisor.pids().items():
        assert ledger.pids("colour", name, "red")[-1] == pid
    assert ledger.no_twins()


def test_a_hangup_reloads_and_the_log_tells_what_came_of_it(supervise: Supervise) -> None:
    supervisor = supervise(WEB, MODULES)
    supervisor.configure(WEB + MAIL)
    supervisor.send(signal.SIGHUP)
    supervisor.wait_line("reloaded, generation 2")
    assert supervisor.process("mail:0")["ready"]
    supervisor.configure("broken\n")
    supervisor.send(signal.SIGHUP)
    supervisor.wait_line("the configuration was not reloaded, nothing was changed")
    assert generation(supervisor) == 2


def test_the_master_goes_on_while_handlers_are_imported(supervise: Supervise) -> None:
    supervisor = supervise(section("web", processes=1, **(KEYS | {"backoff": "0"})), MODULES)
    supervisor.configure(WEB + section("slow", target="slow:run"))
    supervisor.start_call("reload")
    ledger = Ledger(supervisor)
    ledger.wait("importing")
    refused = supervisor.cli("reload")
    assert refused.returncode == 1
    assert "a reload is under way; ask again when it is over" in refused.stderr
    supervisor.send(signal.SIGHUP)
    supervisor.wait_line("a reload is under way; another one follows it")
    # A crash meanwhile is seen and answered.
    pid = supervisor.pids()["web:0"]
    supervisor.call("signal", names=["web"], signal="KILL")
    supervisor.wait_process("web:0", lambda row: row["ready"] and row["pid"] != pid)
    ledger.open("imported")
    supervisor.wait_line("reloaded, generation 3")
    assert supervisor.process("slow:0")["ready"]
    eventually(lambda: set(kernel.children(supervisor.pid)) == set(supervisor.pids().values()))


def test_systemd_is_told_of_a_reload_from_its_beginning_to_its_end(
    supervise: Supervise, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(PATIENCE_S)
        environment = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        supervisor = supervise(MAIL, MODULES, environment=environment)
        _until(manager, b"READY=1")
        supervisor.configure(MAIL + WEB)
        supervisor.send(signal.SIGHUP)
        begun = _until(manager, b"RELOADING=1")
        (usec,) = [line for line in begun.split(b"\n") if line.startswith(b"MONOTONIC_USEC=")]
        assert 0 < int(usec.partition(b"=")[2]) <= time.monotonic_ns() // 1000
        _until(manager, b"READY=1")
        assert supervisor.process("web:1")["ready"]


def _until(manager: socket.socket, word: bytes) -> bytes:
    """Hear the service out until it says that."""
    while word not in (said := manager.recv(65536)).split(b"\n"):
        pass
    return said


def test_a_log_level_reaches_who_runs_already(supervise: Supervise) -> None:
    modules = {
        "chatty": """
        def run(context):
            while not context.wait(0.02):
                context.logger.debug("a detail")
        """
    }
    jobs = section("chatty", target="chatty:run")
    supervisor = supervise(jobs, modules)
    supervisor.configure(jobs, log_level="debug")
    supervisor.call("reload")
    assert supervisor.wait_line("a detail")["pid"] == supervisor.pids()["chatty:0"]


def test_a_stop_breaks_a_check_off(supervise: Supervise) -> None:
    supervisor = supervise(WEB, MODULES)
    supervisor.configure(WEB + section("slow", target="slow:run"))
    asked = supervisor.start_call("reload")
    Ledger(supervisor).wait("importing")
    assert supervisor.stop() == 0
    report = supervisor.answer(asked)["result"]
    assert not report["applied"]
    assert "broken off, as the supervisor stops" in report["errors"][0]["message"]
    eventually(lambda: supervisor.tree() == ())


def test_a_stop_breaks_a_roll_off(supervise: Supervise) -> None:
    supervisor = supervise(WEB + MAIL, MODULES)
    supervisor.configure(
        section("web", processes=2, **(KEYS | {"target": "work:Late"}))
        + section("mail", option_colour="red", **KEYS)
    )
    supervisor.start_call("reload")
    Ledger(supervisor).wait("sit", "web:0", count=2)
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    assert not Ledger(supervisor).pids("colour", "mail:0", "red")


def test_a_stop_calls_nobody_in_whom_the_way_back_would(supervise: Supervise) -> None:
    keys = KEYS | {"target": "work:Back"}
    supervisor = supervise(section("web", processes=2, **keys), MODULES)
    supervisor.configure(section("web", processes=1, option_colour="black", **keys))
    asked = supervisor.start_call("reload")
    ledger = Ledger(supervisor)
    ledger.wait("sit", "web:0", count=3)
    assert supervisor.stop() == 0
    assert len(ledger.pids("sit", "web:1")) == 1
    failed = supervisor.answer(asked)["result"]["failed"]
    assert [one["name"] for one in failed] == ["web", "master"]


def test_what_was_changed_by_hand_survives(supervise: Supervise) -> None:
    supervisor = supervise(
        section("web", processes=3, **KEYS) + MAIL + section("tail", **KEYS), MODULES
    )
    supervisor.call("stop", names=["web:1", "tail"])
    supervisor.call("scale", jobs={"mail": 3})
    supervisor.call("quiet", names=[])
    before = supervisor.pids()
    supervisor.configure(
        section("web", processes=4, option_colour="red", **KEYS)
        + section("mail", processes=2, **KEYS)
        + section("tail", processes=2, **KEYS)
        + section("new", **KEYS)
    )
    done = supervisor.cli("reload")
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in supervisor.status()["processes"]}
    assert [name for name, row in rows.items() if row["state"] == "STOPPED"] == [
        "web:1",
        "tail:0",
        "tail:1",
    ]
    assert {name for name in rows if name.startswith("mail")} == {"mail:0", "mail:1", "mail:2"}
    assert [rows[f"mail:{n}"]["pid"] for n in range(3)] == [before[f"mail:{n}"] for n in range(3)]
    assert all(row["quiet"] for row in rows.values())
    jobs = {row["name"]: row for row in supervisor.status()["jobs"]}
    assert (jobs["mail"]["processes"], jobs["mail"]["file"]) == (3, 2)
    assert jobs["web"]["stopped"] == ["web:1"]
    assert "mail: 3 (file: 2)" in supervisor.cli("status").stdout
    supervisor.call("start", names=["web:1"])
    pid = supervisor.process("web:1")["pid"]
    assert Ledger(supervisor).pids("colour", "web:1", "red") == [pid], "in its new form"


def test_who_is_being_stopped_by_hand_is_not_called_back(supervise: Supervise) -> None:
    web = section("web", **(KEYS | {"target": "work:Slow", "stop_timeout": "600s"}))
    supervisor = supervise(web + MAIL, MODULES)
    ledger = Ledger(supervisor)
    supervisor.start_call("stop", names=["web"])
    ledger.wait("asked", "web:0")
    supervisor.call("restart", names=[])
    assert supervisor.process("web:0")["state"] == "STOPPING"
    supervisor.configure(web.replace("type", "option.colour = red\ntype") + MAIL)
    supervisor.start_call("reload")
    supervisor.wait_line("reload: web: restart (option.colour)")
    ledger.open("go")
    supervisor.wait_line("reloaded, generation 2")
    assert supervisor.process("web:0")["state"] == "STOPPED"
    supervisor.call("start", names=["web"])
    ledger.wait("colour", "web:0", "red")


def test_a_job_that_had_failed_gets_its_new_form_at_once(supervise: Supervise) -> None:
    supervisor = supervise(
        section("web", option_colour="black", required="no", **KEYS), MODULES, start=False
    )
    supervisor.start(wait=False)
    supervisor.wait_state("web:0", "BACKOFF")
    supervisor.configure(section("web", option_colour="red", required="no", **KEYS))
    assert supervisor.cli("reload").returncode == 0
    assert supervisor.process("web:0")["ready"]


def test_a_job_may_become_another_kind_of_work(supervise: Supervise) -> None:
    supervisor = supervise(MAIL, MODULES)
    supervisor.configure("[daemon:mail]\ntype = program\ncommand = sleep 1000\n")
    assert supervisor.cli("reload").returncode == 0
    assert supervisor.process("mail:0")["type"] == "program"
    supervisor.configure("")
    assert supervisor.cli("reload").returncode == 0
    assert supervisor.status()["processes"] == []


def test_a_daemon_keeps_its_log(supervise: Supervise) -> None:
    supervisor = supervise(MAIL, MODULES, start=False)
    assert supervisor.cli("start", "--daemonize").returncode == 0
    found = supervisor.json("reload")
    assert [step["change"] for step in found["jobs"]] == ["unchanged"]
    assert supervisor.cli("stop").returncode == 0


def test_a_pause_ends_when_the_new_settings_say_so(supervise: Supervise) -> None:
    supervisor = supervise(MAIL, MODULES)
    pid = supervisor.pids()["mail:0"]
    supervisor.call("signal", names=["mail"], signal="KILL")
    supervisor.wait_state("mail:0", "BACKOFF")
    supervisor.configure(section("mail", **(KEYS | {"backoff": "10ms"})))
    assert supervisor.cli("reload").returncode == 0
    supervisor.wait_process("mail:0", lambda row: row["ready"] and row["pid"] != pid)


def test_a_reload_does_not_wait_for_what_others_wait_for(supervise: Supervise) -> None:
    broken = section("web", option_colour="black", **KEYS)
    supervisor = supervise(MAIL, MODULES)
    supervisor.configure(MAIL + broken + section("after", depends_on="web", **KEYS))
    done = supervisor.cli("reload")
    assert done.returncode == 1
    assert "web: web:0 is BACKOFF" in done.stderr
    supervisor.configure(MAIL + broken.replace("black", "red") + section("after", **KEYS))
    assert supervisor.cli("reload").returncode == 0
    # It waits no more for anybody, and comes by itself: the reload is not answerable for that.
    eventually(lambda: all(row["ready"] for row in supervisor.status()["processes"]))

"""As PID 1 of a container: orphans arrive from everywhere, and none stays a zombie."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.pid_namespace import NEEDED, UNSHARE
from tests.helpers.sections import section

pytestmark = NEEDED

CROWD = """
import os
from ledger import note, sit

def orphans(context):
    '''Make orphans that end at once, and some that stay.'''
    sit(context.name)
    made = 0
    while not context.wait(0.002):
        if made < 200:
            orphan(stays=made % 20 == 0)
            made += 1
            if made == 200:
                note("made")

def orphan(stays):
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    os.closerange(0, 4096)
    if stays:
        os.execve("/bin/sleep", ["sleep", "1000"], {})
    os._exit(3)

def polite(context):
    sit(context.name)
    context.wait(1e6)
    note("left", context.name)

def fails(context):
    raise SystemExit(1)
"""

MODULES = {"ledger": SOURCE, "crowd": CROWD}


def zombies(master: int) -> list[int]:
    """Give the dead children of a process that it has not reaped."""
    return [pid for pid in kernel.children(master) if (facts := kernel.facts(pid)) and facts.zombie]


def sleepers(master: int) -> list[int]:
    return [pid for pid in kernel.children(master) if kernel.title_of(pid) == "sleep 1000"]


def test_as_pid_1_it_reaps_what_arrives_and_leaves_with_the_right_code(
    supervise: Supervise,
) -> None:
    jobs = section("crowd", target="crowd:orphans") + section("polite", target="crowd:polite")
    supervisor = supervise(jobs, MODULES, start=False).start(within=UNSHARE)
    (master,) = kernel.children(supervisor.pid)
    assert supervisor.status()["master"]["pid"] == 1
    Ledger(supervisor).wait("made")
    eventually(lambda: not zombies(master))
    eventually(lambda: len(sleepers(master)) == 10)
    sleeping = sleepers(master)
    # An orphan of somebody else, who has entered the namespace from outside.
    script = "(setsid sh -c 'exit 5' &) ; exit 0"
    enter = ["nsenter", f"--pid=/proc/{master}/ns/pid", f"--mount=/proc/{master}/ns/mnt"]
    subprocess.run([*enter, "sh", "-c", script], check=True)
    eventually(lambda: not zombies(master))
    assert [row["restarts"] for row in supervisor.status()["processes"]] == [0, 0]
    os.kill(master, signal.SIGTERM)
    assert supervisor.wait_exit() == 0
    assert Ledger(supervisor).pids("left")
    assert not any(Path(f"/proc/{pid}").exists() for pid in sleeping)


def test_as_pid_1_a_stop_from_the_command_line_works_too(supervise: Supervise) -> None:
    jobs = section("polite", target="crowd:polite")
    supervisor = supervise(jobs, MODULES, start=False).start(within=UNSHARE)
    done = supervisor.cli("stop")
    assert (done.returncode, done.stderr) == (0, "")
    assert supervisor.wait_exit() == 0


def test_as_pid_1_it_exits_1_where_on_fatal_says_so(supervise: Supervise) -> None:
    jobs = section("polite", target="crowd:polite") + section(
        "fails", target="crowd:fails", on_fatal="exit", max_failures=1
    )
    supervisor = supervise(jobs, MODULES, start=False).start(within=UNSHARE, wait=False)
    assert supervisor.wait_exit() == 1


def test_as_pid_1_a_second_master_finds_the_first_by_its_lock(supervise: Supervise) -> None:
    # Pids mean nothing between two namespaces; a lock does.
    jobs = section("polite", target="crowd:polite")
    supervisor = supervise(jobs, MODULES, start=False).start(within=UNSHARE)
    done = subprocess.run(
        [*UNSHARE, *_start(supervisor.conf)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 75
    assert "already running" in done.stderr
    assert supervisor.cli("stop").returncode == 0
    supervisor.wait_exit()


def _start(conf: Path) -> list[str]:
    return [sys.executable, "-m", "supervisor", "start", "-c", str(conf)]

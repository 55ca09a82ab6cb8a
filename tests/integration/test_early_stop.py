"""A stop that comes before the supervisor has begun: nothing is started, and it exits 0."""

from __future__ import annotations

import os
import signal

import pytest

from tests.conftest import Supervise
from tests.helpers import pid_namespace
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

HANGING = """
import time
from ledger import note
note("importing")
def wait():
    while True:
        time.sleep(0.01)
"""

SWALLOWING = (
    HANGING
    + """
try:
    wait()
except BaseException:
    pass
"""
)

MODULES = {
    "ledger": SOURCE,
    "hanging": HANGING + "wait()\n",
    "swallowing": SWALLOWING,
    "work": "def run(context):\n    context.wait(1e6)\n",
}

JOB = section("web", target="work:run")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("module", ["hanging", "swallowing"])
def test_during_the_preload(supervise: Supervise, module: str, number: int) -> None:
    supervisor = supervise(JOB, MODULES, settings={"preload": module}, start=False)
    supervisor.start(wait=False)
    Ledger(supervisor).wait("importing")
    assert supervisor.stop(number) == 0
    assert supervisor.errors() == "supervisor: asked to stop before anything was started\n"
    assert not [line for line in supervisor.log_lines() if line.get("job") == "web"]
    assert supervisor.tree() == ()


def test_during_the_check_of_the_handlers(supervise: Supervise) -> None:
    supervisor = supervise(section("web", target="hanging:run"), MODULES, start=False)
    supervisor.start(wait=False)
    Ledger(supervisor).wait("importing")
    assert supervisor.stop() == 0
    eventually(lambda: supervisor.tree() == ())


def test_a_reload_or_a_look_at_the_stacks_does_not_kill_it(supervise: Supervise) -> None:
    supervisor = supervise(JOB, MODULES, settings={"preload": "hanging"}, start=False)
    supervisor.start(wait=False)
    Ledger(supervisor).wait("importing")
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGTSTP):
        supervisor.send(number)
    assert supervisor.stop() == 0


@pid_namespace.NEEDED
def test_as_pid_1_which_no_signal_without_a_handler_reaches(supervise: Supervise) -> None:
    supervisor = supervise(JOB, MODULES, settings={"preload": "hanging"}, start=False)
    supervisor.start(wait=False, within=pid_namespace.UNSHARE)
    Ledger(supervisor).wait("importing")
    (inner,) = [pid for pid in supervisor.tree() if pid != supervisor.pid]
    os.kill(inner, signal.SIGTERM)
    assert supervisor.wait_exit() == 0

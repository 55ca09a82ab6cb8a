"""Starts, stops and restarts in any order, signals at any time, and a master that dies of -9."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
import sys
from contextlib import suppress
from typing import Any

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

STEPS = 120

WORK = """
import os
import signal
from ledger import join, sit

def plain(context):
    sit(context.name)
    context.wait(1e6)

def parent(context):
    sit(context.name)
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 4096)
        join(context.name)
        while True:
            signal.pause()
    context.wait(1e6)
"""

PROGRAM = """
import os
import signal
from ledger import sit
sit(os.environ["SUPERVISOR_PROCESS"].rpartition("/")[2])
signal.pause()
"""

MODULES = {"ledger": SOURCE, "work": WORK, "program": PROGRAM}

KEYS: dict[str, object] = {
    "processes": 2,
    "backoff": 0,
    "max_failures": 1_000_000,
    "stop_timeout": "1s",
    "ready_timeout": "2s",  # for one that is stopped before it is ready
}

JOBS = (
    section("plain", target="work:plain", **KEYS)
    + section("parent", target="work:parent", **KEYS)
    + section("patient", target="work:parent", **(KEYS | {"backoff": "10ms"}))
    + section("program", command=f"{sys.executable} -S program.py", depends_on="plain", **KEYS)
    + section("late", target="work:plain", depends_on="program:started, patient", **KEYS)
    + section("short", target="work:plain", max_lifetime="1s", **KEYS)
)


class Crowd:
    """Operators who ask all at once, and do not wait for each other."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._path = str(supervisor.run_dir / "test.sock")
        self._asked: list[socket.socket] = []

    def ask(self, verb: str, names: list[str]) -> None:
        connection = socket.socket(socket.AF_UNIX)
        self._asked.append(connection)
        connection.settimeout(PATIENCE_S)
        connection.connect(self._path)
        connection.sendall(json.dumps({"verb": verb, "names": names}).encode() + b"\n")

    def hear(self) -> list[dict[str, Any]]:
        """Wait for every answer: none may stay away, whatever came after its question."""
        answers = [json.loads(connection.recv(1 << 16)) for connection in self._asked]
        self.leave()
        return answers

    def leave(self) -> None:
        while self._asked:
            self._asked.pop().close()


@pytest.mark.parametrize("seed", range(4))
def test_no_order_of_wishes_and_deaths_makes_a_twin_or_a_silence(
    supervise: Supervise, seed: int
) -> None:
    supervisor = supervise(JOBS, MODULES)
    crowd = Crowd(supervisor)
    try:
        _play(supervisor, crowd, random.Random(seed))
        # One that was killed just now may fall only after it was asked for, and be started anew.
        eventually(lambda: _all_run(supervisor, crowd))
    finally:
        crowd.leave()
    eventually(lambda: not _zombies(supervisor.pid))
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    assert Ledger(supervisor).no_twins()
    assert supervisor.errors() == ""


def _play(supervisor: Supervisor, crowd: Crowd, chance: random.Random) -> None:
    names = [row["name"] for row in supervisor.status()["processes"]]
    for step in range(STEPS):
        dice = chance.random()
        if dice < 0.5:
            for _ in range(chance.randint(1, 3)):
                verb = chance.choice(["start", "stop", "restart"])
                crowd.ask(verb, chance.sample(names, chance.randint(1, 4)))
        elif dice < 0.85:
            number = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
            pid = chance.choice(supervisor.status()["processes"])["pid"]
            if pid is not None:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        else:
            supervisor.kill()
            crowd.leave()
            supervisor.start(wait=False)
            supervisor.wait_process(names[0], lambda row: True)
        if step % 20 == 19:
            crowd.hear()


def _all_run(supervisor: Supervisor, crowd: Crowd) -> bool:
    names = [row["name"] for row in supervisor.status()["processes"]]
    crowd.ask("start", names)
    started = crowd.hear()[-1] == {"ok": True, "result": {"names": names}}
    return started and {row["state"] for row in supervisor.status()["processes"]} == {"RUNNING"}


def _zombies(master: int) -> list[int]:
    return [pid for pid in kernel.children(master) if (facts := kernel.facts(pid)) and facts.zombie]

"""Reloads, scales, rolls, quiet, stops and deaths at once, in any order: nobody is forgotten."""

from __future__ import annotations

import json
import os
import random
import signal
import socket
from contextlib import suppress
from typing import Any

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

STEPS = 100

WORK = """
from ledger import sit
from workers import Worker

class Work(Worker):
    def setup(self):
        if self.context.options["form"] == "broken":
            raise RuntimeError("not like this")
        sit(self.name)

    def run(self, context):
        context.wait(1e6)
"""

MODULES = {"ledger": SOURCE, "work": WORK}

NAMES = ("one", "two", "three", "four")


def text(chance: random.Random) -> str:
    """Write a file at random; that of a seed never differs."""
    found, sound = "", False
    for name in NAMES:
        if name != "one" and chance.random() < 0.2:
            continue
        keys: dict[str, object] = {
            "target": "work:Work",
            "option_form": chance.choice(["a", "b", "b", "broken"]),
            "processes": chance.randint(0, 3),
            "backoff": chance.choice(["0", "10ms"]),
            "max_failures": 1_000_000,
            "stop_timeout": chance.choice(["1s", "2s"]),
            "ready_timeout": "2s",
        }
        # `start` waits for a dependency as long as that one tries; only this may wait in vain.
        if name == "four" and sound:
            keys["depends_on"] = "two"
        sound = sound or (name == "two" and keys["option_form"] != "broken")
        found += section(name, **keys)
    return found if chance.random() < 0.85 else found + "nonsense\n"


def base() -> str:
    keys = {"target": "work:Work", "option_form": "base", "backoff": 0, "max_failures": 1_000_000}
    # For one that is stopped by a signal before it is ready.
    keys |= {"ready_timeout": "2s", "stop_timeout": "2s"}
    return "".join(section(name, processes=2, **keys) for name in NAMES)


class Crowd:
    """Operators who ask all at once, and hear every answer in the end."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._path = str(supervisor.run_dir / "test.sock")
        self._asked: list[tuple[str, socket.socket]] = []

    def ask(self, verb: str, **words: Any) -> None:
        connection = socket.socket(socket.AF_UNIX)
        self._asked.append((verb, connection))
        connection.settimeout(PATIENCE_S)
        connection.connect(self._path)
        connection.sendall(json.dumps({"verb": verb, **words}).encode() + b"\n")

    def hear(self) -> list[dict[str, Any]]:
        answers = []
        while self._asked:
            verb, connection = self._asked.pop(0)
            with connection, connection.makefile("rb") as lines:
                try:
                    answers.append(json.loads(lines.readline()))
                except TimeoutError:
                    raise AssertionError(f"no answer to {verb}") from None
        return answers

    def leave(self) -> None:
        for _, connection in self._asked:
            connection.close()


@pytest.mark.parametrize("seed", range(4))
def test_every_wish_is_answered_and_the_last_file_holds(supervise: Supervise, seed: int) -> None:
    chance = random.Random(seed)
    supervisor = supervise(base(), MODULES)
    crowd = Crowd(supervisor)
    try:
        for step in range(STEPS):
            _wish(supervisor, crowd, chance)
            if step % 10 == 9:
                crowd.hear()
        crowd.hear()
    finally:
        crowd.leave()
    supervisor.configure(base())
    report = eventually(lambda: _reloaded(supervisor))
    assert report["errors"] == []
    supervisor.call("resume", names=[])
    eventually(lambda: _all_run(supervisor))
    eventually(lambda: len(kernel.children(supervisor.pid)) == 2 * len(NAMES))
    rows = supervisor.status()["processes"]
    assert [row["name"] for row in rows] == [f"{name}:{n}" for name in NAMES for n in (0, 1)]
    assert not [row["name"] for row in rows if row["quiet"]]
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    assert Ledger(supervisor).no_twins()
    assert supervisor.errors() == ""
    assert not [line for line in supervisor.log_lines() if "a request failed" in line["message"]]


def _wish(supervisor: Supervisor, crowd: Crowd, chance: random.Random) -> None:
    rows = supervisor.status()["processes"]
    names = [row["name"] for row in rows] or ["one"]
    some = chance.sample(names, min(len(names), chance.randint(1, 3)))
    dice = chance.random()
    if dice < 0.2:
        supervisor.configure(text(chance))
        crowd.ask("reload")
    elif dice < 0.35:
        crowd.ask("scale", jobs={chance.choice(NAMES): chance.randint(0, 4)})
    elif dice < 0.7:
        crowd.ask(chance.choice(["start", "stop", "restart", "restart"]), names=some)
    elif dice < 0.8:
        crowd.ask(chance.choice(["quiet", "resume"]), names=chance.choice([some, []]))
    elif dice < 0.85:
        supervisor.send(chance.choice([signal.SIGHUP, signal.SIGTSTP]))
    else:
        number = chance.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
        pid = chance.choice(rows)["pid"] if rows else None
        if pid is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def _reloaded(supervisor: Supervisor) -> Any:
    """Reload the last file, as an operator would: again while something of before is in the way.

    A SIGHUP may be under way still, or a process that was stopped before it was ready fall now and
    be taken for the new form's failure.
    """
    try:
        report = supervisor.call("reload")
    except AssertionError:
        return None
    return None if report.get("failed") else report


def _all_run(supervisor: Supervisor) -> bool:
    for name in NAMES:
        supervisor.call("scale", jobs={name: 2})
    names = [row["name"] for row in supervisor.status()["processes"]]
    with suppress(AssertionError):
        supervisor.call("start", names=names)
    return all(row["ready"] for row in supervisor.status()["processes"])

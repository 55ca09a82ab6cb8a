"""The shipped unit under a real systemd, word for word; drop-ins change time limits only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from itertools import pairwise

import pytest

from tests.helpers import systemd_box
from tests.helpers.systemd_box import UNIT, Box

HANDLERS = """
import os
import threading
import time
from pathlib import Path

from workers import Worker

HERE = Path("/srv/workers")


def note(*words):
    with (HERE / "notes").open("a") as notes:
        print(*words, os.getpid(), time.monotonic(), file=notes)


class Gated(Worker):
    def setup(self):
        while not (HERE / "gate").exists():
            threading.Event().wait(0.01)

    def run(self, context):
        while not context.stopping:
            context.wait(60)


def item(context):
    # An item that takes a while, whatever is asked meanwhile, is always in hand.
    note("begin", context.process)
    while not context.stopping:
        context.wait(60)
    threading.Event().wait(0.5)
    note("end", context.process)
"""

ITEMS = """
[supervisor]
pythonpath = /srv/workers
[daemon:items]
type = worker
target = handlers:item
processes = 2
stop_timeout = 5s
"""

DEAF = """
[daemon:deaf]
type = program
command = /bin/sh -c 'trap "" TERM; while :; do sleep 0.1; done'
stop_timeout = 1s
"""


WATCHDOG = "WatchdogSec=5"
"""A beat comes each third of that: a machine may stand still for three seconds."""


@pytest.fixture
def box() -> Iterator[Box]:
    with systemd_box.booted() as box:
        box.write("/srv/workers/handlers.py", HANDLERS)
        yield box


def test_unit_holds_no_setting_that_systemd_does_not_know(box: Box) -> None:
    said = box.run("systemd-analyze", "verify", f"/etc/systemd/system/{UNIT}")
    assert said.stdout + said.stderr == ""


def test_start_is_active_only_at_ready(box: Box) -> None:
    box.write(
        "/etc/workers.ini",
        """
[supervisor]
pythonpath = /srv/workers
[daemon:gated]
type = worker
target = handlers:Gated
""",
    )
    box.systemctl("start", "--no-block", UNIT)
    box.wait(lambda: "0 of 1 ready" in box.show("StatusText"), "told in STATUS=")
    assert box.show("ActiveState") == "activating"

    box.write("/srv/workers/gate", "")
    box.systemctl("start", UNIT)  # blocks until the first start is done
    assert box.show("ActiveState") == "active"
    box.wait(lambda: box.show("StatusText") == "1 of 1 ready", "told in STATUS=")


def test_stop_drains_and_needs_no_help(box: Box) -> None:
    box.write("/etc/workers.ini", ITEMS)
    box.systemctl("start", UNIT)
    box.wait(lambda: len(_spans(box)) == 2, "begun")

    box.systemctl("stop", UNIT)

    assert all(end is not None for spans in _spans(box).values() for _, _, end in spans)
    assert box.show("ActiveState") == "inactive"
    assert box.show("Result") == "success"
    assert box.show("ExecMainStatus") == "0"
    assert "is not running" in box.log(), "the stop after the stop found nothing left"
    assert box.pids() == []


def test_reload_keeps_the_master_and_returns_when_it_is_over(box: Box) -> None:
    box.write("/etc/workers.ini", ITEMS)
    box.systemctl("start", UNIT)
    box.wait(lambda: len(box.pids()) == 3, "three processes")
    before = box.pids()
    more = "[daemon:more]\ntype = worker\ntarget = handlers:item\nstop_timeout = 5s\n"
    box.write("/etc/workers.ini", ITEMS + more)

    box.systemctl("reload", UNIT)

    assert box.show("ActiveState") == "active"
    box.wait(lambda: len(box.pids()) == 4, "one process more")
    after = box.pids()
    assert set(before) < set(after), "nobody was touched, and one has come"
    box.wait(lambda: box.show("StatusText") == "3 of 3 ready", "told in STATUS=")

    box.write("/etc/workers.ini", ITEMS + "nonsense\n")
    box.systemctl("reload", UNIT, check=False)
    assert box.show("ActiveState") == "active"
    # The process in which the file was checked is no more than about to end.
    box.wait(lambda: box.pids() == after, "as before: a wrong file changes nothing")


def test_restart_replaces_the_master_and_every_child(box: Box) -> None:
    box.write("/etc/workers.ini", ITEMS)
    box.systemctl("start", UNIT)
    box.wait(lambda: len(box.pids()) == 3, "three processes")
    before = box.pids()

    box.systemctl("restart", UNIT)

    assert box.show("ActiveState") == "active"
    box.wait(lambda: len(box.pids()) == 3, "three processes again")
    assert set(box.pids()).isdisjoint(before)


def test_killed_master_comes_back_without_twins(box: Box) -> None:
    box.write("/etc/workers.ini", ITEMS + DEAF)
    box.systemctl("start", UNIT)
    box.wait(lambda: len(_spans(box)) == 2, "begun")
    before = box.pids()

    box.run("kill", "-KILL", box.show("MainPID"))

    box.wait(lambda: box.show("NRestarts") == "1", "restarted")
    box.wait(lambda: box.show("ActiveState") == "active", "active again")
    box.wait(lambda: all(len(spans) == 2 for spans in _spans(box).values()), "begun again")
    assert not set(before) & set(box.pids()), "what the dead master left, the deaf one too, is gone"
    _assert_no_twins(box)
    box.wait(lambda: _processes_called(box, "sh") == 1, "one deaf program")
    box.systemctl("stop", UNIT)
    assert box.pids() == []


def test_frozen_master_is_killed_by_the_watchdog_and_comes_back(box: Box) -> None:
    box.drop_in(WATCHDOG)
    box.write("/etc/workers.ini", ITEMS)
    box.systemctl("start", UNIT)
    box.wait(lambda: len(_spans(box)) == 2, "begun")
    master = box.show("MainPID")

    box.run("kill", "-STOP", master)

    # On a machine that stands still the next one may be taken for frozen too.
    box.wait(lambda: int(box.show("NRestarts")) >= 1, "restarted")
    box.wait(lambda: box.show("ActiveState") == "active", "active again")
    box.wait(lambda: all(len(spans) >= 2 for spans in _spans(box).values()), "begun again")
    assert box.show("MainPID") != master
    _assert_no_twins(box)


def test_idle_master_outlives_many_watchdog_periods(box: Box) -> None:
    box.drop_in(WATCHDOG)
    box.write("/etc/workers.ini", ITEMS)
    box.systemctl("start", UNIT)
    alive_since = int(box.show("ActiveEnterTimestampMonotonic"))

    def beats_for_12_s() -> bool:
        return int(box.show("WatchdogTimestampMonotonic")) > alive_since + 12_000_000

    box.wait(beats_for_12_s, "beating for 12 s")
    assert box.show("NRestarts") == "0"


def test_disabled_worker_is_no_failure(box: Box) -> None:
    box.write("/etc/workers.ini", "[worker]\nenable = false\n" + ITEMS)

    box.systemctl("start", UNIT)

    box.wait(lambda: box.show("ActiveState") == "inactive", "inactive")
    assert box.show("Result") == "success"
    assert box.show("ExecMainStatus") == "0"
    assert box.show("NRestarts") == "0"
    assert "worker is disabled, skipping worker startup" in box.log()


def test_wrong_configuration_is_not_tried_again(box: Box) -> None:
    box.write("/etc/workers.ini", "[daemon:items]\ntype = worker\ntarget = no.such:thing\n")

    started = box.run("systemctl", "start", UNIT, check=False)

    assert started.returncode != 0
    box.wait(lambda: box.show("ActiveState") == "failed", "failed")
    # SubState would be auto-restart if systemd meant to try again.
    assert (box.show("ActiveState"), box.show("SubState")) == ("failed", "failed")
    assert box.show("ExecMainStatus") == "78"
    assert "/etc/workers.ini:3: [daemon:items] target: " in box.log()


def test_hardening_lets_a_job_drop_its_rights(box: Box) -> None:
    box.write(
        "/etc/workers.ini",
        """
[daemon:dropped]
type = program
command = /usr/bin/setpriv --reuid=1 --regid=1 --clear-groups /usr/bin/id
restart = never
""",
    )
    box.systemctl("start", UNIT)
    box.wait(lambda: "uid=1(daemon) gid=1(daemon) groups=1(daemon)" in box.log(), "dropped")


def _spans(box: Box) -> dict[str, list[tuple[int, float, float | None]]]:
    """Give for each slot what its processes have noted: pid, begin and end of their item."""
    spans: dict[str, list[tuple[int, float, float | None]]] = defaultdict(list)
    for line in box.read("/srv/workers/notes").splitlines():
        word, slot, pid, at = line.split()
        if word == "begin":
            spans[slot].append((int(pid), float(at), None))
        else:
            spans[slot] = [
                (span[0], span[1], float(at)) if span[0] == int(pid) else span
                for span in spans[slot]
            ]
    return spans


def _assert_no_twins(box: Box) -> None:
    """Each process finished its item, and only then the next one of its slot began."""
    for spans in _spans(box).values():
        for (_, _, ended), (_, begun, _) in pairwise(spans):
            assert ended is not None, "the master's death let the item finish"
            assert ended < begun, "two processes of one slot at a time"


def _processes_called(box: Box, name: str) -> int:
    """Count them; a fork of a shell has its name too, until its exec."""
    return [box.read(f"/proc/{pid}/comm").strip() for pid in box.pids()].count(name)

"""A new process that cannot be looked after: none, as far as its seat and the machine can tell."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.eventually import PATIENCE_S

MASTER = """
import errno, json, os, sys, time
from pathlib import Path
from types import SimpleNamespace
from supervisor import signals
from supervisor.board import Board
from supervisor.capture import Capture
from supervisor.loading import load
from supervisor.logs import Log
from supervisor.loop import Loop
from supervisor.nursery import Nursery
from supervisor.seat import Seat, Seats, policy_of
from supervisor.states import Event, Kind, step

class Narrow(Loop):
    def watch(self, fd, events, handler):
        if self.room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= 1
        super().watch(fd, events, handler)

folder, room = Path(sys.argv[1]), int(sys.argv[2])
config = load(folder / "test.ini")
(job,) = config.jobs
loop, seats = Narrow(), Seats()
loop.room = 1000
seats.add(Seat(job, 0, Board().allocate()[1], policy_of(job)))
(seat,) = seats.by_name.values()
heard = []
parent = SimpleNamespace(
    happen_to=lambda seat, kind: heard.append(kind.name),
    on_spawned=lambda seat: heard.append("SPAWNED"),
)
log = Log.open(folder / "log", 1 << 20, 0, text=True, level="info")
capture = Capture(loop, log)
nursery = Nursery(config, "instance", loop, capture, seats, parent)
seat.status, _ = step(seat.policy, seat.status, Event(Kind.START, 0.0))
before = len(os.listdir("/proc/self/fd"))
loop.room = room
nursery.want(seat)
loop.turn()
left = len(os.listdir("/proc/self/fd")) - before
try:
    os.waitpid(-1, os.WNOHANG)
    children = "some"
except ChildProcessError:
    children = "none"
print(json.dumps([heard, left, children, seat.incarnation, len(seats.by_pid)]))
"""


@pytest.mark.parametrize(("notify", "room"), [("no", 0), ("yes", 0), ("yes", 1)])
def test_a_process_that_cannot_be_watched_is_none(tmp_path: Path, notify: str, room: int) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "state").mkdir()
    (tmp_path / "test.ini").write_text(
        f"[supervisor]\nrun_dir = {tmp_path}/run\nstate_dir = {tmp_path}/state\n"
        f"[daemon:web]\ntype = program\ncommand = /bin/sleep 1000\nnotify = {notify}\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", MASTER, str(tmp_path), str(room)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["NOT_SPAWNED"], 0, "none", 0, 0]

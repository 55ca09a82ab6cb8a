"""Disks that are full: no job stops, nothing waits, and what was lost is counted to the line."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Line, Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE as LEDGER
from tests.helpers.ledger import Ledger
from tests.helpers.sections import section

DISK = "3M"
PLENTY_S = 120.0
"""How long a disk may take to be tried again (30 s at most), on a busy machine."""

MODULES = {
    "ledger": LEDGER,
    "work": """
        from ledger import is_open, note, sit

        def prints(context):
            # Ends by itself: what it has printed is known to the line.
            number = 0
            while not context.stopping and not is_open("enough"):
                print("x" * 1000, number, flush=True)
                number += 1
                context.wait(0.0005)
            note("printed", number)
            context.wait(1e6)

        def steady(context):
            sit(context.name)
            context.wait(1e6)
    """,
}
STEADY = section("steady", target="work:steady", backoff="10ms", backoff_max="100ms")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Give a small disk of its own; it is empty."""
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "none", str(place)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount(8) here")
    if done.returncode != 0:
        pytest.skip(f"a disk can be mounted by root only: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path) -> Path:
    """Leave no block of a disk free."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue
    return path


def numbers(lines: list[Line]) -> list[int]:
    return [int(found[1]) for line in lines if (found := re.match(r"x+ (\d+)$", line["message"]))]


def lines_of(path: Path) -> list[Line]:
    """Read a log; every line of it must be whole."""
    text = path.read_bytes()
    return [json.loads(line) for line in text[: text.rfind(b"\n") + 1].splitlines()]


def check_count(supervisor: Supervisor, own: list[Line], told: list[Line], name: str) -> None:
    """See that what is missing of the numbered lines is what was said to be missing."""
    (printed,) = [int(line[1]) for line in Ledger(supervisor).lines() if line[0] == "printed"]
    found = numbers(own)
    assert len(set(found)) == len(found), "none twice"
    assert found == sorted(found)
    said = [line for line in told if f"{name} is written again after: No space" in line["message"]]
    assert len(said) == 1, [line["message"] for line in told if "written again" in line["message"]]
    assert said[0]["dropped"]["prints:0"] == printed - len(found)
    assert said[0]["message"].startswith(f"dropped {sum(said[0]['dropped'].values())} lines, ")
    assert said[0]["level"] == "warning"


def test_a_full_disk_of_the_log_costs_lines_and_says_how_many(
    supervise: Supervise, disk: Path
) -> None:
    log = disk / "log"
    jobs = section("prints", target="work:prints") + STEADY
    supervisor = supervise(jobs, MODULES, settings={"log_file": str(log), "log_max_bytes": "0"})
    ledger = Ledger(supervisor)
    eventually(lambda: numbers(lines_of(log)))
    filler = fill(disk)
    # More than the buffer holds: then lines are dropped.
    eventually(lambda: supervisor.status()["master"]["log_lines_lost"] > 0, PLENTY_S)
    pid = supervisor.process("steady:0")["pid"]
    os.kill(pid, signal.SIGKILL)
    supervisor.wait_process("steady:0", lambda row: row["ready"] and row["pid"] != pid)
    said = supervisor.call("logs", names=["master"], n=100)["lines"]
    assert sum("cannot write log: No space left on device" in line for line in said) == 1
    filler.unlink()
    ledger.open("enough")
    ledger.wait("printed")
    eventually(lambda: any("written again" in one["message"] for one in lines_of(log)), PLENTY_S)
    assert supervisor.stop() == 0
    check_count(supervisor, lines_of(log), lines_of(log), "log")


def test_a_full_disk_of_a_job_is_told_in_the_main_log(supervise: Supervise, disk: Path) -> None:
    own = disk / "prints.log"
    jobs = section("prints", target="work:prints", log_file=own, log_max_bytes=0) + STEADY
    supervisor = supervise(jobs, MODULES)
    ledger = Ledger(supervisor)
    eventually(lambda: numbers(lines_of(own)))
    filler = fill(disk)
    supervisor.wait_line(f"cannot write {own}: No space left on device")
    eventually(lambda: supervisor.status()["master"]["log_lines_lost"] > 0, PLENTY_S)
    filler.unlink()
    ledger.open("enough")
    ledger.wait("printed")
    supervisor.wait_line("is written again after: No space left on device", PLENTY_S)
    assert supervisor.stop() == 0
    check_count(supervisor, lines_of(own), supervisor.log_lines(), str(own))
    failures = [line for line in supervisor.messages() if line.startswith("cannot write ")]
    assert len(failures) == 1


def test_a_full_disk_of_the_state_costs_no_job(supervise: Supervise, disk: Path) -> None:
    supervisor = supervise(STEADY, MODULES, settings={"state_dir": str(disk / "state")})
    filler = fill(disk)
    for _ in range(2):
        pid = supervisor.process("steady:0")["pid"]
        os.kill(pid, signal.SIGKILL)
        supervisor.wait_process("steady:0", lambda row, old=pid: row["ready"] and row["pid"] != old)
    filler.unlink()
    assert Ledger(supervisor).no_twins()
    assert supervisor.stop() == 0

"""What the unit allows under a real systemd: control groups of our own, and users for the jobs."""

from __future__ import annotations

import pwd
from collections.abc import Iterator

import pytest

from tests.helpers import systemd_box
from tests.helpers.systemd_box import UNIT, Box

GROUP = f"/sys/fs/cgroup/system.slice/{UNIT}"

HIDING = """
[supervisor]
log_level = debug
[daemon:hiding]
type = program
command = sh -c '(env -i setsid sleep 4242 &); exec sleep 100000'
processes = 2
backoff = 50ms
[daemon:cgroup.procs]
type = program
command = sleep 200000
"""


DROPPED = """
[daemon:app]
type = program
command = sleep 300000
user = nobody
nice = -5
limit_nofile = 1000
limit_core = unlimited
"""


@pytest.fixture
def box() -> Iterator[Box]:
    with systemd_box.booted() as box:
        yield box


def members(box: Box, group: str) -> dict[int, str]:
    """Give the processes of one group with their command lines."""
    listed = box.run("cat", f"{GROUP}/{group}/cgroup.procs", check=False).stdout.split()
    return {int(pid): box.read(f"/proc/{pid}/cmdline").replace("\0", " ").strip() for pid in listed}


def grouped(box: Box, number: int) -> dict[int, str]:
    """Wait until a process and what hides from it are in their group."""
    wanted = ["sleep 100000", "sleep 4242"]
    box.wait(
        lambda: sorted(members(box, f"hiding/{number}").values()) == wanted, f"group {number} full"
    )
    return members(box, f"hiding/{number}")


def test_what_hides_from_its_job_is_found_and_killed_with_it(box: Box) -> None:
    box.write("/etc/workers.ini", HIDING)
    box.systemctl("start", UNIT)
    first, second = grouped(box, 0), grouped(box, 1)
    box.wait(lambda: list(members(box, "_cgroup.procs/0").values()) == ["sleep 200000"], "third")
    told = f"each process gets a control group below {GROUP}"
    box.wait(lambda: told in box.log(), "told")
    assert list(members(box, ".")) == [int(box.show("MainPID"))]

    leader = next(pid for pid, line in first.items() if line == "sleep 100000")
    box.run("kill", "-KILL", str(leader))
    box.wait(lambda: not set(first) & set(box.pids()), "the whole first group gone")
    grouped(box, 0)
    assert set(second) <= set(box.pids()), "its sibling was not touched"

    box.systemctl("stop", UNIT)
    assert box.pids() == []
    assert box.show("Result") == "success"


def test_the_units_capabilities_are_enough_to_give_a_job_its_user(box: Box) -> None:
    box.write("/etc/workers.ini", DROPPED)
    box.systemctl("start", UNIT)
    box.wait(lambda: list(members(box, "app/0").values()) == ["sleep 300000"], "running")
    (pid,) = members(box, "app/0")
    status = box.read(f"/proc/{pid}/status").splitlines()
    nobody = str(pwd.getpwnam("nobody").pw_uid)
    assert (
        next(line.split() for line in status if line.startswith("Uid:")) == ["Uid:"] + [nobody] * 4
    )
    assert next(line.split() for line in status if line.startswith("CapEff:"))[1].strip("0") == ""
    assert box.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[16] == "-5"
    assert "Max open files            1000 " in box.read(f"/proc/{pid}/limits")
    box.systemctl("stop", UNIT)
    assert box.show("Result") == "success"
    assert "killing" not in box.log()

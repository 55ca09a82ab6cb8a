"""A real kill for want of memory, in a control group with little of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor import cgroups
from supervisor.memory import Witness
from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.lacks import MachineLacks

LITTLE = 300 << 20


@pytest.fixture
def group() -> Iterator[Path]:
    """Make a group with a limit, in whichever version has the memory controller here."""
    if os.geteuid() != 0:
        pytest.skip("to make a control group needs root")
    found = cgroups.own("memory")
    if found is None:
        raise MachineLacks("no memory controller of control groups of the first version here")
    place = found / f"supervisor-test-{os.getpid()}"
    try:
        place.mkdir()
    except OSError as error:
        pytest.skip(f"no control group may be made here: {error}")
    try:
        (place / "memory.limit_in_bytes").write_text(str(LITTLE))
        swap = place / "memory.memsw.limit_in_bytes"
        if swap.exists():
            swap.write_text(str(LITTLE))
        yield place
    finally:
        eventually(lambda: not (place / "cgroup.procs").read_text())
        place.rmdir()


def inside(place: Path) -> tuple[str, ...]:
    """Give the words before a command that runs it in a group."""
    return ("sh", "-c", f'echo $$ >"{place}/cgroup.procs"; exec "$@"', "sh")


GREEDY = f"{sys.executable} -c 'x = bytearray(2 << 30)'"


def test_it_is_told_from_a_kill_by_hand(supervise: Supervise, group: Path) -> None:
    supervisor = supervise(
        f"""
        [daemon]
        type = program
        backoff = 1000s
        backoff_max = 1000s

        [daemon:greedy]
        command = {GREEDY}

        [daemon:other]
        command = sleep 100000
        """,
        settings={"preload": "none"},
        start=False,
    ).start(wait=False, within=inside(group))
    row = supervisor.wait_state("greedy:0", "BACKOFF")
    assert row["last_exit"]["cause"] == "out-of-memory"
    assert row["last_exit"]["signal"] == "KILL"
    assert "for want of memory" in row["why"]
    supervisor.wait_line("greedy stopped with error: signal KILL, by the kernel for want of memory")
    os.kill(supervisor.process("other:0")["pid"], signal.SIGKILL)
    row = supervisor.wait_state("other:0", "BACKOFF")
    assert row["last_exit"]["cause"] == "signaled"
    supervisor.stop()


def test_the_counter_alone_tells_it_too(group: Path) -> None:
    witness = Witness(group / "memory.oom_control", None)
    done = subprocess.run([*inside(group), "sleep", "0"], check=False)
    assert not witness.has_seen(1)
    done = subprocess.run(
        [*inside(group), sys.executable, "-c", "x = bytearray(2 << 30)"], check=False
    )
    assert done.returncode == -signal.SIGKILL
    assert witness.has_seen(1)

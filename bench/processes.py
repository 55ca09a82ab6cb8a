"""What /proc tells of processes: trees, memory, wakeups and CPU time. Ends what is left over."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Activity:
    """What a process has done since its start: `wakeups` from sleep, and CPU seconds."""

    wakeups: int
    cpu_s: float


def activity(pid: int) -> Activity:
    """Add up the threads of a process; in nanoseconds of the scheduler, not in clock ticks."""
    wakeups = 0
    cpu_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches"):
                wakeups += int(line.split()[1])
        cpu_ns += int((task / "schedstat").read_text().split()[0])
    return Activity(wakeups, cpu_ns / 1e9)


def tree(pid: int) -> list[int]:
    """Give the process and all its living descendants."""
    found = [pid]
    for parent in found:
        with suppress(FileNotFoundError, ProcessLookupError):
            for task in Path(f"/proc/{parent}/task").iterdir():
                found += [int(child) for child in (task / "children").read_text().split()]
    return found


def memory_mib(pids: list[int]) -> float:
    """Add up the proportional set size of these processes: what they cost the machine in all."""
    kib = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                kib += int(line.split()[1])
    return kib * 1024 / MIB


def end(pids: list[int]) -> None:
    """Kill those that still live, and wait until they are gone."""
    for pid in pids:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], 5)
        os.close(pidfd)

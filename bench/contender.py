"""What is compared: how each contender is started, and one run of it from launch to the last exit.

The contenders differ in their configuration and their command alone; everything that is timed
goes through `Run`, the same for all.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

from bench import processes
from bench.stamps import Late, Stamp, Stamps

LAUNCH_LIMIT_S = 60.0
RESPAWN_LIMIT_S = 20.0
STOP_LIMIT_S = 40.0
PROGRAMS = Path(__file__).with_name("programs")

FLOOD_LOG = "flood.log"
FLOOD_BYTES = 200_000_000
FLOOD_MARK = "#flood"
FLOOD_LINE = FLOOD_MARK.ljust(99, "-")
"""Without its newline, which the child adds: circus strips the values of the environment."""

FLOOD_END = "#end of it"
"""The line after the flood."""


@dataclass(frozen=True, slots=True)
class Workload:
    """How many children of which kinds (of bench/programs), and what they all import."""

    jobs: tuple[tuple[str, int], ...]
    preload: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        """Give the number of all children."""
        return sum(count for _, count in self.jobs)


class Contender(Protocol):
    """One supervisor, or what stands for one."""

    @property
    def name(self) -> str:
        """Its column in the table."""

    def prepare(self, workload: Workload, folder: Path) -> list[str]:
        """Write the configuration into the folder and give the command that runs it there."""

    def status(self, folder: Path) -> list[str] | None:
        """Give the command that shows the children of the run in that folder, if there is one."""


class Run:
    """One contender with its children, from launch to the last exit.

    Leaves nothing: what outlives the stop is killed, and the folder is removed.
    """

    def __init__(self, contender: Contender, workload: Workload, redis_url: str = "") -> None:
        self.contender = contender
        self.workload = workload
        # Short: a unix socket's path has at most 107 bytes, and lies somewhere below.
        self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
        self.stamps = Stamps(self.folder / "stamps")
        self.pids: set[int] = set()
        self.launch_s = 0.0
        shutil.copytree(PROGRAMS, self.folder, dirs_exist_ok=True)
        self._environment = os.environ | {
            "BENCH_STAMPS": str(self.folder / "stamps"),
            "BENCH_FLOOD_LOG": str(self.folder / FLOOD_LOG),
            "BENCH_FLOOD_LINE": FLOOD_LINE,
            "BENCH_FLOOD_END": FLOOD_END,
            "BENCH_FLOOD_BYTES": str(FLOOD_BYTES),
            "BENCH_REDIS": redis_url,
        }
        self._master: subprocess.Popen[bytes] | None = None

    @property
    def master(self) -> int:
        """Give the pid of the supervising process."""
        assert self._master is not None, "the run was not launched"
        return self._master.pid

    def __enter__(self) -> Self:
        """Launch it and wait for every child's own line; sets `launch_s`. Raises: Late."""
        command = self.contender.prepare(self.workload, self.folder)
        try:
            with (self.folder / "output").open("wb") as output:
                launched = time.monotonic()
                self._master = subprocess.Popen(
                    command,
                    cwd=self.folder,
                    env=self._environment,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            self.launch_s = max(stamp.at_s for stamp in self._first_lines()) - launched
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop it, and end what is left of it."""
        self._end()

    def kill(self, pids: list[int]) -> float:
        """Kill these children with -9; the seconds until as many new ones have come up."""
        killed = time.monotonic()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.pids -= set(pids)
        return max(stamp.at_s for stamp in self._come_up(len(pids))) - killed

    def victim(self) -> int:
        """Give a child to kill: another one each time, as the pids of new ones are higher."""
        return min(self.pids)

    def stop(self) -> float:
        """Send TERM to the master; the seconds until it and all its children are gone."""
        watched = [os.pidfd_open(pid) for pid in (self.master, *self.pids)]
        begun = time.monotonic()
        os.kill(self.master, signal.SIGTERM)
        try:
            return _gone(watched, begun + STOP_LIMIT_S) - begun
        finally:
            for pidfd in watched:
                os.close(pidfd)

    def _first_lines(self) -> list[Stamp]:
        words = [
            ("flooding" if kind == "flood" else "up", count) for kind, count in self.workload.jobs
        ]
        deadline = time.monotonic() + LAUNCH_LIMIT_S
        found: list[Stamp] = []
        while len(found) < self.workload.count:
            assert self._master is not None
            if self._master.poll() is not None or time.monotonic() > deadline:
                raise Late(f"{self.contender.name} did not start {words}: {self._last_words()}")
            found += self.stamps.read(0.5)
        self.pids = {stamp.pid for stamp in found if stamp.word == "up"}
        return found

    def _come_up(self, count: int) -> list[Stamp]:
        found = self.stamps.until("up", count, RESPAWN_LIMIT_S)
        self.pids |= {stamp.pid for stamp in found}
        return found

    def _last_words(self) -> str:
        lines = (self.folder / "output").read_text(errors="replace").splitlines()
        return " | ".join(lines[-5:])

    def _end(self) -> None:
        if self._master is not None:
            left = self._terminate(self._master)
            processes.end(left)
        self.stamps.close()
        shutil.rmtree(self.folder)

    def _terminate(self, master: subprocess.Popen[bytes]) -> list[int]:
        """Stop the master if it still runs; the pids of what may be left."""
        if master.poll() is not None:
            return sorted(self.pids)
        left = processes.tree(master.pid)[1:]
        master.terminate()
        try:
            master.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            left = processes.tree(master.pid)[1:]
            master.kill()
            master.wait()
        return left


def _gone(pidfds: list[int], deadline: float) -> float:
    """Wait until the processes of all these have ended; the time of that. Raises: Late."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    left = len(pidfds)
    while left:
        patience_s = deadline - time.monotonic()
        if patience_s <= 0:
            raise Late(f"{left} processes outlived the stop")
        for pidfd, _ in poll.poll(patience_s * 1000):
            poll.unregister(pidfd)
            left -= 1
    return time.monotonic()

"""One run of one contender: publish, launch, give the word, watch it work, end it."""

from __future__ import annotations

import mmap
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from bench import processes
from bench.queues.contenders import PROCESSES, PROGRAMS, Contender
from bench.queues.servers import Server
from supervisor import kernel

_CELLS = 4096
_FIRST = 16
_LAUNCH_S = 60.0


class Late(Exception):
    """What was waited for did not come in time."""


@dataclass(frozen=True, slots=True)
class Speed:
    """What a run has shown: jobs a second, and microseconds of CPU a job."""

    rate: float
    workers_us: float
    server_us: float


class Run:
    """One contender on one server. Leaves nothing: what it has started is ended."""

    def __init__(self, contender: Contender, server: Server, config: str, bin_: Path) -> None:
        self.contender = contender
        self.server = server
        # Short: a unix socket's path has at most 107 bytes, and lies somewhere below.
        self.folder = Path(tempfile.mkdtemp(prefix="bench-", dir="/tmp"))
        server.empty()
        self._bin = bin_
        self._conf = self.folder / "bench.ini"
        place, _, name = server.url.partition("/")
        words = {"folder": self.folder, "programs": PROGRAMS, "url": server.url, "n": PROCESSES}
        self._conf.write_text(config.format(**words, brokers=place, name=name))
        (self.folder / "page").write_bytes(bytes(_CELLS * 8))
        (self.folder / "late").touch()
        with (self.folder / "page").open("r+b") as file:
            self._cells = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
        self._environment = os.environ | {
            "BENCH_PAGE": str(self.folder / "page"),
            "BENCH_LATE": str(self.folder / "late"),
            "BENCH_URL": server.url,
            "BENCH_QUEUE": _queue(server.url, stream="type = stream" in config),
            "BENCH_VARIANT": contender.variant,
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        self._all: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        """Make what it needs."""
        for command in self.contender.needs:
            self._wait(self._start(command))
        return self

    def __exit__(self, *_: object) -> None:
        """End what it has started."""
        left = [pid for one in self._all for pid in processes.tree(one.pid)]
        for one in self._all:
            one.terminate()
        deadline = time.monotonic() + 10
        for one in self._all:
            try:
                one.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()
        processes.end(left)
        shutil.rmtree(self.folder)

    def send(self, *words: object) -> None:
        """Publish in the contender's own way, as `send.py` is told."""
        python = sys.executable if self.contender.is_ours else str(self._bin / "python")
        command = (python, "send.py", self.contender.module, *map(str, words))
        self._wait(self._start(command))

    def launch(self) -> None:
        """Start the workers."""
        for command in self.contender.works:
            self._start(command)

    def join(self) -> None:
        """Wait until the workers have shared the work, where they have to. Raises: Late."""
        deadline = time.monotonic() + _LAUNCH_S
        while self.server.members is not None and self.server.members() < PROCESSES:
            if time.monotonic() > deadline:
                raise Late(f"{self.contender.name} did not join: {self._last_words()}")
            time.sleep(0.1)

    def await_workers(self) -> None:
        """Wait until each process has a job in its hands. Raises: Late."""
        deadline = time.monotonic() + _LAUNCH_S
        while len(self._pids()) < PROCESSES:
            if time.monotonic() > deadline or any(one.poll() is not None for one in self._all[-1:]):
                raise Late(f"{self.contender.name} did not begin: {self._last_words()}")
            time.sleep(0.01)

    def go(self) -> None:
        """Give the word that every first call of a handler waits for."""
        self._cells[0] = 1

    def done(self) -> int:
        """Count the jobs that are done."""
        return sum(self._cells[_FIRST + 1 : _FIRST + 2 * self._cells[1] : 2])

    def speed(self, jobs: int, limit_s: float) -> Speed:
        """Give the word, and measure until all is done, or the time is over."""
        workers, server = self._workers_cpu(), self._server_cpu()
        self.go()
        begun = time.monotonic()
        while (done := self.done()) < jobs and time.monotonic() < begun + limit_s:
            time.sleep(0.002)
        took = time.monotonic() - begun
        return Speed(
            done / took,
            (self._workers_cpu() - workers) / max(done, 1) * 1e6,
            (self._server_cpu() - server) / max(done, 1) * 1e6,
        )

    def lateness(self, count: int, limit_s: float) -> list[float]:
        """Wait for so many jobs that say when they were due; give how late they were, in ms."""
        path = self.folder / "late"
        deadline = time.monotonic() + limit_s
        while path.stat().st_size < count * 8:
            if time.monotonic() > deadline:
                raise Late(f"{path.stat().st_size // 8} of {count} jobs came")
            time.sleep(0.01)
        return [late / 1e6 for (late,) in struct.iter_unpack("q", path.read_bytes())]

    def _pids(self) -> set[int]:
        return set(self._cells[_FIRST : _FIRST + 2 * self._cells[1] : 2])

    def _start(self, command: tuple[str, ...]) -> subprocess.Popen[bytes]:
        words = [word.format(bin=self._bin, conf=self._conf) for word in command]
        with (self.folder / "output").open("ab") as output:
            one = subprocess.Popen(
                words,
                cwd=PROGRAMS,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._all.append(one)
        return one

    def _wait(self, one: subprocess.Popen[bytes]) -> None:
        if one.wait(_LAUNCH_S) != 0:
            raise Late(f"{self.contender.name}: {self._last_words()}")
        self._all.remove(one)

    def _last_words(self) -> str:
        lines = (self.folder / "output").read_text(errors="replace").splitlines()
        return " | ".join(lines[-5:])

    def _workers_cpu(self) -> float:
        return _cpu_s({pid for one in self._all for pid in processes.tree(one.pid)})

    def _server_cpu(self) -> float:
        return _cpu_s(processes.tree(self.server.pid)) if self.server.pid else 0.0


def _queue(url: str, *, stream: bool) -> str:
    """Give the URL by which our publisher finds the queue."""
    if url.startswith("/"):
        return f"sqlite:///{url}"
    return url.replace("redis:", "redis+stream:") if stream else url


def _cpu_s(pids: Iterable[int]) -> float:
    return sum(kernel.cpu_seconds(pid) or 0.0 for pid in pids)

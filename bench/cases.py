"""The cases: what is done to each contender in turn, and which rows come of it.

Within a case the contenders alternate, so that noise of the machine hits all alike; the peers,
which are slower by their built-in delays and not by chance, are measured less often.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from bench import processes
from bench.contender import (
    FLOOD_BYTES,
    FLOOD_END,
    FLOOD_LINE,
    FLOOD_LOG,
    FLOOD_MARK,
    Contender,
    Run,
    Workload,
)
from bench.table import Bound, Row

MODULES = ("redis", "psycopg2", "ssl", "asyncio")
_SETTLE_S = 0.3
_LOST_S = 5.0
"""Output that grows no more for so long without its last line has lost it."""


@dataclass(slots=True)
class Bench:
    """The contenders, the fleet of 50 that several cases share, and how often to repeat."""

    contenders: Sequence[Contender]
    stack: ExitStack
    quick: bool = False
    redis_url: str = ""
    _fleet: dict[str, Run] = field(default_factory=dict)

    def fleet(self) -> dict[str, Run]:
        """Give 50 running children of each contender, started at the first call."""
        for contender in self.contenders:
            if contender.name not in self._fleet:
                run = Run(contender, Workload((("tiny", 50),)))
                self._fleet[contender.name] = self.stack.enter_context(run)
        return self._fleet

    def release(self) -> None:
        """End the fleet, so that later cases have the machine to themselves."""
        self.stack.close()
        self._fleet.clear()

    def rounds(self, ours: int, peers: int) -> Iterator[Contender]:
        """Give whose turn it is: so many of the floor and of ours, the peers' spread among them."""
        if self.quick:
            ours, peers = min(ours, 3), 1
        for number in range(ours):
            peers_too = (number * peers) // ours != ((number - 1) * peers) // ours
            for contender in self.contenders:
                if peers_too or contender.name in ("floor", "ours"):
                    yield contender


def idle(bench: Bench) -> list[Row]:
    """50 idle children: what the master does meanwhile. All contenders at the same time."""
    wakeups = Row("idle with 50 children: wakeups of the master", "1/s", Bound(2.0))
    share = Row("idle with 50 children: CPU of the master", "% of a core", Bound(0.1))
    fleet = bench.fleet()
    for run in fleet.values():
        run.stamps.read(1.0)
    before = {name: processes.activity(run.master) for name, run in fleet.items()}
    begun = time.monotonic()
    next(iter(fleet.values())).stamps.read(2.0 if bench.quick else 8.0)
    seconds = time.monotonic() - begun
    for name, run in fleet.items():
        after = processes.activity(run.master)
        wakeups.add(name, (after.wakeups - before[name].wakeups) / seconds)
        share.add(name, (after.cpu_s - before[name].cpu_s) / seconds * 100)
    return [wakeups, share]


def respawn(bench: Bench) -> list[Row]:
    """Kill -9 of one child of 50, until its replacement's own line."""
    row = Row("respawn of 1 of 50 after kill -9", "ms", Bound(3.0, "floor"))
    for contender in bench.rounds(25, 6):
        run = bench.fleet()[contender.name]
        row.add(contender.name, run.kill([run.victim()]) * 1000)
        run.stamps.read(0.05)
    return [row]


def massacre(bench: Bench) -> list[Row]:
    """Kill -9 of all 50, until the last replacement's own line."""
    row = Row("50 killed at once, all back", "ms", Bound(3.0, "floor"))
    for contender in bench.rounds(9, 4):
        run = bench.fleet()[contender.name]
        row.add(contender.name, run.kill(sorted(run.pids)) * 1000)
        run.stamps.read(_SETTLE_S)
    return [row]


def status(bench: Bench) -> list[Row]:
    """Ask for the state of 50 children; the floor is the interpreter that does nothing."""
    row = Row("`status --json` of 50 (floor: a bare interpreter)", "ms")
    extra = Row("… over the bare interpreter of the same environment", "ms", Bound(100.0))
    for contender in bench.rounds(11, 4):
        command = contender.status(bench.fleet()[contender.name].folder)
        if command is not None:
            row.add(contender.name, _seconds(command) * 1000)
        if contender.name == "ours":
            bare_s = _seconds([sys.executable, "-c", "pass"])
            extra.add("ours", row.samples["ours"][-1] - bare_s * 1000)
    return [row, extra]


def many(bench: Bench) -> list[Row]:
    """200 children: from the launch to the last one's line; from the TERM to the last exit."""
    start = Row("start of 200 children, launch to last line", "ms", Bound(3.0, "floor"))
    stop = Row("stop of 200 children that need 50 ms each", "ms", Bound(3.0, "floor"))
    for contender in bench.rounds(5, 2):
        with Run(contender, Workload((("tiny", 200),))) as run:
            start.add(contender.name, run.launch_s * 1000)
            run.stamps.read(_SETTLE_S)
            stop.add(contender.name, run.stop() * 1000)
    return [start, stop]


def imports(bench: Bench) -> list[Row]:
    """50 children with redis, psycopg2, ssl and asyncio: start and memory of the whole tree."""
    return _memory(bench, "heavy", "50 children that import redis, psycopg2, ssl, asyncio", 6, 8)


def clients(bench: Bench) -> list[Row]:
    """The same with a live Redis client, an ssl context and a thread pool in each."""
    return _memory(bench, "live", "… and hold a Redis client, an ssl context, 4 threads", 3, 1)


def flood(bench: Bench) -> list[Row]:
    """One child writes 200 MB to stdout while another one is killed and has to come back."""
    seconds = Row("one child floods 200 MB to stdout (floor: straight to a file)", "s")
    speed = Row("… that is", "MB/s", more_is_better=True)
    lost = Row("… lost", "bytes", Bound(0.0))
    meanwhile = Row("… respawn of another child meanwhile", "ms", Bound(3.0, "floor"))
    for contender in bench.rounds(3, 1):
        with Run(contender, Workload((("flood", 1), ("tiny", 1)))) as run:
            begun = time.monotonic()
            for latency_s in _respawns_during_flood(run):
                meanwhile.add(contender.name, latency_s * 1000)
            took = _all_written(run.folder / FLOOD_LOG) - begun
            seconds.add(contender.name, took)
            speed.add(contender.name, FLOOD_BYTES / 1e6 / took)
            lost.add(contender.name, FLOOD_BYTES - _kept(run.folder / FLOOD_LOG))
    return [seconds, speed, lost, meanwhile]


CASES: dict[str, Callable[[Bench], list[Row]]] = {
    "idle": idle,
    "respawn": respawn,
    "massacre": massacre,
    "status": status,
    "many": many,
    "imports": imports,
    "clients": clients,
    "flood": flood,
}

SHARING_THE_FLEET = ("idle", "respawn", "massacre", "status")


def _memory(bench: Bench, kind: str, title: str, smaller: float, faster: float) -> list[Row]:
    start = Row(f"{title}: start", "ms", Bound(1 / faster, "supervisord"))
    memory = Row(f"{title}: PSS of the tree", "MiB", Bound(1 / smaller, "supervisord"))
    for contender in bench.rounds(3, 1):
        workload = Workload(((kind, 50),), preload=MODULES)
        with Run(contender, workload, bench.redis_url) as run:
            start.add(contender.name, run.launch_s * 1000)
            run.stamps.read(_SETTLE_S)
            memory.add(contender.name, processes.memory_mib(processes.tree(run.master)))
    return [start, memory]


def _seconds(command: Sequence[str]) -> float:
    begun = time.monotonic()
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.monotonic() - begun


def _respawns_during_flood(run: Run) -> Iterator[float]:
    """Kill the other child again and again until the flood is over; once at least."""
    yield run.kill([run.victim()])
    while "flooded" not in run.stamps.heard:
        run.stamps.read(0.02)
        yield run.kill([run.victim()])


def _all_written(log: Path) -> float:
    """Wait until the flood's last line is in the captured output; the time of its last growth."""
    size, grew = 0, time.monotonic()
    while time.monotonic() < grew + _LOST_S:
        now = log.stat().st_size if log.exists() else 0
        if now != size:
            size, grew = now, time.monotonic()
            if _ends(log):
                break
        time.sleep(0.005)
    return grew


def _ends(log: Path) -> bool:
    """Tell whether the flood's last line is in the file, whatever stands around it."""
    with log.open("rb") as stream:
        stream.seek(max(0, stream.seek(0, os.SEEK_END) - 4096))
        return FLOOD_END.encode() in stream.read()


def _kept(log: Path) -> int:
    """Count the bytes of the flood that are in the file, whatever stands around them."""
    mark = FLOOD_MARK.encode()
    found, tail = 0, b""
    with log.open("rb") as stream:
        while block := stream.read(1 << 20):
            found += (tail + block).count(mark)
            tail = block[1 - len(mark) :]
    return found * len(FLOOD_LINE + "\n")

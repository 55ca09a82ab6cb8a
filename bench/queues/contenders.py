"""What is compared: how each contender publishes and works, on which engine.

Each one's two working processes do the same: count a job on a page of shared memory. The settings
are those that make it fastest.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from pathlib import Path

PROGRAMS = Path(__file__).with_name("programs")
PROCESSES = 2

LOSES = "loses what it holds"
STUCK = "stays claimed for ever"


@dataclass(frozen=True, slots=True)
class Contender:
    """One program of bench/queues/programs.

    `works` are the commands that it works by, each with the interpreter's folder for `{bin}`;
    `after_kill` says what becomes of a job whose worker is killed with -9. A `peer` is one that
    people use, and not a bare loop.
    """

    name: str
    module: str
    works: tuple[tuple[str, ...], ...]
    after_kill: str
    variant: str = ""
    is_peer: bool = True
    needs: tuple[tuple[str, ...], ...] = ()
    """Commands to be run once, after the server was emptied."""
    has_delays: bool = False
    """It can publish for later."""

    @property
    def is_ours(self) -> bool:
        """Tell whether it is this program."""
        return self.module == "ours"


def _loop(name: str, module: str, variant: str = "", after_kill: str = STUCK) -> Contender:
    works = (("{bin}/python", f"{module}.py"),) * PROCESSES
    return Contender(
        name, module, works, after_kill, variant, is_peer=False, has_delays=variant == "batch"
    )


OURS = Contender(
    "ours",
    "ours",
    ((sys.executable, "-m", "supervisor", "start", "--conf", "{conf}"),),
    "comes again at once",
    has_delays=True,
)
OURS_ON_KAFKA = replace(OURS, after_kill="comes again with its partition, at its replacement")
"""The replacement is the same member of the group, and no rebalance comes before it."""

BATCH_LOOP = _loop("floor: claim 100, acknowledge 100", "plain_redis", "batch")
SINGLE_LOOP = _loop("plain loop: one by one", "plain_redis", "single")
STREAM_LOOP = _loop("floor: read 100, acknowledge 100", "plain_redis", "stream")
POSTGRES_LOOP = _loop("floor: claim 100, finish 100", "plain_postgres")
KAFKA_LOOP = _loop(
    "floor: poll 500, commit", "plain_kafka", "python", "comes again with its partition"
)
CONFLUENT_LOOP = _loop(
    "confluent-kafka: consume 500, commit",
    "plain_kafka",
    "confluent",
    "comes again with its partition",
)
SQLITE_LOOP = _loop("floor: claim 100, delete 100", "plain_sqlite")


def _dramatiq() -> Contender:
    command = ("{bin}/dramatiq", "with_dramatiq", "--processes", str(PROCESSES), "--threads", "8")
    after_kill = "comes again after a minute or more"
    return Contender("dramatiq", "with_dramatiq", (command,), after_kill, has_delays=True)


def _huey(variant: str) -> Contender:
    command = ("{bin}/huey_consumer", "with_huey.huey", "-k", "process", "-w", str(PROCESSES))
    works = ((*command, "-q", "-s", "1"),)
    return Contender("huey", "with_huey", works, LOSES, variant, has_delays=True)


def _taskiq(variant: str, after_kill: str) -> Contender:
    command = ("{bin}/taskiq", "worker", "with_taskiq:broker", "--workers", str(PROCESSES))
    more = ("--max-async-tasks", "100", "--max-prefetch", "100", "--log-level", "WARNING")
    return Contender(f"taskiq, {variant}", "with_taskiq", ((*command, *more),), after_kill, variant)


DRAMATIQ = _dramatiq()
HUEY = _huey("redis")
HUEY_SQLITE = _huey("sqlite")
TASKIQ_LIST = _taskiq("list", LOSES)
TASKIQ_STREAM = _taskiq("stream", "comes again after ten minutes")
PGQUEUER = Contender(
    "pgqueuer, batches of 100",
    "with_pgqueuer",
    (("{bin}/python", "with_pgqueuer.py"),) * PROCESSES,
    "comes again after half a minute",
    needs=(("{bin}/python", "with_pgqueuer.py", "install"),),
)

"""The cases: which contenders do which work on which engine, in turn, in one run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

from bench.environment import say
from bench.queues import contenders as all_of
from bench.queues import servers
from bench.queues.contenders import OURS, Contender
from bench.queues.figures import PEERS, Figure, Goal
from bench.queues.run import Late, Run
from bench.queues.servers import Server

_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class Bench:
    """How much is measured, by whose Python, and for which contenders."""

    bin: Path
    jobs: int
    rounds: int
    names: Sequence[str] = ()

    def wants(self, contender: Contender) -> bool:
        """Tell whether this one is to be measured."""
        return not self.names or any(name in contender.name for name in self.names)


@dataclass(frozen=True, slots=True)
class Engine:
    """An engine: its server, our configuration for it, and the others that work on it."""

    title: str
    server: Callable[[], AbstractContextManager[Server]]
    config: str
    others: Sequence[Contender]
    goals: Sequence[Goal]
    latency_ms: float | None = None
    """What the median of the idle latency must not be above."""
    floor: str = ""
    """Whose lateness ours is compared with, for what is due at one instant."""
    ours: Contender = OURS


_CONFIG = """\
[supervisor]
name = bench
run_dir = {{folder}}/run
state_dir = {{folder}}/state
pythonpath = {{programs}}

[daemon:bench]
processes = {{n}}
{}
"""

_QUEUE = _CONFIG.format("type = queue\nurl = {url}\ntopics = t\nhandler = ours:handle")
_FILE = _CONFIG.format("type = queue\nurl = sqlite:///{url}\ntopics = t\nhandler = ours:handle")
_STREAM = _CONFIG.format(
    "type = stream\nurl = {url}\ntopics = t\ngroup = bench\nhandler = ours:handle"
)
_TABLE = _CONFIG.format(
    "type = table\nurl = {url}\ntable = jobs\nnotify = jobs\nclaim = lease\n"
    "handler = ours:handle_row"
)
_KAFKA = _CONFIG.format(
    "type = kafka\nbrokers = {brokers}\ntopics = {name}\ngroup = {name}\norder = partition\n"
    "auto_offset_reset = earliest\nhandler = ours:handle"
)

ENGINES: dict[str, Engine] = {
    "list": Engine(
        "Redis list",
        servers.redis,
        _QUEUE,
        (
            *(all_of.BATCH_LOOP, all_of.SINGLE_LOOP, all_of.DRAMATIQ, all_of.HUEY),
            *(all_of.TASKIQ_LIST,),
        ),
        (Goal(5.0, PEERS), Goal(1 / 3, all_of.BATCH_LOOP.name)),
        latency_ms=2.0,
        floor=all_of.BATCH_LOOP.name,
    ),
    "stream": Engine(
        "Redis stream",
        servers.redis,
        _STREAM,
        (all_of.STREAM_LOOP, all_of.TASKIQ_STREAM),
        (Goal(5.0, PEERS), Goal(1 / 3, all_of.STREAM_LOOP.name)),
        latency_ms=2.0,
    ),
    "postgres": Engine(
        "PostgreSQL table",
        servers.postgres,
        _TABLE,
        (all_of.POSTGRES_LOOP, all_of.PGQUEUER),
        (Goal(1.0, PEERS),),
        latency_ms=5.0,
    ),
    "kafka": Engine(
        "Kafka, 4 partitions",
        servers.kafka,
        _KAFKA,
        (all_of.KAFKA_LOOP, all_of.CONFLUENT_LOOP),
        (Goal(0.7, all_of.KAFKA_LOOP.name),),
        latency_ms=5.0,
        ours=all_of.OURS_ON_KAFKA,
    ),
    "sqlite": Engine(
        "SQLite queue",
        servers.sqlite,
        _FILE,
        (all_of.SQLITE_LOOP, all_of.HUEY_SQLITE),
        (Goal(1.0, PEERS),),
    ),
}


def throughput(bench: Bench, engine: Engine, server: Server) -> list[Figure]:
    """No-op jobs that wait already: how many a second."""
    figure = Figure(f"{engine.title}: no-op jobs", "jobs/s", engine.goals)

    def measure(run: Run) -> None:
        if server.members is None:
            run.send("fill", bench.jobs)
            run.launch()
        else:
            run.launch()
            run.join()
            run.send("fill", bench.jobs)
        run.await_workers()
        speed = run.speed(bench.jobs, _LIMIT_S)
        figure.add(run.contender, speed.rate, speed.workers_us, speed.server_us)
        say(f"{engine.title}, {run.contender.name}: {speed.rate:,.0f}/s")

    _in_turn(bench, engine, server, measure)
    return [figure]


def latency(bench: Bench, engine: Engine, server: Server) -> list[Figure]:
    """One job after the other for idle workers: from before it is published to its handler."""
    half = Figure(f"{engine.title}: one job to its handler, p50", limit=engine.latency_ms)
    most = Figure(f"{engine.title}: one job to its handler, p99")

    def measure(run: Run) -> None:
        _watch(run, (half, most), _LATENCY)

    _in_turn(bench, engine, server, measure, lambda one: one is not all_of.SINGLE_LOOP)
    return [half, most]


def delays(bench: Bench, engine: Engine, server: Server) -> list[Figure]:
    """Jobs that were published for later: how late they are, alone and as a crowd."""
    if engine.floor == "":
        return []
    alone = Figure(f"{engine.title}: delayed, one each 30 ms: late, p99", limit=50.0)
    crowd = Figure(
        f"{engine.title}: 500 due at one instant: late, p99", goals=[Goal(1.5, engine.floor)]
    )

    def measure(run: Run) -> None:
        _watch(run, (None, alone), _DELAYED)

    def measure_crowd(run: Run) -> None:
        _watch(run, (None, crowd), _CROWD)

    for each in (measure, measure_crowd):
        _in_turn(bench, engine, server, each, lambda one: one.has_delays)
    return [alone, crowd]


PARTS: dict[str, Callable[[Bench, Engine, Server], list[Figure]]] = {
    "throughput": throughput,
    "latency": latency,
    "delays": delays,
}

_LATENCY = ("spaced", 200, 0.01)
_DELAYED = ("delayed", 100, 0.3, 0.03)
_CROWD = ("at_once", 500, 3)
_WARM = 20
"""So many jobs come first and count nowhere."""


def _in_turn(
    bench: Bench,
    engine: Engine,
    server: Server,
    measure: Callable[[Run], None],
    only: Callable[[Contender], bool] = lambda _: True,
) -> None:
    """Measure a run of each contender, and of all of them again, as often as there are rounds."""
    wanted = [one for one in (engine.ours, *engine.others) if bench.wants(one) and only(one)]
    for contender in wanted * bench.rounds:
        try:
            with Run(contender, server, engine.config, bench.bin) as run:
                measure(run)
        except Late as late:
            say(f"{contender.name}: {late}")


def _watch(run: Run, figures: Sequence[Figure | None], what: tuple[object, ...]) -> None:
    """Let a contender handle jobs that say when they were due; add the p50 and the p99."""
    run.launch()
    run.join()
    run.go()
    run.send("spaced", _WARM, 0.01)
    run.lateness(_WARM, _LIMIT_S)
    run.send(*what)
    late = run.lateness(_WARM + int(str(what[1])), _LIMIT_S)[_WARM:]
    cuts = quantiles(late, n=100, method="inclusive")
    for figure, value in zip(figures, (cuts[49], cuts[98]), strict=True):
        if figure is not None:
            figure.add(run.contender, value)
            say(f"{figure.title}, {run.contender.name}: {value:.2f} ms")

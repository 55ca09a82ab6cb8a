"""`python -m bench.queues`: measure, and print one Markdown table on stdout; progress on stderr."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from importlib import metadata

from bench import environment
from bench.queues import cases
from bench.queues.figures import Figure, markdown

_PEERS = (
    "dramatiq==2.2.1",
    "huey==3.5.4",
    "taskiq==0.13.0",
    "taskiq-redis==1.2.4",
    "pgqueuer==1.6.0",
    "asyncpg==0.32.0",
    "uvloop==0.23.0",
    "confluent-kafka==2.16.1",
)
_SHARED = (*(f"{name}=={metadata.version(name)}" for name in ("kafka-python", "crc32c")),)


def main() -> None:
    """Run what was asked for."""
    options = _options()
    # TERM unwinds like Ctrl-C: every run in progress is stopped and its processes are gone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    before = os.getloadavg()[0]
    figures: list[Figure] = []
    python = environment.python("bench-queues-venv", (*_PEERS, *_SHARED))
    bench = cases.Bench(python.parent, options.jobs, options.rounds, options.contenders)
    try:
        for name in options.only or cases.ENGINES:
            engine = cases.ENGINES[name]
            try:
                with engine.server() as server:
                    for part in options.parts or cases.PARTS:
                        figures += cases.PARTS[part](bench, engine, server)
            except environment.Missing as missing:
                environment.say(f"without {name}: {missing}")
    except KeyboardInterrupt:
        environment.say("not all was measured")
    sys.stdout.write(f"{_machine(before)}\n\n{markdown(figures)}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.queues", description=__doc__)
    parser.add_argument("--jobs", type=int, default=20_000, help="how many in each run")
    parser.add_argument("--rounds", type=int, default=3, help="how often each one runs")
    parser.add_argument(
        "--only", action="append", choices=list(cases.ENGINES), metavar="ENGINE", default=[]
    )
    parser.add_argument(
        "--part", dest="parts", action="append", choices=list(cases.PARTS), default=[]
    )
    parser.add_argument(
        "--contender", dest="contenders", action="append", metavar="NAME", default=[]
    )
    return parser.parse_args()


def _machine(before: float) -> str:
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    load = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    return f"{os.cpu_count()} CPUs, {system}, {time.strftime('%Y-%m-%d')}, {load}"


if __name__ == "__main__":
    main()

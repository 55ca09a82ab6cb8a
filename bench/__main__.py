"""`python -m bench`: measure, and print one Markdown table on stdout; progress goes to stderr."""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from bench import environment
from bench.cases import CASES, SHARING_THE_FLEET, Bench
from bench.contender import Contender
from bench.ours import Ours
from bench.peers import Circus, Floor, Supervisord
from bench.table import COLUMNS, Row, markdown


def main() -> None:
    """Run the cases that were asked for."""
    options = _options()
    # TERM unwinds like Ctrl-C: every run in progress is stopped and its processes are gone.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    begun = time.monotonic()
    rows: list[Row] = []
    contenders = [one for one in _contenders() if one.name in options.contenders]
    with tempfile.TemporaryDirectory(prefix="bench-", dir="/tmp") as folder, ExitStack() as stack:
        bench = Bench(contenders, ExitStack(), options.quick)
        stack.callback(bench.release)
        for name in options.only or CASES:
            if name not in SHARING_THE_FLEET:
                bench.release()
            if name == "clients" and not _with_redis(bench, Path(folder), stack):
                continue
            environment.say(f"{name} at {time.monotonic() - begun:.0f} s")
            rows += CASES[name](bench)
    sys.stdout.write(f"{_machine()}\n\n{markdown(rows)}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few repetitions")
    parser.add_argument("--only", action="append", choices=list(CASES), metavar="NAME", default=[])
    parser.add_argument(
        "--contender", dest="contenders", action="append", choices=COLUMNS, default=[]
    )
    options = parser.parse_args()
    options.contenders = options.contenders or COLUMNS
    return options


def _contenders() -> list[Contender]:
    try:
        python = environment.python()
    except environment.Missing as missing:
        environment.say(f"without the peers: {missing}")
        return [Floor(Path(sys.executable)), Ours()]
    return [Floor(python), Ours(), Circus(python), Supervisord(python)]


def _with_redis(bench: Bench, folder: Path, stack: ExitStack) -> bool:
    try:
        bench.redis_url = stack.enter_context(environment.redis_server(folder))
    except environment.Missing as missing:
        environment.say(f"without the case of live clients; it needs: {missing}")
        return False
    return True


def _machine() -> str:
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} CPUs, {system}, {time.strftime('%Y-%m-%d')}, load {load:.1f}"


if __name__ == "__main__":
    main()

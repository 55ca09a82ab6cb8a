"""Our supervisor, at its defaults but for what the cases are about: `backoff = 0`."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from bench.contender import FLOOD_LOG, Workload


@dataclass(frozen=True, slots=True)
class Ours:
    """`python -m supervisor` of the environment that runs the bench."""

    name: str = "ours"

    def prepare(self, workload: Workload, folder: Path) -> list[str]:
        """Write the configuration."""
        text = _SUPERVISOR.format(folder=folder)
        if workload.preload:
            text += f"preload = {', '.join(workload.preload)}\n"
        for kind, count in workload.jobs:
            module = "child" if kind == "tiny" else "heavier"
            text += _JOB.format(kind=kind, count=count, module=module)
            if kind == "flood":
                text += f"log_file = {folder / FLOOD_LOG}\nlog_max_bytes = 1GB\n"
        (folder / "bench.ini").write_text(text)
        return [*_COMMAND, "start", "--conf", f"{folder}/bench.ini"]

    def status(self, folder: Path) -> list[str] | None:
        """Give `supervisor status --json`."""
        return [*_COMMAND, "status", "--json", "--conf", f"{folder}/bench.ini"]


_COMMAND = (sys.executable, "-m", "supervisor")

_SUPERVISOR = """\
[supervisor]
name = bench
run_dir = {folder}/run
state_dir = {folder}/state
"""

_JOB = """
[daemon:{kind}]
type = worker
target = {module}:{kind}
processes = {count}
backoff = 0
max_failures = 1000000
"""

"""The frames of `top`: two looks at all processes, and what each has used between them. Pure.

The processor time is read by the caller from /proc; the rest is `status`. Called by
`insight_commands`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, TypedDict

from supervisor.columns import Row, cut, paint, table
from supervisor.lines import escape
from supervisor.render import detail, duration, is_bad, size, verdict
from supervisor.shapes import ProcessStatus, Status

_SPARED: Final = ("FAILED", "RESTARTS", "BUSY", "UPTIME", "DONE/S", "PID", "BEAT", "RSS")
_NUMBERS: Final = frozenset(
    {"PID", "CPU", "RSS", "DONE/S", "BUSY", "FAILED", "BEAT", "UPTIME", "RESTARTS"}
)


@dataclass(frozen=True, slots=True)
class Look:
    """One look: when (seconds of any clock), `status`, and the CPU seconds of each living pid."""

    at: float
    status: Status
    cpu_s: Mapping[int, float] = field(default_factory=dict)


class Usage(TypedDict):
    """What one process uses. `cpu_percent` is of one core, None without two looks at it."""

    name: str
    job: str
    state: str
    ready: bool
    pid: int | None
    cpu_percent: float | None
    rss_bytes: int | None
    done_per_s: float | None
    in_flight: int
    failed: int
    heartbeat_age_s: float | None
    uptime_s: float | None
    restarts: int


def usages(before: Look | None, after: Look) -> list[Usage]:
    """Compare two looks: what is not well first, then who uses most of the processor."""
    former = {row["name"]: row for row in before.status["processes"]} if before else {}
    rows = [_usage(former.get(row["name"]), row, before, after) for row in _sorted(after)]
    return rows if before is None else _by_use(rows, after)


def frame(
    before: Look | None,
    after: Look,
    *,
    clock: str,
    partial: bool = False,
    colour: bool = False,
    width: int | None = None,
) -> list[str]:
    """Draw one frame; `clock` is the time of day that it shows."""
    found = usages(before, after)
    processes = {row["name"]: row for row in after.status["processes"]}
    word = verdict(after.status, partial=partial)
    lines = [paint(cut(_headline(word, found, after.status, clock), width), word, colour)]
    if not found:
        return [*lines, "no processes"]
    rows = [_row(usage, processes[usage["name"]]) for usage in found]
    states = [(is_bad(processes[usage["name"]]), usage["state"]) for usage in found]
    return lines + table(rows, states, spared=_SPARED, numbers=_NUMBERS, width=width, colour=colour)


def fitting(lines: Sequence[str], height: int) -> list[str]:
    """Give the lines that a terminal shows, the last one telling of those that it does not."""
    if len(lines) <= height:
        return list(lines)
    kept = max(0, height - 1)
    return [*lines[:kept], f"… and {len(lines) - kept} more lines"]


def _sorted(look: Look) -> list[ProcessStatus]:
    return sorted(look.status["processes"], key=lambda row: not is_bad(row))


def _by_use(rows: Sequence[Usage], after: Look) -> list[Usage]:
    bad = {row["name"] for row in after.status["processes"] if is_bad(row)}
    return sorted(rows, key=lambda row: (row["name"] not in bad, -(row["cpu_percent"] or 0.0)))


def _usage(
    former: ProcessStatus | None, row: ProcessStatus, before: Look | None, after: Look
) -> Usage:
    pid = row["pid"]
    cpu, done = None, None
    if former is not None and before is not None and after.at > before.at:
        done = _rate(row["done"] - former["done"], before, after)
        if pid is not None and pid in before.cpu_s and pid in after.cpu_s:
            cpu = 100 * _rate(after.cpu_s[pid] - before.cpu_s[pid], before, after)
    return {
        "name": row["name"],
        "job": row["job"],
        "state": row["state"],
        "ready": row["ready"],
        "pid": pid,
        "cpu_percent": None if cpu is None else round(cpu, 1),
        "rss_bytes": row["rss_bytes"],
        "done_per_s": None if done is None else round(done, 1),
        "in_flight": row["in_flight"],
        "failed": row["failed"],
        "heartbeat_age_s": row["heartbeat_age_s"],
        "uptime_s": row["uptime_s"],
        "restarts": row["restarts"],
    }


def _rate(amount: float, before: Look, after: Look) -> float:
    return max(0.0, amount) / (after.at - before.at)


def _headline(word: str, found: Sequence[Usage], status: Status, clock: str) -> str:
    master = status["master"]
    cpu = sum(usage["cpu_percent"] or 0.0 for usage in found)
    rss = sum(usage["rss_bytes"] or 0 for usage in found)
    ready = f"{sum(usage['ready'] for usage in found)} of {len(found)} ready"
    words = (
        f"{word}  {escape(master['name'])}  {ready}",
        f"up {duration(master['uptime_s'])}",
        f"cpu {cpu:.0f}%",
        f"rss {size(rss)}",
        clock,
    )
    return "   ".join(words)


def _row(usage: Usage, process: ProcessStatus) -> Row:
    pid = usage["pid"]
    cells = {
        "NAME": usage["name"],
        "PID": "-" if pid is None else str(pid),
        "STATE": usage["state"],
        "CPU": _percent(usage["cpu_percent"]),
        "RSS": size(usage["rss_bytes"]),
        "DONE/S": _number(usage["done_per_s"]),
        "BUSY": str(usage["in_flight"]),
        "FAILED": str(usage["failed"]),
        "BEAT": duration(usage["heartbeat_age_s"]),
        "UPTIME": duration(usage["uptime_s"]) if pid else "-",
        "RESTARTS": str(usage["restarts"]),
        "DETAIL": detail(process),
    }
    return {name: escape(cell) for name, cell in cells.items()}


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}%"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"

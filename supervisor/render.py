"""What people see: the `shapes` as lines of text. Pure; called by `cli` only.

Bad rows stand before good ones, then the order of the file. Columns go from identity over state
and amounts to free text, so that what a narrow terminal loses is what matters least; a pipe loses
nothing. Colour repeats what a word says already. Control characters are shown, never sent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Final

from supervisor.columns import Row, cut, grid, paint, table
from supervisor.errors import Problem
from supervisor.lines import escape
from supervisor.protocol import is_ready
from supervisor.shapes import (
    DeadLetter,
    Event,
    JobStatus,
    LastExit,
    MasterStatus,
    ProcessStatus,
    QueueStatus,
    ReloadReport,
    Status,
    StopReport,
)

_COLUMNS: Final = (
    "NAME", "KIND", "STATE", "READY", "PID", "UPTIME", "RESTARTS", "LAST-EXIT",
    "IN-FLIGHT", "DONE", "FAILED", "RSS", "BEAT", "DETAIL",
)  # fmt: skip
_NUMBERS: Final = frozenset(
    {"PID", "UPTIME", "RESTARTS", "IN-FLIGHT", "DONE", "FAILED", "RSS", "BEAT"}
)

_SPARED: Final = ("KIND", "IN-FLIGHT", "BEAT", "LAST-EXIT", "RSS", "PID", "FAILED", "DONE")
"""What a narrow terminal goes without, first to last."""

_BAD_STATES: Final = frozenset({"BACKOFF", "FATAL"})
_UP_STATES: Final = frozenset({"STARTING", "RUNNING", "EXITED"})


def duration(seconds: float | None) -> str:
    """Give a time span in two units at most, as in `12d4h`, `3m2s`, `42s`, `18ms`."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{max(0, int(seconds * 1000))}ms"
    whole = int(seconds)
    for size, word, next_size, next_word in (
        (86400, "d", 3600, "h"),
        (3600, "h", 60, "m"),
        (60, "m", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // next_size
            return f"{whole // size}{word}" + (f"{rest}{next_word}" if rest else "")
    return f"{whole}s"


def size(count: int | None) -> str:
    """Give an amount of memory, in units of 1024."""
    if count is None:
        return "-"
    if count < 1 << 20:
        return f"{count >> 10} KiB"
    return f"{count / (1 << 30):.1f} GiB" if count >= 1 << 30 else f"{count >> 20} MiB"


def is_bad(row: ProcessStatus) -> bool:
    """Tell whether a process is not as it should be; one stopped on purpose is."""
    late = row["state"] in _UP_STATES and not row["ready"]
    return late or row["state"] in _BAD_STATES or _waits(row)


def verdict(status: Status, *, partial: bool = False) -> str:
    """Say in one word how things stand; `partial`: only for the processes given."""
    bad = [row for row in status["processes"] if is_bad(row)]
    if status["master"]["state"] == "STOPPING":
        return "STOPPING"
    if not bad and (partial or status["master"]["ready"]):
        return "OK"
    if any(row["state"] != "STARTING" and not row.get("held") for row in bad):
        return "DEGRADED"
    return "STARTING" if bad else "DEGRADED"


def status_screen(
    status: Status, *, partial: bool = False, colour: bool = False, width: int | None = None
) -> str:
    """Draw `status`; `width` is that of a terminal, None for everything else."""
    word = verdict(status, partial=partial)
    head = cut(f"{word}  {_headline(status['processes'], status['master'])}", width)
    lines = [paint(head, word, colour)]
    processes = sorted(status["processes"], key=lambda row: not is_bad(row))
    rows = [_row(process) for process in processes]
    if not rows:
        return "\n".join([*lines, "no processes", *_by_hand(status)])
    states = [(is_bad(process), process["state"]) for process in processes]
    lines += table(rows, states, spared=_SPARED, numbers=_NUMBERS, width=width, colour=colour)
    return "\n".join([*lines, *(cut(line, width) for line in _by_hand(status))])


def check_line(status: Status, *, partial: bool = False) -> str:
    """Say in one line whether things are ready, and what is not."""
    rows = status["processes"]
    late = sorted((row for row in rows if not row["ready"]), key=lambda row: not is_bad(row))
    if is_ready(status, partial=partial):
        return f"ready: {_of(rows)}"
    if not late:
        return f"not ready: the supervisor is {status['master']['state']}"
    more = f" (and {len(late) - 1} more)" if len(late) > 1 else ""
    told = detail(late[0])
    return f"not ready: {late[0]['name']} {late[0]['state']}{', ' if told else ''}{told}{more}"


def next_command(status: Status) -> str | None:
    """Give the command to go on with; None when all is well."""
    bad = sorted(filter(is_bad, status["processes"]), key=lambda row: row["state"] != "FATAL")
    return f"supervisor why {bad[0]['name']}" if bad else None


def stop_lines(report: StopReport) -> list[str]:
    """Say what a stop did."""
    lines = [f"stopped: {report['drained']} drained, {report['abandoned']} abandoned"]
    if report["killed"]:
        lines.append(f"killed: {', '.join(map(escape, report['killed']))}")
    return lines


def event_line(event: Event) -> str:
    """Draw one transition, in local time."""
    pid = f"  pid {event['pid']}" if event["pid"] is not None else ""
    why = f"  {escape(event['why'])}" if event["why"] else ""
    return f"{local(event['at'])}  {event['name']}  {event['from']} -> {event['to']}{pid}{why}"


def warning_line(problem: Problem) -> str:
    """Draw a problem that stops nothing, in the form of the others."""
    place = f"{problem.file}:{problem.line}" if problem.line else problem.file
    return f"{place}: warning:{str(problem).removeprefix(place).removeprefix(':')}"


def check_verdict(jobs: int, files: int, errors: int, warnings: int) -> str:
    """Say in one line what `check` found; `files` is 0 when they could not be read."""
    found = [amount(errors, "error") if errors else "ok"]
    if warnings:
        found.append(amount(warnings, "warning"))
    read = f"{amount(jobs, 'job')}, {amount(files, 'file')}: " if files else ""
    return read + ", ".join(found)


def done_line(process: ProcessStatus, word: str) -> str:
    """Say that something was done to a process, and what it is now."""
    pid = f", pid {process['pid']}" if process["pid"] is not None else ""
    return f"{process['name']} {word}: {process['state']}{pid}"


def scaled_line(job: JobStatus) -> str:
    """Say how many processes a job has by hand, as in `orders: 4 (file: 2)`."""
    if job["processes"] == job["file"]:
        return f"{job['name']}: {job['processes']}"
    return f"{job['name']}: {job['processes']} (file: {job['file']})"


def reload_lines(report: ReloadReport, *, dry_run: bool) -> list[str]:
    """Draw what a reload has changed, or would change."""
    if report["errors"]:
        return [f"nothing was changed: {amount(len(report['errors']), 'error')}"]
    steps = [step for step in report["jobs"] if step["change"] != "unchanged"]
    rows = [[step["name"], step["change"], ", ".join(step["fields"])] for step in steps]
    lines = grid(("NAME", "CHANGE", "KEYS"), rows) if rows else []
    rest = amount(len(report["jobs"]) - len(steps), "job")
    return [*lines, f"{rest} unchanged" + ("; nothing was done" if dry_run else "")]


def _by_hand(status: Status) -> list[str]:
    """Say what was changed on the running system and outlasts a reload."""
    jobs = status.get("jobs", [])
    words = [scaled_line(job) for job in jobs if job["processes"] != job["file"]]
    words += [f"{job['name']} quiet" for job in jobs if job["quiet"]]
    words += [f"{name} stopped" for job in jobs for name in job["stopped"]]
    return [f"by hand: {', '.join(words)}"] if words else []


def queue_table(rows: Sequence[QueueStatus]) -> list[str]:
    """Draw `queue list`."""
    if not rows:
        return ["no queues"]
    head = ("TOPIC", "DEPTH", "DELAYED", "IN-FLIGHT", "DEAD", "OLDEST", "PAUSED", "URL")
    cells = [
        (
            row["topic"],
            str(row["depth"]),
            str(row["delayed"]),
            str(row["in_flight"]),
            str(row["dead"]),
            duration(row["oldest_age_s"]),
            "yes" if row["paused"] else "no",
            _queue(row),
        )
        for row in rows
    ]
    return grid(head, cells, numbers=frozenset(head[1:6]))


def _queue(row: QueueStatus) -> str:
    return f"{row['url']} {row['group']}" if "group" in row else row["url"]


def topic_lines(rows: Sequence[QueueStatus]) -> list[str]:
    """Draw what `queue pause` and `queue resume` have made of a topic, a line for each queue."""
    return [
        f"{escape(row['topic'])} {'is paused' if row['paused'] else 'goes on'}: "
        f"{row['depth'] + row['delayed']} wait, {row['in_flight']} in flight "
        f"({escape(_queue(row))})"
        for row in rows
    ]


def dead_table(rows: Sequence[DeadLetter]) -> list[str]:
    """Draw `dead list`."""
    if not rows:
        return ["no dead letters"]
    head = ("ID", "AT", "ATTEMPTS", "CRASHES", "ERROR")
    cells = [
        (
            row["id"],
            local(row["at"]),
            str(row["attempts"]),
            str(row["crashes"]),
            (row["error"].strip().splitlines() or ["-"])[0],
        )
        for row in rows
    ]
    return grid(head, cells, numbers=frozenset({"ATTEMPTS", "CRASHES"}))


def dead_letter(letter: Mapping[str, object]) -> list[str]:
    """Draw `dead show`: one field a line, texts of several lines indented below their name."""
    lines = []
    for key, value in letter.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        parts = [escape(part) for part in text.splitlines()]
        if len(parts) > 1:
            lines += [f"{key}:", *(f"    {part}" for part in parts)]
        else:
            lines.append(f"{key}: {''.join(parts)}")
    return lines


def amount(count: int, word: str) -> str:
    """Give a count with its noun: `1 file`, `2 files`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def local(at: str) -> str:
    """Give a time of the protocol in local time, without its year."""
    return datetime.fromisoformat(at).astimezone().strftime("%m-%d %H:%M:%S")


def _headline(rows: Sequence[ProcessStatus], master: MasterStatus) -> str:
    stopped = sum(row["state"] == "STOPPED" and not _waits(row) for row in rows)
    words = [
        f"{_of(rows)} ready" + (f" ({stopped} stopped)" if stopped else ""),
        f"up {duration(master['uptime_s'])}",
        f"pid {master['pid']}",
        escape(master["config"]),
    ]
    return "   ".join(words)


def _of(rows: Sequence[ProcessStatus]) -> str:
    return f"{sum(row['ready'] for row in rows)} of {len(rows)}"


def _row(process: ProcessStatus) -> Row:
    cells = (
        process["name"],
        process["kind"],
        process["state"],
        "yes" if process["ready"] else "no",
        _number(process["pid"]),
        duration(process["uptime_s"]) if process["pid"] else "-",
        str(process["restarts"]),
        _exit(process["last_exit"]),
        str(process["in_flight"]),
        str(process["done"]),
        str(process["failed"]),
        size(process["rss_bytes"]),
        duration(process["heartbeat_age_s"]),
        detail(process),
    )
    return dict(zip(_COLUMNS, map(escape, cells), strict=True))


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _exit(last: LastExit | None) -> str:
    """Say how a process ended: `exit 1`, `KILL`, or the cause where that tells more."""
    if last is None:
        return "-"
    if last["cause"] not in ("exited", "signaled"):
        return last["cause"]
    return last["signal"] or f"exit {last['code']}"


def detail(process: ProcessStatus) -> str:
    """Say the one thing that matters of a process: what is wrong, or what it has to do."""
    parts = []
    if process["state"] in _BAD_STATES:
        # Of a FATAL one `why` tells more: which limit it has met.
        told = process.get("why") if process["state"] == "FATAL" else None
        if told or process["last_exit"] is not None:
            parts.append(told or _exit(process["last_exit"]))
        again = process["next_start_s"]
        failures = "" if told else _failures(process)
        parts.append(("no retry" if again is None else f"retry in {duration(again)}") + failures)
    elif is_bad(process):
        told = process.get("why", "")
        parts.append(told if _waits(process) or told.startswith("not ready: ") else "not ready")
    if process.get("quiet"):
        parts.append("quiet")
    parts += [
        f"{word} {value}"
        for word, value in (
            ("backlog", process["backlog"]),
            ("lag", process["lag"]),
            ("dead", process["dead"]),
            ("paused:", ", ".join(process.get("paused", ()))),
            ("progress", _progress(process)),
        )
        if value
    ]
    return ", ".join(parts)


def _progress(process: ProcessStatus) -> str:
    progress = process.get("progress")
    return f"{progress['done']} of {progress['total']}" if progress else ""


def _waits(process: ProcessStatus) -> bool:
    """Tell whether a slot is kept empty until somebody else has left it, or has come."""
    return process.get("why", "").startswith("waiting for ")


def _failures(process: ProcessStatus) -> str:
    failures, most = process.get("failures"), process.get("max_failures")
    return f" ({failures} of {most})" if failures and most else ""

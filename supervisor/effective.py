"""The effective values of a configuration: each key, what it means here, and where that stands.

A value is shown in the words of the file, with variables replaced, relative paths and URLs made
absolute, and every secret masked; one that the file does not give has its default. Changes
nothing, reads no secret file. Used by `check --show`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import ini, selection, settings, values
from supervisor.config import Config, Job
from supervisor.secret import Secret, is_secret_name, mask

_HIDDEN: Final = "***"
# Of a command: `--db-password=x`, `--token x`.
_SECRET_OPTION: Final = r"(?i)((?:^|\s)\S*(?:password|token|secret)[^\s=]*(?:=|\s+))(?!-)\S+"


@dataclass(frozen=True, slots=True)
class Value:
    """One key. `value` is None where there is none; without a `file` it is the default."""

    key: str
    value: str | None
    file: str | None
    line: int | None


@dataclass(frozen=True, slots=True)
class Part:
    """The values of one section: `supervisor`, `worker` or `daemon:NAME`."""

    section: str
    values: tuple[Value, ...]


def parts(config: Config, path: Path, names: tuple[str, ...]) -> list[Part]:
    """Give the values of the supervisor and of every job, or those of the jobs of these names.

    `path` is the file of the configuration as the user has named it.
    Raises: NoSuchJob.
    """
    document = ini.read(path)
    jobs = {
        job.name: [f"{job.name}:{number}" for number in range(job.processes)] for job in config.jobs
    }
    found = [] if names else [_section(document, config, name) for name in ("supervisor", "worker")]
    chosen = _jobs(names, jobs)
    return found + [_job(document, job) for job in config.jobs if job.name in chosen]


def _jobs(names: tuple[str, ...], jobs: Mapping[str, list[str]]) -> set[str]:
    """Give the jobs of these names, also those of no process."""
    processes = selection.select(names, jobs)
    empty = {name: [f"{name}:0"] for name, some in jobs.items() if not some}
    more = selection.select(names, {**jobs, **empty})
    return {name.partition(":")[0] for name in (*processes, *more)}


def _section(document: ini.Document, config: Config, name: str) -> Part:
    section = document.sections.get(name)
    entries = section.entries if section else {}
    prefix = "" if name == "supervisor" else f"{name}_"
    rows = [row for row in settings.SECTIONS[name] if row.built]
    found = [
        _value(row.key, row, entries.get(row.key), getattr(config, prefix + row.key, None))
        for row in rows
    ]
    return Part(name, tuple(found))


def _job(document: ini.Document, job: Job) -> Part:
    own = document.sections[f"{job.kind}:{job.name}"].entries
    head = document.sections.get(job.kind)
    entries = (head.entries if head else {}) | own
    found: list[Value] = []
    for row in settings.of_type(f"{job.kind}:NAME", job.type):
        if not row.built:
            continue
        if row.family is None:
            found.append(_value(row.key, row, entries.get(row.key), getattr(job, row.key, None)))
        else:
            found += _family(row, entries)
    return Part(f"{job.kind}:{job.name}", tuple(found))


def _family(row: settings.Setting, entries: Mapping[str, ini.Entry]) -> Iterator[Value]:
    for key, entry in entries.items():
        if row.family is not None and key.startswith(row.family) and key != row.family:
            yield _value(key, row, entry, None)


def _value(key: str, row: settings.Setting, entry: ini.Entry | None, known: object) -> Value:
    if entry is None:
        # What was found may differ from the table: a program, say, has no heartbeat.
        is_usual = known is None or (row.default is not None and known == row.default_value())
        return Value(key, (row.default if is_usual else _shown(known)) or None, None, None)
    text = _shown(known) if isinstance(known, Path | Secret) else _written(key, entry)
    return Value(key, _HIDDEN if is_secret_name(key) else text, entry.source.shown, entry.line)


def _written(key: str, entry: ini.Entry) -> str:
    """Give what stands in the file, with its variables replaced and its secrets masked."""
    lines = [line.shown for line in ini.given(entry).lines]
    if key == "environment":
        lines = [_variable(line) for line in lines]
    if key == "command":
        lines = [re.sub(_SECRET_OPTION, rf"\1{_HIDDEN}", line) for line in lines]
    return "\n".join(lines)


def _variable(line: str) -> str:
    name, equals, _ = line.partition("=")
    return f"{name}{equals}{_HIDDEN}" if equals and is_secret_name(name) else line


def _shown(value: object) -> str:
    """Write a value that was found, and not read."""
    if isinstance(value, Secret):
        return value.shown
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return values.show_duration(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return ", ".join(map(str, value))
    return mask(str(value))

"""What a reload changes: two configurations in, a plan out. Pure; no clock, no process, no file.

A key is taken over while its job runs, or needs a new process of it, or is the supervisor's own
and waits for its restart: the table of `settings` says which. Called by `reloading`, which does
what is planned here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from typing import Final

from supervisor import dependencies, settings
from supervisor.config import Config, Job

MASTER: Final = "master"
"""Whom a change of [supervisor] or [worker] concerns, beside the names of the jobs."""


class Change(Enum):
    """What becomes of a job, in the words of `reload --json`."""

    UNCHANGED = "unchanged"
    LIVE = "applied live"
    RESTART = "restart"
    ADDED = "added"
    REMOVED = "removed"
    SUPERVISOR = "needs a restart of the supervisor"


@dataclass(frozen=True, slots=True)
class Step:
    """What happens to one job, or to the master, and the keys that differ."""

    name: str
    change: Change
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Plan:
    """All steps: those of the master, then the jobs in the order of the new file, then the rest."""

    steps: tuple[Step, ...]

    def names(self, change: Change) -> list[str]:
        """Give the jobs of one kind of change."""
        return [step.name for step in self.steps if step.change is change and step.name != MASTER]


def plan(old: Config, new: Config) -> Plan:
    """Compare what runs with what the file says now."""
    before = {job.name: job for job in old.jobs}
    after = {job.name: job for job in new.jobs}
    steps = list(_of_master(old, new))
    for name, job in after.items():
        steps.append(compare(before[name], job) if name in before else Step(name, Change.ADDED))
    steps += [Step(name, Change.REMOVED) for name in before if name not in after]
    return Plan(tuple(steps))


def compare(old: Job, new: Job) -> Step:
    """Say what a job needs to become another."""
    differing = list(_differing(old, new))
    if not differing:
        return Step(new.name, Change.UNCHANGED)
    is_live = all(_is_live(key, new.type) for key in differing)
    return Step(new.name, Change.LIVE if is_live else Change.RESTART, tuple(differing))


def live_form(old: Job, new: Job) -> Job:
    """Give the old job with all that can be taken over at once.

    What needs a new process stays as it is.
    """
    taken = [key for key in _FIELDS if _is_live(key, old.type) and _is_live(key, new.type)]
    return replace(old, **{key: getattr(new, key) for key in taken})


def merged(old: Config, new: Config) -> Config:
    """Give what can be applied: the new configuration with what only a restart can change."""
    kept = [key for key in _CONFIG_FIELDS if _of_supervisor(key) == settings.SUPERVISOR]
    return replace(new, **{key: getattr(old, key) for key in kept})


def going_back(config: Config, old: Job) -> Job:
    """Give the old form of a job for a configuration whose other jobs have gone on.

    What it waited for may be gone, or wait for it by now; then it waits for what the new one does.
    """
    others = [job for job in config.jobs if job.name != old.name]
    graph = {job.name: [one.job for one in job.depends_on] for job in (*others, old)}
    known = all(one.job in graph for one in old.depends_on)
    if known and not dependencies.circles(graph):
        return old
    current = next((job.depends_on for job in config.jobs if job.name == old.name), ())
    return replace(old, depends_on=current)


_NOT_KEYS: Final = frozenset(
    {"name", "kind", "section_origin", "origins", "other_groups", "state_dir"}
)

_FIELDS: Final = tuple(field.name for field in fields(Job) if field.name not in _NOT_KEYS)

_FAMILIES: Final = {"options": "option.", "handlers": "handler.", "client": "client."}

_KEYS: Final = {"consumer_group": "group"}
"""Fields whose key has another name."""

_CONFIG_FIELDS: Final = tuple(
    field.name
    for field in fields(Config)
    if field.name not in ("path", "jobs", "warnings", "origins")
)


def _differing(old: Job, new: Job) -> Iterator[str]:
    """Give the keys whose values differ, in the order of the table; each of a family by itself."""
    for name in ("kind", *_FIELDS):
        was, now = getattr(old, name), getattr(new, name)
        if was == now:
            continue
        if name in _FAMILIES:
            yield from (_FAMILIES[name] + key for key in _different_members(was, now))
        else:
            yield _KEYS.get(name, name)


def _different_members(was: Mapping[str, object], now: Mapping[str, object]) -> Iterable[str]:
    return [key for key in {**was, **now} if was.get(key) != now.get(key)]


def _is_live(key: str, job_type: str) -> bool:
    row = settings.row_of("daemon:NAME", key, job_type)
    return row is not None and row.reload == settings.LIVE


def _of_master(old: Config, new: Config) -> Iterator[Step]:
    found: dict[str, list[str]] = {settings.LIVE: [], settings.SUPERVISOR: []}
    for key in _CONFIG_FIELDS:
        if getattr(old, key) != getattr(new, key):
            found[_of_supervisor(key)].append(key)
    if found[settings.LIVE]:
        yield Step(MASTER, Change.LIVE, tuple(found[settings.LIVE]))
    if found[settings.SUPERVISOR]:
        yield Step(MASTER, Change.SUPERVISOR, tuple(found[settings.SUPERVISOR]))


def _of_supervisor(key: str) -> str:
    """Say whether a key of [supervisor] or [worker] is taken over at once, or at a restart."""
    section, _, name = key.rpartition("worker_")
    rows = settings.rows("worker" if section == "" and name != key else "supervisor", name)
    is_live = bool(rows) and all(row.reload == settings.LIVE for row in rows)
    return settings.LIVE if is_live else settings.SUPERVISOR

"""What the values of a configuration must have to do with each other, once each is right by itself.

Pairs of keys, threads and batches, handlers and topics, processes, dependencies, users. Pure: what
is wrong is noted, what is left out is worked out in place. Called by `loading`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from supervisor import dependencies, ini, values
from supervisor.board import THREADS
from supervisor.config import Job
from supervisor.errors import Problem
from supervisor.secret import plain
from supervisor.urls import LOCK_ON_SQLITE, is_postgres, is_sqlite

_PAIRS: Final = (("backoff", "backoff_max"), ("retry_backoff", "retry_backoff_max"))
"""Keys of which the first may not be larger than the second."""

_MOST_PROCESSES: Final = 4096
"""All jobs together. Source: the capacity of the board."""

_BOUNDS: Final = ("min_concurrency", "max_concurrency")

_LEAST_QUEUE: Final = 100
"""The least `queue_size` by default."""


class Notes:
    """All faults and warnings of one configuration."""

    def __init__(self, faults: Iterable[Problem]) -> None:
        """Begin with the faults of the files themselves."""
        # Each once: an entry that many jobs inherit is read for each of them.
        self.faults: dict[Problem, None] = dict.fromkeys(faults)
        self.warnings: list[Problem] = []

    def fault(self, problem: Problem) -> None:
        """Note what must not be."""
        self.faults[problem] = None

    def warn(self, problem: Problem) -> None:
        """Note what may be meant so."""
        self.warnings.append(problem)


def check_pairs(found: dict[str, Any], entries: dict[str, ini.Entry], notes: Notes) -> None:
    """Refuse a least that is more than its most."""
    for low, high in _PAIRS:
        if low not in found or found[low] <= found[high]:
            continue
        least, most = (values.show_duration(found[key]) for key in (low, high))
        if high in entries:
            message = f"{most} is less than {low}; make it at least {least}"
            notes.fault(entries[high].problem(message))
        else:
            message = f"{least} is more than {high} ({most}); set {high} too"
            notes.fault(entries[low].problem(message))


def fit_threads(found: dict[str, Any], entries: dict[str, ini.Entry], notes: Notes) -> None:
    """Work out what depends on others: the queue, the bounds of the threads, and how many fit.

    Where threads come and go, `concurrency` is what a process begins with, if it is given.
    """
    batch = found["batch"]
    found.setdefault("queue_size", max(_LEAST_QUEUE, 2 * batch))
    wanted = found["concurrency"]
    if not found.keys().isdisjoint(_BOUNDS):
        given = wanted if "concurrency" in entries else 1
        least = found.setdefault("min_concurrency", min(given, found.get(_BOUNDS[1], given)))
        wanted = found.setdefault("max_concurrency", max(wanted, least))
        found["concurrency"] = min(wanted, max(least, given))
        if least > wanted:
            message = f"{least} is more than max_concurrency ({wanted}); make it at most that"
            notes.fault(entries["min_concurrency"].problem(message))
    found.setdefault("pool_size", wanted)
    threads = max(1, THREADS // batch)
    if threads < wanted:
        message = (
            f"{threads} of {wanted} threads, each with {min(batch, THREADS)}"
            f" messages: one process handles {THREADS} at a time; add processes for more"
        )
        notes.warn(entries["batch"].problem(message))


def fit_claim(found: dict[str, Any], entries: dict[str, ini.Entry], notes: Notes) -> None:
    """Work out how the rows of a table are held; refuse locks where there can be none.

    Of a URL that a file holds only the child knows whether a row can be locked.
    """
    needs_lease = found["batch"] > 1
    url = found.get("url") or plain("")
    if "claim" not in entries:
        found["claim"] = "lock" if is_postgres(url) and not needs_lease else "lease"
        return
    if found["claim"] != "lock":
        return
    problem = entries["claim"].problem
    if is_sqlite(url):
        notes.fault(problem(LOCK_ON_SQLITE))
    if needs_lease:
        words = "a transaction holds one row, and batch is more; write lease, or leave batch out"
        notes.fault(problem(words))


def check_handlers(
    section: ini.Section, found: dict[str, Any], entries: dict[str, ini.Entry], notes: Notes
) -> None:
    """Compare handlers with topics: one too many is wrong, one too few is a warning."""
    names = [topic.name for topic in found.get("topics", ())]
    handlers: dict[str, str] = found.get("handlers", {})
    for topic in [topic for topic in handlers if topic not in names]:
        entry = entries[f"handler.{topic}"]
        del handlers[topic]
        if entry.section == section.name and names:
            hint = values.one_of(topic, names)
            notes.fault(entry.problem(f"{values.quoted(topic)} is none of topics; {hint}"))
    bare = [name for name in names if name not in handlers]
    if bare and "handler" not in found:
        message = f"no handler for {', '.join(bare)}: what comes is acknowledged unread"
        notes.warn(section.problem(message))


def count_processes(jobs: Iterable[Job], notes: Notes) -> None:
    """Refuse more processes than the board has pages for."""
    total = 0
    for job in jobs:
        total += job.processes
        if total > _MOST_PROCESSES:
            message = f"{total} processes in all; at most {_MOST_PROCESSES} for all jobs"
            file, line = job.origin("processes")
            notes.fault(Problem(file, line, f"daemon:{job.name}", "processes", message))
            return


def check_dependencies(
    jobs: Sequence[Job], known: Mapping[str, ini.Section], off: Set[str], notes: Notes
) -> None:
    """Refuse what nobody could wait for; warn of what is not waited for.

    `known` are all jobs of the file by their names, `off` the names of those that do not run.
    """
    by_name = {job.name: job for job in jobs}
    needs = {job.name: job.depends_on for job in jobs}
    restarts = {job.name: job.restart for job in jobs}

    def problem(name: str, message: str) -> Problem:
        origin = by_name[name].origin("depends_on")
        return Problem(*origin, f"daemon:{name}", "depends_on", message)

    for name, message in dependencies.faults(needs, known, restarts):
        notes.fault(problem(name, message))
    idle = off | {job.name for job in jobs if not job.processes}
    for name, few in needs.items():
        for one in few:
            if one.job in idle:
                words = f"{one.job} does not run here, and is not waited for"
                notes.warn(problem(name, words))


def know_groups(jobs: Sequence[Job]) -> tuple[Job, ...]:
    """Tell each job of streams which groups other jobs have on them.

    Whoever comes first makes them all: what the only group of a stream has settled is deleted.
    """
    found = [
        (job.url, topic.name, job.consumer_group)
        for job in jobs
        if job.type == "stream"
        for topic in job.topics
    ]

    def others(job: Job) -> tuple[tuple[str, str], ...]:
        mine = {topic.name for topic in job.topics}
        return tuple(
            (topic, group)
            for url, topic, group in found
            if url == job.url and topic in mine and group != job.consumer_group
        )

    return tuple(
        replace(job, other_groups=others(job)) if job.type == "stream" else job for job in jobs
    )


def know_state_dir(jobs: Iterable[Job], state_dir: Path) -> tuple[Job, ...]:
    """Tell jobs on Kafka where the supervisor keeps its state."""
    return tuple(replace(job, state_dir=state_dir) if job.type == "kafka" else job for job in jobs)


def refuse_two_users(supervisor: Mapping[str, object], jobs: Iterable[Job], notes: Notes) -> None:
    """Refuse a user or group of a job where the whole supervisor has one."""
    if "user" not in supervisor and "group" not in supervisor:
        return
    for job in jobs:
        for key in ("user", "group"):
            if getattr(job, key) is not None:
                words = "the whole supervisor has a user or group; leave one of the two out"
                notes.fault(job.problem(key, words))

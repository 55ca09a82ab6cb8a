"""Which processes names mean: a job (`orders`), one process of it (`orders:0`), or a glob.

Pure. Used by whatever takes names of an operator: the verbs, those who follow, `check --show`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

from supervisor.errors import NoSuchJob

_STRANGERS: Final = 10
"""So many unknown names are told one by one, each with the nearest known one."""

_NEAR: Final = 256

_PATTERN_CHARACTERS: Final = frozenset("*?[")


def is_pattern(name: str) -> bool:
    """Tell a glob from a plain name."""
    return not _PATTERN_CHARACTERS.isdisjoint(name)


def select(
    patterns: Iterable[str], jobs: Mapping[str, Sequence[str]], *, extra: Sequence[str] = ()
) -> tuple[str, ...]:
    """Give the processes that names, `job:0` names and globs mean: each once, in file order.

    `jobs` maps each job to the names of its processes; a job without any is still a job. `extra`
    holds names that are no process and allowed as well ("master"). No pattern means all processes.

    Raises: NoSuchJob naming every pattern that fits nothing, with the nearest names.
    """
    order = [*extra, *(process for processes in jobs.values() for process in processes)]
    asked = list(patterns)
    if not asked:
        return tuple(order[len(extra) :])
    chosen: set[str] = set()
    strangers = []
    for pattern in asked:
        found = _fitting(pattern, jobs, extra)
        if found is None:
            strangers.append(pattern)
        else:
            chosen |= found
    if strangers:
        # Nearness is dear: 15 us for each name that is known.
        near = [*extra, *jobs, *order] if len(order) <= _NEAR else [*extra, *jobs][:_NEAR]
        lines = [_stranger(name, near) for name in strangers[:_STRANGERS]]
        if len(strangers) > _STRANGERS:
            lines.append(f"and {len(strangers) - _STRANGERS} more")
        raise NoSuchJob("\n".join(lines))
    return tuple(name for name in order if name in chosen)


def fits(patterns: Iterable[str], name: str) -> bool:
    """Say whether names and globs, as `select` takes them, mean this process or "master".

    No pattern means all processes, and not the master.
    """
    job, _, _ = name.partition(":")
    extra, jobs = ((name,), {}) if job == name else ((), {job: (name,)})
    asked = list(patterns)
    if not asked:
        return bool(jobs)
    return any(_fitting(pattern, jobs, extra) for pattern in asked)


def _fitting(
    pattern: str, jobs: Mapping[str, Sequence[str]], extra: Sequence[str]
) -> set[str] | None:
    """Give the processes that one pattern means, None when it fits no job and no process."""
    if not is_pattern(pattern):
        if pattern in extra:
            return {pattern}
        if pattern in jobs:
            return set(jobs[pattern])
        return {pattern} if pattern in jobs.get(pattern.partition(":")[0], ()) else None
    found: set[str] = set()
    known = False
    for job, processes in jobs.items():
        whole = fnmatchcase(job, pattern)
        some = processes if whole else [name for name in processes if fnmatchcase(name, pattern)]
        known = known or whole or bool(some)
        found.update(some)
    return found if known else None


def _stranger(name: str, known: Sequence[str]) -> str:
    # Here, as only a mistyped name needs it.
    from difflib import get_close_matches

    near = get_close_matches(name[:80], list(dict.fromkeys(known)), n=1)
    # ascii(): the name may hold anything, and the line goes to a terminal.
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"no such job: {ascii(name[:80])[1:-1]}{hint}"

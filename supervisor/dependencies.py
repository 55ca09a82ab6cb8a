"""What depends on what: circles, the order of a start, and who depends on whom.

Pure: the words of `depends_on`, and the names of jobs, with the names that each depends on. Called
by `config`, which refuses what cannot be, and by `precedence`, which keeps the order in the running
supervisor. No recursion: a chain may have as many links as there are jobs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from supervisor import values
from supervisor.values import one_of, quoted

Graph = Mapping[str, Collection[str]]
"""The names that each job depends on; one that is no key of its own depends on nothing."""

WORDS: Final = {"ready": "to be ready", "started": "to start", "completed": "to complete"}
"""What is waited for, in words."""


@dataclass(frozen=True, slots=True)
class Dependency:
    """What a job waits for before its start: another job, and what that one must have reached."""

    job: str
    need: str = "ready"


def read(text: str) -> tuple[Dependency, ...]:
    """Read `db-proxy, migrate:completed`: names of jobs, each with what it must have reached."""
    found: dict[str, Dependency] = {}
    for item in values.items(text):
        name, colon, need = (part.strip() for part in item.partition(":"))
        if name in found:
            raise ValueError(f"{quoted(name)} is in the list twice; remove one")
        if colon and need not in WORDS:
            raise ValueError(f"{quoted(need)} is nothing to wait for; {one_of(need, WORDS)}")
        found[name] = Dependency(values.job_name(name), need or "ready")
    return tuple(found.values())


def faults(
    needs: Mapping[str, Sequence[Dependency]], known: Collection[str], restarts: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    """Give each fault of `depends_on`: the job whose key it is, and what is wrong.

    `known` holds the names of all jobs, also of those that do not run; `restarts` the word of
    `restart` of those that do.
    """
    for name, dependencies in needs.items():
        for one in dependencies:
            if one.job == name:
                yield name, f"{name} would wait for itself; leave it out"
            elif one.job not in known:
                others = [other for other in known if other != name]
                hint = one_of(one.job, others) if others else "there is no other job"
                yield name, f"no job {quoted(one.job)}; {hint}"
            elif one.need == "completed" and restarts.get(one.job) == "always":
                yield (
                    name,
                    (
                        f"{one.job} never completes, as its restart is always;"
                        f" set restart = on-failure or never in [daemon:{one.job}]"
                    ),
                )
    for circle in circles({name: [one.job for one in few] for name, few in needs.items()}):
        way = " -> ".join((*circle, circle[0]))
        yield circle[0], f"{way} is a circle, and none of them could be the first; cut it"


def in_order(graph: Graph) -> list[str]:
    """Give all names so that each stands behind what it depends on, else as they came.

    Without those that could never start, as they are in a circle or depend on one.
    """
    followers: dict[str, list[str]] = {name: [] for name in graph}
    missing = dict.fromkeys(graph, 0)
    for name, needs in graph.items():
        for need in set(needs) & graph.keys():
            followers[need].append(name)
            missing[name] += 1
    order = [name for name in graph if not missing[name]]
    for name in order:  # which grows on the way
        for follower in followers[name]:
            missing[follower] -= 1
            if not missing[follower]:
                order.append(follower)
    return order


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Give circles, each from its first member on along what it depends on, until none is left.

    No two of them share a member; a job that depends on itself is not among them.
    """
    place = {name: number for number, name in enumerate(graph)}
    left = {name: [one for one in needs if one != name] for name, needs in graph.items()}
    found: list[tuple[str, ...]] = []
    while left := _without(left, in_order(left)):
        way = [next(iter(left))]
        while (follower := next(one for one in left[way[-1]] if one in left)) not in way:
            way.append(follower)
        members = way[way.index(follower) :]
        first = members.index(min(members, key=place.__getitem__))
        found.append((*members[first:], *members[:first]))
        left = _without(left, members)
    return found


def _without(graph: dict[str, list[str]], names: Collection[str]) -> dict[str, list[str]]:
    gone = set(names)
    return {name: needs for name, needs in graph.items() if name not in gone}


def dependents(graph: Graph) -> dict[str, set[str]]:
    """Give who depends on each, directly or through others: all of them stop before it does."""
    found: dict[str, set[str]] = {name: set() for name in graph}
    for name in reversed(in_order(graph)):
        for need in found.keys() & set(graph[name]):
            found[need] |= {name, *found[name]}
    return found

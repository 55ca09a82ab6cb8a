"""The shapes in which the master tells why a process is as it is, and what it does just now.

As `protocol`, whose words these are too: filled by `inquest` and `stacks`, drawn by `explain`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, TypedDict

# Lines of `faulthandler`, as they are or behind the time and stream of a log.
_FRAME: Final = '  File "'
_FORK: Final = '/supervisor/child.py", line '


class Death(TypedDict):
    """One end of one process; `log_tail` are the last lines that it wrote.

    `why`: the words for which the supervisor has ended it, else "".
    """

    at: str
    uptime_s: float
    code: int | None
    signal: str | None
    cause: str
    why: str
    log_tail: list[str]


class Backoff(TypedDict):
    """How the pause before the next start comes about: `first_s` doubled so often, then jitter."""

    first_s: float
    doublings: int
    max_s: float
    delay_s: float
    jitter: float


class Why(TypedDict):
    """All that explains the state of one process. `failures` are those inside the window."""

    name: str
    job: str
    type: str
    state: str
    ready: bool
    why: str
    pid: int | None
    uptime_s: float | None
    restarts: int
    failures: int
    max_failures: int
    window_s: float
    backoff: Backoff | None
    waits_for: str | None
    next_action: str
    next_action_in_s: float | None
    deaths: list[Death]


class Stacks(TypedDict):
    """The Python stacks of one process, line by line, or why there are none."""

    name: str
    pid: int | None
    stacks: list[str]
    error: str


def above_fork(lines: Iterable[str]) -> list[str]:
    """Leave out of dumps of stacks what lies below the fork.

    It is that of the master, the same in each of its children, and tells nobody anything.
    """
    kept: list[str] = []
    is_below = False
    for line in lines:
        is_below = _FORK in line or (is_below and _FRAME in line)
        if not is_below:
            kept.append(line)
    return kept

"""The shapes of what goes over the control socket, and of what `--json` prints: keys and types.

Nothing of them is left at run time. Whoever is in the master, or on the way of a health check,
names them for the type checker alone: to make all these classes takes 2 ms.
"""

from __future__ import annotations

from typing import NotRequired, TypedDict


class LastExit(TypedDict):
    """How the former process of a slot ended. `signal` is a name without SIG, `at` RFC 3339."""

    code: int | None
    signal: str | None
    cause: str
    at: str


class Progress(TypedDict):
    """How far a work is, in pieces of its own."""

    done: int
    total: int


class Times(TypedDict):
    """Times that a handler has observed."""

    count: int
    sum_s: float


class OwnNumbers(TypedDict):
    """What handlers have counted under names of their own."""

    counters: NotRequired[dict[str, int]]
    timers: NotRequired[dict[str, Times]]
    progress: NotRequired[Progress | None]


class ProcessStatus(OwnNumbers):
    """One slot, as `status` shows it; the keys after `next_start_s` are for its last column.

    `paused` names topics that nobody takes from.
    """

    name: str
    job: str
    process: int
    kind: str
    type: str
    state: str
    ready: bool
    pid: int | None
    uptime_s: float | None
    restarts: int
    last_exit: LastExit | None
    in_flight: int
    done: int
    failed: int
    retried: int
    dead: int
    skipped: int
    backlog: int | None
    lag: int | None
    rss_bytes: int | None
    heartbeat_age_s: float | None
    next_start_s: float | None
    required: NotRequired[bool]
    failures: NotRequired[int]
    max_failures: NotRequired[int]
    why: NotRequired[str]
    paused: NotRequired[list[str]]
    quiet: NotRequired[bool]
    held: NotRequired[bool]  # its start waits for another job, which is on its way


class JobStatus(TypedDict):
    """One job as a whole: how many processes it is to have, by hand or else by its file."""

    name: str
    processes: int
    file: int
    quiet: bool
    stopped: list[str]


class MasterStatus(TypedDict):
    """The supervisor itself. `ready`: every required job is.

    `log_lines_lost`: dropped since the start as a log could not be written or was read too slowly.
    """

    name: str
    pid: int
    state: str
    ready: bool
    uptime_s: float
    config: str
    version: str
    generation: int
    log_lines_lost: NotRequired[int]


class Status(TypedDict):
    """The whole of `status --json`."""

    master: MasterStatus
    processes: list[ProcessStatus]
    jobs: NotRequired[list[JobStatus]]


class StopReport(TypedDict):
    """What a stop did to the items in flight, and the processes that had to be killed."""

    drained: int
    abandoned: int
    killed: list[str]


# The functional form, as `from` is a word of the language.
Event = TypedDict(
    "Event",
    {"at": str, "name": str, "from": str, "to": str, "why": str, "pid": int | None},
)


class Pong(TypedDict):
    """Who answers."""

    pid: int
    version: str
    name: str


class Names(TypedDict):
    """The processes that something was done to, and what is to be known about it."""

    names: list[str]
    note: NotRequired[str]


class ReloadStep(TypedDict):
    """What a reload makes of one job, or of the "master", and the keys that differ."""

    name: str
    change: str
    fields: list[str]


class ReloadFailure(TypedDict):
    """A job that did not get ready in its new form, and what has become of it."""

    name: str
    why: str


class ProblemShape(TypedDict):
    """One fault of a configuration."""

    file: str
    line: int
    section: str
    key: str
    message: str


class ReloadReport(TypedDict):
    """What a reload has done, or why it has done nothing."""

    applied: bool
    jobs: list[ReloadStep]
    errors: list[ProblemShape]
    failed: NotRequired[list[ReloadFailure]]


class Jobs(TypedDict):
    """What jobs are after something was done to them."""

    jobs: list[JobStatus]


class LogLines(TypedDict):
    """The last lines that processes wrote, oldest first, and for each of them the process."""

    lines: list[str]
    names: NotRequired[list[str]]


class Item(TypedDict, total=False):
    """One line of what follows: a line of output, how many were dropped, or the last word.

    Or an event, with its own keys.
    """

    name: str
    line: str
    dropped: int
    end: str
    ok: bool


class QueueStatus(TypedDict):
    """How much waits in one topic of one queue, of a log for one group."""

    url: str
    topic: str
    depth: int
    delayed: int
    in_flight: int
    dead: int
    oldest_age_s: float | None
    paused: bool
    group: NotRequired[str]
    partitions: NotRequired[dict[str, int]]


class DeadLetter(TypedDict):
    """A message that was given up; `at` is RFC 3339."""

    id: str
    topic: str
    error: str
    attempts: int
    crashes: int
    at: str
    data: object


class Replay(TypedDict):
    """How many dead letters were put back."""

    topic: str
    replayed: int


class Purge(TypedDict):
    """How many messages or dead letters were deleted."""

    topic: str
    purged: int


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

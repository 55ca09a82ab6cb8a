"""One seat: a slot of a job as the master keeps it, over all the processes that sit in it.

Data and small questions about it; what happens to a seat is decided by `states` and done by
`supervisor`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor import dumps, kernel, settings
from supervisor.board import UNKNOWN, Page
from supervisor.config import Job
from supervisor.process import Exit, Process
from supervisor.signals import name as signal_name
from supervisor.slot import Fallen
from supervisor.states import Cause, Goal, Policy, Restart, State, Status

if TYPE_CHECKING:
    # Only for the reader: see `shapes`.
    from supervisor import shapes

DEATHS: Final = 20
"""How many deaths of a seat are remembered."""

TAIL_LINES: Final = 200
"""So many of the last lines are looked at: a dump of stacks has many, most of them the master's."""

TAIL_KEPT: Final = 20
TAIL_CHARACTERS: Final = 3000
"""So much of its log is kept with each of them."""

_KINDS_OF_NO_BEAT: Final = ("program",)


@dataclass(frozen=True, slots=True)
class Death:
    """One end of one process. `at` is wall clock time, as text with its offset.

    `why`: the words for which the supervisor has ended it; `log_tail`: the last lines it wrote.
    """

    at: str
    uptime_s: float
    code: int | None
    signal: str | None
    cause: str
    why: str = ""
    log_tail: tuple[str, ...] = ()


@dataclass(slots=True)
class Seat:
    """A slot's settings, its process of now, and its history."""

    job: Job
    number: int
    page: Page
    policy: Policy
    page_number: int = -1
    next_job: Job | None = None  # of the next process, while the one of now drains
    status: Status = field(default_factory=Status)
    process: Process | None = None
    exit: Exit | None = None
    incarnation: int = 0
    owner: str = ""
    spawned_from: State = State.STOPPED
    log_mark: int = 0
    fallen: tuple[Fallen, ...] = ()
    leftovers: set[int] = field(default_factory=set)
    predecessors: set[int] = field(default_factory=set)
    wanted: bool = True
    waits_in_vain: bool = False  # held, and what it depends on does not come by itself
    leaving: bool = False  # drains, and then the seat goes too
    quiet: bool = False  # takes nothing new
    resumed_at: float = 0.0  # from quiet
    flying_at_stop: int | None = None
    drained: int = 0
    abandoned: int = 0
    killed: bool = False
    cgroup: Path | None = None
    complaint: str = ""  # why it cannot do its work though it runs, in its own words
    deaths: deque[Death] = field(default_factory=lambda: deque(maxlen=DEATHS))

    def assign(self, job: Job) -> None:
        """Have these settings from now on; a process that runs keeps what it was started with."""
        self.job, self.policy, self.next_job = job, policy_of(job), None

    def take_over(self) -> None:
        """Make the settings that wait for the next process those of now."""
        if self.next_job is not None:
            self.assign(self.next_job)

    @property
    def name(self) -> str:
        """Give the name of the slot, as in `orders:0`."""
        return f"{self.job.name}:{self.number}"

    @property
    def title(self) -> str:
        """Give the title of its process in `ps`."""
        return f"supervisor: {self.job.kind} [{self.name}]"

    @property
    def restarts(self) -> int:
        """Count the starts after the first."""
        return max(0, self.incarnation - 1)

    @property
    def at_rest(self) -> bool:
        """Say whether nothing more happens here by itself: a stop has come to its end."""
        return not self.status.alive and self.status.goal is Goal.DOWN

    @property
    def settled(self) -> bool:
        """Say whether a start has come to an end, a good or a bad one, or was called off.

        Not while a dead process waits for its burial: it may have said READY just before, and
        what is to be thought of its end is not known yet.
        """
        if self.exit is not None or (self.predecessors and self.wanted):
            return False
        if self.status.held and self.status.state is State.STOPPED:
            return self.waits_in_vain
        return self.status.state not in (State.STARTING, State.STOPPING)

    @property
    def is_watched(self) -> bool:
        """Say whether its heartbeat counts. A program has none."""
        return self.job.heartbeat_timeout > 0 and self.job.type not in _KINDS_OF_NO_BEAT

    def ready(self, now: float) -> bool:
        """Say whether its process can do its work, or has done it."""
        if self.exit is not None or (self.complaint and self.status.alive):
            return False
        return self.status.ready and not self.is_stuck(now)

    def is_stuck(self, now: float) -> bool:
        """Say whether a consumer has finished nothing for `progress_timeout`, while work waits."""
        reading, ready_at = self.page.read(), self.status.ready_at
        if self.job.type not in settings.CONSUMERS or reading.backlog <= 0 or ready_at is None:
            return False
        if self.quiet:
            return False
        began = max(reading.progress_ns / 1e9, ready_at, self.resumed_at)
        return now - began > self.job.progress_timeout

    def overdue_at(self) -> float | None:
        """Give the time at which the process counts as hung, if it beats no more until then.

        None before its first beat: a `worker` is watched from then on. A park is a promise to
        sleep, and never overdue by itself. Seconds of the loop's clock.
        """
        reading = self.page.read()
        if not reading.beat_ns:
            return None
        alive_until = max(reading.beat_ns, reading.parked_until_ns) / 1e9
        return alive_until + self.job.heartbeat_timeout

    @property
    def living(self) -> Process | None:
        """Give the process, unless it is dead and only waits for its burial."""
        return self.process if self.exit is None else None

    def account(self, *, abandoned: int) -> None:
        """Write down what the end of the process did to the items that were in flight."""
        self.drained = max(0, (self.flying_at_stop or 0) - abandoned)
        self.abandoned = abandoned
        self.page.set_in_flight(0)

    def forget_last_stop(self) -> None:
        """Begin the account of a new stop, or of a new process that has seen none."""
        self.flying_at_stop = None
        self.drained = self.abandoned = 0
        self.killed = False

    def remember(self, how: Exit, life: Status, now: float, last_words: Sequence[str]) -> Death:
        """Write a death down, with what fits of the last lines that the process wrote.

        `life` is the status in which it has died. The cause is that of the status of now.
        """
        started = life.started_at
        death = Death(
            at=timestamp(),
            uptime_s=round(now - started, 3) if started is not None else 0.0,
            code=how.code,
            signal=None if how.signal is None else signal_name(how.signal),
            cause=(self.status.cause or Cause.EXITED).value,
            why=life.why if life.state is State.STOPPING else "",
            log_tail=_within(TAIL_CHARACTERS, dumps.above_fork(last_words)[-TAIL_KEPT:]),
        )
        self.deaths.append(death)
        return death

    def row(self, now: float) -> shapes.ProcessStatus:
        """Give the line of `status`. Reads the board and, for a living process, its memory."""
        status, reading = self.status, self.page.read()
        pid = self.process.pid if self.process is not None and status.alive else None
        death = self.deaths[-1] if self.deaths else None
        return {
            "name": self.name,
            "job": self.job.name,
            "process": self.number,
            "kind": self.job.kind,
            "type": self.job.type,
            "state": status.state.name,
            "ready": self.ready(now),
            "pid": pid,
            "uptime_s": _since(status.started_at, now) if pid else None,
            "restarts": self.restarts,
            "last_exit": None if death is None else _last_exit(death),
            "in_flight": reading.in_flight if pid else 0,
            "done": reading.done,
            "failed": reading.failed,
            "retried": reading.retried,
            "dead": reading.dead,
            "skipped": reading.skipped,
            "backlog": None if reading.backlog == UNKNOWN else reading.backlog,
            "lag": None if reading.lag == UNKNOWN else reading.lag,
            "rss_bytes": kernel.resident_bytes(pid) if pid else None,
            "heartbeat_age_s": _since(reading.beat_ns / 1e9 or None, now) if pid else None,
            "next_start_s": self._next_start(now),
            "required": self.job.required,
            "failures": len(status.failures),
            "max_failures": self.job.max_failures,
            "why": self.why(now),
            "quiet": self.quiet,
            "held": status.held and not self.waits_in_vain,
            "paused": self.paused_topics(),
            **_own_numbers(self.page),
        }

    def why(self, now: float) -> str:
        """Say in words what the state is about."""
        if self.predecessors:
            return f"waiting for pid {min(self.predecessors)}, of an earlier master, to end"
        if self.exit is not None and self.leftovers:
            return f"waiting for pid {min(self.leftovers)}, begun by it, to end"
        if self.complaint and (self.status.ready or self.status.state is State.STARTING):
            return f"not ready: {self.complaint}"
        if self.status.ready and self.is_stuck(now):
            limit = f"{self.job.progress_timeout:g}s"
            return f"not ready: {self.page.read().backlog} wait, and nothing was done for {limit}"
        return self.status.why

    def paused_topics(self) -> list[str]:
        """Give the topics of its job from which it takes nothing, as an operator has asked."""
        if self.living is None:
            return []
        topics = self.job.topics
        return [topics[place].name for place in self.page.paused() if place < len(topics)]

    def _next_start(self, now: float) -> float | None:
        waits = self.status.state in (State.BACKOFF, State.FATAL)
        if not waits or self.status.deadline is None:
            return None
        return round(max(0.0, self.status.deadline - now), 3)


class Seats:
    """All seats of a supervisor: by name in the order of the file, and by the pid in each.

    A pid stays here until its burial is over. Also by job, so that what is done for each of
    thousands of jobs does not look at the seats of all.
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Seat] = {}
        self.by_pid: dict[int, Seat] = {}
        self._by_job: dict[str, dict[int, Seat]] = {}

    def add(self, seat: Seat) -> None:
        """Take one in, behind all others."""
        self.by_name[seat.name] = seat
        self._by_job.setdefault(seat.job.name, {})[seat.number] = seat

    def remove(self, seat: Seat) -> None:
        """Take one out."""
        del self.by_name[seat.name]
        own = self._by_job[seat.job.name]
        del own[seat.number]
        if not own:
            del self._by_job[seat.job.name]

    def sort(self, jobs: Iterable[str]) -> None:
        """Put them in the order of these jobs, with those of other jobs last."""
        ordered = dict.fromkeys((*jobs, *self._by_job))
        seats = [seat for job in ordered for seat in self.of(job)]
        self.by_name.clear()
        self.by_name.update((seat.name, seat) for seat in seats)

    def ready(self, now: float) -> bool:
        """Say whether every process of every required job is ready."""
        seats = (seat for seat in self.by_name.values() if not seat.leaving)
        return all(seat.ready(now) for seat in seats if seat.job.required)

    def of(self, job: str) -> list[Seat]:
        """Give the seats of one job by their numbers, those that are about to go as well."""
        own = self._by_job.get(job, {})
        return [own[number] for number in sorted(own)]

    def living_pids(self) -> set[int]:
        """Give the pids that are a pidfd's to reap; every other child of ours is an orphan."""
        return {pid for pid, seat in self.by_pid.items() if seat.exit is None}


def policy_of(job: Job) -> Policy:
    """Give what the state machine has to know of a job."""
    return Policy(
        restart=Restart(job.restart),
        expected_exits=job.expected_exits,
        backoff=job.backoff,
        backoff_max=job.backoff_max,
        stable_after=job.stable_after,
        max_failures=job.max_failures,
        failure_window=job.failure_window,
        fatal_retry=job.fatal_retry,
        ready_timeout=job.ready_timeout,
        stop_timeout=job.stop_timeout,
    )


def timestamp() -> str:
    """Give the wall clock time as RFC 3339 in UTC, with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _within(room: int, lines: Sequence[str]) -> tuple[str, ...]:
    """Give the last of these lines that fit, the last one in any case, if not whole."""
    kept: list[str] = []
    for line in reversed(lines):
        if kept and len(line) > room:
            break
        kept.append(line[:room])
        room -= len(line)
    return tuple(reversed(kept))


def _last_exit(death: Death) -> shapes.LastExit:
    return {"code": death.code, "signal": death.signal, "cause": death.cause, "at": death.at}


def _own_numbers(page: Page) -> shapes.OwnNumbers:
    """Give what the handlers have counted under names of their own."""
    progress, timers = page.tallies.read_progress(), page.tallies.read_timers()
    return {
        "counters": page.tallies.read_counters(),
        "timers": {
            name: {"count": timer.count, "sum_s": round(timer.sum_s, 6)}
            for name, timer in timers.items()
        },
        "progress": None if progress is None else {"done": progress[0], "total": progress[1]},
    }


def _since(then: float | None, now: float) -> float | None:
    return None if then is None else round(max(0.0, now - then), 3)

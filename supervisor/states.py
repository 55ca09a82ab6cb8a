"""The state machine of one process: pure, total, without clock and without I/O.

    step(policy, status, event) -> (status, actions)

                     START                    READY
        STOPPED ───────────────▶ STARTING ───────────▶ RUNNING
           ▲                      │  ▲  │                │  │
           │ STOP                 │  │  │ died     died  │  │ expected end
           │                      │  │  ▼                ▼  ▼
        STOPPING ◀── STOP, HUNG ──┘  └─ BACKOFF       EXITED
           │          RESTART, late       │  too many
           └── died ─▶ STOPPED,           ▼  failures
                       STARTING,        FATAL ── fatal_retry ─▶ STARTING
                       BACKOFF

The words are Supervisor's, which every operator knows. READY is a fact beside RUNNING. `state` is
what is; `goal` is what is wished; there is one deadline, and the state gives its meaning:

    STARTING  not READY by then: the process is killed, and that is a failure
    BACKOFF   the next start
    STOPPING  the next step of the stop: the signal again, the stack dump, the kill
    FATAL     one more attempt (`fatal_retry`)

A start that has to wait for another job is `held`: STOPPED, with the wish to be up, and without
any deadline. Who holds it starts it again when the other is there.

Two rules keep every loop of restarts bounded (found by measurement: without them a job that never
gets READY was started 101 times without a pause): a hang and a missed READY are failures like a
crash, and the backoff goes back to its first step only after a stable run, judged at the death.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from types import MappingProxyType
from typing import Final

EX_CONFIG: Final = 78
"""The exit code by which a child says: my configuration is wrong, do not try again. sysexits(3)"""

DUMP_BEFORE_KILL_S: Final = 0.2
"""How long before a kill the process is asked for its stacks."""

REPEAT_SIGNAL_S: Final = 1.0
"""How often a stop is repeated. A signal that comes between the last check for it and a blocking
call wakes nobody (measured: 24 of 1,500 hung); the next one does."""

FAST_S: Final = 1.0
"""What is in flight gets so long in a fast stop."""

RETRY_SPAWN_S: Final = 1.0
"""The least pause after a fork that failed: the machine has no process or memory to give."""

JITTER: Final = 0.2
"""Backoff is spread over plus and minus this part, so that jobs that fell together rise apart."""


class State(Enum):
    """What a process is doing, in Supervisor's words."""

    STOPPED = auto()
    STARTING = auto()
    RUNNING = auto()
    BACKOFF = auto()
    STOPPING = auto()
    EXITED = auto()
    FATAL = auto()


class Goal(Enum):
    """What is wished for the process."""

    UP = auto()
    DOWN = auto()


class Kind(Enum):
    """What can happen to a process."""

    START = auto()  # somebody, or the start of the supervisor, wants it up
    WAIT = auto()  # the same, but what it depends on is not there yet
    STOP = auto()  # somebody wants it down, drained
    RESTART = auto()  # drain it and start it again, as somebody asks for; no failure
    RECYCLE = auto()  # the same, as its life is over by a limit of the job
    FAST = auto()  # a second stop: what is in flight gets one second
    KILL = auto()  # a third stop: now
    READY = auto()  # the process says that it can work
    HUNG = auto()  # its work loop has not beaten for heartbeat_timeout
    OVERDUE = auto()  # a handler of it has outlived handler_timeout: it drains the rest and leaves
    EXIT = auto()  # it and all that it began are gone
    NOT_SPAWNED = auto()  # fork failed
    DEADLINE = auto()  # the deadline of the status has passed


class Action(Enum):
    """What the machine asks of the world."""

    SPAWN = auto()
    ASK_TO_STOP = auto()  # control pipe and stop signal
    ASK_TO_HURRY = auto()
    DUMP_STACKS = auto()
    KILL = auto()


class Cause(Enum):
    """Why a process died, as `last_exit.cause` tells it."""

    EXITED = "exited"
    SIGNALED = "signaled"
    HUNG = "hung"
    NOT_READY = "not-ready"
    RECYCLED = "recycled"
    ASKED = "asked"
    TIMEOUT = "timeout"
    CONFIGURATION = "configuration"
    OUT_OF_MEMORY = "out-of-memory"


class Restart(Enum):
    """When a process is started again after its death."""

    ALWAYS = "always"
    ON_FAILURE = "on-failure"
    NEVER = "never"


@dataclass(frozen=True, slots=True)
class Policy:
    """How one job wants to be treated. Times in seconds; 0 turns `ready_timeout` off."""

    restart: Restart = Restart.ALWAYS
    expected_exits: frozenset[int] = frozenset({0})
    backoff: float = 1.0
    backoff_max: float = 30.0
    stable_after: float = 10.0
    max_failures: int = 10
    failure_window: float = 600.0
    fatal_retry: float | None = 300.0
    ready_timeout: float = 30.0
    stop_timeout: float = 30.0


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened, and when (seconds of the loop's clock).

    `code` is an exit code, or None when `signal` killed it. `jitter` lies in [0, 1) and is thrown
    by the caller, so that the machine stays a function.
    """

    kind: Kind
    now: float
    code: int | None = None
    signal: int | None = None
    jitter: float = 0.5
    window_s: float | None = None  # STOP: at most so long for the drain, where less than the policy
    why: str = ""  # WAIT, RESTART, RECYCLE: the reason, in words
    out_of_memory: bool = False  # EXIT: the kernel killed it, for want of memory


@dataclass(frozen=True, slots=True)
class Status:
    """All that is known of one process. `failures` are the times of those inside the window."""

    state: State = State.STOPPED
    goal: Goal = Goal.DOWN
    deadline: float | None = None
    why: str = ""
    started_at: float | None = None
    ready_at: float | None = None
    failures: tuple[float, ...] = ()
    backoff_step: int = 0
    stop_by: float = 0.0  # STOPPING: when the kill comes
    dumped: bool = False  # STOPPING: the stacks were asked for
    doom: Cause | None = None  # STOPPING: why the supervisor itself ends it
    cause: Cause | None = None  # of the last death
    spent: bool = field(default=False)  # EXITED with an expected code: its work is done
    called_back: bool = False  # STOPPING: somebody wants it up again, whatever it is ended for
    held: bool = False  # wanted up, and waits for what it depends on; STOPPED, or STOPPING before

    @property
    def ready(self) -> bool:
        """Say whether the process counts as ready: working, or done with what it had to do."""
        return (self.state is State.RUNNING) or (self.state is State.EXITED and self.spent)

    @property
    def alive(self) -> bool:
        """Say whether there is a process in the slot."""
        return self.state in (State.STARTING, State.RUNNING, State.STOPPING)


type_of_result = tuple[Status, tuple[Action, ...]]
Cell = Callable[[Policy, Status, Event], type_of_result]


def step(policy: Policy, status: Status, event: Event) -> type_of_result:
    """Advance one process by one event.

    Returns the new status and what is to be done now, in order. Total: every event is allowed in
    every state; one that means nothing there changes nothing.
    """
    return TABLE[status.state, event.kind](policy, status, event)


# --- cells, in the order of a life -----------------------------------------------------------


def _spawn(policy: Policy, status: Status, event: Event) -> type_of_result:
    started = replace(
        status,
        state=State.STARTING,
        goal=Goal.UP,
        deadline=_late(policy, event.now),
        why="starting",
        started_at=event.now,
        ready_at=None,
        dumped=False,
        doom=None,
        spent=False,
        called_back=False,
        held=False,
    )
    return started, (Action.SPAWN,)


def _late(policy: Policy, started_at: float) -> float | None:
    """Give the time by which a process that was started then has to be READY."""
    return started_at + policy.ready_timeout if policy.ready_timeout else None


def _spawn_anew(policy: Policy, status: Status, event: Event) -> type_of_result:
    """Start by hand: what went wrong before is forgiven."""
    return _spawn(policy, replace(status, failures=(), backoff_step=0), event)


def _hold(_policy: Policy, status: Status, event: Event) -> type_of_result:
    """Wait for what it depends on, as long as that takes: no process, no deadline, no failure."""
    held = replace(
        status,
        state=State.STOPPED,
        goal=Goal.UP,
        deadline=None,
        why=event.why,
        spent=False,
        held=True,
    )
    return held, ()


def _ready(_policy: Policy, status: Status, event: Event) -> type_of_result:
    up = replace(status, state=State.RUNNING, deadline=None, why="ready", ready_at=event.now)
    return up, ()


def _ask_to_stop(policy: Policy, status: Status, event: Event) -> type_of_result:
    return _stopping(policy, replace(status, goal=Goal.DOWN), event, Cause.ASKED)


def _restart(policy: Policy, status: Status, event: Event) -> type_of_result:
    return _stopping(policy, replace(status, goal=Goal.UP), event, Cause.ASKED)


def _recycle(policy: Policy, status: Status, event: Event) -> type_of_result:
    return _stopping(policy, replace(status, goal=Goal.UP), event, Cause.RECYCLED)


def _overdue(policy: Policy, status: Status, event: Event) -> type_of_result:
    why = "a handler has taken longer than handler_timeout"
    return _stopping(policy, status, replace(event, why=why), Cause.TIMEOUT)


def _stopping(policy: Policy, status: Status, event: Event, doom: Cause) -> type_of_result:
    given = policy.stop_timeout if event.window_s is None else event.window_s
    stop_by = event.now + given
    going = replace(
        status,
        state=State.STOPPING,
        stop_by=stop_by,
        deadline=_next_reminder(event.now, stop_by),
        why=event.why or f"asked to {'stop' if status.goal is Goal.DOWN else 'start anew'}",
        dumped=False,
        doom=doom,
    )
    return going, (Action.ASK_TO_STOP,)


def _condemn(status: Status, event: Event, doom: Cause, why: str) -> type_of_result:
    """End a process that does not do its duty: its stacks first, then the kill."""
    stop_by = event.now + DUMP_BEFORE_KILL_S
    going = replace(
        status,
        state=State.STOPPING,
        stop_by=stop_by,
        deadline=stop_by,
        why=why,
        dumped=True,
        doom=doom,
    )
    return going, (Action.DUMP_STACKS,)


def _never_ready(policy: Policy, status: Status, event: Event) -> type_of_result:
    why = f"not ready after {policy.ready_timeout:g}s"
    return _condemn(status, event, Cause.NOT_READY, why)


def _hung(_policy: Policy, status: Status, event: Event) -> type_of_result:
    return _condemn(status, event, Cause.HUNG, "no heartbeat")


def _stop_further(_policy: Policy, status: Status, event: Event) -> type_of_result:
    """Take the next step of a stop: remind, dump the stacks, kill, and kill again."""
    if event.now >= status.stop_by:
        return replace(status, deadline=event.now + REPEAT_SIGNAL_S), (Action.KILL,)
    if status.dumped or event.now < status.stop_by - DUMP_BEFORE_KILL_S:
        reminder = replace(status, deadline=_next_reminder(event.now, status.stop_by))
        return reminder, (Action.ASK_TO_STOP,)
    return replace(status, dumped=True, deadline=status.stop_by), (Action.DUMP_STACKS,)


def _next_reminder(now: float, stop_by: float) -> float:
    dump_at = stop_by - DUMP_BEFORE_KILL_S
    return min(now + REPEAT_SIGNAL_S, dump_at if now < dump_at else stop_by)


def _wish_down(policy: Policy, status: Status, event: Event) -> type_of_result:
    """Ask a process that is already being stopped not to come back.

    One that is condemned, or has less time left, keeps its own end.
    """
    given = policy.stop_timeout if event.window_s is None else event.window_s
    doom = Cause.ASKED if status.doom is Cause.RECYCLED else status.doom
    sooner = min(status.stop_by, event.now + given)
    deadline = min(status.deadline or sooner, sooner)
    down = replace(status, goal=Goal.DOWN, called_back=False, held=False, doom=doom)
    return replace(down, stop_by=sooner, deadline=deadline), ()


def _wish_up(_policy: Policy, status: Status, _event: Event) -> type_of_result:
    """Ask a process that is being stopped to come back when it is gone.

    Also one that is ended for a failure: who wants it up now is not to wait out its backoff, and
    is not to take that failure for one of its successor.
    """
    return replace(status, goal=Goal.UP, called_back=True, held=False), ()


def _wish_up_later(_policy: Policy, status: Status, _event: Event) -> type_of_result:
    """Ask a process that is being stopped to come back when what it depends on is there."""
    return replace(status, goal=Goal.UP, called_back=True, held=True), ()


def _hurry(_policy: Policy, status: Status, event: Event) -> type_of_result:
    stop_by = min(status.stop_by or event.now + FAST_S, event.now + FAST_S)
    if status.state is not State.STOPPING:
        stop_by = event.now + FAST_S
    going = replace(
        status,
        state=State.STOPPING,
        goal=Goal.DOWN,
        stop_by=stop_by,
        deadline=_next_reminder(event.now, stop_by),
        called_back=False,
        held=False,
        why="asked to stop fast",
        doom=status.doom or Cause.ASKED,
    )
    return going, (Action.ASK_TO_HURRY,)


def _kill(_policy: Policy, status: Status, event: Event) -> type_of_result:
    going = replace(
        status,
        state=State.STOPPING,
        goal=Goal.DOWN,
        stop_by=event.now,
        deadline=event.now + REPEAT_SIGNAL_S,
        called_back=False,
        held=False,
        why="killed",
        doom=status.doom or Cause.ASKED,
    )
    return going, (Action.KILL,)


def _died(policy: Policy, status: Status, event: Event) -> type_of_result:
    """Judge a death that nobody asked for."""
    cause = Cause.SIGNALED if event.code is None else Cause.EXITED
    if event.out_of_memory:
        cause = Cause.OUT_OF_MEMORY
    if event.code == EX_CONFIG and EX_CONFIG not in policy.expected_exits:
        return _fatal(
            policy,
            replace(status, cause=Cause.CONFIGURATION),
            event,
            "exit 78: its configuration is wrong",
            retry=False,
        )
    status = replace(status, cause=cause)
    expected = event.code is not None and event.code in policy.expected_exits
    if expected and policy.restart is not Restart.ALWAYS:
        done = replace(
            status, state=State.EXITED, deadline=None, why=f"exit {event.code}", spent=True
        )
        return done, ()
    why = f"exit {event.code}" if event.code is not None else "killed by a signal"
    if event.out_of_memory:
        why = "killed by the kernel for want of memory"
    if not expected and policy.restart is Restart.NEVER:
        return _fatal(policy, status, event, f"{why}, and restart = never", retry=False)
    return _try_again(policy, status, event, why, failure=not expected)


def _stopped(policy: Policy, status: Status, event: Event) -> type_of_result:
    """Judge a death that the supervisor brought about, or at least wanted."""
    status = replace(status, cause=Cause.OUT_OF_MEMORY if event.out_of_memory else status.doom)
    if status.goal is Goal.DOWN:
        return _down(policy, status, event)
    if status.held:
        return _hold(policy, status, replace(event, why="waiting for what it depends on"))
    if status.called_back:
        return _spawn_anew(policy, status, event)
    if status.doom in (Cause.ASKED, Cause.RECYCLED):
        return _spawn(policy, status, event)
    if policy.restart is Restart.NEVER:
        return _fatal(policy, status, event, status.why, retry=False)
    return _try_again(policy, status, event, status.why, failure=True)


def _try_again(
    policy: Policy, status: Status, event: Event, why: str, *, failure: bool
) -> type_of_result:
    """Plan the next start, or give up. A clean end soon after the start is a failure too."""
    stable = status.ready_at is not None and event.now - status.ready_at >= policy.stable_after
    taken = 0 if stable else status.backoff_step
    if stable and not failure:
        status = replace(status, backoff_step=0)
        return _wait(status, event, _spread(policy.backoff, event.jitter), why)
    recent = (*_within(policy, status.failures, event.now), event.now)
    status = replace(status, failures=recent, backoff_step=taken + 1)
    if len(recent) >= policy.max_failures:
        count = f"{len(recent)} failures within {policy.failure_window:g}s"
        return _fatal(policy, status, event, f"{why}: {count}", retry=True)
    delay = _spread(backoff_delay(policy, taken), event.jitter)
    return _wait(status, event, delay, f"{why} ({len(recent)} of {policy.max_failures})")


def backoff_delay(policy: Policy, taken: int) -> float:
    """Give the pause after `taken` earlier ones, in seconds, without jitter: 1, 2, 4 … the max."""
    # 2**64 times the smallest pause is beyond any maximum, and stays a float.
    return min(policy.backoff_max, policy.backoff * 2.0 ** min(taken, 64))


def _spread(delay: float, jitter: float) -> float:
    return delay * (1 + JITTER * (2 * jitter - 1))


def _within(policy: Policy, failures: tuple[float, ...], now: float) -> tuple[float, ...]:
    return tuple(at for at in failures if now - at < policy.failure_window)


def _wait(status: Status, event: Event, delay: float, why: str) -> type_of_result:
    waiting = replace(
        status, state=State.BACKOFF, goal=Goal.UP, deadline=event.now + delay, why=why, held=False
    )
    return waiting, ()


def _fatal(
    policy: Policy, status: Status, event: Event, why: str, *, retry: bool
) -> type_of_result:
    again = policy.fatal_retry if retry else None
    at = None if again is None else event.now + again
    return replace(status, state=State.FATAL, deadline=at, why=why, held=False), ()


def _not_spawned(policy: Policy, status: Status, event: Event) -> type_of_result:
    """Wait for the machine: that it had nothing to give is no failure of the job."""
    delay = max(RETRY_SPAWN_S, backoff_delay(policy, status.backoff_step))
    status = replace(status, backoff_step=status.backoff_step + 1)
    return _wait(status, event, _spread(delay, event.jitter), "could not fork")


def _down(_policy: Policy, status: Status, _event: Event) -> type_of_result:
    down = replace(status, state=State.STOPPED, goal=Goal.DOWN, held=False)
    return replace(down, deadline=None, why="stopped"), ()


def revised(old: Policy, new: Policy, status: Status, now: float) -> Status:
    """Give the status under another policy: what is waited for now ends when the new one says.

    A pause gets no longer by it, as it was told to somebody already. A stop keeps its time.
    """
    if status.state is State.STARTING and status.started_at is not None and old != new:
        return replace(status, deadline=_late(new, status.started_at))
    if old == new or status.deadline is None:
        return status
    deadline = status.deadline
    if status.state is State.BACKOFF:
        longest = backoff_delay(new, max(0, status.backoff_step - 1)) * (1 + JITTER)
        deadline = min(deadline, now + longest)
    elif status.state is State.FATAL and old.fatal_retry is not None:
        if new.fatal_retry is None:
            return replace(status, deadline=None)
        deadline = deadline - old.fatal_retry + new.fatal_retry
    return replace(status, deadline=deadline)


def _ignore(_policy: Policy, status: Status, _event: Event) -> type_of_result:
    return status, ()


def _table() -> Mapping[tuple[State, Kind], Cell]:
    resting = (State.STOPPED, State.EXITED)
    waiting = (State.BACKOFF, State.FATAL)
    working = (State.STARTING, State.RUNNING)
    cells: dict[tuple[State, Kind], Cell] = {
        (State.STARTING, Kind.READY): _ready,
        (State.STARTING, Kind.DEADLINE): _never_ready,
        (State.STARTING, Kind.NOT_SPAWNED): _not_spawned,
        (State.STARTING, Kind.HUNG): _hung,
        (State.RUNNING, Kind.HUNG): _hung,
        (State.BACKOFF, Kind.DEADLINE): _spawn,
        (State.FATAL, Kind.DEADLINE): _spawn,
        (State.STOPPING, Kind.START): _wish_up,
        (State.STOPPING, Kind.RESTART): _wish_up,
        (State.STOPPING, Kind.RECYCLE): _wish_up,
        (State.STOPPING, Kind.WAIT): _wish_up_later,
        (State.STOPPING, Kind.STOP): _wish_down,
        (State.STOPPING, Kind.DEADLINE): _stop_further,
        (State.STOPPING, Kind.EXIT): _stopped,
    }
    for state in working:
        cells[state, Kind.STOP] = _ask_to_stop
        cells[state, Kind.RESTART] = _restart
        cells[state, Kind.RECYCLE] = _recycle
        cells[state, Kind.OVERDUE] = _overdue
        cells[state, Kind.EXIT] = _died
    for state in (*working, State.STOPPING):
        cells[state, Kind.FAST] = _hurry
        cells[state, Kind.KILL] = _kill
    for state in (*resting, *waiting):
        cells[state, Kind.START] = _spawn_anew
        cells[state, Kind.RESTART] = _spawn_anew
        cells[state, Kind.RECYCLE] = _spawn_anew
        cells[state, Kind.WAIT] = _hold
        for kind in (Kind.STOP, Kind.FAST, Kind.KILL):
            cells[state, kind] = _down
    for state, kind in _meaningless():
        cells[state, kind] = _ignore
    return MappingProxyType(cells)


def _meaningless() -> tuple[tuple[State, Kind], ...]:
    """Name the events that change nothing where they come; the table has no default row."""
    no_process = (State.STOPPED, State.EXITED, State.BACKOFF, State.FATAL)
    of_a_process = (Kind.READY, Kind.HUNG, Kind.OVERDUE, Kind.EXIT, Kind.NOT_SPAWNED)
    return (
        *((state, kind) for state in no_process for kind in of_a_process),
        (State.STOPPED, Kind.DEADLINE),
        (State.EXITED, Kind.DEADLINE),
        (State.STARTING, Kind.START),
        (State.STARTING, Kind.WAIT),
        (State.RUNNING, Kind.START),
        (State.RUNNING, Kind.WAIT),
        (State.RUNNING, Kind.READY),
        (State.RUNNING, Kind.DEADLINE),
        (State.RUNNING, Kind.NOT_SPAWNED),
        (State.STOPPING, Kind.READY),
        (State.STOPPING, Kind.HUNG),
        (State.STOPPING, Kind.OVERDUE),
        (State.STOPPING, Kind.NOT_SPAWNED),
    )


TABLE: Final = _table()

"""The circuit breaker: what a process does when the system behind its handlers is down.

`Circuit` is a pure state machine, without clock and I/O; `Breaker` keeps one for a process, with
the messages that are not decided yet. Times are CLOCK_MONOTONIC seconds.

                 Unavailable, or ROW messages in a row
                 that raised ConnectionError/TimeoutError
        CLOSED ─────────────────────────────────────────▶ OPEN ◀─── the probe failed: the next
           ▲                                                │        one `every_s` later
           │ the probe was done or skipped                  │ one message is fetched
           └────────────────────────── PROBING ◀────────────┘

A message that meets the system down burns no retry. Which messages those are is known only when
the row is long enough: until then the first of a row are held here, undecided, for a second at
most; a message that is done meanwhile shows that they failed by themselves.

Of a lane only one message can fail at a time, so few lanes would never make a row. A message of a
lane therefore counts once a call, and goes back untried while its row is not long enough and
nobody's call shows that the system is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import Enum, auto
from typing import Final, NamedTuple

from workers.base import Skip, Unavailable
from workers.gate import FREE, Leave
from workers.pool import Task

ROW: Final = 5
"""So many messages in a row that cannot reach the system say that it is down."""

HOLD_S: Final = 1.0
"""The longest that a message waits for the others of its row."""

_LONGEST_WHY: Final = 200


class State(Enum):
    """Whether messages are let through."""

    CLOSED = auto()
    OPEN = auto()
    PROBING = auto()


class Result(Enum):
    """What one call tells about the system behind the handler."""

    REACHED = auto()  # done, or skipped: the handler came to its end
    UNREACHABLE = auto()  # ConnectionError, TimeoutError
    UNAVAILABLE = auto()  # the handler says so
    UNCLEAR = auto()  # any other error: the system may be up or down


@dataclass(frozen=True, slots=True)
class Circuit:
    """The state, and what it is made of.

    `row`: numbers of the messages in a row that did not reach the system, while CLOSED; one of a
    lane as often as it was called. `why`: what is down, in words. `probe`: number of the message
    that probes.
    """

    state: State = State.CLOSED
    row: tuple[int, ...] = ()
    why: str = ""
    probe_at: float = 0.0
    probe: int = 0

    def heard(
        self,
        number: int,
        result: Result,
        why: str,
        now: float,
        every_s: float,
        *,
        in_lane: bool = False,
    ) -> Circuit:
        """Take in what the call of one message told."""
        if self.state is State.CLOSED:
            is_new = in_lane or number not in self.row
            row = (*self.row, number) if is_new else self.row
            return self._heard_closed(row, result, why, now + every_s)
        if self.state is State.OPEN or number != self.probe:
            return self  # begun before it opened: that tells nothing of now
        if result is Result.REACHED:
            return _WELL
        # One that failed by itself has told nothing: the next one probes at once.
        next_at = now if result is Result.UNCLEAR else now + every_s
        why = self.why if result is Result.UNCLEAR else why
        return replace(self, state=State.OPEN, probe=0, probe_at=next_at, why=why)

    def _heard_closed(
        self, row: tuple[int, ...], result: Result, why: str, probe_at: float
    ) -> Circuit:
        if result in (Result.REACHED, Result.UNCLEAR):
            return _WELL
        if result is Result.UNAVAILABLE or len(row) >= ROW:
            return Circuit(State.OPEN, why=why, probe_at=probe_at)
        return replace(self, row=row)

    def probes(self, number: int) -> Circuit:
        """Send this message ahead as the probe; only where one is due."""
        return replace(self, state=State.PROBING, probe=number)

    def lost(self, number: int, now: float) -> Circuit:
        """Take in that a message went back without a call."""
        if self.state is not State.PROBING or number != self.probe:
            return self
        return replace(self, state=State.OPEN, probe=0, probe_at=now)


_WELL: Final = Circuit()


class Fate(Enum):
    """What becomes of a finished task."""

    JUDGE = auto()  # it is decided as ever
    SPARE = auto()  # it goes back, with all its retries, until the next probe is due
    AGAIN = auto()  # it goes back, with all its retries, for a moment


class Ruling(NamedTuple):
    """A task and its fate."""

    task: Task
    fate: Fate


class Breaker:
    """The circuit of one process, and the tasks that wait for its word. Work loop's thread only."""

    def __init__(self, every_s: float, hold_s: float = HOLD_S) -> None:
        self._every_s = every_s
        self._hold_s = min(hold_s, HOLD_S)
        self._held: list[tuple[float, Task]] = []
        self.circuit = _WELL

    @property
    def undecided(self) -> int:
        """Count the tasks that are held."""
        return len(self._held)

    @property
    def is_idle(self) -> bool:
        """Tell whether all is well, and no row has begun: then what is done needs no ruling."""
        return self.circuit is _WELL

    @property
    def is_closed(self) -> bool:
        """Tell whether all is well."""
        return self.circuit.state is State.CLOSED

    def brake(self, now: float) -> Leave:
        """Let all messages in, or one when a probe is due. A brake of the gate."""
        circuit = self.circuit
        if circuit.state is State.CLOSED:
            return FREE
        if circuit.state is State.PROBING:
            return Leave(0, math.inf, circuit.why)
        return Leave(int(now >= circuit.probe_at), circuit.probe_at, circuit.why)

    def fetched(self, number: int) -> None:
        """Note a message that is on its way to a handler: in an open circuit it is the probe."""
        if self.circuit.state is State.OPEN:
            self.circuit = self.circuit.probes(number)

    def given_back(self, number: int, now: float) -> None:
        """Note a message that goes back without a call."""
        self.circuit = self.circuit.lost(number, now)

    def rule(self, task: Task, now: float) -> Iterator[Ruling]:
        """Take in a finished task; give what is decided by that, this one or others."""
        result = result_of(task.error)
        before = self.circuit
        self.circuit = before.heard(
            task.delivery.number,
            result,
            _why(task.error),
            now,
            self._every_s,
            in_lane=task.delivery.lane != 0,
        )
        is_down = result in (Result.UNREACHABLE, Result.UNAVAILABLE)
        if not self.is_closed:
            yield from self._all_held(Fate.SPARE)
            yield Ruling(task, Fate.SPARE if is_down else Fate.JUDGE)
        elif is_down:
            self._held.append((now + self._hold_s, task))
        else:
            yield from self._all_held(Fate.JUDGE)
            yield Ruling(task, Fate.JUDGE)

    def due_at(self) -> float:
        """Give when the first of those that are held is decided in any case."""
        return self._held[0][0] if self._held else math.inf

    def due(self, now: float, *, all_of_them: bool = False) -> Iterator[Ruling]:
        """Give those that have waited long enough for a word."""
        while self._held and (all_of_them or self._held[0][0] <= now):
            task = self._held.pop(0)[1]
            yield Ruling(task, Fate.AGAIN if task.delivery.lane else Fate.JUDGE)

    def _all_held(self, fate: Fate) -> Iterator[Ruling]:
        held, self._held = self._held, []
        for _, task in held:
            yield Ruling(task, fate)


_NAMES: Final = frozenset({"ConnectionError", "TimeoutError"})


def result_of(error: BaseException | None) -> Result:
    """Say what the end of a call tells about the system behind it.

    Client libraries have errors of their own under the same names, that derive from others:
    `redis.ConnectionError`, `requests.ConnectionError`. They mean the same.
    """
    if error is None or isinstance(error, Skip):
        return Result.REACHED
    if isinstance(error, Unavailable):
        return Result.UNAVAILABLE
    if any(kind.__name__ in _NAMES for kind in type(error).__mro__):
        return Result.UNREACHABLE
    return Result.UNCLEAR


def _why(error: BaseException | None) -> str:
    """Say what is down, in one line."""
    try:
        text = str(error)
    except Exception:  # its own __str__ fails
        text = ""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:_LONGEST_WHY]
    if isinstance(error, Unavailable):
        return f"{text or 'what the handler needs'} is unavailable"
    return f"no connection ({type(error).__name__}: {text})"

"""The gate before the fetch: the one place where all reasons meet not to take new messages.

There are two kinds. A *bar* is on or off: draining, a suspect that runs alone, `quiet`. It is put
down and lifted by name, from any thread; who lifts it rings the doorbell. A *brake* has arithmetic
of its own and is asked in each turn of the loop: how many it would let in now, and from when on it
would let in more (backpressure, the pause after an empty fetch, the breaker, a rate).

A new reason is a bar with a name, or a brake that is added; the loop itself does not change.
Reasons may carry words (`why`) for the title of the process. Knows no source and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final, NamedTuple

MANY: Final = 1 << 30
"""The room of a brake that does not brake."""


class Leave(NamedTuple):
    """What one brake, or the whole gate, gives leave to.

    `room` is how many messages may be fetched now. Where that is none, `again_at` is the time
    (CLOCK_MONOTONIC, seconds) of the next look; infinite for "somebody rings the doorbell".
    """

    room: int = MANY
    again_at: float = 0.0
    why: str = ""


Brake = Callable[[float], Leave]
"""Asked with the time of now; cheap, without I/O, and free to be asked twice a turn."""

FREE: Final = Leave()


class Gate:
    """All reasons of one process. `leave` is asked by the work loop's thread only."""

    def __init__(self) -> None:
        self._bars: dict[str, str] = {}
        self._brakes: list[Brake] = []

    def add(self, brake: Brake) -> None:
        """Ask this one too; before the loop begins."""
        self._brakes.append(brake)

    def bar(self, name: str, why: str = "") -> None:
        """Let nothing in until this bar is lifted, whatever the others say. From any thread."""
        self._bars[name] = why

    def lift(self, name: str) -> None:
        """Take one bar away, if it is there; to be followed by the doorbell. From any thread."""
        self._bars.pop(name, None)

    def is_barred(self, name: str) -> bool:
        """Tell whether that bar is down."""
        return name in self._bars

    def is_held(self, now: float) -> bool:
        """Tell whether a bar, or a reason with words, keeps messages out."""
        return bool(self._bars) or bool(self.leave(now).why)

    def leave(self, now: float) -> Leave:
        """Put all reasons together: the least room, the latest time, the words of all."""
        bars = tuple(self._bars.values())
        room, again_at = (0, math.inf) if bars else (MANY, 0.0)
        words = [why for why in bars if why]
        for brake in self._brakes:
            one = brake(now)
            room = min(room, one.room)
            if one.room <= 0:
                again_at = max(again_at, one.again_at)
            if one.why:
                words.append(one.why)
        return Leave(max(0, room), again_at, ", ".join(words))

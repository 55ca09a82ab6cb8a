"""The Python stacks of live processes: asked for by a signal, overheard on their stderr.

SIGUSR2 has each runtime write the stacks of all its threads, from C and whoever holds the GIL
(`faulthandler`); they go to the log like every output, and to whoever asked. Nothing marks the end
of such a dump: it is whole when nothing more of it has come for a while. A process in which nobody
catches the signal would die of it, and never gets it. Runs in: supervisor.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor import kernel
from supervisor.capture import Capture
from supervisor.lines import escape
from supervisor.loop import Loop, now
from supervisor.process import Process
from supervisor.seat import Seat

if TYPE_CHECKING:
    # Only for the reader: see `shapes`.
    from supervisor import shapes

QUIET_S: Final = 0.25
"""A dump of which nothing more has come for so long is whole."""

PATIENCE_S: Final = 5.0
"""So long a process has to begin, or to end, its dump."""

MOST_BYTES: Final = 1024 * 1024
"""100 threads with 100 frames each, more of which faulthandler does not show, are half of it."""

# Source: CPython, Python/traceback.c. Other lines on stderr are not ours to show.
_HEAD: Final = re.compile(rb"(Current thread|Thread) 0x[0-9a-f]+ ")
_FRAME: Final = re.compile(rb'  (File "|\.\.\.|<)')

_STATES: Final = {"T": "stopped", "t": "being traced", "D": "waiting for a disk"}

Answer = Callable[["list[shapes.Stacks]"], None]


class StackDumps:
    """Asks processes for their stacks. One dump of a process serves all who ask meanwhile."""

    def __init__(self, loop: Loop, capture: Capture) -> None:
        self._loop = loop
        self._capture = capture
        self._dumps: dict[Process, _Dump] = {}

    def collect(self, seats: Sequence[Seat], answer: Answer) -> None:
        """Ask these, and answer when all of them have shown their stacks, or cannot."""
        found: dict[str, shapes.Stacks] = {}

        def take(name: str, one: shapes.Stacks) -> None:
            found[name] = one
            if len(found) == len(seats):
                answer([found[seat.name] for seat in seats])

        for seat in seats:
            self._ask(seat, partial(take, seat.name))
        if not seats:
            answer([])

    def _ask(self, seat: Seat, take: Callable[[shapes.Stacks], None]) -> None:
        process = seat.living
        if process is not None and (dump := self._dumps.get(process)) is not None:
            dump.takers.append(take)
            return
        refusal = _refusal(seat)
        if process is None or refusal:
            take({"name": seat.name, "pid": None, "stacks": [], "error": refusal})
            return
        dump = self._dumps[process] = _Dump(seat.name, process.pid, now() + PATIENCE_S)
        dump.takers.append(take)
        end = partial(self._end, seat, process)
        self._loop.at(dump, dump.deadline, end)
        self._capture.overhear(_stderr(process), partial(self._hear, dump, end))
        process.signal(signal.SIGUSR2)

    def _hear(self, dump: _Dump, end: Callable[[], None], lines: bytes) -> None:
        if dump.hear(lines):
            self._loop.at(dump, min(now() + QUIET_S, dump.deadline), end)

    def _end(self, seat: Seat, process: Process) -> None:
        dump = self._dumps.pop(process)
        if seat.process is process:  # else its descriptors are somebody else's by now
            self._capture.overhear(_stderr(process), None)
        result = dump.result()
        for take in dump.takers:
            take(result)


class _Dump:
    """What was overheard of one process."""

    def __init__(self, name: str, pid: int, deadline: float) -> None:
        self.deadline = deadline
        self.takers: list[Callable[[shapes.Stacks], None]] = []
        self._name = name
        self._pid = pid
        self._lines: list[bytes] = []
        self._bytes = 0

    def hear(self, lines: bytes) -> bool:
        """Take lines of its stderr; say whether some of them belong to the dump."""
        before = self._bytes
        for line in lines.split(b"\n"):
            is_head = _HEAD.match(line) is not None
            if self._bytes < MOST_BYTES and (is_head or (self._lines and _FRAME.match(line))):
                self._lines += [b"", line] if is_head and self._lines else [line]
                self._bytes += len(line)
        return self._bytes > before

    def result(self) -> shapes.Stacks:
        """Give what has come, or why nothing has."""
        shown = [escape(line.decode("utf-8", "replace")) for line in self._lines]
        error = "" if shown else self._silence()
        return {"name": self._name, "pid": self._pid, "stacks": shown, "error": error}

    def _silence(self) -> str:
        try:
            facts = kernel.facts(self._pid)
        except kernel.Unreadable as error:
            return f"{self._name} (pid {self._pid}) cannot be looked at: {error.strerror}"
        if facts is None or facts.zombie:
            return f"{self._name} has just ended"
        state = _STATES.get(facts.state, "")
        why = f": it is {state}" if state else ""
        return f"{self._name} (pid {self._pid}) has shown nothing in {PATIENCE_S:g}s{why}"


def _stderr(process: Process) -> int:
    return next(fd for fd, stream in process.streams() if stream == "stderr")


def _refusal(seat: Seat) -> str:
    """Say why a process cannot be asked; empty when it can."""
    if seat.job.type == "program":
        return f"{seat.name} is a program: only our own Python processes show their stacks"
    if seat.living is None:
        return f"{seat.name} has no process: it is {seat.status.state.name}"
    if not kernel.catches(seat.living.pid, signal.SIGUSR2):
        return f"{seat.name} (pid {seat.living.pid}) cannot be asked yet: it has just been forked"
    return ""

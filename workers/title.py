"""The live state in `ps`: `supervisor: daemon [orders:0] (busy 3, done 1204, failed 2)`."""

from __future__ import annotations

from typing import Final

import setproctitle

from supervisor.board import Reading

_EVERY_S: Final = 1.0


def work(counts: Reading, busy: int, threads: int, *, draining: bool) -> str:
    """Say in words what a consumer does; `threads` where their number changes, else 0."""
    if draining:
        return f"draining {busy}"
    words = "ready"
    if busy or counts.done or counts.failed:
        words = f"busy {busy}, done {counts.done}, failed {counts.failed}"
    return f"{words}, threads {threads}" if threads else words


class Title:
    """Sets the title of this process; at most once a second, and only when it has changed."""

    def __init__(self, kind: str, name: str) -> None:
        self._base = f"supervisor: {kind} [{name}]"
        self._shown = ""
        self._next_s = 0.0

    def is_due(self, now: float) -> bool:
        """Tell whether a change would be shown now."""
        return now >= self._next_s

    def show(self, state: str, now: float, *, at_once: bool = False) -> None:
        """Show a state in round brackets. `now` is CLOCK_MONOTONIC seconds."""
        if state == self._shown or (now < self._next_s and not at_once):
            return
        setproctitle.setproctitle(f"{self._base} ({state})" if state else self._base)
        self._shown = state
        self._next_s = now + _EVERY_S

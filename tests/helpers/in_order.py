"""Looks whether the messages of each key were handled one after the other.

A ledger has lines `begin KEY:NUMBER PID` and `end KEY:NUMBER PID`; the numbers of a key are 0 and
on. What a killed process had begun or not yet committed may be done again, in order again.
"""

from __future__ import annotations

from collections.abc import Iterable


class InOrder:
    """Goes through lines as they were written; `wrong` is what may not be."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.done: set[tuple[str, int]] = set()
        self.again = 0
        self._open: dict[str, tuple[int, str]] = {}
        self._last: dict[str, int] = {}

    def look(self, lines: Iterable[list[str]]) -> None:
        """Take in further lines."""
        for word, message_id, pid in lines:
            key, _, number = message_id.partition(":")
            if word == "begin":
                self._begin(key, int(number), pid)
            else:
                self._end(key, int(number), pid)

    def _begin(self, key: str, number: int, pid: str) -> None:
        before = self._open.get(key)
        if before is not None and before[1] == pid:
            self.wrong.append(f"{pid} begins {key} {number} and is at {before[0]}")
        if number and (key, number - 1) not in self.done:
            self.wrong.append(f"{pid} begins {key} {number} before the one before was done")
        if number > self._last.get(key, -1) + 1:
            self.wrong.append(f"{pid} begins {key} {number} after {self._last.get(key)}")
        self._open[key] = (number, pid)
        self._last[key] = number

    def _end(self, key: str, number: int, pid: str) -> None:
        # Of a killed process no end comes; so whoever ends something must still be the last.
        if self._open.pop(key, None) != (number, pid):
            self.wrong.append(f"{pid} ends {key} {number}, and another one has begun meanwhile")
        self.again += (key, number) in self.done
        self.done.add((key, number))

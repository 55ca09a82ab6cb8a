"""The fifo into which the children write their own lines, and the bench's end of it.

A fifo and not a socket: the child needs no import to write to it. The times are the children's
(CLOCK_MONOTONIC is one clock for all processes), so that the bench's own speed counts nowhere.
"""

from __future__ import annotations

import os
import select
import time
from pathlib import Path
from typing import NamedTuple


class Stamp(NamedTuple):
    """One line of a child: `word` is what it has come to, `at_s` the monotonic time of that."""

    word: str
    pid: int
    at_s: float


class Late(Exception):
    """What was waited for did not come in time."""


class Stamps:
    """Reads the children's lines of one run."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path, 0o600)
        # Read and write: without a writer of our own each child's close would be an end of file.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._rest = b""
        self.heard: set[str] = set()
        """Every word that has come, waited for or not."""

    def read(self, timeout_s: float) -> list[Stamp]:
        """Give the lines that are there, or come within the time; none is no error."""
        if not self._poll.poll(max(0.0, timeout_s) * 1000):
            return []
        *lines, self._rest = (self._rest + os.read(self._fd, 65536)).split(b"\n")
        fields = [line.decode().split() for line in lines]
        self.heard.update(words[0] for words in fields)
        return [Stamp(word, int(pid), float(at)) for word, pid, at in fields]

    def until(self, word: str, count: int, timeout_s: float) -> list[Stamp]:
        """Wait for so many lines of that word; of others stays what is in `heard`. Raises: Late."""
        found: list[Stamp] = []
        deadline = time.monotonic() + timeout_s
        while len(found) < count:
            left = deadline - time.monotonic()
            if left <= 0:
                raise Late(f"{len(found)} of {count} lines {word!r} within {timeout_s:.0f} s")
            found += [stamp for stamp in self.read(left) if stamp.word == word]
        return found

    def close(self) -> None:
        """Close the bench's end; a child that comes later finds no reader and fails."""
        os.close(self._fd)

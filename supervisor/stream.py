"""What a follower of the log has still to read: whole items, bounded, and every drop counted. Pure.

An item is one line of JSON. A follower that reads too slowly gets no more until it has read half of
what waits for it; then it is told how many it has missed, at the place where they are missing.
Filled by `followers`, emptied by `control`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from supervisor import protocol

WAITING_BYTES: Final = 256 * 1024
"""So much may wait for one follower, and beyond it what one round of a pipe gives."""

_TAKE_BYTES: Final = 64 * 1024


class Stream:
    """The items on their way to one follower."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Begin empty; `wake` is called when there is something to take."""
        self.ended = False
        self.cut = False
        self._wake = wake
        self._waiting = bytearray()
        self._dropped = 0

    def __len__(self) -> int:
        """Count the bytes that wait."""
        return len(self._waiting)

    def put(self, items: bytes, count: int) -> None:
        """Add items, or drop and count them all where too much waits already."""
        if self.ended:
            return
        limit = WAITING_BYTES // 2 if self._dropped else WAITING_BYTES
        if len(self._waiting) >= limit:
            self._dropped += count
            return
        self._tell_dropped()
        self._waiting += items
        self._wake()

    def end(self, words: str, *, cut: bool = False) -> None:
        """Say the last word: why nothing follows. `cut`: it ends for a fault of the follower's."""
        if self.ended:
            return
        self._tell_dropped()
        self.ended, self.cut = True, cut
        self._waiting += protocol.encode({"end": words, "ok": not cut})
        self._wake()

    def abandon(self) -> None:
        """Take note that nobody reads any more."""
        self.ended = True
        self._waiting.clear()

    def take(self) -> bytes:
        """Give the next items to be written; empty when there are none."""
        if self._dropped and len(self._waiting) < WAITING_BYTES // 2:
            self._tell_dropped()
        end = len(self._waiting)
        if end > _TAKE_BYTES:
            found = self._waiting.rfind(b"\n", 0, _TAKE_BYTES) + 1
            end = found or self._waiting.find(b"\n") + 1
        items = bytes(self._waiting[:end])
        del self._waiting[:end]
        return items

    def _tell_dropped(self) -> None:
        if self._dropped and not self.ended:
            self._waiting += protocol.encode({"dropped": self._dropped})
            self._dropped = 0

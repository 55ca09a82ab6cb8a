"""The last lines of one process, kept in memory for `logs NAME -n N` and `why`.

Raw lines are kept as the child wrote them, each behind its time and stream; they are decoded and
escaped only when somebody asks. A process that never prints has no ring. Used by `logs`.
"""

from __future__ import annotations

from typing import Final

from supervisor.lines import escape

RING_BYTES: Final = 64 * 1024


class Ring:
    """A bounded tail of lines, the oldest forgotten first."""

    def __init__(self, limit: int = RING_BYTES) -> None:
        self._limit = limit
        self._text = bytearray()
        self.written = 0
        """So many bytes have come since the beginning; `last` takes it as a mark."""

    def add(self, prefix: bytes, lines: bytes) -> None:
        """Append lines (without the last newline), each behind the prefix."""
        # Of a flood only the end stays: half the ring, so that one long line does not empty it.
        tail = lines[-self._limit // 2 :]
        added = prefix + tail.replace(b"\n", b"\n" + prefix) + b"\n"
        self._text += added
        self.written += len(added)
        excess = len(self._text) - self._limit
        if excess > 0:
            # Deleting at the front of a bytearray moves a pointer, not the bytes.
            del self._text[: self._text.find(b"\n", excess - 1) + 1]

    def last(self, count: int, since: int = 0) -> list[str]:
        """Give the last `count` lines, oldest first, with control characters escaped.

        `since`: only what has come after `written` had that value.
        """
        fresh = max(0, self.written - since)
        if count <= 0 or not fresh:
            return []
        # From the end: the death of a process must not cost more for what it wrote long ago.
        lines = bytes(self._text[-fresh:]).rsplit(b"\n", count + 1)
        lines.pop()
        return [escape(line.decode("utf-8", "replace")) for line in lines[-count:]]

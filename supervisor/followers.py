"""Who follows the log or the events: each new line goes to those who want it, rendered once.

A follower asks by the same names, patterns included, as everybody; who comes later and fits them is
followed too. With nobody there, a chunk of lines costs one call. Runs in: supervisor.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from json.encoder import encode_basestring_ascii
from typing import TYPE_CHECKING

from supervisor import protocol, selection
from supervisor.lines import escape_lines
from supervisor.stream import Stream

if TYPE_CHECKING:
    # Only for the reader: see `shapes`.
    from supervisor import shapes


@dataclass(slots=True)
class _Follower:
    """A stream and the names that it asked for; no names mean every process."""

    stream: Stream
    patterns: Sequence[str]
    known: dict[str, bool] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Say whether it follows this process, or the master; asked once for each name."""
        wanted = self.known.get(name)
        if wanted is None:
            wanted = self.known[name] = selection.fits(self.patterns, name)
        return wanted


class Followers:
    """All followers of a supervisor."""

    def __init__(self) -> None:
        self._of_lines: list[_Follower] = []
        self._of_events: list[_Follower] = []

    def follow_lines(self, stream: Stream, patterns: Sequence[str]) -> None:
        """Send every line from now on that comes from a process of these names."""
        self._of_lines.append(_Follower(stream, patterns))

    def follow_events(self, stream: Stream, patterns: Sequence[str]) -> None:
        """Send every transition from now on of a process of these names."""
        self._of_events.append(_Follower(stream, patterns))

    def lines(self, name: str, prefix: bytes, lines: bytes) -> None:
        """Tell of lines (without the last newline), each to be shown behind the prefix."""
        if not self._of_lines:
            return
        self._of_lines = _reading(self._of_lines)
        wanting = [one for one in self._of_lines if one.wants(name)]
        if wanting:
            items = _items(name, prefix, lines)
            for one in wanting:
                one.stream.put(items, lines.count(b"\n") + 1)

    def event(self, event: shapes.Event) -> None:
        """Tell of a transition."""
        if not self._of_events:
            return
        self._of_events = _reading(self._of_events)
        for one in self._of_events:
            if one.wants(event["name"]):
                one.stream.put(protocol.encode(event), 1)

    def end(self, words: str) -> None:
        """Tell everybody that nothing follows, and why."""
        for one in [*self._of_lines, *self._of_events]:
            one.stream.end(words)


def _reading(followers: list[_Follower]) -> list[_Follower]:
    return [one for one in followers if not one.stream.ended]


def _items(name: str, prefix: bytes, lines: bytes) -> bytes:
    """Render lines as items. On the way of a flood: a handful of calls for all of them."""
    head = f'{{"name":"{name}","line":{encode_basestring_ascii(prefix.decode())[:-1]}'
    texts = escape_lines(lines)
    body = ("}\n" + head).join([encode_basestring_ascii(text)[1:] for text in texts])
    return f"{head}{body}}}\n".encode("ascii")

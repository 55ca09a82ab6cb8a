"""The output of the children: their pipes, read in the supervisor's loop, cut into lines.

All pipes hang in an epoll of their own, which is itself watched by the loop. When it turns
readable, one round reads at most 64 KiB of each pipe; then nobody is woken for 20 ms, and the next
round takes what has come meanwhile (measured with 50 children that print 200 lines a second:
15.5 % of a CPU without the pause, 2.1 % with it). A round in which some pipe had more is followed
by another in the next turn of the loop: a flood runs at full speed, and the others get their turn
(draining one pipe first made them wait for 2 s). With nothing to read, nobody wakes.

A pipe is never read to its end at a child's death: a grandchild may hold it open for ever.
"""

from __future__ import annotations

import fcntl
import os
import select
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from typing import Final

from supervisor.lines import Source
from supervisor.logs import Log, Speaker
from supervisor.loop import READ, Loop, now

LINE_BYTES: Final = 64 * 1024
"""A longer line is logged in pieces."""

REPORT_BYTES: Final = 1024 * 1024
"""The longest line of the report stream: a record with its traceback."""

PAUSE_S: Final = 0.020

_READ_BYTES: Final = 64 * 1024
_FLOOD_BYTES: Final = _READ_BYTES // 2
"""So much at once means more behind it. Not all 64 KiB: a pipe's pages are seldom full."""

_LINES: Final = 4096
_FLOOD_PIPE_BYTES: Final = 256 * 1024
_LEFT_BYTES: Final = 1024 * 1024
_RECORD: Final = b"log "

OnLine = Callable[[bytes], None]


class Splitter:
    """Cuts a stream of bytes into lines, wherever the reads may have cut it.

    Gives chunks of whole lines: a chunk is what one call of C can render. A line longer than the
    limit comes in pieces of that length, the last one as an ordinary line. `lose` is called when
    there is no memory for what was read.
    """

    def __init__(
        self,
        emit: Callable[[bytes], None],
        piece: Callable[[bytes], None],
        limit: int,
        lose: Callable[[], None] = lambda: None,
    ) -> None:
        self._take = self._emit = emit
        self._piece = piece
        self._lose = lose
        self._limit = limit
        self._tail = b""

    def feed(self, data: bytes) -> bool:
        """Take what was read, at most `limit` bytes.

        True: there are lines left; the next call brings nothing new, and gets them.
        """
        try:
            lines, has_more = self._cut(self._without_long_line(self._tail + data))
        except MemoryError:
            self._tail = b""
            self._lose()
            return False
        if lines is not None:
            self._emit(lines)
        return has_more

    def _cut(self, data: bytes) -> tuple[bytes | None, bool]:
        """Keep the tail; give the whole lines before it, and whether there are more."""
        if data.count(b"\n") > _LINES:
            # Empty lines grow two hundredfold when they are rendered: not all at once.
            *some, self._tail = data.split(b"\n", _LINES)
            return b"\n".join(some), True
        end = data.rfind(b"\n")
        self._tail = data[end + 1 :]
        return (data[:end] if end >= 0 else None), False

    def overhear(self, ear: Callable[[bytes], None] | None) -> None:
        """Give every chunk of lines to somebody else too, from now on; None: to nobody else."""
        take = self._take

        def both(lines: bytes) -> None:
            take(lines)
            if ear is not None:
                ear(lines)

        self._emit = take if ear is None else both

    def end(self) -> None:
        """Give what is left; a last line without its newline is one too."""
        while self.feed(b""):
            pass
        if self._tail:
            self._emit(self._tail)
            self._tail = b""

    def _without_long_line(self, data: bytes) -> bytes:
        """Give away the pieces of a first line that is too long.

        A later line of the same data cannot be: all but the tail was read at once.
        """
        while len(data) > self._limit and data.find(b"\n", 0, self._limit + 1) < 0:
            cut = _character_boundary(data, self._limit)
            self._piece(data[:cut])
            data = data[cut:]
        return data


def _character_boundary(data: bytes, cut: int) -> int:
    """Move a cut back to the start of the UTF-8 character that it would divide."""
    for start in range(cut, cut - 4, -1):
        if data[start] & 0xC0 != 0x80:
            return start
    return cut  # not UTF-8 at all


class Channel:
    """One pipe of one process."""

    def __init__(self, fd: int, speaker: Speaker, splitter: Splitter) -> None:
        self.fd = fd
        self.speaker = speaker
        self.splitter = splitter
        self.grown = False


class Capture:
    """Reads the pipes of all children. Runs in: supervisor.

    The descriptors stay the caller's: it closes them after `finish`, not before.
    """

    def __init__(self, loop: Loop, log: Log) -> None:
        self._loop = loop
        self._log = log
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._channels: dict[int, Channel] = {}
        self._leftover: set[int] = set()
        self._rounds = 0
        self._held = False
        self._listen()
        log.on_room = self._resume

    def add(self, fd: int, source: Source, on_line: OnLine | None = None) -> None:
        """Capture a pipe's read end from now on.

        With `on_line` it is a report stream: lines that begin with `log ` are records for the
        log, every other one is for `on_line`, which may call `finish`.
        """
        os.set_blocking(fd, False)
        speaker = self._log.speaker(source)
        if on_line is None:
            splitter = _splitter(speaker, partial(_log, speaker, speaker.say), LINE_BYTES)
        else:
            splitter = _report_splitter(speaker, on_line)
        self._channels[fd] = Channel(fd, speaker, splitter)
        self._epoll.register(fd, select.EPOLLIN)

    def overhear(self, fd: int, ear: OnLine | None) -> None:
        """Give the lines of a captured pipe to somebody else too; None: no longer."""
        if (channel := self._channels.get(fd)) is not None:
            channel.splitter.overhear(ear)

    def finish(self, fds: Iterable[int]) -> None:
        """Read what the pipes of a dead process still hold, log its last words, forget them.

        It is dead, so all that it wrote is there: nothing is waited for, and of a grandchild that
        goes on writing no more than 1 MiB is taken.
        """
        for fd in fds:
            channel = self._channels.pop(fd, None)
            if channel is None:
                continue
            taken = 0
            while taken < _LEFT_BYTES and (data := _read(fd)):
                taken += len(data)
                while channel.splitter.feed(data):
                    data = b""
            channel.splitter.end()
            channel.speaker.finish()
            self._leftover.discard(fd)
            self._unregister(fd)
        self._log.flush()

    def turn(self) -> None:
        """Make one round. Called by the loop."""
        ready = {fd for fd, _ in self._epoll.poll(0, max(1, len(self._channels)))}
        ready |= self._leftover
        again = False
        for fd in self._in_turn(sorted(ready)):
            channel = self._channels.get(fd)
            if channel is not None:  # finished by another's `on_line`
                again |= self._round(channel)
        self._log.flush()
        self._schedule(bool(ready), again)

    def close(self) -> None:
        """Let go of all pipes. Their descriptors are the caller's to close."""
        self._loop.cancel(self)
        self._loop.unwatch(self._epoll.fileno())
        self._channels.clear()
        self._epoll.close()

    def _round(self, channel: Channel) -> bool:
        """Read one pipe once. True: it may have more right now."""
        if channel.speaker.sink.full():
            self._held = True
            return False
        if channel.fd in self._leftover:
            return self._feed(channel, b"")
        data = _read(channel.fd)
        if data is None:
            return False
        if not data:
            # Its end would be reported for ever. The process may live on without an output.
            self._unregister(channel.fd)
            channel.splitter.end()
            return False
        flood = len(data) >= _FLOOD_BYTES
        if flood and not channel.grown:
            channel.grown = True
            _grow(channel.fd)
        return self._feed(channel, data) or flood

    def _feed(self, channel: Channel, data: bytes) -> bool:
        """Hand on what was read. True: lines of it are left for the next round."""
        left = channel.splitter.feed(data)
        if left:
            self._leftover.add(channel.fd)
        else:
            self._leftover.discard(channel.fd)
        return left

    def _in_turn(self, fds: list[int]) -> list[int]:
        """Begin with another one each time: the first ones may fill the sink."""
        if not fds:
            return fds
        self._rounds += 1
        start = self._rounds % len(fds)
        return fds[start:] + fds[:start]

    def _schedule(self, found: bool, again: bool) -> None:
        if not found:
            self._listen()
            return
        self._loop.unwatch(self._epoll.fileno())
        self._loop.at(self, now() if again else now() + PAUSE_S, self.turn)

    def _listen(self) -> None:
        self._loop.watch(self._epoll.fileno(), READ, lambda _mask: self.turn())

    def _resume(self) -> None:
        if self._held:
            self._held = False
            self._loop.at(self, now(), self.turn)

    def _unregister(self, fd: int) -> None:
        with suppress(FileNotFoundError):  # after its end
            self._epoll.unregister(fd)


def _report_splitter(speaker: Speaker, on_line: OnLine) -> Splitter:
    def report(line: bytes) -> None:
        speaker.report(line[len(_RECORD) :])

    def emit(lines: bytes) -> None:
        for line in lines.split(b"\n"):
            if line.startswith(_RECORD):
                _log(speaker, report, line)
            else:
                on_line(line)

    return _splitter(speaker, emit, REPORT_BYTES)


def _splitter(speaker: Speaker, emit: Callable[[bytes], None], limit: int) -> Splitter:
    piece = partial(_log, speaker, partial(speaker.say, partial=True))
    return Splitter(emit, piece, limit, partial(speaker.sink.lose, 1, speaker.source.name))


def _log(speaker: Speaker, write: Callable[[bytes], None], lines: bytes) -> None:
    """Have lines logged. What there is no memory for is lost, and that is said later."""
    try:
        write(lines)
    except MemoryError:
        speaker.sink.lose(lines.count(b"\n") + 1, speaker.source.name)


def _read(fd: int) -> bytes | None:
    """Read once.

    None: nothing now, or no memory for it; empty: the end, or a descriptor that cannot be read.
    """
    try:
        return os.read(fd, _READ_BYTES)
    except (BlockingIOError, MemoryError):
        return None
    except OSError:
        return b""


def _grow(fd: int) -> None:
    """Give a pipe that floods more room, so that its writer waits less often.

    Only then: an unprivileged user has 64 MiB for all pipes, and 8 KiB for each one beyond it.
    """
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _FLOOD_PIPE_BYTES)

"""One connection of the control socket, beside the server: what it says, when it is let go.

It takes a line at a time and the next only when the answer is written out; each of its parts has
a time limit, and what it may leave unread has a bound. What a request does is for `control`, which
has one of these for each client.
"""

from __future__ import annotations

import select
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from supervisor import protocol
from supervisor.errors import ExitCode
from supervisor.loop import READ, WRITE, now
from supervisor.stream import Stream

if TYPE_CHECKING:
    # The server makes its connections; at run time the import would be a circle.
    from supervisor.control import ControlServer

READ_BYTES_A_TURN: Final = 64 * 1024

LINE_S: Final = 10.0
SILENCE_S: Final = 60.0
"""How long it may take to end a line or to read on, and to say nothing at all."""

FAULTS: Final = 100
"""After so many requests that make no sense a client is hung up on."""

ONE_QUESTION: Final = "who follows can ask nothing more; ask over another connection"


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a request, as the kernel says."""

    pid: int
    uid: int


class Connection:
    """One client of the server: what it has said so far, what it has not yet read."""

    def __init__(self, server: ControlServer, connection: socket.socket, peer: Peer) -> None:
        self.peer = peer
        self.last_heard = now()
        self.is_closed = False
        self._server = server
        self._loop = server.loop
        self._socket = connection
        self._heard = bytearray()
        self._unsent = memoryview(b"")
        self._stream: Stream | None = None
        self._awaits_answer = False
        self._has_finished = False
        self._closes_after = False
        self._faults = 0
        self.served = 0
        self._watched = 0
        self._watch()
        self._give_time()

    @property
    def unread(self) -> int:
        """Give how many bytes of its answers wait for it."""
        return len(self._unsent) + (len(self._stream) if self._stream is not None else 0)

    @property
    def is_following(self) -> bool:
        """Tell whether its answer goes on."""
        return self._stream is not None

    @property
    def is_busy(self) -> bool:
        """Tell whether it is owed an answer, or has one to read, and reads it if it follows."""
        if self._stream is not None:
            return not self.unread or now() - self.last_heard < LINE_S
        return self._awaits_answer or self.unread > 0

    def answer(self, line: bytes) -> bool:
        """Write an answer, as far as the client reads it; False: it was too large."""
        fits = len(line) <= protocol.REPLY_BYTES and self._server.has_room(len(line))
        if not fits:
            words = "the answer is too large; ask for fewer names"
            line = protocol.encode(protocol.refusal(ExitCode.FAILED, words))
        self._awaits_answer = False
        self._unsent = memoryview(line)
        self._write()
        self._give_time()
        return fits

    def follow(self, line: bytes) -> Stream | None:
        """Write an answer, and give the stream of what is to follow it; None: it is refused."""
        if words := self._server.why_not_follow():
            self.answer(protocol.encode(protocol.refusal(ExitCode.FAILED, words)))
            return None
        if not self.answer(line) or self.is_closed:
            return None
        stream = self._stream = Stream(self._pour)
        self._give_time()
        if self._heard:
            self.refuse(ONE_QUESTION)
        return stream

    def finish(self, deadline: float) -> None:
        """Give one that follows until then to read the rest."""
        while self._stream is not None and self.unread and not self.is_closed:
            poll = select.poll()
            poll.register(self._socket, select.POLLOUT)
            if not poll.poll(max(0.0, deadline - now()) * 1000):
                return
            self._write()

    def refuse(self, words: str) -> None:
        """Tell the client off and let it go, once it has read that or its time is up."""
        self._heard.clear()
        if self._stream is not None:
            self._stream.end(words, cut=True)
            self._give_time()
            return
        self._closes_after = True
        self.answer(protocol.encode(protocol.refusal(ExitCode.USAGE, words)))

    def reprove(self) -> None:
        """Take note of a request that makes no sense; after too many the answer is the last."""
        self._faults += 1
        if self._faults >= FAULTS:
            self._closes_after = True

    def close(self) -> None:
        """Let the client go."""
        if self.is_closed:
            return
        self.is_closed = True
        self._loop.cancel(self)
        self._loop.cancel((self, "next"))
        self._server.unwatch(self._socket.fileno())
        self._socket.close()
        self._unsent = memoryview(b"")
        if self._stream is not None:
            self._stream.abandon()
        self._server.forget(self)

    def _turn(self, mask: int) -> None:
        if mask & WRITE and self.unread:
            self._write()
        if mask & READ and self._watched & READ and not self.is_closed:
            self._read()

    def _read(self) -> None:
        try:
            piece = self._socket.recv(READ_BYTES_A_TURN)
        except BlockingIOError:
            return
        except (OSError, MemoryError):
            self.close()
            return
        if not piece:
            self._hear_end()
            return
        self.last_heard = now()
        if self._stream is not None:
            self.refuse(ONE_QUESTION)
            return
        begins = not self._heard
        self._heard += piece
        if not self.is_busy:
            self._take_request(begins=begins)
        self._watch()

    def _hear_end(self) -> None:
        """Note that the client says no more. It may still want its answer (`echo … | nc -U`)."""
        poll = select.poll()
        poll.register(self._socket, 0)
        self._has_finished = True
        # POLLHUP comes unasked: it has closed for good, not only for writing.
        if poll.poll(0) or not (self.is_busy or self.is_following or b"\n" in self._heard):
            self.close()
        else:
            self._watch()
            if self.is_following:
                self._give_time()

    def _take_request(self, *, begins: bool = True) -> None:
        """Carry out the first line, if it is whole; `begins`: what follows it is new."""
        end = self._heard.find(b"\n", 0, protocol.LINE_BYTES)
        if end >= 0:
            line = bytes(self._heard[:end])
            del self._heard[: end + 1]
            self._awaits_answer = True
            self.served += 1
            self._give_time()
            self._server.queue(line, self)
        elif len(self._heard) >= protocol.LINE_BYTES:
            self.refuse(f"a request has {protocol.LINE_BYTES} bytes at most")
        elif self._has_finished:
            self.close()
        elif begins:
            # Only at its first bytes: a byte a second is no way to keep a line open for ever.
            self._give_time()

    def _take_next(self) -> None:
        if not self.is_busy and not self.is_following:
            self._take_request()
        self._watch()

    def _write(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            # It did not wait for its answer.
            self.close()
            return
        if sent:
            # Progress earns it more time; an empty slice lets go of the whole answer.
            self._unsent = self._unsent[sent:] if sent < len(self._unsent) else memoryview(b"")
            if self._stream is not None:
                self.last_heard = now()
            self._give_time()
        if self._stream is not None:
            self._refill(self._stream)
            return
        if not self.unread and self._closes_after:
            self.close()
        elif not self.unread and (self._heard or self._has_finished):
            # In a turn of its own: the others have theirs, and we may be in the middle of a verb.
            self._loop.at((self, "next"), now(), self._take_next)
        self._watch()

    def _pour(self) -> None:
        """Begin to write what follows, unless something is on its way already."""
        if not self._unsent and not self.is_closed and self._stream is not None:
            self._unsent = memoryview(self._stream.take())
            self._write()

    def _refill(self, stream: Stream) -> None:
        """Take the next part of what follows; it is written in the next turn."""
        if not self._unsent:
            self._unsent = memoryview(stream.take())
        if not self._unsent and stream.ended:
            self.close()
        else:
            self._watch()

    def _watch(self) -> None:
        """Watch for what we can use: no input while a whole line's worth of it waits already."""
        if self.is_closed:
            return
        reading = not self._has_finished and len(self._heard) < 2 * protocol.LINE_BYTES
        events = (READ if reading else 0) | (WRITE if self.unread else 0)
        if events == self._watched:
            return
        self._watched = events
        if events:
            self._server.watch(self._socket.fileno(), events, self._turn)
        else:
            self._server.unwatch(self._socket.fileno())

    def _give_time(self) -> None:
        """Set the time by which the client has to do its part; none while we owe it an answer."""
        if self.is_closed:
            return
        if self._stream is not None:
            self._give_time_to_follow(self._stream)
        elif self._awaits_answer:
            self._loop.cancel(self)
        elif self.unread:
            self._loop.at(self, now() + LINE_S, self.close)
        elif self._heard:
            words = f"a request has to be complete within {LINE_S:g} s"
            self._loop.at(self, now() + LINE_S, lambda: self.refuse(words))
        else:
            self._loop.at(self, now() + SILENCE_S, self.close)

    def _give_time_to_follow(self, stream: Stream) -> None:
        """Let it follow for as long as it likes; its last words it has to read, though."""
        if stream.ended:
            self._loop.at(self, now() + LINE_S, self.close)
        elif self._has_finished:
            self._loop.at(self, now() + SILENCE_S, self._hear_end)
        else:
            self._loop.cancel(self)

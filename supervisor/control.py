"""The master's end of the control socket: who may speak, how much, and to which verb it goes.

A unix socket of JSON lines (`protocol`), served in the master's one loop, without a thread. The
verbs are a fixed table that the master gives; nothing in a request is ever looked up as an
attribute (CVE-2017-11610 was that). A client is of the supervisor's own user or root, and may be as
hostile as it likes: it costs bounded memory and a bounded part of each turn of the loop.

    accept ─► read ≤ 64 KiB a turn ─► a whole line ─► verb(request, reply) ─► reply.send / .fail
                │ 10 s to end a line    1 ms a turn      at once or later        │     / .follow
                │ 60 s of silence                                                ▼
                └────────── no next request is taken before the reply is written out

Called by `supervisor`; the other end is `client`.
"""

from __future__ import annotations

import errno
import logging
import os
import select
import socket
import struct
from collections import deque
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import kernel, protocol
from supervisor.errors import ExitCode, SupervisorError, UsageError, configuration_fault
from supervisor.loop import READ, WRITE, Loop, now
from supervisor.stream import Stream

CLIENTS: Final = 64
ACCEPTS_A_TURN: Final = 16
READ_BYTES_A_TURN: Final = 64 * 1024
TURN_S: Final = 0.001
"""So much of one turn of the loop goes to listening to clients, as much to newcomers and to what
they ask; one of each is always heard."""

_AT_ONCE: Final = 4

LINE_S: Final = 10.0
SILENCE_S: Final = 60.0
CROWDED_S: Final = 1.0
"""How long newcomers wait before the longest idle of too many clients has to go."""

FOLLOWERS: Final = 32
"""So many clients may follow at the same time: the others are for who has a question."""

FAREWELL_S: Final = 0.25
"""So long those who follow have for what they have not read when the master leaves."""

FAULTS: Final = 100
"""After so many requests that make no sense a client is hung up on."""

UNREAD_BYTES: Final = 4 * protocol.REPLY_BYTES
"""How much all clients together may leave unread."""

_ONE_QUESTION: Final = "who follows can ask nothing more; ask over another connection"

_UCRED: Final = struct.Struct("iII")

# Out of descriptors or memory: accept() would fail again at once, and the loop would spin.
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peer:
    """Who sent a request, as the kernel says."""

    pid: int
    uid: int


class Reply:
    """The answer that a request is owed; a verb may keep it and answer later.

    The first answer counts and later ones are dropped, so that a time limit and a completion may
    race. A client that has gone meanwhile does not matter: its answer is dropped too.
    """

    def __init__(self, client: _Client, verb: str) -> None:
        self._client: _Client | None = client
        self._verb = verb

    @property
    def peer(self) -> Peer | None:
        """Give who waits for this answer; None when nobody does any more."""
        client = self._client
        return client.peer if client is not None and not client.is_closed else None

    def send(self, result: object) -> None:
        """Answer that it is done."""
        self._answer(protocol.ok(result))

    def fail(self, code: int, message: str) -> None:
        """Answer that it is not; `code` is the exit code of the command."""
        self._answer(protocol.refusal(code, message))

    def follow(self, result: object) -> Stream | None:
        """Answer, and give the stream of what follows; None when nothing can follow."""
        client, self._client = self._client, None
        if client is None or client.is_closed:
            return None
        return client.follow(self._encoded(protocol.ok(result)))

    def _answer(self, message: object) -> None:
        client, self._client = self._client, None
        if client is not None and not client.is_closed:
            client.answer(self._encoded(message))

    def _encoded(self, message: object) -> bytes:
        try:
            return protocol.encode(message)
        except (TypeError, ValueError):
            _log.exception("the answer to a request is not JSON, verb=%s", self._verb)
            return protocol.encode(protocol.refusal(ExitCode.FAILED, "internal error"))


Verb = Callable[[protocol.Request, Reply], None]


class ControlServer:
    """The listening socket and its clients. Runs in: supervisor.

    The caller holds the lock of `path`'s folder: a socket file that is there is then a dead
    master's, and is replaced.

    Raises: ConfigError when the path cannot be bound; it names run_dir.
    """

    def __init__(
        self,
        loop: Loop,
        path: Path,
        mode: int,
        verbs: Mapping[str, Verb],
        allowed_uids: Collection[int],
        group: int | None = None,
    ) -> None:
        self.loop = loop
        self.path = path
        self._verbs = dict(verbs)
        self._allowed = frozenset(allowed_uids) | {0}
        self._group = group
        self._clients: set[_Client] = set()
        self._queue: deque[tuple[bytes, _Client]] = deque()
        self._epoll = select.epoll(flags=select.EPOLL_CLOEXEC)
        self._handlers: dict[int, Callable[[int], None]] = {}
        self._listener = _listen(path, mode, group)
        self._inode = path.stat().st_ino
        loop.watch(self._listener.fileno(), READ, self._accept)
        loop.watch(self._epoll.fileno(), READ, self._turn)

    def close(self) -> None:
        """Stop listening, drop every client, remove the socket file if it is ours. Idempotent."""
        if self._listener.fileno() < 0:
            return
        deadline = now() + FAREWELL_S
        for client in tuple(self._clients):
            client.finish(deadline)
            client.close()
        self.loop.cancel((self, "admit"))
        self.loop.cancel((self, "serve"))
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        self.loop.unwatch(self._epoll.fileno())
        self._epoll.close()
        with suppress(FileNotFoundError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()

    def watch(self, fd: int, events: int, handler: Callable[[int], None]) -> None:
        """Call the handler of a client whenever its descriptor is ready: in our share of a turn."""
        mask = (events & READ and select.EPOLLIN) | (events & WRITE and select.EPOLLOUT)
        if fd in self._handlers:
            self._epoll.modify(fd, mask)
        else:
            self._epoll.register(fd, mask)
        self._handlers[fd] = handler

    def unwatch(self, fd: int) -> None:
        """Forget a descriptor; to be called before it is closed."""
        if self._handlers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def _turn(self, _mask: int) -> None:
        """Listen to the clients for a moment. Who is left is the first in the next turn."""
        deadline = now() + TURN_S
        while now() < deadline and (ready := self._epoll.poll(0, _AT_ONCE)):
            for fd, mask in ready:
                handler = self._handlers.get(fd)
                if handler is not None:  # let go by another's turn
                    events = (mask & ~select.EPOLLOUT and READ) | (mask & ~select.EPOLLIN and WRITE)
                    handler(events)

    def queue(self, line: bytes, client: _Client) -> None:
        """Have a request carried out in its turn, behind those of the others."""
        self._queue.append((line, client))
        self.loop.at((self, "serve"), now(), self._serve)

    def _serve(self) -> None:
        """Carry out requests for a moment; who waits longer waits beside what else happens."""
        deadline = now() + TURN_S
        while self._queue:
            line, client = self._queue.popleft()
            if not client.is_closed:
                self.dispatch(line, client)
            if now() >= deadline:
                break
        if self._queue:
            self.loop.at((self, "serve"), now(), self._serve)

    def dispatch(self, line: bytes, client: _Client) -> None:
        """Carry out one request. Whatever it holds, the master lives on."""
        verb = "?"
        reply = Reply(client, verb)
        try:
            verb, request = protocol.decode_request(line)
            function = self._verbs.get(verb)
            if function is None:
                known = ", ".join(sorted(self._verbs))
                raise UsageError(f"unknown verb {verb[:40]!a}; known: {known}")
            reply = Reply(client, verb)
            function(request, reply)
        except UsageError as error:
            client.reprove()
            reply.fail(error.code, str(error))
        except SupervisorError as error:
            reply.fail(error.code, str(error))
        except Exception:
            # One of the two edges where everything is caught: a bug in a verb is one caller's bad
            # luck; the death of the master would be everybody's.
            _log.exception("a request failed, verb=%s pid=%d", verb, client.peer.pid)
            reply.fail(ExitCode.FAILED, "internal error; the supervisor's log has the details")

    def unread(self) -> int:
        """Give how many bytes of answers all clients have left unread."""
        return sum(client.unread for client in self._clients)

    def may_follow(self) -> bool:
        """Say whether one more client may follow."""
        return sum(client.is_following for client in self._clients) < FOLLOWERS

    def forget(self, client: _Client) -> None:
        """Take note that a client is gone, and let the next one in."""
        self._clients.discard(client)
        self._admit()

    def _accept(self, _mask: int) -> None:
        deadline = now() + TURN_S
        for _ in range(ACCEPTS_A_TURN):
            if now() > deadline:
                return
            if len(self._clients) >= CLIENTS:
                self._hold_back(self._make_room)
                return
            try:
                connection, _ = self._listener.accept()
            except OSError as error:
                if error.errno in _SHORTAGE:
                    _log.warning("no new clients for a second: %s", error)
                    self._hold_back(self._admit)
                # Otherwise nobody is waiting, or the one who did has left.
                return
            self._receive(connection)

    def _receive(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid, uid, gid = _UCRED.unpack(raw)
        if uid not in self._allowed and not self._is_member(connection, gid):
            _log.warning(
                "a stranger on the control socket was turned away, pid=%d uid=%d", pid, uid
            )
            words = f"user {uid} may not speak to this supervisor"
            with suppress(OSError):
                connection.send(protocol.encode(protocol.refusal(ExitCode.FAILED, words)))
            connection.close()
            return
        self._clients.add(_Client(self, connection, Peer(pid, uid)))

    def _is_member(self, connection: socket.socket, gid: int) -> bool:
        """Tell whether a client was of `socket_group` when it connected, by any of its groups."""
        return self._group is not None and (
            gid == self._group or self._group in kernel.peer_groups(connection.fileno())
        )

    def _hold_back(self, then: Callable[[], None]) -> None:
        """Leave newcomers in the kernel's queue for a while."""
        self.loop.unwatch(self._listener.fileno())
        self.loop.at((self, "admit"), now() + CROWDED_S, then)

    def _make_room(self) -> None:
        idle = [client for client in self._clients if not client.is_busy]
        idle.sort(key=lambda client: client.last_heard)
        if not idle:
            # Everybody asks without a pause: who has had the most makes room.
            idle = sorted(self._clients, key=lambda client: -client.served)[:1]
        silent = sum(now() - client.last_heard >= CROWDED_S for client in idle)
        for client in idle[: max(silent, ACCEPTS_A_TURN)]:
            client.refuse("too many clients, and this one was idle, or has asked the most")
        if len(self._clients) >= CLIENTS:
            self.loop.at((self, "admit"), now() + CROWDED_S, self._make_room)

    def _admit(self) -> None:
        if self._listener.fileno() >= 0 and len(self._clients) < CLIENTS:
            self.loop.cancel((self, "admit"))
            self.loop.watch(self._listener.fileno(), READ, self._accept)


class _Client:
    """One connection: what it has said so far, what it has not yet read."""

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
        fits = len(line) <= protocol.REPLY_BYTES
        fits = fits and self._server.unread() + len(line) <= UNREAD_BYTES
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
        if not self._server.may_follow():
            words = f"{FOLLOWERS} clients follow already; end one of them, or ask without -f"
            self.answer(protocol.encode(protocol.refusal(ExitCode.FAILED, words)))
            return None
        if not self.answer(line) or self.is_closed:
            return None
        stream = self._stream = Stream(self._pour)
        self._give_time()
        if self._heard:
            self.refuse(_ONE_QUESTION)
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
        except OSError:
            self.close()
            return
        if not piece:
            self._hear_end()
            return
        self.last_heard = now()
        if self._stream is not None:
            self.refuse(_ONE_QUESTION)
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


def _listen(path: Path, mode: int, group: int | None) -> socket.socket:
    protocol.socket_path(path.parent, path.stem)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.setblocking(False)
    # The file gets its mode from the umask, at once: after a chmod it had once been another.
    before = os.umask(0o777 & ~mode)
    try:
        if path.is_socket():
            path.unlink()
        listener.bind(str(path))
        if group is not None:
            os.chown(path, -1, group)
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise configuration_fault(
            path, f"the control socket cannot be made: {error.strerror}; see run_dir"
        ) from error
    finally:
        os.umask(before)
    return listener

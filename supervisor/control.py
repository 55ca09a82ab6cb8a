"""The master's end of the control socket: who may speak, how much, and to which verb it goes.

A unix socket of JSON lines (`protocol`), served in the master's one loop, without a thread. The
verbs are a fixed table that the master gives; nothing in a request is ever looked up as an
attribute (CVE-2017-11610 was that). A client is of the supervisor's own user or root, and may be as
hostile as it likes: it costs bounded memory and a bounded part of each turn of the loop.

    accept ─► read ≤ 64 KiB a turn ─► a whole line ─► verb(request, reply) ─► reply.send / .fail
                │ 10 s to end a line    1 ms a turn      at once or later        │     / .follow
                │ 60 s of silence                                                ▼
                └────────── no next request is taken before the reply is written out

One client, from its first byte to its last, is a `connection`. Called by `supervisor`; the other
end is `client`.
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
from pathlib import Path
from typing import Final

from supervisor import kernel, protocol
from supervisor.connection import Connection, Peer
from supervisor.errors import ExitCode, SupervisorError, UsageError, configuration_fault
from supervisor.loop import READ, WRITE, Loop, now
from supervisor.stream import Stream

CLIENTS: Final = 64
ACCEPTS_A_TURN: Final = 16
TURN_S: Final = 0.001
"""So much of one turn of the loop goes to listening to clients, as much to newcomers and to what
they ask; one of each is always heard."""

_AT_ONCE: Final = 4

CROWDED_S: Final = 1.0
"""How long newcomers wait before the longest idle of too many clients has to go."""

FOLLOWERS: Final = 32
"""So many clients may follow at the same time: the others are for who has a question."""

FAREWELL_S: Final = 0.25
"""So long those who follow have for what they have not read when the master leaves."""

UNREAD_BYTES: Final = 4 * protocol.REPLY_BYTES
"""How much all clients together may leave unread."""

_UCRED: Final = struct.Struct("iII")

# Out of descriptors or memory: accept() would fail again at once, and the loop would spin.
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

_log = logging.getLogger(__name__)


class Reply:
    """The answer that a request is owed; a verb may keep it and answer later.

    The first answer counts and later ones are dropped, so that a time limit and a completion may
    race. A client that has gone meanwhile does not matter: its answer is dropped too.
    """

    def __init__(self, client: Connection, verb: str) -> None:
        self._client: Connection | None = client
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
        self._clients: set[Connection] = set()
        self._queue: deque[tuple[bytes, Connection]] = deque()
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
        with suppress(OSError):  # it is gone, or what was its folder is none any more
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

    def queue(self, line: bytes, client: Connection) -> None:
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

    def dispatch(self, line: bytes, client: Connection) -> None:
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

    def has_room(self, size: int) -> bool:
        """Say whether so many more bytes may lie unread."""
        return self.unread() + size <= UNREAD_BYTES

    def why_not_follow(self) -> str | None:
        """Say why no more clients may follow; None when one may."""
        if sum(client.is_following for client in self._clients) < FOLLOWERS:
            return None
        return f"{FOLLOWERS} clients follow already; end one of them, or ask without -f"

    def forget(self, client: Connection) -> None:
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
        try:
            self._clients.add(Connection(self, connection, Peer(pid, uid)))
        except OSError as error:  # of epoll_ctl(2): no memory, or too much is watched already
            _log.warning("a new client cannot be listened to: %s", error.strerror)
            connection.close()

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

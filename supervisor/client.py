"""The command line's end of the control socket: one connection, one question at a time.

Blocking, with a time limit on everything but what is meant to take long. Used by `cli` and, inside
children, by whoever wants to ask the master something; the master itself never imports it.
"""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Final, Protocol, Self, cast

from supervisor import protocol
from supervisor.errors import ControlError, NotRunning

if TYPE_CHECKING:
    # Only for the reader: see `shapes`.
    from supervisor import shapes

CONNECT_S: Final = 5
"""How long the master may take to let us in; it never takes a second unless it is ill."""

ANSWER_S: Final = 10.0
"""How long a quick verb may take."""

_UCRED: Final = struct.Struct("iII")


class Place(Protocol):
    """Where a supervisor lives: `location.Location`, or a whole `config.Config`."""

    @property
    def name(self) -> str:
        """Give the supervisor's name."""
        ...

    @property
    def run_dir(self) -> Path:
        """Give the folder of the control socket."""
        ...


class ConnectionLost(ControlError):
    """The master went away before it answered."""


class Client:
    """A connection to the running supervisor.

    Raises, from the constructor: NotRunning when nobody listens there; ControlError when somebody
    does, but may not or does not answer.
    """

    def __init__(self, place: Place, *, hint: str = "") -> None:
        self._path = protocol.socket_path(place.run_dir, place.name)
        self._buffer = bytearray()
        self._socket = _connect(self._path, place.name, hint)
        try:
            self.pid = _peer(self._socket)
            # Opened before the first answer, which then proves that it is the master's and not
            # that of a later process with the same number.
            self._pidfd = os.pidfd_open(self.pid)
        except OSError:
            self._socket.close()
            raise NotRunning(f"the supervisor at {self._path} has just gone") from None

    def __enter__(self) -> Self:
        """Give the client itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the connection."""
        self.close()

    def close(self) -> None:
        """Close the connection. What was asked goes on; nobody waits for the answer."""
        self._socket.close()
        os.close(self._pidfd)

    def call(self, verb: str, *, limit_s: float | None = ANSWER_S, **arguments: object) -> object:
        """Ask, wait for the answer and give its result.

        `limit_s` None waits as long as the master lives.

        Raises: what the master refused with (`protocol.decode_reply`); ConnectionLost when it died
        meanwhile; ControlError when it did not answer in time.
        """
        deadline = None if limit_s is None else monotonic() + limit_s
        request = {"verb": verb} | {
            key: value for key, value in arguments.items() if value is not None
        }
        line = protocol.encode(request)
        if len(line) > protocol.LINE_BYTES:
            raise ControlError("too many names for one request: use a pattern, like 'order-*'")
        try:
            self._socket.settimeout(limit_s)
            self._socket.sendall(line)
            return protocol.decode_reply(self._read_line(deadline))
        except TimeoutError:
            raise ControlError(
                f"the supervisor (pid {self.pid}) has not answered {verb!r} in {limit_s:g} s"
            ) from None
        except (BrokenPipeError, ConnectionResetError):
            return protocol.decode_reply(self._last_words())

    def ping(self) -> shapes.Pong:
        """Ask who is there."""
        return cast("shapes.Pong", self.call("ping"))

    def status(self, names: tuple[str, ...] = ()) -> shapes.Status:
        """Ask for the state of processes; no name means all. Raises: NoSuchJob."""
        return cast("shapes.Status", self.call("status", names=list(names)))

    def why(self, names: tuple[str, ...] = (), deaths: int | None = None) -> list[shapes.Why]:
        """Ask why processes are as they are, with so many of their deaths. Raises: NoSuchJob."""
        return cast("list[shapes.Why]", self.call("why", names=list(names), deaths=deaths))

    def stacks(self, names: tuple[str, ...]) -> list[shapes.Stacks]:
        """Ask processes for their Python stacks. Raises: NoSuchJob, ControlError."""
        return cast("list[shapes.Stacks]", self.call("stacks", limit_s=30.0, names=list(names)))

    def start(self, names: tuple[str, ...]) -> None:
        """Start processes and wait until they are ready. Raises: NoSuchJob, ControlError."""
        self.call("start", limit_s=None, names=list(names))

    def restart(self, names: tuple[str, ...]) -> shapes.Names:
        """Restart processes, one after the other, and wait until they are ready; gives them.

        Raises: NoSuchJob, ControlError.
        """
        return cast("shapes.Names", self.call("restart", limit_s=None, names=list(names)))

    def scale(self, counts: Mapping[str, int]) -> list[shapes.JobStatus]:
        """Give jobs so many processes, and wait until they have them; gives the jobs.

        Raises: NoSuchJob, UsageError, ControlError.
        """
        answer = self.call("scale", limit_s=None, jobs=dict(counts))
        return cast("shapes.Jobs", answer)["jobs"]

    def reload(self, *, dry_run: bool) -> shapes.ReloadReport:
        """Have the configuration reloaded, and wait for the end of that. Raises: ControlError."""
        answer = self.call("reload", limit_s=None, dry_run=dry_run)
        return cast("shapes.ReloadReport", answer)

    def quiet(self, names: tuple[str, ...]) -> shapes.Names:
        """Have processes take nothing new; no name means all. Raises: NoSuchJob, ControlError."""
        return cast("shapes.Names", self.call("quiet", names=list(names)))

    def resume(self, names: tuple[str, ...]) -> shapes.Names:
        """Undo `quiet`. Raises: NoSuchJob, ControlError."""
        return cast("shapes.Names", self.call("resume", names=list(names)))

    def signal(self, names: tuple[str, ...], word: str) -> tuple[str, ...]:
        """Send a signal to processes; gives them. Raises: NoSuchJob, UsageError, ControlError."""
        answer = self.call("signal", names=list(names), signal=word)
        return tuple(cast("shapes.Names", answer)["names"])

    def stop(self, names: tuple[str, ...], timeout_s: float | None = None) -> shapes.StopReport:
        """Stop processes and wait until they are gone. Raises: NoSuchJob."""
        answer = self.call("stop", limit_s=None, names=list(names), timeout=timeout_s)
        return cast("shapes.StopReport", answer)

    def shutdown(self, timeout_s: float | None = None) -> shapes.StopReport:
        """Have the master drain everything and leave; the answer comes just before it does."""
        answer = self.call("shutdown", limit_s=None, timeout=timeout_s)
        return cast("shapes.StopReport", answer)

    def logs(self, names: tuple[str, ...], lines: int) -> shapes.LogLines:
        """Ask for the last lines of processes, with the name of each one's. Raises: NoSuchJob."""
        return cast("shapes.LogLines", self.call("logs", names=list(names), n=lines))

    def events(self, names: tuple[str, ...] = (), number: int | None = None) -> list[shapes.Event]:
        """Ask for the last transitions, oldest first; None: all of them. Raises: NoSuchJob."""
        return cast("list[shapes.Event]", self.call("events", names=list(names), n=number))

    def follow(
        self, verb: str, names: tuple[str, ...], number: int
    ) -> tuple[object, Iterator[list[shapes.Item]]]:
        """Ask for what is there and for what follows; gives both.

        The items come in lists, as they arrive, and end when the supervisor says so: the last one
        says why (`end`).

        Raises, at once: as `call`. While following: ConnectionLost when the master dies.
        """
        result = self.call(verb, follow=True, names=list(names), n=number)
        self._socket.settimeout(None)
        return result, self._items()

    def fileno(self) -> int:
        """Give the descriptor on which answers arrive."""
        return self._socket.fileno()

    def has_more(self) -> bool:
        """Say whether a whole line has been read already, beside what was given."""
        return b"\n" in self._buffer

    def _items(self) -> Iterator[list[shapes.Item]]:
        while True:
            end = self._buffer.rfind(b"\n") + 1
            if end:
                lines = bytes(self._buffer[:end])
                del self._buffer[:end]
                items = [protocol.decode_item(line) for line in lines.splitlines()]
                yield items
                if "end" in items[-1]:
                    return
                continue
            try:
                piece = self._socket.recv(256 * 1024)
            except ConnectionResetError:
                piece = b""
            if not piece:
                words = f"the supervisor (pid {self.pid}) went away without a word"
                raise ConnectionLost(words)
            self._buffer += piece

    def wait_gone(self, limit_s: float | None = None) -> bool:
        """Wait until the master's process has ended; tell whether it has."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(None if limit_s is None else limit_s * 1000))

    def _read_line(self, deadline: float | None) -> bytes:
        # `searched`, so that a long answer is not scanned again for each piece of it.
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > protocol.REPLY_BYTES:
                raise ControlError("the supervisor's answer does not end")
            if deadline is not None:
                self._socket.settimeout(max(0.001, deadline - monotonic()))
            piece = self._socket.recv(256 * 1024)
            if not piece:
                raise self._lost()
            self._buffer += piece
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        return line

    def _last_words(self) -> bytes:
        """Read what it said before it hung up: who may not ask is told so, and not listened to.

        The socket tells of its end first, once, and then gives what has come before that.
        """
        try:
            return self._read_line(None)
        except OSError:
            raise self._lost() from None

    def _lost(self) -> ConnectionLost:
        return ConnectionLost(f"the supervisor (pid {self.pid}) went away before it answered")


def _connect(path: Path, name: str, hint: str) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Not settimeout: a unix socket that does not block answers a full queue with EAGAIN at once.
    limit = struct.pack("ll", CONNECT_S, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
    try:
        connection.connect(str(path))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        connection.close()
        raise NotRunning(f"{name} is not running (nobody listens at {path}){hint}") from None
    except PermissionError:
        connection.close()
        raise ControlError(
            f"no permission for {path}: run this as the user of the supervisor"
        ) from None
    except BlockingIOError:
        connection.close()
        raise ControlError(
            f"{name} does not answer at {path}: nobody let us in within {CONNECT_S} s"
        ) from None
    return connection


def _peer(connection: socket.socket) -> int:
    """Give the pid of the process that listens. Source: unix(7), SO_PEERCRED."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    pid: int = _UCRED.unpack(raw)[0]
    return pid

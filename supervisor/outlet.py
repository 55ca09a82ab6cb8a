"""Where the bytes of a log go: a pipe, a terminal, a socket, or a file that rotates.

Each outlet takes what it can without waiting and says how much that was. The descriptor that we
were born with is shared with others (the shell, systemd, our children), and O_NONBLOCK is a
property of what they share: setting it would break their writes. So it is opened anew where the
kernel allows, asked without waiting (sockets), or written in pieces that cannot block. Used by
`sink`.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

_PIPE_PIECE: Final = select.PIPE_BUF
"""A pipe that polls as writable takes so many bytes at once. Source: pipe(7)"""

_TERMINAL_PIECE: Final = 256
"""A terminal that polls as writable has room for so many. Source: Linux, n_tty's WAKEUP_CHARS"""

_NEWLINE: Final = 10


class Outlet(Protocol):
    """Takes bytes without waiting. No method but `write` raises."""

    def write(self, data: bytes) -> int:
        """Write the front of the data and give its length.

        Raises: BlockingIOError when it can take nothing now; OSError when it is broken.
        """

    def fileno(self) -> int:
        """Give the descriptor to wait on after a BlockingIOError."""

    def reopen(self) -> None:
        """Open the file anew by its name, if it has one."""

    def close(self) -> None:
        """Close what this outlet has opened, never the descriptor that it was made from."""


_QUIET: Final = os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


def standard(fd: int = 1) -> Outlet:
    """Make the outlet of an inherited descriptor, whatever it is; also one that is closed."""
    try:
        mode = os.fstat(fd).st_mode
    except OSError:
        return Inherited(fd)
    if stat.S_ISSOCK(mode):
        return Socket(fd)
    if stat.S_ISREG(mode):
        # It never makes us wait, and a second description would have an offset of its own.
        return Inherited(fd)
    try:
        return Own(os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | _QUIET))
    except OSError:
        # Another user's pipe or terminal (after a change of user), or no /proc.
        return Careful(fd, _TERMINAL_PIECE if stat.S_ISCHR(mode) else _PIPE_PIECE)


class Inherited:
    """A descriptor that never makes its writer wait: a regular file, or one that is closed."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> int:
        """Write; see Outlet."""
        return os.write(self._fd, data)

    def fileno(self) -> int:
        """Give the descriptor."""
        return self._fd

    def reopen(self) -> None:
        """Do nothing: it has no name."""

    def close(self) -> None:
        """Do nothing: it is not ours."""


class Own(Inherited):
    """A description of our own, opened with O_NONBLOCK."""

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)


class Careful(Inherited):
    """A shared blocking descriptor: asked first, and given no more than it has room for."""

    def __init__(self, fd: int, piece: int) -> None:
        super().__init__(fd)
        self._piece = piece
        self._poll = select.poll()
        self._poll.register(fd, select.POLLOUT)

    def write(self, data: bytes) -> int:
        """Write one piece; see Outlet."""
        if not self._poll.poll(0):
            raise BlockingIOError
        return os.write(self._fd, data[: self._piece])


class Socket(Inherited):
    """A socket, as systemd gives its services: asked with MSG_DONTWAIT at each call."""

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        self._socket = socket.socket(fileno=os.dup(fd))

    def write(self, data: bytes) -> int:
        """Send; see Outlet."""
        return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Close our copy of the descriptor; the connection stays."""
        # Not socket.close() alone: that is all it does, while shutdown() would end the others' too.
        self._socket.close()


class File:
    """A log file that is set aside when full: PATH becomes PATH.1, that PATH.2, up to PATH.N.

    With no backups it is emptied instead. Cut between lines only, unless one line alone is
    longer than the limit. What is no regular file (`/dev/stdout`, a fifo) is never rotated.
    """

    def __init__(self, path: Path, max_bytes: int, backups: int) -> None:
        """Open the file for appending. `max_bytes` 0: it grows without end.

        Raises: OSError when it cannot be opened.
        """
        self._path = path
        self._max_bytes = max_bytes
        self._backups = backups
        self._fd = -1
        self._size = 0
        self._limit: float = 0
        self._torn = False
        self._open()

    def write(self, data: bytes) -> int:
        """Write up to the file's end of room, rotating first when there is none; see Outlet."""
        if self._fd < 0:
            self._open()
        piece = self._fitting(data)
        written = os.write(self._fd, piece)
        self._size += written
        self._torn = written > 0 and piece[written - 1] != _NEWLINE
        return written

    def fileno(self) -> int:
        """Give the descriptor; -1 while there is none."""
        return self._fd

    def reopen(self) -> None:
        """Close, so that the next write opens the file anew by its name."""
        self.close()

    def close(self) -> None:
        """Close the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        # Not for the eyes of others: what jobs print may be private. O_NONBLOCK for a fifo.
        fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | _QUIET, 0o640)
        found = os.fstat(fd)
        self.close()
        self._fd, self._size, self._torn = fd, found.st_size, False
        rotates = self._max_bytes > 0 and stat.S_ISREG(found.st_mode)
        self._limit = self._max_bytes if rotates else float("inf")

    def _fitting(self, data: bytes) -> bytes:
        """Give the front of the data that belongs into this file as it is now."""
        whole = self._whole_lines(data)
        if not whole and self._size > 0 and not self._torn:
            self._rotate()
            whole = self._whole_lines(data)
        # No whole line fits: the rest of a torn one, or one that is longer than a file may be.
        return data[: whole or data.find(b"\n") + 1 or len(data)]

    def _whole_lines(self, data: bytes) -> int:
        """Count the bytes for which there is room, up to the end of a line."""
        room = self._limit - self._size
        return len(data) if len(data) <= room else data.rfind(b"\n", 0, int(max(0, room))) + 1

    def _rotate(self) -> None:
        """Set the file aside, or go on in it when that fails: a log too long beats a log lost."""
        try:
            thought, self._size = self._size, os.fstat(self._fd).st_size
            if self._size < thought:
                return  # somebody else has emptied it (logrotate's copytruncate)
            if self._backups > 0:
                self._shift()
                self._open()
            else:
                os.ftruncate(self._fd, 0)
                self._size = 0
        except OSError:
            self._limit = self._size + self._max_bytes

    def _shift(self) -> None:
        names = [self._path, *(Path(f"{self._path}.{n}") for n in range(1, self._backups + 1))]
        for older, newer in reversed(list(zip(names[1:], names[:-1], strict=True))):
            with suppress(FileNotFoundError):
                newer.replace(older)

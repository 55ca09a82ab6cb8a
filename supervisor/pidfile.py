"""The locks by which one supervisor knows of another, and the pid file that cannot go stale.

A POSIX record lock and not flock: it belongs to the process, so a child that inherits the
descriptor neither holds it nor can give it up, and the kernel drops it at the master's death.
Who reads the pid asks the lock first. Source: fcntl_locking(2).
"""

from __future__ import annotations

import fcntl
import os
import struct
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from supervisor.errors import AlreadyRunning

_FLOCK = struct.Struct(
    "hhqqixxxx"
)  # struct flock of Linux: l_type, l_whence, l_start, l_len, l_pid


class Place(Protocol):
    """Where a supervisor lives: a `location.Location`, or a whole `config.Config`."""

    @property
    def name(self) -> str:
        """Give the supervisor's name."""
        ...

    @property
    def run_dir(self) -> Path:
        """Give the folder of what lasts as long as the master."""
        ...

    @property
    def state_dir(self) -> Path:
        """Give the folder of what lasts longer."""
        ...


def of_run_dir(place: Place) -> Path:
    """Give the pid file, which is the lock of run_dir."""
    return place.run_dir / f"{place.name}.pid"


def of_state_dir(place: Place) -> Path:
    """Give the lock of state_dir."""
    return place.state_dir / "lock"


class PidFile:
    """A locked file with the pid of its holder."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd = -1

    def take(self) -> None:
        """Lock the file and write our pid into it. Raises: AlreadyRunning, naming the holder."""
        fd = self._locked()
        text = f"{os.getpid()}\n".encode()
        os.pwrite(fd, text, 0)
        os.ftruncate(fd, len(text))
        self._fd = fd

    def _locked(self) -> int:
        while True:
            fd = self._lock()
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.stat(self.path)):
                    return fd
            # Its last holder has removed it between our open and our lock: nobody else finds it.
            os.close(fd)

    def _lock(self) -> int:
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = _locker(fd)
            os.close(fd)
            raise AlreadyRunning(
                f"already running as pid {pid}: {self.path} is locked; "
                "see it with `supervisor status`, or give this one a name of its own"
            ) from None
        return fd

    def leave(self) -> None:
        """Remove the file, then let the lock go: in this order nobody can find a stale one.

        A file that cannot be removed is no reason to fail: who reads the pid asks the lock first.
        """
        with suppress(OSError):
            self.path.unlink()
        os.close(self._fd)


def holder(path: Path) -> int | None:
    """Give the pid of the process that holds the lock; None when nobody does."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return _locker(fd)
    finally:
        os.close(fd)


def _locker(fd: int) -> int | None:
    """Ask the kernel who would be in the way of a write lock (F_GETLK)."""
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else pid

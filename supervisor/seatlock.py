"""The lock of a slot: no two processes ever sit in one seat, not even after the master's death.

A file for each slot in `state_dir/slots`. The child takes a POSIX record lock on it and writes
down who it is; both last as long as its process. A record lock and not flock: that one belongs
to the open file and would live on in a daemonised grandchild. The written pid and start time are
the second witness, for a program that closes every descriptor it finds, and tell a new master
whom to wait for. Source: fcntl_locking(2).
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import kernel

FOLDER: Final = "slots"

_TEXT_BYTES: Final = 256


@dataclass(frozen=True, slots=True)
class Occupant:
    """The process that sits, or sat, in a slot. `owner` is the user whose it was.

    A process keeps the file of its slot open, and could write into it whom it likes: who is root
    believes it only about processes of the user that it was given to.
    """

    name: str
    pid: int
    started: int
    boot: str
    stop_timeout: float
    owner: int

    def may_be_of(self, pid: int) -> bool:
        """Say whether the slot's user could have begun this process."""
        return self.owner == os.geteuid() or self.owner == kernel.user_of(pid)

    def alive(self) -> bool:
        """Say whether this very process still runs, not another one under its number."""
        if self.boot != kernel.BOOT:
            return False
        facts = kernel.facts(self.pid)
        if facts is None or facts.started != self.started or facts.zombie:
            return False
        return self.may_be_of(self.pid)


def folder(state_dir: Path) -> Path:
    """Give the folder of the slot files."""
    return state_dir / FOLDER


def take(state_dir: Path, name: str, stop_timeout: float, owner: int | None = None) -> int:
    """Take the seat for this process. Runs in: child.

    `owner` is the user that the process is about to become, where it may become another.
    Returns the descriptor that carries the lock. It must stay open, over an exec too.
    Raises: BlockingIOError when another process sits there.
    """
    fd = _open(state_dir, name)
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    # Spelled out, not by json.dumps: this is on the way of every start.
    text = (
        f'{{"name": "{name}", "pid": {os.getpid()}, "started": {kernel.own_start()}, '
        f'"boot": "{kernel.BOOT}", "stop_timeout": {stop_timeout!r}}}'
    )
    # Blanks over the rest of a longer text before it: one call, where truncating takes two.
    # On a full disk the lock alone has to do, and a next master goes by marks and titles.
    try:
        if owner is not None and os.fstat(fd).st_uid != owner:
            os.fchown(fd, owner, -1)
        os.pwrite(fd, text.ljust(_TEXT_BYTES).encode(), 0)
    except OSError:  # not by `suppress`: three functions more on the way of every start
        return fd
    return fd


def _open(state_dir: Path, name: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    try:
        return os.open(f"{state_dir}/{FOLDER}/{name}", flags, 0o600)
    except FileNotFoundError:
        # Somebody has removed the folder under a running master; its jobs go on.
        for place in (state_dir, folder(state_dir)):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(f"{state_dir}/{FOLDER}/{name}", flags, 0o600)


def leave(state_dir: Path, name: str) -> None:
    """Clear the file of a slot in which nobody sits for now, or a stranger might be taken for him.

    Not after every death: the next process writes over it at once, and a disk may take longer to
    free a block than the kernel to fork. While the file names a dead process, whoever has its
    number as a session by then would count as left behind by it; so nobody is named for long.
    The empty file stays: to make one takes longer than to open one.
    """
    with suppress(OSError):
        os.truncate(f"{state_dir}/{FOLDER}/{name}", 0)


def remove(state_dir: Path, name: str) -> None:
    """Remove the file of a slot that nobody will sit in next, if that can be.

    One that stays, on a disk that has become read-only, tells a next master of a dead process.
    """
    with suppress(OSError):
        (folder(state_dir) / name).unlink()


def left_in_order(state_dir: Path) -> bool:
    """Say whether the last master has removed the file of each slot; one that was killed has not.

    An empty file tells nothing: a full disk may have kept its process from writing into it.
    """
    return not _files(state_dir)


def occupants(state_dir: Path) -> tuple[Occupant, ...]:
    """Read who sat in the slots of an earlier master, dead or alive. A torn file counts as none.

    A child that died between its lock and its first write leaves an empty file behind.
    """
    found: list[Occupant] = []
    place = folder(state_dir)
    for name in _files(state_dir):
        try:
            found.append(_read(place / name))
        except (ValueError, TypeError, OSError):
            continue
    return tuple(found)


def _read(path: Path) -> Occupant:
    """Read one file, as from somebody who may mean harm. Raises: ValueError, TypeError, OSError."""
    with path.open("rb") as file:
        fields = json.loads(file.read(4 * _TEXT_BYTES))
        found = Occupant(**fields, owner=os.fstat(file.fileno()).st_uid)
    numbers = (found.pid, found.started, found.stop_timeout)
    if found.name != path.name or not all(
        type(one) in (int, float) and one >= 0 for one in numbers
    ):
        raise ValueError("not written by us")
    return found


def _files(state_dir: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder(state_dir)))
    except (FileNotFoundError, NotADirectoryError):
        return []  # there was no master yet, or somebody has removed it

"""The few calls of Linux that Python's `os` does not have, and what /proc tells of a process.

Symbols are looked up at import, in the parent: the first lookup of a function costs more than the
call, and every child would pay it again.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36

_SO_PEERGROUPS: Final = 59
_MOST_GROUPS: Final = 65536

_getsockopt = ctypes.CDLL(None, use_errno=True).getsockopt
CAP_SETGID: Final = 6
CAP_SETUID: Final = 7
CAP_SYS_NICE: Final = 23
CAP_SYS_RESOURCE: Final = 24

_prctl = ctypes.CDLL(None, use_errno=True).prctl
_PF_EXITING: Final = 0x00000004
_PF_KTHREAD: Final = 0x00200000
_ALL_BLOCKED: Final = 32
_TICKS_A_SECOND: Final = os.sysconf("SC_CLK_TCK")
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_STAT_BYTES: Final = 2048
"""More than the 52 numbers and the name of /proc/PID/stat ever take."""

# No descriptor is left to look with: in this process, or in the whole system.
_SHORTAGE: Final = frozenset({errno.EMFILE, errno.ENFILE})
_GONE: Final = frozenset({errno.ENOENT, errno.ESRCH})
# With hidepid=1 others' processes are listed and hidden. Source: proc(5)
_HIDDEN: Final = frozenset({errno.EACCES, errno.EPERM})

T = TypeVar("T")

BOOT: Final = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
"""The kernel's name for this boot: a pid and start time of another one mean nothing."""


def die_with_parent(signal_number: int) -> None:
    """Ask for a signal at the parent's death. Runs in: child, again after a change of user.

    It is the forking *thread* whose end counts, and the call says nothing when the parent is
    dead already: compare getppid() with the parent's pid afterwards. Source: prctl(2)
    """
    _check(_prctl(_PR_SET_PDEATHSIG, signal_number, 0, 0, 0))


def allow_dump() -> None:
    """Let this process be looked at by its own user, and write a core; a change of user forbids it.

    Source: PR_SET_DUMPABLE in prctl(2)
    """
    _check(_prctl(_PR_SET_DUMPABLE, 1, 0, 0, 0))


def peer_groups(fd: int) -> frozenset[int]:
    """Give the supplementary groups that the other end of a unix socket had when it connected.

    Empty when the kernel does not tell (before 4.13). Python's own call takes 1,024 bytes at most.
    Source: SO_PEERGROUPS in unix(7), NGROUPS_MAX
    """
    room = (ctypes.c_uint32 * _MOST_GROUPS)()
    size = ctypes.c_uint32(ctypes.sizeof(room))
    if _getsockopt(fd, socket.SOL_SOCKET, _SO_PEERGROUPS, room, ctypes.byref(size)) != 0:
        return frozenset()
    return frozenset(room[: size.value // ctypes.sizeof(ctypes.c_uint32)])


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies. Runs in: supervisor.

    Kept over an exec, not inherited by a fork. Source: prctl(2)
    """
    _check(_prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))


def pidfd_of_child(pid: int) -> int:
    """Open the pidfd of a child just forked; safe, as nobody reaps it before us.

    Raises: OSError when there is no descriptor for it. The child cannot be watched then, so it is
    killed and reaped first.
    """
    try:
        return os.pidfd_open(pid)
    except OSError:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@dataclass(frozen=True, slots=True)
class Facts:
    """What /proc/PID/stat tells. `started` is in clock ticks since boot: with the pid, a name.

    Source: proc_pid_stat(5)
    """

    pid: int
    state: str
    parent: int
    group: int
    session: int
    flags: int
    started: int

    @property
    def zombie(self) -> bool:
        """Say whether only the exit status is left."""
        return self.state in "ZX"

    @property
    def leaving(self) -> bool:
        """Say whether it is on its way to be a zombie: it has children still, but no memory."""
        return not self.zombie and bool(self.flags & _PF_EXITING)

    @property
    def of_kernel(self) -> bool:
        """Say whether it is a thread of the kernel, which never has a command line."""
        return bool(self.flags & _PF_KTHREAD)


class Unreadable(OSError):
    """/proc does not tell: not that something is gone, but that we cannot see it."""


class _Spare:
    """A descriptor that is given up for a look at /proc when there is no other.

    Who is not seen for want of a descriptor would count as gone, and a job would get its successor
    beside what its dead process has left. A fork has no use of it: there its number is another's.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._pid = 0

    def keep(self) -> None:
        """Open it, unless it is open, or somebody else was quicker and there is none for now."""
        if not self.is_there:
            self._fd = -1
            with suppress(OSError):
                self._fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
                self._pid = os.getpid()

    def drop(self) -> None:
        """Close it."""
        if self.is_there:
            os.close(self._fd)
        self._fd = -1

    def lend(self, read: Callable[[str], T], path: str) -> T:
        """Read with its number, and take it back. Raises: OSError."""
        self.drop()
        try:
            return read(path)
        finally:
            self.keep()

    @property
    def is_there(self) -> bool:
        """Say whether there is one to lend."""
        return self._fd >= 0 and self._pid == os.getpid()


_spare: Final = _Spare()

keep_spare = _spare.keep
"""Keep a descriptor for looks at /proc in need. Runs in: supervisor, once it has begun."""


def facts(pid: int) -> Facts | None:
    """Read the facts of a process; None when there is none, or it is hidden from us.

    Raises: Unreadable when nothing can be known.
    """
    try:
        text = _read(f"/proc/{pid}/stat")
    except OSError as error:
        if error.errno in _GONE or error.errno in _HIDDEN:
            return None
        raise Unreadable(error.errno, error.strerror, error.filename) from None
    # The name may hold blanks and brackets; the fields begin after the last bracket.
    fields = text[text.rindex(b")") + 2 :].split()
    return Facts(
        pid=pid,
        state=fields[0].decode("ascii"),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        flags=int(fields[6]),
        started=int(fields[19]),
    )


def may(capability: int) -> bool:
    """Say whether this process has a capability now; root in a container lacks many.

    Source: CapEff in proc_pid_status(5), the numbers in linux/capability.h
    """
    text = _read("/proc/self/status")
    return bool(int(text.partition(b"\nCapEff:")[2].split(maxsplit=1)[0], 16) >> capability & 1)


def user_of(pid: int) -> int | None:
    """Give the real user of a process; None when it is gone."""
    try:
        text = _read(f"/proc/{pid}/status")
    except OSError:
        return None
    return int(text.partition(b"\nUid:")[2].split(maxsplit=1)[0])


def own_start() -> int:
    """Give the start of this process, as `Facts.started`; on the way of every child's start.

    0 when /proc cannot be read: no other process has that.
    """
    try:
        # One read of little: the line is short, and a large buffer is more pages to copy.
        fd = os.open("/proc/self/stat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            text = os.read(fd, _STAT_BYTES)
        finally:
            os.close(fd)
    except (OSError, MemoryError):
        return 0
    return int(text.rpartition(b")")[2].split(None, 20)[19])


def children(pid: int) -> tuple[int, ...]:
    """Give the pids of the children of a process, zombies included; () when it is gone.

    Source: /proc/PID/task/TID/children, proc(5). Measured: 28 us for a leaf, where a walk over
    all of /proc takes 14 ms.
    Raises: Unreadable when it cannot be known; for ourselves, whenever it cannot be read.
    """
    found: list[int] = []
    try:
        tasks = _list(f"/proc/{pid}/task")
    except OSError as error:
        # Our own list is never gone: then it is all of /proc that is.
        if error.errno in _GONE and pid != os.getpid():
            return ()
        raise Unreadable(error.errno, error.strerror, error.filename) from None
    for task in tasks:
        try:
            found.extend(map(int, _read(f"/proc/{pid}/task/{task}/children").split()))
        except OSError as error:
            if error.errno not in _GONE:  # a thread that has just ended
                raise Unreadable(error.errno, error.strerror, error.filename) from None
    return tuple(found)


def processes() -> tuple[int, ...]:
    """Give the pids of all processes that this one can see. Raises: Unreadable."""
    try:
        found = tuple(int(name) for name in _list("/proc") if name.isdigit())
    except OSError as error:
        raise Unreadable(error.errno, error.strerror, error.filename) from None
    if not found:
        raise Unreadable(errno.ENOENT, os.strerror(errno.ENOENT), "/proc/self")
    return found


def environment_of(pid: int, name: bytes) -> bytes | None:
    """Read one variable of the environment with which a process was exec'd; None if not there."""
    try:
        text = _read(f"/proc/{pid}/environ")
    except OSError:
        return None
    for entry in text.split(b"\0"):
        key, _, value = entry.partition(b"=")
        if key == name:
            return value
    return None


def title_of(pid: int) -> str:
    """Read the command line of a process, or the title that it has put there."""
    try:
        text = _read(f"/proc/{pid}/cmdline")
    except OSError:
        return ""
    return text.rstrip(b"\0").replace(b"\0", b" ").decode("utf-8", "replace")


def maps_file(pid: int, memfd_name: str) -> bool:
    """Say whether a process has the memfd of that name in its memory."""
    try:
        return f"/memfd:{memfd_name} ".encode() in _read(f"/proc/{pid}/maps")
    except OSError:
        return False


def catches(pid: int, number: int) -> bool:
    """Say whether a process has a handler of its own for a signal.

    Just after a fork, with all signals blocked, the handlers are still those of the parent and are
    about to be reset. One signal that is blocked is only being handled just now.
    Source: /proc/PID/status, SigCgt and SigBlk, proc(5)
    """
    try:
        text = _read(f"/proc/{pid}/status")
    except OSError:
        return False
    masks = dict(line.split(b":\t", 1) for line in text.splitlines() if line.startswith(b"Sig"))
    caught, blocked = (int(masks.get(name, b"0"), 16) for name in (b"SigCgt", b"SigBlk"))
    return bool(caught >> (number - 1) & 1) and blocked.bit_count() < _ALL_BLOCKED


def cpu_seconds(pid: int) -> float | None:
    """Give the processor time that a process has used, None when it is gone.

    Source: utime and stime in /proc/PID/stat, proc_pid_stat(5)
    """
    try:
        fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    except OSError:
        return None
    return (int(fields[11]) + int(fields[12])) / _TICKS_A_SECOND


def resident_bytes(pid: int) -> int:
    """Give the resident memory of a process, 0 when it is gone."""
    try:
        return int(_read(f"/proc/{pid}/statm").split()[1]) * _PAGE_BYTES
    except (OSError, IndexError):
        return 0


def threads() -> int:
    """Count the threads of this process, those that Python does not know of included.

    By the links of the folder, two and one for each: to list it would take a descriptor, which
    there may be none of when it matters. Source: proc_pid_task(5)
    Without /proc those that Python knows of have to do.
    """
    try:
        return os.stat("/proc/self/task").st_nlink - 2
    except OSError:
        return len(sys._current_frames())


def descriptors() -> dict[int, str]:
    """Give the open descriptors of this process with what they point to."""
    found: dict[int, str] = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue  # the descriptor of the listing itself
    return found


def _read(path: str) -> bytes:
    """Read a file of /proc to its end, with the spare descriptor if there is no other.

    Raises: OSError.
    """
    return _lending(_read_now, path)


def _list(path: str) -> list[str]:
    """List a folder of /proc, with the spare descriptor if there is no other. Raises: OSError."""
    return _lending(os.listdir, path)


def _lending(read: Callable[[str], T], path: str) -> T:
    try:
        return read(path)
    except MemoryError:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM), path) from None
    except OSError as error:
        if error.errno not in _SHORTAGE or not _spare.is_there:
            raise
    return _spare.lend(read, path)


def _read_now(path: str) -> bytes:
    """Read a file of /proc to its end.

    By descriptor: the objects of `open` and their buffer are twenty pages more for each fork to
    copy, on the way of every start and every death. Raises: OSError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = b""
        # What is short of the size asked for is not the end: maps come by the page.
        while part := os.read(fd, 65536):
            text += part
        return text
    finally:
        os.close(fd)

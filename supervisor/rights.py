"""Rights and limits of a process: how they are written, and how a child takes them on.

The order is the kernel's, not ours: what needs root comes before root is given up (a negative nice
value, a higher limit), and of the three identities the groups come first and the user last, as
none but root may change the others. What is given up is given up for good, saved ids included; a
child that could take root back does not run. Source: setresuid(2), credentials(7), prctl(2).
"""

from __future__ import annotations

import os
import resource
from collections.abc import MutableMapping
from dataclasses import dataclass
from re import fullmatch
from typing import Final

from supervisor import kernel, values
from supervisor.errors import SpawnError
from supervisor.identity import Group, User

UNLIMITED: Final = resource.RLIM_INFINITY

KEPT: Final = frozenset(
    ("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "SUPERVISOR_CONF")
)
"""What `inherit_environment = false` leaves, with every LC_*: without them hardly a program runs
as it should. SUPERVISOR_CONF is how `publish` finds its queues."""

_OF_ANOTHER: Final = ("MAIL", "XDG_RUNTIME_DIR", "XDG_SESSION_ID", "DBUS_SESSION_BUS_ADDRESS")
"""What belongs to the session of the user that a child no longer is."""

_CPU: Final = r"([0-9]{1,5})(?: ?- ?([0-9]{1,5}))?"
_LARGEST_CPU: Final = 8191
_NICE: Final = r"-?[0-9]{1,2}"
_MASK: Final = r"(0o)?0?[0-7]{3}"


@dataclass(frozen=True, slots=True)
class Rights:
    """What a process may do and use; None where it keeps what its master has.

    Limits are in bytes, UNLIMITED for none; that of files is in `Launch`, as every child gets
    one.
    """

    user: User | None = None
    group: Group | None = None
    umask: int | None = None
    nice: int | None = None
    cpus: frozenset[int] | None = None
    core: int | None = None
    memory: int | None = None

    @property
    def gid(self) -> int:
        """Give the group of the process: its own, else its user's, else ours."""
        if self.group is not None:
            return self.group.gid
        return self.user.gid if self.user is not None else os.getegid()

    @property
    def groups(self) -> list[int]:
        """Give all groups of the process; those of its user's that go with him, and its own."""
        theirs = () if self.user is None else self.user.groups
        lost = () if self.user is None or self.group is None else (self.user.gid,)
        return sorted({self.gid, *theirs}.difference(lost) | {self.gid})


# How they are written


def umask(text: str) -> int:
    """Read the permission bits that new files do not get, in octal: `022`."""
    if not fullmatch(_MASK, text.strip()):
        raise ValueError(f"{values.quoted(text)} is no umask; write it in octal, as in 022")
    return int(text, 8)


def nice(text: str) -> int:
    """Read a nice value. Source: setpriority(2), -20 to 19."""
    word = text.strip()
    if fullmatch(_NICE, word) and -20 <= int(word) <= 19:
        return int(word)
    raise ValueError(f"{values.quoted(text)} is not a whole number from -20 to 19")


def cpus(text: str) -> frozenset[int]:
    """Read processor numbers: `0, 2-3`."""
    found: set[int] = set()
    for item in values.some(text):
        numbers = fullmatch(_CPU, item)
        first, last = (int(numbers[1]), int(numbers[2] or numbers[1])) if numbers else (1, 0)
        if last < first or last > _LARGEST_CPU:
            raise ValueError(f"{values.quoted(item)} is no processor; write 0 or 2-3")
        found.update(range(first, last + 1))
    return frozenset(found)


def limit(text: str) -> int:
    """Read a size, or `unlimited`."""
    return UNLIMITED if text.strip().lower() == "unlimited" else values.size(text)


# How a child takes them on


def restrict(rights: Rights, files: tuple[int, int]) -> None:
    """Take on everything but the identity. Runs in: child, while it may still do so.

    `files` are the soft and the hard limit of open ones. Raises: SpawnError when the kernel
    refuses.
    """
    # Not a `with` for each: its seven functions are on the way of every start, for nothing.
    what = "limit_nofile"
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, files)
        if rights.nice is not None:
            what = "nice"
            os.setpriority(os.PRIO_PROCESS, 0, rights.nice)
        if rights.cpus is not None:
            what = "cpu_affinity"
            os.sched_setaffinity(0, rights.cpus)
        if rights.core is not None:
            what = "limit_core"
            resource.setrlimit(resource.RLIMIT_CORE, (rights.core, rights.core))
        if rights.memory is not None:
            what = "limit_memory"
            resource.setrlimit(resource.RLIMIT_AS, (rights.memory, rights.memory))
    except (OSError, ValueError) as error:
        raise _refused(what, error) from None
    if rights.umask is not None:
        os.umask(rights.umask)


def drop(rights: Rights) -> bool:
    """Become the user and the group, for good; says whether anything has changed.

    The kernel forgets the death signal of who changes: ask for it again. Runs in: child, or a
    master that has done nothing yet. Raises: SpawnError when the kernel refuses, or when root
    could be had back.
    """
    if (rights.user is None and rights.group is None) or os.geteuid() != 0:
        return False  # who is not root is the user already, or was refused before the start
    uid = 0 if rights.user is None else rights.user.uid
    name = "root" if rights.user is None else rights.user.name
    try:
        os.setgroups(rights.groups)
        os.setresgid(rights.gid, rights.gid, rights.gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise _refused(f"become {name}", error) from None
    if uid != 0:
        _refuse_return(name)
    if rights.core:
        # A process that has changed its user writes no core, whatever its limit.
        kernel.allow_dump()
    return True


def become(user: User | None, group: Group | None) -> None:
    """Become the user for whom a whole command, or a whole supervisor, is to work.

    As if he had begun it himself: his rights, his environment, and he may look at it. Nothing
    happens without root. Raises: SpawnError.
    """
    if not drop(Rights(user, group)):
        return
    clothe(os.environ, user, inherit=True)
    kernel.allow_dump()
    if user is not None and not os.access(os.__file__, os.R_OK):
        # Half of the library would be missing, each part of it when it is wanted.
        raise SpawnError(f"{user.name} cannot read Python ({os.__file__}); install it where he can")


def _refuse_return(name: str) -> None:
    """See that the way back is closed. A securebit may leave capabilities: capabilities(7)."""
    try:
        os.setresuid(0, 0, 0)
    except PermissionError:
        return
    raise SpawnError(f"{name} could become root again (securebits?); it does not run")


def clothe(environ: MutableMapping[str, str], user: User | None, *, inherit: bool) -> None:
    """Change an environment to what a process of this user begins with."""
    if not inherit:
        for name in [name for name in environ if name not in KEPT and name[:3] != "LC_"]:
            del environ[name]
    if user is not None:
        for name in _OF_ANOTHER:
            environ.pop(name, None)
        environ["HOME"] = user.home
        environ["USER"] = environ["LOGNAME"] = user.name
        environ["SHELL"] = user.shell


def _refused(what: str, error: OSError | ValueError) -> SpawnError:
    return SpawnError(f"{what}: {error.strerror if isinstance(error, OSError) else error}")

"""Control groups: where ours is, and one below it for each process where the tree is delegated.

A control group holds a process and everything that it ever begins, whatever session, parent or
environment that takes on; it can be killed at one stroke. systemd gives a unit with `Delegate=yes`
the tree below its own group; so does a container whose first process we are. Without delegation
the tree is another's, and nothing is done there. No controllers are switched on: that would ask
the master to leave its own group. Source: cgroups(7); systemd's "Control Group APIs and
Delegation".
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

_MARKS: Final = ("user.delegate", "trusted.delegate")
"""How systemd marks what it has delegated; only root may read the second, before systemd 251."""

_log = logging.getLogger("supervisor")


def own(controller: str = "") -> Path | None:
    """Find our own group, in the second version or in the first one's tree of a controller.

    None where there is none to be seen. A path counts only if we are listed there: mounts of
    other namespaces look alike.
    """
    path = membership("self", controller)
    if path is None:
        return None
    for root, mount in reversed(list(_mounts(controller))):
        inner = path.removeprefix(root) if path.startswith(root) else ""
        for place in (Path(mount, path.lstrip("/")), Path(mount, inner.lstrip("/"))):
            with suppress(OSError, ValueError):
                if os.getpid() in map(int, (place / "cgroup.procs").read_text().split()):
                    return place
    return None


def membership(pid: int | str, controller: str = "") -> str | None:
    """Give the path of a process's group, as seen from our namespace; None when it has none."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controller in controllers.split(","):
                return path
    return None


def _mounts(controller: str) -> Iterator[tuple[str, str]]:
    """Give root and place of each mount that could show the tree.

    Source: proc_pid_mountinfo(5)
    """
    with suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text().splitlines():
            before, _, after = line.partition(" - ")
            kind, _, options = after.split(" ", 2)
            is_wanted = kind == "cgroup" and controller in options.split(",")
            if is_wanted if controller else kind == "cgroup2":
                root, mount = before.split()[3:5]
                yield ("" if root == "/" else root), mount


class Tree:
    """The groups below our own: JOB/NUMBER for each process. Runs in: supervisor."""

    def __init__(self, top: Path, path: str) -> None:
        """`path` is what /proc/PID/cgroup calls `top`."""
        self.top = top
        self._path = path.rstrip("/")
        self._made: dict[Path, None] = {}

    def make(self, job: str, number: int) -> Path | None:
        """Make the group of a process; None when it cannot be had, which is no failure."""
        place = self.top / _escaped(job) / str(number)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            _log.debug("no control group for %s:%d: %s", job, number, error)
            return None
        self._made[place] = None
        return place

    def slot_of(self, pid: int) -> str | None:
        """Name the slot in whose group a process is."""
        path = membership(pid)
        if path is None or not path.startswith(f"{self._path}/"):
            return None
        job, slash, number = path.removeprefix(f"{self._path}/").partition("/")
        number = number.partition("/")[0]  # a program may have made groups of its own
        return f"{job.removeprefix('_')}:{number}" if slash and number.isdigit() else None

    def remove(self) -> None:
        """Remove the groups that are empty, with those that programs have made below."""
        for place in self._made:
            for folder, _, _ in os.walk(place, topdown=False):
                with suppress(OSError):
                    os.rmdir(folder)
            with suppress(OSError):
                place.parent.rmdir()
        self._made.clear()


def delegated() -> Tree | None:
    """Give the tree that is ours to use; None, and why in the log, when none is."""
    top, path = own(), membership("self")
    if top is None or path is None:
        words = "no control group of version 2 is to be seen"
    elif not os.access(top, os.W_OK):
        words = f"{top} may not be written"
    elif not _is_ours(top):
        words = f"{top} is not delegated to us (Delegate=yes in a unit)"
    else:
        _log.debug("each process gets a control group below %s", top)
        return Tree(top, path)
    _log.debug("no control groups for the jobs: %s", words)
    return None


def _is_ours(top: Path) -> bool:
    for mark in _MARKS:
        with suppress(OSError):
            if os.getxattr(top, mark) == b"1":
                return True
    # The first process of a container; the root of the whole machine has no such file.
    return os.getpid() == 1 and (top / "cgroup.kill").exists()


def join(place: Path) -> None:
    """Enter a group with this process. Runs in: child, while it may.

    Who cannot is still known by session, mark and title.
    """
    with suppress(OSError):
        _write(place / "cgroup.procs", b"0")


def kill(place: Path | None) -> None:
    """Kill all that is in a group, if there is one. Source: cgroup.kill, since Linux 5.14."""
    if place is not None:
        with suppress(OSError):
            _write(place / "cgroup.kill", b"1")


def _write(path: Path, text: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
    finally:
        os.close(fd)


def _escaped(job: str) -> str:
    """Keep a job's name from being that of a file of the kernel's, which all have a dot."""
    return f"_{job}" if "." in job or job == "tasks" else job

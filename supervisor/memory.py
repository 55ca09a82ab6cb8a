"""Was it the kernel, for want of memory? The witnesses of a SIGKILL that we have not sent.

The kernel's log names the victim; it is asked first, where we may read it and count processes as
the kernel does. Else the counter of our own control group tells that somebody in there was killed
since we looked last, at the death before this one: a child of a job's that the kernel has killed
meanwhile may be taken for the job's own process then. Looks only, and never waits.
Runs in: supervisor.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor import cgroups

_KERNEL_LOG: Final = "/dev/kmsg"
_FIRST_NAMESPACE: Final = "pid:[4026531836]"
"""The pid namespace in which the kernel writes its log. Source: PROC_PID_INIT_INO"""

_RECORD_BYTES: Final = 8192
_MOST_RECORDS: Final = 20_000
_RECENT_S: Final = 60.0
_VICTIM: Final = re.compile(rb"Killed process (\d+) \(")


class Witness:
    """Tells a kill for want of memory from others."""

    def __init__(
        self,
        counter: Path | None,
        log_fd: int | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`counter`: a file with a line `oom_kill N`; `log_fd`: the kernel's log, at its end."""
        self._counter = counter
        self._log_fd = log_fd
        self._clock = clock
        self._victims: dict[int, float] = {}  # and when: its number may be another's later
        self._seen = self._count()

    @classmethod
    def of_this_machine(cls) -> Witness:
        """Take what there is to be had here."""
        return cls(_find_counter(), _open_log())

    def look(self) -> None:
        """Take note of what has happened so far: it is not the fault of what comes."""
        self._seen = self._count()

    def has_seen(self, pid: int) -> bool:
        """Say whether a process that SIGKILL has just ended was killed for want of memory."""
        is_told = self._read_log()
        self._victims = {one: at for one, at in self._victims.items() if self._is_recent(at)}
        is_named = self._victims.pop(pid, None) is not None
        is_it = is_named or (not is_told and self._count() > self._seen)
        if is_it:
            self._seen += 1  # not all that were counted: another of us may have died beside it
        return is_it

    def close(self) -> None:
        """Close the log."""
        if self._log_fd is not None:
            os.close(self._log_fd)
            self._log_fd = None

    def _count(self) -> int:
        if self._counter is not None:
            with suppress(OSError, ValueError):
                for line in self._counter.read_text().splitlines():
                    key, _, value = line.partition(" ")
                    if key == "oom_kill":
                        return int(value)
        return 0

    def _read_log(self) -> bool:
        """Read on in the kernel's log; False when it does not tell, or not all."""
        if self._log_fd is None:
            return False
        is_whole = True
        for _ in range(_MOST_RECORDS):
            try:
                record = os.read(self._log_fd, _RECORD_BYTES)
            except BlockingIOError:
                return is_whole
            except BrokenPipeError:
                is_whole = False  # overwritten before we came; go on with what is left
            except OSError:
                return False
            else:
                self._take(record)
        return False

    def _take(self, record: bytes) -> None:
        """Take the victim of a record, `priority,number,microseconds,flags;text`.

        Not an old one: its number may be another's by now.
        """
        head, _, text = record.partition(b";")
        found = _VICTIM.search(text)
        if found is not None:
            at = int(head.split(b",")[2]) / 1e6
            if self._is_recent(at):
                self._victims[int(found[1])] = at

    def _is_recent(self, at: float) -> bool:
        return abs(self._clock() - at) < _RECENT_S


def _find_counter() -> Path | None:
    """Find the counter of our control group, of either version.

    Source: memory.events and memory.oom_control in the kernel's documentation of cgroups
    """
    for controller, name in (("", "memory.events"), ("memory", "memory.oom_control")):
        group = cgroups.own(controller)
        if group is not None and (group / name).exists():
            return group / name
    return None


def _open_log() -> int | None:
    """Open the kernel's log at its end.

    Source: Documentation/ABI/testing/dev-kmsg
    """
    try:
        if os.readlink("/proc/self/ns/pid") != _FIRST_NAMESPACE:
            return None
        fd = os.open(_KERNEL_LOG, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        os.lseek(fd, 0, os.SEEK_END)
    except OSError:
        os.close(fd)
        return None
    return fd

"""What a test has left behind: processes, descriptors, threads, signal handlers.

pytest is made a child subreaper, so a grandchild whose parent died becomes a child of pytest's
own and is seen here, however it was daemonised.
"""

from __future__ import annotations

import gc
import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass

from supervisor import kernel, signals
from tests.helpers.eventually import eventually


@dataclass(frozen=True)
class Traces:
    """What this process holds at one moment."""

    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]
    threads: frozenset[str]
    handlers: tuple[object, ...]

    @classmethod
    def now(cls) -> Traces:
        """Look around."""
        return cls(
            frozenset(kernel.children(os.getpid())),
            frozenset(kernel.descriptors().items()),
            # The kernel's view: a thread that was joined may linger there, and forbid a fork.
            frozenset(os.listdir("/proc/self/task")),
            tuple(signal.getsignal(number) for number in signals.MASTER),
        )


def leaks(before: Traces) -> list[str]:
    """Say what was left behind since then; processes are given a moment to end."""
    _reap_strangers(before)
    if Traces.now() == before:
        return []
    gc.collect()
    with suppress(AssertionError):  # they are named below
        eventually(lambda: not _living(before) and Traces.now().threads <= before.threads, 20)
    now = Traces.now()
    found = [f"process {pid}: {kernel.title_of(pid)}" for pid in _living(before)]
    found += [f"descriptor {fd}: {what}" for fd, what in now.descriptors - before.descriptors]
    if now.threads - before.threads:
        found.append(f"threads: {threading.enumerate()}")
    if now.handlers != before.handlers:
        found.append(f"signal handlers: {now.handlers}")
    return found


def end_leaked_processes(before: Traces) -> None:
    """Kill what is left, by pid, so that the next test begins clean."""
    while living := _living(before):
        for pid in living:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def _living(before: Traces) -> list[int]:
    """Give the children that are new, those that have just died reaped."""
    _reap_strangers(before)
    return [pid for pid in kernel.children(os.getpid()) if pid not in before.children]


def _reap_strangers(before: Traces) -> None:
    """Take the exit status of what died: of orphans, and of what the test forgot to wait for."""
    for pid in kernel.children(os.getpid()):
        if pid not in before.children:
            os.waitpid(pid, os.WNOHANG)

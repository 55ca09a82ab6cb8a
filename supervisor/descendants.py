"""Who belongs to which slot: the processes that a job's process has left behind.

The master is a subreaper, so everything whose parent has died becomes its child: it is seen, and
it can be ended and reaped. To which slot such an orphan belongs is told by its session or group,
by the mark in its environment (whatever was exec'd), or by the title that it has inherited
(whatever was only forked). One that shows none of them belongs to nobody and lives until the full
stop.

Reads /proc and sends signals; decides nothing. Runs in: supervisor, and in the command line when
there is no master any more.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable, Iterator

from supervisor import kernel
from supervisor.child import MARK

_TITLE = re.compile(r"^supervisor: \w+ \[([a-z][a-z0-9_.-]*:\d+)\]")


def adopted(known: Iterable[int]) -> set[int]:
    """Give our children that are none of the `known` ones: orphans of the jobs' making."""
    return set(kernel.children(os.getpid())).difference(known)


def reap_orphans(known: Iterable[int]) -> set[int]:
    """Reap the dead among the adopted; returns the pids of those that live.

    Each is waited for by its own pid: `waitpid(-1)` would take the exit status of a job's process
    away from its pidfd. One that has died since we looked has left its children to us, so we look
    again until none has.
    """
    known = set(known)
    while True:
        found = adopted(known)
        living = {pid for pid in found if not _reaped(pid)}
        if living == found:
            return living


def _reaped(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return True


def slot_of(pid: int, instance: str, leaders: dict[int, str]) -> str | None:
    """Name the slot that an adopted process belongs to; None when nothing tells.

    `leaders` maps the pid of each process that leads, or led, a session of ours to its slot.
    """
    facts = kernel.facts(pid)
    if facts is None:
        return None
    for number in (facts.session, facts.group):
        if number in leaders:
            return leaders[number]
    return marked_slot(pid, instance)


def marked_slot(pid: int, instance: str) -> str | None:
    """Name the slot by the mark, or by what was inherited; None when a process has neither.

    Whatever was exec'd has the mark in its environment; that of another supervisor's instance
    names nobody of ours. Whatever was only forked has the title of its slot, and our board in its
    memory map.
    """
    mark = kernel.environment_of(pid, MARK.encode())
    if mark is not None:
        owner, _, name = mark.decode("utf-8", "replace").rpartition("/")
        return name if owner == instance else None
    title = _TITLE.match(kernel.title_of(pid))
    if title is None or not kernel.maps_file(pid, board_name(instance)):
        return None
    return title.group(1)


def is_in_between(pid: int) -> bool:
    """Say whether nothing can tell at the moment whose process this is.

    One that is leaving has given its memory back, and keeps its children for some more
    milliseconds; one in the middle of an execve(2) has neither its old nor its new command line.
    Ask again: this does not last.
    """
    facts = kernel.facts(pid)
    if facts is None or facts.zombie or facts.of_kernel:
        return False
    return facts.leaving or not kernel.title_of(pid)


def board_name(instance: str) -> str:
    """Give the name of a supervisor's board, by which its forks are known."""
    return f"supervisor-{instance}"


def with_descendants(pids: Iterable[int]) -> Iterator[int]:
    """Give the processes and everything below them, parents first."""
    waiting = list(pids)
    seen: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            yield pid
            waiting.extend(kernel.children(pid))


def signal_all(pids: Iterable[int], number: int) -> None:
    """Signal each of the processes and everything below it.

    The adopted ones are our children, so their pids cannot be reused before we reap them. One of
    their own descendants could go in between; the tree is read anew for each signal, which leaves
    a window of microseconds.
    """
    for pid in list(with_descendants(pids)):
        try:
            os.kill(pid, number)
            if number == signal.SIGTERM:
                # A stopped process keeps a TERM pending until it goes on.
                os.kill(pid, signal.SIGCONT)
        except (ProcessLookupError, PermissionError):
            continue

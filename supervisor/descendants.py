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
from contextlib import suppress
from typing import Final

from supervisor import kernel
from supervisor.child import MARK

UNCLEAR: Final = "?"
"""No slot's name: at the moment nothing can tell."""

_MASTER: Final = "supervisor: master ["
_TITLE: Final = re.compile(r"^supervisor: \w+ \[([a-z][a-z0-9_.-]*:\d+)\]")


def adopted(known: Iterable[int]) -> set[int]:
    """Give our children that are none of the `known` ones: orphans of the jobs' making.

    Raises: kernel.Unreadable.
    """
    return set(kernel.children(os.getpid())).difference(known)


def reap_orphans(known: Iterable[int]) -> set[int]:
    """Reap the dead among the adopted; returns the pids of those that live.

    Each is waited for by its own pid: `waitpid(-1)` would take the exit status of a job's process
    away from its pidfd. One that has died since we looked has left its children to us, so we look
    again until none has.
    Raises: kernel.Unreadable.
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
    """Name the slot that an adopted process belongs to; None when it tells of none, or UNCLEAR.

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

    UNCLEAR when nothing can tell at the moment. One that is leaving has given its memory back, and
    keeps its children for some more milliseconds; one in the middle of an execve(2) has neither
    its old nor its new command line. Ask again: this does not last.
    """
    title = ""
    mark = kernel.environment_of(pid, MARK.encode())
    if mark is None:
        title = kernel.title_of(pid)
        named = _TITLE.match(title)
        if named is not None and kernel.maps_file(pid, board_name(instance)):
            return named.group(1)
        # Asked again: with an exec between the two looks, the one came too early for the mark and
        # the other too late for the title.
        mark = kernel.environment_of(pid, MARK.encode())
    if mark is not None:
        owner, _, name = mark.decode("utf-8", "replace").rpartition("/")
        return name if owner == instance else None
    facts = kernel.facts(pid)
    if facts is None or facts.zombie or facts.of_kernel:
        return None
    return UNCLEAR if facts.leaving or not title else None


def is_half_born(pid: int, instance: str) -> bool:
    """Say whether this is a fork of a master that has not yet become the process of a slot.

    It looks like a master still. When that one is dead it leaves by itself as soon as it runs; one
    that was stopped there does not run, and holds all that its master held: who connects to the
    control socket of old is never answered.
    """
    return kernel.title_of(pid).startswith(_MASTER) and kernel.maps_file(pid, board_name(instance))


def is_below(pid: int, ancestor: int) -> bool:
    """Say whether a process descends from one that adopts all orphans below it.

    Asked from below: who reads the lists of children from above misses one whose parent dies at
    that moment, as it goes from a list not yet read to one that was.
    """
    while True:
        above: int | None = pid
        while above is not None and above != ancestor and above > 1:
            facts = kernel.facts(above)
            above = None if facts is None else facts.parent
        if above is not None:
            return above == ancestor
        if kernel.facts(pid) is None:
            return False
        # An ancestor has gone on the way; its children have another parent now.


def board_name(instance: str) -> str:
    """Give the name of a supervisor's board, by which its forks are known."""
    return f"supervisor-{instance}"


def with_descendants(pids: Iterable[int]) -> Iterator[int]:
    """Give the processes and everything below them, parents first, as far as /proc tells."""
    waiting = list(pids)
    seen: set[int] = set()
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            yield pid
            with suppress(kernel.Unreadable):
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

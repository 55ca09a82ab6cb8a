"""What a dead master has left: processes that drain, that are deaf, or that nobody waits for.

Children notice the death of their master and leave by themselves; some cannot (a program that
ignores its signal, a grandchild that was daemonised). They are found by the slot files, by their
sessions and by the marks of this supervisor's instance, which is kept in `state_dir` and so is
the same for the next master. Used by it before it fills a slot, and by `supervisor stop` when
there is no master.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from supervisor import descendants, kernel, protocol, seatlock
from supervisor.location import Location
from supervisor.loop import now

_UNKNOWN_STOP_TIMEOUT_S: Final = 30.0
_DIES_WITHIN_S: Final = 5.0
_LOOKS: Final = 10
_LOOK_AGAIN_S: Final = 0.005


@dataclass(frozen=True, slots=True)
class Remnant:
    """One process of an earlier master. A leader drains by itself; the others are told to."""

    slot: str
    pid: int
    leader: bool
    stop_timeout: float


def instance(state_dir: Path) -> str:
    """Give the durable random name of the supervisor that keeps its state here.

    It is part of the owner's name of every lease and of the mark of every process.
    """
    path = state_dir / "instance"
    with suppress(FileNotFoundError):
        return path.read_text(encoding="ascii").strip()
    fresh = path.with_suffix(".new")
    fresh.write_text(os.urandom(8).hex() + "\n", encoding="ascii")
    # Renamed when whole: a torn name would not be the same after the next start.
    fresh.replace(path)
    return path.read_text(encoding="ascii").strip()


def find(state_dir: Path, instance_name: str) -> tuple[Remnant, ...]:
    """Find every living process of earlier masters; our own children must not exist yet."""
    if seatlock.left_in_order(state_dir):
        return ()  # no need to read all of /proc
    sat = {occupant.pid: occupant for occupant in seatlock.occupants(state_dir)}
    current = {pid: one for pid, one in sat.items() if one.boot == kernel.BOOT}
    patience = {one.name: one.stop_timeout for one in current.values()}
    found = [
        Remnant(one.name, pid, leader=True, stop_timeout=one.stop_timeout)
        for pid, one in current.items()
        if one.alive()
    ]
    leaders = {remnant.pid for remnant in found}
    seen = {os.getpid(), *leaders}
    for _ in range(_LOOKS):
        # Again for those that were begun meanwhile: their parent may have ended before we came to
        # it, and a daemon would slip through.
        fresh = set(kernel.processes()) - seen
        unclear = set()
        for pid in fresh:
            slot = _slot_of(pid, instance_name, current)
            if slot is not None:
                given = patience.get(slot, _UNKNOWN_STOP_TIMEOUT_S)
                found.append(Remnant(slot, pid, leader=False, stop_timeout=given))
            elif descendants.is_in_between(pid):
                unclear.add(pid)
        seen |= fresh - unclear
        if unclear:
            select.select((), (), (), _LOOK_AGAIN_S)
        elif not fresh:
            break
    return tuple(found)


def _slot_of(pid: int, instance_name: str, current: dict[int, seatlock.Occupant]) -> str | None:
    facts = kernel.facts(pid)
    if facts is None or facts.zombie:
        return None
    leader = current.get(facts.session)
    # The number of a session is not given away while a member lives; one that is younger than
    # the leader's start is a member, and a leader of the same number is not.
    is_member = leader is not None and pid != facts.session and facts.started >= leader.started
    if leader is not None and is_member and not _is_reused(leader):
        return leader.name
    return descendants.marked_slot(pid, instance_name)


def _is_reused(leader: seatlock.Occupant) -> bool:
    """Say whether the number of a dead leader, and of its session, is a stranger's by now."""
    facts = kernel.facts(leader.pid)
    return facts is not None and facts.started != leader.started


def end(location: Location, timeout_s: float | None = None) -> protocol.StopReport | None:
    """Wait for what a dead master left, then end it. Runs in: the command line, without a master.

    `timeout_s` caps the patience of each job's own `stop_timeout`. Returns None when nothing was
    left. What was in flight cannot be told any more: the board died with the master.
    """
    if not seatlock.folder(location.state_dir).is_dir():
        return None
    name = instance(location.state_dir)
    left = find(location.state_dir, name)
    if not left:
        _clear(location.state_dir)
        return None
    began, killed = now(), set[str]()
    while left:
        for remnant in left:
            if not remnant.leader:
                tell(remnant)
        _outwait(left, began, timeout_s)
        for remnant in find(location.state_dir, name):
            if now() - began >= _patience(remnant, timeout_s):
                killed.add(remnant.slot)
                kill(remnant)
        left = find(location.state_dir, name)
        if now() - began > max(_patience(one, timeout_s) for one in left or (_NOBODY,)) + (
            _DIES_WITHIN_S
        ):
            break  # the kernel does not let them go: uninterruptible sleep
    _clear(location.state_dir)
    return {"drained": 0, "abandoned": 0, "killed": sorted(killed)}


_NOBODY: Final = Remnant("", 0, leader=False, stop_timeout=0.0)


def _patience(remnant: Remnant, timeout_s: float | None) -> float:
    return remnant.stop_timeout if timeout_s is None else min(timeout_s, remnant.stop_timeout)


def tell(remnant: Remnant) -> None:
    """Ask one to end; for those that no control pipe tells of the master's death."""
    with suppress(ProcessLookupError, PermissionError):
        os.kill(remnant.pid, signal.SIGTERM)
        # A stopped process keeps the signal pending until it goes on.
        os.kill(remnant.pid, signal.SIGCONT)


def kill(remnant: Remnant) -> None:
    """Kill one, a leader with its whole group."""
    with suppress(ProcessLookupError, PermissionError):
        if remnant.leader:
            os.killpg(remnant.pid, signal.SIGKILL)
        os.kill(remnant.pid, signal.SIGKILL)


def _outwait(left: Iterable[Remnant], began: float, timeout_s: float | None) -> None:
    """Wait until all are gone, or the first one's time is over."""
    waiting: dict[int, Remnant] = {}
    for remnant in left:
        with suppress(ProcessLookupError):
            waiting[os.pidfd_open(remnant.pid)] = remnant
    poll = select.poll()
    for fd in waiting:
        poll.register(fd, select.POLLIN)
    while waiting:
        first = min(_patience(remnant, timeout_s) for remnant in waiting.values())
        ready = poll.poll(max(0.0, began + first - now()) * 1000)
        for fd, _ in ready:
            poll.unregister(fd)
            os.close(fd)
            del waiting[fd]
        if not ready:
            break
    for fd in waiting:
        os.close(fd)


def _clear(state_dir: Path) -> None:
    for occupant in seatlock.occupants(state_dir):
        if not occupant.alive():
            seatlock.remove(state_dir, occupant.name)

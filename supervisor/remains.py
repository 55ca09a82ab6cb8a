"""What a dead master has left: processes that drain, that are deaf, or that nobody waits for.

Children notice the death of their master and leave by themselves; some cannot (a program that
ignores its signal, a grandchild that was daemonised). They are found by the slot files, by their
sessions and by the marks of this supervisor's instance, which is kept in `state_dir` and so is
the same for the next master. Used by it before it fills a slot, and by `supervisor stop` when
there is no master.
"""

from __future__ import annotations

import os
import re
import select
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from supervisor import descendants, kernel, pidfile, seatlock
from supervisor.location import Location
from supervisor.loop import now

if TYPE_CHECKING:
    # Only for the reader: see `shapes`.
    from supervisor import shapes

_UNKNOWN_STOP_TIMEOUT_S: Final = 30.0
_DIES_WITHIN_S: Final = 5.0
_INSTANCE: Final = re.compile("[0-9a-f]{16}")
_LOOKS: Final = 10
_PATIENCE_S: Final = 0.25

LOOK_AGAIN_S: Final = 0.005

HALF_BORN: Final = "master"
"""What counts as the slot of a fork that has not got as far as its own."""


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
        text = path.read_text(encoding="ascii", errors="replace").strip()
        if _INSTANCE.fullmatch(text):
            return text
    # There was none, or the power went before the disk had it: a file that is
    # renamed when it is whole and on the disk is whole after that too.
    name = os.urandom(8).hex()
    fresh = path.with_suffix(".new")
    with fresh.open("w", encoding="ascii") as file:
        file.write(name + "\n")
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    return name


def find(state_dir: Path, instance_name: str) -> tuple[Remnant, ...]:
    """Find every living process of earlier masters; our own children must not exist yet.

    Waits between the looks of the search. For those who may: the command line, and a master that
    has not begun its work.
    """
    search = Search(state_dir, instance_name)
    found = search.look()
    while not search.is_over:
        select.select((), (), (), LOOK_AGAIN_S)
        found += search.look()
    return found


class Search:
    """One search through all processes, in as many looks as it takes; LOOK_AGAIN_S apart.

    /proc is not read at one instant. Who is listed may have begun another and ended before we come
    to it, and then neither is known; the number of the other may lie where we have read already.
    So there is a second look at least, at those who are new, and one more for as long as somebody
    has ended between the list and the look, or could not tell whose it is. Who was found needs no
    more: the end of each one found is followed by a search of its own.
    """

    def __init__(self, state_dir: Path, instance_name: str) -> None:
        self._instance = instance_name
        # An own child is no remnant; who is below it, the caller has to tell.
        self._seen = {os.getpid(), *kernel.children(os.getpid())}
        self._looks = 0
        self._give_up_at = now() + _PATIENCE_S
        # Without any slot file there is no need to read all of /proc.
        self.is_over = seatlock.left_in_order(state_dir)
        sat = () if self.is_over else seatlock.occupants(state_dir)
        self._occupants = {one.pid: one for one in sat if one.boot == kernel.BOOT}
        self._patience = {one.name: one.stop_timeout for one in self._occupants.values()}

    def look(self) -> tuple[Remnant, ...]:
        """Take a look; gives the living ones that none before it has given.

        They may be of any master, so also of our own.
        """
        if self.is_over:
            return ()
        self._looks += 1
        found: list[Remnant] = []
        is_clear = self._looks > 1
        for pid in set(kernel.processes()) - self._seen:
            remnant = self._remnant(pid)
            if remnant is None:
                is_clear &= _lives(pid)
            elif remnant.slot == descendants.UNCLEAR:
                is_clear = False
                continue  # to be looked at again
            else:
                found.append(remnant)
            self._seen.add(pid)
        # Somebody may hide its command line for good, or always be somebody who ends.
        is_hopeless = self._looks >= _LOOKS and now() >= self._give_up_at
        self.is_over = is_clear or is_hopeless
        return tuple(found)

    def _remnant(self, pid: int) -> Remnant | None:
        occupant = self._occupants.get(pid)
        if occupant is not None and occupant.alive():
            return Remnant(occupant.name, pid, leader=True, stop_timeout=occupant.stop_timeout)
        slot = self._slot_of(pid)
        if slot is None:
            return None
        given = self._patience.get(slot, _UNKNOWN_STOP_TIMEOUT_S)
        return Remnant(slot, pid, leader=False, stop_timeout=given)

    def _slot_of(self, pid: int) -> str | None:
        facts = kernel.facts(pid)
        if facts is None or facts.zombie:
            return None
        leader = self._occupants.get(facts.session)
        # The number of a session is not given away while a member lives; one that is younger than
        # the leader's start is a member, and a leader of the same number is not.
        is_member = leader is not None and pid != facts.session and facts.started >= leader.started
        if leader is not None and is_member and not _is_reused(leader) and leader.may_be_of(pid):
            return leader.name
        slot = descendants.marked_slot(pid, self._instance)
        if slot is None and descendants.is_half_born(pid, self._instance):
            return HALF_BORN
        return slot


def _lives(pid: int) -> bool:
    facts = kernel.facts(pid)
    return facts is not None and not facts.zombie


def _is_reused(leader: seatlock.Occupant) -> bool:
    """Say whether the number of a dead leader, and of its session, is a stranger's by now."""
    facts = kernel.facts(leader.pid)
    return facts is not None and facts.started != leader.started


def end(location: Location, timeout_s: float | None = None) -> shapes.StopReport | None:
    """Wait for what a dead master left, then end it. Runs in: the command line, without a master.

    `timeout_s` caps the patience of each job's own `stop_timeout`. Returns None when nothing was
    left. What was in flight cannot be told any more: the board died with the master.
    """
    if not seatlock.folder(location.state_dir).is_dir():
        return None
    name = instance(location.state_dir)
    left = _left(location, name)
    if not left:
        _clear(location)
        return None
    began, killed = now(), set[str]()
    while left:
        for remnant in left:
            if not remnant.leader:
                tell(remnant)
        _outwait(left, began, timeout_s)
        for remnant in _left(location, name):
            if now() - began >= _patience(remnant, timeout_s):
                killed.add(remnant.slot)
                kill(remnant)
        left = _left(location, name)
        if now() - began > max(_patience(one, timeout_s) for one in left or (_NOBODY,)) + (
            _DIES_WITHIN_S
        ):
            break  # the kernel does not let them go: uninterruptible sleep
    _clear(location)
    return {"drained": 0, "abandoned": 0, "killed": sorted(killed)}


def _left(location: Location, instance_name: str) -> tuple[Remnant, ...]:
    """Find what was left, or nothing when somebody has started a new master: it sees to that."""
    found = find(location.state_dir, instance_name)
    return found if pidfile.holder(pidfile.of_state_dir(location)) is None else ()


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


def _clear(location: Location) -> None:
    if pidfile.holder(pidfile.of_state_dir(location)) is not None:
        return  # they are the new master's now
    for occupant in seatlock.occupants(location.state_dir):
        if not occupant.alive():
            seatlock.remove(location.state_dir, occupant.name)

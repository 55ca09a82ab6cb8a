"""Recycling: a process that is too large or too old, or has done enough, is begun anew.

Gracefully, as a roll of one: it drains, its successor follows at once, and no other process of the
job is away meanwhile, be it for a recycling, for a rolling restart, or because it has died. Nothing
is counted as a failure. The limits are spread downwards by JITTER, so that processes which began
together do not end together, and none is ever above what the file says when it is looked at.

Only jobs that have one of the keys are looked at, on whole seconds that others wake the master for
as well. Runs in: supervisor.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from supervisor import kernel, values
from supervisor.config import Job
from supervisor.loop import now, on_the_second
from supervisor.process import Process
from supervisor.seat import Seat
from supervisor.states import Kind, State

if TYPE_CHECKING:
    # The Supervisor holds the recycling; at run time the import would be a circle.
    from supervisor.supervisor import Supervisor

JITTER: Final = 0.1
"""A limit of one process is that of its job, less up to this part."""

LOOK_AFTER_S: Final = 1.0
"""From one look to the next, put off to the whole second: so there is one every two seconds."""

EXACT_LIFETIME_S: Final = 10.0
"""A shorter lifetime ends to the moment, a longer one on a whole second."""

_log = logging.getLogger("supervisor")


@dataclass(frozen=True, slots=True)
class Life:
    """What can be seen of a process: resident bytes, age in seconds, messages since its start.

    `fresh` are its resident bytes at its READY, 0 where that is not known.
    """

    memory: int
    age: float
    messages: int
    fresh: int = 0


@dataclass(slots=True)
class Term:
    """The time in office of one process. `part` is what the jitter leaves of its limits."""

    process: Process
    part: float
    messages_before: int
    fresh: int
    told: bool = False  # that it has to go on beyond its limit, for the sake of another


def excess(job: Job, part: float, life: Life) -> str:
    """Say which limit a process has met; "" while it has met none.

    Memory that it had from the start does not count: its successor would have it too, and so each
    would end at once.
    """
    if job.max_memory is not None and life.fresh < job.max_memory * part <= life.memory:
        limit, given = _mb(job.max_memory * part), values.show_size(job.max_memory)
        return f"{_mb(life.memory)} of memory, limit {limit} (max_memory = {given})"
    if job.max_lifetime is not None and life.age >= job.max_lifetime * part:
        limit, given = f"{job.max_lifetime * part:.4g}s", values.show_duration(job.max_lifetime)
        return f"{life.age:.1f}s old, limit {limit} (max_lifetime = {given})"
    if job.max_messages is not None and life.messages >= job.max_messages * part:
        limit, given = f"{job.max_messages * part:.0f}", str(job.max_messages)
        return f"{life.messages} messages, limit {limit} (max_messages = {given})"
    return ""


def _mb(count: float) -> str:
    return f"{count / (1 << 20):.1f}MB"


class Recycling:
    """Looks at processes whose job has a limit, and has them begun anew."""

    def __init__(self, supervisor: Supervisor) -> None:
        self._supervisor = supervisor
        self._terms: dict[str, Term] = {}
        self._asked: dict[str, Seat] = {}  # by the name of the job: whose turn it is

    def watch(self, seat: Seat) -> None:
        """Look after a process from its READY on; also when its limits have been changed."""
        term = self._terms.get(seat.name)
        if seat.process is None:
            return
        if term is None or term.process is not seat.process:
            part = 1 - JITTER * int.from_bytes(os.urandom(4)) / 2**32
            term = Term(seat.process, part, _messages(seat), _fresh_memory(seat))
        if _has_limit(seat.job):
            self._terms[seat.name] = term
            self._warn_if_useless(seat, term)
            self._look_later(seat, term)
        else:
            self._terms.pop(seat.name, None)

    def _warn_if_useless(self, seat: Seat, term: Term) -> None:
        limit = seat.job.max_memory
        if limit is not None and term.fresh >= limit * term.part:
            _log.warning(
                "%s: max_memory = %s is less than a new process takes (%s): not recycled for it",
                seat.name,
                values.show_size(limit),
                _mb(term.fresh),
                extra={"job": seat.job.name, "slot": seat.number},
            )

    def forget(self, seat: Seat) -> None:
        """Forget a seat that is no more."""
        self._terms.pop(seat.name, None)
        self._supervisor.loop.cancel((seat.name, "recycle"))

    def _look_later(self, seat: Seat, term: Term) -> None:
        when = on_the_second(now() + LOOK_AFTER_S)
        lifetime, begun = seat.job.max_lifetime, seat.status.started_at
        if lifetime is not None and begun is not None:
            due = begun + lifetime * term.part
            if seat.job.max_memory is None and seat.job.max_messages is None:
                when = max(when, on_the_second(due))
            if lifetime < EXACT_LIFETIME_S and due > now():
                when = min(when, due)
        self._supervisor.loop.at((seat.name, "recycle"), when, partial(self._look, seat, term))

    def _look(self, seat: Seat, term: Term) -> None:
        if not self._is_in_office(seat, term) or self._supervisor.stopping:
            return
        why = self._excess(seat, term)
        if not why:
            self._look_later(seat, term)
        elif (other := self._absent_sibling(seat)) is not None:
            if not term.told:
                term.told = True
                words = "%s: to be recycled (%s), when %s is ready"
                _log.info(words, seat.name, why, other.name)
            self._look_later(seat, term)
        else:
            self._asked[seat.job.name] = seat
            turn = partial(self._turn, term)
            done = partial(self._on_done, seat, term)
            self._supervisor.rolling.roll((seat,), turn, lambda _failed, _left: done())

    def _turn(self, term: Term, seat: Seat) -> bool:
        """Begin it anew now, if all is still as it was when it was looked at."""
        why = self._excess(seat, term) if self._is_in_office(seat, term) else ""
        if not why or self._supervisor.stopping or self._absent_sibling(seat) is not None:
            return False
        self._supervisor.happen_to(seat, Kind.RECYCLE, why=f"recycled: {why}")
        return True

    def _on_done(self, seat: Seat, term: Term) -> None:
        self._asked.pop(seat.job.name, None)
        if self._is_in_office(seat, term):
            self._look_later(seat, term)

    def _excess(self, seat: Seat, term: Term) -> str:
        assert seat.process is not None, "a running seat has a process"
        begun = seat.status.started_at
        life = Life(
            memory=kernel.resident_bytes(seat.process.pid) if seat.job.max_memory else 0,
            age=now() - begun if begun is not None else 0.0,
            messages=_messages(seat) - term.messages_before,
            fresh=term.fresh,
        )
        return excess(seat.job, term.part, life)

    def _is_in_office(self, seat: Seat, term: Term) -> bool:
        return (
            self._terms.get(seat.name) is term
            and self._supervisor.sits(seat)
            and term.process is seat.process
            and seat.status.state is State.RUNNING
            and seat.living is not None
            and not seat.leaving
        )

    def _absent_sibling(self, seat: Seat) -> Seat | None:
        """Give another process of the job that should be there and is not, or goes first."""
        if (first := self._asked.get(seat.job.name, seat)) is not seat:
            return first
        siblings = self._supervisor.seats_of(seat.job.name)
        return next((one for one in siblings if one is not seat and _is_absent(one)), None)


def _is_absent(seat: Seat) -> bool:
    """Say whether a process is missing against somebody's wish.

    One that was stopped by hand is not missing, nor one that leaves for good; one that is FATAL
    is, above all: the next one may fare no better.
    """
    if seat.leaving:
        return False
    if seat.predecessors and seat.wanted:
        return True
    return not seat.at_rest and not (seat.status.ready and seat.exit is None)


def _has_limit(job: Job) -> bool:
    return not (job.max_memory is None and job.max_lifetime is None and job.max_messages is None)


def _fresh_memory(seat: Seat) -> int:
    """Give the resident bytes of a process that is READY just now, else 0.

    A program without a word of its own is READY at its fork, of which nothing can be learnt.
    """
    job, ready_at = seat.job, seat.status.ready_at
    is_fresh = ready_at is not None and now() - ready_at < LOOK_AFTER_S
    if job.max_memory is None or not is_fresh or (job.type == "program" and not job.notify):
        return 0
    assert seat.process is not None, "one that is READY has a process"
    return kernel.resident_bytes(seat.process.pid)


def _messages(seat: Seat) -> int:
    """Count what its processes have finished so far; of a scheduled job these are its runs."""
    reading = seat.page.read()
    runs = reading.failed if seat.job.type == "scheduled" else 0
    return reading.done + reading.skipped + reading.dead + runs

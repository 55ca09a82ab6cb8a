"""What the running supervisor can be asked over its control socket: the fixed table of verbs.

Each verb reads a request, asks or moves the Supervisor, and answers at once or when what was
asked for has come about. Nothing else in the master is reachable from outside.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from supervisor import __version__, inquest, protocol, selection, shutdown, signals
from supervisor.arrivals import Arrivals, complaint
from supervisor.crew import DEAF_TYPES, read_counts
from supervisor.errors import ControlError, ExitCode, NoSuchJob, UsageError
from supervisor.loop import now
from supervisor.seat import DEATHS, Seat
from supervisor.states import Goal, Kind

if TYPE_CHECKING:
    # The Supervisor makes this table of itself; at run time the import would be a circle.
    # Only for the reader, as well: see `shapes`.
    from supervisor import shapes
    from supervisor.control import Reply
    from supervisor.supervisor import Supervisor

_log = logging.getLogger("supervisor")

Verb = Callable[[protocol.Request, "Reply"], None]


def verbs(supervisor: Supervisor) -> Mapping[str, Verb]:
    """Give the table of one supervisor."""
    table: dict[str, Callable[[Supervisor, protocol.Request, Reply], None]] = {
        "ping": _ping,
        "status": _status,
        "why": _why,
        "stacks": _stacks,
        "start": _start,
        "stop": _stop,
        "restart": _restart,
        "signal": _signal,
        "scale": _scale,
        "quiet": _quiet,
        "resume": _resume,
        "reload": _reload,
        "shutdown": _shutdown,
        "events": _events,
        "logs": _logs,
    }
    return {name: partial(verb, supervisor) for name, verb in table.items()}


def _ping(supervisor: Supervisor, _request: protocol.Request, reply: Reply) -> None:
    reply.send({"pid": os.getpid(), "version": __version__, "name": supervisor.config.name})


def _status(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    chosen = selection.select(protocol.names(request), supervisor.jobs)
    moment = now()
    rows = [supervisor.seats[name].row(moment) for name in chosen]
    jobs = supervisor.crew.rows(_jobs_of(protocol.names(request), chosen, supervisor))
    reply.send({"master": supervisor.master_row(), "processes": rows, "jobs": jobs})


def _jobs_of(asked: Sequence[str], chosen: Sequence[str], supervisor: Supervisor) -> set[str]:
    """Give the jobs of these processes, and those that have none and were meant."""
    found = {supervisor.seats[name].job.name for name in chosen}
    empty = {name: (name,) for name, seats in supervisor.jobs.items() if not seats}
    for pattern in asked or ("*",):
        with suppress(NoSuchJob):
            found.update(selection.select((pattern,), empty))
    return found


def _why(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    chosen = selection.select(protocol.names(request), supervisor.jobs)
    deaths = protocol.count(request, "deaths", DEATHS)
    moment = now()
    reply.send([inquest.why(supervisor.seats[name], moment, deaths) for name in chosen])


def _stacks(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Have processes show their Python stacks; it fails only when none of them can."""
    chosen = selection.select(protocol.names(request), supervisor.jobs)

    def answer(found: list[shapes.Stacks]) -> None:
        if found and all(one["error"] for one in found):
            reply.fail(ExitCode.FAILED, "\n".join(one["error"] for one in found))
        else:
            reply.send(found)

    supervisor.stacks.collect([supervisor.seats[name] for name in chosen], answer)


def _start(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Bring processes up, and answer when each of them is ready or has failed."""
    chosen = selection.select(protocol.names(request), supervisor.jobs)
    if _is_leaving(supervisor, reply):
        return
    seats = [supervisor.seats[name] for name in chosen]
    _refuse_leaving(seats)
    supervisor.happen(chosen, Kind.START)
    arrivals = Arrivals(lambda seat: seat.settled, seats)

    def answer() -> None:
        failed = [seat for seat in seats if not seat.ready(now())]
        if failed:
            reply.fail(ExitCode.FAILED, "\n".join(map(arrivals.complaint, failed)))
        else:
            reply.send({"names": list(chosen)})

    _answer_when(supervisor, reply, arrivals.are_over, answer)


def _answer_when(
    supervisor: Supervisor, reply: Reply, is_over: Callable[[], bool], answer: Callable[[], None]
) -> None:
    """Answer when it is over; nobody goes on waiting for a client that has gone."""
    supervisor.when(lambda: reply.peer is None or is_over(), answer)


def _restart(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Restart processes one after the other, and answer when the last one is ready.

    Without a name every job, but for what was, or is just being, stopped on purpose. One that does
    not get ready stops the roll: what follows keeps running as it is.
    """
    asked = protocol.names(request)
    chosen = selection.select(asked, supervisor.jobs)
    if _is_leaving(supervisor, reply):
        return
    seats = supervisor.precedence.in_order(supervisor.seats[name] for name in chosen)
    _refuse_leaving(seats if asked else ())
    done: list[str] = []

    def turn(seat: Seat) -> bool:
        is_down = seat.status.goal is Goal.DOWN or seat.status.held
        if seat.leaving or (not asked and is_down):
            return False
        done.append(seat.name)
        return supervisor.rolling.restart(seat)

    def answer(failed: Seat | None, untouched: int) -> None:
        late = [seat for seat in seats if seat.name in done and not seat.ready(now())]
        if failed is not None:
            left = f"; {untouched} more left as they were" if untouched else ""
            reply.fail(ExitCode.FAILED, complaint(failed) + left)
        elif late:
            reply.fail(ExitCode.FAILED, "\n".join(map(complaint, late)))
        else:
            reply.send({"names": done, "note": _about_code(supervisor)})

    supervisor.rolling.roll(seats, turn, answer)


def _refuse_leaving(seats: Iterable[Seat]) -> None:
    if leaving := [seat.name for seat in seats if seat.leaving]:
        raise ControlError(f"drains for good, and cannot be started: {', '.join(leaving)}")


def _about_code(supervisor: Supervisor) -> str:
    if supervisor.config.preload.mode != "handlers":
        return ""
    return "preload = handlers: new code comes only with a restart of the supervisor itself"


def _is_leaving(supervisor: Supervisor, reply: Reply) -> bool:
    if supervisor.stopping:
        reply.fail(ExitCode.FAILED, "the supervisor is stopping")
    return supervisor.stopping


def _scale(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Give jobs more or fewer processes, and answer when these are ready, or gone."""
    if _is_leaving(supervisor, reply):
        return
    names = [job.name for job in supervisor.config.jobs]
    counts = read_counts(request, names)
    coming, going = supervisor.crew.scale(counts)
    is_stalled = supervisor.precedence.is_stalled
    arrivals = Arrivals(lambda seat: seat.settled or seat.leaving or is_stalled(seat), coming)

    def answer() -> None:
        come = [seat for seat in coming if not seat.leaving and not seat.status.held]
        failed = [seat for seat in come if not seat.ready(now())]
        if failed:
            reply.fail(ExitCode.FAILED, "\n".join(map(arrivals.complaint, failed)))
        else:
            reply.send({"jobs": supervisor.crew.rows(counts)})

    def is_over() -> bool:
        return arrivals.are_over() and not any(
            seat.leaving and supervisor.sits(seat) for seat in going
        )

    _answer_when(supervisor, reply, is_over, answer)


def _quiet(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Have processes take nothing new; a program cannot be told and stays as it is."""
    seats, deaf = _for_lull(supervisor, request)
    supervisor.quiet(seats, everything=not protocol.names(request))
    note = f"not told, as they are programs: {', '.join(deaf)}" if deaf else ""
    reply.send({"names": [seat.name for seat in seats], "note": note})


def _resume(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Undo `quiet`."""
    seats, _ = _for_lull(supervisor, request)
    supervisor.resume(seats, everything=not protocol.names(request))
    reply.send({"names": [seat.name for seat in seats]})


def _for_lull(supervisor: Supervisor, request: protocol.Request) -> tuple[list[Seat], list[str]]:
    asked = protocol.names(request)
    chosen = [supervisor.seats[name] for name in selection.select(asked, supervisor.jobs)]
    seats = [seat for seat in chosen if seat.job.type not in DEAF_TYPES]
    deaf = [seat.name for seat in chosen if seat.job.type in DEAF_TYPES]
    if asked and deaf and not seats:
        raise ControlError(f"a program cannot be told to be quiet: {', '.join(deaf)}; stop it")
    return seats, deaf


def _reload(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Reload the configuration, and answer when all that has changed has come about."""
    dry_run = protocol.flag(request, "dry_run")
    if not _is_leaving(supervisor, reply):
        supervisor.reloading.begin(reply.send, dry_run=dry_run)


def _signal(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Send a signal to processes, through their pidfds; to all of them or, at an error, to none."""
    asked = protocol.names(request)
    if not asked:
        raise UsageError("a signal goes to a NAME; for all processes: '*'")
    try:
        number = signals.parse(protocol.text(request, "signal"))
    except ValueError:
        raise UsageError(
            f"no such signal: {protocol.text(request, 'signal')[:40]!a}; TERM, HUP, USR1 and so on"
        ) from None
    chosen = [supervisor.seats[name] for name in selection.select(asked, supervisor.jobs)]
    living = [(seat, seat.living) for seat in chosen]
    dead = [seat.name for seat, process in living if process is None]
    if dead or not living:
        words = ", ".join(dead) or ", ".join(asked)
        reply.fail(ExitCode.FAILED, f"no process to signal: {words}; nothing was sent")
        return
    for seat, process in living:
        if process is not None:
            _log.info("%s: sending %s to pid %d, as asked", seat.name, number.name, process.pid)
            process.signal(number)
    reply.send({"names": [seat.name for seat in chosen]})


def _stop(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Take processes down, and answer when they are, with all that they began.

    A start or restart that comes before the end is somebody's later wish: this one has failed.
    """
    chosen = selection.select(protocol.names(request), supervisor.jobs)
    window_s = protocol.seconds(request, "timeout")
    seats = [supervisor.seats[name] for name in chosen]
    for seat in seats:
        seat.forget_last_stop()
    supervisor.happen(chosen, Kind.STOP, window_s=window_s)

    def answer() -> None:
        back = [seat.name for seat in seats if not seat.at_rest]
        if back:
            reply.fail(ExitCode.FAILED, f"started again before it had stopped: {', '.join(back)}")
        else:
            reply.send(shutdown.report(seats))

    def is_over() -> bool:
        return all(seat.at_rest or seat.status.goal is Goal.UP for seat in seats)

    _answer_when(supervisor, reply, is_over, answer)


def _shutdown(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Take everything down; the answer comes just before the master leaves."""
    window_s = protocol.seconds(request, "timeout")
    supervisor.shutdown.when_over(lambda: reply.send(supervisor.shutdown.report()))
    supervisor.shutdown.begin(window_s=window_s)


def _events(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    patterns = protocol.names(request)
    chosen = set(selection.select(patterns, supervisor.jobs))
    number = protocol.count(request, "n", len(supervisor.events))
    found = [event for event in supervisor.events if event["name"] in chosen]
    found = found[-number:] if number else []
    if not protocol.flag(request, "follow"):
        reply.send(found)
    elif (stream := reply.follow(found)) is not None:
        supervisor.followers.follow_events(stream, patterns)


def _logs(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    extra = ("master",)
    patterns = protocol.names(request)
    chosen = selection.select(patterns, supervisor.jobs, extra=extra)
    number = protocol.count(request, "n", 100)
    dated = [pair for name in chosen for pair in _dated(name, supervisor.log.tail(name, number))]
    dated.sort(key=lambda pair: pair[0])
    last = dated[-number:] if number else []
    found = {"lines": [line for _, _, line in last], "names": [name for _, name, _ in last]}
    if not protocol.flag(request, "follow"):
        reply.send(found)
    elif (stream := reply.follow(found)) is not None:
        supervisor.followers.follow_lines(stream, patterns)


def _dated(name: str, lines: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Put the time before each line, by which those of several processes are merged, and the name.

    An indented line belongs to the record above it: a traceback stays in one piece.
    """
    moment = ""
    for line in lines:
        if not line.startswith(" "):
            moment = line.partition(" ")[0]
        yield moment, name, line

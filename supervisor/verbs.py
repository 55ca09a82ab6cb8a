"""What the running supervisor can be asked over its control socket: the fixed table of verbs.

Each verb reads a request, asks or moves the Supervisor, and answers at once or when what was
asked for has come about. Nothing else in the master is reachable from outside.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING

from supervisor import __version__, protocol
from supervisor.errors import ExitCode
from supervisor.loop import now
from supervisor.states import Goal, Kind

if TYPE_CHECKING:
    # The Supervisor makes this table of itself; at run time the import would be a circle.
    from supervisor.control import Reply
    from supervisor.supervisor import Supervisor

Verb = Callable[[protocol.Request, "Reply"], None]


def verbs(supervisor: Supervisor) -> Mapping[str, Verb]:
    """Give the table of one supervisor."""
    table: dict[str, Callable[[Supervisor, protocol.Request, Reply], None]] = {
        "ping": _ping,
        "status": _status,
        "start": _start,
        "stop": _stop,
        "restart": _restart,
        "shutdown": _shutdown,
        "events": _events,
        "logs": _logs,
    }
    return {name: partial(verb, supervisor) for name, verb in table.items()}


def _ping(supervisor: Supervisor, _request: protocol.Request, reply: Reply) -> None:
    reply.send({"pid": os.getpid(), "version": __version__, "name": supervisor.config.name})


def _status(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    chosen = protocol.select(protocol.names(request), supervisor.jobs)
    moment = now()
    rows = [supervisor.seats[name].row(moment) for name in chosen]
    reply.send({"master": supervisor.master_row(), "processes": rows})


def _start(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    _raise(supervisor, request, reply, Kind.START)


def _restart(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    _raise(supervisor, request, reply, Kind.RECYCLE)


def _raise(supervisor: Supervisor, request: protocol.Request, reply: Reply, kind: Kind) -> None:
    """Bring processes up, and answer when each of them is ready or has failed."""
    chosen = protocol.select(protocol.names(request), supervisor.jobs)
    if supervisor.stopping:
        reply.fail(ExitCode.FAILED, "the supervisor is stopping")
        return
    seats = [supervisor.seats[name] for name in chosen]
    supervisor.happen(chosen, kind)

    def answer() -> None:
        failed = [seat for seat in seats if not seat.ready(now())]
        if failed:
            words = (f"{one.name} is {one.status.state.name}: {one.status.why}" for one in failed)
            reply.fail(ExitCode.FAILED, "\n".join(words))
        else:
            reply.send({"names": list(chosen)})

    supervisor.when(lambda: all(seat.settled for seat in seats), answer)


def _stop(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Take processes down, and answer when they are, with all that they began.

    A start or restart that comes before the end is somebody's later wish: this one has failed.
    """
    chosen = protocol.select(protocol.names(request), supervisor.jobs)
    seats = [supervisor.seats[name] for name in chosen]
    for seat in seats:
        seat.forget_last_stop()
    supervisor.happen(chosen, Kind.STOP, window_s=protocol.seconds(request, "timeout"))

    def answer() -> None:
        back = [seat.name for seat in seats if not seat.at_rest]
        if back:
            reply.fail(ExitCode.FAILED, f"started again before it had stopped: {', '.join(back)}")
        else:
            reply.send(supervisor.stop_report(seats))

    supervisor.when(
        lambda: all(seat.at_rest or seat.status.goal is Goal.UP for seat in seats), answer
    )


def _shutdown(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    """Take everything down; the answer comes just before the master leaves."""
    window_s = protocol.seconds(request, "timeout")
    supervisor.on_stopped(lambda: reply.send(supervisor.last_report()))
    supervisor.begin_stop(window_s=window_s)


def _events(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    chosen = set(protocol.select(protocol.names(request), supervisor.jobs))
    reply.send([event for event in supervisor.events if event["name"] in chosen])


def _logs(supervisor: Supervisor, request: protocol.Request, reply: Reply) -> None:
    extra = ("master",)
    chosen = protocol.select(protocol.names(request), supervisor.jobs, extra=extra)
    number = protocol.count(request, "n", 100)
    dated = [pair for name in chosen for pair in _dated(supervisor.log.tail(name, number))]
    dated.sort(key=lambda pair: pair[0])
    reply.send({"lines": [line for _, line in dated][-number:] if number else []})


def _dated(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Put the time before each line, by which those of several processes are merged.

    An indented line belongs to the record above it: a traceback stays in one piece.
    """
    moment = ""
    for line in lines:
        if not line.startswith(" "):
            moment = line.partition(" ")[0]
        yield moment, line

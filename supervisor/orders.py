"""What the master tells one process: to stop, to hurry, to show its stacks, to die.

The state machine decides when; here is how. Each order goes to the process while it lives and,
when it is dead, to what it has left behind. Runs in: supervisor.
"""

from __future__ import annotations

import logging
import signal

from supervisor import cgroups, descendants
from supervisor.seat import Seat
from supervisor.slot import FAST, LEVEL, QUIET, RESUME, STOP
from supervisor.states import Goal

_log = logging.getLogger("supervisor")


def stop(seat: Seat) -> None:
    """Ask for a drain, by the control pipe and by the stop signal; repeated until it is gone."""
    process = seat.living
    if process is None:
        descendants.signal_all(seat.leftovers, signal.SIGTERM)
        return
    if seat.flying_at_stop is None:
        seat.flying_at_stop = len(seat.page.suspects())
    reason = b"recycle" if seat.status.goal is Goal.UP else b"stop"
    process.tell(STOP + b" " + reason)
    process.signal(seat.job.stop_signal)
    # A stopped process keeps the signal pending until it goes on.
    process.signal(signal.SIGCONT)


def hurry(seat: Seat) -> None:
    """Give what is in flight one second more."""
    if seat.living is not None:
        seat.living.tell(FAST)
    stop(seat)


def quiet(seat: Seat) -> None:
    """Have the process take nothing new. One that is not there yet is born so."""
    if seat.living is not None:
        seat.living.tell(QUIET)


def resume(seat: Seat) -> None:
    """Undo `quiet`."""
    if seat.living is not None:
        seat.living.tell(RESUME)


def log_from(seat: Seat, level: str) -> None:
    """Have the process send log records from this level on, like "debug"."""
    if seat.living is not None:
        seat.living.tell(LEVEL + b" " + level.encode())


def dump_stacks(seat: Seat) -> None:
    """Have the process write its Python stacks to its stderr, even with the GIL held."""
    # To a program SIGUSR2 may mean anything, or death.
    if seat.living is not None and seat.job.type != "program":
        seat.living.signal(signal.SIGUSR2)


def kill(seat: Seat) -> None:
    """Kill the process with its group, or what it has left."""
    if seat.process is None:
        return
    seat.killed = True
    _log.warning("%s: killing pid %d (%s)", seat.name, seat.process.pid, seat.status.why)
    if seat.living is not None:
        seat.living.kill_group()
    else:
        descendants.signal_all(seat.leftovers, signal.SIGKILL)
    # All that it has ever begun, where that is kept together.
    cgroups.kill(seat.cgroup)

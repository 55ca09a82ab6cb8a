"""The inquest: why a process is as it is, from what its seat remembers. The answer to `why`.

Only facts and numbers; the words that people read are those of `explain`, at the other end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from supervisor.seat import Death, Seat
from supervisor.states import JITTER, State, backoff_delay

if TYPE_CHECKING:
    # Only for the reader: see `shapes`.
    from supervisor import shapes

_WAITING = "waiting for "


def why(seat: Seat, now: float, deaths: int) -> shapes.Why:
    """Explain one process: at most so many of its deaths, the newest last."""
    status, row = seat.status, seat.row(now)
    action, at = _next_action(seat, now)
    window_s = seat.policy.failure_window
    return {
        "name": seat.name,
        "job": seat.job.name,
        "type": seat.job.type,
        "state": status.state.name,
        "ready": row["ready"],
        "why": seat.why(now),
        "pid": row["pid"],
        "uptime_s": row["uptime_s"],
        "restarts": seat.restarts,
        "failures": sum(now - failed_at < window_s for failed_at in status.failures),
        "max_failures": seat.policy.max_failures,
        "window_s": window_s,
        "backoff": _backoff(seat),
        "waits_for": _waits_for(seat, now),
        "next_action": action,
        "next_action_in_s": None if at is None else round(max(0.0, at - now), 3),
        "deaths": [_death(death) for death in list(seat.deaths)[-deaths:]] if deaths else [],
    }


def _next_action(seat: Seat, now: float) -> tuple[str, float | None]:
    """Say what the supervisor does next by itself, and when on the loop's clock, if that is known.

    "none": it leaves the process as it is.
    """
    status = seat.status
    if status.state is State.STOPPING or seat.exit is not None:
        return "kill", status.stop_by if status.state is State.STOPPING else None
    if status.state is State.STARTING:
        return "kill, unless ready", status.deadline
    if status.state in (State.BACKOFF, State.FATAL) and status.deadline is not None:
        return "start", status.deadline
    if not status.alive and seat.wanted and seat.why(now).startswith(_WAITING):
        return "start", None
    return "none", None


def _waits_for(seat: Seat, now: float) -> str | None:
    """Name what has to come about first: somebody's end, READY, another job."""
    words = seat.why(now)
    if words.startswith(_WAITING):
        return words.removeprefix(_WAITING)
    if seat.status.state is State.STARTING:
        return f"READY, ready_timeout {seat.policy.ready_timeout:g}s"
    if seat.status.state is State.STOPPING:
        return f"its end, stop_timeout {seat.policy.stop_timeout:g}s"
    return None


def _backoff(seat: Seat) -> shapes.Backoff | None:
    if seat.status.state is not State.BACKOFF:
        return None
    doublings = max(0, seat.status.backoff_step - 1)
    return {
        "first_s": seat.policy.backoff,
        "doublings": doublings,
        "max_s": seat.policy.backoff_max,
        "delay_s": backoff_delay(seat.policy, doublings),
        "jitter": JITTER,
    }


def _death(death: Death) -> shapes.Death:
    return {
        "at": death.at,
        "uptime_s": death.uptime_s,
        "code": death.code,
        "signal": death.signal,
        "cause": death.cause,
        "why": death.why,
        "log_tail": list(death.log_tail),
    }

"""What becomes of a message after its handler was called: pure arithmetic, without clock or chance.

Called by the consume loop and by `workers.testing`. Deliveries, failures and crashes are counted
apart: only an exception of the handler burns a try.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from workers.base import Reject, Retry, Skip, Unavailable
from workers.sources.source import Delivery, SessionLost, lone_crashes_ms

MAX_CRASHES: Final = 3
"""So many processes may one message kill, while it runs alone, before it is buried."""

_SPREAD: Final = 0.2
"""Delays are lengthened by up to so much, so that what failed together does not return together."""


class Verdict(Enum):
    """What becomes of a message."""

    DONE = "done"
    SKIPPED = "skipped"
    RETRIED = "retried"
    DEAD = "dead"
    RETURNED = "returned"


FINAL: Final = frozenset({Verdict.DONE, Verdict.SKIPPED, Verdict.DEAD})
"""What is decided so does not come again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How often, and how far apart, a failed message is tried again. Times are seconds."""

    retries: int = 3
    backoff_s: float = 1.0
    backoff_max_s: float = 30.0

    def delay_s(self, tries: int, chance: float) -> float:
        """Give the delay after so many tries (from 1): doubled each time, up to the maximum.

        `chance` is a random number of 0..1.
        """
        # 2**1024 is no float any more; no sensible maximum is that far away.
        doubled = self.backoff_s * 2.0 ** min(max(tries, 1) - 1, 1000)
        return min(self.backoff_max_s, doubled * (1 + _SPREAD * chance))


@dataclass(frozen=True, slots=True)
class Decision:
    """The verdict on one call; the delivery carries the counters that are to be kept."""

    verdict: Verdict
    delivery: Delivery
    delay_s: float = 0.0
    failed: bool = False


def decide(
    delivery: Delivery,
    error: BaseException | None,
    policy: Policy,
    *,
    chance: float,
    stopping: bool = False,
) -> Decision:
    """Decide on a delivery whose handler returned, or raised `error`.

    An exception during a stop counts for nothing: it may be the stop's own work.
    """
    tried = called(delivery)
    if error is None:
        return Decision(Verdict.DONE, tried)
    if isinstance(error, Skip):
        return Decision(Verdict.SKIPPED, tried)
    if isinstance(error, Reject):
        return Decision(Verdict.DEAD, tried)
    if isinstance(error, Retry):
        after = policy.delay_s(tried.attempts, chance) if error.after is None else error.after
        return Decision(Verdict.RETRIED, tried, after)
    if isinstance(error, Unavailable):
        return spare(delivery, policy)
    if isinstance(error, SessionLost):
        return _suspected(delivery)
    if stopping:
        return Decision(Verdict.RETURNED, replace(delivery, suspect=False))
    failed = replace(tried, failures=delivery.failures + 1)
    if failed.failures > policy.retries:
        return Decision(Verdict.DEAD, failed, failed=True)
    delay_s = policy.delay_s(failed.failures, chance)
    return Decision(Verdict.RETRIED, failed, delay_s, failed=True)


def spare(delivery: Delivery, policy: Policy, *, briefly: bool = False) -> Decision:
    """Give back what met a system that is down: no call is counted, and no retry is burned.

    Where that is not sure yet it comes again `briefly`, after the first backoff. Otherwise it comes
    when the next probe is due, but after those that have waited: a message that is the reason
    itself, by an address that only it has, does not stand in the way of the others.
    """
    untried = replace(delivery, suspect=False)
    delay_s = policy.backoff_s if briefly else policy.backoff_max_s
    return Decision(Verdict.RETURNED, untried, delay_s)


def _suspected(one: Delivery) -> Decision:
    """Hold a message under suspicion whose connection was lost: it may be what broke it.

    As with one whose process died: it comes again alone, and only a loss while alone counts.
    """
    crashes = one.crashes + one.suspect
    delay_ms = 0
    if one.suspect and crashes < MAX_CRASHES:
        delay_ms = lone_crashes_ms()[crashes - 1]
    return Decision(Verdict.RETURNED, replace(one, suspect=True, crashes=crashes), delay_ms / 1000)


def called(one: Delivery) -> Delivery:
    """Count a call. It came back without killing anybody, so it is no suspect any more."""
    # Not dataclasses.replace, which takes five times as long, for every message.
    return Delivery(
        one.number,
        one.topic,
        one.body,
        one.attempts + 1,
        one.failures,
        one.crashes,
        False,
        one.envelope,
        one.lane,
    )

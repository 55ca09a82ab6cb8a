"""For the tests of those who write handlers: call one as the consume loop would, with no server."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from supervisor.board import Page
from workers import codec, retry
from workers.base import Context
from workers.handlers import BATCH, Handler
from workers.retry import Verdict
from workers.sources.source import Delivery
from workers.stop import StopToken
from workers.tally import Tally

__all__ = ["Outcome", "run"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the consume loop would do with the message after this one call.

    `status` is done, skipped, retried, dead, or returned for Unavailable, which burns no retry;
    `after` the delay of a retry in seconds (its random part left out); `reason` the error in words;
    `counters` what `context.count` has counted.
    """

    status: str
    reason: str = ""
    after: float | None = None
    error: BaseException | None = None
    traceback: str = ""
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Tell whether the message was handled."""
        return self.status == Verdict.DONE.value


def run(
    handle: Callable[..., object] | type,
    data: object,
    *,
    options: Mapping[str, str] | None = None,
    topic: str = "test",
    attempt: int = 1,
    retries: int = 3,
    id: str | None = None,  # noqa: A002 - the contract's word, and a keyword only
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    connection: object = None,
) -> Outcome:
    """Call a handler, function or class, with one message; the data passes through JSON.

    `attempt` is the number of this call, from 1; with `retries` it decides what becomes of a
    failure. A class is opened and closed around the call; `handle_batch` gets a list of one.
    `connection` is what `context.connection()` gives; nobody commits it or undoes what was written.
    """
    message_id = id or codec.new_id()
    raw = codec.encode(topic, data, message_id=message_id, key=key, headers=headers)
    built = codec.decode(topic, raw, fallback_id=message_id, attempt=attempt)
    stop = StopToken()
    cells = Page.alone().tallies
    log = logging.getLogger("test")
    tally = Tally(cells)
    context = Context("test:0", 0, dict(options or {}), log, stop, tally=tally, row=connection)
    handler = Handler.of(handle, "handle", BATCH)
    error: BaseException | None = None
    trace = ""
    try:
        handler.open(context)
        try:
            handler.one(built, context)
        except Exception as caught:
            error, trace = caught, traceback.format_exc()
        finally:
            handler.close(context)
    finally:
        stop.close()
    delivery = Delivery(1, topic, raw, attempts=attempt - 1, failures=attempt - 1)
    decision = retry.decide(delivery, error, retry.Policy(retries), chance=0.0)
    after = decision.delay_s if decision.verdict is Verdict.RETRIED else None
    counted = cells.read_counters()
    return Outcome(decision.verdict.value, str(error or ""), after, error, trace, counted)

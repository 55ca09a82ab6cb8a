"""What handlers see: Message, Context, Worker, and the four words by which they settle a message.

No I/O and no knowledge of any queue. Handlers, the runtime and the sources import it; it imports
nothing of ours but the stop token.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from workers.stop import StopToken

if TYPE_CHECKING:
    from supervisor.board import Page
    from workers.connections import Connections
    from workers.tally import Tally

FOR_EVER_NS: Final = 2**62
"""A parking time that never comes: 146 years of CLOCK_MONOTONIC."""


LONGEST_DELAY_S: Final = 1e9
"""Thirty years: whatever is above is a mistake, and above all no number a queue could hold."""


class Skip(Exception):
    """The message needs no work, for a reason of the business: logged, acknowledged, counted."""


class Reject(Exception):
    """The message can never succeed: it goes to the dead letters now, without another try."""


class Retry(Exception):
    """Not now: the message comes again, and this call counts as no failure.

    `after` is the delay in seconds; without it the message waits as it would after a failure.
    """

    def __init__(self, reason: str = "", *, after: float | None = None) -> None:
        super().__init__(reason)
        if after is not None and not 0 <= after <= LONGEST_DELAY_S:
            raise ValueError(f"Retry(after={after}): a delay is 0 s to {LONGEST_DELAY_S:g} s")
        self.after = after


class Unavailable(Exception):
    """The system behind is down: the message waits, without a failure, until it is back.

    The words name the system (`Unavailable("payments")`). The process fetches nothing meanwhile;
    one message probes each `retry_backoff_max`.
    """


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a queue, as its handler gets it.

    `attempt` counts the calls of a handler for this message, this one included, from 1. `raw` is
    what the queue holds, byte by byte; `data` is its JSON value `data`, or the whole when the
    sender did not wrap it.
    """

    id: str
    topic: str
    data: Any
    key: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    attempt: int = 1
    published_at: datetime | None = None
    raw: bytes = b""


class Pulse:
    """The signs of life of a process whose work is a function of its own, on its board page.

    The first `beat` puts the process under watch. Only the thread that made the pulse may change
    it: a helper that beats, or parks, would hide that the work itself hangs.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._thread = threading.get_ident()
        self._beating = False

    def beat(self) -> None:
        """Say that the work goes on; from the first call on its silence is noticed."""
        if self._is_mine():
            self._beating = True
            self._page.beat(time.monotonic_ns())

    def park(self, seconds: float) -> None:
        """Say that the work sleeps on purpose for so long."""
        if self._is_mine():
            self._page.park(min(FOR_EVER_NS, time.monotonic_ns() + int(seconds * 1e9)))

    def resume(self) -> None:
        """Say that it is awake again, which is a beat only for one that beats."""
        if not self._is_mine():
            return
        if self._beating:
            self._page.beat(time.monotonic_ns())
        else:
            self._page.park(0)

    def _is_mine(self) -> bool:
        return threading.get_ident() == self._thread


@dataclass(frozen=True, slots=True)
class Context:
    """The process around a handler: its name, its options, its log, and whether it has to stop.

    `scheduled_at` is the time that this run was due, for `scheduled` jobs; `deadline` the time by
    which this call has to be over, where there is a limit (`handler_timeout`). `pulse` and `tally`
    belong to the runtime, as do `row` and `connections`, which `connection` gives; consumers have
    no pulse, since their work loop beats for them.
    """

    name: str
    process: int
    options: Mapping[str, str]
    logger: logging.Logger
    stop: StopToken
    scheduled_at: datetime | None = None
    pulse: Pulse | None = None
    tally: Tally | None = None
    deadline: datetime | None = None
    row: Any = None
    connections: Connections | None = None

    @property
    def stopping(self) -> bool:
        """Tell whether the process was asked to stop: finish what is at hand, and return."""
        return self.stop.stopping

    @property
    def quiet(self) -> bool:
        """Tell whether the operator wants nothing new to be begun; consumers see to it."""
        return self.stop.quiet

    def wait(self, seconds: float) -> bool:
        """Sleep, but not through a stop. Gives True when the process has to stop.

        The time is parked: a process that waits is never taken for a hung one.
        """
        if self.pulse is None:
            return self.stop.wait(seconds)
        self.pulse.park(seconds)
        try:
            return self.stop.wait(seconds)
        finally:
            self.pulse.resume()

    def beat(self) -> None:
        """Say that the work goes on. From the first call on, silence for longer than
        `heartbeat_timeout` gets the process killed; consumers beat by themselves.
        """  # noqa: D205
        if self.pulse is not None:
            self.pulse.beat()

    def count(self, name: str, n: int = 1) -> None:
        """Add to a counter of your own; it is shown in `status --json` and survives the process.

        A process has room for 20 names (letters, digits, `_`; at most 40). Raises: ValueError for
        a wrong name or amount.
        """
        if self.tally is not None:
            self.tally.count(name, n)

    def observe(self, name: str, seconds: float) -> None:
        """Add a time to a histogram of your own; for 4 names, in the same way."""
        if self.tally is not None:
            self.tally.observe(name, seconds)

    def progress(self, done: int, total: int) -> None:
        """Say how far the work is, as `status` shows it until the process ends."""
        if self.tally is not None:
            self.tally.progress(done, total)

    def connection(self, url: str | None = None) -> Any:  # noqa: ANN401 - psycopg2 has no types
        """Give a psycopg2 connection: the one that holds the row, or one to the URL's database.

        Without a URL it is for the handlers of a table with `claim = lock`: what is written there
        is committed with the row's own status when the handler returns, and undone when it raises.
        With a URL (`postgresql://...`) it is a connection of this process, the same one throughout
        a call; it is committed when the handler returns too, just before. In a `worker` nobody
        commits it but its user. Raises: RuntimeError, ValueError where there is none; TimeoutError
        where all `pool_size` are in use; Unavailable where the database cannot be reached.
        """
        if url is not None and self.connections is not None:
            return self.connections.get(url)
        if self.row is not None:
            return self.row
        raise RuntimeError(
            "connection() is there in handlers of a table of PostgreSQL with claim = lock, where it"
            " holds the row; elsewhere write connection(url)"
        )

    def at(self, moment: datetime) -> Context:
        """Give the same context for the run that is due at that moment."""
        return replace(self, scheduled_at=moment)


class Worker:
    """A long-running job as a class: `target = module:Class` of a `[daemon:NAME]` of type worker.

    `setup`, `run` and `close` run in the main thread of a process of its own. It is READY when
    `setup` has returned; when `run` returns, the process ends well. `context` is there before
    `setup` is called.
    """

    name: str = ""
    context: Context

    def setup(self) -> None:
        """Open what the work needs. An exception here is a failed start."""

    def run(self, context: Context) -> None:
        """Do the work, until `context.stopping`."""
        raise NotImplementedError(f"{type(self).__name__}.run(context) is not written")

    def stop(self) -> None:
        """Wake up a `run` that is blocked elsewhere than in `context.wait`.

        Called once, when the stop is asked for, from a helper thread.
        """

    def health_check(self) -> bool:
        """Tell whether the work is sound; called each `health_interval` from a helper thread.

        False or an exception ends the process with exit code 1, and the supervisor starts it anew.
        """
        return True

    def close(self) -> None:
        """Close what `setup` opened. Called after `run`, however that ended."""

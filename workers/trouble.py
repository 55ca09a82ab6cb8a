"""A source that does not answer: said once, tried again ever more rarely, said when it is over."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable
from typing import Final

from workers.sources.source import SourceTrouble

_FIRST_S: Final = 0.1
_LONGEST_S: Final = 5.0
_SPREAD: Final = 0.2

_BEAR_S: Final = 1.0
"""A trouble that is over before that makes nobody less ready."""

_log = logging.getLogger(__name__)


class Trouble:
    """Whether the source is in trouble, and until when to leave it alone.

    `why` says it in words when it lasts. Times are CLOCK_MONOTONIC seconds.
    """

    def __init__(self) -> None:
        self._pause_s = _FIRST_S
        self._since: float | None = None
        self.until = 0.0
        self.why = ""

    def passes(self, steps: Iterable[Callable[[], None]]) -> bool:
        """Do things with the source, up to the first that fails; give False when one does.

        What has failed is due again: the trouble is over when all that was due is done.
        """
        works = False
        try:
            for step in steps:
                step()
                works = True
        except SourceTrouble as error:
            self.met(error, time.monotonic())
            return False
        if works:
            self.over(time.monotonic())
        return True

    def met(self, error: Exception, now: float) -> None:
        """Note a failed call."""
        if self._since is None:
            self._since = now
            self._pause_s = _FIRST_S
            _log.error("the queue cannot be used, trying again: %s", error)
        else:
            self._pause_s = min(_LONGEST_S, self._pause_s * 2)
        if now - self._since >= _BEAR_S:
            self.why = f"the queue cannot be used: {error}"
        # By chance, so that a server that is back does not see all its clients at one instant.
        self.until = now + self._pause_s * random.uniform(1, 1 + _SPREAD)

    def over(self, now: float) -> None:
        """Note a call that worked."""
        if self._since is None:
            return
        _log.info("the queue can be used again, after %.1f s", now - self._since)
        self._since = None
        self.until = 0.0
        self.why = ""

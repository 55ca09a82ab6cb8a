"""How much waits in the source, asked now and then, and shown on the board."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from supervisor.board import UNKNOWN, Page
from workers.sources.source import Source

_EVERY_S: Final = 1.0
_SHARE: Final = 100
"""Counting the backlog may take one hundredth of the time."""


class Backlog:
    """The last count of one process. Work loop's thread only. Times: CLOCK_MONOTONIC seconds."""

    def __init__(self, source: Source, page: Page, topics: Sequence[str]) -> None:
        self._source = source
        self._page = page
        self._topics = topics
        self.waiting = 0
        """The last count."""
        self.next_count = 0.0

    def count(self) -> None:
        """Ask the source. Raises: SourceTrouble."""
        begun = time.monotonic()
        self.waiting = self._source.backlog(self._topics)
        self._page.set_backlog(self.waiting)
        paused = self._source.paused(self._topics)
        self._page.set_paused(place for place, topic in enumerate(self._topics) if topic in paused)
        if not self.waiting:
            # The patience of `progress_timeout` begins when work comes, not after the last of it.
            self._page.progressed(time.monotonic_ns())
        took = time.monotonic() - begun
        self.next_count = begun + max(_EVERY_S, took * _SHARE)

    def lose_sight(self) -> None:
        """Say that the source cannot be asked."""
        self.waiting = 0
        self._page.set_backlog(UNKNOWN)

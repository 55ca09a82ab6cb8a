"""What is decided about messages and not yet written to their source.

Acknowledgements wait here for their batch, at most 10 ms, and for as long as the source is in
trouble. Whatever the source refuses stays, and is offered again; counters move when it is written.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from supervisor.board import Page
from workers.retry import Decision, Verdict
from workers.sources.source import Burial, Delivery, Return, Source

DELAY_S: Final = 0.01
"""How long a decision may wait for others, so that one transaction writes them all."""


class Settlement:
    """Collects decisions, and writes them in batches. Used by the work loop's thread only.

    A batch of `batch` waits no longer; with as many as there are threads, a kill -9 finds no more
    that is finished and not written than it finds running. `written` is called with the
    deliveries that the source has taken.
    """

    def __init__(
        self, page: Page, batch: int, written: Callable[[Iterable[Delivery]], None]
    ) -> None:
        self._page = page
        self.batch = batch
        self._written = written
        self._done: list[Delivery] = []
        self._skipped: list[Delivery] = []
        self._again: list[Decision] = []
        self._dead: list[tuple[Decision, Burial | None]] = []
        self._since = 0.0

    def __len__(self) -> int:
        """Give how many messages wait to be written."""
        return len(self._done) + len(self._skipped) + len(self._again) + len(self._dead)

    def called(self) -> int:
        """Give how many of them had their handler called."""
        returned = sum(decision.verdict is Verdict.RETURNED for decision in self._again)
        return len(self) - returned

    def numbers(self) -> set[int]:
        """Give the numbers of all that waits."""
        deliveries = [*self._done, *self._skipped]
        deliveries += [decision.delivery for decision in self._again]
        deliveries += [decision.delivery for decision, _ in self._dead]
        return {delivery.number for delivery in deliveries}

    def add(self, decision: Decision, burial: Burial | None, now: float) -> None:
        """Take in one decision; a dead message without burial is dropped."""
        if not len(self):
            self._since = now
        if decision.verdict is Verdict.DONE:
            self._done.append(decision.delivery)
        elif decision.verdict is Verdict.SKIPPED:
            self._skipped.append(decision.delivery)
        elif decision.verdict is Verdict.DEAD:
            self._dead.append((decision, burial))
        else:
            self._again.append(decision)

    def done(self, deliveries: Sequence[Delivery], now: float) -> None:
        """Take in what was simply done."""
        if deliveries and not len(self):
            self._since = now
        self._done += deliveries

    def give_back(self, delivery: Delivery, now: float) -> None:
        """Take in a message whose handler was never called, or is abandoned."""
        self.add(Decision(Verdict.RETURNED, delivery), None, now)

    def due_at(self) -> float | None:
        """Give when the batch has to be written at the latest, if there is one."""
        if not len(self):
            return None
        return 0.0 if len(self) >= self.batch else self._since + DELAY_S

    def write(self, source: Source) -> None:
        """Write everything. Raises: SourceTrouble, keeping what was not written."""
        self._write_done(source)
        self._write_again(source)
        self._write_dead(source)
        self._page.progressed(time.monotonic_ns())

    def _write_done(self, source: Source) -> None:
        deliveries = self._done + self._skipped
        if not deliveries:
            return
        source.ack(deliveries)
        self._page.count(done=len(self._done), skipped=len(self._skipped))
        self._done, self._skipped = [], []
        self._written(deliveries)

    def _write_again(self, source: Source) -> None:
        if not self._again:
            return
        source.nack([Return(decision.delivery, decision.delay_s) for decision in self._again])
        self._page.count(
            retried=sum(decision.verdict is Verdict.RETRIED for decision in self._again),
            failed=sum(decision.failed for decision in self._again),
        )
        again, self._again = self._again, []
        self._written(decision.delivery for decision in again)

    def _write_dead(self, source: Source) -> None:
        if not self._dead:
            return
        burials = [burial for _, burial in self._dead if burial is not None]
        drops = [decision.delivery for decision, burial in self._dead if burial is None]
        if burials:
            source.dead(burials)
        if drops:
            source.drop(drops)
        failed = sum(decision.failed for decision, _ in self._dead)
        self._page.count(dead=len(self._dead), failed=failed)
        dead, self._dead = self._dead, []
        self._written(decision.delivery for decision, _ in dead)

"""Claims and leases as a game of chance: two consumers, a publisher and death, against a model.

The model knows of every message where it is; after each move the source has to agree.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from tests.conformance.conftest import NO_LOGS, Bench, PostgresLockBench, Servers
from workers.sources.source import Burial, Delivery, Return, Source

SEATS = (0, 1)


@dataclass
class Known:
    """What the model knows of one message."""

    topic: str
    owner: int | None = None
    attempts: int = 0
    failures: int = 0
    crashes: int = 0
    suspect: bool = False
    was_taken: bool = False


_SETTINGS: Final = settings(
    max_examples=25,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


class Bookkeeping(RuleBasedStateMachine):
    """Each rule is a move of somebody; the invariant compares the depths."""

    def __init__(self, make: Callable[[Path], Bench]) -> None:
        super().__init__()
        self.make = make

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="books-"))
        self.bench = self.make(self.folder)
        self.lives = [1, 1]
        self.sources: list[Source] = [self._source(seat) for seat in SEATS]
        self.held: list[dict[str, Delivery]] = [{}, {}]
        self.known: dict[str, Known] = {}
        self.topics = self.bench.BOOKS
        self.order: dict[str, list[str]] = {topic: [] for topic in self.topics}
        self.dead: set[str] = set()

    def _source(self, seat: int) -> Source:
        source = self.bench.source(f"i/j:{seat}/{self.lives[seat]}")
        source.open()
        return source

    @rule(number=st.sampled_from((0, 1)), count=st.integers(1, 5))
    def publish(self, number: int, count: int) -> None:
        topic = self.topics[number % len(self.topics)]
        ids = [f"{topic}{len(self.known) + number}" for number in range(count)]
        self.bench.publish(topic, *ids)
        for one in ids:
            self.known[one] = Known(topic)
            self.order[topic].append(one)

    @rule(seat=st.sampled_from(SEATS), share=st.integers(1, 4), limit=st.integers(1, 6))
    def fetch(self, seat: int, share: int, limit: int) -> None:
        found = self.sources[seat].fetch([(topic, share) for topic in self.topics], limit)
        free = {topic: [i for i in self.order[topic] if self._is_free(i)] for topic in self.topics}
        assert len(found) == min(limit, sum(map(len, free.values())))
        for delivery in found:
            name = str(json.loads(self.bench.content(delivery))["id"])
            known = self.known[name]
            waiting = free[delivery.topic]
            if self.bench.KEEPS_PLACES:
                assert name == waiting[0], "oldest first, and nobody else's"
            else:
                back = [one for one in waiting if self.known[one].was_taken]
                assert name in (back or waiting[:1]), "first what came back, then oldest first"
            waiting.remove(name)
            known.was_taken = True
            assert (delivery.attempts, delivery.failures) == (known.attempts, known.failures)
            assert (delivery.crashes, delivery.suspect) == (known.crashes, known.suspect)
            known.owner = seat
            self.held[seat][name] = delivery

    @rule(seat=st.sampled_from(SEATS), chance=st.randoms(use_true_random=False))
    def ack(self, seat: int, chance: object) -> None:
        names = self._some(seat, chance)
        self.sources[seat].ack([self.held[seat].pop(name) for name in names])
        for name in names:
            self._forget(name)

    @rule(
        seat=st.sampled_from(SEATS),
        chance=st.randoms(use_true_random=False),
        failed=st.booleans(),
    )
    def nack(self, seat: int, chance: object, failed: bool) -> None:
        returns = []
        for name in self._some(seat, chance):
            delivery, known = self.held[seat].pop(name), self.known[name]
            if failed:
                known.attempts, known.failures = known.attempts + 1, known.failures + 1
                known.suspect = False
                delivery = replace(
                    delivery, attempts=known.attempts, failures=known.failures, suspect=False
                )
            known.owner = None
            returns.append(Return(delivery))
        self.sources[seat].nack(returns)

    @rule(seat=st.sampled_from(SEATS), chance=st.randoms(use_true_random=False))
    def bury(self, seat: int, chance: object) -> None:
        names = self._some(seat, chance)
        self.sources[seat].dead(
            [Burial(self.held[seat][name], self.topics[0], name, "e", "", "") for name in names]
        )
        for name in names:
            del self.held[seat][name]
            self._forget(name)
            self.dead.add(name)

    @rule(seat=st.sampled_from(SEATS))
    def extend(self, seat: int) -> None:
        assert self.sources[seat].extend(list(self.held[seat].values())) == set()

    @rule(seat=st.sampled_from(SEATS), chance=st.randoms(use_true_random=False))
    def die(self, seat: int, chance: object) -> None:
        """The process is killed; some of what it held was in a handler; the sibling is told."""
        suspects = self._some(seat, chance)
        numbers = [self.held[seat][name].number for name in suspects]
        self.sources[seat].close()
        freed = self.sources[1 - seat].release(f"i/j:{seat}/{self.lives[seat]}", numbers)
        assert freed == len(self.held[seat]) or not self.bench.COUNTS_FREED
        for name in self.held[seat]:
            known = self.known[name]
            known.owner = None
            if name in suspects:
                known.crashes += known.suspect
                known.suspect = True
        self._rise(seat)

    @rule(seat=st.sampled_from(SEATS))
    def die_untold(self, seat: int) -> None:
        """The host goes down; the next process of the seat finds what was left."""
        self.sources[seat].close()
        for name in self.held[seat]:
            self.known[name].owner = None
        count = len(self.held[seat])
        self._rise(seat)
        freed = self.sources[seat].release_seat(f"i/j:{seat}/")
        assert freed == count or not self.bench.COUNTS_FREED

    def _rise(self, seat: int) -> None:
        self.lives[seat] += 1
        self.held[seat] = {}
        self.sources[seat] = self._source(seat)

    def _is_free(self, name: str) -> bool:
        return name in self.known and self.known[name].owner is None

    def _forget(self, name: str) -> None:
        self.order[self.known.pop(name).topic].remove(name)
        # Names are never given twice: the count of the known only serves as their number.
        self.known[f"-{len(self.known)}{name}"] = Known("gone", owner=9)

    def _some(self, seat: int, chance: object) -> list[str]:
        return [name for name in self.held[seat] if chance.random() < 0.5]  # type: ignore[attr-defined]

    @invariant()
    def depths_agree(self) -> None:
        if not hasattr(self, "known"):
            return
        living = [known for known in self.known.values() if known.topic != "gone"]
        for topic in self.topics:
            depth = self.bench.depth(topic)
            mine = [known for known in living if known.topic == topic]
            assert depth.depth == sum(known.owner is None for known in mine)
            assert depth.in_flight == sum(known.owner is not None for known in mine)
        assert {letter.id for letter in self.bench.letters(self.topics[0])} >= self.dead

    def teardown(self) -> None:
        if hasattr(self, "sources"):
            for source in self.sources:
                source.close()
            shutil.rmtree(self.folder)


@pytest.mark.parametrize("kind", NO_LOGS)
def test_the_books_agree_after_every_move(
    kind: Callable[[Path, Servers], Bench], servers: Servers
) -> None:
    machine = partial(Bookkeeping, lambda folder: kind(folder, servers))
    # A row that is held by a lock has a connection of its own, which takes its time.
    few = settings(_SETTINGS, max_examples=5)
    chosen = few if kind is PostgresLockBench else _SETTINGS
    run_state_machine_as_test(machine, settings=chosen)

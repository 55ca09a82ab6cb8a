"""When the leases of a process are renewed, and what it does with those that it lost."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import cast

import pytest

from workers.leases import Leases
from workers.sources.source import Delivery, Source, SourceTrouble


class Server:
    """As much of a source as leases need."""

    def __init__(self) -> None:
        self.is_down = False
        self.lost: set[int] = set()
        self.renewed: list[int] = []

    def tend(self) -> set[int]:
        """Tell what was lost, or fail."""
        if self.is_down:
            raise SourceTrouble("down")
        return self.lost

    def extend(self, deliveries: Sequence[Delivery]) -> set[int]:
        """Renew, or fail."""
        if self.is_down:
            raise SourceTrouble("down")
        self.renewed += [delivery.number for delivery in deliveries]
        return self.lost


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def leases(server: Server) -> Leases:
    return Leases(cast("Source", server), 30.0)


def test_who_holds_nothing_renews_nothing(leases: Leases) -> None:
    assert leases.next_renewal == math.inf
    one = Delivery(1, "t", b"")
    leases.hold([one], 100.0)
    assert leases.next_renewal == 110.0
    leases.forget([one])
    assert leases.next_renewal == math.inf


def test_a_renewal_that_failed_is_due_until_it_is_done(leases: Leases, server: Server) -> None:
    leases.hold([Delivery(1, "t", b"")], 100.0)
    server.is_down = True
    with pytest.raises(SourceTrouble):
        leases.renew()
    assert leases.next_renewal == 110.0
    server.is_down = False
    before = time.monotonic()
    leases.renew()
    assert leases.next_renewal >= before + 10
    assert leases[1].until >= before + 30


def test_what_is_lost_is_not_renewed_again(leases: Leases, server: Server) -> None:
    leases.hold([Delivery(number, "t", b"") for number in (1, 2)], 100.0)
    server.lost = {2}
    leases.renew()
    assert leases[2].until == 0
    leases.renew()
    assert server.renewed == [1, 2, 1]


def test_what_the_source_tells_to_be_lost_is_not_begun(leases: Leases, server: Server) -> None:
    leases.hold([Delivery(number, "t", b"") for number in (1, 2)], 100.0)
    server.lost = {2, 3}
    before = time.monotonic()
    leases.tend()
    assert (leases[1].until, leases[2].until) == (130.0, 0.0)
    assert before + 1 <= leases.next_look


def test_a_look_that_failed_is_due_until_it_is_done(leases: Leases, server: Server) -> None:
    server.is_down = True
    with pytest.raises(SourceTrouble):
        leases.tend()
    assert leases.next_look == 0.0

"""Which partitions are this member's, what is to be committed of each, and what is; and the news.

Three threads write it down, each in a moment: that of the loop, that which commits, and the
client's own. An assignment of a partition has a number, its epoch; what is said of another epoch
does nothing: nobody commits for a partition that somebody else has by now.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from workers.sources.kafka_books import Spot


class Assigned(NamedTuple):
    """A partition is ours; `offset` is where its records begin."""

    spot: Spot
    epoch: int
    offset: int


class Read(NamedTuple):
    """Records of a partition, in order."""

    spot: Spot
    epoch: int
    records: list[Any]


class Wanted(NamedTuple):
    """A partition is to be given away as soon as nothing of it is in a handler."""

    spot: Spot
    epoch: int


class Gone(NamedTuple):
    """A partition is not ours any more."""

    spot: Spot
    epoch: int


News = Assigned | Read | Wanted | Gone


@dataclass(slots=True)
class _Share:
    """A partition that is ours: what is to be committed, and what the broker has of it."""

    epoch: int
    is_known: bool = False
    wanted: int | None = None
    committed: int | None = None
    is_free: bool = False


class Shares:
    """The partitions of one member."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ours: dict[Spot, _Share] = {}
        self._epoch = 0
        self._is_committing = False

    def spots(self) -> tuple[Spot, ...]:
        """Give all that is ours."""
        with self._lock:
            return tuple(self._ours)

    def epoch(self, spot: Spot) -> int:
        """Give the number of the assignment; 0 without one."""
        share = self._ours.get(spot)
        return 0 if share is None else share.epoch

    def assign(self, spots: Iterable[Spot]) -> None:
        """Take in what is ours from now on."""
        with self._lock:
            for spot in spots:
                self._epoch += 1
                self._ours[spot] = _Share(self._epoch)

    def take(self, spots: Iterable[Spot]) -> list[tuple[Spot, int]]:
        """Take out what is not ours any more; give the assignments that are over."""
        with self._lock:
            found = [(spot, self._ours.pop(spot, None)) for spot in spots]
        return [(spot, share.epoch) for spot, share in found if share is not None]

    def unknown(self) -> list[tuple[Spot, int]]:
        """Give the assignments of which nobody has been told yet where they begin."""
        with self._lock:
            return [(spot, one.epoch) for spot, one in self._ours.items() if not one.is_known]

    def know(self, spot: Spot, epoch: int) -> None:
        """Note that it was told."""
        with self._lock:
            share = self._ours.get(spot)
            if share is not None and share.epoch == epoch:
                share.is_known = True

    def want(self, spot: Spot, epoch: int, offset: int) -> None:
        """Have an offset committed."""
        with self._lock:
            share = self._ours.get(spot)
            if share is not None and share.epoch == epoch:
                share.wanted = offset

    def begin(self) -> dict[Spot, int]:
        """Give what is to be committed now; `end` follows on it if there is anything."""
        with self._lock:
            found = self._uncommitted()
            self._is_committing = bool(found)
            return found

    def end(self, committed: Mapping[Spot, int]) -> None:
        """Take in what was committed."""
        with self._lock:
            self._is_committing = False
            for spot, offset in committed.items():
                if spot in self._ours:
                    self._ours[spot].committed = offset

    def is_settled(self) -> bool:
        """Tell whether all that was wanted is committed."""
        with self._lock:
            return not self._is_committing and not self._uncommitted()

    def free(self, spot: Spot, epoch: int) -> None:
        """Note that it may go to somebody else: nothing of it is in a handler."""
        with self._lock:
            share = self._ours.get(spot)
            if share is not None and share.epoch == epoch:
                share.is_free = True

    def may_go(self, spots: Collection[Spot]) -> bool:
        """Tell whether all of these may, and all that was done of them is committed."""
        with self._lock:
            shares = [self._ours[spot] for spot in spots if spot in self._ours]
            return not self._is_committing and all(
                share.is_free and share.wanted == share.committed for share in shares
            )

    def _uncommitted(self) -> dict[Spot, int]:
        return {
            spot: share.wanted
            for spot, share in self._ours.items()
            if share.wanted is not None and share.wanted != share.committed
        }

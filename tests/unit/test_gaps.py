"""The fillers are of all sizes that Python keeps in pools, and few."""

from __future__ import annotations

from supervisor import gaps


def test_fillers_are_of_every_size() -> None:
    for size in range(gaps._STEP, gaps._LARGEST + 1, gaps._STEP):
        taken = gaps._object_of(size, 7).__sizeof__()
        assert size - gaps._STEP < taken <= size


def test_they_take_little_memory() -> None:
    before = len(gaps._fillers)
    gaps.fill()
    added = gaps._fillers[before:]
    assert added
    assert sum(filler.__sizeof__() for filler in added) <= gaps._MOST * 32
    del gaps._fillers[before:]

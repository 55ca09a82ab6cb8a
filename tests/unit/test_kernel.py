"""Looks at /proc where there is no descriptor, no memory, or no answer."""

from __future__ import annotations

import os

import pytest

from supervisor.kernel import Unreadable, _Spare, children, descriptors, facts, own_start
from tests.helpers.shortage import no_descriptor_left


def test_a_spare_that_cannot_be_had_is_no_reason_to_die() -> None:
    spare = _Spare()
    with no_descriptor_left():
        spare.keep()
        assert not spare.is_there
        with pytest.raises(Unreadable):
            facts(os.getpid())
    spare.keep()
    assert spare.is_there
    spare.drop()
    assert not spare.is_there


def test_what_there_is_no_memory_for_is_not_taken_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def no_memory(*_: object) -> bytes:
        raise MemoryError

    with monkeypatch.context() as short:
        short.setattr(os, "read", no_memory)
        with pytest.raises(Unreadable, match="Cannot allocate memory"):
            children(os.getpid())


@pytest.mark.parametrize("trouble", [OSError, MemoryError])
def test_an_own_start_that_cannot_be_read_leaves_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, trouble: type[Exception]
) -> None:
    def broken(*_: object) -> bytes:
        raise trouble

    before = descriptors()
    with monkeypatch.context() as short:
        short.setattr(os, "read", broken)
        assert own_start() == 0
    assert descriptors() == before

"""What a verb leaves behind in the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from supervisor.verbs import verbs


@pytest.mark.parametrize("verb", ["start", "stop"])
def test_nobody_waits_for_a_client_that_has_gone(verb: str) -> None:
    waiting: list[Callable[[], bool]] = []
    seat = SimpleNamespace(
        name="web:0",
        leaving=False,
        settled=False,
        at_rest=False,
        status=SimpleNamespace(goal=None),
        forget_last_stop=lambda: None,
    )
    supervisor = SimpleNamespace(
        jobs={"web": ["web:0"]},
        seats={"web:0": seat},
        stopping=False,
        happen=lambda *_args, **_more: None,
        when=lambda condition, _then: waiting.append(condition),
    )
    reply = SimpleNamespace(peer="somebody")
    verbs(cast("Any", supervisor))[verb]({"names": ["web"]}, cast("Any", reply))
    (condition,) = waiting
    assert not condition()
    reply.peer = None
    assert condition()

"""Waiting for a fact: the last resort where nothing can be selected on."""

from __future__ import annotations

import select
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

PATIENCE_S = 60.0
"""Far above what anything takes, so that a busy machine is no failure."""

_LOOK_S = 0.02


def eventually(check: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """Call `check` until it gives something true and raises no AssertionError; give that.

    Raises: AssertionError, its own or that of `check`, when the time is over.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        failure = AssertionError(f"not within {timeout_s:g}s: {check}")
        try:
            if found := check():
                return found
        except AssertionError as error:
            failure = error
        if time.monotonic() > deadline:
            raise failure
        select.select((), (), (), _LOOK_S)

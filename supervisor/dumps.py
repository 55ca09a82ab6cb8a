"""Dumps of Python stacks, as `faulthandler` writes them: what of them is worth showing. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

# Lines of `faulthandler`, as they are or behind the time and stream of a log.
_FRAME: Final = '  File "'
_FORK: Final = '/supervisor/child.py", line '


def above_fork(lines: Iterable[str]) -> list[str]:
    """Leave out of dumps of stacks what lies below the fork.

    It is that of the master, the same in each of its children, and tells nobody anything.
    """
    kept: list[str] = []
    is_below = False
    for line in lines:
        is_below = _FORK in line or (is_below and _FRAME in line)
        if not is_below:
            kept.append(line)
    return kept

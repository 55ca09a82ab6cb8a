"""`python send.py MODULE fill N | spaced N GAP | delayed N DELAY GAP | at_once N DELAY`.

Publishes by `publish` and `publish_later` of a contender's module. What is published says when it
was due, on CLOCK_MONOTONIC in nanoseconds; 0 is no matter when. Times are seconds.
"""

from __future__ import annotations

import importlib
import sys
import time
from typing import Any

_CHUNK = 1000


def main(module: Any, what: str, count: int, *times: float) -> None:  # noqa: ANN401
    """Publish so many."""
    if what == "fill":
        for begun in range(0, count, _CHUNK):
            module.publish([0] * min(_CHUNK, count - begun))
    elif what == "spaced":
        for _ in range(count):
            time.sleep(times[0])
            module.publish([time.monotonic_ns()])
    elif what == "delayed":
        for _ in range(count):
            module.publish_later(_from_now(times[0]), times[0])
            time.sleep(times[1])
    else:
        due = _from_now(times[0])
        for _ in range(count):
            module.publish_later(due, (due - time.monotonic_ns()) / 1e9)


def _from_now(delay_s: float) -> int:
    return time.monotonic_ns() + int(delay_s * 1e9)


if __name__ == "__main__":
    name, what, count, *times = sys.argv[1:]
    main(importlib.import_module(name), what, int(count), *map(float, times))

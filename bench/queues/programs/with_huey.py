"""Huey: takes a job off its queue before the work, so that a kill -9 loses it.

BENCH_VARIANT is `redis` or `sqlite`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import page
from huey import RedisHuey, SqliteHuey

_URL = os.environ["BENCH_URL"]

if os.environ["BENCH_VARIANT"] == "redis":
    huey = RedisHuey("plain", url=_URL, results=False)
else:
    huey = SqliteHuey("plain", filename=_URL, results=False, fsync=False)


@huey.task()
def job(sent_ns: int) -> None:
    """Handle a job."""
    page.done(sent_ns)


def publish(values: Sequence[int]) -> None:
    """Send jobs."""
    for value in values:
        job(value)


def publish_later(value: int, delay_s: float) -> None:
    """Send one with a delay."""
    job.schedule(args=(value,), delay=delay_s)

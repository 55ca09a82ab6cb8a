"""Dramatiq: acknowledges after the work; another worker takes over when the heartbeat is old."""

from __future__ import annotations

import os
from collections.abc import Sequence

import dramatiq
import page
from dramatiq.brokers.redis import RedisBroker

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_URL"]))


@dramatiq.actor
def job(sent_ns: int) -> None:
    """Handle a job."""
    page.done(sent_ns)


def publish(values: Sequence[int]) -> None:
    """Send jobs."""
    for value in values:
        job.send(value)


def publish_later(value: int, delay_s: float) -> None:
    """Send one with a delay."""
    job.send_with_options(args=(value,), delay=int(delay_s * 1000))

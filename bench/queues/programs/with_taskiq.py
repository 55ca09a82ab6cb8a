"""Taskiq. BENCH_VARIANT `list`: takes a job off its list before the work, so that a kill -9 loses
it. `stream`: acknowledges after the work; what a dead worker held comes again after ten minutes.
"""  # noqa: D205

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import page
from taskiq_redis import ListQueueBroker, RedisStreamBroker

_URL = os.environ["BENCH_URL"]

if os.environ["BENCH_VARIANT"] == "list":
    broker = ListQueueBroker(_URL, queue_name="plain")
else:
    # Between two reads each worker waits for a lock, so that few large ones are fastest.
    broker = RedisStreamBroker(_URL, queue_name="plain", consumer_id="0", xread_count=1000)

_loop: asyncio.AbstractEventLoop | None = None


@broker.task
async def job(sent_ns: int) -> None:
    """Handle a job."""
    page.done(sent_ns)


def publish(values: Sequence[int]) -> None:
    """Send jobs."""
    global _loop
    if _loop is None:
        _loop = asyncio.new_event_loop()
        _loop.run_until_complete(broker.startup())
    _loop.run_until_complete(_send(values))


async def _send(values: Sequence[int]) -> None:
    for value in values:
        await job.kiq(value)

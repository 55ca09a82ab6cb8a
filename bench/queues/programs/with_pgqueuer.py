"""Pgqueuer over asyncpg, a hundred jobs at once; `python with_pgqueuer.py install` makes its
tables. Jobs of a dead worker come again when their heartbeat is old.
"""  # noqa: D205

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from datetime import timedelta

import asyncpg
import page
from pgqueuer import PgQueuer, Queries

_URL = os.environ["BENCH_URL"]


async def install() -> None:
    """Make the tables."""
    connection = await asyncpg.connect(_URL)
    await Queries.from_asyncpg_connection(connection).install()


async def work() -> None:
    """Work until somebody ends it."""
    queue = PgQueuer.from_asyncpg_connection(await asyncpg.connect(_URL))

    @queue.entrypoint("job")
    async def job(job) -> None:  # noqa: ANN001 - its type is one of pgqueuer's own
        page.done(int(job.payload))

    await queue.run(batch_size=100, dequeue_timeout=timedelta(seconds=30))


_loop: asyncio.AbstractEventLoop | None = None
_queries: Queries | None = None


def publish(values: Sequence[int]) -> None:
    """Insert jobs in one statement."""
    global _loop, _queries
    if _loop is None:
        _loop = asyncio.new_event_loop()
        connection = _loop.run_until_complete(asyncpg.connect(_URL))
        _queries = Queries.from_asyncpg_connection(connection)
    count = len(values)
    bodies = [str(value).encode() for value in values]
    _loop.run_until_complete(_queries.enqueue(["job"] * count, bodies, [0] * count))


if __name__ == "__main__":
    try:
        import uvloop

        asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
    except ImportError:
        pass
    asyncio.run(install() if sys.argv[1:] == ["install"] else work())

"""Children with more to them than `child.tiny`: imports, live clients, a flood of output."""

from __future__ import annotations

import os

from child import Plain, linger, stamp  # type: ignore[import-not-found]


def heavy(context: Plain) -> None:
    """Hold the imports of an ordinary worker."""
    import asyncio  # noqa: F401
    import ssl  # noqa: F401

    import psycopg2  # type: ignore[import-untyped]  # noqa: F401
    import redis  # noqa: F401

    stamp("up")
    linger(context)


def live(context: Plain) -> None:
    """Hold the imports and what a worker makes of them: a connection, a context, threads."""
    import asyncio  # noqa: F401
    import ssl
    import threading
    from concurrent.futures import ThreadPoolExecutor

    import psycopg2  # noqa: F401
    import redis

    client = redis.Redis.from_url(os.environ["BENCH_REDIS"])
    client.ping()
    tls = ssl.create_default_context()
    pool = ThreadPoolExecutor(4)
    together = threading.Barrier(4)
    list(pool.map(lambda _: together.wait(), range(4)))
    stamp("up")
    linger(context)
    pool.shutdown()
    client.close()
    del tls


def flood(context: Plain) -> None:
    """Write lines to stdout as fast as it takes them, then stay."""
    block = (os.environb[b"BENCH_FLOOD_LINE"] + b"\n") * 1000
    stamp("flooding")
    for _ in range(int(os.environ["BENCH_FLOOD_BYTES"]) // len(block)):
        write(block)
    write(os.environb[b"BENCH_FLOOD_END"] + b"\n")
    stamp("flooded")
    linger(context)


def write(block: bytes) -> None:
    """Write all of it to stdout."""
    rest = memoryview(block)
    while rest:
        rest = rest[os.write(1, rest) :]

"""The children that every contender runs, copied beside each configuration as `children.py`.

Under ours each kind is the target of a `worker` job; the floor calls `serve` after its fork; the
peers run this file as a script, so it imports as little as can be. The first thing that a child
does is to write its own line: a word, its pid and the time, by one write to a fifo.
"""

from __future__ import annotations

import os
import signal
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from workers import Context

DRAIN_S = 0.05
"""What each child needs from its TERM to its exit."""

FLOOD_BYTES = 200_000_000
FLOOD_MARK = b"#flood"
FLOOD_LINE = FLOOD_MARK + b"-" * 93 + b"\n"

_IDLE_S = 3600.0


class Plain:
    """Stands for the context of a worker where there is none: the floor and the peers."""

    def __init__(self) -> None:
        # Blocked and waited for: a TERM between the look and the wait cannot be missed.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        self.stopping = False

    def wait(self, seconds: float) -> None:
        """Sleep until TERM comes or the time is over."""
        if signal.sigtimedwait({signal.SIGTERM}, seconds) is not None:
            self.stopping = True


def tiny(context: Context | Plain) -> None:
    """Do nothing, and need a moment to stop."""
    stamp("up")
    linger(context)


def heavy(context: Context | Plain) -> None:
    """Hold the imports of an ordinary worker."""
    import asyncio  # noqa: F401
    import ssl  # noqa: F401

    import psycopg2  # type: ignore[import-untyped]  # noqa: F401
    import redis  # noqa: F401

    stamp("up")
    linger(context)


def live(context: Context | Plain) -> None:
    """Hold the imports and what a worker makes of them: a connection, a context, threads."""
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


def flood(context: Context | Plain) -> None:
    """Write 200 MB of lines to stdout as fast as it takes them, then stay."""
    block = FLOOD_LINE * 1000
    stamp("flooding")
    for _ in range(FLOOD_BYTES // len(block)):
        rest = memoryview(block)
        while rest:
            rest = rest[os.write(1, rest) :]
    stamp("flooded")
    linger(context)


def stamp(word: str) -> None:
    """Say that this process has come to `word`, and when."""
    line = f"{word} {os.getpid()} {time.monotonic()!r}\n".encode()
    # Non-blocking: without a reader the bench is gone, and the child had better fail than hang.
    fd = os.open(os.environ["BENCH_STAMPS"], os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, line)
    os.close(fd)


def linger(context: Context | Plain) -> None:
    """Sleep until the stop, then take the time that a handler would need to finish."""
    while not context.stopping:
        context.wait(_IDLE_S)
    time.sleep(DRAIN_S)


def serve(kind: str) -> None:
    """Be a child of that kind in this process, to the end. Does not return."""
    KINDS[kind](Plain())
    # Without the interpreter's teardown, as our own children leave: no handicap for anyone.
    os._exit(0)


KINDS: dict[str, Callable[[Context | Plain], None]] = {
    "tiny": tiny,
    "heavy": heavy,
    "live": live,
    "flood": flood,
}

if __name__ == "__main__":
    serve(sys.argv[1])

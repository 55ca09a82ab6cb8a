"""The children that every contender runs. As small as a handler: each start may compile it.

Copied beside each configuration. Ours takes `child:tiny` as its target, the floor calls `serve`
after its fork, the peers run `python child.py KIND`. A child's first act is to write its own
line (a word, its pid, the time) by one write to a fifo.
"""

from __future__ import annotations

import os
import signal
import sys
import time

DRAIN_S = 0.05  # what each child needs from its TERM to its exit


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


def tiny(context: Plain) -> None:
    """Do nothing, and need a moment to stop."""
    stamp("up")
    linger(context)


def stamp(word: str) -> None:
    """Say that this process has come to `word`, and when."""
    line = f"{word} {os.getpid()} {time.monotonic()!r}\n".encode()
    # Non-blocking: without a reader the bench is gone, and the child had better fail than hang.
    fd = os.open(os.environ["BENCH_STAMPS"], os.O_WRONLY | os.O_NONBLOCK)
    os.write(fd, line)
    os.close(fd)


def linger(context: Plain) -> None:
    """Sleep until the stop, then take the time that a handler would need to finish."""
    while not context.stopping:
        context.wait(3600)
    time.sleep(DRAIN_S)


def serve(kind: str) -> None:
    """Be a child of that kind in this process, to the end. Does not return."""
    if kind == "tiny":
        tiny(Plain())
    else:
        import heavier  # type: ignore[import-not-found]

        getattr(heavier, kind)(Plain())
    # Without the interpreter's teardown, as our own children leave: no handicap for anyone.
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1])

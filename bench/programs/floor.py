"""The bare mechanism: fork, pidfd and one epoll, without any feature. What the platform allows.

A program of its own, started like the other contenders:
`python floor.py [--preload MODULE,...] KIND=COUNT ...`. It restarts what dies and, at TERM,
passes it on and leaves when all are gone.
"""

from __future__ import annotations

import gc
import importlib
import os
import selectors
import signal
import sys
from typing import NoReturn

import child  # type: ignore[import-not-found]


class Parent:
    """Forks, waits on one selector, forks again."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.children: dict[int, tuple[int, str]] = {}
        self.stopping = False
        self.wake_read, self.wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(self.wake_write)
        signal.signal(signal.SIGTERM, lambda *_: None)
        self.selector.register(self.wake_read, selectors.EVENT_READ)

    def fork(self, kind: str) -> None:
        """Start one child of that kind."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        pid = os.fork()
        if pid == 0:
            self.become(kind)
        pidfd = os.pidfd_open(pid)
        self.children[pidfd] = (pid, kind)
        self.selector.register(pidfd, selectors.EVENT_READ)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def become(self, kind: str) -> NoReturn:
        """Be the child. Does not return."""
        try:
            signal.set_wakeup_fd(-1)
            if kind == "flood":
                os.dup2(os.open(os.environ["BENCH_FLOOD_LOG"], os.O_WRONLY | os.O_CREAT), 1)
            child.serve(kind)
        finally:
            os._exit(70)

    def run(self) -> None:
        """Supervise until TERM has come and every child is gone."""
        while self.children or not self.stopping:
            for key, _ in self.selector.select():
                if key.fd == self.wake_read:
                    self.stop()
                else:
                    self.bury(key.fd)

    def stop(self) -> None:
        """Pass the TERM on."""
        os.read(self.wake_read, 4096)
        self.stopping = True
        for pidfd in self.children:
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)

    def bury(self, pidfd: int) -> None:
        """Reap a dead child, and replace it."""
        os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        self.selector.unregister(pidfd)
        os.close(pidfd)
        _, kind = self.children.pop(pidfd)
        if not self.stopping:
            self.fork(kind)


def main(arguments: list[str]) -> None:
    """Import what is to be shared, fork what was asked for, and watch it."""
    if arguments[0] == "--preload":
        for module in arguments[1].split(","):
            importlib.import_module(module)
        importlib.import_module("heavier")
        arguments = arguments[2:]
    gc.disable()
    gc.freeze()
    parent = Parent()
    for argument in arguments:
        kind, _, count = argument.partition("=")
        for _ in range(int(count)):
            parent.fork(kind)
    parent.run()


if __name__ == "__main__":
    main(sys.argv[1:])

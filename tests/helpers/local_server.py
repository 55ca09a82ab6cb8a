"""A real server of a test run, on a loopback port that it has found free by itself."""

from __future__ import annotations

import os
import random
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.helpers.eventually import PATIENCE_S, eventually

_PORTS = range(20000, 32000)
"""Below those from which the kernel gives out ports by itself."""


class LocalServer(ABC):
    """One server with a folder of its own; nothing of it outlives `close`."""

    STOP = signal.SIGTERM
    """Ends it in an orderly way, and at once."""

    def __init__(self, folder: Path, user: str | None = None) -> None:
        self.folder = folder
        self.user = user
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """Give the pid of the server that runs."""
        assert self._process is not None
        return self._process.pid

    def start_anywhere(self) -> None:
        """Start it on a port that nobody has."""
        eventually(lambda: self._begin(random.choice(_PORTS)))

    def start(self) -> None:
        """Start it again on the same port, with what its files hold."""
        assert self._begin(self.port), "the port is taken"

    def send(self, number: int) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """Let it answer nobody; no fork may happen meanwhile."""
        self.send(signal.SIGSTOP)
        try:
            yield
        finally:  # all other tests need it too
            self.send(signal.SIGCONT)

    def stop(self, number: int | None = None) -> None:
        """End it; what it has written stays in its folder."""
        assert self._process is not None
        self._process.send_signal(self.STOP if number is None else number)
        self._process.wait(PATIENCE_S)

    @property
    def is_running(self) -> bool:
        """Tell whether there is a process of it."""
        return self._process is not None and self._process.poll() is None

    @abstractmethod
    def command(self, port: int) -> list[str | Path]:
        """Give the words that start it in the foreground."""

    @abstractmethod
    def answers(self) -> bool:
        """Ask whether it is this one that answers on the port; some stranger may never do so."""

    def launched(self, words: Sequence[str | Path], **more: Any) -> subprocess.Popen[bytes]:
        """Start its process, as its user."""
        return subprocess.Popen(words, user=self.user, **more)

    def _begin(self, port: int) -> bool:
        """Start the server. False when the port belongs to somebody else."""
        with (self.folder / "log").open("ab") as log:
            self._process = self.launched(
                self.command(port), stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd="/"
            )
        self.port = port
        eventually(lambda: not self.is_running or self.answers())
        return self.is_running

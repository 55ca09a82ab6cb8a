"""A real redis-server of a test run, on a loopback port that it has found free by itself."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import redis

from tests.helpers.eventually import PATIENCE_S, eventually

_PORTS = range(20000, 32000)
"""Below those from which the kernel gives out ports by itself."""


class RedisServer:
    """One server with an append-only file; nothing of it outlives `close`."""

    def __init__(self, folder: Path, *, fsync: str = "everysec") -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("needs redis-server: apt-get install redis-server")
        self._folder = folder
        self._fsync = fsync
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        eventually(self._start_anywhere)

    @property
    def url(self) -> str:
        """Give where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        """Give the pid of the server that runs."""
        assert self._process is not None
        return self._process.pid

    def client(self, timeout_s: float = PATIENCE_S) -> redis.Redis:
        """Connect; close it."""
        return redis.Redis.from_url(self.url, socket_timeout=timeout_s)

    def empty(self) -> None:
        """Forget everything."""
        with self.client() as client:
            client.flushall()

    def send(self, number: int) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def stop(self, number: int = signal.SIGTERM) -> None:
        """End it; what it has written stays in its folder."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(PATIENCE_S)

    def start(self) -> None:
        """Start it again on the same port, with what its files hold."""
        assert self._begin(self.port), "the port is taken"

    def close(self) -> None:
        """End it for good."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def _start_anywhere(self) -> bool:
        return self._begin(random.choice(_PORTS))

    def _begin(self, port: int) -> bool:
        """Start the server. False when the port belongs to somebody else."""
        with (self._folder / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                [
                    *("redis-server", "--bind", "127.0.0.1", "--port", str(port)),
                    *("--dir", str(self._folder), "--save", "", "--appendonly", "yes"),
                    *("--appendfsync", self._fsync, "--daemonize", "no"),
                ],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        self.port = port

        def answers() -> bool:
            if process.poll() is not None:
                return True
            # Asked again and again: whoever has the port already may never answer.
            with self.client(timeout_s=1.0) as client:
                try:
                    return bool(client.info("server")["process_id"] == process.pid)
                except redis.RedisError:
                    return False

        eventually(answers)
        return process.returncode is None

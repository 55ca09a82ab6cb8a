"""A real redis-server of a test run."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

import pytest
import redis

from tests.helpers.eventually import PATIENCE_S
from tests.helpers.local_server import LocalServer


class RedisServer(LocalServer):
    """A Redis with an append-only file."""

    def __init__(self, folder: Path, *, fsync: str = "everysec") -> None:
        if shutil.which("redis-server") is None:
            pytest.skip("needs redis-server: apt-get install redis-server")
        super().__init__(folder)
        self._fsync = fsync
        self.options: dict[str, str] = {}
        self.start_anywhere()

    @property
    def url(self) -> str:
        """Give where it listens."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, timeout_s: float = PATIENCE_S) -> redis.Redis:
        """Connect; close it."""
        return redis.Redis.from_url(self.url, socket_timeout=timeout_s)

    def empty(self) -> None:
        """Forget everything."""
        with self.client() as client:
            client.flushall()

    def close(self) -> None:
        """End it for good, even if it stands still."""
        self.stop(signal.SIGKILL)

    def command(self, port: int) -> list[str | Path]:
        """Give the words that start it in the foreground."""
        options = [word for name, value in self.options.items() for word in (f"--{name}", value)]
        return [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port)),
            *("--dir", self.folder, "--save", "", "--appendonly", "yes"),
            *("--appendfsync", self._fsync, "--daemonize", "no"),
            *options,
        ]

    def answers(self) -> bool:
        """Compare its pid."""
        with self.client(timeout_s=1.0) as client:
            try:
                return bool(client.info("server")["process_id"] == self.pid)
            except redis.RedisError:
                return False

"""A real PostgreSQL of a test run."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from tests.helpers.eventually import PATIENCE_S
from tests.helpers.local_server import LocalServer

_CONNECT_S = 30
"""Whoever has the port already may never answer."""

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "50",
    "shared_buffers": "16MB",
    "autovacuum_naptime": "5s",
}


def _programs() -> Path:
    """Find the server's programs, of the newest version; they are not on the path on Debian."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: path.parts[4])
    if not found and shutil.which("initdb") is None:
        pytest.skip("needs PostgreSQL: apt-get install postgresql")
    return found[-1].parent if found else Path(str(shutil.which("initdb"))).parent


class PostgresServer(LocalServer):
    """A server in a new folder. It does not run as root: then as `nobody`.

    Without `durable` a commit is not awaited: a kill -9 loses nothing by that, only a power cut
    would.
    """

    STOP = signal.SIGINT
    """Takes its leave of nobody."""

    def __init__(self, *, durable: bool = False) -> None:
        self._programs = _programs()
        self._settings = {**_SETTINGS, "fsync": "on" if durable else "off"}
        user = "nobody" if os.geteuid() == 0 else None
        super().__init__(Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp")), user)
        if user is not None:
            shutil.chown(self.folder, user)
        try:
            subprocess.run(
                [
                    *(self._programs / "initdb", "-D", self._data, "-U", "tests"),
                    *("--auth", "trust", "-E", "UTF8", "--locale", "C", "--no-sync"),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd="/",
                user=user,
                timeout=PATIENCE_S,
            )
            self.start_anywhere()
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Give where it listens."""
        return f"postgresql://tests@127.0.0.1:{self.port}/postgres"

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """Give a cursor of a new connection, whose changes are committed at once."""
        with closing(psycopg2.connect(self.url, connect_timeout=_CONNECT_S)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor

    def empty(self) -> None:
        """Forget everything."""
        with self.cursor() as cursor:
            cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    def send(self, number: int) -> None:
        """Send a signal to it and to all its processes."""
        super().send(number)  # first: one that is stopped gets no more children
        for pid in self._children():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def close(self) -> None:
        """End it for good."""
        if self.is_running:
            self.send(signal.SIGCONT)
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder, ignore_errors=True)

    def command(self, port: int) -> list[str | Path]:
        """Give the words that start it in the foreground."""
        settings = self._settings.items()
        options = [word for name, value in settings for word in ("-c", f"{name}={value}")]
        return [self._programs / "postgres", "-D", self._data, "-p", str(port), *options]

    def answers(self) -> bool:
        """Compare its folder."""
        try:
            with self.cursor() as cursor:
                cursor.execute("SHOW data_directory")
                return bool(cursor.fetchone()[0] == self._data)
        except psycopg2.OperationalError:
            return False

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def _children(self) -> list[int]:
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in listed]

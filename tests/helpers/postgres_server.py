"""A real PostgreSQL of a test run, on a loopback port that it has found free by itself."""

from __future__ import annotations

import os
import random
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

from tests.helpers.eventually import PATIENCE_S, eventually

_PORTS = range(20000, 32000)
"""Below those from which the kernel gives out ports by itself."""

_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "fsync": "off",  # a kill -9 loses nothing by it, only a power cut would
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


class PostgresServer:
    """One server; nothing of it outlives `close`. It does not run as root: then as `nobody`."""

    def __init__(self) -> None:
        self._programs = _programs()
        self._user = "nobody" if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="pg-", dir="/tmp"))
        if self._user is not None:
            shutil.chown(self._folder, self._user)
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        try:
            subprocess.run(
                [
                    *(self._programs / "initdb", "-D", self._data, "-U", "tests"),
                    *("--auth", "trust", "-E", "UTF8", "--locale", "C", "--no-sync"),
                ],
                check=True,
                stdout=subprocess.DEVNULL,
                cwd="/",
                user=self._user,
                timeout=PATIENCE_S,
            )
            eventually(lambda: self._begin(random.choice(_PORTS)))
        except BaseException:
            self.close()
            raise

    @property
    def url(self) -> str:
        """Give where it listens."""
        return f"postgresql://tests@127.0.0.1:{self.port}/postgres"

    @property
    def pid(self) -> int:
        """Give the pid of the server that runs."""
        assert self._process is not None
        return self._process.pid

    @contextmanager
    def cursor(self) -> Iterator[Any]:
        """Give a cursor of a new connection, whose changes are committed at once."""
        with closing(psycopg2.connect(self.url)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor

    def empty(self) -> None:
        """Forget everything."""
        with self.cursor() as cursor:
            cursor.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")

    def send(self, number: int) -> None:
        """Send a signal to it and to all its processes."""
        os.kill(self.pid, number)  # first: one that is stopped gets no more children
        for pid in self._children():
            with suppress(ProcessLookupError):
                os.kill(pid, number)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it, by default as fast as it takes its leave of nobody."""
        assert self._process is not None
        self._process.send_signal(number)
        self._process.wait(PATIENCE_S)

    def start(self) -> None:
        """Start it again on the same port."""
        assert self._begin(self.port), "the port is taken"

    def close(self) -> None:
        """End it for good."""
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGCONT)
            self.stop(signal.SIGQUIT)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> str:
        return str(self._folder / "data")

    def _children(self) -> list[int]:
        listed = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in listed]

    def _begin(self, port: int) -> bool:
        """Start the server. False when the port belongs to somebody else."""
        options = [word for name, value in _SETTINGS.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = process = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data, "-p", str(port), *options],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                cwd="/",
                user=self._user,
            )
        self.port = port

        def answers() -> bool:
            if process.poll() is not None:
                return True
            try:
                with self.cursor() as cursor:
                    cursor.execute("SHOW data_directory")
                    return bool(cursor.fetchone()[0] == self._data)
            except psycopg2.OperationalError:
                return False

        eventually(answers)
        return process.returncode is None

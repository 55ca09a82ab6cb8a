"""Clients of the control socket that mean harm, run in a process of their own.

`python -m tests.helpers.hostile SOCKET COUNT` keeps so many of them busy until its stdin ends: a
quarter each sends garbage as fast as it is taken, lines of 10 MB, half a request, or nothing. Who
is hung up on comes again at once. Prints `busy` when all kinds have been served.
"""

from __future__ import annotations

import os
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_GARBAGE = b"\x00\xff{]not json\n" * 512
_LONG = b"x" * 65536
_LONG_BYTES = 10 * 1024 * 1024
_HALF = b'{"verb": "sta'


class Client:
    """One connection, made anew whenever it is lost."""

    def __init__(self, path: str, kind: int) -> None:
        self.kind = kind
        self.served = 0
        self._path = path
        self._connect()

    def _connect(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.setblocking(False)
        self.left = {0: 1 << 60, 1: _LONG_BYTES, 2: len(_HALF), 3: 0}[self.kind]
        # EAGAIN where the queue is full: asked again in the next round.
        self.is_in = self.socket.connect_ex(self._path) == 0

    def turn(self) -> None:
        """Do what can be done without waiting."""
        if not self.is_in:
            self.is_in = self.socket.connect_ex(self._path) == 0
            return
        try:
            with suppress(BlockingIOError):
                self._send()
            with suppress(BlockingIOError):
                if not self.socket.recv(65536):
                    raise ConnectionResetError
                self.served += 1
        except OSError:
            self.socket.close()
            self.served += 1
            self._connect()

    def _send(self) -> None:
        data = (_GARBAGE, _LONG, _HALF, b"")[self.kind]
        if self.left:
            self.left -= self.socket.send(data[: self.left])


def main() -> None:
    """Keep them busy until our stdin ends."""
    path, count = sys.argv[1], int(sys.argv[2])
    clients = [Client(path, number % 4) for number in range(count)]
    told = False
    while not select.select([0], [], [], 0.001)[0]:
        for client in clients:
            client.turn()
        kinds = {client.kind for client in clients if client.served}
        if not told and kinds >= {0, 1}:
            told = True
            os.write(1, b"busy\n")


@contextmanager
def hostile_clients(path: Path, count: int = 200) -> Iterator[None]:
    """Have so many of them beset a socket while the block runs."""
    words = [sys.executable, "-m", "tests.helpers.hostile", str(path), str(count)]
    root = Path(__file__).resolve().parents[2]
    with subprocess.Popen(
        words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"busy\n"
            yield
        finally:
            process.communicate()


if __name__ == "__main__":
    main()

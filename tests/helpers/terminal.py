"""A command on a terminal of its own, as an operator has it: what it shows, which keys it gets."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import sys
import termios
import time
from collections.abc import Mapping
from typing import Any, Self

from tests.helpers.eventually import PATIENCE_S

_ESCAPES = re.compile(rb"\x1b(\[[0-9;?]*[A-Za-z]|[()][A-Z0-9]|[=>])")


class Terminal:
    """Runs `supervisor WORDS` with a terminal for its three streams, and as its own session."""

    def __init__(
        self, *words: str, width: int = 100, height: int = 30, environment: Mapping[str, str]
    ) -> None:
        settings = {**os.environ, "TERM": "xterm", **environment}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            if name not in environment:
                settings.pop(name, None)
        self.raw = b""
        self._fd, its_end = pty.openpty()
        self._before: list[Any] = termios.tcgetattr(self._fd)
        _resize(its_end, width, height)
        self.pid = os.fork()
        if self.pid == 0:
            os.close(self._fd)
            os.login_tty(its_end)
            command = [sys.executable, "-m", "supervisor", *words]
            os.execve(sys.executable, command, settings)
        os.close(its_end)

    def __enter__(self) -> Self:
        """Give itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the command, if it has not ended."""
        os.close(self._fd)
        if self.pid:
            os.kill(self.pid, 9)
            os.waitpid(self.pid, 0)

    def wait_text(self, text: str) -> str:
        """Wait until this has been shown; gives all of it, without escape sequences."""
        deadline = time.monotonic() + PATIENCE_S
        while text not in (shown := _ESCAPES.sub(b"", self.raw).decode(errors="replace")):
            assert time.monotonic() < deadline, f"{text!r} is not shown: {shown}"
            assert self._read(), f"{text!r} was never shown: {shown}"
        return shown

    def press(self, keys: str) -> None:
        """Press keys."""
        os.write(self._fd, keys.encode())

    def wait_exit(self) -> int:
        """Read to the end, and give the exit code."""
        while self._read():
            pass
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def is_as_before(self) -> bool:
        """Say whether the settings of the terminal are those that the command has found."""
        return bool(termios.tcgetattr(self._fd) == self._before)

    def _read(self) -> bool:
        ready, _, _ = select.select((self._fd,), (), (), PATIENCE_S)
        assert ready, f"nothing more is shown: {self.raw!r}"
        try:
            piece = os.read(self._fd, 65536)
        except OSError:  # the other end is closed
            return False
        self.raw += piece
        return bool(piece)


def _resize(fd: int, width: int, height: int) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

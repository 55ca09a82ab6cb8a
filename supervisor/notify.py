"""sd_notify: the words that a service says to systemd, and that a program says to us.

Source: sd_notify(3). The protocol is one datagram of KEY=VALUE lines to the socket that
NOTIFY_SOCKET names; a leading @ means Linux's abstract namespace.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path


class Notifier:
    """Speaks to systemd; silent when nobody listens. Runs in: supervisor."""

    def __init__(self, address: str | None, watchdog_s: float | None = None) -> None:
        self._address = "\0" + address[1:] if address and address[0] == "@" else address
        self.watchdog_s = watchdog_s

    @classmethod
    def from_environment(cls) -> Notifier:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID as systemd sets them.

        The variables stay: an exec of the same pid needs them again. Children get none of them.
        """
        usec = os.environ.get("WATCHDOG_USEC", "")
        meant = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        watchdog_s = int(usec) / 1e6 if usec.isdigit() and int(usec) and meant else None
        return cls(os.environ.get("NOTIFY_SOCKET"), watchdog_s)

    @property
    def is_heard(self) -> bool:
        """Say whether anybody listens: without, there is no need to put words together."""
        return bool(self._address)

    def send(self, *lines: str) -> None:
        """Send the lines as one datagram; a manager that cannot take it now is not waited for."""
        if not self._address:
            return
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        # It is busy or gone, or we have no descriptor: the next word, or the watchdog, will tell.
        with suppress(OSError), socket.socket(socket.AF_UNIX, flags) as sock:
            sock.sendto("\n".join(lines).encode(), self._address)


class Listener:
    """The NOTIFY_SOCKET of one program: waits for its READY=1. Runs in: supervisor."""

    def __init__(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        self._sock = socket.socket(socket.AF_UNIX, flags)
        self._sock.bind(str(path))
        self.path = path

    def fileno(self) -> int:
        """Give the descriptor to wait on."""
        return self._sock.fileno()

    def take(self) -> dict[str, str]:
        """Take one datagram as its variables; {} when none is there or it makes no sense."""
        try:
            text = self._sock.recv(4096).decode("utf-8", "replace")
        except BlockingIOError:
            return {}
        pairs = (line.partition("=") for line in text.splitlines())
        return {key: value for key, separator, value in pairs if separator}

    def close(self) -> None:
        """Close the socket and remove its file, if that can be."""
        self._sock.close()
        with suppress(OSError):
            self.path.unlink()

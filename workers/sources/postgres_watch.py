"""A deadline for calls that libpq would wait for without end: it breaks their connection.

What a handler works with has to be an ordinary connection, which blocks its thread until there is
an answer. A server that stands still gives none, and acknowledges every byte all the same. So a
thread looks after the calls of this process, and shuts the socket of one that takes too long:
its call fails at once, as if the server had gone.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

_LOOKS: Final = 4
"""So many times within the time that a call may take it is looked at."""


class Watch:
    """Looks after the calls of one process; sleeps while there are none. From any thread."""

    def __init__(self, io_timeout: float) -> None:
        self._io_timeout = io_timeout
        self._lock = threading.Lock()
        self._calls: dict[int, float] = {}
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._was_used = False
        self._is_idle = False
        self._is_closed = False

    @contextmanager
    def over(self, connection: Any) -> Iterator[None]:  # noqa: ANN401 - psycopg2 has no types
        """Break the connection when what is done with it here takes longer than `io_timeout`."""
        fd = connection.fileno()
        with self._lock:
            self._calls[fd] = time.monotonic() + self._io_timeout
            if self._thread is None and not self._is_closed:
                self._thread = threading.Thread(target=self._look, name="deadlines", daemon=True)
                self._thread.start()
            self._was_used = True
            if self._is_idle:
                self._is_idle = False
                self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                self._calls.pop(fd, None)

    def close(self) -> None:
        """Look after nothing any more."""
        with self._lock:
            self._is_closed = True
            self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _look(self) -> None:
        while True:
            with self._lock:
                if self._is_closed:
                    return
                now = time.monotonic()
                for fd in [fd for fd, until in self._calls.items() if until <= now]:
                    del self._calls[fd]
                    shut(fd)
                # Where there was a call there will be another: it is not worth a wake-up each.
                self._is_idle = not self._calls and not self._was_used
                self._was_used = False
                self._wake.clear()
                pause = None if self._is_idle else self._io_timeout / _LOOKS
            self._wake.wait(pause)


def shut(fd: int) -> None:
    """Break a connection, whoever waits for it: it is closed by who uses it."""
    with suppress(OSError), socket.socket(fileno=os.dup(fd)) as peer:
        peer.shutdown(socket.SHUT_RDWR)

"""`start --daemonize`: the supervisor leaves the terminal, and the terminal learns what came of it.

Two forks and a new session between them, so that the daemon can never get a terminal again
(daemon(7)). A pipe leads back: the command returns when the master says "ready", or with its error.
The current folder and the umask stay, so that a job finds what it finds in the foreground.

Called by `launch` before anything heavy is loaded; `supervisor` writes the words of the master.
"""

from __future__ import annotations

import os
import select
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from supervisor.errors import ExitCode, SupervisorError

READY: Final = b"ready\n"
"""What the master writes on `ready_fd` once every required job is ready."""

SLOW_S: Final = 5.0
"""Whoever has waited so long wants to hear that the command lives, and what to do meanwhile."""

_NO_PROCESS: Final = "no process to run the supervisor in"

_END: Final = b"\0"
"""Before the exit code and a line end: the last word of a daemon that ends before it was ready."""


def last_word(code: int, message: str) -> bytes:
    """Give what goes up the pipe instead of READY: the error and the command's exit code."""
    return os.fsencode(message) + _END + b"%d\n" % code


class Daemon:
    """The daemon's end of the pipe. Runs in: the daemon."""

    def __init__(self, ready_fd: int) -> None:
        self.ready_fd = ready_fd
        # The master closes its own when it is ready; a copy stays for what happens before that.
        self._fd = os.dup(ready_fd)

    def log_to(self, path: Path) -> None:
        """Let go of the terminal: what is printed from now on goes to the end of this file.

        Raises: OSError when it cannot be written.
        """
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Without waiting: to open a FIFO that nobody reads would take for ever.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
        log_fd = os.open(path, flags, 0o600)
        for number in (1, 2):
            os.dup2(log_fd, number)
        os.close(log_fd)

    def end(self, code: int, message: str = "") -> None:
        """Tell the terminal, if it still waits, why it ends and with which exit code. Once."""
        if self._fd < 0:
            return
        # Nobody waits any more when the master was ready before.
        with suppress(BrokenPipeError):
            os.write(self._fd, last_word(code, message))
        os.close(self._fd)
        self._fd = -1


def detached(body: Callable[[Daemon], int], slow: Callable[[], None]) -> tuple[int, str]:
    """Run `body` in a daemon; give the exit code and the error for the terminal.

    Returns once the daemon is ready (0), or has ended before; when that takes longer than SLOW_S,
    `slow` is called once. A SupervisorError of `body` ends the daemon with its exit code. Runs in:
    the command line, single-threaded.
    Raises: SupervisorError when the kernel gives no process.
    """
    read_fd, write_fd = os.pipe()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    try:
        middle = os.fork()
    except OSError as error:
        raise SupervisorError(f"{_NO_PROCESS}: {error.strerror}") from None
    if middle == 0:
        _become_daemon(write_fd, body)
    os.close(write_fd)
    os.waitpid(middle, 0)
    try:
        poll = select.poll()
        poll.register(read_fd, select.POLLIN)
        if not poll.poll(SLOW_S * 1000):
            slow()
        return _verdict(read_fd)
    finally:
        os.close(read_fd)


def _become_daemon(write_fd: int, body: Callable[[Daemon], int]) -> None:
    """Never returns; whatever happens, no frame of the command line runs on in the daemon."""
    try:
        os.setsid()
        if os.fork() == 0:
            _live(write_fd, body)
    except OSError as error:
        os.write(write_fd, last_word(ExitCode.FAILED, f"{_NO_PROCESS}: {error.strerror}"))
    finally:
        os._exit(0)


def _live(write_fd: int, body: Callable[[Daemon], int]) -> None:
    code: int = ExitCode.FAILED
    try:
        _drop_descriptors(write_fd)
        daemon = Daemon(write_fd)
        try:
            code = body(daemon)
            daemon.end(code)
        except SupervisorError as error:
            code = error.code
            daemon.end(code, str(error))
        except BaseException as error:
            daemon.end(code, f"the supervisor failed: {error!r}")
            raise
    except BaseException:
        # The last edge of this process: the traceback belongs into the log file.
        traceback.print_exc()
    finally:
        with suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def _drop_descriptors(keep: int) -> None:
    """Close what was inherited, and stop reading and printing on the terminal.

    The error stream stays until the log file is known: a crash before that must be seen.
    """
    os.closerange(3, keep)
    os.closerange(keep + 1, 1 << 20)
    null_fd = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for number in (0, 1):
        os.dup2(null_fd, number)
    os.close(null_fd)


def _verdict(read_fd: int) -> tuple[int, str]:
    heard = b""
    while True:
        piece = os.read(read_fd, 65536)
        heard += piece
        if heard.startswith(READY):
            return ExitCode.OK, ""
        message, _, rest = heard.partition(_END)
        # The first verdict counts; that of the end may follow before we look.
        code, told, _ = rest.partition(b"\n")
        if not piece or told:
            break
    text = os.fsdecode(message).strip()
    if not told:
        return ExitCode.FAILED, text or "the supervisor was killed before it was ready"
    return int(code), text

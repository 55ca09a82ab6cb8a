"""Signals: blocked across a fork, carried to the loop by a pipe, reset in the child.

Source: signal(7), and Python's `signal.set_wakeup_fd`: the C handler writes the signal's number
into a pipe before any Python code runs, so the loop learns of it in its one wait and handlers
themselves do nothing.
"""

from __future__ import annotations

# The functions beneath those of `signal`, which make enum members of every number: 64 of each
# mask, four times a fork, which cost as much as the fork itself (measured: 0.4 ms of 0.9).
# type: ignore: CPython's own module, of which typeshed knows nothing.
import _signal  # type: ignore[import-not-found]
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

ALL = frozenset(signal.valid_signals())

MASTER = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGCHLD,
)
"""USR2 asks the children for their stacks; the master hears it too when it is sent to all, by
`systemctl kill` or `pkill`, and must not die of it."""

_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)

_UNCATCHABLE = (signal.SIGKILL, signal.SIGSTOP)

# What was ignored when we were started (nohup, a shell's background job) stays so over fork and
# exec. Looked up once: 64 questions in each child would cost a tenth of its start.
_INHERITED_IGNORED = tuple(
    number
    for number in sorted(ALL.difference(_UNCATCHABLE, _IGNORED_BY_PYTHON))
    if signal.getsignal(number) is signal.SIG_IGN
)

_RESET = tuple(map(int, (*MASTER, *_INHERITED_IGNORED)))


class Wakeup:
    """The pipe through which signals reach the loop of the master. Runs in: supervisor."""

    def __init__(self) -> None:
        self._read_fd, self._write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # A full pipe already means "signals are waiting"; a warning from C would help nobody.
        signal.set_wakeup_fd(self._write_fd, warn_on_full_buffer=False)
        for number in MASTER:
            signal.signal(number, _ignore_in_python)

    def fileno(self) -> int:
        """Give the read end, for the selector."""
        return self._read_fd

    def take(self) -> set[signal.Signals]:
        """Take what has arrived since the last call.

        A set, not a list: the kernel merges equal pending signals, so counts mean nothing.
        """
        try:
            return {signal.Signals(number) for number in os.read(self._read_fd, 4096)}
        except BlockingIOError:
            return set()

    def close(self) -> None:
        """Give the signals back their default action and close the pipe."""
        signal.set_wakeup_fd(-1)
        for number in MASTER:
            signal.signal(number, signal.SIG_DFL)
        os.close(self._read_fd)
        os.close(self._write_fd)


class EarlyStop(BaseException):
    """TERM or INT has come before there was anything to drain.

    Not an Exception: what is imported at a start may catch those.
    """


class Early:
    """What signals do between the first line of a start and the loop: TERM and INT end it at once.

    As PID 1 a signal without a handler would not even arrive. The others wait for nothing here,
    and must not kill: HUP of a start that reads its file just now has nothing to add.
    Runs in: supervisor.
    """

    def __init__(self) -> None:
        self.asked = False
        self._before = {number: signal.getsignal(number) for number in MASTER}
        for number in MASTER:
            ends = number in (signal.SIGTERM, signal.SIGINT)
            signal.signal(number, self._end if ends else _ignore_in_python)

    def check(self) -> None:
        """Raise what a module has swallowed that was imported meanwhile. Raises: EarlyStop."""
        if self.asked:
            raise EarlyStop

    def close(self) -> None:
        """Give the signals back to who had them before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _end(self, _number: int, _frame: FrameType | None) -> None:
        self.asked = True
        raise EarlyStop


def _ignore_in_python(_number: int, _frame: FrameType | None) -> None:
    """Stand in for the default action; the work is done by the wakeup pipe."""


@contextmanager
def blocked() -> Iterator[None]:
    """Hold back every signal for the time of a fork.

    Without it a signal sent to the new child before its reset runs the parent's C handler in the
    child and writes into the wakeup pipe that both share: the parent sees a signal that was not
    meant for it, and the child never does (measured: 299 of 300).
    """
    before = _signal.pthread_sigmask(signal.SIG_BLOCK, ALL)
    try:
        yield
    finally:
        _signal.pthread_sigmask(signal.SIG_SETMASK, before)


def reset_in_child() -> None:
    """Undo what the master set: default actions, no wakeup pipe. Runs in: child, signals blocked.

    SIGPIPE stays ignored, as in every Python: a lost connection is an exception, not a death. The
    mask is lifted by `unblock`, last of all.
    """
    signal.set_wakeup_fd(-1)
    for number in _RESET:
        _signal.signal(number, _signal.SIG_DFL)


def hand_on_pipe_signals() -> None:
    """Give back what Python ignores for itself, before another program is exec'd. Runs in: child.

    An ignored signal stays ignored over execve(2), and `yes | head` would never end.
    """
    for number in _IGNORED_BY_PYTHON:
        signal.signal(number, signal.SIG_DFL)


def unblock() -> None:
    """Let every signal through. Runs in: child."""
    _signal.pthread_sigmask(signal.SIG_SETMASK, ())


def name(number: int) -> str:
    """Give a signal's name without SIG ("TERM"), or its number when it has none (real-time)."""
    try:
        return signal.Signals(number).name.removeprefix("SIG")
    except ValueError:
        return str(number)


def parse(text: str) -> signal.Signals:
    """Read `TERM`, `SIGTERM` or `15`. Raises: ValueError when there is no such signal."""
    word = text.strip().upper()
    if word.isdigit():
        return signal.Signals(int(word))
    try:
        return signal.Signals[word if word.startswith("SIG") else f"SIG{word}"]
    except KeyError:
        raise ValueError(f"no such signal: {text}") from None

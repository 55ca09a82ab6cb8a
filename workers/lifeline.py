"""The child's line to the master: one small thread that hears every order, whatever the work does.

It waits for lines on the control pipe, for the end of that pipe (the master is dead), and for
signals. A signal reaches it even while the main thread is stuck in a call that never returns to
Python: the C handler writes into the wakeup pipe at once, and this thread is the one that reads
it. It sets the stop token, passes on who has fallen, and holds the last deadlines: what has to end
ends, also when nobody else in the process runs any more.
"""

from __future__ import annotations

# The functions beneath those of `signal`, which try each argument as an enum first: an exception
# for every handler that is a function, five times a start.
# type: ignore: CPython's own module, of which typeshed knows nothing.
import _signal  # type: ignore[import-not-found]
import _thread
import json
import logging
import os
import select
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Final

from supervisor import slot
from supervisor.errors import ExitCode
from supervisor.slot import Fallen
from workers.stop import StopToken

FAST_S: Final = 1.0
"""What a fast stop leaves to what is in flight."""

_MARGIN_S: Final = 0.5
"""How much later the alarm clock ends a process that this thread could not."""

_STOPS: Final = frozenset({signal.SIGTERM, signal.SIGINT})

_OF_THE_MASTER: Final = (signal.SIGHUP, signal.SIGUSR1)
"""Words for the master that often reach everybody: `systemctl kill -s USR1` after a log rotation,
`pkill -HUP supervisor`. By default they would kill us in the middle of the work."""

_UNCATCHABLE: Final = frozenset({signal.SIGKILL, signal.SIGSTOP})

_LONGEST_LINE: Final = 1 << 20

_log = logging.getLogger(__name__)


class Lifeline:
    """Reads the master's orders in a thread of its own. Runs in: child.

    `listen` is called once, from the main thread; `fallen` is called from the lifeline's thread
    for each sibling that died, and must not block.
    """

    def __init__(
        self,
        control_fd: int,
        stop: StopToken,
        stop_timeout: float,
        stop_signal: int = signal.SIGTERM,
    ) -> None:
        self._control_fd = control_fd
        self._stop = stop
        self._stop_timeout = stop_timeout
        self._stops = _STOPS | ({stop_signal} - _UNCATCHABLE)
        self._handled = {*self._stops, *_OF_THE_MASTER}
        self._buffer = b""
        self._deadlines: list[tuple[float, int]] = []
        self._signal_fd, self._signal_write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._nudge_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._masks: dict[int, set[int]] = {}  # by thread: several may fork at once
        self.fallen: Callable[[Fallen], None] | None = None
        self._orphaned = False

    def let_go(self) -> None:
        """Close what it has opened, where it never listens."""
        for fd in (self._signal_fd, self._signal_write_fd, self._nudge_fd):
            os.close(fd)

    def listen(self) -> None:
        """Begin. From here on TERM and INT are a stop, and a dead master is one too."""
        signal.set_wakeup_fd(self._signal_write_fd, warn_on_full_buffer=False)
        for number in self._handled:
            _signal.signal(number, _ignore_in_python)
        os.set_blocking(self._control_fd, False)
        os.register_at_fork(
            before=self._hold_signals,
            after_in_parent=self._free_signals,
            after_in_child=self._let_go,
        )
        # Not threading.Thread, whose start waits until the thread runs: a tenth of our own start.
        _thread.start_new_thread(self._run, ())

    def expire(self, seconds: float, code: int) -> None:
        """End the process by force, after so long, unless it has gone by then."""
        self._deadlines.append((time.monotonic() + seconds, code))
        os.eventfd_write(self._nudge_fd, 1)

    def _run(self) -> None:
        """Listen for ever. Without this thread the process would be deaf: it does not outlive it.

        What ends it is a handler that has closed descriptors that are not its own.
        """
        try:
            self._listen()
        finally:
            traceback.print_exc()
            os._exit(ExitCode.INTERNAL)

    def _listen(self) -> None:
        poll = select.poll()
        for fd in (self._control_fd, self._signal_fd, self._nudge_fd):
            poll.register(fd, select.POLLIN)
        while True:
            ready = {fd for fd, _ in poll.poll(self._patience_ms())}
            if self._nudge_fd in ready:
                os.eventfd_read(self._nudge_fd)
            # The pipe before the signal, whichever woke us: it says why. The master writes there
            # first, and the kernel closes it before it sends the signal of its death.
            if not self._orphaned and not self._take_orders():
                poll.unregister(self._control_fd)
                self._on_orphaned()
            if self._signal_fd in ready:
                self._take_signals()
            self._enforce()

    def _patience_ms(self) -> int | None:
        if not self._deadlines:
            return None
        return max(0, int((min(self._deadlines)[0] - time.monotonic()) * 1000) + 1)

    def _enforce(self) -> None:
        if self._deadlines and min(self._deadlines)[0] <= time.monotonic():
            os._exit(min(self._deadlines)[1])

    def _take_signals(self) -> None:
        numbers = set(os.read(self._signal_fd, 4096))
        if numbers & self._stops:
            self._stop.set("stop")

    def _take_orders(self) -> bool:
        """Obey what has come. Gives False at the end of the pipe."""
        try:
            text = os.read(self._control_fd, 65536)
        except BlockingIOError:
            return True
        *lines, self._buffer = (self._buffer + text).split(b"\n")
        self._buffer = self._buffer[-_LONGEST_LINE:]
        for line in lines:
            self._obey(line)
        return bool(text)

    def _obey(self, line: bytes) -> None:
        word, _, rest = line.partition(b" ")
        if word == slot.STOP:
            self._stop.set(rest.decode(errors="replace") or "stop")
        elif word == slot.FAST:
            if not self._stop.fast.is_set():
                self._stop.hurry()
                self.expire(FAST_S, ExitCode.FAILED)
        elif word in (slot.QUIET, slot.RESUME):
            self._stop.lull(quiet=word == slot.QUIET)
        elif word == slot.LEVEL:
            logging.getLogger().setLevel(rest.decode().upper())
        elif word == slot.FALLEN:
            self._pass_on(rest)
        else:
            _log.warning("unknown order from the supervisor: %r", line[:200])

    def _pass_on(self, text: bytes) -> None:
        try:
            fallen = Fallen.decode(text)
        except (json.JSONDecodeError, KeyError, TypeError):
            _log.exception("unreadable order from the supervisor: %r", text[:200])
            return
        if self.fallen is not None:
            self.fallen(fallen)

    def _on_orphaned(self) -> None:
        """Drain, since the master is dead, and leave within the time of an ordinary stop.

        The output pipes have lost their reader too: a print must not turn a handler that is about
        to finish its message into a failed one. Killed by the alarm clock when even this thread
        does not get to run any more (SIGALRM's default action needs no Python).
        """
        with suppress(OSError):  # a handler may hold all descriptors that we may have
            null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
            os.dup2(null, 1)
            os.dup2(null, 2)
        self._orphaned = True
        # Armed before anybody is told: the one who is may never let this thread run again.
        signal.setitimer(signal.ITIMER_REAL, self._stop_timeout + _MARGIN_S)
        self.expire(self._stop_timeout, ExitCode.FAILED)
        self._stop.set("the supervisor is dead")

    def _hold_signals(self) -> None:
        # Held back until the fork has let go of our wakeup pipe: see `_let_go`.
        self._masks[_thread.get_ident()] = _signal.pthread_sigmask(signal.SIG_BLOCK, self._handled)

    def _free_signals(self) -> None:
        _signal.pthread_sigmask(signal.SIG_SETMASK, self._masks.pop(_thread.get_ident()))

    def _let_go(self) -> None:
        """Be an ordinary process again, in a fork that a handler made of this one.

        It shares the wakeup pipe: a TERM to it (multiprocessing's `terminate`) would otherwise
        stop this process instead, and not the one that was meant.
        """
        signal.set_wakeup_fd(-1)
        for number in self._handled:
            if signal.getsignal(number) is _ignore_in_python:
                signal.signal(number, signal.SIG_DFL)
        self._free_signals()


def _ignore_in_python(_number: int, _frame: FrameType | None) -> None:
    """Stand in for the default action; the work is done by the wakeup pipe."""

"""What the master says of itself to the outside, unasked: `ps`, systemd, and who has started it.

Runs in: supervisor.
"""

from __future__ import annotations

import logging
import os
import time

import setproctitle

from supervisor import daemonize
from supervisor.config import Config
from supervisor.errors import ExitCode
from supervisor.lines import escape
from supervisor.loop import Loop, now
from supervisor.notify import Notifier
from supervisor.seat import Seat, Seats
from supervisor.states import State

_log = logging.getLogger("supervisor")


class Outside:
    """The title in `ps`, the words of sd_notify, and the one word to `start --daemonize`."""

    def __init__(self, config: Config, loop: Loop, seats: Seats, ready_fd: int | None) -> None:
        self._config = config
        self._loop = loop
        self._seats = seats
        self._ready_fd = ready_fd
        self._was_ready = False
        self._is_stopping = False
        self._is_quiet = False
        self._notifier = Notifier.from_environment()
        self._show_title("starting")

    def watch(self) -> None:
        """Begin to tell systemd that we live, where it asked for that."""
        if self._notifier.watchdog_s:
            self._pat_watchdog()

    def changed(self) -> None:
        """Tell what has become of us at the end of this turn, once, however much has changed."""
        self._loop.at(self, now(), self._tell)

    def stopping(self) -> None:
        """Tell that everything drains now."""
        self._is_stopping = True
        self._notifier.send("STOPPING=1", "STATUS=draining")
        self._show_title("draining")

    def quiet(self, is_quiet: bool) -> None:
        """Tell whether all of us takes nothing new."""
        self._is_quiet = is_quiet
        if not self._is_stopping:
            self._show_title(self._state())
            self.changed()

    def _state(self) -> str:
        if self._is_quiet:
            return "quiet"
        return "ready" if self._was_ready else "starting"

    def reloading(self) -> None:
        """Tell that the configuration is being reloaded, as sd_notify(3) wants it."""
        # Not before READY=1: the end of the reload would be taken for it.
        if self._was_ready and not self._is_stopping:
            usec = time.monotonic_ns() // 1000
            self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={usec}", "STATUS=reloading")

    def reloaded(self) -> None:
        """Tell that the reload is over, however it went."""
        if self._was_ready and not self._is_stopping:
            self._notifier.send("READY=1")
            self.changed()

    def fatal(self, seat: Seat) -> None:
        """Tell the one who has started us that a required job will not come up."""
        words = f"{seat.name} is FATAL: {seat.status.why}"
        self._tell_starter(daemonize.last_word(ExitCode.FAILED, words))

    def _tell(self) -> None:
        if self._is_stopping:
            return
        if not self._was_ready and self._seats.ready(now()):
            self._was_ready = True
            self._show_title(self._state())
            _log.info("ready: every required job is")
            self._notifier.send("READY=1")
            self._tell_starter(daemonize.READY)
        if self._notifier.is_heard:
            self._notifier.send(f"STATUS={self._summary()}")

    def _summary(self) -> str:
        """Say in a few words how it goes, for `systemctl status`."""
        seats = [seat for seat in self._seats.by_name.values() if not seat.leaving]
        ready = sum(seat.ready(now()) for seat in seats)
        trouble = [
            f"{seat.name} {seat.status.state.name}"
            for seat in seats
            if seat.status.state in (State.BACKOFF, State.FATAL)
        ]
        quiet = ["quiet"] if self._is_quiet else []
        return "; ".join([f"{ready} of {len(seats)} ready", *quiet, *trouble[:3]])

    def _tell_starter(self, word: bytes) -> None:
        if self._ready_fd is None:
            return
        try:
            os.write(self._ready_fd, word)
        except BrokenPipeError:
            _log.warning("nobody waited for this supervisor to be ready")
        os.close(self._ready_fd)
        self._ready_fd = None

    def _show_title(self, state: str) -> None:
        path = escape(str(self._config.path))
        setproctitle.setproctitle(f"supervisor: master [{self._config.name}] {path} ({state})")

    def _pat_watchdog(self) -> None:
        """Say that a turn of the loop came to its end; by deadline, not when idle.

        A third of the limit leaves room for two that come late. Source: sd_watchdog_enabled(3)
        """
        assert self._notifier.watchdog_s is not None, "armed only where systemd asked for it"
        self._notifier.send("WATCHDOG=1")
        self._loop.at("watchdog", now() + self._notifier.watchdog_s / 3, self._pat_watchdog)

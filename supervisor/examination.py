"""The check before a reload: in a short-lived child, while the supervisor goes on.

The child reads the files, imports every handler (`probe`), and hands back what it has read: what
is applied then is what was checked, whatever becomes of the files meanwhile. The master keeps one
pipe and one pidfd for it, waits for nothing, and never runs the user's code. Called by
`reloading`; runs in: supervisor, and in the child.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Final, NoReturn

from supervisor import bytecode, kernel, reload, signals
from supervisor.config import Config
from supervisor.errors import ConfigError, Problem, SupervisorError
from supervisor.loading import load
from supervisor.loop import READ, Loop, now
from supervisor.probe import probe

PROBE_S: Final = 60.0
"""How long the imports of all handlers may take together."""

LIMIT_S: Final = PROBE_S + 15.0
"""How long the whole check may take."""

_MOST_BYTES: Final = 64 << 20
_LENGTH_BYTES: Final = 8

_log = logging.getLogger("supervisor")


@dataclass(frozen=True, slots=True)
class Finding:
    """What the check has found: a configuration and its plan, or what is wrong."""

    config: Config | None
    problems: tuple[Problem, ...] = ()


class Examination:
    """One check on its way; `done` is called once with its finding.

    `detached_log` is where a daemon logs whose file names no `log_file`.
    Raises: OSError when the kernel gives no process.
    """

    def __init__(
        self,
        loop: Loop,
        running: Config,
        detached_log: Path | None,
        done: Callable[[Finding], None],
    ) -> None:
        self._loop = loop
        self._running = running
        self._done = done
        self._heard = bytearray()
        self._read_fd, write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with signals.blocked():
                pid = os.fork()
                if pid == 0:
                    _run(running, detached_log, write_fd)
            self._pidfd = kernel.pidfd_of_child(pid)
        except OSError:
            os.close(self._read_fd)
            raise
        finally:
            os.close(write_fd)
        try:
            loop.watch(self._read_fd, READ, lambda _mask: self._hear())
            # The process's end counts, not the pipe's: somebody else may hold that for ever.
            loop.watch(self._pidfd, READ, lambda _mask: self._on_end())
        except OSError:
            self._leave()
            raise
        loop.at(self, now() + LIMIT_S, partial(self.fail, "took too long and was ended"))

    def fail(self, words: str) -> None:
        """End it, and give as its finding what has become of it."""
        self._leave()
        problem = Problem(str(self._running.path), 0, "", "", f"the check of it {words}")
        self._done(Finding(None, (problem,)))

    def _hear(self) -> None:
        try:
            while piece := os.read(self._read_fd, 1 << 16):
                self._heard += piece
                if len(self._heard) > _MOST_BYTES:
                    self.fail("gave no sensible answer")
                    return
        except BlockingIOError:
            self._try_to_finish()
            return
        self._loop.unwatch(self._read_fd)
        self._try_to_finish()

    def _on_end(self) -> None:
        with suppress(BlockingIOError):
            while piece := os.read(self._read_fd, 1 << 16):
                self._heard += piece
        if not self._try_to_finish():
            self.fail("ended without an answer; is there memory enough?")

    def _try_to_finish(self) -> bool:
        length = int.from_bytes(self._heard[:_LENGTH_BYTES])
        if len(self._heard) < _LENGTH_BYTES or len(self._heard) < _LENGTH_BYTES + length:
            return False
        try:
            finding = _read(bytes(self._heard[_LENGTH_BYTES:]))
        except Exception:
            _log.exception("the check of the configuration gave no sensible answer")
            self.fail("gave no sensible answer")
            return True
        self._leave()
        self._done(finding)
        return True

    def _leave(self) -> None:
        """Let go of the child; whatever it has begun dies with it."""
        self._loop.cancel(self)
        for fd in (self._read_fd, self._pidfd):
            self._loop.unwatch(fd)
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        # Where it is not dead yet, it is reaped with the orphans, at its SIGCHLD.
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        os.close(self._read_fd)
        os.close(self._pidfd)


def _read(text: bytes) -> Finding:
    """Read what our child has written. Of classes it may name only those of a configuration."""
    # Here: a supervisor that never reloads needs no pickle.
    import pickle

    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> object:
            if module.startswith("supervisor.") or (module, name) in _KNOWN:
                found = super().find_class(module, name)
                if isinstance(found, type):
                    return found
            raise pickle.UnpicklingError(f"{module}.{name} is no part of a configuration")

    finding = Reader(BytesIO(text)).load()
    assert isinstance(finding, Finding), "our own child writes nothing else"
    return finding


_KNOWN: Final = frozenset(
    {("pathlib", "PosixPath"), ("pathlib._local", "PosixPath"), ("builtins", "frozenset")}
)


# What follows runs in the child.


def _run(running: Config, detached_log: Path | None, write_fd: int) -> NoReturn:
    """Check the files and leave. Runs in: child; signals blocked."""
    code = 1
    try:
        _settle(running, write_fd)
        _write(write_fd, _examined(running, detached_log))
        code = 0
    finally:
        os._exit(code)


def _settle(running: Config, write_fd: int) -> None:
    """Become a process of its own, with no descriptor of the master's but its own pipe."""
    os.setsid()
    signals.reset_in_child()
    kernel.die_with_parent(signal.SIGKILL)
    signal.alarm(int(LIMIT_S) + 1)
    null = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):
        os.dup2(null, fd)
    os.closerange(3, write_fd)
    os.closerange(write_fd + 1, os.sysconf("SC_OPEN_MAX"))
    os.set_blocking(write_fd, True)
    logging.getLogger().handlers.clear()
    signals.unblock()
    # Here: nobody but a child has a title to set.
    import setproctitle

    setproctitle.setproctitle(f"supervisor: check [{running.name}]")


def _examined(running: Config, detached_log: Path | None) -> Finding:
    """Check; a machine that has nothing to give is a finding too."""
    try:
        return _examine(running, detached_log)
    except (OSError, MemoryError, SupervisorError) as error:
        words = f"cannot be checked: {type(error).__name__}: {error}"
        return Finding(None, (Problem(str(running.path), 0, "", "", words),))


def _examine(running: Config, detached_log: Path | None) -> Finding:
    try:
        read = load(running.path)
    except ConfigError as error:
        return Finding(None, error.problems)
    config = _as_started(read, running, detached_log)
    with bytecode.kept_in(running.state_dir):
        problems = probe(reload.merged(running, config), PROBE_S)
    return Finding(None if problems else config, problems)


def _as_started(config: Config, running: Config, detached_log: Path | None) -> Config:
    """Give what depends on how the supervisor was started, and not on its file."""
    if "log_format" not in config.origins:
        config = replace(config, log_format=running.log_format)
    if config.log_file is None and detached_log is not None:
        config = replace(config, log_file=detached_log)
    return config


def _write(fd: int, finding: Finding) -> None:
    import pickle

    text = pickle.dumps(finding)
    data = len(text).to_bytes(_LENGTH_BYTES) + text
    while data:
        data = data[os.write(fd, data) :]

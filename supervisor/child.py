"""The child's side of a fork: from a copy of the master to a clean process of its own.

`enter` runs once in each child, with all signals blocked, and never returns: a child must not
unwind into the loop of its parent. What it undoes and why each line is there was measured
(a child that keeps the wakeup pipe swallows its signals; one that keeps the write end of another's
control pipe keeps that one from seeing the master's death; an inherited epoll makes the master
deaf). Order matters: descriptors before the session, the lock before anything of its own, the
death signal before the check of the parent, and again after a change of user, which clears it;
what needs root before that change (`rights`), what is the user's own after it (the environment
with its secrets), the mask last of all.
"""

from __future__ import annotations

import atexit
import fcntl
import gc
import importlib
import io
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, NoReturn

import setproctitle

from supervisor import cgroups, kernel, rights, seatlock, signals
from supervisor.errors import ExitCode, SupervisorError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

SYSTEMD_VARIABLES: Final = (
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
    "LISTEN_PID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "SYSTEMD_EXEC_PID",
    "MANAGERPID",
    "MAINPID",
)
"""What systemd says to the master, and to nobody else. Source: systemd.exec(5)"""

MARK: Final = "SUPERVISOR_PROCESS"
"""The variable by which a descendant is known to its slot: INSTANCE/JOB:PROCESS."""


_INTERNAL: Final = int(ExitCode.INTERNAL)

AS_MASTER: Final = rights.Rights()
"""What a child has that is given nothing else."""


@dataclass(frozen=True, slots=True)
class Outfit:
    """What every child of a master needs and none has to make for itself.

    `stdout` and `stderr` are Python's streams over the descriptors 1 and 2. `of_master` are those
    that they replace, kept alive: the child that drops them would close them, page by page.
    `unwanted` are the variables of the environment that are meant for the master alone.
    """

    stdout: io.TextIOWrapper
    stderr: io.TextIOWrapper
    of_master: tuple[object, ...]
    unwanted: tuple[str, ...]


class _Output(io.FileIO):
    """What a child prints to; a print without a reader is lost, and no error.

    Nobody reads when the master is dead, and a handler may print before the runtime hears of that.
    """

    def write(self, data: ReadableBuffer, /) -> int:
        """Write as much as goes in; all of it where nobody reads."""
        try:
            return super().write(data)
        except BrokenPipeError:
            return memoryview(data).nbytes


def make_outfit() -> Outfit:
    """Make the streams of all children, once. Runs in: supervisor.

    The master's own cannot be theirs: a stream remembers what kind of file was behind its
    descriptor, and is buffered in blocks where that was no terminal. These are made while a pipe
    is behind it, as in a child, and write by lines: a print is seen when it is made. Made in each
    child they would take a tenth of its start and of its memory.
    """
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    try:
        return Outfit(
            stdout=_stream_over(1, write_end),
            stderr=_stream_over(2, write_end),
            of_master=(sys.stdout, sys.stderr, sys.__stdout__, sys.__stderr__),
            unwanted=tuple(name for name in SYSTEMD_VARIABLES if name in os.environ),
        )
    finally:
        os.close(read_end)
        os.close(write_end)


def _stream_over(fd: int, pipe: int) -> io.TextIOWrapper:
    real = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.dup2(pipe, fd)
    try:
        raw = io.BufferedWriter(_Output(fd, "w", closefd=False))
        return io.TextIOWrapper(raw, "utf-8", "backslashreplace", line_buffering=True)
    finally:
        os.dup2(real, fd)
        os.close(real)


@dataclass(frozen=True, slots=True)
class Launch:
    """What a new process is to become. `environment` is called in the child: it reads secrets."""

    name: str
    title: str
    mark: str
    parent: int
    stdout: int
    stderr: int
    outfit: Outfit
    keep: tuple[int, ...]
    state_dir: Path
    stop_timeout: float
    death_signal: int
    directory: Path | None
    environment: Callable[[], Mapping[str, str]] | None
    nofile: tuple[int, int]
    rights: rights.Rights = AS_MASTER
    inherit_environment: bool = True
    cgroup: Path | None = None


def enter(launch: Launch, work: Callable[[], int]) -> NoReturn:
    """Become the process that `launch` describes, do the work, and leave with its exit code.

    Runs in: child, signals blocked. `work` may also exec another program, and then never returns.
    """
    code = _INTERNAL
    try:
        _try_to_become(launch)
        signals.unblock()
        code = work()
    except SystemExit as end:
        code = _code_of(end)
    except BaseException:
        # The one edge above which there is nothing but the master's own stack.
        traceback.print_exc()
    finally:
        _leave(code)


def work(slot: object) -> int:
    """Hand the slot to the workers' runtime, by name: a broken worker cannot hurt the parent.

    Runs in: child. With `preload = none` this is where the runtime is imported at all.
    """
    runtime = sys.modules.get("workers.runtime") or importlib.import_module("workers.runtime")
    main: Callable[[object], int] = runtime.main
    return main(slot)


def exec_program(command: tuple[str, ...]) -> int:
    """Replace this process by a program, searched in PATH. Runs in: child.

    Returns only when that failed, with the shell's exit codes: 127 not found, 126 not executable.
    """
    signals.hand_on_pipe_signals()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        sys.stderr.write(f"cannot run {command[0]}: no such file in PATH or in {os.getcwd()}\n")
        return 127
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]}: {error.strerror}\n")
        return 126


def _try_to_become(launch: Launch) -> None:
    """Say in one line what the machine refused: a folder or a secret that is not there."""
    try:
        _become(launch)
    except (OSError, ValueError, SupervisorError) as error:
        # ValueError: a secret that is no text, or no text for a variable.
        sys.stderr.write(f"cannot start {launch.name}: {error}\n")
        _leave(error.code if isinstance(error, SupervisorError) else ExitCode.FAILED)


def _become(launch: Launch) -> None:
    signals.reset_in_child()
    os.setsid()
    _redirect(launch)
    if launch.cgroup is not None:
        cgroups.join(launch.cgroup)
    _die_with_parent(launch)
    _sit_down(launch)
    atexit._clear()
    setproctitle.setproctitle(launch.title)
    rights.restrict(launch.rights, launch.nofile)
    if launch.directory is not None:
        os.chdir(launch.directory)
    if rights.drop(launch.rights):
        _die_with_parent(launch)
    for name in launch.outfit.unwanted:
        del os.environ[name]
    rights.clothe(os.environ, launch.rights.user, inherit=launch.inherit_environment)
    # As the user of the job: a secret is read by who may read it, and by nobody above him.
    if launch.environment is not None:
        for name, value in launch.environment().items():
            os.environ[name] = value
    os.environ[MARK] = launch.mark
    # What has come since the master froze its objects is not ours to collect either.
    gc.freeze()


def _die_with_parent(launch: Launch) -> None:
    kernel.die_with_parent(launch.death_signal)
    if os.getppid() != launch.parent:
        # The master died between the fork and the line above; nobody would ever tell us.
        os._exit(ExitCode.FAILED)


def _redirect(launch: Launch) -> None:
    os.dup2(launch.stdout, 1)
    os.dup2(launch.stderr, 2)
    lowest = 3
    for fd in sorted(launch.keep):
        os.closerange(lowest, fd)
        lowest = fd + 1
    os.closerange(lowest, os.sysconf("SC_OPEN_MAX"))
    # Only now: the master may have had no descriptor left.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)
    out, err = launch.outfit.stdout, launch.outfit.stderr
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__ = out, err  # type: ignore[misc]  # final only for those who did not fork


def _sit_down(launch: Launch) -> None:
    try:
        user = launch.rights.user
        owner = None if os.geteuid() != 0 else 0 if user is None else user.uid
        fd = seatlock.take(launch.state_dir, launch.name, launch.stop_timeout, owner)
    except BlockingIOError:
        sys.stderr.write(f"another process of {launch.name} is alive; this one leaves\n")
        _leave(ExitCode.ALREADY_RUNNING)
    # An exec'd program carries the lock on: a record lock lasts while the process lives and no
    # descriptor of the file is closed.
    os.set_inheritable(fd, True)


def _code_of(end: SystemExit) -> int:
    if end.code is None:
        return int(ExitCode.OK)
    if isinstance(end.code, int):
        return end.code & 0xFF
    sys.stderr.write(f"{end.code}\n")
    return int(ExitCode.FAILED)


def _leave(code: int) -> NoReturn:
    """Leave without the interpreter's teardown, which costs 50 ms and runs the master's hooks."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            continue  # the reader is gone, or the worker closed it: nobody to tell
    os._exit(code)

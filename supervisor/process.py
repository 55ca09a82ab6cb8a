"""The parent's handle of one child: spawn it, talk to it, signal it, reap it.

Each process is one fork with two pipes of its own beside its output: the control pipe, whose only
writer is the master, so that its end means the master's death; and the report pipe upwards. Its
death is a pidfd that turns readable: no pid can be reused under our hands, nobody else's child is
reaped, and a signal sent after the reaping goes nowhere. Runs in: supervisor.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from supervisor import kernel, signals
from supervisor.child import Launch, enter
from supervisor.errors import SpawnError


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended: by an exit code, or by a signal; maybe the kernel's, for its memory."""

    code: int | None
    signal: int | None
    out_of_memory: bool = False


@dataclass(frozen=True, slots=True)
class Pipes:
    """The four pipes of one child, each as (read end, write end)."""

    control: tuple[int, int]
    report: tuple[int, int]
    stdout: tuple[int, int]
    stderr: tuple[int, int]

    @classmethod
    def make(cls) -> Pipes:
        """Open them all or none. Raises: OSError (EMFILE, ENFILE)."""
        made: list[tuple[int, int]] = []
        try:
            for _ in range(4):
                made.append(os.pipe2(os.O_CLOEXEC))  # noqa: PERF401  a comprehension would lose what was opened before the error
        except OSError:
            for read_end, write_end in made:
                os.close(read_end)
                os.close(write_end)
            raise
        pipes = cls(*made)
        # The master never waits for a child: neither for it to read nor for it to write.
        for fd in (pipes.control[1], pipes.report[0], pipes.stdout[0], pipes.stderr[0]):
            os.set_blocking(fd, False)
        return pipes

    def highest(self) -> int:
        """Give the highest number of them all."""
        return max(*self.control, *self.report, *self.stdout, *self.stderr)

    def close_ends_of_child(self) -> None:
        """Close what only the child may hold, or a pipe's end could never be seen."""
        for fd in (self.control[0], self.report[1], self.stdout[1], self.stderr[1]):
            os.close(fd)

    def close_ends_of_master(self) -> None:
        """Close what is left in the master when the child is gone."""
        for fd in (self.control[1], self.report[0], self.stdout[0], self.stderr[0]):
            os.close(fd)


class Process:
    """One living or just dead child, as the master holds it."""

    def __init__(self, pid: int, pidfd: int, pipes: Pipes) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self._control_fd = pipes.control[1]
        self._pipes = pipes

    def streams(self) -> tuple[tuple[int, str], ...]:
        """Give the descriptors that the master reads, each with the name of its stream."""
        pipes = self._pipes
        return (
            (pipes.stdout[0], "stdout"),
            (pipes.stderr[0], "stderr"),
            (pipes.report[0], "report"),
        )

    def tell(self, line: bytes) -> bool:
        """Write one line down the control pipe.

        Returns False when it did not go in: a child that does not read its orders for 64 KiB is
        deaf, and the next reminder or the kill is for it; one that has just died needs none.
        """
        try:
            return os.write(self._control_fd, line + b"\n") == len(line) + 1
        except (BlockingIOError, BrokenPipeError):
            return False

    def signal(self, number: int) -> None:
        """Send a signal to the process itself; one that is dead does not mind.

        One that has become another user (`command = sudo …`) gets none, and is waited for.
        """
        with suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(self.pidfd, number)

    def kill_group(self) -> None:
        """Kill the process and all that is in its group; its session began with itself."""
        self.signal(signal.SIGKILL)
        signal_group(self.pid, signal.SIGKILL)

    def reap(self) -> Exit | None:
        """Take the exit status; None while the process lives. Source: waitid(2)."""
        result = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG)
        if result is None:
            return None
        if result.si_code == os.CLD_EXITED:
            return Exit(result.si_status, None)
        return Exit(None, result.si_status)

    def abandon(self) -> None:
        """Kill and reap a process that was born just now, as nothing could tell of its end."""
        self.kill_group()
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        self.close()

    def close(self) -> None:
        """Close what the master holds of a reaped process. The loop has unwatched it before."""
        os.close(self.pidfd)
        self._pipes.close_ends_of_master()


def signal_group(group: int, number: int) -> bool:
    """Signal a process group; False when it is empty.

    Its number cannot belong to strangers: the kernel gives no pid away that is still the number
    of a group or session, and an empty group is not found at all.
    """
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Prepared:
    """A child that is ready to be forked: its pipes, what it is to become, and its work."""

    pipes: Pipes
    launch: Launch
    work: Callable[[], int]

    @classmethod
    def make(cls, describe: Callable[[Pipes], tuple[Launch, Callable[[], int]]]) -> Prepared:
        """Open the pipes and have the child described. Raises: SpawnError when there are none."""
        try:
            pipes = Pipes.make()
        except OSError as error:
            raise SpawnError(f"cannot open the pipes of a new process: {error.strerror}") from None
        try:
            return cls(pipes, *describe(pipes))
        except OSError as error:
            pipes.close_ends_of_child()
            pipes.close_ends_of_master()
            raise SpawnError(f"cannot prepare a new process: {error}") from None


def spawn(prepared: Sequence[Prepared]) -> list[Process | SpawnError]:
    """Fork the children, one right after the other, and give the handle of each.

    After a fork every page that the parent writes is copied, and Python writes wherever it looks
    (it counts references); so nothing is done between two forks, and all that belongs to the new
    processes afterwards, at once (measured with 200: a third of the master's time).
    A child that the kernel does not give is a SpawnError in its place, with nothing left open.
    Runs in: supervisor; the children never return from here.
    """
    # Only a thread-free process may fork: locks of other threads stay locked in the child.
    assert kernel.threads() == 1, "the master has one thread, or it must not fork"
    pids: list[int | OSError] = []
    with signals.blocked():
        for one in prepared:
            try:
                pid = os.fork()
            except OSError as error:
                pids.append(error)
                continue
            if pid == 0:
                enter(one.launch, one.work)
            pids.append(pid)
    return [_adopt(one, pid) for one, pid in zip(prepared, pids, strict=True)]


def _adopt(prepared: Prepared, pid: int | OSError) -> Process | SpawnError:
    pipes = prepared.pipes
    pipes.close_ends_of_child()
    try:
        if isinstance(pid, OSError):
            raise pid
        return Process(pid, kernel.pidfd_of_child(pid), pipes)
    except OSError as error:
        pipes.close_ends_of_master()
        return SpawnError(f"cannot fork: {error.strerror}")

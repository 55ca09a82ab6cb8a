"""One fork with its pipes: the child is clean, the master knows its end, nothing is left open."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from supervisor import child, kernel, seatlock
from supervisor.errors import SpawnError
from supervisor.process import Exit, Pipes, Prepared, Process
from supervisor.process import spawn as spawn_all
from tests.helpers.eventually import PATIENCE_S
from tests.helpers.fork import fork, reap


def launcher(
    folder: Path, work: Callable[[], int], **more: object
) -> Callable[[Pipes], tuple[child.Launch, Callable[[], int]]]:
    (folder / "slots").mkdir(exist_ok=True)
    outfit = child.make_outfit()

    def make(pipes: Pipes) -> tuple[child.Launch, Callable[[], int]]:
        fields: dict[str, object] = {
            "name": "job:0",
            "title": "supervisor: daemon [job:0]",
            "mark": "instance/job:0",
            "parent": os.getpid(),
            "stdout": pipes.stdout[1],
            "stderr": pipes.stderr[1],
            "outfit": outfit,
            "keep": (pipes.control[0], pipes.report[1]),
            "state_dir": folder,
            "stop_timeout": 5.0,
            "death_signal": signal.SIGTERM,
            "directory": None,
            "environment": dict,
            "nofile": resource.getrlimit(resource.RLIMIT_NOFILE),
        }
        return child.Launch(**{**fields, **more}), work  # type: ignore[arg-type]  # test shorthand

    return make


def spawn(describe: Callable[[Pipes], tuple[child.Launch, Callable[[], int]]]) -> Process:
    (process,) = spawn_all([Prepared.make(describe)])
    if isinstance(process, SpawnError):
        raise process
    return process


def wait_for_end(process: Process) -> Exit:
    poll = select.poll()
    poll.register(process.pidfd, select.POLLIN)
    assert poll.poll(PATIENCE_S * 1000), "the child did not end"
    how = process.reap()
    assert how is not None
    return how


def read_all(fd: int) -> str:
    os.set_blocking(fd, True)
    with os.fdopen(os.dup(fd), "rb") as file:
        return file.read().decode()


def ended(process: Process) -> tuple[Exit, str, str]:
    how = wait_for_end(process)
    out, err = (*(read_all(fd) for fd, _ in process.streams()[:2]),)
    process.close()
    return how, out, err


def test_the_childs_code_is_the_exit_code(tmp_path: Path) -> None:
    how, _, _ = ended(spawn(launcher(tmp_path, lambda: 7)))
    assert how == Exit(7, None)


def test_a_signal_is_told_from_a_code(tmp_path: Path) -> None:
    process = spawn(launcher(tmp_path, lambda: signal.pause() or 0))
    process.signal(signal.SIGKILL)
    assert ended(process)[0] == Exit(None, signal.SIGKILL)


def test_the_child_is_reset(tmp_path: Path) -> None:
    signal.signal(signal.SIGUSR1, lambda *_: None)

    def look() -> int:
        print(
            json.dumps(
                {
                    "fds": sorted(kernel.descriptors()),
                    "session": os.getsid(0) == os.getpid(),
                    "mask": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
                    "usr1": signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL,
                    "title": kernel.title_of(os.getpid()),
                    "mark": os.environ["SUPERVISOR_PROCESS"],
                    "notify": os.environ.get("NOTIFY_SOCKET"),
                }
            )
        )
        return 0

    os.environ["NOTIFY_SOCKET"] = "/nowhere"
    try:
        spare = os.open(os.devnull, os.O_RDONLY)
        process = spawn(launcher(tmp_path, look))
        os.close(spare)
        _, out, err = ended(process)
    finally:
        del os.environ["NOTIFY_SOCKET"]
        signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert err == ""
    seen = json.loads(out)
    # 0, 1, 2, the control and report pipes, the lock of the seat, and the listing itself
    assert len(seen["fds"]) <= 7
    assert seen["session"]
    assert seen["mask"] == []
    assert seen["usr1"]
    assert seen["title"] == "supervisor: daemon [job:0]"
    assert seen["mark"] == "instance/job:0"
    assert seen["notify"] is None


def test_a_crash_below_the_work_is_70_with_its_traceback_on_stderr(tmp_path: Path) -> None:
    def crash() -> int:
        raise ValueError("boom")

    how, _, err = ended(spawn(launcher(tmp_path, crash)))
    assert how.code == 70
    assert "ValueError: boom" in err


def test_sys_exit_is_the_exit_code(tmp_path: Path) -> None:
    assert ended(spawn(launcher(tmp_path, lambda: sys.exit(5))))[0].code == 5


def test_two_processes_never_sit_in_one_seat(tmp_path: Path) -> None:
    first = spawn(launcher(tmp_path, lambda: signal.pause() or 0))
    while not seatlock.occupants(tmp_path):
        select.select([], [], [], 0.005)
    how, _, err = ended(spawn(launcher(tmp_path, lambda: 0)))
    assert how.code == 75
    assert "another process of job:0 is alive" in err
    (occupant,) = seatlock.occupants(tmp_path)
    assert occupant.pid == first.pid
    assert occupant.alive()
    first.kill_group()
    ended(first)
    assert not occupant.alive()
    assert ended(spawn(launcher(tmp_path, lambda: 0)))[0].code == 0


def test_an_execed_program_keeps_the_lock_and_gets_its_signals_back(tmp_path: Path) -> None:
    command = ("sh", "-c", "echo ready; read line < /proc/self/fd/0; sleep 60")
    process = spawn(launcher(tmp_path, lambda: child.exec_program(("sleep", "60")), keep=()))
    while kernel.title_of(process.pid) != "sleep 60":
        select.select([], [], [], 0.005)
    assert ended(spawn(launcher(tmp_path, lambda: 0)))[0].code == 75
    ignored = next(
        line
        for line in Path(f"/proc/{process.pid}/status").read_text().splitlines()
        if line.startswith("SigIgn")
    )
    # Signals 32 and 33 are glibc's own: its posix_spawn ignores them, and make uses that.
    assert int(ignored.split()[1], 16) & ~(0b11 << 31) == 0, command
    process.kill_group()
    ended(process)


def test_a_program_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    how, _, err = ended(
        spawn(launcher(tmp_path, lambda: child.exec_program(("no-such-program",)), keep=()))
    )
    assert how.code == 127
    assert err.startswith("cannot run no-such-program: ")
    assert err.count("\n") == 1


def test_a_folder_that_is_not_there_is_told_in_one_line(tmp_path: Path) -> None:
    how, _, err = ended(spawn(launcher(tmp_path, lambda: 0, directory=tmp_path / "missing")))
    assert how.code == 1
    assert err.startswith("cannot start job:0: ")
    assert "Traceback" not in err


def test_the_end_of_the_control_pipe_is_seen_when_the_master_closes_it(tmp_path: Path) -> None:
    def wait() -> int:
        # The lowest descriptor above stdio: the control pipe.
        return 3 if os.read(3, 1) == b"" else 4

    def make(pipes: Pipes) -> tuple[child.Launch, Callable[[], int]]:
        launch, _ = launcher(tmp_path, wait)(pipes)
        control = pipes.control[0]
        return launch, lambda: 3 if os.read(control, 1) == b"" else 4

    first = spawn(make)
    second = spawn(launcher(tmp_path, lambda: signal.pause() or 0, name="job:1"))
    os.close(first._control_fd)
    assert wait_for_end(first).code == 3, "the sibling must not hold the write end"
    os.close(first.pidfd)
    for fd, _ in first.streams():
        os.close(fd)
    second.kill_group()
    ended(second)


def test_a_print_that_nobody_reads_any_more_hurts_nobody(tmp_path: Path) -> None:
    # The runtime turns the output away when it hears of the master's death; until then it is this.
    def make(pipes: Pipes) -> tuple[child.Launch, Callable[[], int]]:
        def prints() -> int:
            os.read(pipes.control[0], 1)
            print("a line")
            sys.stderr.write("x" * 100_000 + "\n")
            return 3

        return launcher(tmp_path, prints)(pipes)

    process = spawn(make)
    for fd, _ in process.streams():
        os.close(fd)
    os.close(process._control_fd)
    assert wait_for_end(process).code == 3
    os.close(process.pidfd)


def test_a_secret_that_is_no_text_is_told_in_one_line(tmp_path: Path) -> None:
    def environment() -> dict[str, str]:
        return {"KEY": b"\xff".decode()}

    how, _, err = ended(spawn(launcher(tmp_path, lambda: 0, environment=environment)))
    assert how.code == 1
    assert err.startswith("cannot start job:0: 'utf-8' codec can't decode")
    assert len(err.splitlines()) == 1


def test_a_process_that_may_not_be_signalled_is_left_alone(tmp_path: Path) -> None:
    def work() -> None:
        # PID 1 is root's: what a `sudo` would be to a supervisor of another user.
        with suppress(PermissionError):
            os.setuid(65534)
        pidfd = os.pidfd_open(1)
        with pytest.raises(PermissionError):
            signal.pidfd_send_signal(pidfd, 0)
        Process(1, pidfd, Pipes.make()).signal(0)

    assert reap(fork(work)) == 0


def test_a_spawn_without_descriptors_fails_cleanly(tmp_path: Path) -> None:
    describe = launcher(tmp_path, lambda: 0)
    before = kernel.descriptors()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before) + 20, limits[1]))
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for free in range(8):
            # From no descriptor at all to one less than a spawn needs: each step of it fails once.
            with pytest.raises(SpawnError, match="cannot"):
                spawn(describe)
            os.close(taken.pop())
            assert len(kernel.descriptors()) == len(before) + len(taken), free
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert kernel.descriptors() == before


def test_a_child_needs_no_descriptor_beyond_its_pipes(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(kernel.descriptors()) + 20, limits[1]))
    describe = launcher(tmp_path, lambda: 5)
    taken = []
    try:
        with suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        for _ in range(8):  # four pipes; what the child gets of them is closed for the pidfd
            os.close(taken.pop())
        process = spawn(describe)
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert wait_for_end(process).code == 5
    process.close()

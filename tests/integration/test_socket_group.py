"""Who gets to the control socket: root, the supervisor's user, and the members of one group."""

from __future__ import annotations

import grp
import json
import os
import pwd
import socket
import stat
from collections.abc import Callable, Sequence

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.fork import fork, reap

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to be several users needs root")

NOBODY = pwd.getpwnam("nobody")
GROUP = grp.getgrnam("daemon")

JOB = """
    [daemon:app]
    type = program
    command = sleep 100000
"""


def as_user(uid: int, gid: int, groups: Sequence[int], work: Callable[[], bytes]) -> bytes:
    """Do something in a process of another user, and give what it gave, or the error's name."""
    read_fd, write_fd = os.pipe()

    def as_them() -> None:
        try:
            os.setgroups(groups)
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            answer = work()
        except OSError as error:
            answer = type(error).__name__.encode()
        os.write(write_fd, answer)

    pid = fork(as_them)
    os.close(write_fd)
    with os.fdopen(read_fd, "rb") as answers:
        found = answers.read()
    assert reap(pid) == 0
    return found


STATUS = b'{"verb": "status", "names": []}\n'


def ask(
    supervisor: Supervisor, gid: int, groups: Sequence[int] = (), words: bytes = STATUS
) -> bytes:
    """Say something as nobody, in these groups; give the answer as it comes."""
    path = str(supervisor.run_dir / "test.sock")

    def work() -> bytes:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(30)
            connection.connect(path)
            if words:  # to send nothing to a shut door is an error, too
                connection.sendall(words)
            with connection.makefile("rb") as answers:
                return answers.readline()

    return as_user(NOBODY.pw_uid, gid, groups, work)


def test_members_have_the_power_of_the_supervisors_user(supervise: Supervise) -> None:
    supervisor = supervise(JOB, settings={"socket_group": GROUP.gr_name}, start=False)
    supervisor.folder.chmod(0o755)
    supervisor.start()
    found = (supervisor.run_dir / "test.sock").stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (GROUP.gr_gid, 0o660)
    found = supervisor.run_dir.stat()
    assert (found.st_gid, stat.S_IMODE(found.st_mode)) == (GROUP.gr_gid, 0o710)
    for gid, groups in (
        (GROUP.gr_gid, []),
        (NOBODY.pw_gid, [GROUP.gr_gid]),
        (NOBODY.pw_gid, [*range(20000, 21000), GROUP.gr_gid]),
    ):
        answer = json.loads(ask(supervisor, gid, groups))
        assert answer["result"]["master"]["pid"] == supervisor.pid
    assert ask(supervisor, NOBODY.pw_gid) == b"PermissionError"
    supervisor.stop()
    assert stat.S_IMODE(supervisor.state_dir.stat().st_mode) == 0o700


def test_without_a_group_nobody_else_gets_as_far_as_the_socket(supervise: Supervise) -> None:
    supervisor = supervise(JOB)
    supervisor.folder.chmod(0o755)
    assert ask(supervisor, GROUP.gr_gid) == b"PermissionError"
    supervisor.run_dir.chmod(0o755)
    assert ask(supervisor, GROUP.gr_gid) == b"PermissionError"


@pytest.mark.parametrize("settings", [{}, {"socket_group": GROUP.gr_name}])
def test_a_stranger_at_an_open_door_is_told_no_and_nothing_else(
    supervise: Supervise, settings: dict[str, str]
) -> None:
    supervisor = supervise(JOB, settings={"socket_mode": "0666", **settings}, start=False)
    supervisor.folder.chmod(0o755)
    supervisor.start()
    supervisor.run_dir.chmod(0o755)
    # Said nothing, as the door may be shut before it is said.
    answer = json.loads(ask(supervisor, NOBODY.pw_gid, words=b""))
    assert answer == {
        "ok": False,
        "code": 1,
        "error": f"user {NOBODY.pw_uid} may not speak to this supervisor",
    }
    supervisor.wait_line("a stranger on the control socket was turned away")


def test_a_mode_that_keeps_the_group_out_is_refused(supervise: Supervise) -> None:
    supervisor = supervise(
        JOB, settings={"socket_group": GROUP.gr_name, "socket_mode": "0600"}, start=False
    )
    done = supervisor.cli("check")
    assert done.returncode == 78
    assert "socket_mode: 0600 keeps socket_group out" in done.stderr


def test_a_run_dir_of_another_group_is_not_taken_from_it(supervise: Supervise) -> None:
    supervisor = supervise(JOB, settings={"socket_group": GROUP.gr_name}, start=False)
    supervisor.folder.chmod(0o755)
    supervisor.run_dir.mkdir()
    supervisor.run_dir.chmod(0o750)
    done = supervisor.cli("start")
    assert done.returncode == 1
    assert "is open to another group than socket_group" in done.stderr
    assert stat.S_IMODE(supervisor.run_dir.stat().st_mode) == 0o750


def test_a_folder_above_that_is_closed_to_the_group_is_told(supervise: Supervise) -> None:
    supervisor = supervise(JOB, settings={"socket_group": GROUP.gr_name}, start=False)
    done = supervisor.cli("start")
    assert done.returncode == 1
    assert f"as {supervisor.folder} is closed to it: choose another run_dir" in done.stderr


def test_a_program_that_cannot_get_to_its_socket_is_told(supervise: Supervise) -> None:
    jobs = JOB + "    user = nobody\n    notify = true\n"
    supervisor = supervise(jobs, start=False).start(wait=False)
    supervisor.wait_line("closed to uid")


def test_a_program_with_a_user_of_its_own_can_say_that_it_is_ready(supervise: Supervise) -> None:
    supervisor = supervise(
        """
        [daemon:app]
        type = program
        command = sleep 100000
        notify = true
        user = nobody
        ready_timeout = 10m
        """,
        start=False,
    )
    supervisor.folder.chmod(0o755)
    supervisor.start(wait=False)
    pid = supervisor.wait_process("app:0", lambda row: row["pid"] is not None)["pid"]
    address = eventually(lambda: _notify_socket(pid))

    def work() -> bytes:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.sendto(b"READY=1", address)
        return b"sent"

    assert as_user(1, GROUP.gr_gid, [], work) == b"PermissionError"
    assert as_user(NOBODY.pw_uid, NOBODY.pw_gid, [], work) == b"sent"
    supervisor.wait_ready()


def _notify_socket(pid: int) -> str:
    with open(f"/proc/{pid}/environ", "rb") as file:
        entries = file.read().decode().split("\0")
    return next((e.partition("=")[2] for e in entries if e.startswith("NOTIFY_SOCKET=")), "")

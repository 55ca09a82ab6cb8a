"""[supervisor] user: root starts it, and somebody else it is."""

from __future__ import annotations

import os
import pwd
import re
import subprocess
import sys
from pathlib import Path

import pytest

from supervisor.errors import ConfigError
from supervisor.loading import load
from supervisor.location import locate
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.fork import fork, reap
from tests.helpers.python_for_all import python_for_all

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="to become another needs root")

NOBODY = pwd.getpwnam("nobody")

JOB = """
    [daemon:app]
    type = program
    command = sleep 100000
"""


DEAF = """
    [daemon:app]
    type = program
    command = sh -c 'trap "" TERM; echo deaf; while :; do sleep 0.1; done'
    stop_timeout = 500ms
"""


def made(supervise: Supervise, jobs: str = JOB, **settings: str) -> Supervisor:
    """Give a supervisor that has a user, and folders that he may use."""
    keys = {"user": "nobody", "preload": "none", **settings}
    supervisor = supervise(jobs, settings=keys, start=False)
    supervisor.folder.chmod(0o755)
    for folder in (supervisor.run_dir, supervisor.state_dir):
        folder.mkdir(mode=0o700)
        os.chown(folder, NOBODY.pw_uid, NOBODY.pw_gid)
    return supervisor


def command(supervisor: Supervisor, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command that becomes the user, too."""
    return subprocess.run(
        [*python_for_all(), sys.executable, "-m", "supervisor", *words, "-c", str(supervisor.conf)],
        capture_output=True,
        text=True,
        check=False,
    )


def ids(pid: int) -> set[str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    words = [word for line in lines if line[:4] in ("Uid:", "Gid:") for word in line.split()[1:]]
    return set(words)


def test_master_jobs_and_files_are_the_users(supervise: Supervise) -> None:
    supervisor = made(supervise)
    assert command(supervisor, "check").returncode == 0
    supervisor.start(within=python_for_all())
    pid = supervisor.process("app:0")["pid"]
    assert ids(supervisor.pid) == ids(pid) == {str(NOBODY.pw_uid)}
    owners = {
        path.lstat().st_uid
        for folder in (supervisor.run_dir, supervisor.state_dir)
        for path in folder.rglob("*")
    }
    assert owners == {NOBODY.pw_uid}
    assert supervisor.cli("status").returncode == 0
    assert command(supervisor, "stop").returncode == 0
    assert supervisor.wait_exit() == 0


def test_it_works_in_the_background_too(supervise: Supervise) -> None:
    supervisor = made(supervise)
    supervisor.start("--daemonize", wait=False, within=python_for_all())
    assert supervisor.wait_exit() == 0, supervisor.errors()
    log = supervisor.state_dir / "test.log"
    assert log.stat().st_uid == NOBODY.pw_uid
    assert command(supervisor, "stop").returncode == 0


def test_what_a_dead_master_left_is_ended_by_a_command_of_roots(supervise: Supervise) -> None:
    supervisor = made(supervise, DEAF)
    supervisor.start(within=python_for_all())
    supervisor.wait_line("deaf")
    supervisor.kill()
    done = command(supervisor, "stop")
    assert done.returncode == 1, done.stderr
    assert supervisor.tree() == ()


def test_a_user_of_a_job_beside_it_is_refused(supervise: Supervise) -> None:
    supervisor = made(supervise, JOB + "    user = nobody\n")
    with pytest.raises(ConfigError, match=r"\[daemon:app\] user: the whole supervisor has a user"):
        load(supervisor.conf)


def test_only_root_can_become_another(supervise: Supervise) -> None:
    supervisor = made(supervise, user="daemon")
    # Not by the command: to run Python, another user has to see where it is installed.

    def work() -> None:
        os.setresuid(NOBODY.pw_uid, NOBODY.pw_uid, NOBODY.pw_uid)
        from supervisor import prerequisites

        (problem,) = prerequisites.of_supervisor(load(supervisor.conf))
        assert re.search(r"user: to run as daemon needs root", str(problem))

    assert reap(fork(work)) == 0


def test_its_folders_are_where_the_user_himself_would_find_them(tmp_path: Path) -> None:
    path = tmp_path / "shop.ini"
    path.write_text("[supervisor]\nuser = nobody\n")
    found = locate(path)
    assert found.state_dir == Path(NOBODY.pw_dir, ".local/state/shop")
    assert found.user is not None
    path.write_text("[supervisor]\nuser = no-such-one\n")
    with pytest.raises(ConfigError, match="is no user of this machine"):
        locate(path)

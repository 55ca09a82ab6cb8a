"""Rough handling, without harm meant: signals to all, lost folders, closed streams, early stops."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.conftest import Supervise
from tests.helpers.eventually import PATIENCE_S, eventually

MODULES = {
    "waits": """
    def polite(context):
        context.wait(1e6)
    """
}

POLITE = """
[daemon:polite]
type = worker
target = waits:polite
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_a_signal_to_everybody_is_no_stop(supervise: Supervise, number: int) -> None:
    supervisor = supervise(POLITE, MODULES)
    for pid in (supervisor.process("polite:0")["pid"], supervisor.pid):
        os.kill(pid, number)
    row = supervisor.process("polite:0")
    assert (row["state"], row["restarts"]) == ("RUNNING", 0)
    assert supervisor.stop() == 0
    assert "daemon job polite stopped gracefully" in supervisor.messages("polite")


def test_a_stop_before_the_socket_is_there(supervise: Supervise) -> None:
    modules = MODULES | {
        "endless": """
    from pathlib import Path
    import threading
    Path(__file__).with_name("importing").touch()
    threading.Event().wait()
    """
    }
    jobs = "[daemon:slow]\ntype = worker\ntarget = endless:run\n"
    supervisor = supervise(jobs, modules, start=False).start(wait=False)
    eventually((supervisor.folder / "importing").exists)
    done = supervisor.cli("stop")
    assert (done.returncode, done.stderr) == (0, "")
    assert supervisor.wait_exit() == 0
    eventually(lambda: supervisor.tree() == ())


def test_a_stop_of_a_master_that_has_lost_its_socket(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES)
    shutil.rmtree(supervisor.run_dir)
    assert supervisor.cli("stop").returncode == 0
    assert supervisor.wait_exit() == 0
    assert supervisor.tree() == ()
    assert "daemon job polite stopped gracefully" in supervisor.messages("polite")


def test_a_stop_ends_nobody_of_another_supervisor(supervise: Supervise) -> None:
    supervisor = supervise(POLITE, MODULES)
    settings = {"name": "other", "state_dir": str(supervisor.state_dir)}
    other = supervise(POLITE, MODULES, start=False, settings=settings)
    done = other.cli("stop")
    assert done.returncode == 1
    assert f"that of pid {supervisor.pid}, another supervisor" in done.stderr
    assert supervisor.process("polite:0")["restarts"] == 0


def test_the_jobs_of_a_master_outlive_its_state_dir(supervise: Supervise) -> None:
    supervisor = supervise(POLITE + "backoff = 10ms\n", MODULES)
    shutil.rmtree(supervisor.state_dir)
    os.kill(supervisor.process("polite:0")["pid"], signal.SIGKILL)
    supervisor.wait_process("polite:0", lambda row: bool(row["restarts"] and row["ready"]))
    assert supervisor.stop() == 0


def test_a_folder_that_is_none_any_more_costs_no_supervisor(supervise: Supervise) -> None:
    supervisor = supervise(POLITE + "processes = 3\n", MODULES)
    shutil.rmtree(supervisor.state_dir)
    supervisor.state_dir.touch()
    supervisor.call("scale", jobs={"polite": 1})
    assert supervisor.process("polite:0")["restarts"] == 0
    shutil.rmtree(supervisor.run_dir)
    supervisor.run_dir.touch()
    assert supervisor.stop() == 0
    assert supervisor.errors() == ""
    assert supervisor.tree() == ()


def test_a_log_file_that_cannot_be_opened_is_told_with_its_line(supervise: Supervise) -> None:
    jobs = POLITE + "log_file = nowhere/polite.log\n"
    supervisor = supervise(jobs, MODULES, start=False).start(wait=False)
    assert supervisor.wait_exit() == 78
    lines = supervisor.conf.read_text().splitlines()
    line = lines.index("log_file = nowhere/polite.log") + 1
    assert supervisor.errors() == (
        f"{supervisor.conf}:{line}: [daemon:polite] log_file: "
        f"{supervisor.folder}/nowhere/polite.log: No such file or directory; "
        "make its folder, or correct the path\n"
    )


def test_started_without_standard_streams_it_writes_into_no_other_file(
    supervise: Supervise,
) -> None:
    supervisor = supervise(POLITE, MODULES, start=False)
    command = [sys.executable, "-m", "supervisor", "start", "-c", str(supervisor.conf)]
    shell = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *command]
    with subprocess.Popen(shell, cwd=supervisor.folder) as master:
        try:
            eventually(lambda: supervisor.cli("status", "--check").returncode == 0)
            pid = supervisor.call("ping")["pid"]
            assert (supervisor.run_dir / "test.pid").read_text() == f"{pid}\n"
            assert (supervisor.state_dir / "lock").read_text() == f"{pid}\n"
            master.terminate()
            assert master.wait(PATIENCE_S) == 0
        finally:
            master.kill()

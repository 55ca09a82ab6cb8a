"""`pytest --processes=N` runs each test once, and tells of a worker that dies."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

TESTS = """
import os, signal, pytest

@pytest.mark.parametrize("number", range(20))
def test_it(number):
    with open(f"ran-{__name__}-{number}", "x"):
        assert number != 13, "unlucky"

def test_killed():
    if os.path.exists("kill"):
        os.kill(os.getpid(), signal.SIGKILL)
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the tests of a folder in two processes."""
    for name in ("test_one.py", "test_two.py"):
        (folder / name).write_text(TESTS)
    (folder / "pytest.ini").write_text("[pytest]\n")
    plugin = ("-p", "tests.helpers.side_by_side", "-p", "no:cacheprovider")
    return subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, "--processes=2", "-v", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_each_test_runs_once(tmp_path: Path) -> None:
    done = pytest_in(tmp_path)
    assert done.returncode == 1
    assert "2 failed, 40 passed" in done.stdout
    assert done.stdout.count("AssertionError: unlucky") >= 2
    assert len(list(tmp_path.glob("ran-*"))) == 40


def test_a_killed_worker_fails_the_test_it_was_in(tmp_path: Path) -> None:
    (tmp_path / "kill").touch()
    done = pytest_in(tmp_path)
    assert done.returncode == 1
    killed = re.findall(r"^_+ (test_\w+\.py::test_killed) _+$", done.stdout, re.MULTILINE)
    assert sorted(killed) == ["test_one.py::test_killed", "test_two.py::test_killed"]
    assert "its worker ended with -9" in done.stdout


def test_the_first_failure_may_end_the_run(tmp_path: Path) -> None:
    done = pytest_in(tmp_path, "-x", "-k", "13 or 14")
    assert done.returncode == 1
    assert re.search("stopping after [12] failures", done.stdout)
    assert " passed" not in done.stdout  # each worker met 13 first

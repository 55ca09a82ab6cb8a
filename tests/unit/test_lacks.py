"""A skip is a failure in CI as root, but for what the machine itself lacks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

TESTS = """
import pytest
from tests.helpers.lacks import MachineLacks

@pytest.mark.skipif(True, reason="no toaster")
def test_marked():
    raise AssertionError

@pytest.fixture
def toaster():
    pytest.skip("no toaster")

def test_with_a_fixture(toaster):
    raise AssertionError

def test_by_itself():
    pytest.skip("no toaster")

def test_of_the_kernel():
    raise MachineLacks("no such kernel")

@pytest.mark.xfail
def test_known_to_fail():
    raise AssertionError
"""

FAILED = "skipped in CI as root, where everything can be had: no toaster"


def run(tmp_path: Path, ci: str) -> str:
    """Run the tests above in a pytest of their own; gives what it prints."""
    (tmp_path / "test_toast.py").write_text(TESTS)
    options = ("-c", os.devnull, "--rootdir", str(tmp_path), "-p", "no:cacheprovider")
    command = (sys.executable, "-m", "pytest", "-p", "tests.helpers.lacks", "-rs", *options)
    done = subprocess.run(
        [*command, str(tmp_path)],
        env=os.environ | {"CI": ci},
        cwd=Path(__file__).resolve().parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="everything can be had by root only")
def test_in_ci_as_root_only_what_the_machine_lacks_is_skipped(tmp_path: Path) -> None:
    said = run(tmp_path, "true")
    assert "1 failed, 1 skipped, 1 xfailed, 2 errors" in said, "what fails before is an error"
    assert "MachineLacks: no such kernel" in said, "listed at the end"
    assert said.count(FAILED) == 3


def test_elsewhere_all_of_them_are_skipped(tmp_path: Path) -> None:
    said = run(tmp_path, "")
    assert "4 skipped, 1 xfailed" in said
    assert FAILED not in said

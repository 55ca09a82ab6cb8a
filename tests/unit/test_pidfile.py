"""The lock of a supervisor: what it does when its file changes hands."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from supervisor.pidfile import PidFile


def test_a_file_that_its_last_holder_removes_meanwhile_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "shop.pid"
    lockf = fcntl.lockf

    def removed_before_the_first_lock(fd: int, how: int) -> None:
        monkeypatch.setattr(fcntl, "lockf", lockf)
        path.unlink()
        lockf(fd, how)

    monkeypatch.setattr(fcntl, "lockf", removed_before_the_first_lock)
    lock = PidFile(path)
    lock.take()
    try:
        assert path.read_text() == f"{os.getpid()}\n"
    finally:
        lock.leave()
    assert not path.exists()

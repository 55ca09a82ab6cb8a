"""A PID namespace: the command that is begun within has the pid 1, as in a container."""

from __future__ import annotations

import subprocess

import pytest

UNSHARE = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child=KILL")


def _possible() -> bool:
    try:
        return subprocess.run([*UNSHARE, "true"], check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


NEEDED = pytest.mark.skipif(
    not _possible(),
    reason="needs root and util-linux for a PID namespace: apt-get install util-linux",
)

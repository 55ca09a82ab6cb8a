"""A real systemd in a box: PID 1 of namespaces of its own, with our unit file and nothing else.

Boots in half a second, touches nothing of the host (its /run, /var/lib, /tmp, /srv, /opt and /etc
are its own) and is gone with its processes and control groups at the end. The test drives it from
outside: `systemctl` through nsenter, files through /proc/PID/root.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
UNIT_FILE = REPOSITORY / "systemd" / "supervisor.service"
UNIT = "supervisor.service"
PATIENCE_S = 60.0

_INIT = Path(__file__).with_name("systemd_box_init.sh")
_OWN_FOLDERS = ("/var/lib", "/srv", "/opt", "/tmp", "/var/tmp")
_LOOK_S = 0.02


def _missing() -> str:
    """Say in one line what this machine lacks for a box; empty when nothing is missing."""
    if os.geteuid() != 0:
        return "systemd tests need root"
    for path in ("/lib/systemd/systemd", "/usr/bin/systemctl"):
        if not os.path.exists(path):
            return "systemd tests need: apt-get install systemd"
    for program in ("unshare", "nsenter"):
        if shutil.which(program) is None:
            return "systemd tests need: apt-get install util-linux"
    if not _control_groups():
        return "systemd tests need a writable cgroup2 mount"
    probe = ["unshare", "--pid", "--fork", "--mount", "--cgroup", "true"]
    if subprocess.run(probe, capture_output=True, check=False).returncode != 0:
        return "systemd tests need the right to make namespaces (in a container: --privileged)"
    return ""


class Box:
    """One booted systemd with the unit installed and not started. Made by `booted()`."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def write(self, path: str, text: str) -> None:
        """Write a file of the box; as root's, for root alone to change."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def read(self, path: str) -> str:
        """Give the text of a file of the box; empty when there is none, or its process is gone."""
        with suppress(FileNotFoundError, ProcessLookupError):
            return (self.root / path.lstrip("/")).read_text()
        return ""

    def drop_in(self, text: str) -> None:
        """Change settings of the unit's [Service]."""
        self.write(f"/etc/systemd/system/{UNIT}.d/test.conf", f"[Service]\n{text}\n")
        self.systemctl("daemon-reload")

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Run systemctl inside and give what it prints."""
        return self.run("systemctl", *words, check=check).stdout.strip()

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside, to its end."""
        done = subprocess.run(
            ["nsenter", "--target", str(self.pid), "--all", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S * 2,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{command} in the box: {done.stderr}\n{self.story()}")
        return done

    def show(self, name: str) -> str:
        """Give a property of the unit, as `systemctl show` knows it."""
        return self.systemctl("show", "--value", f"--property={name}", UNIT)

    def wait(self, fact: Callable[[], object], what: str) -> None:
        """Look until it is so. Raises: AssertionError, with the box's logs."""
        deadline = time.monotonic() + PATIENCE_S
        while not fact():
            assert time.monotonic() < deadline, f"not {what} in {PATIENCE_S:.0f} s\n{self.story()}"
            select.select([], [], [], _LOOK_S)

    def pids(self) -> list[int]:
        """Give the processes of the unit's control group, as seen by the box."""
        return sorted(self._members(f"system.slice/{UNIT}"))

    def story(self) -> str:
        """Give what systemd and the unit have said, for the message of a failure."""
        status = self.run("systemctl", "status", "--full", UNIT, check=False).stdout
        return f"{status}\n--- log\n{self.log()}"

    def log(self) -> str:
        """Give what the unit has written to its stdout and stderr."""
        return self.read("/run/unit.log")

    def _members(self, group: str) -> Iterable[int]:
        place = ("find", f"/sys/fs/cgroup/{group}", "-name", "cgroup.procs")
        listed = self.run(*place, "-exec", "cat", "{}", "+", check=False)
        return (int(line) for line in listed.stdout.split())


@contextmanager
def booted() -> Iterator[Box]:
    """Boot a box, and end it with everything in it. Skips the test where none can be had."""
    if lack := _missing():
        pytest.skip(lack)
    folder = Path(tempfile.mkdtemp(prefix="systemd-box-"))
    mounted = _control_groups()
    assert mounted is not None
    group = mounted / folder.name
    group.mkdir()
    try:
        with (folder / "console").open("wb") as console:
            outside = subprocess.Popen(
                _command(group), stdin=subprocess.DEVNULL, stdout=console, stderr=console
            )
        try:
            yield _wait_for_boot(outside, folder / "console")
        finally:
            outside.send_signal(signal.SIGKILL)  # unshare takes PID 1 of the box with it
            outside.wait()
    finally:
        _remove_group(group)
        shutil.rmtree(folder)


def _command(group: Path) -> list[str]:
    hidden = [folder for folder in _OWN_FOLDERS if not _is_needed(Path(folder))]
    enter = 'echo 0 >"$1/cgroup.procs"; shift; exec "$@"'
    unshare = "unshare --pid --fork --mount --uts --ipc --cgroup --mount-proc --kill-child=KILL"
    init = [str(_INIT), str(UNIT_FILE), sys.prefix, *hidden]
    return ["bash", "-c", enter, "enter", str(group), *unshare.split(), *init]


def _is_needed(folder: Path) -> bool:
    """Tell whether the code under test lies in there; then it cannot be hidden."""
    code = (REPOSITORY, Path(sys.prefix), Path(sys.base_prefix))
    return any(path.is_relative_to(folder) for path in code)


def _wait_for_boot(outside: subprocess.Popen[bytes], console: Path) -> Box:
    deadline = time.monotonic() + PATIENCE_S
    while outside.poll() is None and time.monotonic() < deadline:
        inside = Path(f"/proc/{outside.pid}/task/{outside.pid}/children").read_text().split()
        if inside:
            box = Box(int(inside[0]))
            if box.systemctl("is-active", "box.target", check=False) == "active":
                _show_code_in_tmp(box)
                return box
        select.select([], [], [], _LOOK_S)
    raise AssertionError(f"the box did not boot:\n{console.read_text(errors='replace')}")


def _show_code_in_tmp(box: Box) -> None:
    """Switch off what would hide the code from the unit, should it lie in /tmp (a CI's clone)."""
    if _is_needed(Path("/tmp")) or _is_needed(Path("/var/tmp")):
        box.write(f"/etc/systemd/system/{UNIT}.d/code.conf", "[Service]\nPrivateTmp=no\n")
        box.systemctl("daemon-reload")


def _control_groups() -> Path | None:
    """Give where the host's cgroup2 is mounted, if we may write there."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, path, kind, options, *_ = line.split()
        if kind == "cgroup2" and "ro" not in options.split(",") and os.access(path, os.W_OK):
            return Path(path)
    return None


def _remove_group(group: Path) -> None:
    """Kill what is in there and remove it, from the leaves up."""
    with suppress(OSError):
        (group / "cgroup.kill").write_text("1")
    deadline = time.monotonic() + PATIENCE_S
    while "populated 1" in (group / "cgroup.events").read_text():
        assert time.monotonic() < deadline, f"processes are left in {group}"
        select.select([], [], [], _LOOK_S)
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)

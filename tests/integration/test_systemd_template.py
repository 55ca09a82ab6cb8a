"""The shipped template unit under a real systemd: two supervisors side by side."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.helpers import systemd_box
from tests.helpers.systemd_box import REPOSITORY, UNIT_FILE, Box

TEMPLATE = REPOSITORY / "systemd" / "supervisor@.service"
JOBS = """
[daemon:naps]
type = program
command = /bin/sleep 1000
"""


@pytest.fixture
def box() -> Iterator[Box]:
    with systemd_box.booted() as box:
        folder = "/etc/systemd/system"
        box.write(f"{folder}/{TEMPLATE.name}", TEMPLATE.read_text())
        for name in ("output.conf", "code.conf"):
            if text := box.read(f"{folder}/supervisor.service.d/{name}"):
                box.write(f"{folder}/{TEMPLATE.name}.d/{name}", text)
        box.systemctl("daemon-reload")
        yield box


def test_template_holds_the_same_settings_as_the_unit() -> None:
    def settings(text: str) -> list[str]:
        return [line for line in text.splitlines() if line and not line.startswith("#")]

    named = UNIT_FILE.read_text().replace("/etc/workers.ini", "/etc/%i.ini")
    named = named.replace("Directory=workers", "Directory=%i").replace("for workers", "for %i")
    assert settings(TEMPLATE.read_text()) == settings(named)


def test_template_holds_no_setting_that_systemd_does_not_know(box: Box) -> None:
    said = box.run("systemd-analyze", "verify", "/etc/systemd/system/supervisor@shop.service")
    assert said.stdout + said.stderr == ""


def test_instances_are_supervisors_of_their_own(box: Box) -> None:
    for name in ("shop", "depot"):
        box.write(f"/etc/{name}.ini", JOBS)
        box.systemctl("start", f"supervisor@{name}")

    shop, depot = status(box, "shop"), status(box, "depot")
    assert (shop["name"], depot["name"]) == ("shop", "depot")
    for name, master in (("shop", shop), ("depot", depot)):
        assert show(box, name, "ActiveState") == "active"
        assert show(box, name, "MainPID") == str(master["pid"])
        assert box.read(f"/run/{name}/{name}.pid").split()[0] == str(master["pid"])
        for folder in (f"/run/{name}", f"/var/lib/{name}"):
            assert (box.root / folder[1:]).stat().st_mode & 0o777 == 0o700

    box.systemctl("reload", "supervisor@shop")
    box.systemctl("stop", "supervisor@shop")

    assert show(box, "shop", "Result") == "success"
    assert not (box.root / "run/shop").exists()
    assert status(box, "depot") | {"uptime_s": 0} == depot | {"uptime_s": 0}, "untouched"
    box.systemctl("stop", "supervisor@depot")


def test_killed_master_of_an_instance_comes_back(box: Box) -> None:
    box.write("/etc/shop.ini", JOBS)
    box.systemctl("start", "supervisor@shop")
    before = show(box, "shop", "MainPID")

    box.run("kill", "-KILL", before)

    box.wait(lambda: show(box, "shop", "NRestarts") == "1", "restarted")
    box.wait(lambda: show(box, "shop", "ActiveState") == "active", "active again")
    assert str(status(box, "shop")["pid"]) != before
    box.systemctl("stop", "supervisor@shop")


def test_an_instance_without_its_file_says_so(box: Box) -> None:
    started = box.run("systemctl", "start", "supervisor@nowhere", check=False)

    assert started.returncode != 0
    box.wait(lambda: show(box, "nowhere", "ActiveState") == "failed", "failed")
    assert show(box, "nowhere", "ExecMainStatus") == "78"
    assert "/etc/nowhere.ini: no such file" in box.log()


def show(box: Box, name: str, key: str) -> str:
    """Give a property of an instance."""
    return box.systemctl("show", "--value", f"--property={key}", f"supervisor@{name}.service")


def status(box: Box, name: str) -> dict[str, Any]:
    """Ask an instance how its master is."""
    program = "/opt/workers/.venv/bin/supervisor"
    done = box.run(program, "status", "--json", "--conf", f"/etc/{name}.ini")
    master: dict[str, Any] = json.loads(done.stdout)["master"]
    return master

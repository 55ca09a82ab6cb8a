"""`top` and `status --watch`: in place on a terminal, frames in a pipe, a clean end in both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S
from tests.helpers.sections import section
from tests.helpers.terminal import Terminal

ALTERNATE, NORMAL = b"\x1b[?1049h", b"\x1b[?1049l"


@pytest.fixture
def shop(supervise: Supervise) -> Supervisor:
    """Give a supervisor with two naps."""
    return supervise(section("naps", command="/bin/sleep 1000", processes=2))


def terminal(shop: Supervisor, *words: str, **more: str) -> Terminal:
    return Terminal(*words, environment={"SUPERVISOR_CONF": str(shop.conf), **more})


@pytest.mark.parametrize("words", [["top"], ["status", "--watch"]])
@pytest.mark.parametrize("end", ["q", "\x03"])
def test_a_terminal_is_drawn_in_place_and_given_back(
    shop: Supervisor, words: list[str], end: str
) -> None:
    with terminal(shop, *words) as shown:
        shown.wait_text("naps:1")
        assert ALTERNATE in shown.raw
        assert b"\x1b[32mRUNNING" in shown.raw
        assert not shown.is_as_before(), "keys are heard one by one"
        shown.press(end)
        assert shown.wait_exit() == 0
        assert shown.raw.rindex(NORMAL) > shown.raw.rindex(ALTERNATE)
        assert shown.is_as_before()
        assert b"Traceback" not in shown.raw


def test_a_terminal_is_given_back_when_the_command_is_ended(shop: Supervisor) -> None:
    with terminal(shop, "top") as shown:
        shown.wait_text("naps:1")
        os.kill(shown.pid, signal.SIGTERM)
        assert shown.wait_exit() == 0
        assert NORMAL in shown.raw


def test_no_colour_where_none_is_wanted_and_no_redraw_where_none_is_possible(
    shop: Supervisor,
) -> None:
    with terminal(shop, "top", NO_COLOR="1") as shown:
        shown.wait_text("naps:1")
        shown.press("q")
        assert shown.wait_exit() == 0
        assert b"\x1b[32m" not in shown.raw
    with terminal(shop, "top", TERM="dumb") as shown:
        assert shown.wait_exit() == 0
        assert b"naps:1" in shown.raw
        assert b"\x1b" not in shown.raw


def test_a_terminal_outlasts_the_supervisor(shop: Supervisor) -> None:
    with terminal(shop, "status", "--watch") as shown:
        shown.wait_text("naps:1")
        assert shop.stop() == 0
        shown.wait_text("is not running")
        shop.start()
        shown.raw = b""
        shown.wait_text("naps:1")
        shown.press("q")
        assert shown.wait_exit() == 0


def test_top_in_a_pipe_is_one_frame(shop: Supervisor) -> None:
    done = shop.cli("top")
    lines = done.stdout.splitlines()
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[0].startswith("OK  test  2 of 2 ready   up ")
    assert lines[1].split()[:4] == ["NAME", "PID", "STATE", "CPU"]
    assert len(lines) == 4
    found = shop.json("top", "naps:1")["processes"]
    assert [row["name"] for row in found] == ["naps:1"]
    assert found[0]["cpu_percent"] >= 0
    assert shop.cli("top", "nobody").returncode == 4


def test_status_watch_in_a_pipe_is_one_object_a_line(shop: Supervisor) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "supervisor", "status", "--watch", "--json", "-c", str(shop.conf)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert watch.stdout is not None
    assert watch.stderr is not None
    with watch:
        found = [json.loads(watch.stdout.readline()) for _ in range(2)]
        assert [len(one["processes"]) for one in found] == [2, 2]
        assert found[0]["master"]["uptime_s"] < found[1]["master"]["uptime_s"]
        assert shop.stop() == 0
        _, errors = watch.communicate(timeout=PATIENCE_S)
        assert watch.returncode in (1, 3)  # 1: it went away in the middle of a question
        assert b"is not running" in errors or b"went away" in errors
        assert b"Traceback" not in errors


def test_watch_and_check_do_not_go_together(shop: Supervisor) -> None:
    assert shop.cli("status", "--watch", "--check").returncode == 2


def test_status_fits_a_narrow_terminal(shop: Supervisor) -> None:
    where = {"SUPERVISOR_CONF": str(shop.conf)}
    with Terminal("status", width=30, environment=where) as shown:
        assert shown.wait_exit() == 0
        lines = shown.wait_text("naps:1").replace("\r", "").splitlines()
        assert all(len(line) <= 30 for line in lines)

"""`init` and shell completion, as somebody meets them who begins."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S, eventually
from tests.helpers.sections import section


def test_what_init_writes_works_at_once(supervise: Supervise) -> None:
    # A supervisor of that folder, to end what is started there.
    shop = supervise("", start=False)
    shop.conf.unlink()
    done = shop.cli("init", str(shop.folder / "shop"))
    conf = shop.folder / "shop" / "workers.ini"
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == f"wrote {conf}"
    assert done.stderr == f"Next: supervisor check --conf {conf}\n"
    text = conf.read_text()
    places = f"run_dir = {shop.run_dir}\nstate_dir = {shop.state_dir}\nname = test"
    conf.write_text(text.replace("name = shop", places))
    shop.conf = conf
    done = shop.cli("check")
    assert (done.returncode, done.stdout) == (0, "3 jobs, 1 file: ok\n")
    shop.start()
    assert shop.cli("publish", "order.created", '{"order_id": 7}').returncode == 0
    shop.wait_line("order 7 created")
    shop.wait_line("nothing to report")
    assert shop.stop() == 0
    again = shop.cli("init", str(shop.folder / "shop"))
    assert again.returncode == 1
    assert "there already; nothing was written" in again.stderr
    assert again.stderr.count("\n") == 1


@pytest.fixture
def shop(supervise: Supervise) -> Supervisor:
    """Give a running supervisor of two jobs."""
    naps = section("naps", command="/bin/sleep 1000", processes=2)
    return supervise(naps + section("night", command="/bin/sleep 1000"))


def offered(shop: Supervisor, *words: str) -> list[str]:
    """Give what is offered for the last of these words."""
    environment = {"COMP_WORDS": " ".join(("supervisor", *words)), "COMP_CWORD": str(len(words))}
    done = _run(shop, {"_SUPERVISOR_COMPLETE": "bash_complete", **environment})
    assert (done.returncode, done.stderr) == (0, "")
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def _run(shop: Supervisor, environment: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "supervisor"],
        env={**os.environ, "SUPERVISOR_CONF": str(shop.conf), **environment},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_commands_and_the_jobs_that_run_are_completed(shop: Supervisor) -> None:
    assert set(offered(shop, "sta")) == {"start", "status", "stacks"}
    # Nobody waits long at a tab: a supervisor that stands still for a second is not heard.
    eventually(lambda: offered(shop, "why", "n") == ["naps", "night"])
    eventually(lambda: offered(shop, "stacks", "ni") == ["night"])
    eventually(lambda: offered(shop, "logs", "naps:") == ["naps:0", "naps:1"])
    eventually(lambda: offered(shop, "--conf", str(shop.conf), "restart", "na") == ["naps"])


def test_completion_says_nothing_when_nobody_answers(shop: Supervisor) -> None:
    os.kill(shop.pid, signal.SIGSTOP)
    try:
        assert offered(shop, "why", "n") == []
    finally:
        os.kill(shop.pid, signal.SIGCONT)
    assert shop.stop() == 0
    assert offered(shop, "why", "n") == []
    shop.conf.unlink()
    assert offered(shop, "why", "n") == []
    assert offered(shop, "wh") == ["why"]


def test_bash_takes_the_script(shop: Supervisor, tmp_path: Path) -> None:
    program = tmp_path / "supervisor"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m supervisor "$@"\n')
    program.chmod(0o755)
    script = f"""
        eval "$({program} completion bash)" || exit 1
        COMP_WORDS=(supervisor why ni) COMP_CWORD=2
        _supervisor_completion {program} && printf '%s\\n' "${{COMPREPLY[@]}}"
        complete -p supervisor
    """

    def completed() -> bool:
        done = subprocess.run(
            ["bash", "--norc", "-c", script],
            env={**os.environ, "SUPERVISOR_CONF": str(shop.conf)},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert "_supervisor_completion" in done.stdout.splitlines()[-1]
        return done.stdout.splitlines()[0] == "night"

    eventually(completed)


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_have_theirs(shop: Supervisor, shell: str) -> None:
    done = shop.cli("completion", shell)
    assert done.returncode == 0
    assert "_SUPERVISOR_COMPLETE" in done.stdout
    assert shop.cli("completion", "cmd").returncode == 2

"""A grown supervisord.conf, imported and run; then all of supervisorctl with our commands."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually

SOURCE = Path(__file__).resolve().parents[1] / "data" / "supervisord"
PROGRAMS = ("gunicorn", "websocket", "celery", "reports", "search-index", "thumbnails.sh")
# Leaves by the usual signals, tells the others, and has a child that a stop must not leave behind.
PROGRAM = """#!/bin/sh
trap 'echo got HUP' HUP
trap 'exit 0' TERM INT QUIT
echo "$(basename "$0") $*"
echo "complaint of $(basename "$0")" >&2
while :; do sleep 1000 & wait $!; done
"""
WEB = [f"frontend.web_0{number}" for number in (1, 2, 3, 4)]
RUNNING = {
    **{f"{name}:0": f"--bind 127.0.0.1:800{name[-1]} --access-logfile -" for name in WEB},
    "frontend.websocket:0": "--origin https://shop.example.org --price 100% --currency $",
    "celery_default:0": "-Q default -n default@%h --concurrency=2",
    "celery_default:1": "-Q default -n default@%h --concurrency=2",
    "celery_beat:0": "-A shop beat --schedule={here}/beat.db --pidfile=",
    "mailer:0": 'while true; do "$SHOP_BIN"/mailer --once || exit 1; sleep "${{MAIL_PAUSE:-1}}"',
    "thumbnails:0": "{here}/thumbnails.sh 640",
    "reports:0": "--out {here}/conf.d/../reports",
    "search_index:0": "bin/search-index",
}
"""What runs in the end, each with a part of its command line."""

Supervise = Callable[..., Supervisor]


@pytest.fixture
def shop(supervise: Supervise) -> Supervisor:
    """Give the imported shop, running, with small programs in the place of the real ones."""
    user = pwd.getpwuid(os.getuid()).pw_name
    environment = {"SHOP_BIN": "bin", "SHOP_USER": user, "MAIL_PAUSE": "1000"}
    made = supervise("", start=False, environment=environment)
    shutil.copytree(SOURCE, made.folder, dirs_exist_ok=True)
    for folder in ("bin", "log"):
        (made.folder / folder).mkdir()
    for name in PROGRAMS:
        program(made, name if name.endswith(".sh") else f"bin/{name}", PROGRAM)
    program(made, "bin/mailer", "#!/bin/sh\necho mailed\n")
    program(made, "bin/stocktaking", "#!/bin/sh\necho counted $*\n")

    done = made.cli("init", "new", "--from", "supervisord.conf")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "12 jobs, 1 file: ok"
    own = f"\n[supervisor]\nname = test\nrun_dir = {made.run_dir}\nstate_dir = {made.state_dir}\n"
    made.write("test.ini", made.read("new/workers.ini").replace("\n[supervisor]\n", own))
    made.start()
    return made


def program(shop: Supervisor, name: str, text: str) -> None:
    shop.write(name, text).chmod(0o755)


def test_ten_programs_run_as_they_did(shop: Supervisor) -> None:
    found = {row["name"]: row for row in shop.status()["processes"]}
    assert found.keys() == RUNNING.keys()
    for name, words in RUNNING.items():
        assert found[name]["state"] == "RUNNING"
        wait_command(found[name]["pid"], words.format(here=shop.folder))

    celery = variables(found["celery_default:0"]["pid"])
    assert celery["BROKER_URL"] == "amqp://shop:hunter2@127.0.0.1/shop"
    assert celery["GREETING"] == "hi, there; 5 % off"
    assert celery["SHOP_HOME"] == str(shop.folder)
    assert variables(found["thumbnails:0"]["pid"])["API_TOKEN"] == "t0ken-of-the-api"
    assert "Umask:\t0027" in Path(f"/proc/{found['mailer:0']['pid']}/status").read_text()
    assert os.readlink(f"/proc/{found['frontend.web_01:0']['pid']}/cwd") == str(shop.folder)

    eventually(lambda: "gunicorn --bind 127.0.0.1:8003" in shop.read("log/web-03.log"))
    eventually(lambda: "complaint of websocket" in shop.read("log/websocket.log"))
    eventually(lambda: shop.read("log/celery.log").count("celery -A shop worker") == 2)


def wait_command(pid: int, words: str) -> None:
    """Wait until the process has become the program."""
    path = Path(f"/proc/{pid}/cmdline")
    eventually(lambda: words in path.read_text().replace("\0", " "))


def variables(pid: int) -> dict[str, str]:
    words = Path(f"/proc/{pid}/environ").read_text().rstrip("\0").split("\0")
    return dict(word.split("=", 1) for word in words)


def test_status_pid_and_version(shop: Supervisor) -> None:
    """`status`, `status frontend:*`, `pid NAME`, `pid`, `version`."""
    group = shop.json("status", "frontend.*")["processes"]
    assert [row["name"] for row in group] == [f"{name}:0" for name in (*WEB, "frontend.websocket")]
    assert shop.json("status", "reports")["processes"][0]["pid"] == shop.process("reports:0")["pid"]
    assert shop.json("status")["master"]["pid"] == shop.pid
    assert shop.cli("status", "nobody").returncode == 4
    assert shop.cli("version").returncode == 0


def test_stop_start_and_restart_of_one_and_of_a_group(shop: Supervisor) -> None:
    """`stop x`, `start x`, `restart x`, and the same of `frontend:*`."""
    before = shop.pids()

    for words in (("reports",), ("frontend.*",)):
        assert shop.cli("stop", *words).returncode == 0
        for row in shop.json("status", *words)["processes"]:
            assert (row["state"], row["pid"]) == ("STOPPED", None)
        assert shop.cli("start", *words).returncode == 0
        for row in shop.json("status", *words)["processes"]:
            shop.wait_state(row["name"], "RUNNING")
    between = shop.pids()
    assert shop.cli("restart", "celery_default", "frontend.web_*").returncode == 0

    after = shop.pids()
    again = {"reports:0", *(name for name in before if name.startswith("frontend."))}
    assert {name for name in before if between[name] != before[name]} == again
    restarted = {"celery_default:0", "celery_default:1", *(f"{name}:0" for name in WEB)}
    assert {name for name in after if after[name] != between[name]} == restarted


def test_stop_all_and_start_all(shop: Supervisor) -> None:
    """`stop all`, `start all`."""
    assert shop.cli("stop", "*").returncode == 0
    assert set(shop.pids().values()) == {None}
    assert shop.cli("start", "*").returncode == 0
    for name in RUNNING:
        shop.wait_state(name, "RUNNING")


def test_what_did_not_start_by_itself_is_started_by_hand(shop: Supervisor) -> None:
    """`start stocktaking`, which has autostart = false."""
    assert shop.cli("scale", "stocktaking=1").returncode == 0
    shop.wait_state("stocktaking:0", "EXITED")
    eventually(lambda: "counted --all" in shop.cli("logs", "stocktaking").stdout)


def test_signal(shop: Supervisor) -> None:
    """`signal HUP x`."""
    eventually(lambda: "reports --out" in shop.cli("logs", "reports").stdout)
    before = shop.pids()
    assert shop.cli("signal", "reports", "HUP").returncode == 0
    eventually(lambda: "got HUP" in shop.cli("logs", "reports").stdout)
    assert shop.pids() == before


def test_tail_and_maintail(shop: Supervisor) -> None:
    """`tail x`, `tail x stderr`, `tail -f x`, `maintail`."""
    eventually(lambda: "reports --out" in shop.cli("logs", "reports").stdout)
    eventually(lambda: "complaint of reports" in shop.cli("logs", "reports").stdout)
    words = [sys.executable, "-m", "supervisor", "logs", "-f", "-n", "0", "reports"]
    with subprocess.Popen(
        [*words, "-c", str(shop.conf)], stdout=subprocess.PIPE, text=True, cwd=shop.folder
    ) as following:
        assert following.stdout is not None
        try:
            # Until it follows, a signal may be too early: so more than one is sent.
            line = ""
            with shop_signals(shop, "reports"):
                line = following.stdout.readline()
            assert "got HUP" in line
        finally:
            following.terminate()

    os.kill(shop.pids()["search_index:0"], signal.SIGKILL)
    eventually(lambda: "search_index" in shop.cli("logs", "master").stdout)
    eventually(lambda: "search_index" in shop.read("log/supervisord.log"))


def shop_signals(shop: Supervisor, name: str) -> subprocess.Popen[bytes]:
    """Send HUP to a job again and again, until the end of the block."""
    loop = f"while :; do kill -HUP {shop.pids()[f'{name}:0']}; sleep 0.2; done"
    return _Ended(["sh", "-c", loop], start_new_session=True)


class _Ended(subprocess.Popen[bytes]):
    """A process that is killed at the end of its block, with what it has begun."""

    def __exit__(self, *error: object) -> None:
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


def test_clear(shop: Supervisor) -> None:
    """`clear x`: a log file may be emptied at any time, what follows begins at its start."""
    eventually(lambda: "websocket --origin" in shop.read("log/websocket.log"))
    os.truncate(shop.folder / "log/websocket.log", 0)
    shop.cli("signal", "frontend.websocket", "HUP")
    eventually(lambda: "got HUP" in shop.read("log/websocket.log"))
    assert "\0" not in shop.read("log/websocket.log")
    assert "websocket --origin" not in shop.read("log/websocket.log")


def test_reread_and_update(shop: Supervisor) -> None:
    """`reread`, `avail`, `update`, `add`, `remove`."""
    before = shop.pids()
    text = shop.read("test.ini")
    begin, end = text.index("[daemon:reports]"), text.index("[daemon:search_index]")
    fresh = text[:begin] + text[end:].replace("search-index\n", "search-index --all\n", 1)
    shop.write("test.ini", fresh + "\n[daemon:fresh]\ntype = program\ncommand = sleep 1000\n")

    planned = shop.json("reload", "--dry-run")
    assert shop.pids() == before
    changes = {row["name"]: row["change"] for row in planned["jobs"]}
    assert {name: change for name, change in changes.items() if change != "unchanged"} == {
        "reports": "removed",
        "search_index": "restart",
        "fresh": "added",
    }
    assert shop.json("reload")["applied"]
    after = shop.pids()
    assert before.keys() - after.keys() == {"reports:0"}
    assert after.keys() - before.keys() == {"fresh:0"}
    kept = before.keys() - {"reports:0", "search_index:0"}
    assert {name: after[name] for name in kept} == {name: before[name] for name in kept}


def test_reload_and_shutdown(shop: Supervisor) -> None:
    """`reload` restarts everything, `shutdown` ends it, and nothing of it is left."""
    before = shop.pids()
    assert shop.cli("restart", timeout_s=120).returncode == 0
    assert not set(before.values()) & set(shop.pids().values())

    assert shop.cli("stop", timeout_s=120).returncode == 0
    assert shop.wait_exit() == 0
    assert shop.tree() == ()


def test_logs_are_reopened(shop: Supervisor) -> None:
    """`kill -USR2` of supervisord: USR1 here, for logrotate."""
    eventually(lambda: "websocket --origin" in shop.read("log/websocket.log"))
    (shop.folder / "log/websocket.log").rename(shop.folder / "log/websocket.1")
    shop.send(signal.SIGUSR1)
    shop.cli("signal", "frontend.websocket", "HUP")
    eventually(lambda: "got HUP" in shop.read("log/websocket.log"))
    assert "got HUP" not in shop.read("log/websocket.1")

"""The commands against a real supervisor: what they do, print and answer with their exit code."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import PATIENCE_S

NAPS = """
    [daemon:naps]
    type = program
    command = /bin/sleep 1000
    processes = 2
    stop_timeout = 5s
"""

BROKEN = """
    [daemon:broken]
    type = worker
    target = jobs:Broken
    required = false
    max_failures = 2
    backoff = 100ms
"""

JOBS = """
    from workers import Worker

    class Broken(Worker):
        def setup(self):
            print("no \\x1b[31mkey")
            raise RuntimeError("no key")

        def run(self, context):
            context.wait(1000)
"""

# The words of the contract: more may follow, none of these may go.
PROCESS = """
    name job process kind type state ready pid uptime_s restarts last_exit in_flight done failed
    retried dead skipped backlog lag rss_bytes heartbeat_age_s next_start_s
"""
MASTER = "name pid state ready uptime_s config version generation"


@pytest.fixture
def shop(supervise: Supervise) -> Supervisor:
    """Give a running supervisor with two naps and one job that never starts."""
    shop = supervise(NAPS + BROKEN, {"jobs": JOBS})
    shop.wait_state("broken:0", "FATAL")
    return shop


def test_status_has_the_shape_of_the_contract(shop: Supervisor) -> None:
    found = shop.json("status")
    assert found["master"].keys() >= set(MASTER.split())
    assert [row["name"] for row in found["processes"]] == ["naps:0", "naps:1", "broken:0"]
    assert all(row.keys() >= set(PROCESS.split()) for row in found["processes"])
    broken = found["processes"][2]
    assert broken["last_exit"].keys() >= {"code", "signal", "cause", "at"}
    assert found["master"]["pid"] == shop.pid
    assert found["master"]["ready"] is True


def test_status_says_first_how_things_stand_and_last_what_to_do(shop: Supervisor) -> None:
    done = shop.cli("status")
    lines = done.stdout.splitlines()
    assert lines[0].startswith("DEGRADED  2 of 3 ready   up ")
    assert lines[2].startswith("! broken:0")
    assert re.search(r"exit 1: 2 failures within 600s, retry in [34]m\d+s", lines[2])
    assert lines[3].startswith("  naps:0")
    assert done.stderr == f"Next: supervisor why broken:0 --conf {shop.conf}\n"
    assert done.returncode == 0


def test_status_takes_names_and_patterns(shop: Supervisor) -> None:
    assert [row["name"] for row in shop.json("status", "naps:1")["processes"]] == ["naps:1"]
    assert len(shop.json("status", "n*", "broken")["processes"]) == 3
    unknown = shop.cli("status", "nap")
    assert (unknown.returncode, unknown.stdout) == (4, "")
    assert unknown.stderr == "supervisor: no such job: nap; did you mean naps?\n"


def test_check_is_one_line_and_an_exit_code(shop: Supervisor) -> None:
    done = shop.cli("status", "--check")
    assert (done.returncode, done.stdout) == (0, "ready: 2 of 3\n")
    done = shop.cli("status", "--check", "broken")
    assert done.returncode == 1
    assert done.stdout.startswith("not ready: broken:0 FATAL, exit 1: 2 failures within 600s, ")


def test_restart_takes_one_process_after_the_other(shop: Supervisor) -> None:
    before = shop.pids()
    done = shop.cli("restart", "naps")
    assert done.returncode == 0, done.stderr
    assert [line.partition(",")[0] for line in done.stdout.splitlines()] == [
        "naps:0 restarted: RUNNING",
        "naps:1 restarted: RUNNING",
    ]
    after = shop.pids()
    assert before["naps:0"] != after["naps:0"]
    assert before["naps:1"] != after["naps:1"]
    moves = [(event["name"], event["to"]) for event in shop.call("events", names=["naps"])]
    steps = ("STOPPING", "STARTING", "RUNNING")
    assert moves[-6:] == [(name, step) for name in ("naps:0", "naps:1") for step in steps]


def test_restart_without_a_name_leaves_alone_what_was_stopped(shop: Supervisor) -> None:
    assert shop.cli("stop", "broken", "naps:1").returncode == 0
    done = shop.cli("restart")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("naps:0 restarted")
    assert shop.process("naps:1")["state"] == "STOPPED"
    assert shop.process("broken:0")["state"] == "STOPPED"


def test_a_restart_that_fails_says_so(shop: Supervisor) -> None:
    done = shop.cli("restart", "broken")
    assert done.returncode == 1
    assert "broken:0 is" in done.stderr


def test_jobs_are_stopped_and_started_by_name(shop: Supervisor) -> None:
    stopped = shop.json("stop", "naps:0")
    assert stopped == {"drained": 0, "abandoned": 0, "killed": []}
    assert shop.process("naps:0")["state"] == "STOPPED"
    assert shop.process("naps:1")["state"] == "RUNNING"
    done = shop.cli("start", "naps")
    assert done.returncode == 0, done.stderr
    assert "naps:0 started: RUNNING" in done.stdout
    assert shop.cli("stop", "nobody").returncode == 4


def test_logs_show_what_was_printed_and_nothing_of_it_is_obeyed(shop: Supervisor) -> None:
    done = shop.cli("logs", "broken")
    assert r"no \u001b[31mkey" in done.stdout
    assert "\x1b" not in done.stdout
    assert len(shop.cli("logs", "broken", "-n", "1").stdout.splitlines()) == 1
    assert "broken:0 STARTING -> BACKOFF" in shop.cli("logs", "master").stdout
    assert any("no " in line for line in shop.json("logs", "broken")["lines"])


def test_events_are_one_object_a_line(shop: Supervisor) -> None:
    done = shop.cli("events", "naps:0", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [event["to"] for event in events] == ["STARTING", "RUNNING"]
    assert all(event.keys() >= {"at", "name", "from", "to", "why", "pid"} for event in events)
    assert "naps:0  STARTING -> RUNNING" in shop.cli("events").stdout


def test_stop_waits_until_everything_is_gone(shop: Supervisor) -> None:
    done = shop.cli("stop")
    assert (done.returncode, done.stdout) == (0, "stopped: 0 drained, 0 abandoned\n")
    assert shop.tree() == ()
    assert shop.wait_exit() == 0
    assert shop.cli("stop").returncode == 3


def test_stop_tells_what_had_to_be_killed(supervise: Supervise) -> None:
    shop = supervise(
        """
        [daemon:deaf]
        type = worker
        target = deaf:run
        stop_timeout = 30s
        """,
        {
            "deaf": """
                import signal, threading
                def run(context):
                    print("deaf", flush=True)
                    threading.Event().wait()
                """
        },
    )
    shop.wait_line("deaf")
    done = shop.cli("stop", "--timeout", "500ms", "--json")
    assert done.returncode == 1
    assert json.loads(done.stdout)["killed"] == ["deaf:0"]
    assert shop.wait_exit() == 0
    assert shop.tree() == ()


def test_stop_ends_what_a_dead_master_has_left(supervise: Supervise) -> None:
    shop = supervise(
        """
        [daemon:stubborn]
        type = program
        command = /bin/sh -c 'trap "" TERM; echo deaf; while :; do sleep 0.2; done'
        stop_timeout = 1s
        """
    )
    shop.wait_line("deaf")
    shop.kill()
    assert shop.cli("status").returncode == 3
    done = shop.cli("stop")
    assert (done.returncode, "stubborn:0" in done.stdout) == (1, True), done.stderr
    assert shop.tree() == ()
    assert shop.cli("stop").returncode == 3


@pytest.fixture
def background(supervise: Supervise) -> Iterator[Supervisor]:
    """Give a supervisor that is not started; what is started of it is stopped."""
    shop = supervise(NAPS, {"jobs": JOBS}, start=False)
    yield shop
    shop.cli("stop", "--timeout", "1s")


def test_daemonize_returns_when_all_is_ready(background: Supervisor) -> None:
    done = background.cli("start", "--daemonize")
    assert (done.returncode, done.stdout) == (0, "ready: 2 of 2\n"), done.stderr
    found = background.json("status")
    assert found["master"]["ready"] is True
    assert os.getsid(found["master"]["pid"]) != found["master"]["pid"]
    assert background.cli("stop").returncode == 0
    assert background.tree() == ()
    log = (background.state_dir / "test.log").read_text()
    assert all(json.loads(line) for line in log.splitlines())


def test_daemonize_shows_the_error_at_the_terminal(background: Supervisor) -> None:
    background.configure(BROKEN.replace("required = false", "required = true"))
    done = background.cli("start", "--daemonize")
    assert done.returncode == 1
    assert "supervisor: broken:0 is FATAL: exit 1" in done.stderr
    background.configure(NAPS.replace("processes", "proceses"))
    background.cli("stop")
    done = background.cli("start", "--daemonize")
    assert done.returncode == 78
    assert "did you mean processes?" in done.stderr


@pytest.mark.parametrize("key", ["log_file", "state_dir"])
def test_daemonize_tells_in_one_line_of_a_log_that_cannot_be_written(
    background: Supervisor, key: str
) -> None:
    background.configure(NAPS, **{key: "/dev/null/here"})
    done = background.cli("start", "--daemonize")
    assert done.returncode == 1
    said = done.stderr.splitlines()[-1]
    assert said.startswith("supervisor: /dev/null")
    assert said.endswith(": set log_file or state_dir in [supervisor]")
    assert "Traceback" not in done.stderr


def test_daemonize_does_not_wait_for_a_reader_of_its_log(background: Supervisor) -> None:
    background.state_dir.mkdir()
    os.mkfifo(background.state_dir / "test.log")
    done = background.cli("start", "--daemonize")
    assert done.returncode == 1
    assert "test.log: No such device or address; the log goes to" in done.stderr


def test_a_second_start_is_refused(shop: Supervisor) -> None:
    for words in (["start"], ["start", "--daemonize"]):
        done = shop.cli(*words)
        assert done.returncode == 75
        assert f"already running as pid {shop.pid}" in done.stderr


def test_start_and_check_tell_the_same_problems(background: Supervisor) -> None:
    background.configure(
        """
        [daemon:orders]
        type = worker
        target = nowhere:run
        restart = sometimes

        [daemon:mails]
        type = worker
        targt = jobs:Broken
        """
    )
    check, start = background.cli("check"), background.cli("start")
    assert (check.returncode, start.returncode) == (78, 78)
    assert check.stderr == start.stderr
    assert all(line.startswith(str(background.conf)) for line in check.stderr.splitlines())
    assert len(check.stderr.splitlines()) >= 2
    assert background.cli("status").returncode == 3


def test_check_imports_every_handler(background: Supervisor) -> None:
    done = background.cli("check")
    assert (done.returncode, done.stdout) == (0, "1 job, 1 file: ok\n")
    background.configure(NAPS + BROKEN.replace("Broken", "Missing"))
    done = background.cli("check", "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 78
    assert found["ok"] is False
    assert [error["key"] for error in found["errors"]] == ["target"]
    assert found["errors"][0].keys() >= {"file", "line", "section", "key", "message"}
    assert [job["name"] for job in found["jobs"]] == ["naps", "broken"]
    assert not background.state_dir.exists(), "check changes nothing"


def test_a_disabled_worker_says_so_and_is_done(background: Supervisor) -> None:
    background.configure("[worker]\nenable = false\n" + NAPS.replace("    ", ""))
    done = background.cli("start")
    assert done.returncode == 0
    assert json.loads(done.stdout)["message"] == "worker is disabled, skipping worker startup"
    assert background.cli("start", "--daemonize").returncode == 0


def test_an_embedded_configuration_is_started_only_on_demand(background: Supervisor) -> None:
    background.configure("[worker]\nmode = embedded\n" + NAPS.replace("    ", ""))
    done = background.cli("start")
    assert done.returncode == 78
    assert "--mode standalone" in done.stderr
    assert background.cli("start", "--daemonize", "--mode", "standalone").returncode == 0


def test_whoever_reads_the_output_may_leave(shop: Supervisor) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "supervisor", "status", "-c", str(shop.conf)],
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
    finally:
        os.close(writer)
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


def test_an_interrupted_stop_is_quiet_and_goes_on(supervise: Supervise) -> None:
    shop = supervise(
        """
        [daemon:slow]
        type = program
        command = /bin/sh -c 'trap "" TERM; echo deaf; sleep 1000'
        stop_timeout = 600s
        """
    )
    shop.wait_line("deaf")
    words = [sys.executable, "-m", "supervisor", "stop", "-c", str(shop.conf)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as stop:
        shop.wait_line("draining everything")
        stop.send_signal(signal.SIGINT)
        _, errors = stop.communicate(timeout=PATIENCE_S)
    assert (stop.returncode, errors.strip()) == (130, "")
    os.killpg(shop.process("slow:0")["pid"], signal.SIGKILL)
    assert shop.wait_exit() == 0


def test_a_quick_command_loads_nothing_heavy(shop: Supervisor) -> None:
    heavy = "config render supervisor"
    names = [*(f"supervisor.{name}" for name in heavy.split()), "workers", "rich", "logging"]
    script = (
        "import gc, sys; from supervisor.entry import main; code = main();"
        f"print(code, sorted(set(sys.modules) & set({names})), gc.isenabled(), file=sys.stderr)"
    )
    words = [sys.executable, "-c", script, "status", "--json", "-c", str(shop.conf)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stderr == "0 [] True\n"
    assert json.loads(done.stdout)["master"]["ready"] is True

"""`log_rate` in a whole supervisor: a flood is cut, counted to the line, and waits for nobody."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

from supervisor.lines import Source
from supervisor.logs import Log
from supervisor.rate import QUIET_S
from supervisor.sink import SOFT_BYTES, STALLED_S, Sink
from tests.conftest import Supervise
from tests.helpers.driver import Line, Supervisor
from tests.helpers.sections import section
from tests.unit.test_logs import ORDERS, Gate

LINES = 20_000
DROPPED = re.compile(r"dropped (\d+) lines of floods:0 (\w+), above log_rate = 50 a second")

MODULES = {
    "talk": f"""
        import os

        def floods(context):
            line = b"x" * 79 + b"\\n"
            for _ in range({LINES} // 100):
                data = line * 100
                while data:
                    data = data[os.write(1, data):]
            os.write(2, b"written\\n")
            for number in range(200):
                context.logger.info("record %d", number)
            context.wait(1e6)

        def talks(context):
            print("quiet words", flush=True)
            context.wait(1e6)
    """
}


def counted(lines: list[Line], stream: str) -> int:
    """Add up what was said to be dropped of a stream."""
    found = [DROPPED.match(line["message"]) for line in lines if line["worker"] == "master"]
    return sum(int(match[1]) for match in found if match and match[2] == stream)


def logged(supervisor: Supervisor, stream: str) -> int:
    """Count the lines of a stream that got through."""
    lines = [line for line in supervisor.log_lines() if line["worker"] == "daemon"]
    return sum(line["job"] == "floods" and line.get("stream") == stream for line in lines)


def test_a_flood_is_cut_and_every_line_counted(supervise: Supervise) -> None:
    floods = section("floods", target="talk:floods", log_rate=50)
    supervisor = supervise(floods + section("talks", target="talk:talks"), MODULES)

    def all_told(_line: Line) -> bool:
        lines = supervisor.log_lines()
        told = counted(lines, "stdout") + logged(supervisor, "stdout")
        return told == LINES and counted(lines, "logger") > 0

    supervisor.wait_line("written")  # its standard error has a rate of its own
    line = supervisor.wait_line(all_told)
    told = next(line for line in supervisor.log_lines() if "above log_rate" in line["message"])
    assert (told["level"], told["job"], told["pid"]) == ("warning", "floods", supervisor.pid)
    assert told["dropped"] > 0
    assert line
    assert supervisor.wait_line("quiet words")["job"] == "talks"
    tail = supervisor.call("logs", names=["floods:0"], n=1000)["lines"]
    assert any("above log_rate = 50 a second" in line for line in tail), "where they are missed"
    assert supervisor.stop() == 0


def test_a_flood_that_ends_with_its_process_is_counted_too(supervise: Supervise) -> None:
    jobs = """
        [daemon:floods]
        type = program
        command = /bin/sh -c "yes | head -n 5000; exec sleep 1000"
        log_rate = 50
        restart = never
    """
    supervisor = supervise(jobs)
    supervisor.wait_process("floods:0", lambda row: bool(row["pid"]))
    supervisor.wait_line(lambda line: line["message"] == "y")
    os.kill(supervisor.process("floods:0")["pid"], signal.SIGKILL)
    supervisor.wait_process("floods:0", lambda row: row["pid"] is None)
    assert supervisor.stop() == 0
    lines = supervisor.log_lines()
    assert 50 <= logged(supervisor, "stdout") <= counted(lines, "stdout")


def test_the_file_of_a_job_holds_the_count(supervise: Supervise) -> None:
    jobs = section("floods", target="talk:floods", log_rate=50, log_file="own.log")
    supervisor = supervise(jobs, MODULES)
    supervisor._wait(
        lambda: "above log_rate" in supervisor.read("own.log"), "not told in its file", 60
    )
    assert supervisor.stop() == 0
    lines = [json.loads(line) for line in supervisor.read("own.log").splitlines()]
    mine = sum(line.get("stream") == "stdout" for line in lines)
    assert counted(lines, "stdout") + mine == LINES


@pytest.mark.parametrize("value", ["0", "-1", "many", "50/s"])
def test_a_rate_that_is_none_is_refused(supervise: Supervise, value: str) -> None:
    jobs = section("floods", target="talk:floods", log_rate=value)
    done = supervise(jobs, MODULES, start=False).cli("check")
    assert done.returncode == 78
    assert "[daemon:floods] log_rate: " in done.stderr


def test_a_count_that_the_log_does_not_take_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = [0.0]
    monkeypatch.setattr("supervisor.logs.now", lambda: moment[0])
    gate = Gate()
    log = Log(Sink(gate, clock=lambda: moment[0]))
    log.limit("orders", 1)
    limited = log.speaker(ORDERS)
    free = log.speaker(Source("daemon", "free", 0, 1, "stdout"))
    limited.say(b"passes\ndropped\ndropped")
    while log._main.pending() < 4 * SOFT_BYTES:
        free.say(b"x" * 60_000)
    moment[0] += STALLED_S + QUIET_S
    limited.finish()
    gate.open = True
    log.flush()
    last = json.loads(gate.taken.splitlines()[-1])
    # The two of the flood, and the line that would have told of them.
    assert last["dropped"]["orders:0"] == 3

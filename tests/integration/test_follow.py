"""`logs -f` and `events -f`: nothing lost or doubled, over restarts, up to a clear end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from supervisor import control, protocol, stream
from supervisor.connection import ONE_QUESTION
from tests.conftest import Supervise
from tests.helpers.driver import Line, Supervisor
from tests.helpers.eventually import PATIENCE_S
from tests.helpers.sections import section

MODULES = {
    "talk": """
        def counts(context):
            # So slowly that a reader may stand still for seconds, and nothing is dropped for it.
            number = 0
            while not context.wait(0.002):
                print("number", number, flush=True)
                number += 1

        def counts_to_200(context):
            for number in range(200):
                print("number", number, flush=True)
            context.wait(1e6)

        def once(context):
            print("\\x1b[31mred", flush=True)
            context.wait(1e6)
    """
}
MANY = 100_000

FLOOD_S = 300.0
"""How long 200,000 lines may take on a busy machine."""

COUNTS = section("counts", target="talk:counts", backoff="10ms", max_failures=1000)


@contextmanager
def follower(supervisor: Supervisor, *words: str) -> Iterator[subprocess.Popen[str]]:
    """Run one command that follows; it is ended with the test."""
    command, *rest = words
    process = subprocess.Popen(
        [sys.executable, "-m", "supervisor", command, "-c", str(supervisor.conf), "-f", *rest],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=supervisor.folder,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def words_until(process: subprocess.Popen[str], wanted: str) -> list[str]:
    """Read lines up to one that holds the text."""
    assert process.stdout is not None
    found = []
    for line in iter(process.stdout.readline, ""):
        found.append(line.rstrip("\n"))
        assert len(found) < MANY, f"no {wanted!r}, but {found[-5:]}"
        if wanted in line:
            return found
    raise AssertionError(f"ended before {wanted!r}: {found[-5:]}")


@contextmanager
def following(supervisor: Supervisor, **request: object) -> Iterator[tuple[Line, Iterator[Line]]]:
    """Follow by the socket itself; gives the answer and what follows it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(supervisor.run_dir / "test.sock"))
        connection.sendall(json.dumps({"follow": True, **request}).encode() + b"\n")
        with connection.makefile("rb") as answers:
            answer = json.loads(answers.readline())
            assert answer["ok"], answer
            yield answer["result"], map(json.loads, iter(answers.readline, b""))


def numbers(lines: list[str]) -> list[int]:
    return [int(line.rpartition(" ")[2]) for line in lines if "stdout | number" in line]


def test_nothing_is_lost_or_doubled_between_what_was_and_what_follows(
    supervise: Supervise,
) -> None:
    supervisor = supervise(COUNTS, MODULES)
    for size in (0, 1, 50, 10_000):
        with following(supervisor, verb="logs", names=["counts"], n=size) as (before, items):
            lines = before["lines"] + [next(items)["line"] for _ in range(300)]
        found = numbers(lines)
        assert found == list(range(found[0], found[0] + len(found)))
    assert supervisor.stop() == 0


def test_a_process_is_followed_over_its_restarts_up_to_the_stop(supervise: Supervise) -> None:
    supervisor = supervise(COUNTS, MODULES)
    with follower(supervisor, "logs", "counts:0") as follow:
        words_until(follow, "number 3")
        os.kill(supervisor.process("counts:0")["pid"], signal.SIGKILL)
        words_until(follow, "| number 0")
        assert supervisor.stop() == 0
        _, errors = follow.communicate(timeout=PATIENCE_S)
        assert follow.returncode == 0
        assert errors == "supervisor: the supervisor has stopped\n"


def test_several_are_told_apart_by_name_and_the_master_has_the_last_word(
    supervise: Supervise,
) -> None:
    supervisor = supervise(COUNTS + section("once", target="talk:once"), MODULES)
    with follower(supervisor, "logs", "c*", "once", "master", "-n", "100000") as follow:
        words_until(follow, "counts:0  ")
        assert supervisor.stop() == 0
        out, _ = follow.communicate(timeout=PATIENCE_S)
    assert out.splitlines()[-1].startswith("master  ")
    assert "stopped: 0 drained, 0 abandoned" in out.splitlines()[-1]


def test_a_terminal_obeys_nothing_that_a_job_prints(supervise: Supervise) -> None:
    supervisor = supervise(section("once", target="talk:once"), MODULES)
    for extra in ((), ("--json",)):
        with follower(supervisor, "logs", "once", *extra) as follow:
            line = words_until(follow, "red")[-1]
            assert "\x1b" not in line
            assert "u001b[31mred" in line


def test_events_follow(supervise: Supervise) -> None:
    supervisor = supervise(COUNTS + section("once", target="talk:once"), MODULES)
    with follower(supervisor, "events", "counts", "-n", "1", "--json") as follow:
        first = json.loads(words_until(follow, "RUNNING")[-1])
        assert (first["name"], first["to"]) == ("counts:0", "RUNNING")
        supervisor.cli("stop", "once")
        os.kill(supervisor.process("counts:0")["pid"], signal.SIGKILL)
        found = [json.loads(line) for line in words_until(follow, '"to": "RUNNING"')]
    assert [one["to"] for one in found] == ["BACKOFF", "STARTING", "RUNNING"]
    assert {one["name"] for one in found} == {"counts:0"}


def test_an_interrupt_ends_it(supervise: Supervise) -> None:
    supervisor = supervise(COUNTS, MODULES)
    with follower(supervisor, "logs", "counts") as follow:
        words_until(follow, "number")
        follow.send_signal(signal.SIGINT)
        _, errors = follow.communicate(timeout=PATIENCE_S)
        assert (follow.returncode, errors.strip()) == (130, "")


def test_it_ends_when_nobody_reads_it_any_more(supervise: Supervise) -> None:
    supervisor = supervise(section("once", target="talk:once"), MODULES)
    with follower(supervisor, "logs", "once") as follow:
        words_until(follow, "red")
        assert follow.stdout is not None
        follow.stdout.close()
        assert follow.wait(PATIENCE_S) == 1, "though no line comes that could not be written"
        assert follow.stderr is not None
        assert follow.stderr.read() == ""


def test_a_dead_master_is_no_clean_end(supervise: Supervise) -> None:
    supervisor = supervise(section("once", target="talk:once"), MODULES)
    with follower(supervisor, "logs", "once") as follow:
        words_until(follow, "red")
        supervisor.kill()
        _, errors = follow.communicate(timeout=PATIENCE_S)
        assert follow.returncode == 1
        assert (
            errors
            == f"supervisor: the supervisor (pid {supervisor.pid}) went away without a word\n"
        )


def test_names_that_fit_nothing_are_refused(supervise: Supervise) -> None:
    supervisor = supervise(COUNTS, MODULES)
    for command in ("logs", "events"):
        done = supervisor.cli(command, "count", "-f")
        assert (done.returncode, done.stdout) == (4, "")
        assert done.stderr == "supervisor: no such job: count; did you mean counts?\n"


def test_a_reader_that_stands_still_holds_nobody_and_is_told_what_it_missed(
    supervise: Supervise,
) -> None:
    flood = "until [ -e go ]; do sleep 0.01; done; seq 200000; echo over; exec sleep 1000"
    supervisor = supervise(section("floods", command=f"/bin/sh -c '{flood}'"))
    with following(supervisor, verb="logs", names=["floods"], n=100_000) as (before, items):
        assert before["lines"] == []
        supervisor.write("go", "")
        supervisor.wait_line("over", timeout_s=FLOOD_S)
        missed = arrived = 0
        while missed + arrived < 200_001:
            item = next(items)
            missed += item.get("dropped", 0)
            arrived += "line" in item
        assert missed > 0
        assert missed + arrived == 200_001
    assert supervisor.stop() == 0


def test_who_follows_can_ask_nothing_more(supervise: Supervise) -> None:
    supervisor = supervise(COUNTS, MODULES)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(supervisor.run_dir / "test.sock"))
        connection.sendall(b'{"verb":"logs","names":["counts"],"follow":true}\n{"verb":"stop"}\n')
        with connection.makefile("rb") as answers:
            *_, last = map(json.loads, iter(answers.readline, b""))
    assert last == {"end": ONE_QUESTION, "ok": False}
    assert supervisor.process("counts:0")["state"] == "RUNNING"


def test_a_follower_may_have_said_its_last_word(supervise: Supervise) -> None:
    """`echo … | nc -NU` closes its end for writing, and reads on."""
    supervisor = supervise(COUNTS, MODULES)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(supervisor.run_dir / "test.sock"))
        connection.sendall(b'{"verb":"logs","names":["counts"],"follow":true,"n":0}\n')
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as answers:
            lines = [json.loads(answers.readline()) for _ in range(50)]
    assert lines[-1]["name"] == "counts:0"


@pytest.mark.parametrize("value", ['"yes"', "1", "null", "[]"])
def test_a_wish_to_follow_that_is_none_is_refused(supervise: Supervise, value: str) -> None:
    supervisor = supervise(COUNTS, MODULES)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(supervisor.run_dir / "test.sock"))
        connection.sendall(f'{{"verb":"events","follow":{value}}}\n'.encode())
        answer = json.loads(connection.recv(4096))
    assert answer == {"ok": False, "error": "follow must be true or false", "code": 2}


def test_followers_leave_room_for_who_has_a_question(supervise: Supervise) -> None:
    supervisor = supervise(COUNTS, MODULES)
    request = json.dumps({"verb": "logs", "names": ["counts"], "follow": True}).encode() + b"\n"
    connections = [socket.socket(socket.AF_UNIX) for _ in range(control.FOLLOWERS + 1)]
    try:
        for connection in connections:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(supervisor.run_dir / "test.sock"))
            connection.sendall(request)
            with connection.makefile("rb") as answers:
                answer = json.loads(answers.readline())
            assert answer["ok"] is (connection is not connections[-1])
        assert answer["error"].startswith(f"{control.FOLLOWERS} clients follow already")
        # None of them reads on, and they cost the others nothing.
        supervisor.wait_line("number 1000")
        assert supervisor.status()["master"]["ready"]
    finally:
        for connection in connections:
            connection.close()
    assert supervisor.stop() == 0
    assert stream.WAITING_BYTES * control.FOLLOWERS < protocol.REPLY_BYTES * 2


def test_the_last_lines_reach_who_reads_them_late(supervise: Supervise) -> None:
    # As much as the kernel keeps for a reader: of more, the end would be lost to who reads so late.
    supervisor = supervise(section("counts", target="talk:counts_to_200"), MODULES)
    with following(supervisor, verb="logs", names=["counts", "master"], n=0) as (_, items):
        supervisor.wait_line("number 199")
        assert supervisor.stop() == 0
        found = list(items)
    assert found[-1] == {"end": "the supervisor has stopped", "ok": True}
    lines = [item["line"] for item in found if "line" in item]
    assert "stopped: 0 drained, 0 abandoned" in lines[-1]

"""What people see, from the shapes that the master gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import render
from supervisor.errors import Problem
from supervisor.shapes import LastExit, MasterStatus, ProcessStatus, Status


def process(name: str, **changes: object) -> ProcessStatus:
    row: dict[str, object] = {
        "name": name,
        "job": name.partition(":")[0],
        "process": int(name.partition(":")[2]),
        "kind": "daemon",
        "type": "queue",
        "state": "RUNNING",
        "ready": True,
        "pid": 4000,
        "uptime_s": 3725.0,
        "restarts": 0,
        "last_exit": None,
        "in_flight": 0,
        "done": 12,
        "failed": 0,
        "retried": 0,
        "dead": 0,
        "skipped": 0,
        "backlog": None,
        "lag": None,
        "rss_bytes": 61 << 20,
        "heartbeat_age_s": 0.25,
        "next_start_s": None,
    }
    return row | changes  # type: ignore[return-value]  # the keys are those of ProcessStatus


def exit_with(code: int | None, signal: str | None = None, cause: str = "exited") -> LastExit:
    return {"code": code, "signal": signal, "cause": cause, "at": "2026-11-22T04:15:43Z"}


def status(*rows: ProcessStatus, ready: bool = True, state: str = "RUNNING") -> Status:
    master: MasterStatus = {
        "name": "shop",
        "pid": 812,
        "state": state,
        "ready": ready,
        "uptime_s": 12 * 86400 + 4 * 3600,
        "config": "/etc/shop/workers.ini",
        "version": "1",
        "generation": 1,
    }
    return {"master": master, "processes": list(rows)}


BROKEN = process(
    "billing:1",
    state="BACKOFF",
    ready=False,
    pid=None,
    restarts=7,
    last_exit=exit_with(1),
    next_start_s=8.2,
    failures=3,
    max_failures=10,
)


def test_the_screen_of_a_degraded_supervisor() -> None:
    rows = [process("orders:0"), process("billing:0", backlog=340, dead=2), BROKEN]
    assert render.status_screen(status(*rows, ready=False)).splitlines() == [
        "DEGRADED  2 of 3 ready   up 12d4h   pid 812   /etc/shop/workers.ini",
        "  NAME       KIND    STATE    READY   PID  UPTIME  RESTARTS  LAST-EXIT  IN-FLIGHT  DONE"
        "  FAILED     RSS   BEAT  DETAIL",
        "! billing:1  daemon  BACKOFF  no        -       -         7  exit 1             0    12"
        "       0  61 MiB  250ms  exit 1, retry in 8s (3 of 10)",
        "  orders:0   daemon  RUNNING  yes    4000    1h2m         0  -                  0    12"
        "       0  61 MiB  250ms",
        "  billing:0  daemon  RUNNING  yes    4000    1h2m         0  -                  0    12"
        "       0  61 MiB  250ms  backlog 340, dead 2",
    ]


HELD = {"state": "STOPPED", "pid": None, "why": "waiting for db to be ready"}


@pytest.mark.parametrize(
    ("found", "word"),
    [
        (status(process("a:0")), "OK"),
        (status(process("a:0"), process("b:0", state="STOPPED", ready=False)), "OK"),
        (status(process("a:0"), process("b:0", state="EXITED", ready=True)), "OK"),
        (status(process("a:0", state="STARTING", ready=False), ready=False), "STARTING"),
        (status(process("a:0"), BROKEN), "DEGRADED"),
        (status(process("a:0", ready=False), ready=False), "DEGRADED"),
        (status(process("a:0", state="FATAL", ready=False), ready=False), "DEGRADED"),
        (status(process("a:0", state="STOPPED", ready=False), ready=False), "DEGRADED"),
        (status(process("a:0"), ready=False, state="STOPPING"), "STOPPING"),
        (status(process("a:0", state="STOPPED", ready=False, why="waiting for pid 7")), "DEGRADED"),
        (status(process("a:0", ready=False, **HELD, held=True), ready=False), "STARTING"),
        (status(process("a:0", ready=False, **HELD, held=False), ready=False), "DEGRADED"),
        (status(), "OK"),
    ],
)
def test_the_verdict_is_one_word(found: Status, word: str) -> None:
    assert render.verdict(found) == word
    assert render.status_screen(found).startswith(word)


def test_named_processes_are_judged_by_themselves() -> None:
    found = status(process("a:0"), ready=False)
    assert render.verdict(found, partial=True) == "OK"
    assert render.check_line(found, partial=True) == "ready: 1 of 1"
    assert render.check_line(status(BROKEN), partial=True).startswith("not ready: billing:1")


def test_check_says_in_one_line_what_is_late() -> None:
    assert render.check_line(status(process("a:0"))) == "ready: 1 of 1"
    late = status(process("a:0", state="STARTING", ready=False), BROKEN, ready=False)
    line = "not ready: billing:1 BACKOFF, exit 1, retry in 8s (3 of 10) (and 1 more)"
    assert render.check_line(status(*reversed(late["processes"]), ready=False)) == line
    leaving = status(process("a:0"), ready=False, state="STOPPING")
    assert render.check_line(leaving) == "not ready: the supervisor is STOPPING"


def test_an_empty_slot_says_whom_it_waits_for() -> None:
    row = process(
        "a:0", state="STOPPED", ready=False, why="waiting for pid 7, of an earlier master"
    )
    line = render.check_line(status(row, ready=False))
    assert line == "not ready: a:0 STOPPED, waiting for pid 7, of an earlier master"


def test_a_fatal_process_says_why() -> None:
    words = "exit 1: 10 failures within 600s"
    row = process("a:0", state="FATAL", ready=False, why=words, last_exit=exit_with(1))
    assert render.check_line(status(row, ready=False)) == f"not ready: a:0 FATAL, {words}, no retry"


def test_the_next_command_is_about_the_worst() -> None:
    fatal = process("mails:0", state="FATAL", ready=False)
    assert render.next_command(status(process("a:0"), BROKEN, fatal)) == "supervisor why mails:0"
    assert render.next_command(status(process("a:0"))) is None


def test_a_terminal_gets_what_fits_and_a_pipe_gets_all() -> None:
    rows = [process("orders:0", backlog=123456789), BROKEN]
    wide = render.status_screen(status(*rows)).splitlines()
    for width in (40, 60, 80, 100, 120, 200):
        narrow = render.status_screen(status(*rows), width=width).splitlines()
        assert all(len(line) <= width for line in narrow[1:])
        assert "NAME" in narrow[1]
        assert "STATE" in narrow[1]
    assert render.status_screen(status(*rows), width=500).splitlines() == wide


def test_colour_repeats_what_a_word_says_and_moves_no_column() -> None:
    found = status(process("a:0"), BROKEN)
    painted = render.status_screen(found, colour=True)
    assert "\x1b[33mBACKOFF\x1b[0m" in painted
    plain = painted
    for code in ("31", "32", "33", "2", "0"):
        plain = plain.replace(f"\x1b[{code}m", "")
    assert plain == render.status_screen(found)


def test_how_a_process_ended_is_said_in_a_word_or_two() -> None:
    def last(exit_: LastExit) -> str:
        table = render.status_screen(status(process("a:0", last_exit=exit_))).splitlines()
        start = table[1].index("LAST-EXIT")
        return table[2][start : start + 14].strip()

    assert last(exit_with(1)).startswith("exit 1")
    assert last(exit_with(None, "KILL", "signaled")).startswith("KILL")
    assert last(exit_with(None, "KILL", "hung")).startswith("hung")


@given(st.text())
def test_nothing_a_job_says_reaches_the_terminal_raw(text: str) -> None:
    rows = [process("a:0", type=text, last_exit=exit_with(1, cause=text or "x"))]
    found = status(*rows)
    found["master"]["config"] = text
    screen = render.status_screen(found)
    assert all(letter == "\n" or letter >= " " for letter in screen.replace("\t", " "))
    assert "\x7f" not in screen
    assert "\x9b" not in screen


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "-"),
        (0, "0ms"),
        (-1, "0ms"),
        (0.018, "18ms"),
        (42.9, "42s"),
        (60, "1m"),
        (125, "2m5s"),
        (3600, "1h"),
        (10920, "3h2m"),
        (12 * 86400 + 4 * 3600, "12d4h"),
        (86400, "1d"),
    ],
)
def test_times_have_two_units_at_most(seconds: float | None, words: str) -> None:
    assert render.duration(seconds) == words


@pytest.mark.parametrize(
    ("count", "words"),
    [(None, "-"), (512 << 10, "512 KiB"), (61 << 20, "61 MiB"), (3 << 29, "1.5 GiB")],
)
def test_memory_is_counted_in_powers_of_1024(count: int | None, words: str) -> None:
    assert render.size(count) == words


def test_a_stop_says_what_was_lost() -> None:
    report = {"drained": 12, "abandoned": 1, "killed": ["a:0", "b:1"]}
    assert render.stop_lines(report) == [  # type: ignore[arg-type]  # a literal of that shape
        "stopped: 12 drained, 1 abandoned",
        "killed: a:0, b:1",
    ]


def test_an_event_is_one_line() -> None:
    line = render.event_line(
        {
            "at": "2026-11-22T04:15:43.123Z",
            "name": "a:0",
            "from": "RUNNING",
            "to": "BACKOFF",
            "why": "exit 1\x1b[2J",
            "pid": None,
        }
    )
    assert line.endswith(r"  a:0  RUNNING -> BACKOFF  exit 1\u001b[2J")


def test_problems_keep_their_place_in_front() -> None:
    assert (
        render.warning_line(Problem("w.ini", 3, "daemon:a", "handler", "is missing"))
        == "w.ini:3: warning: [daemon:a] handler: is missing"
    )
    assert (
        render.warning_line(Problem("w.ini", 0, "", "", "no daemon jobs registered"))
        == "w.ini: warning: no daemon jobs registered"
    )
    assert render.check_verdict(8, 2, 0, 0) == "8 jobs, 2 files: ok"
    assert render.check_verdict(1, 1, 0, 1) == "1 job, 1 file: ok, 1 warning"
    assert render.check_verdict(0, 0, 3, 0) == "3 errors"


def test_queues_and_dead_letters_are_tables() -> None:
    table = render.queue_table(
        [
            {
                "url": "sqlite:///q.db",
                "topic": "mails",
                "depth": 3,
                "delayed": 0,
                "in_flight": 1,
                "dead": 2,
                "oldest_age_s": 61.0,
                "paused": False,
            }
        ]
    )
    assert table[1].split() == ["mails", "3", "0", "1", "2", "1m1s", "no", "sqlite:///q.db"]
    letters = render.dead_table(
        [
            {
                "id": "5f",
                "topic": "mails",
                "error": "ValueError: no\nTraceback",
                "attempts": 4,
                "crashes": 0,
                "at": "2026-11-22T04:15:43Z",
                "data": {"a": 1},
            }
        ]
    )
    assert letters[1].endswith("4        0  ValueError: no")
    assert render.queue_table([]) == ["no queues"]
    assert render.dead_table([]) == ["no dead letters"]
    assert render.dead_letter({"id": "5f", "error": "a\nb\x1b", "data": {"ä": 1}}) == [
        "id: 5f",
        "error:",
        "    a",
        r"    b\u001b",
        'data: {"ä": 1}',
    ]

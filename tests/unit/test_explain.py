"""What `why` says, from the facts that the master gives."""

from __future__ import annotations

import pytest

from supervisor import explain
from supervisor.columns import cut
from supervisor.shapes import Backoff, Death, Why


def death(cause: str = "exited", code: int | None = 1, **changes: object) -> Death:
    found: dict[str, object] = {
        "at": "2026-11-22T04:15:43+00:00",
        "uptime_s": 0.8,
        "code": code,
        "signal": None,
        "cause": cause,
        "why": "",
        "log_tail": ["boot", "KeyError: 'STRIPE_KEY'"],
    }
    return found | changes  # type: ignore[return-value]  # the keys are those of Death


def reason(name: str = "billing:1", state: str = "BACKOFF", **changes: object) -> Why:
    found: dict[str, object] = {
        "name": name,
        "job": name.partition(":")[0],
        "type": "queue",
        "state": state,
        "ready": state == "RUNNING",
        "why": "exit 1 (3 of 10)",
        "pid": None,
        "uptime_s": None,
        "restarts": 2,
        "failures": 3,
        "max_failures": 10,
        "window_s": 600.0,
        "backoff": None,
        "waits_for": None,
        "next_action": "none",
        "next_action_in_s": None,
        "deaths": [],
    }
    return found | changes  # type: ignore[return-value]  # the keys are those of Why


def backoff(doublings: int, delay_s: float) -> Backoff:
    return {
        "first_s": 1.0,
        "doublings": doublings,
        "max_s": 30.0,
        "delay_s": delay_s,
        "jitter": 0.2,
    }


FAILING = reason(
    deaths=[death()], backoff=backoff(2, 4.0), next_action="start", next_action_in_s=3.7
)
WELL = reason("billing:0", "RUNNING", pid=4, uptime_s=3725.0, why="ready")


def test_the_verdict_comes_first_and_the_arithmetic_is_told() -> None:
    lines = explain.lines([FAILING])
    assert lines[0] == "billing:1 (queue) is BACKOFF: exit 1 (3 of 10), 800ms after its start"
    assert lines[1] == "  Cause   KeyError: 'STRIPE_KEY'"
    assert lines[2] == (
        "  Next    3 failures in 10m of 10; backoff 1s x 2^2 = 4s, jitter 20 % "
        "-> next start in 3.7s"
    )
    assert lines[3].endswith("exit 1, after 800ms")
    assert [line.strip() for line in lines[-2:]] == FAILING["deaths"][0]["log_tail"]


@pytest.mark.parametrize(
    ("last", "cause"),
    [
        ("    shop.errors.PriceError: 7", "shop.errors.PriceError: 7"),
        ("2026-11-22T04:15:43.100Z stderr | TimeoutError", "TimeoutError"),
        ("2026-11-22T04:15:43.100Z stderr | Error rate: 7 %", None),
        ("2026-11-22T04:15:43.100Z stdout | goodbye", None),
    ],
)
def test_an_exception_is_told_as_the_cause(last: str, cause: str | None) -> None:
    lines = explain.lines([reason(deaths=[death(log_tail=["before", last])])])
    found = [line.removeprefix("  Cause   ") for line in lines if line.startswith("  Cause")]
    assert found == ([] if cause is None else [cause])


def test_the_longest_pause_is_told_where_it_holds() -> None:
    capped = reason(backoff=backoff(7, 30.0), next_action="start", next_action_in_s=28.4)
    assert "backoff 1s x 2^7, at most 30s = 30s, jitter 20 %" in explain.lines([capped])[1]


def test_a_process_that_is_well_gets_one_line() -> None:
    line = "billing:0 (queue) is RUNNING and ready for 1h2m; it has not died"
    assert explain.lines([WELL]) == [line]


def test_of_a_job_the_bad_ones_come_first() -> None:
    lines = explain.lines([WELL, FAILING])
    assert lines[0] == "1 of 2 processes not well: billing:1 BACKOFF"
    assert lines[2].startswith("billing:1 ")
    assert lines[-1].startswith("billing:0 ")
    assert explain.lines([WELL, reason("a:0", "STOPPED")])[0] == "all of 2 processes are well"


@pytest.mark.parametrize(
    ("why", "said"),
    [
        (reason(state="FATAL", next_action="none"), "supervisor start billing:1 begins anew"),
        (
            reason(state="FATAL", next_action="start", next_action_in_s=290.0, failures=10),
            "10 failures in 10m of 10: no start before fatal_retry -> start in 4m50s",
        ),
        (
            reason(state="STARTING", pid=1, uptime_s=2.0, waits_for="READY, ready_timeout 30s"),
            "for READY, ready_timeout 30s",
        ),
        (
            reason(
                state="STOPPED",
                why="waiting for pid 7",
                waits_for="pid 7",
                next_action="start",
            ),
            "start when that is over",
        ),
        (
            reason(state="RUNNING", ready=False, pid=1, uptime_s=9.0, why="not ready: 4 wait"),
            "is RUNNING for 9s, but not ready: 4 wait",
        ),
        (reason(deaths=[death("hung", None, signal="KILL")]), "no heartbeat (killed by KILL)"),
        (reason(deaths=[death("a-new-cause", 3)]), "exit 3, after"),
        (
            reason(deaths=[death("recycled", 0, why="recycled: 90 MiB above max_memory")]),
            "recycled: 90 MiB above max_memory (exit 0), after",
        ),
        (reason(deaths=[death()] * 7), "and earlier ones"),
    ],
)
def test_each_state_says_what_it_is_about(why: Why, said: str) -> None:
    assert said in "\n".join(explain.lines([why]))


def test_the_next_command_fits_the_trouble() -> None:
    assert explain.next_command([WELL, FAILING]) == "supervisor logs billing:1 -n 50"
    starting = reason("slow:0", "STARTING", pid=3)
    assert explain.next_command([WELL, starting]) == "supervisor stacks slow:0"
    wrong = reason(state="FATAL", deaths=[death("configuration", 78)])
    assert explain.next_command([wrong]) == "supervisor check"
    held = reason("top:0", "STOPPED", waits_for="base to be ready", next_action="start")
    assert explain.next_command([held]) == "supervisor status"
    assert explain.next_command([]) is None


def test_nothing_is_broken_by_a_narrow_terminal_or_by_what_a_process_prints() -> None:
    nasty = reason(deaths=[death(log_tail=["\x1b[31m" + "x" * 300, "日本" * 80])])
    for width in (20, 40, 80):
        lines = explain.lines([nasty, WELL], width=width)
        assert all(cut(line, width) == line for line in lines)
        assert not any("\x1b" in line for line in lines)
    painted = explain.lines([FAILING], colour=True)[0]
    assert "\x1b[33mBACKOFF\x1b[0m" in painted


def test_stacks_end_at_the_fork() -> None:
    dump = [
        "Current thread 0x1 (most recent call first):",
        '  File "/srv/jobs.py", line 3 in run',
        '  File "/lib/supervisor/child.py", line 144 in work',
        '  File "/lib/supervisor/process.py", line 9 in spawn',
        "",
        "Thread 0x2 (most recent call first):",
        '  File "/srv/jobs.py", line 9 in other',
    ]
    shown = explain.stacks_lines(
        {"name": "a:0", "pid": 5, "stacks": dump, "error": ""}, title=False
    )
    assert shown == [*dump[:2], *dump[4:]]

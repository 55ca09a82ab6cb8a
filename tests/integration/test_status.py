"""What is seen from outside: the JSON shapes of the contract, titles in `ps`, counters, events."""

from __future__ import annotations

import json
import os
import signal
from datetime import datetime

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

WORK = """
import os, signal, time
from ledger import is_open, note
from workers import Reject, Retry, Skip

def run(context):
    context.wait(1e6)

def beats(context):
    while not context.wait(0.01):
        context.beat()

def handle(message, context):
    note("begin", message.id)
    if message.data.get("gate"):
        while not is_open(message.data["gate"]):
            time.sleep(0.01)
    kind = message.data.get("raise")
    if kind == "skip":
        raise Skip("why")
    if kind == "reject":
        raise Reject("why")
    if kind == "fail" and message.attempt == 1:
        raise ValueError("why")
    note("end", message.id)
"""

MODULES = {"ledger": SOURCE, "work": WORK}

WORKER = section("worker", target="work:run", processes=2)
ORDERS = section(
    "orders",
    type="queue",
    url="sqlite:///queue.db",
    topics="orders",
    handler="work:handle",
    retry_backoff="10ms",
    backoff=0,
    stop_timeout="600s",
)

PROCESS_KEYS = {
    "name": str,
    "job": str,
    "process": int,
    "kind": str,
    "type": str,
    "state": str,
    "ready": bool,
    "pid": int,
    "uptime_s": float,
    "restarts": int,
    "last_exit": dict,
    "in_flight": int,
    "done": int,
    "failed": int,
    "retried": int,
    "dead": int,
    "skipped": int,
    "backlog": int,
    "lag": int,
    "rss_bytes": int,
    "heartbeat_age_s": float,
    "next_start_s": float,
}
NEVER_NULL = set(PROCESS_KEYS) - {
    *("pid", "uptime_s", "last_exit", "backlog", "lag", "rss_bytes", "heartbeat_age_s"),
    "next_start_s",
}
MASTER_KEYS = {"name", "pid", "state", "ready", "uptime_s", "config", "version", "generation"}


def publish(supervisor: Supervisor, one: str, **data: object) -> None:
    done = supervisor.cli("publish", "orders", json.dumps(data), "--id", one)
    assert done.returncode == 0, done.stderr


def titles(supervisor: Supervisor) -> set[str]:
    return {kernel.title_of(pid) for pid in supervisor.tree()}


def test_status_has_the_shape_of_the_contract(supervise: Supervise) -> None:
    bad = section("bad", command="false", required="no", backoff="20s")
    supervisor = supervise(WORKER + ORDERS + bad, MODULES)
    waiting = supervisor.wait_state("bad:0", "BACKOFF")
    found = supervisor.json("status")
    assert set(found) == {"master", "processes", "jobs"}
    assert set(found["master"]) >= MASTER_KEYS
    assert found["master"]["pid"] == supervisor.pid
    assert found["master"]["name"] == "test"
    assert found["master"]["state"] == "RUNNING"
    assert found["master"]["config"] == str(supervisor.conf)
    rows = found["processes"]
    assert [row["name"] for row in rows] == ["worker:0", "worker:1", "orders:0", "bad:0"]
    for row in rows:
        assert set(row) >= set(PROCESS_KEYS)
        for key, kind in PROCESS_KEYS.items():
            value = row[key]
            allowed = (int, float) if kind is float else kind
            assert isinstance(value, allowed) or (value is None and key not in NEVER_NULL), key
        assert row["kind"] == "daemon"
        assert f"{row['job']}:{row['process']}" == row["name"]
    orders = supervisor.wait_process("orders:0", lambda row: row["backlog"] == 0)
    assert orders["type"] == "queue"
    assert orders["rss_bytes"] > 1_000_000
    assert set(waiting["last_exit"]) == {"code", "signal", "cause", "at"}
    assert waiting["last_exit"]["code"] == 1
    assert datetime.fromisoformat(waiting["last_exit"]["at"]).utcoffset() is not None
    assert waiting["next_start_s"] > 0
    one = supervisor.json("status", "worker:1")
    assert [row["name"] for row in one["processes"]] == ["worker:1"]


def test_counters_count_and_outlive_the_process(supervise: Supervise) -> None:
    supervisor = supervise(ORDERS, MODULES)
    for one, data in {
        "good": {},
        "skipped": {"raise": "skip"},
        "rejected": {"raise": "reject"},
        "retried": {"raise": "fail"},
    }.items():
        publish(supervisor, one, **data)

    def counts() -> tuple[int, ...]:
        row = supervisor.process("orders:0")
        return tuple(row[key] for key in ("done", "skipped", "dead", "failed", "retried"))

    def settled() -> bool:
        assert counts() == (2, 1, 1, 1, 1)
        return True

    eventually(settled)
    publish(supervisor, "held", gate="first")
    Ledger(supervisor).wait("begin", "held")
    supervisor.wait_process("orders:0", lambda row: row["in_flight"] == 1)
    os.kill(supervisor.process("orders:0")["pid"], signal.SIGKILL)
    supervisor.wait_process("orders:0", lambda row: row["restarts"] == 1 and row["ready"])
    assert counts() == (2, 1, 1, 1, 1)
    Ledger(supervisor).open("first")
    eventually(lambda: counts()[0] == 3 or None)
    supervisor.wait_process("orders:0", lambda row: row["in_flight"] == 0)


def test_titles_tell_who_is_who_and_how_it_goes(supervise: Supervise) -> None:
    supervisor = supervise(WORKER + ORDERS, MODULES)
    master = f"supervisor: master [test] {supervisor.conf} (ready)"
    eventually(
        lambda: (
            titles(supervisor)
            == {
                master,
                "supervisor: daemon [worker:0] (ready)",
                "supervisor: daemon [worker:1] (ready)",
                "supervisor: daemon [orders:0] (ready)",
            }
        )
    )
    publish(supervisor, "held", gate="gate")
    Ledger(supervisor).wait("begin", "held")
    busy = "supervisor: daemon [orders:0] (busy 1, done 0, failed 0)"
    eventually(lambda: busy in titles(supervisor))
    supervisor.send(signal.SIGTERM)
    eventually(lambda: "supervisor: daemon [orders:0] (draining 1)" in titles(supervisor))
    master = f"supervisor: master [test] {supervisor.conf} (draining)"
    eventually(lambda: master in titles(supervisor))
    Ledger(supervisor).open("gate")
    assert supervisor.wait_exit() == 0


def test_a_stop_reports_what_was_drained_and_what_was_abandoned(supervise: Supervise) -> None:
    supervisor = supervise(ORDERS, MODULES)
    ledger = Ledger(supervisor)
    for one in ("a", "b", "c"):
        publish(supervisor, one, gate=one)
        ledger.wait("begin", one)
    supervisor.wait_process("orders:0", lambda row: row["in_flight"] == 3)
    ledger.open("a")
    ledger.wait("end", "a")
    supervisor.wait_process("orders:0", lambda row: row["in_flight"] == 2)
    supervisor.send(signal.SIGTERM)
    supervisor.wait_line("orders:0 RUNNING -> STOPPING")
    ledger.open("b")
    ledger.wait("end", "b")
    supervisor.wait_process("orders:0", lambda row: row["in_flight"] == 1)
    done = supervisor.cli("stop", "--timeout", "1s", "--json")
    report = json.loads(done.stdout)
    assert report == {"drained": 1, "abandoned": 1, "killed": ["orders:0"]}
    assert done.returncode == 1
    supervisor.wait_exit()
    assert "stopped: 1 drained, 1 abandoned" in supervisor.messages("master")


def test_events_tell_every_transition(supervise: Supervise) -> None:
    supervisor = supervise(section("once", command="true", restart="never"), MODULES)
    supervisor.wait_state("once:0", "EXITED")
    supervisor.cli("start", "once")
    supervisor.wait_process("once:0", lambda row: row["restarts"] and row["state"] == "EXITED")
    supervisor.cli("stop", "once")
    done = supervisor.cli("events", "--json")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(set(event) >= {"at", "name", "from", "to", "why", "pid"} for event in events)
    steps = [(event["from"], event["to"]) for event in events]
    life = [("STARTING", "RUNNING"), ("RUNNING", "EXITED")]
    assert steps == [
        ("STOPPED", "STARTING"),
        *life,
        ("EXITED", "STARTING"),
        *life,
        ("EXITED", "STOPPED"),
    ]
    assert all(event["pid"] for event in events if event["to"] in ("STARTING", "RUNNING"))
    assert [event["at"] for event in events] == sorted(event["at"] for event in events)


def test_check_is_the_health_check_of_a_container(supervise: Supervise) -> None:
    supervisor = supervise(WORKER, MODULES)
    assert supervisor.cli("status", "--check").returncode == 0
    os.kill(supervisor.pid, signal.SIGTERM)
    supervisor.wait_exit()
    assert supervisor.cli("status", "--check").returncode == 3


def test_the_beat_of_a_worker_is_seen(supervise: Supervise) -> None:
    jobs = section("beats", target="work:beats") + section("quiet", target="work:run")
    supervisor = supervise(jobs, MODULES)
    row = supervisor.wait_process("beats:0", lambda row: row["heartbeat_age_s"] is not None)
    assert row["heartbeat_age_s"] < row["uptime_s"] + 1
    assert supervisor.process("quiet:0")["heartbeat_age_s"] is None


@pytest.mark.parametrize("name", ["worker:1", "worker", "wor*"])
def test_logs_of_processes(supervise: Supervise, name: str) -> None:
    talks = "def run(context):\n    print('hello from', context.name)\n    context.wait(1e6)\n"
    supervisor = supervise(WORKER.replace("work:run", "talks:run"), {"talks": talks})
    for slot in ("worker:0", "worker:1"):
        supervisor.wait_line(f"hello from {slot}")
    done = supervisor.cli("logs", name, "-n", "10")
    assert done.returncode == 0
    lines = [line.partition("stdout | ")[2] for line in done.stdout.splitlines()]
    expected = ["hello from worker:1"]
    assert sorted(lines) == (expected if ":" in name else ["hello from worker:0", *expected])
    master = supervisor.cli("logs", "master").stdout
    assert "worker:0 STOPPED -> STARTING" in master


def test_a_traceback_stands_below_its_record(supervise: Supervise) -> None:
    fails = """
    import logging

    def run(context):
        for word in ("before", "after"):
            print(word, flush=True)
            try:
                raise ValueError(word)
            except ValueError:
                context.logger.exception("it failed")
        context.wait(1e6)
    """
    supervisor = supervise(section("fails", target="fails:run"), {"fails": fails})
    supervisor.wait_line(lambda line: "ValueError: after" in line.get("exc_info", ""))
    lines = supervisor.json("logs", "fails", "master")["lines"]
    kept = [at for at, line in enumerate(lines) if "ERROR" in line]
    assert len(kept) == 2
    for at in kept:
        assert lines[at + 1] == "    Traceback (most recent call last):"

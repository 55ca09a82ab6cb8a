"""A machine that has nothing to give, or lies: the master lives on, and so does every job."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers import faults
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE as LEDGER
from tests.helpers.ledger import Ledger
from tests.helpers.sections import section

DAY_S = 86_400

MODULES = {
    "ledger": LEDGER,
    "faults": faults.SOURCE,
    "work": """
        import os, signal
        from ledger import note, sit

        def steady(context):
            sit(context.name)
            context.wait(1e6)

        def parent(context):
            # A grandchild in a session of its own, that is deaf: only a search finds it.
            if os.fork() == 0:
                os.setsid()
                if os.fork() == 0:
                    signal.signal(signal.SIGTERM, signal.SIG_IGN)
                    note("grandchild")
                    while True:
                        signal.pause()
                os._exit(0)
            os.wait()
            sit(context.name)
            context.wait(1e6)

        def handle(message, context):
            context.wait(0.01)
            note("done", message.id)
    """,
}

STEADY = section("steady", target="work:steady", backoff="10ms", backoff_max="100ms", processes=2)


def kill(supervisor: Supervisor, name: str) -> int:
    """End a process as the out-of-memory killer would, and give its pid."""
    pid: int = supervisor.process(name)["pid"]
    os.kill(pid, signal.SIGKILL)
    return pid


@contextmanager
def all_descriptors_taken(supervisor: Supervisor) -> Iterator[None]:
    """Leave the master no number for a new descriptor: clients that say nothing hold the rest."""
    before = resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE)
    folder = f"/proc/{supervisor.pid}/fd"
    limit = max(map(int, os.listdir(folder))) + 1
    resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    clients: list[socket.socket] = []
    try:
        for _ in range(limit):  # more than there are numbers: some wait in the kernel's queue
            client = socket.socket(socket.AF_UNIX)
            clients.append(client)
            client.connect(str(supervisor.run_dir / "test.sock"))
        eventually(lambda: len(os.listdir(folder)) == limit)
        yield
    finally:
        resource.prlimit(supervisor.pid, resource.RLIMIT_NOFILE, before)
        for client in clients:
            client.close()


def lives(pid: int) -> bool:
    facts = kernel.facts(pid)
    return facts is not None and not facts.zombie


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_fails_is_tried_until_it_works(supervise: Supervise, number: int) -> None:
    supervisor = supervise(STEADY, MODULES, settings=faults.SETTINGS)
    faults.switch_on(supervisor, "no-fork", number)
    killed = {name: kill(supervisor, name) for name in ("steady:0", "steady:1")}
    for name in killed:
        supervisor.wait_process(name, lambda row: "could not fork" in row["why"])
    faults.switch_off(supervisor, "no-fork")
    for name, pid in killed.items():
        row = supervisor.wait_process(name, lambda row: row["ready"])
        assert row["pid"] != pid
        assert row["failures"] == 1, "the kill, and not that the machine had nothing to give"
    supervisor.wait_line("new processes can be started again")
    said = [line for line in supervisor.messages() if f"cannot fork: {os.strerror(number)}" in line]
    assert len(said) == 1, said
    assert Ledger(supervisor).no_twins()
    assert supervisor.stop() == 0


def test_without_a_descriptor_what_a_dead_process_left_is_found(supervise: Supervise) -> None:
    jobs = section("parent", target="work:parent", backoff="10ms", backoff_max="100ms")
    supervisor = supervise(jobs, MODULES)
    ledger = Ledger(supervisor)
    ledger.wait("grandchild")
    ledger.wait("sit", "parent:0")
    (grandchild,) = ledger.pids("grandchild")
    pid = supervisor.process("parent:0")["pid"]
    with all_descriptors_taken(supervisor):
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not lives(grandchild))
        supervisor.wait_line("cannot open the pipes of a new process: Too many open files")
    row = supervisor.wait_process("parent:0", lambda row: row["ready"] and row["pid"] != pid)
    assert row["failures"] == 1
    assert ledger.no_twins()
    assert supervisor.stop() == 0


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOENT, errno.EMFILE])
def test_a_proc_that_cannot_be_read_costs_no_job(supervise: Supervise, number: int) -> None:
    supervisor = supervise(STEADY, MODULES, settings=faults.SETTINGS)
    faults.switch_on(supervisor, "no-proc", number)
    for _ in range(2):
        pid = kill(supervisor, "steady:0")
        supervisor.wait_process("steady:0", lambda row, old=pid: row["ready"] and row["pid"] != old)
    said = [line for line in supervisor.messages() if "cannot read /proc" in line]
    assert said == [
        f"cannot read /proc ({os.strerror(number)}): what dead processes have left is ended by "
        "group only"
    ]
    faults.switch_off(supervisor, "no-proc")
    supervisor.wait_line("/proc can be read again")
    pid = kill(supervisor, "steady:1")
    supervisor.wait_process("steady:1", lambda row: row["ready"] and row["pid"] != pid)
    assert Ledger(supervisor).no_twins()
    assert supervisor.stop() == 0


def test_a_stop_needs_no_proc(supervise: Supervise) -> None:
    supervisor = supervise(STEADY, MODULES, settings=faults.SETTINGS)
    faults.switch_on(supervisor, "no-proc", errno.EACCES)
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()


@pytest.mark.parametrize("jump", [DAY_S, -DAY_S])
def test_a_wall_clock_that_jumps_by_a_day_moves_nothing(supervise: Supervise, jump: int) -> None:
    queue = section(
        "shop",
        type="queue",
        url="sqlite:///queue.db",
        topics="orders",
        handler="work:handle",
        heartbeat_timeout="5s",
        backoff="10ms",
    )
    supervisor = supervise(STEADY + queue, MODULES, settings=faults.SETTINGS)
    before = {row["name"]: row for row in supervisor.status()["processes"]}
    ids = supervisor.publish("orders", 600)
    ledger = Ledger(supervisor)
    ledger.wait("done")
    faults.switch_on(supervisor, "clock", jump)
    pid = kill(supervisor, "steady:0")
    supervisor.wait_process("steady:0", lambda row: row["ready"] and row["pid"] != pid)
    eventually(lambda: set(done(ledger)) >= set(ids))
    after = {row["name"]: row for row in supervisor.status()["processes"]}
    for name in ("steady:1", "shop:0"):
        assert (after[name]["pid"], after[name]["restarts"]) == (before[name]["pid"], 0)
        assert 0 <= after[name]["uptime_s"] - before[name]["uptime_s"] < DAY_S / 2
    assert len(done(ledger)) == len(ids), "none twice"
    first, last = (
        datetime.fromisoformat(supervisor.call("events", names=[name])[place]["at"])
        for name, place in (("steady:1", 0), ("steady:0", -1))
    )
    assert abs((last - first).total_seconds() - jump) < DAY_S / 2, "it did jump"
    faults.switch_off(supervisor, "clock")
    pid = kill(supervisor, "steady:0")
    supervisor.wait_process("steady:0", lambda row: row["ready"] and row["pid"] != pid)
    assert supervisor.stop() == 0


def done(ledger: Ledger) -> list[str]:
    """Give the messages that were handled, as often as they were."""
    return [line[1] for line in ledger.lines() if line[0] == "done"]

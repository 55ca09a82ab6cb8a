"""What comes into the master: libraries, and neither users' code, threads nor sockets."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

WORK = """
from ledger import note
note("imported")

def run(context):
    note("runs")
    context.wait(1e6)

def handle(message, context):
    pass
"""

MODULES = {"ledger": SOURCE, "work": WORK}

STRANGERS = {"redis", "psycopg2", "kafka", "starlette", "uvicorn", "prometheus_client", "click"}
"""What no master imports by itself. Source: DESIGN, "Dependencies"."""

WORKER = section("worker", target="work:run")
QUEUE = section("orders", type="queue", url="sqlite:///queue.db", topics="o", handler="work:handle")


def descriptors(pid: int) -> list[str]:
    """Give what the descriptors of a process point to."""
    folder = Path(f"/proc/{pid}/fd")
    links = []
    for name in os.listdir(folder):
        with suppress(FileNotFoundError):  # closed meanwhile
            links.append(os.readlink(folder / name))
    return links


def sockets(pid: int) -> list[str]:
    """Give the paths of the unix sockets of a process; of other kinds their number."""
    paths = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        paths[f"socket:[{fields[6]}]"] = fields[7] if len(fields) > 7 else "(no name)"
    return [paths.get(one, one) for one in descriptors(pid) if one.startswith("socket:")]


def imports(supervisor: Supervisor) -> set[str]:
    """Give the packages of which the master has imported something.

    PYTHONPROFILEIMPORTTIME has it tell every `import`, though not a call of import_module itself.
    """
    lines = supervisor.errors().splitlines()
    told = [line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")]
    return {name.partition(".")[0] for name in told}


def refused(supervise: Supervise, source: str, preload: str = "guilty") -> Supervisor:
    """Start with a module in `preload` that is to be refused, and check the form of the refusal."""
    modules = MODULES | {"guilty": source}
    supervisor = supervise(WORKER, modules, start=False, settings={"preload": preload})
    supervisor.start(wait=False)
    assert supervisor.wait_exit() == 78
    assert len(Ledger(supervisor).pids("runs")) == 0, "nothing was started"
    line = next(
        number
        for number, text in enumerate(supervisor.conf.read_text().splitlines(), 1)
        if text.startswith("preload")
    )
    start = f"{supervisor.conf}:{line}: [supervisor] preload: "
    assert supervisor.errors().startswith(start)
    assert supervisor.errors().count("\n") == 1
    assert "guilty" in supervisor.errors()
    assert supervisor.cli("status").returncode == 3
    return supervisor


def test_a_module_that_starts_a_thread_is_refused(supervise: Supervise) -> None:
    source = "import threading, time\nthreading.Thread(target=time.sleep, args=(60,)).start()\n"
    assert "thread" in refused(supervise, source).errors()


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("keep = open(__file__)\n", "guilty.py"),
        ("import socket\nkeep = socket.socket()\n", "socket"),
        ("import os\nkeep = os.pipe()\n", "pipe"),
        ("import os\nkeep = os.memfd_create('mine')\n", "memfd:mine"),
    ],
)
def test_a_module_that_opens_something_is_refused(
    supervise: Supervise, source: str, what: str
) -> None:
    assert what in refused(supervise, source).errors()


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("raise RuntimeError('no way')\n", "RuntimeError: no way"),
        ("import surely_not_there\n", "surely_not_there"),
        ("def (:\n", "SyntaxError"),
        ("import sys\nsys.exit(0)\n", "SystemExit"),
        ("raise KeyboardInterrupt\n", "KeyboardInterrupt"),
    ],
)
def test_a_module_that_cannot_be_imported_is_refused(
    supervise: Supervise, source: str, what: str
) -> None:
    assert what in refused(supervise, source).errors()


def test_a_module_that_is_not_there_is_refused(supervise: Supervise) -> None:
    supervisor = supervise(WORKER, MODULES, start=False, settings={"preload": "nowhere_at_all"})
    supervisor.start(wait=False)
    assert supervisor.wait_exit() == 78
    assert "nowhere_at_all" in supervisor.errors()


def test_handlers_that_break_the_rule_are_refused_only_where_they_are_preloaded(
    supervise: Supervise,
) -> None:
    source = WORK + "\nkeep = open(__file__)\n"
    supervisor = supervise(WORKER, MODULES | {"work": source})
    assert supervisor.stop() == 0
    supervisor.configure(WORKER, preload="handlers")
    supervisor.start(wait=False)
    assert supervisor.wait_exit() == 78
    assert "work opens " in supervisor.errors()


@pytest.mark.parametrize("preload", ["none", "libraries", "json, decimal"])
def test_the_master_has_one_thread_no_connection_and_no_module_of_the_user(
    supervise: Supervise, preload: str
) -> None:
    supervisor = supervise(
        WORKER + QUEUE,
        MODULES,
        settings={"preload": preload},
        environment={"PYTHONPROFILEIMPORTTIME": "1"},
    )
    ledger = Ledger(supervisor)
    ledger.wait("runs")
    assert supervisor.pid not in ledger.pids("imported")
    assert os.listdir(f"/proc/{supervisor.pid}/task") == [str(supervisor.pid)]
    # Once it has seen that we, who asked whether it is ready, have hung up.
    eventually(lambda: sockets(supervisor.pid) == [str(supervisor.run_dir / "test.sock")])
    imported = imports(supervisor)
    assert "supervisor" in imported
    assert not imported & (STRANGERS | set(MODULES))
    if preload == "none":
        assert not imported & {"sqlite3", "workers"}
    if "decimal" in preload:
        assert "_decimal" in imported, "imported before the fork"


def test_with_preload_handlers_they_are_imported_once(supervise: Supervise) -> None:
    jobs = section("worker", target="work:run", processes=3, backoff=0)
    supervisor = supervise(jobs, MODULES, settings={"preload": "handlers"})
    ledger = Ledger(supervisor)
    workers = ledger.wait("runs", count=3)
    assert supervisor.pid in ledger.pids("imported")
    assert not set(workers) & set(ledger.pids("imported"))


def test_children_share_what_was_preloaded_and_nothing_that_is_open(supervise: Supervise) -> None:
    supervisor = supervise(
        section("worker", target="work:run", processes=3)
        + section("program", command="sleep 1000"),
        MODULES,
    )
    rows = supervisor.pids()
    # A program is RUNNING from the fork on, and lets go of everything a moment later.
    eventually(lambda: kernel.title_of(rows["program:0"]) == "sleep 1000")
    masters = set(descriptors(supervisor.pid))
    for name, pid in rows.items():
        shared = {one for one in descriptors(pid) if one in masters}
        # Its ends of its own pipes; each pipe has one name on both ends.
        others = {one for other in rows.values() if other != pid for one in descriptors(other)}
        assert {one.partition(":")[0] for one in shared} <= {"pipe", "/dev/null"}, name
        assert {one for one in shared & others if one != "/dev/null"} == set(), name
    assert supervisor.stop() == 0

"""`depends_on`: who waits for whom, what it says meanwhile, and who is stopped first."""

from __future__ import annotations

import os
import signal
import time

from tests.conftest import Supervise
from tests.helpers import patience
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

LINKS = """
from ledger import is_open, note, sit
from workers import Worker

def steady(context):
    sit(context.name)
    context.wait(1e6)
    note("left", context.name)

class Gated(Worker):
    '''Ready when the gate of its name is open; takes its time to leave until "way out" is.'''
    def setup(self):
        sit(self.context.name)
        while not is_open(self.context.name.partition(":")[0]) and not self.context.wait(0.01):
            pass
        note("up", self.context.name)
    def run(self, context):
        context.wait(1e6)
        note("draining", context.name)
        while not is_open("way out") and not context.stop.fast.wait(0.01):
            pass
        note("left", context.name)

def once(context):
    sit(context.name)
    while not is_open(context.name.partition(":")[0]) and not context.wait(0.01):
        pass
    note("done", context.name)

class Fails(Worker):
    def setup(self):
        if not is_open("db"):
            raise RuntimeError("cannot")
    def run(self, context):
        context.wait(1e6)
"""

MODULES = {"ledger": SOURCE, "links": LINKS}

CHAIN = (
    section("web", target="links:steady", depends_on="app:started")
    + section("app", target="links:Gated", depends_on="migrate:completed", processes=2)
    + section("migrate", target="links:once", restart="never", depends_on="db")
    + section("db", target="links:Gated")
)
STEADY = section("steady", target="links:steady")


def waiting(supervisor: Supervisor, name: str, why: str) -> None:
    """Wait until one waits for this, and see that nothing is counted meanwhile."""
    row = supervisor.wait_process(name, lambda row: bool(row["why"] == why))
    assert (row["state"], row["pid"], row["ready"]) == ("STOPPED", None, False)
    assert (row["restarts"], row["failures"], row["last_exit"]) == (0, 0, None)


def places(ledger: Ledger, *lines: str) -> list[int]:
    """Give where these lines stand in the ledger."""
    return [ledger.index(*line.split()) for line in lines]


def starts(supervisor: Supervisor) -> list[str]:
    """Give who was started, in that order."""
    return [event["name"] for event in supervisor.call("events") if event["to"] == "STARTING"]


def test_a_chain_with_all_three_conditions_starts_and_stops_in_order(supervise: Supervise) -> None:
    supervisor = supervise(CHAIN + STEADY, MODULES, start=False).start(wait=False)
    ledger = Ledger(supervisor)
    supervisor.wait_state("steady:0", "RUNNING")
    ledger.wait("sit", "db:0")
    waiting(supervisor, "migrate:0", "waiting for db to be ready")
    waiting(supervisor, "app:1", "waiting for migrate to complete")
    waiting(supervisor, "web:0", "waiting for app to start")
    assert not supervisor.status()["master"]["ready"]
    said = supervisor.cli("status").stdout
    assert "waiting for db to be ready" in said
    assert said.startswith("STARTING  1 of 6 ready  ")
    ledger.open("db")
    ledger.wait("sit", "migrate:0")
    waiting(supervisor, "app:0", "waiting for migrate to complete")
    ledger.open("migrate")
    ledger.wait("sit", "app:1")
    supervisor.wait_state("web:0", "RUNNING")
    assert supervisor.process("app:0")["state"] == "STARTING", "started is enough for web"
    ledger.open("app")
    supervisor.wait_ready()
    order = ("up db:0", "sit migrate:0", "done migrate:0", "sit app:0")
    assert places(ledger, *order) == sorted(places(ledger, *order))
    # By the master's own account: the first lines of two processes come in any order.
    started = starts(supervisor)
    assert started.index("web:0") > max(started.index("app:0"), started.index("app:1"))

    supervisor.send(signal.SIGTERM)
    ledger.wait("draining", "app:0")
    ledger.wait("draining", "app:1")
    ledger.wait("left", "steady:0")
    assert supervisor.process("db:0")["state"] == "RUNNING"
    ledger.open("way out")
    assert supervisor.wait_exit() == 0
    left = ("left web:0", "draining app:0", "left app:0", "draining db:0", "left db:0")
    assert places(ledger, *left) == sorted(places(ledger, *left))
    assert ledger.index("left", "app:1") < ledger.index("draining", "db:0")


def test_a_later_death_of_a_dependency_concerns_nobody(supervise: Supervise) -> None:
    jobs = section("web", target="links:steady", depends_on="db", processes=2)
    supervisor = supervise(jobs + section("db", target="links:steady", backoff=0), MODULES)
    os.kill(supervisor.process("db:0")["pid"], signal.SIGKILL)
    supervisor.wait_process("db:0", lambda row: row["restarts"] == 1 and row["ready"])
    assert supervisor.cli("stop", "db").returncode == 0, "nor its stop: that is of db alone"
    for name in ("web:0", "web:1"):
        row = supervisor.process(name)
        assert (row["state"], row["restarts"]) == ("RUNNING", 0)
    # Nor does a restart after a death wait.
    os.kill(supervisor.process("web:0")["pid"], signal.SIGKILL)
    supervisor.wait_process("web:0", lambda row: row["restarts"] == 1 and row["ready"])
    assert supervisor.process("db:0")["state"] == "STOPPED"


def test_one_that_depends_on_what_fails_waits_on(supervise: Supervise) -> None:
    jobs = section("web", target="links:steady", depends_on="app")
    jobs += section("app", target="links:steady", depends_on="db")
    jobs += section("db", target="links:Fails", required="no", restart="never")
    supervisor = supervise(jobs + STEADY, MODULES, start=False).start(wait=False)
    supervisor.wait_state("db:0", "FATAL")
    fatal = "db:0 is FATAL: exit 1, and restart = never"
    waiting(supervisor, "app:0", f"waiting for db to be ready ({fatal})")
    waiting(supervisor, "web:0", "waiting for app to be ready (app:0 waits too)")
    # A command does not wait with it.
    done = supervisor.cli("start", "web")
    assert done.returncode == 1
    assert "web:0 is STOPPED: waiting for app to be ready (app:0 waits too)" in done.stderr
    # It comes when the other does, and nobody has to remember it.
    Ledger(supervisor).open("db")
    assert supervisor.cli("start", "db").returncode == 0
    supervisor.wait_ready()
    assert supervisor.process("web:0")["restarts"] == 0
    Ledger(supervisor).open("way out")


def test_a_start_by_hand_goes_in_order_and_waits(supervise: Supervise) -> None:
    supervisor = supervise(CHAIN + STEADY, MODULES, start=False)
    ledger = Ledger(supervisor)
    for gate in ("db", "app", "migrate", "way out"):
        ledger.open(gate)
    supervisor.start()
    begun = len(starts(supervisor))
    assert supervisor.cli("stop", "web", "app", "migrate", "db").returncode == 0
    done = supervisor.cli("start", "web")
    assert done.returncode == 1
    assert "waiting for app to start (app:0 is STOPPED)" in done.stderr
    # Who waits can be told not to.
    assert supervisor.cli("stop", "web").returncode == 0
    assert supervisor.process("web:0")["why"] == "stopped"
    assert supervisor.cli("start", "web", "app", "migrate", "db").returncode == 0
    assert supervisor.process("web:0")["state"] == "RUNNING"
    second = [ledger.index("sit", f"{name}:0", nth=1) for name in ("db", "migrate", "app")]
    assert second == sorted(second)
    assert starts(supervisor)[begun:][-1] == "web:0"
    assert supervisor.stop() == 0


def test_who_does_not_run_here_is_not_waited_for(supervise: Supervise) -> None:
    jobs = section("web", target="links:steady", depends_on="off, none:completed")
    jobs += section("off", target="links:steady", enable="no")
    jobs += section("none", target="links:once", processes=0, restart="never")
    supervisor = supervise(jobs, MODULES)
    assert supervisor.process("web:0")["ready"]
    for name in ("off", "none"):
        supervisor.wait_line(f"{name} does not run here, and is not waited for")


def test_fifty_others_do_not_wait_with_one(supervise: Supervise) -> None:
    jobs = section("web", target="links:steady", depends_on="db", processes=3)
    jobs += section("db", target="links:Gated", ready_timeout="10m")
    jobs += "".join(section(f"other{number}", target="links:steady") for number in range(50))
    supervisor = supervise(jobs, MODULES, start=False).start(wait=False)
    for number in range(50):
        supervisor.wait_state(f"other{number}:0", "RUNNING")
    waiting(supervisor, "web:2", "waiting for db to be ready")
    assert supervisor.process("db:0")["state"] == "STARTING"
    # What waits is no obstacle to a stop either.
    Ledger(supervisor).open("way out")
    assert supervisor.stop() == 0
    assert not Ledger(supervisor).pids("sit", "web:0")


def test_the_deadline_of_the_stop_is_everybodys(supervise: Supervise) -> None:
    supervisor = supervise(CHAIN + STEADY, MODULES, start=False)
    ledger = Ledger(supervisor)
    for gate in ("db", "app", "migrate"):
        ledger.open(gate)
    supervisor.start()
    # Enough for all who leave, on a busy machine too.
    done = supervisor.cli("stop", "--timeout", "5s")
    assert done.returncode == 1
    assert "killed: app:0, app:1, db:0" in done.stdout
    assert supervisor.wait_exit() == 0
    assert ledger.pids("left", "web:0")


def test_a_second_signal_is_for_all_at_once(supervise: Supervise) -> None:
    modules = MODULES | patience.MODULES
    supervisor = supervise(CHAIN, modules, settings=patience.FAST, start=False)
    ledger = Ledger(supervisor)
    for gate in ("db", "app", "migrate"):
        ledger.open(gate)
    supervisor.start()
    supervisor.send(signal.SIGTERM)
    ledger.wait("draining", "app:0")
    begun = time.monotonic()
    eventually(lambda: time.monotonic() > begun + 0.15)  # two so close together are one wish
    supervisor.send(signal.SIGTERM)
    assert supervisor.wait_exit() == 1
    for name in ("app:0", "app:1", "db:0"):
        assert ledger.pids("left", name)
    assert supervisor.tree() == ()


def test_a_dependency_that_dies_during_the_stop_comes_back_for_those_who_drain(
    supervise: Supervise,
) -> None:
    jobs = section("web", target="links:Gated", depends_on="db")
    jobs += section("db", target="links:steady", backoff=0)
    supervisor = supervise(jobs, MODULES, start=False)
    ledger = Ledger(supervisor)
    ledger.open("web")
    supervisor.start()
    supervisor.send(signal.SIGTERM)
    ledger.wait("draining", "web:0")
    os.kill(supervisor.process("db:0")["pid"], signal.SIGKILL)
    supervisor.wait_process("db:0", lambda row: row["restarts"] == 1 and row["ready"])
    ledger.open("way out")
    assert supervisor.wait_exit() == 0
    assert ledger.index("left", "web:0") < ledger.index("left", "db:0")


def test_a_circle_is_refused_with_its_line(supervise: Supervise) -> None:
    jobs = section("a", target="links:steady", depends_on="b")
    jobs += section("b", target="links:steady", depends_on="c:started")
    jobs += section("c", target="links:steady", depends_on="a")
    supervisor = supervise(jobs, MODULES, start=False)
    done = supervisor.cli("check")
    assert done.returncode == 78
    line = supervisor.read("test.ini").splitlines().index("depends_on = b") + 1
    place = f"{supervisor.conf}:{line}"
    assert (
        f"{place}: [daemon:a] depends_on: a -> b -> c -> a is a circle, and none of them could be"
        " the first; cut it" in done.stderr + done.stdout
    )


def test_daemonize_tells_of_a_wait_without_an_end(supervise: Supervise) -> None:
    jobs = section("web", target="links:steady", depends_on="db")
    jobs += section("db", target="links:Fails", required="no", restart="never")
    supervisor = supervise(jobs, MODULES, start=False)
    done = supervisor.cli("start", "--daemonize")
    assert done.returncode == 1
    assert "db:0 is FATAL: exit 1" in done.stderr
    assert supervisor.cli("stop").returncode == 0


def test_a_reload_that_brings_both_keeps_their_order(supervise: Supervise) -> None:
    supervisor = supervise(STEADY, MODULES)
    ledger = Ledger(supervisor)
    ledger.open("db")
    web = section("web", target="links:steady", depends_on="db")
    supervisor.configure(STEADY + web + section("db", target="links:Gated"))
    assert supervisor.cli("reload").returncode == 0
    ledger.wait("sit", "web:0")
    assert ledger.index("up", "db:0") < ledger.index("sit", "web:0")
    ledger.open("way out")


def test_a_reload_that_cuts_the_dependency_ends_the_wait(supervise: Supervise) -> None:
    web, db = section("web", target="links:steady"), section("db", target="links:Gated")
    jobs = web.rstrip() + "\ndepends_on = db\n\n" + db
    supervisor = supervise(jobs + STEADY, MODULES, start=False).start(wait=False)
    waiting(supervisor, "web:0", "waiting for db to be ready")
    supervisor.configure(web + db + STEADY)
    supervisor.send(signal.SIGHUP)
    supervisor.wait_state("web:0", "RUNNING")
    assert supervisor.process("db:0")["state"] == "STARTING"
    Ledger(supervisor).open("way out")

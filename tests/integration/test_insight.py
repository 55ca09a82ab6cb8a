"""`why` and `stacks` against real processes: what they tell, and that they harm nobody."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers import patience
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE as LEDGER
from tests.helpers.sections import section

JOBS = """
    import re
    from workers import Worker

    class Broken(Worker):
        def run(self, context):
            print("boot of", context.process)
            if context.process == 1:
                raise KeyError("STRIPE_KEY")
            context.wait(1000)

    class Never(Worker):
        def setup(self):
            import signal
            signal.pause()

        def run(self, context):
            context.wait(1000)

    def search(context):
        # One call into C that does not come back in years and holds the GIL.
        re.match(r"(a+)+b", "a" * 60)

    def stuck(context):
        import select
        context.beat()
        select.select((), (), ())

    def idle(context):
        print("idles")
        context.wait(1000)
"""

LONG = {"backoff": "10m", "backoff_max": "10m"}
"""Whoever has failed does not come back by himself while he is looked at."""

WHY = """
    name state failures window_s next_action next_action_in_s deaths
"""


@pytest.fixture
def shop(supervise: Supervise) -> Supervisor:
    """Give a supervisor with a job of which one process fails, and others that do not."""
    jobs = (
        section("broken", target="jobs:Broken", processes=2, required="false", **LONG)
        + section("idle", target="jobs:idle")
        + section("naps", command="/bin/sleep 1000")
    )
    shop = supervise(jobs, {"jobs": JOBS})
    shop.wait_state("broken:1", "BACKOFF")
    for words in ("boot of 0", "idles"):  # a moment after READY
        shop.wait_line(words)
    return shop


def test_why_has_the_shape_of_the_contract(shop: Supervisor) -> None:
    found = shop.json("why", "broken:1")
    assert found.keys() >= set(WHY.split())
    assert (found["name"], found["state"], found["failures"]) == ("broken:1", "BACKOFF", 1)
    assert found["next_action"] == "start"
    assert 0 < found["next_action_in_s"] <= 720
    (death,) = found["deaths"]
    assert death.keys() >= {"at", "uptime_s", "code", "signal", "cause", "log_tail"}
    assert (death["code"], death["signal"], death["cause"]) == (1, None, "exited")
    assert any("boot of 1" in line for line in death["log_tail"])
    assert any("KeyError: 'STRIPE_KEY'" in line for line in death["log_tail"])


def test_why_tells_of_a_whole_job_with_the_bad_ones_first(shop: Supervisor) -> None:
    done = shop.cli("why", "broken")
    lines = done.stdout.splitlines()
    assert lines[0] == "1 of 2 processes not well: broken:1 BACKOFF"
    assert (
        "1 failure in 10m of 10; backoff 10m x 2^0 = 10m, jitter 20 % -> next start" in done.stdout
    )
    assert lines[-1].startswith("broken:0 (worker) is RUNNING and ready")
    assert done.stderr == f"Next: supervisor logs broken:1 -n 50 --conf {shop.conf}\n"
    names = [one["name"] for one in shop.json("why", "*")["processes"]]
    assert names[0] == "broken:1"
    assert sorted(names) == ["broken:0", "broken:1", "idle:0", "naps:0"]
    assert shop.cli("why", "nobody").returncode == 4


def test_each_death_keeps_its_own_last_lines(shop: Supervisor) -> None:
    pid = shop.process("broken:0")["pid"]
    os.kill(pid, signal.SIGKILL)
    shop.wait_state("broken:0", "BACKOFF")
    shop.call("start", names=["broken:0"])
    shop.wait_line(lambda line: line["message"] == "boot of 0" and line["pid"] != pid)
    os.kill(shop.process("broken:0")["pid"], signal.SIGKILL)

    def twice() -> list[dict[str, object]] | None:
        deaths = shop.json("why", "broken:0")["deaths"]
        return deaths if len(deaths) == 2 else None

    deaths = eventually(twice)
    assert [death["signal"] for death in deaths] == ["KILL", "KILL"]
    assert all(str(death["log_tail"]).count("boot of 0") == 1 for death in deaths)


def test_a_hang_keeps_the_stacks_and_a_restart_its_uptime(supervise: Supervise) -> None:
    jobs = section("stuck", target="jobs:stuck", heartbeat_timeout="500ms", **LONG)
    jobs += section("idle", target="jobs:idle")
    modules = {"jobs": JOBS, "ledger": LEDGER} | patience.MODULES
    shop = supervise(jobs, modules, settings=patience.KILL_IF_SHOWN, start=False)
    shop.start(wait=False)
    shop.wait_line("in stuck")
    shop.write("shown", "")
    shop.wait_state("stuck:0", "BACKOFF")
    (death,) = shop.json("why", "stuck")["deaths"]
    assert (death["cause"], death["why"]) == ("hung", "no heartbeat")
    assert any("jobs.py" in line and "in stuck" in line for line in death["log_tail"])
    assert not any("child.py" in line for line in death["log_tail"])
    assert shop.cli("restart", "idle").returncode == 0
    (death,) = shop.json("why", "idle")["deaths"]
    assert (death["cause"], death["code"]) == ("asked", 0)
    assert death["why"] == "asked to start anew"
    assert death["uptime_s"] > 0


def test_why_tells_what_a_start_waits_for(supervise: Supervise) -> None:
    shop = supervise(
        section("slow", target="jobs:Never", stop_timeout="1s"), {"jobs": JOBS}, start=False
    )
    shop.start(wait=False)
    shop.wait_state("slow:0", "STARTING")
    found = shop.json("why", "slow")
    assert found["waits_for"] == "READY, ready_timeout 30s"
    assert found["next_action"] == "kill, unless ready"
    assert "Next: supervisor stacks slow:0" in shop.cli("why", "slow").stderr


def test_stacks_show_each_thread_and_the_process_goes_on(shop: Supervisor) -> None:
    before = shop.process("idle:0")["pid"]

    def shown() -> bool:
        (found,) = shop.json("stacks", "idle:0")
        assert found["pid"] == before
        assert any("jobs.py" in line and line.endswith(" in idle") for line in found["stacks"])
        return sum("(most recent call first)" in line for line in found["stacks"]) >= 2

    # Of a process that stands still in the middle of them, the first part is shown.
    eventually(shown)
    done = shop.cli("stacks", "idle")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].endswith("(most recent call first):")
    assert "child.py" not in done.stdout
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(shop.call, "stacks", names=["idle:0"]) for _ in range(8)]
        assert all(any("jobs.py" in line for line in one.result()[0]["stacks"]) for one in asked)
    assert shop.process("idle:0")["pid"] == before
    assert shop.process("idle:0")["state"] == "RUNNING"


def test_stacks_of_what_has_none_are_refused_in_one_line(shop: Supervisor) -> None:
    done = shop.cli("stacks", "naps:0")
    assert (done.returncode, done.stdout) == (1, "")
    words = "naps:0 is a program: only our own Python processes show their stacks"
    assert done.stderr == f"supervisor: {words}\n"
    done = shop.cli("stacks", "broken:1")
    assert done.returncode == 1
    assert done.stderr == "supervisor: broken:1 has no process: it is BACKOFF\n"
    assert shop.process("naps:0")["state"] == "RUNNING"
    assert shop.cli("stacks", "nobody").returncode == 4


def test_stacks_come_with_the_gil_held_in_c(supervise: Supervise) -> None:
    jobs = section("search", target="jobs:search", heartbeat_timeout="0", stop_timeout="500ms")
    shop = supervise(jobs, {"jobs": JOBS})
    pid = shop.process("search:0")["pid"]
    eventually(lambda: any("match" in line for line in shop.json("stacks", "search")[0]["stacks"]))
    assert shop.process("search:0")["pid"] == pid


def test_a_stopped_process_is_told_as_such_and_shows_its_stacks_later(shop: Supervisor) -> None:
    pid = shop.process("idle:0")["pid"]
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: (facts := kernel.facts(pid)) is not None and facts.state == "T")
    done = shop.cli("stacks", "idle")
    assert done.returncode == 1
    words = f"idle:0 (pid {pid}) has shown nothing in 5s: it is stopped"
    assert done.stderr == f"supervisor: {words}\n"
    os.kill(pid, signal.SIGCONT)
    assert shop.json("stacks", "idle")[0]["pid"] == pid

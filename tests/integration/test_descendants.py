"""What a process has begun and left: known to its job however it hides, and gone with it."""

from __future__ import annotations

import os
import signal
import sys

import pytest

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.driver import Supervisor
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

FAMILY = '''
import os
import signal
import sys
import time
from ledger import is_open, join, note, sit

def daemonise(how, word):
    """Fork twice with a new session between and let go of every descriptor: a daemon."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    if how != "holding":
        os.closerange(0, 4096)
    if how == "exec":
        os.execv(sys.executable, [sys.executable, "-S", __file__, word])
    settle(how, word)

def settle(how, word):
    """Be that daemon."""
    if how == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    elif how != "fork":
        signal.signal(signal.SIGTERM, bye)
    join(word)
    while True:
        signal.pause()

def bye(*_):
    note("bye")
    os._exit(0)

def run(context):
    slot = context.name
    sit(slot)
    daemonise(context.options["how"], slot)
    context.wait(1e6)
    note("left", slot)

def lonely(context):
    """Begin something that nothing connects with this job any more."""
    sit(context.name)
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 4096)
        os.execve(sys.executable, [sys.executable, "-S", __file__, "nobody"], {})
    os.wait()
    context.wait(1e6)

def deserted(context):
    """The same, and it ignores TERM; what is ignored stays so over an exec."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if not os.fork():
        os.setsid()
        if os.fork():
            os._exit(0)
        os.closerange(0, 4096)
        os.execve("/bin/sleep", ["sleep", "1000"], {})
    os.wait()
    note("deserted")
    context.wait(1e6)

def brief(context):
    sit(context.name)
    daemonise("fork", context.name)
    while not is_open("gate"):
        if context.wait(0.01):
            return

def nested(context):
    """Leave a daemon that has children and grandchildren of its own, each in its own session."""
    sit(context.name)
    if not os.fork():
        os.setsid()
        for _ in range(3):
            if os.fork():
                break
            os.setsid()
        os.closerange(0, 4096)
        join(context.name)
        while True:
            signal.pause()
    context.wait(1e6)

def hasty(context):
    """Begin a daemon whose first parent lives until the gate is open."""
    sit(context.name)
    if not os.fork():
        os.setsid()
        if not os.fork():
            settle("fork", context.name)
        note("between")
        while not is_open("gate"):
            time.sleep(0.001)
        os._exit(0)
    context.wait(1e6)

if __name__ == "__main__":
    settle("exec", sys.argv[1])
'''

# In the master. Each first look at the one in between comes while it leaves (it has no command line
# any more), and when the look is over it is dead.
LOOK = """
import os
import time
from supervisor import descendants, kernel

FOLDER = os.path.dirname(os.path.abspath(__file__))
whole = descendants.marked_slot

def late(pid, instance):
    with open(os.path.join(FOLDER, "ledger")) as ledger:
        if f"between {pid}" not in ledger.read().splitlines():
            return whole(pid, instance)
    open(os.path.join(FOLDER, "gate"), "w").close()
    while not kernel.facts(pid).zombie:
        time.sleep(0.001)
    return None

descendants.marked_slot = late
"""

PROGRAM = """
import sys
from family import daemonise
from ledger import sit
import signal
sit(sys.argv[2])
daemonise(sys.argv[1], sys.argv[2])
signal.pause()
"""

MODULES = {"ledger": SOURCE, "family": FAMILY, "program": PROGRAM}


def family(how: str, name: str = "family", **keys: object) -> str:
    return section(name, target="family:run", option_how=how, backoff=0, **keys)


def program(how: str, name: str = "family", **keys: object) -> str:
    command = f"{sys.executable} -S program.py {how} {name}:0"
    return section(name, command=command, backoff=0, **keys)


MAKERS = [
    pytest.param(make, how, id=f"{make.__name__}-{how}")
    for make in (family, program)
    for how in ("fork", "exec", "holding")
    if (make, how) != (program, "fork")  # forked by an exec'd one: it has the mark, as "exec"
]


def sat(supervisor: Supervisor, name: str = "family:0", count: int = 2) -> list[int]:
    """Wait for a leader and its daemons, and give their pids."""
    return Ledger(supervisor).wait("sit", name, count=count)


def lives(pid: int) -> bool:
    facts = kernel.facts(pid)
    return facts is not None and not facts.zombie


@pytest.mark.parametrize(("make", "how"), MAKERS)
def test_a_daemonised_grandchild_is_gone_after_a_stop(
    supervise: Supervise, make: type, how: str
) -> None:
    supervisor = supervise(make(how), MODULES)
    pids = sat(supervisor)
    assert all(lives(pid) for pid in pids)
    assert supervisor.cli("stop").returncode == 0
    assert supervisor.wait_exit() == 0
    assert not any(lives(pid) for pid in pids)
    assert supervisor.tree() == ()


@pytest.mark.parametrize(("make", "how"), MAKERS)
def test_a_daemonised_grandchild_is_gone_before_the_replacement_starts(
    supervise: Supervise, make: type, how: str
) -> None:
    supervisor = supervise(make(how), MODULES)
    for restarts in range(1, 4):
        leader = sat(supervisor, count=2 * restarts)[-2:]
        os.kill(supervisor.process("family:0")["pid"], signal.SIGKILL)
        supervisor.wait_process(
            "family:0", lambda row, n=restarts: row["restarts"] == n and row["ready"]
        )
        assert not any(lives(pid) for pid in leader)
    sat(supervisor, count=8)
    assert Ledger(supervisor).no_twins()
    assert not Ledger(supervisor).pids("bye"), "killed at once: half of a dead process is no help"


def test_one_that_ignores_term_is_killed_at_the_deadline_and_told(supervise: Supervise) -> None:
    supervisor = supervise(family("deaf", stop_timeout="600s"), MODULES)
    _, grandchild = sat(supervisor)
    supervisor.send(signal.SIGTERM)
    Ledger(supervisor).wait("left")  # its leader drains
    done = supervisor.cli("stop", "--timeout", "300ms")
    assert done.returncode == 1
    assert "killed: family:0" in done.stdout
    assert supervisor.wait_exit() == 0
    assert not lives(grandchild)


def test_after_a_drained_stop_it_is_asked_first(supervise: Supervise) -> None:
    supervisor = supervise(family("exec"), MODULES)
    _, grandchild = sat(supervisor)
    assert supervisor.cli("restart", "family").returncode == 0
    assert Ledger(supervisor).pids("bye") == [grandchild]
    sat(supervisor, count=4)
    assert Ledger(supervisor).no_twins()


def test_only_what_the_job_has_begun_ends_with_it(supervise: Supervise) -> None:
    supervisor = supervise(family("exec", "one") + family("fork", "two"), MODULES)
    one, two = sat(supervisor, "one:0"), sat(supervisor, "two:0")
    assert supervisor.cli("stop", "one").returncode == 0
    assert not any(lives(pid) for pid in one)
    assert all(lives(pid) for pid in two)
    os.kill(supervisor.process("two:0")["pid"], signal.SIGKILL)
    sat(supervisor, "two:0", count=4)
    assert Ledger(supervisor).no_twins()


def test_a_clean_end_leaves_nothing_either(supervise: Supervise) -> None:
    jobs = section("brief", target="family:brief", restart="never")
    supervisor = supervise(jobs, MODULES)
    pids = sat(supervisor, "brief:0")
    Ledger(supervisor).open("gate")
    supervisor.wait_state("brief:0", "EXITED")
    assert not any(lives(pid) for pid in pids)
    assert supervisor.stop() == 0


def test_all_generations_of_a_family_are_ended(supervise: Supervise) -> None:
    jobs = section("nested", target="family:nested", backoff=0)
    supervisor = supervise(jobs, MODULES)
    first = sat(supervisor, "nested:0", count=5)
    os.kill(supervisor.process("nested:0")["pid"], signal.SIGKILL)
    sat(supervisor, "nested:0", count=10)
    assert not any(lives(pid) for pid in first)
    assert Ledger(supervisor).no_twins()
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()


def test_one_that_dies_while_we_look_at_it_hides_nobody(supervise: Supervise) -> None:
    jobs = section("hasty", target="family:hasty", backoff=0)
    supervisor = supervise(jobs, MODULES | {"look": LOOK}, settings={"preload": "look"})
    _, daemon = sat(supervisor, "hasty:0")
    Ledger(supervisor).wait("between")
    os.kill(supervisor.process("hasty:0")["pid"], signal.SIGKILL)
    sat(supervisor, "hasty:0", count=4)
    assert not lives(daemon)
    assert Ledger(supervisor).no_twins()


def test_an_orphan_of_nobody_lives_until_the_full_stop(supervise: Supervise) -> None:
    supervisor = supervise(section("lonely", target="family:lonely", backoff=0), MODULES)
    (orphan,) = sat(supervisor, "nobody", count=1)
    os.kill(supervisor.process("lonely:0")["pid"], signal.SIGKILL)
    sat(supervisor, "nobody", count=2)
    assert lives(orphan)
    assert supervisor.stop() == 0
    assert supervisor.tree() == ()
    assert len(Ledger(supervisor).pids("bye")) == 2, "asked before it was killed"


def test_an_orphan_of_nobody_that_has_to_be_killed_is_told(supervise: Supervise) -> None:
    supervisor = supervise(section("lonely", target="family:deserted"), MODULES)
    Ledger(supervisor).wait("deserted")
    (orphan,) = eventually(
        lambda: [pid for pid in supervisor.tree() if kernel.title_of(pid) == "sleep 1000"]
    )
    supervisor.send(signal.SIGTERM)
    supervisor.wait_line("daemon job lonely stopped gracefully")
    done = supervisor.cli("stop", "--timeout", "300ms")
    assert done.returncode == 1
    assert f"killed: pid {orphan}" in done.stdout
    assert supervisor.wait_exit() == 0
    assert supervisor.tree() == ()


def test_orphans_that_have_ended_are_reaped(supervise: Supervise) -> None:
    supervisor = supervise(section("lonely", target="family:lonely", backoff=0), MODULES)
    (orphan,) = sat(supervisor, "nobody", count=1)
    os.kill(orphan, signal.SIGTERM)
    eventually(lambda: kernel.facts(orphan) is None)
    assert supervisor.stop() == 0

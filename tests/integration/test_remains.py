"""What one look at all processes can miss, and a new master must not."""

from __future__ import annotations

import os
import signal
import sys

from supervisor import kernel
from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

JOBS = '''
import os
import signal
import time
from ledger import has, is_open, join, note, sit

def family(context):
    """Begin a daemon whose first parent lives on until its gate is open."""
    sit(context.name)
    if not os.fork():
        os.setsid()
        if not os.fork():
            os.closerange(0, 4096)
            join(context.name)
            note("daemon", context.name)
            while True:
                signal.pause()
        note("between")
        while not is_open("gate-of-between"):
            time.sleep(0.001)
        os._exit(0)
    context.wait(1e6)

def hasty(context):
    """Begin, while the process leaves, one that begins a daemon when its gate is open, and ends."""
    sit(context.name)
    context.wait(1e6)
    note("asked")
    while not is_open("gate"):
        time.sleep(0.001)
    if os.fork():
        while not has("between"):
            time.sleep(0.001)
        return
    os.setsid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # nobody ends before he is noted
    note("between")
    while not is_open("gate-of-between"):
        time.sleep(0.001)
    if os.fork():
        os._exit(0)
    join(context.name)
    note("daemon", context.name)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    while True:
        signal.pause()

def plain(context):
    sit(context.name)
    context.wait(1e6)
'''

# In the master, once it is armed: the last one who is in between ends right after the children of
# somebody were listed, or all processes were.
LISTS = """
import os
import time
from ledger import FOLDER, is_open
from supervisor import kernel

def last_in_between():
    with open(os.path.join(FOLDER, "ledger")) as ledger:
        words = [line.split() for line in ledger]
    return next((int(pid) for *word, pid in reversed(words) if word == ["between"]), None)

def outdated(read):
    def listed(*arguments):
        found = read(*arguments)
        if is_open("armed") and not is_open("gate-of-between"):
            pid = last_in_between()
            if pid in found:
                open(os.path.join(FOLDER, "gate-of-between"), "w").close()
                while (facts := kernel.facts(pid)) is not None and not facts.zombie:
                    time.sleep(0.001)
        return found
    return listed

kernel.children = outdated(kernel.children)
kernel.processes = outdated(kernel.processes)
"""

# A child of the master stops itself right after the fork, once this is armed.
EMBRYO = """
import os
import signal
from ledger import is_open, note
from supervisor import signals

reset = signals.reset_in_child

def stopped():
    if is_open("armed"):
        note("embryo")
        os.kill(os.getpid(), signal.SIGSTOP)
    reset()

signals.reset_in_child = stopped
"""

DEAF = """
import signal
from ledger import sit
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sit("deaf:0")
while True:
    signal.pause()
"""

MODULES = {"ledger": SOURCE, "jobs": JOBS, "deaf": DEAF}


def lives(pid: int) -> bool:
    facts = kernel.facts(pid)
    return facts is not None and not facts.zombie


def test_one_that_ends_while_all_are_listed_hides_nobody(supervise: Supervise) -> None:
    jobs = section("hasty", target="jobs:hasty", stop_timeout="600s")
    supervisor = supervise(jobs, MODULES | {"lists": LISTS}, settings={"preload": "lists"})
    ledger = Ledger(supervisor)
    ledger.wait("sit")
    supervisor.kill()
    ledger.wait("asked")
    supervisor.start(wait=False)
    supervisor.wait_line("hasty:0: waiting for pid ")
    ledger.open("armed")
    ledger.open("gate")
    (daemon,) = ledger.wait("daemon")
    supervisor.wait_ready()
    assert not lives(daemon)
    assert ledger.no_twins()


def test_what_a_job_of_the_new_master_has_begun_is_no_remnant(supervise: Supervise) -> None:
    deaf = section("deaf", command=f"{sys.executable} -S deaf.py", stop_timeout="600s")
    jobs = section("family", target="jobs:family") + deaf
    supervisor = supervise(jobs, MODULES | {"lists": LISTS}, settings={"preload": "lists"})
    ledger = Ledger(supervisor)
    (deaf_pid,) = ledger.wait("sit", "deaf:0")
    ledger.wait("daemon")
    ledger.wait("between")
    supervisor.kill()
    supervisor.start(wait=False)
    _, daemon = ledger.wait("daemon", count=2)
    ledger.wait("between", count=2)
    ledger.open("armed")
    os.kill(deaf_pid, signal.SIGKILL)
    supervisor.wait_ready()
    assert lives(daemon)
    assert not any(f"waiting for pid {daemon}," in told for told in supervisor.messages())


def test_one_that_was_stopped_before_it_took_its_seat_is_ended(supervise: Supervise) -> None:
    jobs = section("plain", target="jobs:plain", backoff=0)
    supervisor = supervise(jobs, MODULES | {"embryo": EMBRYO}, settings={"preload": "embryo"})
    ledger = Ledger(supervisor)
    (first,) = ledger.wait("sit")
    ledger.open("armed")
    os.kill(first, signal.SIGKILL)
    (embryo,) = ledger.wait("embryo")
    eventually(lambda: (facts := kernel.facts(embryo)) is not None and facts.state == "T")
    supervisor.write("armed", "").unlink()
    supervisor.kill()
    supervisor.start()
    eventually(lambda: not lives(embryo))
    assert supervisor.stop() == 0
    eventually(lambda: supervisor.tree() == ())

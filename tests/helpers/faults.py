"""A machine that has nothing to give: a module that the master preloads, and its switches.

`SOURCE` is put beside the configuration as the module `faults` and named in `preload`. A fault is
on while its file is there: `no-fork` and `no-proc` hold the number of the error, `clock` the
seconds by which the wall clock is wrong. Only the master is struck by the first two; the clock is
that of all its children too.
"""

from __future__ import annotations

from tests.helpers.driver import Supervisor

SETTINGS = {"preload": "faults"}

SOURCE = '''
import os
import time
from datetime import datetime, timedelta

from supervisor import seat

FOLDER = os.path.dirname(os.path.abspath(__file__))
MASTER = os.getpid()
REAL = {"fork": os.fork, "open": os.open, "listdir": os.listdir, "time": time.time,
        "time_ns": time.time_ns}

def given(name):
    """Read a switch; None when it is off."""
    try:
        fd = REAL["open"](os.path.join(FOLDER, name), os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        return int(os.read(fd, 20))
    finally:
        os.close(fd)

def fail(switch):
    number = given(switch) if os.getpid() == MASTER else None
    if number is not None:
        raise OSError(number, os.strerror(number))

def fork():
    fail("no-fork")
    return REAL["fork"]()

def open_(path, *rest, **more):
    if str(path).startswith("/proc"):
        fail("no-proc")
    return REAL["open"](path, *rest, **more)

def listdir(path="."):
    if str(path).startswith("/proc"):
        fail("no-proc")
    return REAL["listdir"](path)

class Clock(datetime):
    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + timedelta(seconds=given("clock") or 0)

os.fork, os.open, os.listdir = fork, open_, listdir
time.time = lambda: REAL["time"]() + (given("clock") or 0)
time.time_ns = lambda: REAL["time_ns"]() + (given("clock") or 0) * 10**9
seat.datetime = Clock
'''


def switch_on(supervisor: Supervisor, fault: str, number: int) -> None:
    """Let a fault happen from now on."""
    supervisor.write(fault, str(number))


def switch_off(supervisor: Supervisor, fault: str) -> None:
    """End a fault."""
    (supervisor.folder / fault).unlink()

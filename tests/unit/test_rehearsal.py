"""The rehearsal changes nothing: it runs in the master, which has to stay as it is."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import logging, os, resource, signal, sys, threading

from supervisor import kernel
from supervisor.rehearsal import rehearse
from workers import runtime

def seen():
    return (
        kernel.descriptors(),
        kernel.threads(),
        dict(os.environ),
        [signal.getsignal(number) for number in sorted(signal.valid_signals())],
        kernel.catches(os.getpid(), signal.SIGUSR2),
        resource.getrlimit(resource.RLIMIT_NOFILE),
        list(logging.root.handlers),
        threading.enumerate() == [threading.main_thread()],
        os.getpriority(os.PRIO_PROCESS, 0),
        kernel.title_of(os.getpid()),
        runtime._STOP.stopping,
    )

signal.signal(signal.SIGTERM, lambda *_: None)
logging.basicConfig()
before = seen()
rehearse()
after = seen()
assert before == after, (before, after)
thread = threading.Thread(target=print, args=("locks work, threads start",))
thread.start()
thread.join()
"""


def test_it_leaves_no_trace() -> None:
    # In a process of its own: of one with several threads it would reset the locks.
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "locks work, threads start\n"

"""A piece of a test in a process of its own, which never comes back as a second pytest."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable


def fork(work: Callable[[], object]) -> int:
    """Do it in a child, and give the pid; it exits 0, or 1 with what went wrong on stderr."""
    if pid := os.fork():
        return pid
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def reap(pid: int) -> int:
    """Wait for the end of a child and give its exit code, negative for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

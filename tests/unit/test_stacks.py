"""What is told of a process that has shown no stacks."""

from __future__ import annotations

import os
import resource

from supervisor.stacks import _Dump


def test_without_a_descriptor_to_look_with_the_answer_says_so() -> None:
    dump = _Dump("web:0", os.getpid(), 0.0)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, before[1]))
    try:
        found = dump.result()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert found["error"] == f"web:0 (pid {os.getpid()}) cannot be looked at: Too many open files"
    assert "has shown nothing" in dump.result()["error"]

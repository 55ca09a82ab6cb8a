"""What is told of a process that has shown no stacks."""

from __future__ import annotations

import os

from supervisor.stacks import _Dump
from tests.helpers.shortage import no_descriptor_left


def test_without_a_descriptor_to_look_with_the_answer_says_so() -> None:
    dump = _Dump("web:0", os.getpid(), 0.0)
    with no_descriptor_left():
        found = dump.result()
    assert found["error"] == f"web:0 (pid {os.getpid()}) cannot be looked at: Too many open files"
    assert "has shown nothing" in dump.result()["error"]

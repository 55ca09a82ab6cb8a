"""Who tells of a kill for want of memory: the log of the kernel, and a counter of a group."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from supervisor.memory import Witness


class Log:
    """A kernel's log of our own: one record a read, and nothing to wait for."""

    def __init__(self) -> None:
        self._end, self._other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.setblocking(False)
        self.fd = os.dup(self._end.fileno())

    def record(self, text: str, age_s: float = 0.0) -> None:
        at_us = int((time.monotonic() - age_s) * 1e6)
        self._other.send(f"3,{at_us % 1000},{at_us},-;{text}\n".encode())

    def close(self) -> None:
        self._end.close()
        self._other.close()


@pytest.fixture
def log() -> Iterator[Log]:
    made = Log()
    yield made
    made.close()


KILLED = "Memory cgroup out of memory: Killed process {} (python3) total-vm:1kB, anon-rss:1kB"


def test_the_log_names_the_victim_and_nobody_else(log: Log) -> None:
    witness = Witness(None, log.fd)
    log.record("something else")
    log.record(KILLED.format(41))
    log.record("Out of memory: Killed process 43 (sh) total-vm:1kB")
    assert not witness.has_seen(4)
    assert witness.has_seen(41)
    assert not witness.has_seen(42)
    assert witness.has_seen(43)
    assert not witness.has_seen(43), "its number may be another's by now"
    witness.close()


def test_an_old_record_tells_of_another_process_of_that_number(log: Log) -> None:
    witness = Witness(None, log.fd)
    log.record(KILLED.format(41), age_s=3600)
    assert not witness.has_seen(41)
    witness.close()


def test_a_victim_among_strangers_is_forgotten_after_a_while(log: Log) -> None:
    later_s = 0.0
    witness = Witness(None, log.fd, lambda: time.monotonic() + later_s)
    log.record(KILLED.format(41))
    assert not witness.has_seen(4)
    later_s = 3600.0
    assert not witness.has_seen(41), "its number is that of one of ours by now"
    witness.close()


def test_a_log_that_tells_is_believed_before_the_counter(log: Log, tmp_path: Path) -> None:
    counter = tmp_path / "memory.events"
    counter.write_text("low 0\noom 0\noom_kill 0\n")
    witness = Witness(counter, log.fd)
    counter.write_text("low 0\noom 1\noom_kill 1\n")
    log.record(KILLED.format(7))
    assert not witness.has_seen(41)
    witness.close()


@pytest.mark.parametrize(
    "text", ["oom_kill {}\n", "oom_kill_disable 0\nunder_oom 0\noom_kill {}\n"]
)
def test_the_counter_tells_of_as_many_deaths_as_it_grew_by(tmp_path: Path, text: str) -> None:
    counter = tmp_path / "memory.oom_control"
    counter.write_text(text.format(5))
    witness = Witness(counter, None)
    assert not witness.has_seen(1)
    counter.write_text(text.format(7))
    assert [witness.has_seen(1), witness.has_seen(2), witness.has_seen(3)] == [True, True, False]
    counter.write_text(text.format(8))
    witness.look()
    assert not witness.has_seen(4), "that was before"


def test_without_any_witness_nothing_is_claimed(tmp_path: Path) -> None:
    assert not Witness(None, None).has_seen(1)
    assert not Witness(tmp_path / "gone", None).has_seen(1)


def test_what_this_machine_has_can_be_asked() -> None:
    witness = Witness.of_this_machine()
    assert not witness.has_seen(os.getpid())
    witness.close()
    witness.close()

"""A wall clock that was set: the times of a queue file move with it, once for all processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from workers.sources import sqlite_clock
from workers.sources.sqlite_clock import JUMP_MS, Clock
from workers.sources.sqlite_file import QueueFile

DAY_MS = 86_400_000
NOW = 10 * DAY_MS


class Wall:
    """A clock that can be set, beside one that cannot."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = NOW
        self.boot = NOW
        monkeypatch.setattr(sqlite_clock, "now_ms", lambda: self.now)
        monkeypatch.setattr(sqlite_clock, "distance_ms", lambda: self.now - self.boot)

    def passes(self, milliseconds: int) -> None:
        self.now += milliseconds
        self.boot += milliseconds


@pytest.fixture
def wall(monkeypatch: pytest.MonkeyPatch) -> Wall:
    return Wall(monkeypatch)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[QueueFile]:
    file = QueueFile(tmp_path / "queue.db", io_timeout=5, durable=False)
    file.open()
    with file.change() as change:
        change.executemany(
            "INSERT INTO messages (topic, due, body, owner, until) VALUES ('t', ?, 'x', ?, ?)",
            [(NOW, None, None), (NOW + 10_000, None, None), (NOW, "me", NOW + 30_000)],
        )
    yield file
    file.close()


def times(file: QueueFile) -> list[tuple[int, int | None]]:
    return file.read("SELECT due, until FROM messages ORDER BY number")


def clocks(file: QueueFile) -> tuple[Clock, Clock]:
    first, second = Clock(file), Clock(file)
    first.begin()
    second.begin()
    return first, second


def test_what_was_due_stays_due_when_the_clock_is_set_back(file: QueueFile, wall: Wall) -> None:
    first, second = clocks(file)
    wall.passes(1000)
    wall.now -= DAY_MS
    assert first.check() is True
    moved = [(NOW - DAY_MS, None), (NOW - DAY_MS + 10_000, None)]
    assert times(file)[:2] == moved, "the delay is as long as it was"
    assert times(file)[2][1] == NOW - DAY_MS + 30_000
    second.check()
    late = Clock(file)
    late.begin()
    assert times(file)[:2] == moved, "once for all"
    assert first.check() is False


def test_leases_outlive_a_clock_that_is_set_forward(file: QueueFile, wall: Wall) -> None:
    first, second = clocks(file)
    wall.now += DAY_MS
    first.check()
    second.check()
    assert times(file) == [(NOW, None), (NOW + 10_000, None), (NOW, NOW + DAY_MS + 30_000)]


def test_a_correction_moves_nothing(file: QueueFile, wall: Wall) -> None:
    first, _ = clocks(file)
    before = times(file)
    for _ in range(5):
        wall.passes(1000)
        wall.now -= JUMP_MS - 1
        assert first.check() is False
    assert times(file) == before


def test_a_jump_while_nobody_looked_is_found_at_the_next_start(file: QueueFile, wall: Wall) -> None:
    clocks(file)
    wall.now -= DAY_MS
    Clock(file).begin()
    assert times(file)[0][0] == NOW - DAY_MS


def test_the_distance_of_another_boot_means_nothing(file: QueueFile, wall: Wall) -> None:
    clocks(file)
    with file.change() as change:
        change.execute("UPDATE clock SET boot = 'another'")
    wall.boot = 0
    before = times(file)
    Clock(file).begin()
    assert times(file) == before

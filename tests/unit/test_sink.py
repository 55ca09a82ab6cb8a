"""The sink: bounded, never waiting, its lines never torn, and honest about what it lost."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import outlet
from supervisor.loop import Loop
from supervisor.sink import HARD_BYTES, SOFT_BYTES, STALLED_S, Hooks, Loss, Sink
from tests.helpers.eventually import eventually

LINE = b"x" * 1023 + b"\n"


class Toy:
    """An outlet that takes what the test allows."""

    def __init__(self, room: float = float("inf")) -> None:
        self.room = room
        self.error: int | None = None
        self.taken = bytearray()
        self.calls = 0

    def write(self, data: bytes) -> int:
        self.calls += 1
        if self.error == errno.ENOMEM:
            raise MemoryError
        if self.error is not None:
            raise OSError(self.error, os.strerror(self.error))
        if self.room <= 0:
            raise BlockingIOError
        part = data[: int(min(self.room, len(data)))]
        self.room -= len(part)
        self.taken += part
        return len(part)

    def fileno(self) -> int:
        return -1

    def reopen(self) -> None:
        self.error = None

    def close(self) -> None:
        self.room = 0


class Desk:
    """A sink with a toy outlet, a clock, and what its hooks have heard."""

    def __init__(self, room: float = float("inf")) -> None:
        self.time = 100.0
        self.toy = Toy(room)
        self.losses: list[Loss] = []
        self.failures: list[str] = []
        self.rooms = 0
        hooks = Hooks(self._on_room, self.losses.append, self.failures.append)
        self.sink = Sink(self.toy, hooks, clock=lambda: self.time)

    def _on_room(self) -> None:
        self.rooms += 1

    def put(self, data: bytes = LINE, speaker: str = "a:0", *, urgent: bool = False) -> None:
        self.sink.put(data, data.count(b"\n"), speaker, urgent=urgent)

    def fill(self, size: int) -> None:
        while self.sink.pending() < size:
            self.put()


def test_lines_go_out_with_the_flush() -> None:
    desk = Desk()
    desk.put(b"a\n")
    desk.put(b"b\n")
    assert desk.toy.calls == 0
    desk.sink.flush()
    assert (bytes(desk.toy.taken), desk.toy.calls) == (b"a\nb\n", 1)


@given(st.lists(st.integers(0, 7), max_size=60))
def test_short_writes_are_continued_at_the_right_byte(rooms: list[int]) -> None:
    desk = Desk(room=0)
    wanted = b"".join(b"line %d\n" % number for number in range(20))
    desk.put(wanted)
    for room in rooms:
        desk.toy.room += room
        desk.sink.flush()
    desk.toy.room = 1000
    desk.sink.flush()
    assert bytes(desk.toy.taken) == wanted


def test_a_slow_reader_holds_the_reading_and_loses_nothing() -> None:
    desk = Desk(room=0)
    desk.fill(SOFT_BYTES + len(LINE))
    assert desk.sink.full()
    for _ in range(5):
        desk.time += STALLED_S * 0.9
        desk.toy.room = 1
        desk.sink.flush()
        assert desk.sink.full()
    desk.toy.room = SOFT_BYTES
    desk.sink.flush()
    assert desk.rooms == 1
    assert not desk.sink.full()
    assert desk.sink.lost == 0


def test_a_reader_that_stands_still_costs_lines_and_holds_nobody() -> None:
    desk = Desk(room=0)
    desk.fill(SOFT_BYTES)
    desk.time += STALLED_S
    assert not desk.sink.full()
    desk.put(LINE * 3, "a:0")
    desk.put(LINE, "b:0")
    assert desk.sink.pending() <= SOFT_BYTES + len(LINE)
    assert desk.sink.lost == 4
    assert desk.losses == []
    desk.toy.room = float("inf")
    desk.sink.flush()
    assert desk.losses == [Loss({"a:0": 3, "b:0": 1}, None)]
    desk.sink.flush()
    assert len(desk.losses) == 1


def test_memory_is_bounded_whatever_comes() -> None:
    desk = Desk(room=0)
    for _ in range(2 * HARD_BYTES // len(LINE)):
        desk.put()
    assert desk.sink.pending() <= HARD_BYTES + len(LINE)


def test_the_masters_words_are_dropped_last() -> None:
    desk = Desk(room=0)
    desk.fill(SOFT_BYTES)
    desk.time += STALLED_S
    desk.put(b"from a child\n")
    desk.put(b"from the master\n", "master", urgent=True)
    desk.toy.room = float("inf")
    desk.sink.flush()
    assert desk.toy.taken.endswith(b"\nfrom the master\n")
    assert b"child" not in desk.toy.taken


@pytest.mark.parametrize(
    "error", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EPIPE, errno.ENOMEM]
)
def test_a_broken_outlet_is_told_once_and_tried_again_later(error: int) -> None:
    desk = Desk()
    desk.toy.error = error
    desk.put(b"kept\n")
    desk.sink.flush()
    desk.sink.flush()
    assert desk.failures == [os.strerror(error)]
    assert desk.toy.calls == 1
    desk.time += 1
    desk.sink.flush()
    desk.sink.flush()
    assert (desk.toy.calls, len(desk.failures)) == (2, 1)
    desk.toy.error = None
    desk.time += 30
    desk.sink.flush()
    assert desk.toy.taken == b"kept\n"
    assert desk.losses == [Loss({}, os.strerror(error))]


def test_a_line_torn_by_a_full_disk_is_continued() -> None:
    desk = Desk(room=3)
    desk.put(b"123456\n")
    desk.sink.flush()
    desk.toy.error = errno.ENOSPC
    desk.sink.flush()
    desk.toy.error, desk.toy.room = None, float("inf")
    desk.time += 1
    desk.put(b"next\n")
    desk.sink.flush()
    assert desk.toy.taken == b"123456\nnext\n"


def test_a_broken_outlet_holds_nobody() -> None:
    desk = Desk()
    desk.toy.error = errno.ENOSPC
    for _ in range(2 * SOFT_BYTES // len(LINE)):
        desk.put()
    assert not desk.sink.full()
    assert desk.sink.pending() <= SOFT_BYTES + len(LINE)
    assert desk.sink.lost > 0


def test_reopening_tries_a_broken_outlet_at_once() -> None:
    desk = Desk()
    desk.toy.error = errno.ENOSPC
    desk.put(b"a\n")
    desk.sink.flush()
    desk.sink.reopen()
    assert desk.toy.taken == b"a\n"


def test_after_the_close_nothing_is_written() -> None:
    desk = Desk()
    desk.put(b"last\n")
    desk.sink.close()
    desk.toy.room = float("inf")
    desk.put(b"late\n")
    desk.sink.flush()
    assert desk.toy.taken == b"last\n"


@pytest.fixture
def loop() -> Iterator[Loop]:
    loop = Loop()
    yield loop
    loop.close()


def test_the_loop_writes_the_rest_when_the_reader_reads(loop: Loop) -> None:
    read_fd, write_fd = os.pipe()
    sink = Sink(outlet.standard(write_fd))
    sink.attach(loop)
    wanted = LINE * 300
    sink.put(wanted, 300, "a:0")
    sink.flush()
    assert sink.pending() > 0
    found = b""
    while len(found) < len(wanted):
        found += os.read(read_fd, 65536)
        if sink.pending():
            loop.turn()
    assert found == wanted
    sink.close()
    os.close(read_fd)
    os.close(write_fd)


def test_the_loop_tries_a_broken_outlet_again_without_being_asked(loop: Loop) -> None:
    toy = Toy()
    toy.error = errno.ENOSPC
    sink = Sink(toy)
    sink.attach(loop)
    sink.put(b"a\n", 1, "a:0")
    sink.flush()
    toy.error = None
    loop.turn()
    assert eventually(lambda: bytes(toy.taken)) == b"a\n"

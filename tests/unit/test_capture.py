"""The capture: pipes cut into lines, whatever the reads are, each in its turn, none waited for."""

from __future__ import annotations

import fcntl
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from supervisor import capture as capture_module
from supervisor.capture import LINE_BYTES, PAUSE_S, Capture, Splitter
from supervisor.lines import Source
from supervisor.logs import Log
from supervisor.loop import Loop, now

LIMIT = 8

LONG_S = 30.0
"""A pause that nobody takes for a slow machine."""


class Pieces:
    """What a splitter gave: each line with the mark of a piece."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.found: list[tuple[bytes, bool]] = []
        self.splitter = Splitter(
            lambda lines: self.found.extend((line, False) for line in lines.split(b"\n")),
            lambda piece: self.found.append((piece, True)),
            limit,
        )

    def feed(self, data: bytes) -> None:
        while self.splitter.feed(data):
            data = b""


def joined(pieces: list[tuple[bytes, bool]]) -> list[bytes]:
    """Put the pieces of long lines together again."""
    lines, start = [], b""
    for text, partial in pieces:
        start += text
        if not partial:
            lines.append(start)
            start = b""
    return lines


@given(st.binary(max_size=200), st.lists(st.integers(1, LIMIT)))
def test_wherever_a_stream_is_cut_the_lines_are_the_same(data: bytes, cuts: list[int]) -> None:
    cut, whole = Pieces(), Pieces()
    rest = data
    for size in [*cuts, *[LIMIT] * len(data)]:
        cut.feed(rest[:size])
        rest = rest[size:]
    for byte in data:
        whole.feed(bytes([byte]))
    cut.splitter.end()
    whole.splitter.end()
    assert cut.found == whole.found
    wanted = data.split(b"\n")
    assert joined(cut.found) == (wanted if wanted[-1] else wanted[:-1])
    assert all(len(text) <= LIMIT for text, _ in cut.found)


@given(st.text(alphabet="aö订🙂", min_size=1))
def test_a_long_line_is_not_cut_within_a_character(text: str) -> None:
    pieces = Pieces()
    for byte in text.encode() + b"\n":
        pieces.feed(bytes([byte]))
    assert "".join(piece.decode("utf-8") for piece, _ in pieces.found) == text


def test_many_empty_lines_come_in_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks: list[bytes] = []
    splitter = Splitter(chunks.append, chunks.append, LINE_BYTES)
    assert splitter.feed(b"\n" * 10_000)
    assert splitter.feed(b"")
    assert not splitter.feed(b"")
    assert [chunk.count(b"\n") + 1 for chunk in chunks] == [4096, 4096, 1808]


class Desk:
    """A loop, a log in a file, and the pipes of some children that the test plays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.loop = Loop()
        self.log = Log.open(path, 0, 0, text=False, level="info")
        self.log.attach(self.loop)
        self.capture = Capture(self.loop, self.log)
        self.words: list[bytes] = []
        self._fds: list[int] = []

    def pipe(self, job: str = "orders", stream: str = "stdout") -> tuple[int, int]:
        read_fd, write_fd = os.pipe()
        on_line = self.words.append if stream == "report" else None
        self.capture.add(read_fd, Source("daemon", job, 0, 99, stream), on_line)
        self._fds += [read_fd, write_fd]
        return read_fd, write_fd

    def hang_up(self, fd: int) -> None:
        self._fds.remove(fd)
        os.close(fd)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def messages(self) -> list[str]:
        return [line["message"] for line in self.lines()]

    def turns(self, seconds: float) -> int:
        """Turn the loop for so long and count how often it woke."""
        over: list[int] = []
        self.loop.at("test", now() + seconds, lambda: over.append(1))
        count = 0
        while not over:
            self.loop.turn()
            count += 1
        return count

    def close(self) -> None:
        self.capture.close()
        self.log.close()
        self.loop.close()
        for fd in self._fds:
            os.close(fd)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path / "log")
    yield desk
    desk.close()


def test_a_line_is_logged_in_the_turn_in_which_it_comes(desk: Desk) -> None:
    _, out = desk.pipe()
    os.write(out, b"hello\nwor")
    desk.loop.turn()
    assert desk.messages() == ["hello"]


@pytest.mark.parametrize(("stream", "mark"), [("stdout", b""), ("report", b"log ")])
def test_what_there_is_no_memory_for_is_lost_and_said(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, stream: str, mark: bytes
) -> None:
    _, out = desk.pipe(stream=stream)

    def say(text: bytes) -> None:
        os.write(out, mark + b'{"message":"%b"}\n' % text)

    render = "captured" if stream == "stdout" else "record"
    for part in (f"lines.JsonRenderer.{render}", "sink.Sink.put", "capture.Splitter._cut"):
        lost = desk.log.lost
        with monkeypatch.context() as short:
            short.setattr(f"supervisor.{part}", _no_memory)
            say(b"lost")
            while desk.log.lost == lost:
                desk.loop.turn()
    with monkeypatch.context() as short:
        short.setattr("supervisor.ring.Ring.add", _no_memory)
        say(b"kept")
        while "kept" not in desk.messages():
            desk.loop.turn()
    desk.log.flush()
    said = desk.lines()
    assert [line["message"] for line in said if "dropped" not in line] == ["kept"]
    assert sum(line["dropped"]["orders:0"] for line in said if "dropped" in line) == 3


def _no_memory(*_: object, **__: object) -> None:
    raise MemoryError


def test_after_a_round_nobody_is_woken_for_a_while(desk: Desk) -> None:
    _, out = desk.pipe()
    os.write(out, b"first\n")
    before = now()
    desk.loop.turn()
    for number in range(10):
        os.write(out, b"%d\n" % number)
    desk.loop.turn()
    assert now() - before >= PAUSE_S * 0.9
    assert desk.messages() == ["first", *map(str, range(10))]


def test_with_nothing_to_read_nobody_wakes(desk: Desk) -> None:
    _, out = desk.pipe()
    os.write(out, b"first\n")
    desk.loop.turn()
    desk.loop.turn()  # after the pause: nothing there
    assert desk.turns(3 * PAUSE_S) == 1


def test_an_end_that_nobody_has_finished_wakes_nobody(desk: Desk) -> None:
    _, out = desk.pipe()
    os.write(out, b"no newline")
    desk.hang_up(out)
    desk.loop.turn()
    desk.loop.turn()  # the end
    desk.loop.turn()  # nothing there
    assert desk.messages() == ["no newline"]
    assert desk.turns(3 * PAUSE_S) == 1


def test_a_flood_does_not_starve_the_others(desk: Desk) -> None:
    pipes = [desk.pipe(job)[1] for job in ("flood", "quiet")]
    os.set_blocking(pipes[0], False)
    for lines in range(2, 12, 2):
        os.write(pipes[0], b"x" * 60_000 + b"\n")
        os.write(pipes[1], b"a word\n")
        while len(desk.lines()) < lines:
            desk.loop.turn()
    assert Counter(line["job"] for line in desk.lines()) == {"flood": 5, "quiet": 5}


def test_a_pipe_that_floods_gets_more_room_and_the_next_turn(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "PAUSE_S", LONG_S)
    read_fd, out = desk.pipe()
    small = fcntl.fcntl(read_fd, fcntl.F_GETPIPE_SZ)
    os.write(out, b"x" * (small - 1) + b"\n")
    desk.loop.turn()
    assert fcntl.fcntl(read_fd, fcntl.F_GETPIPE_SZ) > small
    os.write(out, b"next\n")
    before = now()
    desk.loop.turn()
    assert now() - before < LONG_S
    assert desk.messages()[-1] == "next"


def test_a_child_that_is_dead_is_read_to_its_last_word(desk: Desk) -> None:
    read_fd, out = desk.pipe()
    os.write(out, b"\n" * 20_000 + b"last")
    desk.capture.finish([read_fd])
    assert len(desk.messages()) == 20_001
    assert desk.messages()[-1] == "last"
    os.write(out, b"a grandchild that nobody hears\n")
    desk.turns(2 * PAUSE_S)
    assert desk.messages()[-1] == "last"


def test_finishing_twice_or_a_stranger_is_nothing(desk: Desk) -> None:
    read_fd, _ = desk.pipe()
    desk.capture.finish([read_fd, read_fd, 9999])


def test_reports_are_told_from_records(desk: Desk) -> None:
    _, report = desk.pipe(stream="report")
    os.write(report, b'ready\nlog {"level": "error", "message": "bad", "job": "other"}\nmore\n')
    desk.loop.turn()
    assert desk.words == [b"ready", b"more"]
    (line,) = desk.lines()
    assert (line["message"], line["level"], line["job"]) == ("bad", "error", "orders")
    assert line["fields"] == {"job": "other"}


def test_a_report_may_end_the_capture_of_its_process(desk: Desk) -> None:
    read_fd, report = desk.pipe("a", "report")
    other_fd, out = desk.pipe("b")
    desk.words.clear()
    desk.capture.finish([read_fd])
    desk.capture.add(
        read_fd,
        Source("daemon", "a", 0, 99, "report"),
        lambda _line: desk.capture.finish([read_fd, other_fd]),
    )
    os.write(report, b"ready\n")
    os.write(out, b"last\n")
    desk.turns(2 * PAUSE_S)
    assert desk.messages() == ["last"]


def test_a_very_long_line_comes_in_marked_pieces(desk: Desk) -> None:
    _, out = desk.pipe()
    fcntl.fcntl(out, fcntl.F_SETPIPE_SZ, 1 << 20)
    os.write(out, b"x" * (LINE_BYTES * 2 + 5) + b"\nnext\n")
    while len(desk.lines()) < 4:
        desk.loop.turn()
    found = [(len(line["message"]), line.get("partial", False)) for line in desk.lines()]
    assert found == [(LINE_BYTES, True), (LINE_BYTES, True), (5, False), (4, False)]


def test_a_full_log_holds_the_reading_until_there_is_room(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = [True]
    monkeypatch.setattr(capture_module, "PAUSE_S", LONG_S)
    monkeypatch.setattr(desk.log._main, "full", lambda: held[0])
    _, out = desk.pipe()
    os.write(out, b"waits\n")
    desk.turns(3 * PAUSE_S)
    assert desk.messages() == []
    held[0] = False
    desk.log.on_room()
    before = now()
    desk.loop.turn()
    assert now() - before < LONG_S
    assert desk.messages() == ["waits"]


def test_a_descriptor_that_cannot_be_read_is_an_end(desk: Desk) -> None:
    _, out = desk.pipe()
    desk.capture.add(out, Source("daemon", "x", 0, 1, "stdout"))
    desk.capture.finish([out])
    assert desk.messages() == []


def test_bytes_that_are_not_text_are_replaced(desk: Desk) -> None:
    _, out = desk.pipe()
    os.write(out, b"\xff\xfe\x00\x1b[31m\n")
    desk.loop.turn()
    assert desk.messages() == ["\ufffd\ufffd\x00\x1b[31m"]
    assert b"\x1b" not in desk.path.read_bytes()
    assert desk.log.tail("orders:0", 1)[0].endswith("stdout | \ufffd\ufffd\\u0000\\u001b[31m")


def test_sizes_fit_together() -> None:
    # A later line of one read can only be whole or short: the splitter relies on it.
    assert capture_module._READ_BYTES <= LINE_BYTES <= capture_module.REPORT_BYTES

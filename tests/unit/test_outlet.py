"""Outlets: none makes its writer wait, none touches what others share, files rotate whole lines."""

from __future__ import annotations

import errno
import fcntl
import os
import pty
import socket
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supervisor import outlet
from supervisor.outlet import Careful, File, Outlet

FLOOD = b"x" * 99 + b"\n"


def is_blocking(fd: int) -> bool:
    return not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_NONBLOCK


def fill(out: Outlet) -> int:
    """Write until it takes no more; give the number of bytes."""
    written = 0
    while True:
        try:
            written += out.write(FLOOD * 1000)
        except BlockingIOError:
            return written


@pytest.fixture
def ends() -> Iterator[list[int]]:
    """Hold descriptors that are closed after the test."""
    fds: list[int] = []
    yield fds
    for fd in fds:
        os.close(fd)


def test_a_full_pipe_is_told_and_stays_blocking_for_the_others(ends: list[int]) -> None:
    ends += os.pipe()
    out = outlet.standard(ends[1])
    written = fill(out)
    assert is_blocking(ends[1])
    assert len(os.read(ends[0], 1 << 20)) == written
    assert out.write(b"more\n") == 5
    out.close()


def test_a_full_socket_is_told_and_stays_blocking_for_the_others() -> None:
    ours, theirs = socket.socketpair()
    with closing(ours), closing(theirs):
        out = outlet.standard(ours.fileno())
        fill(out)
        assert is_blocking(ours.fileno())
        out.close()
        ours.send(b"", socket.MSG_DONTWAIT)  # closing the outlet has not ended the connection
        assert theirs.recv(10) == FLOOD[:10]


def test_a_full_terminal_is_told(ends: list[int]) -> None:
    ends += pty.openpty()
    out = outlet.standard(ends[1])
    assert fill(out) > 0
    assert is_blocking(ends[1])
    out.close()


def test_a_pipe_of_another_user_is_written_in_pieces_that_cannot_block(ends: list[int]) -> None:
    ends += os.pipe()
    out = Careful(ends[1], 4096)
    assert out.write(FLOOD * 1000) == 4096
    fill(out)
    assert is_blocking(ends[1])


def test_a_reader_that_is_gone_is_an_error_and_no_signal(ends: list[int]) -> None:
    read_fd, write_fd = os.pipe()
    ends.append(write_fd)
    out = outlet.standard(write_fd)
    os.close(read_fd)
    for candidate in (out, Careful(write_fd, 4096)):
        with pytest.raises(BrokenPipeError):
            candidate.write(b"x\n")
    out.close()


def test_a_closed_stdout_is_an_error() -> None:
    fd = os.dup(0)
    os.close(fd)
    with pytest.raises(OSError, match="Bad file"):
        outlet.standard(fd).write(b"x\n")


def test_a_file_as_stdout_keeps_the_offset_that_it_shares(tmp_path: Path, ends: list[int]) -> None:
    ends.append(os.open(tmp_path / "out", os.O_WRONLY | os.O_CREAT))
    os.write(ends[0], b"before\n")
    outlet.standard(ends[0]).write(b"ours\n")
    os.write(ends[0], b"after\n")
    assert (tmp_path / "out").read_text() == "before\nours\nafter\n"


def test_dev_null_takes_everything(ends: list[int]) -> None:
    ends.append(os.open(os.devnull, os.O_WRONLY))
    out = outlet.standard(ends[0])
    assert out.write(FLOOD * 1000) == len(FLOOD) * 1000
    out.close()


# --- files that rotate ---------------------------------------------------------------------------


def write_all(file: File, data: bytes) -> None:
    while data:
        data = data[file.write(data) :]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_full_file_is_set_aside_and_the_oldest_forgotten(tmp_path: Path) -> None:
    with closing(File(tmp_path / "log", 20, 2)) as file:
        for number in range(5):
            write_all(file, f"line {number}, 16 b...\n".encode())
    assert names(tmp_path) == ["log", "log.1", "log.2"]
    assert [(tmp_path / name).read_text()[:6] for name in names(tmp_path)] == [
        "line 4",
        "line 3",
        "line 2",
    ]


def test_without_backups_a_full_file_is_emptied(tmp_path: Path) -> None:
    with closing(File(tmp_path / "log", 10, 0)) as file:
        write_all(file, b"123456789\nabcdefghi\n")
    assert names(tmp_path) == ["log"]
    assert (tmp_path / "log").read_bytes() == b"abcdefghi\n"


@settings(max_examples=30)
@given(st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=5), st.integers(1, 50))
def test_rotation_never_cuts_a_line_nor_loses_one(batches: list[list[int]], limit: int) -> None:
    wanted = b""
    with tempfile.TemporaryDirectory() as name, closing(File(Path(name, "log"), limit, 50)) as file:
        for batch in batches:
            data = b"".join(b"x" * length + b"\n" for length in batch)
            write_all(file, data)
            wanted += data
        found = sorted(Path(name).iterdir(), key=lambda path: -int(path.suffix[1:] or 0))
        texts = [path.read_bytes() for path in found]
    assert b"".join(texts) == wanted
    assert all(text.endswith(b"\n") or not text for text in texts)
    assert all(len(text) <= limit or text.count(b"\n") == 1 for text in texts)


def test_size_is_counted_from_what_the_file_holds_already(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("old line\n")
    with closing(File(tmp_path / "log", 12, 1)) as file:
        write_all(file, b"new line\n")
    assert (tmp_path / "log.1").read_text() == "old line\n"


def test_a_file_moved_by_others_is_opened_anew_when_asked(tmp_path: Path) -> None:
    with closing(File(tmp_path / "log", 0, 0)) as file:
        write_all(file, b"1\n")
        (tmp_path / "log").rename(tmp_path / "moved")
        write_all(file, b"2\n")
        file.reopen()
        write_all(file, b"3\n")
    assert (tmp_path / "moved").read_text() == "1\n2\n"
    assert (tmp_path / "log").read_text() == "3\n"


def test_a_file_emptied_by_others_is_not_set_aside(tmp_path: Path) -> None:
    with closing(File(tmp_path / "log", 10, 1)) as file:
        write_all(file, b"12345678\n")
        os.truncate(tmp_path / "log", 0)
        write_all(file, b"12345678\n")
    assert names(tmp_path) == ["log"]


def test_when_setting_aside_fails_the_file_just_grows(tmp_path: Path) -> None:
    (tmp_path / "log.1" / "in the way").mkdir(parents=True)
    with closing(File(tmp_path / "log", 10, 1)) as file:
        for _ in range(3):
            write_all(file, b"12345678\n")
    assert (tmp_path / "log").read_bytes() == b"12345678\n" * 3


def test_what_is_no_regular_file_is_never_set_aside(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    with closing(File(tmp_path / "log", 4, 3)) as file:
        write_all(file, b"12345678\n12345678\n")
    assert os.read(reader, 100) == b"12345678\n12345678\n"
    os.close(reader)
    assert names(tmp_path) == ["log"]


def test_a_fifo_without_reader_makes_nobody_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match=os.strerror(errno.ENXIO)):
        File(tmp_path / "log", 0, 0)


def test_a_full_disk_is_an_error() -> None:
    with closing(File(Path("/dev/full"), 10, 1)) as file, pytest.raises(OSError, match="space"):
        file.write(b"x\n")


def test_strangers_cannot_read_a_log(tmp_path: Path) -> None:
    with closing(File(tmp_path / "log", 0, 0)):
        assert (tmp_path / "log").stat().st_mode & 0o007 == 0

"""The log: the master's records and its children's lines, in one file or each in its own."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from supervisor.lines import Source
from supervisor.logs import Log, utc
from supervisor.sink import SOFT_BYTES, STALLED_S, Sink
from tests.helpers.fork import fork, reap

TIME = 1795323600.1239  # 2026-11-22T05:00:00.123Z
ORDERS = Source("daemon", "orders", 0, 1234, "stdout")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def log(folder: Path) -> Iterator[Log]:
    log = Log.open(folder / "log", 0, 0, text=False, level="info")
    log._wall_clock = lambda: TIME
    yield log
    log.close()


@pytest.fixture
def root() -> Iterator[logging.Logger]:
    """Give the root logger, and put it back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_time_is_utc_to_the_millisecond() -> None:
    assert utc(TIME) == "2026-11-22T05:00:00.123Z"
    assert utc(0) == "1970-01-01T00:00:00.000Z"


def test_a_captured_line_says_who_printed_it(log: Log, folder: Path) -> None:
    log.speaker(ORDERS).say(b"hello\nworld")
    log.flush()
    assert [line["message"] for line in lines(folder / "log")] == ["hello", "world"]
    assert lines(folder / "log")[0] == {
        "time": "2026-11-22T05:00:00.123Z",
        "level": "info",
        "logger": "stdout",
        "message": "hello",
        "worker": "daemon",
        "job": "orders",
        "process": 0,
        "pid": 1234,
        "stream": "stdout",
    }


def test_records_of_logging_are_the_masters(log: Log, folder: Path, root: logging.Logger) -> None:
    log.install()
    logging.getLogger("supervisor").warning("%s of %d", "some", 3, extra={"after_s": 1.5})
    (line,) = lines(folder / "log")
    assert line.pop("time").endswith("Z")
    assert line == {
        "level": "warning",
        "logger": "supervisor",
        "message": "some of 3",
        "worker": "master",
        "job": "master",
        "process": 0,
        "pid": os.getpid(),
        "after_s": 1.5,
    }


def test_a_record_of_the_master_may_name_a_process(
    log: Log, folder: Path, root: logging.Logger
) -> None:
    log.install()
    logging.getLogger().info("gone", extra={"job": "orders", "slot": 2, "stream": "x"})
    (line,) = lines(folder / "log")
    assert (line["worker"], line["job"], line["process"]) == ("master", "orders", 2)
    assert line["fields"] == {"stream": "x"}
    assert log.tail("master", 5)[0].endswith("INFO root | gone stream=x")
    assert log.tail("orders:2", 5) == []


def test_an_exception_goes_with_its_record(log: Log, folder: Path, root: logging.Logger) -> None:
    log.install()
    try:
        raise ValueError("no good")
    except ValueError:
        logging.getLogger().exception("failed")
    (line,) = lines(folder / "log")
    assert line["exc_info"].endswith("ValueError: no good")


def test_a_bad_argument_does_not_reach_the_one_who_logs(
    log: Log, folder: Path, root: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    log.install()
    logging.getLogger().info("%d", "x")
    assert "TypeError" in capsys.readouterr().err
    assert (folder / "log").read_text() == ""


def test_a_forked_child_never_writes_through_the_masters_handler(
    log: Log, folder: Path, root: logging.Logger
) -> None:
    log.install()
    assert reap(fork(lambda: logging.getLogger().info("from the child"))) == 0
    assert (folder / "log").read_text() == ""


def test_levels_below_the_logs_are_left_out(log: Log, folder: Path, root: logging.Logger) -> None:
    log.install()
    logging.getLogger().debug("not this")
    log.speaker(ORDERS).report(b'{"level": "debug", "message": "nor this"}')
    log.speaker(ORDERS).report(b'{"level": "error", "message": "but this", "n": 1}')
    log.flush()
    (line,) = lines(folder / "log")
    assert (line["message"], line["level"], line["n"], line["job"]) == (
        "but this",
        "error",
        1,
        "orders",
    )


def test_a_job_may_have_a_file_of_its_own(log: Log, folder: Path) -> None:
    for job in ("orders", "bills"):
        log.route(job, folder / "own", 0, 0)
    for job in ("orders", "bills", "mails"):
        log.speaker(Source("daemon", job, 0, 1, "stdout")).say(job.encode())
    log.flush()
    assert [line["message"] for line in lines(folder / "own")] == ["orders", "bills"]
    assert [line["message"] for line in lines(folder / "log")] == ["mails"]


def test_a_broken_file_of_a_job_is_told_in_the_main_log(log: Log, folder: Path) -> None:
    log.route("orders", Path("/dev/full"), 0, 0)
    log.speaker(ORDERS).say(b"lost")
    log.flush()
    (line,) = lines(folder / "log")
    assert line["message"] == "cannot write /dev/full: No space left on device"


def test_the_tail_holds_the_last_words_of_each(log: Log) -> None:
    speaker = log.speaker(ORDERS)
    speaker.say(b"one\ntwo\x1b")
    speaker.report(b'{"level": "error", "message": "bad", "logger": "shop", "n": 1}')
    assert log.tail("orders:0", 2) == [
        "2026-11-22T05:00:00.123Z stdout | two\\u001b",
        "2026-11-22T05:00:00.123Z ERROR shop | bad n=1",
    ]
    assert log.tail("orders:1", 2) == []
    log.forget("orders:0")
    assert log.tail("orders:0", 2) == []


def test_reopening_follows_a_moved_file(log: Log, folder: Path) -> None:
    speaker = log.speaker(ORDERS)
    speaker.say(b"before")
    (folder / "log").rename(folder / "moved")
    log.reopen()
    speaker.say(b"after")
    log.flush()
    assert [line["message"] for line in lines(folder / "moved")] == ["before"]
    assert [line["message"] for line in lines(folder / "log")] == ["after"]


class Gate:
    """An outlet that is shut until the test opens it."""

    def __init__(self) -> None:
        self.open = False
        self.taken = b""

    def write(self, data: bytes) -> int:
        if not self.open:
            raise BlockingIOError
        self.taken += data
        return len(data)

    def fileno(self) -> int:
        return -1

    def reopen(self) -> None: ...

    def close(self) -> None: ...


def test_dropped_lines_are_said_once_it_works_again() -> None:
    moment = [0.0]
    gate = Gate()
    log = Log(Sink(gate, clock=lambda: moment[0]))
    speaker = log.speaker(ORDERS)
    while log._main.pending() < SOFT_BYTES:
        speaker.say(b"x" * 60_000)
    moment[0] += STALLED_S
    speaker.say(b"1\n2\n3")
    assert log.lost == 3
    gate.open = True
    log.flush()
    last = json.loads(gate.taken.splitlines()[-1])
    assert (last["level"], last["worker"]) == ("warning", "master")
    assert last["message"] == "dropped 3 lines, log is written again"
    assert last["dropped"] == {"orders:0": 3}


def test_the_end_does_not_wait_for_a_reader_that_stands_still() -> None:
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)

    class Stuck(Gate):
        def fileno(self) -> int:
            return write_fd

    while True:
        try:
            os.write(write_fd, b"x" * 4096)
        except BlockingIOError:
            break
    log = Log(Sink(Stuck()))
    log.speaker(ORDERS).say(b"never read")
    log.close(patience_s=0.05)
    os.close(read_fd)
    os.close(write_fd)

"""The lines of the log: their shape, floods beside others, files of jobs, readers that fail."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from typing import BinaryIO

import pytest

from tests.conftest import Supervise
from tests.helpers.eventually import eventually
from tests.helpers.ledger import SOURCE, Ledger
from tests.helpers.sections import section

TALK = '''
import json
import logging
import os
import sys
from ledger import has, note, sit

def talks(context):
    print("plain words")
    print("to stderr", file=sys.stderr)
    print(json.dumps({"message": "from JSON", "order": 7, "pid": "mine", "level": "odd"}))
    print("\\x1b[31mred\\x1b[0m")
    os.write(1, b"not utf-8 \\xff\\n")
    print("unfinished", end="", flush=True)
    context.logger.warning("by the %s", "logger", extra={"order": 8})
    logging.getLogger("some.library").info("by logging")
    try:
        raise ValueError("inner")
    except ValueError:
        context.logger.exception("it failed")
    note("talked")
    context.wait(1e6)

def steady(context):
    sit(context.name)
    context.wait(1e6)

def floods(context):
    """Print 200 MB, and more for as long as nobody has come back beside it."""
    line = b"x" * 999 + b"\\n"
    note("flood-begins")
    written = 0
    while written < 200_000_000 or not (has("came-back") or context.stopping):
        written += os.write(1, line * 64)
        if written > 20_000_000 and not has("flooded"):
            note("flooded")
    note("flood-ends", written)
    context.wait(1e6)

def counts(context):
    number = 0
    while not context.wait(0.001):
        print(f"line {number}")
        number += 1
'''

MODULES = {"ledger": SOURCE, "talk": TALK}

ALWAYS = {"time", "level", "logger", "message", "worker", "job", "process", "pid"}
FLOOD_S = 300.0
"""How long 200 MB may take on a busy machine."""

RFC_3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def test_every_line_has_the_shape_of_the_contract(supervise: Supervise) -> None:
    supervisor = supervise(section("talks", target="talk:talks"), MODULES)
    Ledger(supervisor).wait("talked")
    assert supervisor.stop() == 0
    lines = supervisor.log_lines()
    for line in lines:
        assert set(line) >= ALWAYS
        assert RFC_3339_UTC.fullmatch(line["time"])
        assert line["level"] in {"debug", "info", "warning", "error", "critical"}
        assert line["worker"] in {"master", "daemon"}
        assert isinstance(line["process"], int)
    said = {line["message"]: line for line in lines if line["worker"] == "daemon"}
    pid = said["plain words"]["pid"]
    assert pid != supervisor.pid
    assert said["plain words"] == said["plain words"] | {
        "level": "info",
        "job": "talks",
        "process": 0,
        "stream": "stdout",
    }
    assert said["to stderr"]["stream"] == "stderr"
    merged = said["from JSON"]
    assert merged["order"] == 7
    assert (merged["pid"], merged["level"]) == (pid, "info"), "our keys are always ours"
    assert merged["fields"] == {"message": "from JSON", "pid": "mine", "level": "odd"}
    assert "\x1b[31mred\x1b[0m" in said, "escaped by JSON"
    assert "not utf-8 \ufffd" in said
    assert said["unfinished"]["stream"] == "stdout"
    logged = said["by the logger"]
    assert (logged["level"], logged["logger"], logged["order"]) == ("warning", "talks", 8)
    assert "stream" not in logged
    assert said["by logging"]["logger"] == "some.library"
    assert "ValueError: inner" in said["it failed"]["exc_info"]
    raw = supervisor.log_path.read_bytes()
    assert b"\x1b" not in raw
    masters = [line for line in lines if line["worker"] == "master"]
    assert {line["pid"] for line in masters} == {supervisor.pid}
    assert "daemon job talks stopped gracefully" in [line["message"] for line in masters]


def test_text_output_escapes_what_a_terminal_would_obey(supervise: Supervise) -> None:
    jobs = section("talks", target="talk:talks")
    supervisor = supervise(jobs, MODULES, settings={"log_format": "text"})
    Ledger(supervisor).wait("talked")
    assert supervisor.stop() == 0
    raw = supervisor.log_path.read_bytes()
    assert b"\x1b" not in raw
    assert rb"\x1b[31mred" in raw or rb"\u001b[31mred" in raw
    assert b"talks:0" in raw


def test_a_flood_does_not_keep_others_from_coming_back(supervise: Supervise) -> None:
    flood = section(
        "floods", target="talk:floods", log_file="flood.log", log_max_bytes="4MB", log_backups=1
    )
    steady = section("steady", target="talk:steady", backoff=0)
    supervisor = supervise(flood + steady, MODULES)
    ledger = Ledger(supervisor)
    ledger.wait("flooded", timeout_s=FLOOD_S)
    ledger.wait("sit", "steady:0")
    for restarts in range(1, 4):
        os.kill(supervisor.process("steady:0")["pid"], signal.SIGKILL)
        supervisor.wait_process(
            "steady:0", lambda row, n=restarts: row["restarts"] == n and row["ready"]
        )
        ledger.wait("sit", "steady:0", count=restarts + 1)  # a moment after READY
    assert not ledger.pids("flood-ends"), "it still floods: the order is the proof"
    with (supervisor.folder / "ledger").open("a") as file:
        file.write("came-back 0\n")
    ledger.wait("flood-ends", timeout_s=FLOOD_S)
    assert supervisor.process("floods:0")["restarts"] == 0
    assert supervisor.stop() == 0
    sizes = [path.stat().st_size for path in supervisor.folder.glob("flood.log*")]
    assert len(sizes) == 2
    # A rotation comes after the write that makes a file too large.
    assert max(sizes) < 8_000_000


def test_files_of_jobs_rotate_and_lose_no_line(supervise: Supervise) -> None:
    jobs = section(
        "counts", target="talk:counts", log_file="counts.log", log_max_bytes="16KB", log_backups=3
    )
    supervisor = supervise(jobs + section("talks", target="talk:talks"), MODULES)
    eventually(lambda: (supervisor.folder / "counts.log.3").exists())
    Ledger(supervisor).wait("talked")
    assert supervisor.stop() == 0
    names = ["counts.log.3", "counts.log.2", "counts.log.1", "counts.log"]
    assert sorted(path.name for path in supervisor.folder.glob("counts.log*")) == sorted(names)
    lines = [json.loads(line) for name in names for line in supervisor.read(name).splitlines()]
    numbers = [int(line["message"].removeprefix("line ")) for line in lines]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert not any(message.startswith("line ") for message in supervisor.messages())
    assert "plain words" in supervisor.messages("talks")
    assert "counts:0 STOPPED -> STARTING: starting" in supervisor.messages("counts")


@pytest.fixture
def pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    read_fd, write_fd = os.pipe()
    with open(read_fd, "rb") as reader, open(write_fd, "wb") as writer:
        yield reader, writer


def test_a_reader_that_is_gone_is_nobodys_trouble(
    supervise: Supervise, pipe: tuple[BinaryIO, BinaryIO]
) -> None:
    reader, writer = pipe
    supervisor = supervise(section("counts", target="talk:counts"), MODULES, start=False)
    supervisor.start(stdout=writer.fileno())
    writer.close()
    reader.close()
    assert supervisor.cli("restart", "counts").returncode == 0
    assert supervisor.stop() == 0


def test_a_reader_that_does_not_read_blocks_nobody(
    supervise: Supervise, pipe: tuple[BinaryIO, BinaryIO]
) -> None:
    _, writer = pipe
    jobs = section("counts", target="talk:counts") + section("steady", target="talk:steady")
    supervisor = supervise(jobs, MODULES, start=False)
    supervisor.start(stdout=writer.fileno())
    writer.close()

    def printed() -> int:
        last = supervisor.call("logs", names=["counts"], n=1)["lines"]
        found = re.search(r"line (\d+)$", last[0]) if last else None
        return int(found[1]) if found else 0

    # Many times what the pipe holds.
    eventually(lambda: printed() > 3000, FLOOD_S)
    assert supervisor.cli("restart", "steady").returncode == 0
    Ledger(supervisor).wait("sit", "steady:0", count=2)
    assert supervisor.process("counts:0")["restarts"] == 0
    assert supervisor.stop() == 0

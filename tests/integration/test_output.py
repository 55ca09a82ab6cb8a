"""Output of a whole supervisor: nothing is lost in a flood, and no trouble with a log stops it."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

from tests.conftest import Supervise
from tests.helpers.eventually import eventually

FLOOD_S = 300.0
"""How long 400,000 lines may take on a busy machine."""

TALKER = {
    "talker": """
        def run(context):
            count = 0
            while not context.stopping:
                count += 1
                print("word", count, flush=True)
                context.wait(0.02)
    """
}
JOB = """
    [daemon:talker]
    type = worker
    target = talker:run
"""


def test_a_flood_is_logged_whole_and_starves_nobody(supervise: Supervise) -> None:
    flood = "yes 0123456789012345678901234567890123456789012345678 | head -n 400000; exec sleep 600"
    supervisor = supervise(
        f"""{JOB}
    [daemon:flood]
    type = program
    command = /bin/sh -c "{flood}"
    """,
        TALKER,
    )

    with supervisor.log_path.open("rb") as log:
        count = 0

        def logged() -> bool:
            nonlocal count
            for line in iter(log.readline, b""):
                if not line.endswith(b"\n"):
                    log.seek(-len(line), os.SEEK_CUR)
                    break
                count += b'"job":"flood","process":0' in line
            return count > 400_000

        eventually(logged, FLOOD_S)
    # A few come by themselves; it stood still all the while, if not.
    eventually(lambda: len(supervisor.call("logs", names=["talker"], n=9)["lines"]) > 2)
    assert supervisor.stop() == 0
    lines = supervisor.log_lines()
    assert sum(line["job"] == "flood" and "stream" in line for line in lines) == 400_000
    assert sum(line["message"].startswith("word ") for line in lines) > 2


def test_what_a_child_prints_cannot_pass_for_the_masters(supervise: Supervise) -> None:
    forged = {"worker": "master", "job": "master", "level": "error", "message": "forged", "pid": 1}
    supervisor = supervise(
        """
        [daemon:liar]
        type = worker
        target = liar:run
        """,
        {
            "liar": f"""
                def run(context):
                    print({json.dumps(forged)!r}, flush=True)
                    context.logger.error("forged too\\n{{}}", extra={{"worker": "master"}})
                    while not context.stopping:
                        context.wait(5)
            """
        },
    )
    for text in ("forged", "forged too"):
        line = supervisor.wait_line(lambda line, text=text: line["message"].startswith(text))  # type: ignore[misc]
        assert (line["worker"], line["job"], line["process"]) == ("daemon", "liar", 0)
        assert line["fields"]["worker"] == "master"
    assert supervisor.stop() == 0


def test_usr1_opens_the_files_anew(supervise: Supervise, tmp_path: Path) -> None:
    own = tmp_path / "talker.log"
    supervisor = supervise(f"{JOB}    log_file = {own}\n", TALKER)
    eventually(lambda: own.stat().st_size > 0)
    own.rename(tmp_path / "moved")
    supervisor.send(signal.SIGUSR1)
    eventually(own.exists)
    eventually(lambda: own.stat().st_size > 0)
    assert supervisor.stop() == 0
    words = [
        json.loads(line)["message"]
        for path in (tmp_path / "moved", own)
        for line in path.read_text().splitlines()
    ]
    assert words == [f"word {number}" for number in range(1, len(words) + 1)]


def test_a_log_that_cannot_be_written_stops_nobody(supervise: Supervise) -> None:
    supervisor = supervise(JOB, TALKER, settings={"log_file": "/dev/full"})

    def told() -> bool:
        tail = supervisor.call("logs", names=["talker:0"], n=5)["lines"]
        return any("stdout | word" in line for line in tail)

    eventually(told)
    assert supervisor.stop() == 0

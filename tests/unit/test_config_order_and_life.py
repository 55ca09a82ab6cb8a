"""What a configuration may say of the order of its jobs and of the life of their processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import Config, Dependency
from supervisor.errors import ConfigError
from supervisor.loading import load

ONE = "[daemon:w]\ntype = worker\ntarget = shop.w:run\n"
TWO = "[daemon:w2]\ntype = worker\ntarget = shop.w:run\n"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str) -> Config:
    Path("w.ini").write_text(text)
    return load(Path("w.ini"))


def problem(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    (only,) = str(caught.value).splitlines()
    return only


def test_dependencies() -> None:
    found = read(ONE + "depends_on = w2:completed,\n  w3\n" + TWO + "restart = never\n" + THREE)
    assert found.jobs[0].depends_on == (Dependency("w2", "completed"), Dependency("w3", "ready"))
    assert found.jobs[1].depends_on == ()
    assert not found.warnings


THREE = TWO.replace("w2", "w3")


@pytest.mark.parametrize("idle", ["enable = no", "processes = 0"])
def test_a_dependency_that_does_not_run_here_is_a_warning(idle: str) -> None:
    found = read(ONE + "depends_on = w2\n" + TWO + idle + "\n")
    (warning,) = found.warnings
    assert str(warning) == (
        "w.ini:4: [daemon:w] depends_on: w2 does not run here, and is not waited for"
    )
    assert found.jobs[0].depends_on


def test_a_default_of_all_jobs_needs_an_exception() -> None:
    text = "[daemon]\ndepends_on = w2\n" + ONE + TWO
    assert problem(text).startswith("w.ini:2: [daemon:w2] depends_on: w2 would wait for itself")
    assert read(text + "depends_on =\n").jobs[0].depends_on == (Dependency("w2"),)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (ONE + "depends_on = a\n", 'no job "a"; there is no other job'),
        (ONE + "depends_on = W2\n" + TWO, '"W2" is no job name; a small letter first'),
        (ONE + "depends_on = w3\n" + TWO, 'no job "w3"; one of w2'),
        (
            ONE + "depends_on = w2:redy\n" + TWO,
            '"redy" is nothing to wait for; did you mean ready?',
        ),
        (ONE + "depends_on = w2:\n" + TWO, '"" is nothing to wait for; one of ready, started, com'),
        (ONE + "depends_on = w2, w2:started\n" + TWO, '"w2" is in the list twice; remove one'),
        (ONE + "depends_on = w\n" + TWO, "w would wait for itself; leave it out"),
        (
            ONE + "depends_on = w2:completed\n" + TWO,
            "w2 never completes, as its restart is always; set restart = on-failure or never in [d",
        ),
        (
            ONE + "depends_on = w2\n" + TWO + "depends_on = w\n",
            "w -> w2 -> w is a circle, and none of them could be the first; cut it",
        ),
    ],
)
def test_a_wrong_dependency_is_told_at_its_line(text: str, expected: str) -> None:
    assert problem(text).startswith(f"w.ini:4: [daemon:w] depends_on: {expected}")


QUEUE = "[daemon:q]\ntype = queue\nurl = sqlite:///q.db\ntopics = a\nhandler = a:b\n"


def test_limits_of_a_life() -> None:
    text = ONE + "max_memory = 256MB\nmax_lifetime = 1d\n" + QUEUE + "max_messages = 1000\n"
    worker, queue = read(text).jobs
    assert (worker.max_memory, worker.max_lifetime) == (256 << 20, 86400)
    assert (queue.max_memory, queue.max_lifetime, queue.max_messages) == (None, None, 1000)
    worker, queue = read("[daemon]\nmax_messages = 5\nmax_memory = off\n" + ONE + QUEUE).jobs
    assert (worker.max_messages, queue.max_messages, queue.max_memory) == (None, 5, None)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("max_memory = 0", 'max_memory: "0" is too small; write off for no limit'),
        ("max_memory = 5%", 'max_memory: "5%" is no size; write 64KB, 512MB or 2GB'),
        ("max_lifetime = 0", 'max_lifetime: "0" is too short; at least 1ms'),
        (
            "max_messages = 10",
            "max_messages: not a key of type worker, but of asgi, grpc, kafka, q",
        ),
    ],
)
def test_a_wrong_limit_is_told_at_its_line(line: str, expected: str) -> None:
    assert problem(ONE + line + "\n").startswith(f"w.ini:4: [daemon:w] {expected}")


def test_a_program_has_no_messages() -> None:
    text = "[daemon:p]\ntype = program\ncommand = true\nmax_messages = 10\n"
    assert problem(text).startswith("w.ini:4: [daemon:p] max_messages: not a key of type program")

"""The keys of a consumer that depend on each other: batch, queue, and the bounds of the threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from supervisor.config import Config
from supervisor.errors import ConfigError
from supervisor.loading import load

QUEUE = "[daemon:q]\ntype = queue\nurl = sqlite:///q.db\ntopics = a:5, b\nhandler = s:h\n"


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def read(text: str) -> Config:
    Path("w.ini").write_text(text)
    return load(Path("w.ini"))


def test_a_queue_holds_two_batches_and_a_process_no_more_than_it_can_note() -> None:
    more = "concurrency = 2\nbatch = "
    (job,) = read(QUEUE + more + "128\n").jobs
    assert job.queue_size == 256
    (job,) = read(QUEUE + more + "128\nqueue_size = 7\n").jobs
    assert job.queue_size == 7
    assert not read(QUEUE + more + "128\n").warnings
    (warning,) = read(QUEUE + more + "129\n").warnings
    assert str(warning).startswith(
        "w.ini:7: [daemon:q] batch: 1 of 2 threads, each with 129 messages: one process"
    )


@pytest.mark.parametrize(
    ("text", "bounds"),
    [
        ("", (10, None, None)),
        ("min_concurrency = 2\nmax_concurrency = 20\n", (2, 2, 20)),
        ("concurrency = 5\nmin_concurrency = 2\nmax_concurrency = 20\n", (5, 2, 20)),
        ("concurrency = 50\nmin_concurrency = 2\nmax_concurrency = 20\n", (20, 2, 20)),
        ("max_concurrency = 4\n", (1, 1, 4)),
        ("concurrency = 3\nmax_concurrency = 4\n", (3, 3, 4)),
        ("concurrency = 9\nmax_concurrency = 4\n", (4, 4, 4)),
        ("min_concurrency = 3\n", (3, 3, 10)),
        ("min_concurrency = 30\n", (30, 30, 30)),
    ],
)
def test_bounds_of_the_threads(text: str, bounds: tuple[int, int | None, int | None]) -> None:
    (job,) = read(QUEUE + text).jobs
    assert (job.concurrency, job.min_concurrency, job.max_concurrency) == bounds


def test_bounds_of_the_threads_that_cannot_be() -> None:
    with pytest.raises(ConfigError) as caught:
        read(QUEUE + "min_concurrency = 5\nmax_concurrency = 4\n")
    assert str(caught.value) == (
        "w.ini:6: [daemon:q] min_concurrency: 5 is more than max_concurrency (4); make it at most"
        " that"
    )


@pytest.mark.parametrize(("text", "size"), [("", 10), ("concurrency = 3", 3), ("pool_size = 2", 2)])
def test_as_many_connections_as_threads_where_nothing_else_is_said(text: str, size: int) -> None:
    (job,) = read(f"{QUEUE}{text}\n").jobs
    assert job.pool_size == size


TABLE = "[daemon:t]\ntype = table\nurl = {}\ntable = t\nhandler = s:h\n"
SERVER = TABLE.format("postgresql://me@host/shop")
FILE = TABLE.format("sqlite:///t.db")


@pytest.mark.parametrize(
    ("text", "claim"),
    [
        (SERVER, "lock"),
        (SERVER + "claim = lease\n", "lease"),
        (SERVER + "batch = 2\n", "lease"),
        (FILE, "lease"),
        (TABLE.format("${file:url}"), "lease"),
        (TABLE.format("${file:url}") + "claim = lock\n", "lock"),
    ],
)
def test_rows_are_held_by_locks_where_they_can_be(text: str, claim: str) -> None:
    Path("url").write_text("unknown until the child reads it")
    (job,) = read(text).jobs
    assert job.claim == claim


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (FILE, "SQLite locks whole files, and no rows; write lease, or leave it out"),
        (
            SERVER + "batch = 2\n",
            "a transaction holds one row, and batch is more; write lease, or leave batch out",
        ),
    ],
)
def test_locks_that_cannot_be(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read(f"{text}claim = lock\n")
    line = len(text.splitlines()) + 1
    assert str(caught.value) == f"w.ini:{line}: [daemon:t] claim: {words}"

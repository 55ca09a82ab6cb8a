"""A queue file that others make, write and move away with tools of their own."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

from tests.helpers.eventually import PATIENCE_S
from workers.sources.sqlite import SqliteSource
from workers.sources.sqlite_desk import SqliteDesk
from workers.sources.sqlite_file import QueueFile


def test_openers_of_a_fresh_file_do_not_take_each_other_for_strangers(tmp_path: Path) -> None:
    failures: list[Exception] = []

    def open_it(path: Path, together: threading.Barrier) -> None:
        file = QueueFile(path, io_timeout=PATIENCE_S, durable=False)
        together.wait(PATIENCE_S)
        try:
            file.open()
        except Exception as error:
            failures.append(error)
        finally:
            file.close()

    # One in three went wrong when the marks were read in several looks.
    for number in range(40):
        together = threading.Barrier(4)
        path = tmp_path / f"{number}.db"
        threads = [threading.Thread(target=open_it, args=(path, together)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_a_body_that_is_no_text_of_any_kind_stops_nobody(tmp_path: Path) -> None:
    """PHP's and C's drivers bind what they are given as text, unlooked at."""
    source = SqliteSource(tmp_path / "q.db", "i/a:0/1", lease_s=60, io_timeout=PATIENCE_S)
    source.open()
    database = sqlite3.connect(tmp_path / "q.db", isolation_level=None)
    database.execute("INSERT INTO messages (topic, body) VALUES ('t', CAST(x'ffe4' AS TEXT))")
    database.execute("INSERT INTO messages (topic, body) VALUES ('t', 'text'), ('t', 7)")
    database.close()
    found = source.fetch([("t", 10)], 10)
    source.close()
    assert [one.body for one in found] == [b"\xff\xe4", b"text", b"7"]


def test_what_was_taken_from_a_file_that_was_moved_is_settled_before_the_new_one_is_used(
    tmp_path: Path,
) -> None:
    """The new file numbers its messages from 1 too: an acknowledgement would hit another one."""
    path = tmp_path / "q.db"
    publish(path, b"old")
    source = SqliteSource(path, "i/a:0/1", lease_s=600, io_timeout=PATIENCE_S)
    source.open()
    old = source.fetch([("t", 10)], 10)
    for name in ("q.db", "q.db-wal", "q.db-shm"):
        (tmp_path / name).rename(tmp_path / f"moved-{name}")
    publish(path, b"new")
    source.tend()
    assert source.fetch([("t", 10)], 10) == []
    source.ack(old)
    source.tend()
    new = source.fetch([("t", 10)], 10)
    source.close()
    assert [one.body for one in new] == [b"new"]


def publish(path: Path, *bodies: bytes) -> None:
    desk = SqliteDesk(path, io_timeout=PATIENCE_S, create=True)
    desk.publish("t", bodies, 0.0)
    desk.close()

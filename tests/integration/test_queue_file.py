"""A queue file on the first start of several processes, which all find it missing."""

from __future__ import annotations

import threading
from pathlib import Path

from tests.helpers.eventually import PATIENCE_S
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

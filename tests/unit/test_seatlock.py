"""The file of a slot as a next master reads it: it does not believe whatever stands there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from supervisor import kernel, remains, seatlock
from tests.helpers.fork import fork, reap

SOMEBODY = 65534


def taken(tmp_path: Path, owner: int | None = None) -> Path:
    """Have a child take a seat for good, and give the file of the slot."""
    assert reap(fork(lambda: seatlock.take(tmp_path, "orders:0", 5.0, owner))) == 0
    return tmp_path / "slots" / "orders:0"


def write(path: Path, **fields: object) -> None:
    about = {
        "name": path.name,
        "pid": os.getpid(),
        "started": kernel.own_start(),
        "boot": kernel.BOOT,
        "stop_timeout": 5.0,
    }
    path.write_text(json.dumps({**about, **fields}))


def test_who_sat_there_is_known_by_the_file(tmp_path: Path) -> None:
    path = taken(tmp_path)
    (found,) = seatlock.occupants(tmp_path)
    assert (found.name, found.stop_timeout, found.alive()) == ("orders:0", 5.0, False)
    write(path, stop_timeout=0)
    (found,) = seatlock.occupants(tmp_path)
    assert found.alive()


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "../../etc/passwd"},
        {"name": "orders:1"},
        {"pid": "1"},
        {"pid": -1},
        {"pid": True},
        {"started": "x"},
        {"stop_timeout": -1},
        {"owner": 0},
        {"more": 1},
        {"boot": "x" * 5000},
    ],
)
def test_what_we_would_not_have_written_counts_as_nothing(
    tmp_path: Path, fields: dict[str, object]
) -> None:
    write(taken(tmp_path), **fields)
    assert seatlock.occupants(tmp_path) == ()


@pytest.mark.skipif(os.geteuid() != 0, reason="to give a file away needs root")
def test_a_job_of_another_user_cannot_name_a_process_that_is_not_his(tmp_path: Path) -> None:
    path = taken(tmp_path, SOMEBODY)
    assert path.stat().st_uid == SOMEBODY
    write(path)
    (found,) = seatlock.occupants(tmp_path)
    assert found.pid == os.getpid()
    assert not found.alive(), "we are root's, and the slot is not"
    assert remains.find(tmp_path, "instance") == ()
    taken(tmp_path, 0)
    assert path.stat().st_uid == 0
    write(path)
    (found,) = seatlock.occupants(tmp_path)
    assert found.alive()

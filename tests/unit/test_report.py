"""How a record of a child is written down for the master."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from supervisor.capture import REPORT_BYTES
from workers.report import RecordFormatter

HUGE = 10_000_000


def written(message: str, *, error: BaseException | None = None, **extra: object) -> Any:
    info = None
    try:
        if error is not None:
            raise error
    except BaseException:
        info = sys.exc_info()
    log = logging.getLogger("test")
    record = log.makeRecord("test", logging.ERROR, "f", 1, message, (), info, extra=extra)
    line = RecordFormatter().format(record)
    assert "\n" not in line
    assert len(line.encode()) <= REPORT_BYTES, "the master would log it in pieces"
    return json.loads(line)


def test_a_huge_error_keeps_both_ends_and_says_what_is_missing() -> None:
    found = written("failed", error=ValueError("begin" + "ä" * HUGE + "end"), order=7)
    assert (found["message"], found["level"], found["order"]) == ("failed", "error", 7)
    assert found["exc_info"].startswith("Traceback (most recent call last):\n")
    assert "ValueError: begin" in found["exc_info"]
    assert found["exc_info"].endswith("end")
    cut = int(found["exc_info"].split(" characters more ... ")[0].rpartition(" ... ")[2])
    assert HUGE - 100_000 < cut < HUGE


@pytest.mark.parametrize(
    "value", ["x" * HUGE, ["x" * HUGE], {"rows": ["x" * HUGE]}, b"x" * HUGE, {1: {2: "x" * HUGE}}]
)
def test_whatever_is_huge_is_cut(value: object) -> None:
    found = written("x" * HUGE, order=7, rows=value)
    assert found["order"] == 7
    assert " characters more ... " in found["message"]
    assert " characters more ... " in found["rows"]


def test_what_is_long_and_no_more_stays_whole() -> None:
    found = written("x" * 90_000, rows=["y" * 90_000])
    assert (found["message"], found["rows"]) == ("x" * 90_000, ["y" * 90_000])

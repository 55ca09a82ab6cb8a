"""The frames of `top`: what is computed between two looks, and what fits on a terminal."""

from __future__ import annotations

from supervisor import frames
from supervisor.columns import cells
from supervisor.frames import Look
from tests.unit.test_render import BROKEN, process, status


def look(at: float, cpu_s: dict[int, float], **changes: object) -> Look:
    return Look(at, status(process("orders:0", pid=7, **changes), BROKEN), cpu_s)


def test_use_is_what_lies_between_two_looks() -> None:
    (bad, busy) = frames.usages(look(10.0, {7: 4.0}, done=5), look(12.0, {7: 5.0}, done=25))
    assert (bad["name"], bad["cpu_percent"], bad["pid"]) == ("billing:1", None, None)
    assert (busy["cpu_percent"], busy["done_per_s"]) == (50.0, 10.0)


def test_a_new_process_has_used_nothing_yet() -> None:
    (_, fresh) = frames.usages(look(10.0, {8: 4.0}), look(12.0, {7: 900.0}))
    assert fresh["cpu_percent"] is None
    assert frames.usages(None, look(1.0, {}))[1]["cpu_percent"] is None


def test_what_uses_most_stands_first_after_what_is_not_well() -> None:
    rows = [process(f"job:{number}", pid=number) for number in (1, 2, 3)]
    before = Look(0.0, status(*rows), {1: 0.0, 2: 0.0, 3: 0.0})
    after = Look(1.0, status(*rows), {1: 0.1, 2: 0.9, 3: 0.0})
    assert [row["pid"] for row in frames.usages(before, after)] == [2, 1, 3]


def test_a_frame_fits_any_terminal() -> None:
    rows = [process(f"{'long-name-' * 6}{number}:0", pid=number) for number in range(200)]
    many = Look(1.0, status(*rows, BROKEN), {})
    for width in (20, 40, 80, 120):
        lines = frames.frame(None, many, clock="04:15:51", width=width)
        assert all(cells(line) <= width for line in lines)
        shown = frames.fitting(lines, 24)
        assert len(shown) == 24
        assert shown[-1] == f"… and {len(lines) - 23} more lines"
    wide = frames.frame(None, many, clock="04:15:51")
    assert wide[0].startswith("DEGRADED  shop  200 of 201 ready   up 12d4h   cpu 0%")
    assert wide[2].startswith("! billing:1")
    assert len(wide) == 203

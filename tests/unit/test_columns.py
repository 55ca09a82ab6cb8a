"""Lines and columns: what a terminal of a certain width gets, and that a pipe loses nothing."""

from __future__ import annotations

from supervisor.columns import Row, cells, cut, table

LONG = "a-job-with-quite-a-long-name-that-goes-on-for-a-while.and-more"
NUMBERS = frozenset({"PID", "RSS"})


def row(name: str, detail: str = "") -> Row:
    return {"NAME": name, "STATE": "RUNNING", "PID": "12345", "RSS": "61 MiB", "DETAIL": detail}


def drawn(rows: list[Row], width: int | None) -> list[str]:
    states = [(False, "RUNNING")] * len(rows)
    spared = ("RSS", "PID")
    return table(rows, states, spared=spared, numbers=NUMBERS, width=width, colour=False)


def test_a_pipe_loses_nothing() -> None:
    lines = drawn([row(f"{LONG}:198", "x" * 300), row("b:0")], None)
    assert f"{LONG}:198" in lines[1]
    assert lines[1].endswith("x" * 300)


def test_a_long_name_is_cut_in_its_middle_and_the_state_stays() -> None:
    rows = [row(f"{LONG}:{number}") for number in (1, 198)]
    for width in (30, 40, 60, 80):
        lines = drawn(rows, width)
        assert all(cells(line) <= width for line in lines)
        assert ":198" in lines[2]
        assert "RUNNING" in lines[2]
    assert "61 MiB" in drawn(rows, 80)[1]


def test_short_names_are_left_alone_on_a_narrow_terminal() -> None:
    lines = drawn([row("orders:0", "no retry " * 20)], 60)
    assert lines[1].startswith("  orders:0  RUNNING")
    assert lines[1].endswith("…")


def test_lines_are_cut_by_the_cells_that_they_take() -> None:
    assert cut("日本語です", 5) == "日本…"
    assert cut("naïve", 5) == "naïve"
    assert cells("日本") == 4
    assert cells("e\u0301") == 1

"""Lines and columns on a terminal: padded, cut to its width, then painted. Pure.

A pipe has no width, and loses nothing. Used by those who draw what people see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from supervisor.lines import escape

_COLOURS: Final = {
    "OK": "32",
    "RUNNING": "32",
    "STARTING": "33",
    "BACKOFF": "33",
    "STOPPING": "33",
    "DEGRADED": "31",
    "FATAL": "31",
    "STOPPED": "2",
    "EXITED": "2",
}

_DETAIL_ROOM: Final = 44
_NAME_ROOM: Final = 32
"""How much of DETAIL and NAME, which alone may be cut, is worth more than a column of numbers."""

_LEAST_NAME: Final = 12

Row = dict[str, str]


def table(
    rows: Sequence[Row],
    states: Sequence[tuple[bool, str]],
    *,
    spared: Sequence[str],
    numbers: frozenset[str],
    width: int | None,
    colour: bool,
) -> list[str]:
    """Draw rows of the same columns, NAME and DETAIL among them, as far as they fit.

    `states` are those of the rows, each with whether it is bad; `spared` are the columns that a
    narrow terminal goes without, first to last.
    """
    columns, room = _fitting(rows, spared, width)
    rows = [{**row, "NAME": _short(row["NAME"], room)} for row in rows]
    drawn = grid(columns, [[row[name] for name in columns] for row in rows], numbers=numbers)
    lines = [cut(f"  {drawn[0]}", width)]
    for line, (bad, state) in zip(drawn[1:], states, strict=True):
        # Padded and cut first, painted after: escape sequences have no width.
        lines.append(paint(cut(f"{'!' if bad else ' '} {line}", width), state, colour))
    return lines


def cut(line: str, width: int | None) -> str:
    """Cut a line to the width of a terminal, None for no limit; an ellipsis says so."""
    if width is None or cells(line) <= width:
        return line
    taken, room = "", width - 1
    for character in line:
        room -= cells(character)
        if room < 0:
            break
        taken += character
    return f"{taken}…"


def cells(text: str) -> int:
    """Count the cells of a terminal that a text takes: two for a wide character."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width  # most lines are ASCII

    wide = sum(east_asian_width(character) in "WF" for character in text)
    return len(text) + wide - sum(combining(character) > 0 for character in text)


def paint(line: str, word: str, colour: bool) -> str:
    """Give a word of a line its colour, the first time that it stands there."""
    if not colour or word not in _COLOURS:
        return line
    return line.replace(word, f"\x1b[{_COLOURS[word]}m{word}\x1b[0m", 1)


def grid(
    head: Sequence[str], rows: Sequence[Sequence[str]], *, numbers: frozenset[str] = frozenset()
) -> list[str]:
    """Align cells under their heads, two blanks apart; columns in `numbers` to the right."""
    table = [list(head), *([escape(cell) for cell in row] for row in rows)]
    widths = [max(cells(row[column]) for row in table) for column in range(len(head))]
    return [
        "  ".join(
            _padded(cell, wide, to_right=name in numbers)
            for cell, wide, name in zip(row, widths, head, strict=True)
        ).rstrip()
        for row in table
    ]


def _padded(cell: str, width: int, *, to_right: bool) -> str:
    blanks = " " * (width - cells(cell))
    return blanks + cell if to_right else cell + blanks


def _fitting(
    rows: Sequence[Row], spared: Sequence[str], width: int | None
) -> tuple[list[str], int]:
    """Give the columns that a terminal has room for, and the cells that are left for names."""
    columns = list(rows[0])
    wide = {name: max(len(name), *(cells(row[name]) for row in rows)) + 2 for name in columns}
    longest = wide["NAME"] - 2
    if width is None or sum(wide.values()) <= width:
        return columns, longest
    wide["DETAIL"] = min(wide["DETAIL"], _DETAIL_ROOM)
    wide["NAME"] = min(wide["NAME"], _NAME_ROOM + 2)
    for name in spared:
        if sum(wide[kept] for kept in columns) <= width:
            break
        columns.remove(name)
    left = width - sum(wide[kept] for kept in columns) + wide["NAME"] - 2
    return columns, min(longest, max(left, _LEAST_NAME))


def _short(name: str, room: int) -> str:
    """Cut a name in its middle: processes of one job differ at the end."""
    if len(name) <= room:
        return name
    end = (room - 1) // 2
    return f"{name[: room - 1 - end]}…{name[len(name) - end :]}"

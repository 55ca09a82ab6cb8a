"""The table: one row for each figure, one column for each contender, Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

COLUMNS = ("floor", "ours", "supervisord", "circus")
_PEERS = ("supervisord", "circus")


@dataclass(frozen=True, slots=True)
class Bound:
    """What ours must keep: at most `factor` times that contender's figure, or `factor` itself."""

    factor: float
    of: str = ""

    def verdict(self, values: Mapping[str, float]) -> str:
        """Say the bound and whether it is kept; empty when there is nothing to compare with."""
        if "ours" not in values or (self.of and self.of not in values):
            return ""
        limit = self.factor * (values[self.of] if self.of else 1.0)
        word = "kept" if values["ours"] <= limit else "**MISSED**"
        return f"{word}: ≤ {self.factor:.3g}{f' x {self.of}' if self.of else ''}"


@dataclass(slots=True)
class Row:
    """One figure: the samples of each contender, the unit, and what ours must keep."""

    title: str
    unit: str
    bound: Bound | None = None
    samples: dict[str, list[float]] = field(default_factory=dict)
    more_is_better: bool = False

    def add(self, name: str, value: float) -> None:
        """Take one more sample of a contender."""
        self.samples.setdefault(name, []).append(value)

    def medians(self) -> dict[str, float]:
        """Give the figure of each contender that was measured."""
        return {name: median(values) for name, values in self.samples.items() if values}

    def cells(self) -> list[str]:
        """Give the row's texts, without the bars."""
        values = self.medians()
        shown = [_number(values[name]) if name in values else "-" for name in COLUMNS]
        best = min if not self.more_is_better else max
        peers = [values[name] for name in _PEERS if name in values]
        ratios = [
            _ratio(values, values.get("floor")),
            _ratio(values, best(peers) if peers else None),
        ]
        counts = "/".join(str(len(self.samples.get(name, []))) for name in COLUMNS)
        verdict = self.bound.verdict(values) if self.bound else ""
        return [f"{self.title}, {self.unit}", *shown, *ratios, verdict, counts]


def markdown(rows: Sequence[Row]) -> str:
    """Give the whole table."""
    head = ["median of", *COLUMNS, "ours/floor", "ours/best peer", "bound", "samples"]
    lines = [head, ["---", *["---:"] * 6, "---", "---:"], *(row.cells() for row in rows)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _number(value: float) -> str:
    size = abs(value)
    if size == 0 or size >= 100:
        return f"{value:,.0f}"
    return f"{value:.2g}" if size < 1 else f"{value:.3g}"


def _ratio(values: Mapping[str, float], other: float | None) -> str:
    if "ours" not in values or not other:
        return "-"
    return f"{values['ours'] / other:.2f}"

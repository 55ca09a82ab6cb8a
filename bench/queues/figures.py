"""The table: a row for each contender of each piece of work, and what ours is to theirs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from bench.queues.contenders import Contender

PEERS = "the fastest peer"


@dataclass(frozen=True, slots=True)
class Goal:
    """What ours must keep: so many times the figure of a contender, or of the best peer."""

    factor: float
    of: str


@dataclass(slots=True)
class Figure:
    """One piece of work: the samples of each contender, and the goals of ours."""

    title: str
    unit: str = "ms"
    goals: Sequence[Goal] = ()
    limit: float | None = None
    """What ours must not be above, in itself."""
    samples: dict[Contender, list[float]] = field(default_factory=dict)
    costs: dict[Contender, list[tuple[float, float]]] = field(default_factory=dict)

    @property
    def more_is_better(self) -> bool:
        """Tell whether it is a speed, and not a time."""
        return self.unit != "ms"

    def add(self, contender: Contender, value: float, *cost: float) -> None:
        """Take one more sample, with microseconds of CPU: of the workers, and of the server."""
        self.samples.setdefault(contender, []).append(value)
        if cost:
            workers_us, server_us = cost
            self.costs.setdefault(contender, []).append((workers_us, server_us))

    def rows(self) -> list[list[str]]:
        """Give the cells of its rows: ours first, then the others from the best on."""
        values = {one: median(samples) for one, samples in self.samples.items()}
        order = sorted(values, key=lambda one: values[one], reverse=self.more_is_better)
        order.sort(key=lambda one: not one.is_ours)
        ours = next((values[one] for one in order if one.is_ours), None)
        rows = [self._row(one, values, ours) for one in order]
        titles = [f"{self.title}, {self.unit}"] + [""] * len(rows)
        return [[title, *row] for title, row in zip(titles, rows, strict=False)]

    def _row(self, one: Contender, values: dict[Contender, float], ours: float | None) -> list[str]:
        lowest, highest = min(self.samples[one]), max(self.samples[one])
        costs = self.costs.get(one, [])
        cpu = " + ".join(f"{median(column):.0f}" for column in zip(*costs, strict=True)) or "-"
        if one.is_ours:
            said = "; ".join(self._verdicts(values, ours or 0.0)) or "-"
        else:
            said = "-" if ours is None else f"{ours / values[one]:.2f} x"
        spread = f"{_number(lowest)} to {_number(highest)}"
        name = f"**{one.name}**" if one.is_ours else one.name
        return [name, _number(values[one]), spread, cpu, one.after_kill, said]

    def _verdicts(self, values: dict[Contender, float], ours: float) -> list[str]:
        said = []
        for goal in self.goals:
            others = [
                value
                for one, value in values.items()
                if (goal.of == PEERS and one.is_peer and not one.is_ours) or one.name == goal.of
            ]
            if not others:
                continue
            theirs = max(others) if self.more_is_better else min(others)
            is_kept = (ours >= goal.factor * theirs) is self.more_is_better
            sign = "≥" if self.more_is_better else "≤"
            said.append(f"{_word(kept=is_kept)}: {sign} {goal.factor:.3g} x {_short(goal.of)}")
        if self.limit is not None:
            said.append(f"{_word(kept=ours <= self.limit)}: ≤ {self.limit:g} {self.unit}")
        return said


def markdown(figures: Sequence[Figure]) -> str:
    """Give the whole table."""
    head = [
        *("work, 2 processes", "contender", "median", "lowest to highest"),
        *("CPU of workers + server, us a job", "after a kill -9 a job …", "ours is"),
    ]
    lines = [head, ["---", "---", "---:", "---:", "---:", "---", "---"]]
    lines += [row for figure in figures for row in figure.rows()]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _word(*, kept: bool) -> str:
    return "kept" if kept else "**MISSED**"


def _short(name: str) -> str:
    return name.partition(":")[0]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"

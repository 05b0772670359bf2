"""Who is ahead after the same seconds, and after the same passes: the validation metric, the best so far."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ....metrics import is_error, spelt
from . import replicates
from .competitors import ComparedFit, Comparison
from .sections import AXES
from .words import Cell, Section, Text, decimals, make_table, number, share, with_error

COSTS = ("seconds", "passes")
SHARES = (1 / 16, 1 / 4, 1)  # of the cost that all have spent
_PANELS = 4  # points with a table of their own


class Ahead(NamedTuple):
    """Of one solver at equal cost: mean over folds or seeds and its standard error at each of the budgets, NaN where
    some fit has no record yet; and each fit's number at the last of them."""

    name: str
    means: list[float]
    errors: list[float]
    last: list[tuple[ComparedFit, float]]


def equal_cost(comparison: Comparison) -> Iterator[Section]:
    metric = comparison.watched
    if metric is None:
        return
    points, blocks, first = comparison.points[:_PANELS], [], []
    for point in points:
        title = comparison.title(point)
        for cost in COSTS:
            budgets, rows = standings(comparison, point, cost)
            if len(rows) < 2:
                continue
            where = f" ({title})" if len(points) > 1 else ""
            first.append(f"After {number(budgets[-1], 3)} {AXES[cost]}{where}: {_verdict(rows, metric)}.")
            blocks.append(_table(budgets, rows, cost, metric))
    if blocks:
        words = [
            f"Validation {spelt(metric)}, the best that each fit had recorded by then, which `patience` would keep; "
            f"mean ± standard error over {'folds' if comparison.folds else 'seeds'}. A lead may be chance where the "
            f"{share(replicates.SURE)} interval of the paired difference holds 0. The largest cost is the least that "
            "any solver had spent at its end; – where a fit had no record yet."
        ]
        yield Section("equal-cost", "At equal cost", [*map(Text, first + words), *blocks])


def standings(comparison: Comparison, point: tuple, cost: str) -> tuple[list[float], list[Ahead]]:
    """(costs, where each solver stands at them), of the fits of a point that did not break down."""
    metric = comparison.watched
    fits: dict[str, list[ComparedFit]] = {}
    for fit in comparison.fits:
        if fit.point == point and not fit.broken and fit.cost(cost) and fit.column("validation") is not None:
            fits.setdefault(fit.name, []).append(fit)
    if not fits:
        return [], []
    ends = {name: [fit.cost(cost) or 0.0 for fit in its] for name, its in fits.items()}
    spent = min(float(np.median(each)) for each in ends.values())
    budgets, rows = [share * spent for share in SHARES], []
    for name in (name for name in comparison.names if name in fits):
        reached = np.array([[_best(fit, cost, budget, metric) for budget in budgets] for fit in fits[name]])
        at = [replicates.over(zip(fits[name], column, strict=True)) for column in reached.T]
        means, errors = [float(each.mean()) for each in at], [replicates.standard_error(each) for each in at]
        rows.append(Ahead(name, means, errors, list(zip(fits[name], reached[:, -1].tolist(), strict=True))))
    return budgets, rows


def _best(fit: ComparedFit, cost: str, budget: float, metric: str | None) -> float:
    """The best recorded by then, from after the start."""
    spent, y = fit.column(cost), fit.column("validation")
    assert spent is not None and y is not None
    y = y[(spent > 0) & (spent <= budget * (1 + 1e-9)) & np.isfinite(y)]
    return np.nan if not len(y) else float(y.min() if is_error(metric or "rmse") else y.max())


def _verdict(rows: list[Ahead], metric: str) -> str:
    """Who is ahead at the largest cost, and whether that is more than chance."""
    sign = 1 if is_error(metric) else -1
    ended = sorted((row for row in rows if np.isfinite(row.means[-1])), key=lambda row: sign * row.means[-1])
    if len(ended) < 2:
        return f"only {ended[0].name} has a record" if ended else "none has a record"
    best, second = ended[:2]
    told = f"{best.name} has {number(best.means[-1], 3)}, {second.name} {number(second.means[-1], 3)}"
    apart = replicates.difference(second.last, best.last, len(ended) - 1)
    if apart is None or apart.replicates < 2:
        return f"{told}; one fit each, so chance is not known"
    return told if apart.certain else f"{told}, which may be chance"


def _table(budgets: list[float], rows: list[Ahead], cost: str, metric: str):
    columns, cells = ["solver:"], [[Cell(row.name)] for row in rows]
    for at, budget in enumerate(budgets):
        columns.append(f"{number(budget, 3)} {cost}")
        means = [row.means[at] for row in rows]
        known = [mean for mean in means if np.isfinite(mean)]
        places = decimals(known, [row.errors[at] for row in rows if np.isfinite(row.errors[at])])
        best = (min if is_error(metric) else max)(known) if known else None
        for row, line in zip(rows, cells, strict=True):
            mean = row.means[at]
            shown = with_error(mean, row.errors[at], places) if np.isfinite(mean) else ("–", "")
            line.append(Cell(*shown, mean == best))
    return make_table(columns, cells, f"At equal {cost}")

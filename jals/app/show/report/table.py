"""The statistics of a comparison: means over folds or seeds, and paired differences."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ....metrics import RMSE, as_error, spelt
from ...config.trials import is_signed
from . import replicates
from .competitors import ComparedBaseline, ComparedFit, Comparison


class Measure(NamedTuple):
    """A column of numbers.

    Attributes:
        of: a fit's number.
        metric: of the test part, where it is one: that says whether the lowest or the highest is the best.
    """

    of: Callable[[ComparedFit], float | None]
    metric: str | None = None

    def as_error(self, number: float) -> float:
        """The lower the better."""
        return number if self.metric is None else as_error(self.metric, number)


class Mean(NamedTuple):
    """Of `n` folds or seeds; `error` is the standard error, for n = 1 NaN, or of a ranking metric that over its users;
    `fits` of them in all."""

    mean: float
    error: float
    n: int
    fits: int


class Row(NamedTuple):
    """One solver at one point.

    Attributes:
        fits: those that did not break down: what the means are of.
        broken: how many did.
        means: by column; one that nothing fills is absent.
        stationarity: the worst, None where there is none.
    """

    name: str
    point: tuple
    fits: list[ComparedFit]
    broken: int
    means: dict[str, Mean]
    stationarity: float | None


class BaselineRow(NamedTuple):
    """One baseline on one table and split: means as of a `Row`, of ranking metrics."""

    name: str
    data: str
    split: str
    means: dict[str, Mean]


class Paired(NamedTuple):
    """A metric of the test part of a solver minus that of the reference at one point of the grid, over folds, or over
    seeds on one split: `low` to `high` is where the difference lies by Student's t."""

    name: str
    point: tuple
    mean: float
    error: float
    low: float
    high: float
    replicates: int
    wins: int  # replicates in which the solver's is the better


def tested(metric: str) -> str:
    """The column of a metric: test RMSE."""
    return f"test {spelt(metric)}"


def measures(comparison: Comparison) -> dict[str, Measure]:
    """The columns that there may be, in their order: what was measured of the test part, the loss, and the costs."""
    of_test = [*comparison.ranked, "rmse", "mae"] if "rmse" not in comparison.metrics else ["rmse", "mae"]
    of_test += [metric for metric in comparison.ranked if metric not in of_test]
    found = {tested(name): Measure(lambda fit, name=name: fit.metric("test", name), name) for name in of_test}
    found["loss"] = Measure(lambda fit: fit.loss)
    costs = ("sweeps", "passes", "operations", "seconds")
    return found | {cost: Measure(lambda fit, cost=cost: fit.cost(cost)) for cost in costs}


def mean(fits: Iterable[Any], measure: Measure) -> Mean | None:
    """Over folds, seeds averaged within each first; over seeds where there are no folds."""
    found = [(fit, number) for fit in fits if (number := measure.of(fit)) is not None]
    if not found:
        return None
    numbers = replicates.over(found)
    error = replicates.standard_error(numbers)
    if len(found) == 1 and measure.metric is not None:
        own = found[0][0].metric_error(measure.metric)
        error = np.nan if own is None else own
    return Mean(float(numbers.mean()), float(error), len(numbers), len(found))


def rows(comparison: Comparison) -> list[Row]:
    """The main table, points in the order of the fits, solvers in that of the configs."""
    found, columns = [], measures(comparison)
    for point in comparison.points:
        for name in comparison.names:
            here = [fit for fit in comparison.fits if fit.point == point and fit.name == name]
            if here:
                whole = [fit for fit in here if not fit.broken]
                means = {column: mean(whole, measure) for column, measure in columns.items()}
                worst = [fit.stationarity for fit in whole if fit.stationarity is not None]
                means = {column: of for column, of in means.items() if of}
                found.append(Row(name, point, whole, len(here) - len(whole), means, max(worst, default=None)))
    return found


def baseline_rows(comparison: Comparison) -> list[BaselineRow]:
    """In the order of the configs."""
    groups: dict[tuple, list[ComparedBaseline]] = {}
    for each in comparison.baselines:
        groups.setdefault(each.group, []).append(each)
    columns = {name: each for name, each in measures(comparison).items() if each.metric is not None}
    return [
        BaselineRow(name, data, split, {column: of for column, each in columns.items() if (of := mean(own, each))})
        for (name, data, split), own in groups.items()
    ]


def best(rows: list[Row], column: str, measure: Measure, baselines: list[BaselineRow]) -> set[int]:
    """The places of the rows whose mean is the best among those it compares with: the same test part, and for a loss
    the same function. Rows with fits that broke down do not enter: their mean leaves the hard cases out. Those of the
    baselines, which do, are counted on from the last row."""
    groups: dict[object, dict[int, float]] = {}
    for place, row in enumerate(rows):
        of = row.means.get(column)
        if of and not row.broken:
            first = row.fits[0]
            group = (first.split, first.objective, first.record.rank) if column == "loss" else first.split
            groups.setdefault(group, {})[place] = measure.as_error(of.mean)
    for place, baseline in enumerate(baselines, start=len(rows)):
        if column in baseline.means and baseline.split in groups:
            groups[baseline.split][place] = measure.as_error(baseline.means[column].mean)
    return {
        place
        for group in groups.values()
        for place, number in group.items()
        if len(group) > 1 and number == min(group.values())
    }


def paired(comparison: Comparison, metric: str = RMSE) -> list[Paired]:
    """Every other solver against the reference, at every point by itself."""
    measure = measures(comparison)[tested(metric)]
    found = []
    contests: dict[tuple, dict[str, list[tuple[ComparedFit, float]]]] = {}
    for fit in comparison.fits:
        if not fit.broken and (number := measure.of(fit)) is not None:
            contests.setdefault(fit.contest, {}).setdefault(fit.name, []).append((fit, number))
    for numbers in contests.values():
        for name in comparison.names:
            own, other = numbers.get(name, []), numbers.get(comparison.reference or "", [])
            if name != comparison.reference and (of := replicates.difference(own, other)) is not None:
                wins = of.below if measure.as_error(1) > 0 else of.above
                found.append(Paired(name, own[0][0].point, of.mean, of.error, of.low, of.high, of.replicates, wins))
    return found


def at_edge(key: str, chosen: float, low: float, high: float) -> bool:
    """Whether a number that was chosen for a key lies in the lowest or highest tenth of its range, as that is drawn:
    by its logarithm, or evenly where either sign goes."""
    if is_signed(key):
        share = (chosen - low) / (high - low)
    else:
        share = np.log(chosen / low) / np.log(high / low) if chosen > 0 else 0.0
    return bool(share <= 0.1 or share >= 0.9)

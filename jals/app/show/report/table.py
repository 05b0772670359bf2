"""The statistics of a comparison: means over folds or seeds, paired differences, and what it costs to come close to
the lowest loss."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np

from ....metrics import RMSE, as_error, spelt
from ...config.trials import is_signed
from .competitors import ComparedBaseline, ComparedFit, Comparison

NEAR = (0.01, 0.001)  # how far above the lowest loss counts as there


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
    """A metric of the test part of a solver minus that of the reference, over pairs of the same table, split, fold,
    seed and point."""

    name: str
    data: str
    mean: float
    error: float
    pairs: int
    wins: int  # pairs in which the solver's is the better


class Profile(NamedTuple):
    """Dolan and Moré's: `share[k]` of the problems are reached at `ratio[k]` times the best solver's cost, or less."""

    name: str
    ratio: np.ndarray
    share: np.ndarray
    problems: int


class Reached(NamedTuple):
    """The median cost over problems, a problem never reached counting as infinite."""

    median: float
    never: int
    problems: int


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
    groups: dict[object, list[float]] = {}
    for fit, number in found:
        groups.setdefault(("seed", fit.seed) if fit.fold is None else fit.fold, []).append(number)
    numbers = np.array([np.mean(group) for group in groups.values()])
    error = numbers.std(ddof=1) / np.sqrt(len(numbers)) if len(numbers) > 1 else np.nan
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
    """Every other solver against the reference."""
    measure = measures(comparison)[tested(metric)]
    whole = [(fit, error) for fit in comparison.fits if not fit.broken and (error := measure.of(fit)) is not None]
    reference = {fit.instance: error for fit, error in whole if fit.name == comparison.reference}
    found = []
    for data in dict.fromkeys(fit.data for fit, _ in whole):
        for name in comparison.names:
            against = [
                error - reference[fit.instance]
                for fit, error in whole
                if fit.name == name != comparison.reference and fit.data == data and fit.instance in reference
            ]
            if against:
                error = np.std(against, ddof=1) / np.sqrt(len(against)) if len(against) > 1 else np.nan
                wins = sum(measure.as_error(each) < 0 for each in against)
                found.append(Paired(name, data, float(np.mean(against)), float(error), len(against), wins))
    return found


def lowest(comparison: Comparison) -> dict[tuple, float]:
    """The lowest loss that any fit recorded, by problem: of all seeds and solvers that minimise it."""
    found: dict[tuple, float] = {}
    for fit in comparison.fits:
        losses = fit.column("loss")
        if fit.comparable and losses is not None and np.isfinite(losses).any():
            found[fit.problem] = min(found.get(fit.problem, np.inf), float(np.nanmin(losses)))
    return found


def first_cost(fit: ComparedFit, cost: str, within: float, least: float) -> float:
    """What the fit had cost at the first record whose loss is at most `within` of |least| above `least`, else inf.

    A fit that broke down never gets there: its factors are of no use."""
    losses, spent = fit.column("loss"), fit.column(cost)
    if losses is None or spent is None or fit.broken:
        return np.inf
    there = np.flatnonzero(losses - least <= within * abs(least))
    return float(spent[there[0]]) if len(there) else np.inf


def costs(comparison: Comparison, cost: str, within: float) -> dict[tuple, dict[str, float]]:
    """{problem: {solver: cost}}, a problem being table, objective, rank, fold, seed and point: those on which two
    solvers or more can be compared."""
    least = lowest(comparison)
    found: dict[tuple, dict[str, float]] = {}
    for fit in comparison.fits:
        if fit.comparable and fit.problem in least and fit.column(cost) is not None:
            problem = fit.problem, fit.instance
            found.setdefault(problem, {})[fit.name] = first_cost(fit, cost, within, least[fit.problem])
    return {problem: each for problem, each in found.items() if len(each) > 1}


def profiles(comparison: Comparison, cost: str, within: float = NEAR[0]) -> list[Profile]:
    """One for each solver, over the problems that it has a fit of."""
    ratios: dict[str, list[float]] = {}
    for each in costs(comparison, cost, within).values():
        least = min(each.values())
        for name, spent in each.items():
            ratio = np.inf if np.isinf(spent) else 1.0 if spent == least else spent / least if least > 0 else np.inf
            ratios.setdefault(name, []).append(ratio)
    found = []
    for name in comparison.names:
        if name in ratios:
            finite = np.sort([ratio for ratio in ratios[name] if np.isfinite(ratio)])
            share = np.arange(1, len(finite) + 1) / len(ratios[name])
            found.append(Profile(name, finite, share, len(ratios[name])))
    return found


def reached(comparison: Comparison, cost: str, within: float) -> dict[str, Reached]:
    found: dict[str, list[float]] = {}
    for each in costs(comparison, cost, within).values():
        for name, spent in each.items():
            found.setdefault(name, []).append(spent)
    return {name: Reached(_median(spent), int(np.isinf(spent).sum()), len(spent)) for name, spent in found.items()}


def _median(numbers: list[float]) -> float:
    """The mean of the two middle ones is infinite as soon as one is."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)


def at_edge(key: str, chosen: float, low: float, high: float) -> bool:
    """Whether a number that was chosen for a key lies in the lowest or highest tenth of its range, as that is drawn:
    by its logarithm, or evenly where either sign goes."""
    if is_signed(key):
        share = (chosen - low) / (high - low)
    else:
        share = np.log(chosen / low) / np.log(high / low) if chosen > 0 else 0.0
    return bool(share <= 0.1 or share >= 0.9)

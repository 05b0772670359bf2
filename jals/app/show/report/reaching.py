"""What it costs to come close: to the lowest loss of a problem, and to the best validation metric on it."""

from typing import NamedTuple

import numpy as np

from ....metrics import as_error, spelt
from .competitors import ComparedFit, Comparison

NEAR = (0.01, 0.001)  # how far from the best counts as there, relative
GOALS = ("loss", "validation")  # columns of a history
_ROUNDING = 1e-6  # of losses in float32: a curve may lie so far below the minimum that it nears, relative


class Profile(NamedTuple):
    """Dolan and Moré's: `share[k]` of the problems are reached at `ratio[k]` times the best solver's cost, or less."""

    name: str
    ratio: np.ndarray
    share: np.ndarray
    problems: int


class Reached(NamedTuple):
    """The median cost over problems, a problem never reached counting as infinite; and on how many of them the solver
    was the first, alone or not."""

    median: float
    never: int
    first: int
    problems: int


def lowest(comparison: Comparison) -> dict[tuple, float]:
    """L_best by problem: the loss of the minimum that a reference solve found below the best fit; where there is none,
    or some fit went below it, to another minimum, the lowest loss that any fit recorded."""
    found = _recorded(comparison)
    for problem, reference in comparison.references.items():
        if reference.loss <= found.get(problem, np.inf) + _ROUNDING * abs(reference.loss):
            found[problem] = reference.loss
    return found


def unreferenced(comparison: Comparison) -> list[tuple]:
    """The problems whose L_best some contestant's own curve ends at: there the first is first at its own goal."""
    least = lowest(comparison)
    own = {problem: each.loss for problem, each in comparison.references.items()}
    return [problem for problem, loss in least.items() if own.get(problem) != loss]


def _recorded(comparison: Comparison) -> dict[tuple, float]:
    """The lowest loss that any fit recorded, by problem: of all seeds and solvers that minimise it."""
    found: dict[tuple, float] = {}
    for fit in comparison.fits:
        losses = fit.column("loss")
        if fit.comparable and losses is not None and np.isfinite(losses).any():
            found[fit.problem] = min(found.get(fit.problem, np.inf), float(np.nanmin(losses)))
    return found


def best(comparison: Comparison, goal: str) -> dict[tuple, float]:
    """What is to be come close to, by what `about` says; of a ranking metric its negative, as of all an error."""
    if goal == "loss":
        return lowest(comparison)
    found: dict[tuple, float] = {}
    for fit in comparison.fits:
        errors, which = along(fit, goal), about(fit, goal)
        if errors is not None and which is not None and not fit.broken and np.isfinite(errors).any():
            found[which] = min(found.get(which, np.inf), float(np.nanmin(errors)))
    return found


def about(fit: ComparedFit, goal: str) -> tuple | None:
    """Fits with the same have the same goal: those with one problem, and those with one validation part at a point."""
    if goal == "loss":
        return fit.problem if fit.comparable else None
    return fit.split, fit.fold, fit.setting, fit.record.metric


def along(fit: ComparedFit, goal: str) -> np.ndarray | None:
    """What a fit recorded on its way, the lower the better."""
    column = fit.column(goal)
    return column if goal == "loss" or column is None else as_error(fit.record.metric, column)


def said(comparison: Comparison, goal: str) -> str:
    """A goal in words: loss, validation RMSE."""
    metric = comparison.watched
    return "loss" if goal == "loss" else f"validation {spelt(metric)}" if metric else "validation metric"


def first_cost(fit: ComparedFit, cost: str, within: float, least: float, goal: str = "loss") -> float:
    """What the fit had cost at the first record that is at most `within` of |least| above `least`, else inf.

    A fit that broke down never gets there: its factors are of no use."""
    numbers, spent = along(fit, goal), fit.column(cost)
    if numbers is None or spent is None or fit.broken:
        return np.inf
    there = np.flatnonzero(numbers - least <= within * abs(least))
    return float(spent[there[0]]) if len(there) else np.inf


def costs(
    comparison: Comparison, cost: str, within: float, goal: str = "loss", contest: tuple | None = None
) -> dict[tuple, dict[str, float]]:
    """{problem: {solver: cost}}, a problem being table, objective, rank, fold, seed and point: those on which two
    solvers or more can be compared. Of one contest only, where one is given."""
    least = best(comparison, goal)
    found: dict[tuple, dict[str, float]] = {}
    for fit in comparison.fits:
        which = about(fit, goal)
        if which in least and fit.column(cost) is not None and contest in (None, fit.contest):
            assert which is not None
            problem = which, fit.instance
            found.setdefault(problem, {})[fit.name] = first_cost(fit, cost, within, least[which], goal)
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


def reached(
    comparison: Comparison, cost: str, within: float, goal: str = "loss", contest: tuple | None = None
) -> dict[str, Reached]:
    """What each solver needed, over the problems of `costs`."""
    found: dict[str, list[tuple[float, bool]]] = {}
    for each in costs(comparison, cost, within, goal, contest).values():
        least = min(each.values())
        for name, spent in each.items():
            found.setdefault(name, []).append((spent, spent == least < np.inf))
    return {
        name: Reached(
            _median([spent for spent, _ in its]),
            sum(np.isinf(spent) for spent, _ in its),
            sum(first for _, first in its),
            len(its),
        )
        for name, its in found.items()
    }


def _median(numbers: list[float]) -> float:
    """The mean of the two middle ones is infinite as soon as one is."""
    ordered = sorted(numbers)
    middle = len(ordered) // 2
    return float(ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2)

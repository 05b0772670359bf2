"""What replicates say: means over folds or seeds, and paired differences with their interval.

Replicates are fits of one solver to one table, split and point of the grid, which chance alone tells apart: another
fold, or on one split another seed. Other values of λ or of the rank are other questions, and no replicates.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

SURE = 0.95  # the probability with which intervals hold, all those of one contest together
SAME = 1e-4  # a relative difference that nobody should choose by


class Difference(NamedTuple):
    """One solver's numbers minus another's, paired by replicate.

    Attributes:
        error: the standard error; NaN of one replicate.
        low, high: the interval by Student's t; infinite of one replicate.
        replicates: how many: folds, or seeds on one split.
        below, above: of those, in how many the one's number is the lower, and the higher.
    """

    mean: float
    error: float
    low: float
    high: float
    replicates: int
    below: int
    above: int

    @property
    def certain(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def over(numbers: Iterable[tuple[Any, float]]) -> np.ndarray:
    """The number of each replicate, of (fit, its number): over folds, seeds averaged within each first; over seeds
    where there are no folds."""
    groups: dict[object, list[float]] = {}
    for fit, number in numbers:
        groups.setdefault(("seed", fit.seed) if fit.fold is None else fit.fold, []).append(number)
    return np.array([np.mean(group) for group in groups.values()])


def standard_error(numbers: np.ndarray) -> float:
    """Of their mean; NaN of fewer than two."""
    return float(numbers.std(ddof=1) / np.sqrt(len(numbers))) if len(numbers) > 1 else math.nan


def difference(
    own: list[tuple[Any, float]], other: list[tuple[Any, float]], comparisons: int = 1
) -> Difference | None:
    """Of two lists of (fit, number), fits of the same fold and seed against each other; None where no two are.

    Args:
        comparisons: how many intervals are to hold at once: each then has (1 - SURE) / comparisons of the doubt
            (Bonferroni).
    """
    against = {(fit.fold, fit.seed): number for fit, number in other}
    pairs = [(fit, number - against[fit.fold, fit.seed]) for fit, number in own if (fit.fold, fit.seed) in against]
    if not pairs:
        return None
    numbers = over(pairs)
    mean, error, n = float(numbers.mean()), standard_error(numbers), len(numbers)
    half = student(1 - (1 - SURE) / comparisons, n - 1) * error if n > 1 else math.inf
    return Difference(mean, error, mean - half, mean + half, n, int((numbers < 0).sum()), int((numbers > 0).sum()))


def student(share: float, freedom: int) -> float:
    """The t with P(|T| <= t) = share, of Student's distribution with so many degrees of freedom.

    By bisection of its closed form, with t = sqrt(freedom) tan(angle): Abramowitz and Stegun, 26.7.3 and 26.7.4.
    """
    low, high, odd = 0.0, math.pi / 2, freedom % 2

    def within(angle: float) -> float:
        total, term = 0.0, math.cos(angle) ** odd
        for step in range(1, (freedom - odd) // 2 + 1):
            total += term
            term *= (2 * step - 1 + odd) / (2 * step + odd) * math.cos(angle) ** 2
        total *= math.sin(angle)
        return (angle + total) * 2 / math.pi if odd else total

    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < share else (low, middle)
    return math.sqrt(freedom) * math.tan(low)

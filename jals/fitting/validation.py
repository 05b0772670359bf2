"""What a fit measures of its validation ratings, and keeps in its history."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import metrics
from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..model.factors import Factors, predict
from ..model.problem import Problem

Measure = Callable[[Factors], float]


def validation_rmse(factors: Factors, ratings: Ratings) -> float:
    """The RMSE of these factors on held-out ratings, as a history has it."""
    predicted = predict(factors, ratings.user, ratings.item)
    weight = None if ratings.weight is None else ratings.weight.astype(predicted.dtype)
    return float(metrics.rmse(predicted, ratings.value.astype(predicted.dtype), weight))


def measure_of(metric: str, validation: Ratings | None, problem: Problem, weight: Any = None) -> Measure:
    """What fills `history.validation`: nan without validation ratings. The items of the problem's entries (of weight
    > 0, by `weight` where one is given) are not ranked for their users. Raises ArgumentError for an unknown metric, and
    for k beyond the items."""
    name, k = (metric, None) if metric == metrics.RMSE else metrics.metric_parts(metric)
    if validation is None:
        return lambda factors: np.nan
    if name == metrics.RMSE:
        return lambda factors: validation_rmse(factors, validation)
    *pairs, _, own = problem.columns()
    weight = own if weight is None else weight
    user, item = map(np.asarray, pairs)
    if weight is not None:
        known = np.asarray(weight) > 0
        user, item = user[known], item[known]
    evaluation = metrics.Evaluation(validation, (user, item), k or 1, name)
    return lambda factors: evaluation.ranking(factors).mean[metric]


def measures_of(
    metric: str, validation: Sequence[Ratings | None], problem: Problem, weights: Any, which: Sequence[int | None]
) -> list[Measure]:
    """`measure_of` for each of many fits, which share what they can: `which` says whose row of `weights` is each's."""
    wanted = [(id(held_out), at) for held_out, at in zip(validation, which, strict=True)]
    made: dict[Any, Measure] = {}
    for each, held_out in zip(wanted, validation, strict=True):
        if each not in made:
            made[each] = measure_of(metric, held_out, problem, None if each[1] is None else weights[each[1]])
    return [made[each] for each in wanted]


def check_metric(metric: str, validation: Sequence[Ratings | None]) -> None:
    """Refuses a ranking metric that there is nothing to measure on."""
    if metric != metrics.RMSE and all(held_out is None for held_out in validation):
        raise ArgumentError("metric needs validation ratings to watch.")

"""What a translation is made of."""

import dataclasses
from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, DataError
from ..model.factors import Factors, in_brief
from ..model.objectives import Objective


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Translation:
    """What `jals.presets.translate` gives.

    Attributes:
        objective: minimises what the library minimises, on
        ratings: the table with the values and weights that it needs; None of `jals.presets.like`.
        notes: what differs all the same, sentences.
        first: the side that the library updates first, "user" or "item", as `jals.ALS(first=...)` takes it.
        offsets: (mean, user_bias `(num_users,)`, item_bias `(num_items,)`) that the library takes off the values before
            it fits, or None.
    """

    objective: Objective
    ratings: Ratings | None
    notes: tuple[str, ...]
    first: str = "user"
    offsets: tuple[float, np.ndarray, np.ndarray] | None = None

    def __repr__(self) -> str:
        return f"Translation({self.objective.feedback}, {self.ratings}, {len(self.notes)} notes)"

    def with_offsets(self, factors: Factors) -> Factors:
        """The factors with the offsets as mean and biases: `jals.predict` of them is on the scale of the library's
        values. The same factors where there are no offsets."""
        if self.offsets is None:
            return factors
        mean, user, item = (np.asarray(part, factors.dtype) for part in self.offsets)
        return dataclasses.replace(factors, mean=mean, user_bias=user, item_bias=item)


def unweighted(library: str, ratings: Ratings) -> Ratings:
    """The entries of weight 1. Raises DataError for weights other than 0 and 1, which the library does not know."""
    if ratings.weight is None:
        return ratings
    wrong = (ratings.weight != 0) & (ratings.weight != 1)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise DataError(f"weight of entry {at} is {ratings.weight[at]}, but {library} has no weights of entries.")
    return dataclasses.replace(ratings.select(ratings.weight == 1), weight=None)


def needed(ratings: Ratings | None, why: str) -> Ratings:
    """Raises ArgumentError where there is no table to make the objective of."""
    if ratings is None:
        raise ArgumentError(f"{why}, so that the objective depends on the table: use jals.presets.translate.")
    return ratings


def refuse(library: str, **given: Any) -> None:
    """Raises ArgumentError for each of these that is on."""
    for name, value in given.items():
        off = value is None or value is False or (not isinstance(value, str) and np.array_equal(value, 0))
        if not off:
            said = in_brief(value)
            raise ArgumentError(f"{library}'s {name}={said} has no equal in jals: leave it out.")


def entry_counts(ratings: Ratings, weight: Any = None) -> tuple[np.ndarray, np.ndarray]:
    """(n of every user, n of every item): the number of entries, or the sum of their weights."""
    return (
        np.bincount(ratings.user, weight, minlength=ratings.num_users).astype(float),
        np.bincount(ratings.item, weight, minlength=ratings.num_items).astype(float),
    )


def with_columns(ratings: Ratings, value: Any, weight: Any = None) -> Ratings:
    """The same entries with these values and weights, in the dtype of the values."""
    dtype = ratings.value.dtype
    weight = None if weight is None else np.asarray(weight, dtype)
    return dataclasses.replace(ratings, value=np.asarray(value, dtype), weight=weight)


def targets_table(ratings: Ratings, confidence: Any, preference: Any, unobserved_weight: float) -> Ratings:
    """The table of `jals.wals` for observed pairs of confidence C > a0 and preference P, missing ones having a0 and 0:
    an entry adds C (P - s)^2 - a0 s^2 to the sum over all pairs, up to a constant v (r - s)^2 with v = C - a0 and
    r = C P / v."""
    excess = confidence - unobserved_weight
    return with_columns(ratings, confidence * preference / excess, excess)

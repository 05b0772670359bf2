"""Splits of a table into training and held-out entries, on the host, reproducible by seed."""

from collections.abc import Iterator

import numpy as np

from .errors import ArgumentError
from .ratings import Ratings


def random(ratings: Ratings, test_fraction: float = 0.1, seed: int = 0) -> tuple[Ratings, Ratings]:
    """(train, test): round(test_fraction * entries) entries drawn without replacement are held out.

    Both keep the table's shape and the order of their entries. A user or item may lose all its training entries.
    """
    size = round(test_fraction * len(ratings)) if 0 < test_fraction < 1 else 0
    if not 0 < size < len(ratings):
        raise ArgumentError(
            f"test_fraction is {test_fraction}, but both parts of {len(ratings):,} entries need at least one: "
            "choose it between 0 and 1."
        )
    held_out = np.zeros(len(ratings), bool)
    held_out[np.random.default_rng(seed).choice(len(ratings), size, replace=False)] = True
    return ratings.select(~held_out), ratings.select(held_out)


def fold_numbers(ratings: Ratings, folds: int = 5, seed: int = 0) -> np.ndarray:
    """The fold, 0 ... folds - 1, of every entry: int64 `(entries,)`.

    A shuffle by NumPy's `RandomState(seed)` cut into equal runs, the first ones longer by one where needed: entry for
    entry the folds of Surprise's `KFold(folds, random_state=seed)` on the same list of ratings. As weights
    (`fold_numbers(...) != k`) they turn one `Problem` into every fold without a recompile.
    """
    if not isinstance(folds, (int, np.integer)) or not 2 <= folds <= len(ratings):
        raise ArgumentError(f"folds is {folds}, but must be a whole number from 2 to the {len(ratings):,} entries.")
    order = np.arange(len(ratings))
    # The legacy generator is the one that Surprise's folds are drawn by.
    np.random.RandomState(seed).shuffle(order)
    number = np.empty(len(ratings), np.int64)
    for fold, part in enumerate(np.array_split(order, folds)):
        number[part] = fold
    return number


def kfold(ratings: Ratings, folds: int = 5, seed: int = 0) -> Iterator[tuple[Ratings, Ratings]]:
    """(train, test) for each fold of `fold_numbers(ratings, folds, seed)`, in order."""
    number = fold_numbers(ratings, folds, seed)  # here and not in the generator, so that bad arguments fail at the call
    return ((ratings.select(number != fold), ratings.select(number == fold)) for fold in range(folds))

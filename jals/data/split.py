"""Splits of a table into training and held-out entries, on the host, reproducible by seed.

Every part keeps the table's shape and the order of its entries.
"""

import numbers
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..errors import ArgumentError
from .ratings import Ratings


def random(ratings: Ratings, test_fraction: float = 0.1, seed: int = 0) -> tuple[Ratings, Ratings]:
    """(train, test): round(test_fraction * entries) entries drawn without replacement are held out.

    A user or item may lose all its training entries.

    Raises:
        ArgumentError: for a fraction that leaves a part empty, or a seed that is no whole number >= 0.
    """
    _check(ratings, seed=seed, test_fraction=test_fraction)
    size = _size(ratings, test_fraction)
    held_out = np.zeros(len(ratings), bool)
    held_out[np.random.default_rng(seed).choice(len(ratings), size, replace=False)] = True
    return _parts(ratings, held_out)


def by_user(ratings: Ratings, test_fraction: float = 0.1, seed: int = 0) -> tuple[Ratings, Ratings]:
    """(train, test): of every user's n entries, round(test_fraction * n) drawn without replacement are held out.

    Halves are rounded to even, as Python does. Of every user at least one entry stays in train. An item may lose all
    its training entries.

    Raises:
        ArgumentError: where that holds out nothing at all; for a fraction not between 0 and 1, or a seed that is no
            whole number >= 0.
    """
    _check(ratings, seed=seed, test_fraction=test_fraction)
    counts = np.bincount(ratings.user, minlength=ratings.num_users)
    held = np.minimum(np.rint(test_fraction * counts).astype(np.int64), np.maximum(counts - 1, 0))
    if not held.any():
        raise ArgumentError(
            f"test_fraction is {test_fraction}, which of the largest user's {counts.max():,} entries holds out none: "
            "choose it larger, or split by split.random."
        )
    order = np.random.default_rng(seed).permutation(len(ratings))
    return _parts(ratings, _last_of_each_user(ratings, order, held))


def leave_last_out(ratings: Ratings, count: int = 1) -> tuple[Ratings, Ratings]:
    """(train, test): of every user the `count` latest entries by `ratings.time` are held out.

    Of entries with one time, the one further down in the table is the later. A user with `count` entries or fewer
    keeps them all in train. An item may lose all its training entries.

    Raises:
        ArgumentError: without times; where no user has more than `count` entries; for a `count` that is no whole
            number >= 1.
    """
    _check(ratings)
    if isinstance(count, bool) or not isinstance(count, numbers.Integral) or count < 1:
        raise ArgumentError(f"count is {count!r}, but must be a whole number >= 1.")
    time = _times("leave_last_out", ratings)
    counts = np.bincount(ratings.user, minlength=ratings.num_users)
    held = np.where(counts > count, count, 0)
    if not held.any():
        raise ArgumentError(
            f"count is {count}, but no user has more than {counts.max():,} entries: nothing would be held out."
        )
    return _parts(ratings, _last_of_each_user(ratings, _from_earliest(time), held))


def by_time(ratings: Ratings, test_fraction: float = 0.1) -> tuple[Ratings, Ratings]:
    """(train, test): of the whole table the round(test_fraction * entries) latest entries by `ratings.time` are held
    out.

    Of entries with one time, the one further down in the table is the later. So nothing is learned from what came after
    what is to be predicted, as in a recommender that is in use. Users and items that are new by then have entries in
    test and none in train. They stay there: leaving them out would be to know who comes. A fit knows them by prior mean
    (and the other's bias) alone; what is measured of those that train knows is measured of

        test.select(np.isin(test.user, train.user) & np.isin(test.item, train.item))

    Raises:
        ArgumentError: without times; for a fraction that leaves a part empty.
    """
    _check(ratings, test_fraction=test_fraction)
    time = _times("by_time", ratings)
    held_out = np.zeros(len(ratings), bool)
    held_out[_from_earliest(time)[len(ratings) - _size(ratings, test_fraction) :]] = True
    return _parts(ratings, held_out)


def fold_numbers(ratings: Ratings, folds: int = 5, seed: int = 0) -> np.ndarray:
    """The fold, 0 ... folds - 1, of every entry: int64 `(entries,)`.

    A shuffle by NumPy's `RandomState(seed)` cut into equal runs, the first ones longer by one where needed: entry for
    entry the folds of Surprise's `KFold(folds, random_state=seed)` on the same list of ratings. As weights
    (`fold_numbers(...) != k`) they turn one `Problem` into every fold without a recompile.

    Raises:
        ArgumentError: for folds not from 2 to the number of entries, or a seed not from 0 to 2**32 - 1.
    """
    _check(ratings, seed=seed)
    if isinstance(folds, bool) or not isinstance(folds, numbers.Integral) or not 2 <= folds <= len(ratings):
        raise ArgumentError(f"folds is {folds!r}, but must be a whole number from 2 to the {len(ratings):,} entries.")
    if seed >= 2**32:
        raise ArgumentError(f"seed is {seed}, but the folds are drawn by a generator whose seeds end at 2**32 - 1.")
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
    return (_parts(ratings, number == fold) for fold in range(folds))


def _check(ratings: Any, seed: Any = 0, test_fraction: Any = 0.5) -> None:
    if not isinstance(ratings, Ratings):
        raise ArgumentError(
            f"ratings is of type {type(ratings).__name__}, but must be a jals.Ratings: make one with "
            "jals.Ratings.from_arrays(user, item, value)."
        )
    if isinstance(seed, bool) or not isinstance(seed, numbers.Integral) or seed < 0:
        raise ArgumentError(f"seed is {seed!r}, but must be a whole number >= 0.")
    if not isinstance(test_fraction, (int, float, np.integer, np.floating)):
        raise ArgumentError(f"test_fraction is {test_fraction!r}, but must be a number between 0 and 1.")
    if not 0 < test_fraction < 1:  # a NaN too
        raise ArgumentError(f"test_fraction is {test_fraction}, which is not a fraction: choose it between 0 and 1.")


def _times(split: str, ratings: Ratings) -> np.ndarray:
    if ratings.time is None:
        raise ArgumentError(
            f"{split} needs to know when each entry was made, and these ratings have no times: "
            "give time= where they are read."
        )
    return ratings.time


def _size(ratings: Ratings, test_fraction: float) -> int:
    """How many entries are held out of the whole table; raises ArgumentError where that leaves a part empty."""
    size = round(test_fraction * len(ratings))
    if not 0 < size < len(ratings):
        raise ArgumentError(
            f"test_fraction is {test_fraction}, but both parts of {len(ratings):,} entries need at least one: "
            "choose it between 0 and 1."
        )
    return size


def _parts(ratings: Ratings, held_out: np.ndarray) -> tuple[Ratings, Ratings]:
    return ratings.select(~held_out), ratings.select(held_out)


def _last_of_each_user(ratings: Ratings, order: np.ndarray, held: np.ndarray) -> np.ndarray:
    """A mask of entries: those of each user u that are among the user's last `held[u]` in this order of all entries."""
    counts = np.bincount(ratings.user, minlength=ratings.num_users)
    grouped = order[_seconds(ratings.user[order], np.arange(len(order)))]  # a user's entries side by side, in order
    from_last = np.repeat(np.cumsum(counts), counts) - np.arange(len(order))
    mask = np.zeros(len(order), bool)
    mask[grouped[from_last <= np.repeat(held, counts)]] = True
    return mask


def _from_earliest(time: np.ndarray) -> np.ndarray:
    """The entries by time, those of one time in the order of the table: argsort(time, kind="stable") in half the time
    it takes, since NumPy sorts numbers with vector instructions where it need not be stable."""
    time = time.view(np.int64) if time.dtype.kind == "M" else time
    order = np.argsort(time)
    ordered = time[order]
    return _seconds(np.cumsum(np.r_[False, ordered[1:] != ordered[:-1]]), order)


def _seconds(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The second numbers of pairs, once the pairs are sorted; both are >= 0, and the second below their length."""
    keys = first.astype(np.int64)
    keys *= len(keys)  # below 2**62: ids and entries are below 2**31
    keys += second
    keys.sort()
    keys %= len(keys)
    return keys

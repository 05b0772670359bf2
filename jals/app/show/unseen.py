"""The best items that a user has not rated: for the page of a run, and for the command `jals recommend`."""

import numpy as np

import jals

from ...errors import ArgumentError


def best_unseen(factors: jals.Factors, user: int, seen: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k items of highest score that the user has not seen.

    Args:
        factors: as fitted.
        user: a row.
        seen: rows of items to leave out, in any order.
        k: at least 1.

    Returns: (items, scores), best first, equal scores by row; fewer than k where fewer are unseen.

    Raises:
        ArgumentError: for k below 1, or a user that is not there.
    """
    if k < 1:
        raise ArgumentError(f"k is {k}, but must be at least 1.")
    items = np.arange(len(factors.item))
    scores = np.asarray(jals.predict(factors, user, items))
    unseen = np.delete(items, seen)
    best = unseen[np.argsort(-scores[unseen], kind="stable")[:k]]
    return best, scores[best]


def entries_of(ratings: jals.Ratings, user: int) -> np.ndarray:
    """The places of a user's entries of weight > 0."""
    places = np.flatnonzero(ratings.user == user)
    return places if ratings.weight is None else places[ratings.weight[places] > 0]

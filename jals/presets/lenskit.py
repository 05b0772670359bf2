"""LensKit: `lenskit.als.BiasedMFScorer` and `ImplicitMFScorer` (2025)."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..model.conventions import als_wr, hu_koren
from .translation import Translation, entry_counts, unweighted, with_columns

ELSEWHERE = {
    "embedding_size": "jals.ALS(rank=...)",
    "features": "jals.ALS(rank=...)",
    "epochs": "jals.fit(sweeps=...)",
    "user_embeddings": "nothing",
}


def translate_biased(
    ratings: Ratings | None, *, regularization: Any = 0.1, damping: Any = 5.0
) -> Translation:
    """Damped means first, b_i = sum (r - mean) / (n_i + damping), b_u = sum (r - mean - b_i) / (n_u + damping); then
    explicit ALS on r - mean - b_u - b_i with lambda n of every row."""
    objective = als_wr(reg_user=_of(regularization, "user"), reg_item=_of(regularization, "item"))
    notes = (
        "LensKit fits mean and biases first, damped, and the factors to what is left: another model than bias=True, "
        "center=True, which fits the biases with the factors. The table's values are what is left; "
        "Translation.with_offsets puts mean and biases back.",
        "LensKit rounds to float32, and folds users in anew when it predicts (user_embeddings).",
    )
    if ratings is None:
        return Translation(objective, None, notes)
    ratings = unweighted("LensKit", ratings)
    mean = float(np.mean(ratings.value, dtype=np.float64))
    count_user, count_item = entry_counts(ratings)
    left = ratings.value.astype(np.float64) - mean
    item = _mean(np.bincount(ratings.item, left, minlength=ratings.num_items), count_item + _of(damping, "item"))
    left -= item[ratings.item]
    user = _mean(np.bincount(ratings.user, left, minlength=ratings.num_users), count_user + _of(damping, "user"))
    left -= user[ratings.user]
    return Translation(objective, with_columns(ratings, left), notes, offsets=(mean, user, item))


def translate_implicit(
    ratings: Ratings | None, *, regularization: Any = 0.1, weight: Any = 40, use_ratings: bool = False
) -> Translation:
    """C = 1 + weight r, r = 1 unless use_ratings; P = 1; missing pairs C = 1, P = 0; lambda as it is."""
    regs = {f"reg_{side}": _of(regularization, side) for side in ("user", "item")}
    notes = ("LensKit rounds to float32, and folds users in anew when it predicts (user_embeddings).",)
    if not use_ratings:
        notes += ("All values are 1: use_ratings=False.",)
    if ratings is not None:
        ratings = unweighted("LensKit", ratings)
        ratings = ratings if use_ratings else with_columns(ratings, np.ones(len(ratings)))
    return Translation(hu_koren(alpha=weight, **regs), ratings, notes)


def _of(given: Any, side: str) -> Any:
    """LensKit's numbers are one, or one for each side: a mapping, a pair, or an object with both names."""
    if isinstance(given, Mapping):
        return given[side]
    if isinstance(given, (tuple, list)) and len(given) == 2:
        return given[0 if side == "user" else 1]
    return getattr(given, side, given)


def _mean(total: np.ndarray, count: np.ndarray) -> np.ndarray:
    return np.divide(total, count, out=np.zeros_like(total), where=count > 0)

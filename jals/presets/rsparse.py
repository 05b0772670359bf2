"""rsparse: `rsparse::WRMF` (R, 0.5)."""

from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, DataError, check_choice
from ..model.conventions import als_wr, explicit, hu_koren
from .translation import Translation, unweighted, with_columns

ELSEWHERE = {
    "rank": "jals.ALS(rank=...)",
    "init": "jals.fit(init=...)",
    "preprocess": "nothing: apply it to the values of the table",
    "cg_steps": "jals.ALS(cg_steps=...)",
    "precision": "the dtype of the values",
    "n_iter": "jals.fit(sweeps=...)",
    "convergence_tol": "jals.fit(tol=...), of another kind",
}
NOTES = (
    'rsparse updates items first, then users (jals.ALS(first="item")), and the users once more at the end.',
    "Its loss is divided by the number of entries, and of implicit feedback leaves the missing pairs out.",
)


def translate(
    ratings: Ratings | None,
    *,
    lambda_: Any = 0.0,
    dynamic_lambda: bool = True,
    feedback: str = "implicit",
    solver: str = "conjugate_gradient",
    with_user_item_bias: bool = False,
    with_global_bias: bool = False,
) -> Translation:
    """implicit: C = r, P = 1; missing pairs C = 1, P = 0; lambda as it is. explicit: (r - s)^2 of entries; lambda n of
    every row with dynamic_lambda, biases alike."""
    check_choice("feedback", feedback, ("implicit", "explicit"))
    check_choice("solver", solver, ("conjugate_gradient", "cholesky", "nnls"))
    if solver == "nnls":
        raise ArgumentError('rsparse\'s solver="nnls" makes factors >= 0, which has no equal in jals.')
    if ratings is not None:
        ratings = unweighted("rsparse", ratings)
    notes = NOTES
    if solver == "conjugate_gradient":
        notes += ('Its solver="conjugate_gradient" does not solve rows exactly; "cholesky" does.',)
    if feedback == "explicit":
        preset = als_wr if dynamic_lambda else explicit
        objective = preset(lambda_, bias=bool(with_user_item_bias), center=bool(with_global_bias))
        return Translation(objective, ratings, notes, "item")
    if with_user_item_bias or with_global_bias:
        raise ArgumentError("rsparse's biases with implicit feedback have no equal in jals.")
    notes += (
        "rsparse reads r as the whole confidence of an observed pair: the table's values become r - 1.",
        "dynamic_lambda has no effect with implicit feedback.",
    )
    if ratings is not None:
        if (ratings.value < 0).any():
            at = int(np.argmax(ratings.value < 0))
            raise DataError(f"value of entry {at} is {ratings.value[at]}, but rsparse's confidences must be >= 0.")
        ratings = with_columns(ratings, ratings.value - 1)
    return Translation(hu_koren(lambda_, 1.0), ratings, notes, "item")

"""The library implicit: `implicit.als.AlternatingLeastSquares` (0.7)."""

from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..errors import DataError
from ..model.conventions import hu_koren, wals
from .translation import Translation, targets_table, unweighted, with_columns

ELSEWHERE = {
    "factors": "jals.ALS(rank=...)",
    "dtype": "the dtype of the values",
    "use_native": "jals.ALS(backend=...)",
    "use_cg": 'jals.ALS(linsolve="cg", cg_steps=3) is near its True',
    "use_gpu": "jax's devices",
    "iterations": "jals.fit(sweeps=...)",
    "calculate_training_loss": "jals.fit(loss_every=...)",
    "num_threads": "jax's devices",
    "random_state": "jals.fit(key=...); implicit starts from uniform numbers in [0, 0.01)",
}
NOTES = (
    "implicit reads alpha r as the whole confidence of an observed pair: the table's values become r - 1/alpha.",
    "Its calculate_training_loss is the loss divided by the sum of all confidences.",
    "By default (use_cg=True) it makes 3 steps of conjugate gradients a row, which do not solve it exactly.",
)


def translate(ratings: Ratings | None, *, regularization: Any = 0.01, alpha: Any = 1.0) -> Translation:
    """C = alpha |r|; P = 1 for r >= 0, 0 for r < 0 (a dislike); missing pairs C = 1, P = 0; lambda as it is."""
    objective = hu_koren(regularization, alpha)
    if ratings is None:
        return Translation(objective, None, NOTES)
    ratings = unweighted("implicit", ratings)
    disliked, confidence = ratings.value < 0, alpha * np.abs(ratings.value)
    if not disliked.any():
        return Translation(objective, with_columns(ratings, ratings.value - 1 / alpha), NOTES)
    if (confidence > 1).all():
        told = "With dislikes (r < 0) in the table its values are targets, its weights alpha |r| - 1."
        made = wals(regularization, 1.0)
        return Translation(made, targets_table(ratings, confidence, ~disliked, 1.0), (told, *NOTES[1:]))
    strong = disliked & (confidence > 1)
    if strong.any():
        weak = int(np.argmin(confidence))
        raise DataError(
            f"entry {int(np.argmax(strong))} is a dislike of confidence above 1, entry {weak} has confidence "
            f"{confidence[weak]:g}: implicit takes both in one table, jals takes dislikes above 1 only where all "
            "confidences are above 1."
        )
    # A dislike below 1 adds (C - 1) s^2: with alpha r' = -1 that is its weight times -s^2.
    weight = np.where(disliked, 1 - confidence, 1)
    value = np.where(disliked, -1, confidence - 1) / alpha
    return Translation(objective, with_columns(ratings, value, weight), NOTES)

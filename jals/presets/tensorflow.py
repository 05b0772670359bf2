"""TensorFlow: `tf.contrib.factorization.WALSModel` (1.x)."""

from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..model.conventions import wals
from .translation import Translation, targets_table, unweighted

ELSEWHERE = {
    "input_rows": "jals.Ratings.from_arrays(num_users=...)",
    "input_cols": "jals.Ratings.from_arrays(num_items=...)",
    "n_components": "jals.ALS(rank=...)",
    "row_init": "jals.fit(init=...); TensorFlow starts from standard normal numbers",
    "col_init": "jals.fit(init=...)",
    "num_row_shards": "nothing",
    "num_col_shards": "nothing",
    "use_factors_weights_cache": "nothing",
    "use_gramian_cache": "nothing",
}
NOTES = (
    "An observed pair has weight w0 + R_i C_j in TensorFlow, a missing one w0: the table's weights become R_i C_j, its "
    "values v (w0 + R_i C_j) / (R_i C_j).",
    "Which side is updated first is the caller's choice in TensorFlow.",
)


def translate(
    ratings: Ratings | None,
    *,
    unobserved_weight: Any = 0.1,
    regularization: Any = None,
    row_weights: Any = 1,
    col_weights: Any = 1,
) -> Translation:
    """C = w0 + R_i C_j and P = v of observed pairs, C = w0 and P = 0 of missing ones; lambda as it is, None is 0."""
    if row_weights is None or col_weights is None:
        raise ArgumentError(
            "TensorFlow's row_weights=None weighs observed and missing pairs alike, a plain factorization of the table "
            "with zeros: it has no equal in jals."
        )
    reg = 0.0 if regularization is None else regularization
    notes = NOTES if regularization is not None else (*NOTES, "Without regularization a row of few entries may fail.")
    objective = wals(reg, unobserved_weight)
    if ratings is None:
        return Translation(objective, None, notes)
    ratings = unweighted("TensorFlow", ratings)
    weight = np.ones(len(ratings))
    for name, weights, rows, of in (
        ("row_weights", row_weights, ratings.num_users, ratings.user),
        ("col_weights", col_weights, ratings.num_items, ratings.item),
    ):
        known = np.asarray(weights, np.float64)
        known = known[0] if known.ndim == 2 and len(known) == 1 else known  # of one shard
        if known.shape not in ((), (rows,)) or not (known > 0).all():
            raise ArgumentError(f"TensorFlow's {name} must be one number > 0, or {rows:,} of them, one for each.")
        weight *= np.broadcast_to(known, (rows,))[of]
    return Translation(
        objective, targets_table(ratings, unobserved_weight + weight, ratings.value, unobserved_weight), notes
    )

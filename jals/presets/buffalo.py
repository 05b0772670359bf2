"""buffalo: `buffalo.algo.als.ALS` (2.0), by the names of its options."""

from typing import Any

from ..data.ratings import Ratings
from ..model.conventions import hu_koren
from .translation import Translation, entry_counts, needed, unweighted

_OF_THE_RUN = ("save_factors", "num_workers", "hyper_threads", "model_path", "data_opt", "evaluation_on_learning")
ELSEWHERE = {
    "d": "jals.ALS(rank=...)",
    "num_iters": "jals.fit(sweeps=...)",
    "optimizer": 'jals.ALS(linsolve="cholesky") is its "llt" and "ldlt"',
    "num_cg_max_iters": "jals.ALS(cg_steps=...)",
    "cg_tolerance": "nothing",
    "block_size": "nothing",
    "eps": "nothing",
    "accelerator": "jax's devices",
    "random_seed": "jals.fit(key=...); buffalo starts from absolute values of normal numbers",
    **dict.fromkeys(_OF_THE_RUN, "nothing"),
}
NOTES = (
    "A row without entries keeps its random start in buffalo, and its part in the sum over all pairs; in jals it is 0.",
    'buffalo computes in float32; by default (optimizer="manual_cg") it does not solve rows exactly.',
)


def translate(
    ratings: Ratings | None,
    *,
    alpha: Any = 8.0,
    reg_u: Any = 0.1,
    reg_i: Any = 0.1,
    adaptive_reg: bool = False,
) -> Translation:
    """C = 1 + alpha r, P = 1; missing pairs C = 1, P = 0; lambda as it is, or times n with adaptive_reg."""
    if ratings is not None:
        ratings = unweighted("buffalo", ratings)
    if not adaptive_reg:
        return Translation(hu_koren(alpha=alpha, reg_user=reg_u, reg_item=reg_i), ratings, NOTES)
    ratings = needed(ratings, "adaptive_reg scales lambda by the number of entries of each row")
    user, item = entry_counts(ratings)
    notes = (*NOTES, "lambda is multiplied by each row's number of entries: given for each row.")
    return Translation(hu_koren(alpha=alpha, reg_user=reg_u * user, reg_item=reg_i * item), ratings, notes)

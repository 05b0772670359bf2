"""cmfrec: `cmfrec.CMF` and `CMF_implicit` (3.5), without side information."""

import functools
from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..model.conventions import als_wr, explicit, hu_koren
from .translation import Translation, entry_counts, needed, refuse, unweighted, with_columns

_SIDE_INFORMATION = "nothing: there is no side information"
ELSEWHERE = {
    "k": "jals.ALS(rank=...)",
    "k_main": "jals.ALS(rank=...): without side information k and k_main add up",
    "use_cg": 'jals.ALS(linsolve="cg") is near its True',
    "max_cg_steps": "jals.ALS(cg_steps=...)",
    "precondition_cg": "nothing",
    "finalize_chol": "nothing",
    "niter": "jals.fit(sweeps=...)",
    "maxiter": "jals.fit(sweeps=...)",
    "parallelize": "nothing",
    "corr_pairs": "nothing",
    "max_cd_steps": "nothing",
    "precompute_for_predictions": "nothing",
    "include_all_X": "nothing",
    "use_float": "the dtype of the values",
    "random_state": "jals.fit(key=...)",
    "verbose": "nothing",
    "print_every": "nothing",
    "handle_interrupt": "nothing",
    "produce_dicts": "nothing",
    "nthreads": "jax's devices",
    "n_jobs": "jax's devices",
    **dict.fromkeys(("k_user", "k_item", "w_user", "w_item", "w_implicit"), _SIDE_INFORMATION),
    **dict.fromkeys(("center_U", "center_I", "scale_lam_sideinfo"), _SIDE_INFORMATION),
    **dict.fromkeys(("NA_as_zero_user", "NA_as_zero_item", "nonneg_C", "nonneg_D"), _SIDE_INFORMATION),
}
NOTES = (
    'cmfrec updates items first, then users: jals.ALS(first="item").',
    "By default (use_cg=True) it makes 3 steps of conjugate gradients a row, which do not solve it exactly.",
)


def translate_explicit(
    ratings: Ratings | None,
    *,
    lambda_: Any = 10.0,
    method: str = "als",
    user_bias: bool = True,
    item_bias: bool = True,
    center: bool = True,
    add_implicit_features: bool = False,
    scale_lam: bool = False,
    scale_bias_const: bool = False,
    w_main: Any = 1.0,
    l1_lambda: Any = 0.0,
    NA_as_zero: bool = False,
    nonneg: bool = False,
) -> Translation:
    """sum w (r - mean - b_u - b_i - x.y)^2 + lambda (|x|^2 + b^2), lambda times n with scale_lam; six lambdas are of
    (b_u, b_i, x, y, two of side information). n is the sum of the row's weights, 1 each where the table has none; with
    scale_bias_const the biases' n is its mean over the rows."""
    refuse("cmfrec", add_implicit_features=add_implicit_features, l1_lambda=l1_lambda, nonneg=nonneg)
    refuse("cmfrec", NA_as_zero=NA_as_zero, method=None if method == "als" else method)
    if w_main != 1:
        raise ArgumentError(f"cmfrec's w_main is {w_main!r}, but must be 1 without side information: divide lambda_.")
    if bool(user_bias) != bool(item_bias):
        raise ArgumentError("cmfrec's user_bias without item_bias (or the other way round) has no equal in jals.")
    bias, notes = bool(user_bias), [*NOTES]
    of_user_bias, of_item_bias, reg_user, reg_item = _four(lambda_)
    numbers = {"reg_user": reg_user, "reg_item": reg_item}
    if bias and np.ndim(lambda_):
        numbers |= {"reg_bias_user": of_user_bias, "reg_bias_item": of_item_bias}
    if bias and scale_lam and scale_bias_const:
        ratings = needed(ratings, "scale_bias_const scales the biases' lambda by the mean size of a row")
        user, item = entry_counts(ratings, ratings.weight)
        numbers = {"reg_user": reg_user * user, "reg_item": reg_item * item}
        numbers |= {"reg_bias_user": of_user_bias * user.mean(), "reg_bias_item": of_item_bias * item.mean()}
        notes.append("lambda is multiplied by each row's sum of weights, that of the biases by the mean: given by row.")
        return Translation(explicit(bias=True, center=bool(center), **numbers), ratings, tuple(notes), "item")
    preset = functools.partial(als_wr, count="weights") if scale_lam else explicit
    return Translation(preset(bias=bias, center=bool(center), **numbers), ratings, tuple(notes), "item")


def translate_implicit(
    ratings: Ratings | None,
    *,
    lambda_: Any = 1.0,
    alpha: Any = 1.0,
    w_main: Any = 1.0,
    l1_lambda: Any = 0.0,
    nonneg: bool = False,
    apply_log_transf: bool = False,
) -> Translation:
    """C = 1 + alpha r, P = 1; missing pairs C = 1, P = 0; lambda as it is. apply_log_transf: log(r) in place of r."""
    refuse("cmfrec", l1_lambda=l1_lambda, nonneg=nonneg)
    if w_main != 1:
        raise ArgumentError(f"cmfrec's w_main is {w_main!r}, but must be 1 without side information: divide lambda_.")
    *_, reg_user, reg_item = _four(lambda_)
    notes = [*NOTES]
    if apply_log_transf:
        notes.append("The table's values become log(r).")
    if ratings is not None:
        ratings = unweighted("cmfrec's CMF_implicit", ratings)
        ratings = with_columns(ratings, np.log(ratings.value)) if apply_log_transf else ratings
    return Translation(hu_koren(alpha=alpha, reg_user=reg_user, reg_item=reg_item), ratings, tuple(notes), "item")


def _four(lambda_: Any) -> tuple[Any, Any, Any, Any]:
    """(of b_u, of b_i, of x, of y) of one lambda, or of cmfrec's six."""
    if np.ndim(lambda_) == 0:
        return (lambda_,) * 4
    if np.shape(lambda_) != (6,):
        raise ArgumentError(f"cmfrec's lambda_ is of shape {np.shape(lambda_)}, but must be one number, or six.")
    return tuple(lambda_[:4])

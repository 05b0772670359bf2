"""irspack: `irspack.IALSRecommender` (0.5)."""

from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..errors import DataError, check_choice
from ..model.conventions import ials, wals
from ..model.problem import Problem
from .translation import (
    Translation,
    needed,
    refuse,
    targets_table,
    unweighted,
    with_columns,
)

ELSEWHERE = {
    "n_components": "jals.ALS(rank=...)",
    "init_std": "jals.ALS(init_scale=...); irspack divides it by the root of the rank",
    "solver_type": 'jals.ALS(linsolve="cholesky") is its "CHOLESKY", "cg" its "CG", "subspace" its "IALSPP"',
    "max_cg_steps": "jals.ALS(cg_steps=...)",
    "ialspp_subspace_dimension": "nothing",
    "random_seed": "jals.fit(key=...)",
    "n_threads": "jax's devices",
    "train_epochs": "jals.fit(sweeps=...)",
    "prediction_time_max_cg_steps": "nothing",
    "prediction_time_ialspp_iteration": "nothing",
}
NOTES = (
    "irspack's loss is half of jals' loss, lambda included: the same minimum, and reg is the same number.",
    'irspack computes in float32; by default (solver_type="CG") it does not solve rows exactly.',
)


def translate(
    ratings: Ratings | None,
    *,
    alpha0: Any = 0.0,
    reg: Any = 1e-3,
    nu: Any = 1.0,
    confidence_scaling: str = "none",
    epsilon: Any = 1.0,
    loss_type: str = "IALSPP",
    nu_star: Any = None,
    user_features: Any = None,
    item_features: Any = None,
    lambda_user_feature: Any = 0.0,
    lambda_item_feature: Any = 0.0,
    feature_warmup_epochs: int = 0,
) -> Translation:
    """With c = x, or log(1 + x / epsilon): c (1 - s)^2 of observed pairs and alpha0 s^2 of all ("IALSPP"), or
    (alpha0 + c) (1 - s)^2 of observed and alpha0 s^2 of missing pairs ("ORIGINAL"); lambda (n + alpha0 N)^nu."""
    check_choice("confidence_scaling", confidence_scaling, ("none", "log"))
    check_choice("loss_type", loss_type.upper(), ("IALSPP", "ORIGINAL"))
    refuse("irspack", user_features=user_features, item_features=item_features)
    refuse("irspack", lambda_user_feature=lambda_user_feature, lambda_item_feature=lambda_item_feature)
    refuse("irspack", feature_warmup_epochs=feature_warmup_epochs)
    notes = (*NOTES, f"{'log(1 + x / epsilon)' if confidence_scaling == 'log' else 'Its x'} is the entry's weight.")
    if ratings is not None:
        ratings = unweighted("irspack", ratings)
    if nu_star is not None:
        ratings = needed(ratings, "nu_star rescales reg by sums over the rows' numbers of entries")
        notes += ("reg is rescaled by sum (n + alpha0 N)^nu_star / sum (n + alpha0 N)^nu, over both sides together.",)
    original = loss_type.upper() == "ORIGINAL"
    objective = wals(reg, alpha0, reg_power=nu) if original else ials(reg, alpha0, nu)
    if nu_star is not None and ratings is not None:
        objective = objective.with_total_reg(Problem.build(ratings), nu_star)
    if ratings is None:
        return Translation(objective, None, notes)
    if (ratings.value <= 0).any():
        at = int(np.argmax(ratings.value <= 0))
        raise DataError(f"value of entry {at} is {ratings.value[at]}, but irspack's interactions must be > 0.")
    confidence = np.log1p(ratings.value / epsilon) if confidence_scaling == "log" else ratings.value
    if original:
        return Translation(objective, targets_table(ratings, alpha0 + confidence, 1.0, alpha0), notes)
    return Translation(objective, with_columns(ratings, np.ones(len(ratings)), confidence), notes)

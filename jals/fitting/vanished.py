"""Factors that have all shrunk to 0, where no sweep and no derivative leads away from."""

import warnings

import jax
import jax.numpy as jnp

from ..model.factors import Factors, widened
from ..model.objectives import Objective
from ..model.problem import Problem

_SHARE = 1e-6  # of the largest target: what no product of factors exceeds, where they count as 0
MESSAGE = "all factors have shrunk to 0"


def vanished(factors: Factors, problem: Problem, objective: Objective) -> bool:
    """Whether rank * max|x| * max|y|, which no x_u . y_i exceeds, is at most 1e-6 of the largest target. On the host,
    not for traced factors. Never where the targets' squares are 0 in the dtype, or prior means hold the factors
    elsewhere."""
    if objective.prior_user is not None or objective.prior_item is not None:
        return False
    target = 1.0
    if objective.feedback == "rating":
        mean = 0.0 if factors.mean is None else float(factors.mean)
        low, high = map(float, problem.value_range())
        target = max(high - mean, mean - low)
    return target >= float(jnp.finfo(factors.dtype).tiny) ** 0.5 and _most(factors) <= _SHARE * target


def warn_if_vanished(factors: Factors, problem: Problem, objective: Objective) -> None:
    """Warns where they have `vanished`. Not for a fit that began so."""
    if vanished(factors, problem, objective):
        most = _most(factors)
        rest = "" if factors.mean is None and factors.user_bias is None else " but for the mean and the biases"
        warnings.warn(
            f"{MESSAGE}: every prediction is{rest} 0 to within {most:.0e}, and no sweep leads away from there. The "
            "regularisation is too large for the data: lower reg (als_wr and ials multiply it by counts); where a fit "
            "is only slow to leave 0, raise the solver's init_scale.",
            stacklevel=3,  # of who called the caller
        )


def _most(factors: Factors) -> float:
    return factors.rank * float(_product_of_largest(factors.user, factors.item))


@jax.jit
def _product_of_largest(user: jax.Array, item: jax.Array) -> jax.Array:
    """max |user| max |item|; NaN where one is."""
    users, items = (jnp.max(jnp.abs(table), initial=0) for table in widened((user, item)))
    return users * items

"""Certificates: proof, by autodiff of the loss, that the closed-form updates are right."""

import dataclasses

import jax
import jax.numpy as jnp

from . import normal
from .als import ALS
from .devices import alike
from .factors import Factors
from .objectives import Objective, loss
from .problem import Problem
from .protocol import matched


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Certificate:
    """How well rows solve their normal equations, measured by the gradient of the loss.

    The backward error of a row x, the smallest relative change of A and b that makes it exact, is

        |A x - b| / (|A|_F |x| + |b|),  0 where the denominator is 0,

    over the joint (row, bias) system. The numerator is half the norm of the row's gradient by `jax.grad(jals.loss)`,
    which knows nothing of layouts and normal equations; so one number checks algebra, mask, padding and lambda.

    Attributes:
        user, item: `(rows,)`, of a fresh update of that side from the other side as given.
        last_updated: `(num_items,)`, of the item rows as given: a sweep ends with the items.
        stationarity: `()`, |grad L / 2| / sqrt(sum over all rows of (|A|_F |x| + |b|)^2) at the factors as given: how
            far both sides together are from a stationary point.
    """

    user: jax.Array
    item: jax.Array
    last_updated: jax.Array
    stationarity: jax.Array

    @property
    def bound(self) -> float:
        """What an exact solver's backward errors stay under: 1e-5 in float32, 1e-13 in float64."""
        return 1e-13 if self.user.dtype == jnp.float64 else 1e-5

    def holds(self, last_updated: bool = True) -> bool:
        """Whether every fresh update meets the bound, and (unless False) the item rows as given too. A NaN fails."""
        errors = (self.user, self.item, *((self.last_updated,) if last_updated else ()))
        return all(bool((error <= self.bound).all()) for error in errors)


def certify(factors: Factors, problem: Problem, objective: Objective, solver: ALS | None = None) -> Certificate:
    """Checks closed-form updates against the gradient of the loss; see `Certificate`.

    Args:
        factors: where to check. `user` and `item` hold for any factors; `last_updated` is small after a sweep of exact
            ALS on this problem and objective.
        solver: makes the updates; None for Cholesky. For a `Gradient` solver too: its rows are judged in
            `last_updated` and `stationarity`, the updates are Cholesky's.

    Ten passes over the entries. Pure and jittable.

    Raises:
        ArgumentError: where factors, problem and objective do not fit together.
        DataError: see `Problem.check`.
    """
    given, (factors, problem, objective) = objective, matched(factors, problem, objective)
    if not isinstance(solver, ALS):
        solver = ALS(factors.rank)
    problem.check()
    given.check(problem, factors.rank)
    return _certify(*alike(factors, problem, objective), solver)


@jax.jit
def _certify(factors: Factors, problem: Problem, objective: Objective, solver: ALS) -> Certificate:
    problem = problem.arrange()

    # A row's system is the same for the row as given and as updated: it depends on the other side alone.
    norms = {side: normal.norms(normal.view(factors, problem, objective, side)) for side in ("user", "item")}

    def error_and_scale(at: Factors, side: str, gradient: Factors) -> tuple[jax.Array, jax.Array]:
        matrix, rhs = norms[side]
        scale = matrix * jnp.linalg.norm(at.joint(side), axis=-1) + rhs
        return jnp.linalg.norm(gradient.joint(side), axis=-1) / 2, scale

    def fresh(side: str) -> jax.Array:
        updated, _ = solver.update(factors, problem, objective, side)
        return _ratio(*error_and_scale(updated, side, jax.grad(loss)(updated, problem, objective)))

    given = jax.grad(loss)(factors, problem, objective)
    users, items = (error_and_scale(factors, side, given) for side in ("user", "item"))
    total = [jnp.sqrt(jnp.sum(user**2) + jnp.sum(item**2)) for user, item in zip(users, items, strict=True)]
    return Certificate(fresh("user"), fresh("item"), _ratio(*items), _ratio(*total))


def _ratio(error: jax.Array, scale: jax.Array) -> jax.Array:
    return jnp.where(scale == 0, 0.0, error / jnp.where(scale == 0, 1.0, scale))

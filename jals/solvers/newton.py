"""Newton's method for the items, each user's row at its minimum: fast where ALS converges slowly."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..model.factors import Factors
from ..model.objectives import Objective, loss
from ..model.problem import Problem
from ..rows import curvature, normal, rowsolve
from . import costs
from .gradient import layout_loss, loss_and_neg_half_gradient
from .protocol import Info, State, check_memory, check_rank, entering, start_from, sweep_info


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NewtonCG:
    """Newton's method on the loss as a function of the items alone, each user's row at its minimum.

    A sweep solves the users' rows exactly, then moves all item rows together. The step solves Newton's equations by
    conjugate gradients, preconditioned by the matrices of the single rows, so that the first iteration goes the way of
    ALS. The iterations end where the loss curves downwards, or where the step gets longer than Newton's quadratic has
    been right for in earlier sweeps (the radius of the trust region). A step that would raise the loss is not made, and
    the radius shrinks: a sweep never raises the loss. It ends with the users' rows solved for.

    Far from a minimum a sweep gains little for its cost; near it, where ALS gains a digit in hundreds of sweeps, each
    sweep squares the error. Start it from the factors of an ALS fit.

    Attributes:
        rank: columns of X and Y; static.
        cg_steps: at most so many iterations of conjugate gradients a sweep.
        cg_tol: they stop once the residual is at most this share of the gradient.
        init_scale: the initial factors are normal with standard deviation init_scale / sqrt(rank).

    Passes: 5 + 2 an iteration; `info.passes` counts them. A sweep has no derivative, as the number of iterations is not
    fixed; that of the stationary point is `jals.adjoint`'s. Memory: (users + items) k^2 numbers. Source: variable
    projection (Golub and Pereyra, 1973) with a trust region (Steihaug, 1983).
    """

    rank: int = dataclasses.field(metadata={"static": True})
    cg_steps: Any = 100
    cg_tol: Any = 0.03
    init_scale: Any = 0.1

    exact = False
    monotone = True
    differentiable = False  # the number of iterations is not fixed
    passes_per_sweep = None

    def __post_init__(self):
        check_rank(self.rank)

    def operations(self, objective: Objective, size: costs.Size, sweeps: Any, passes: Any) -> Any:
        """As `ALS.operations`: three exact half-sweeps and 2 k^3 a row for inverses; in every other pass 2 k^2 a row
        for two of them."""
        of = costs.terms(self.rank, objective, size)
        solving = 1.5 * of.exact_sweep("cholesky") + 2 * of.unknowns**3 * size.rows
        others = of.one_pass + of.unknowns**2 * size.rows + of.all_pairs / 2
        return sweeps * solving + (passes - 3 * sweeps) * others

    def numbers(self, size: costs.Size) -> int:
        """As `ALS.numbers`: what conjugate gradients hold of a side, and every row's inverse."""
        return size.rows * (8 * (self.rank + 1) + (self.rank + 1) ** 2)

    def init(self, key: jax.Array, problem: Problem, objective: Objective, factors: Factors | None = None) -> State:
        """The state before the first sweep, in the problem's dtype: from given factors, or from `initial_factors`. Pure
        and jittable. Raises as `ALS.init`."""
        factors, _, _ = start_from(factors, key, self, problem, objective)
        return State(factors, jnp.zeros((), factors.dtype))

    def sweep(self, state: State, problem: Problem, objective: Objective, loss: bool = False) -> tuple[State, Info]:
        """One step of Newton's method. Pure and jittable, without a derivative (see above). States, dtypes and errors
        as for `ALS.sweep`."""
        return _sweep(*entering(self, state, problem, objective), loss)


@functools.partial(jax.jit, static_argnames=("with_loss",))
def _sweep(solver: NewtonCG, state: State, problem: Problem, objective: Objective, with_loss: bool):
    check_memory(solver, state, problem, objective)
    problem = problem.arrange()
    here, user_inverse, good_users = _best_users(state.factors, problem, objective)
    items = here.joint("item")
    by_als = rowsolve.solve(normal.view(here, problem, objective, "item"), want=("inverse",))
    before, downhill = loss_and_neg_half_gradient(here, problem, objective, "item")

    turns = curvature.rotations(objective, here.item)
    at = curvature.Point(here, problem, objective, user_inverse, by_als.inverse, turns, jnp.array(True))
    steepest = jnp.sqrt(jnp.vdot(downhill, curvature.by_rows(by_als.inverse, downhill)))  # |ALS's step|, in D_I's norm
    radius = jnp.where(state.memory > 0, state.memory, 10 * steepest)
    target = solver.cg_tol * jnp.sqrt(jnp.sum(downhill**2))
    found = curvature.conjugate_gradients(at, downhill, target, solver.cg_steps, radius)
    there, _, good = _best_users(here.with_joint("item", items + found.x), problem, objective)
    fallen = before - layout_loss(there, problem, objective)
    rounding = 8 * jnp.finfo(before.dtype).eps * jnp.abs(before)
    share = (fallen + rounding) / (2 * found.gain + rounding)  # of what the quadratic promised
    accepted = (fallen >= -rounding) & (share > 1e-3)
    factors = jax.tree.map(functools.partial(jnp.where, accepted), there, here)
    wider = jnp.where(found.edge & (share > 0.75), 2 * radius, radius)
    radius = jnp.where(share >= 0.25, wider, found.size / 4)  # a quarter too where the loss is not finite
    after = loss(factors, problem, objective) if with_loss else None
    info = sweep_info(factors, good & good_users, by_als.good, 5 + 2 * found.iterations, after, problem=problem)
    return State(factors, radius), info


def _best_users(factors: Factors, problem: Problem, objective: Objective):
    solved = rowsolve.solve(normal.view(factors, problem, objective, "user"), want=("inverse",))
    return factors.with_joint("user", solved.joint()), solved.inverse, solved.good

"""A fit as a function: its predictions, differentiable in every number that the loss has.

There are two derivatives, and they differ. *Unrolled* is the derivative of the sweeps that were run, as for a fit
stopped early; *adjoint* that of the stationary point (`jals.adjoint`). Far from convergence they are derivatives of two
different fits. Both are of predictions: a factor is determined only up to a rotation, and so is its
derivative.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import AdjointError, ArgumentError, check_choice, is_traced
from ..model.factors import Factors, predict
from ..model.objectives import Objective
from ..model.problem import Problem
from ..solvers.protocol import State, cast, check_key, check_solver, check_whole, checked_inputs, entering, traits
from .adjoint import check_positive, stationary_factors

METHODS = ("unrolled", "adjoint")
_ONE_LEVEL = 16  # sweeps up to which the state before each is kept


def solution_map(
    solver: Any,
    problem: Problem,
    objective: Objective,
    *,
    sweeps: int = 15,
    key: jax.Array | None = None,
    method: str = "unrolled",
    tol: float | None = None,
    init: Factors | None = None,
) -> Callable[..., jax.Array]:
    """Fits, and returns `predict(user, item)`, whose scores are differentiable in the numbers of the objective, and in
    the problem's values and weights (`problem.with_values`), forward and in reverse.

        def held_out(log_reg):
            predict = jals.solution_map(jals.ALS(32), problem, jals.als_wr(jnp.exp(log_reg)), sweeps=15)
            return jnp.mean((predict(test.user, test.item) - test.value) ** 2)

        slope = jax.grad(held_out)(jnp.log(0.1))

    Args:
        solver: for "unrolled" one that can be differentiated the way that is asked for: `ALS` any way (exact linsolves
            by the implicit function theorem row by row, "cg" through the steps it makes), line searches
            forward only, `NewtonCG` not at all. For "adjoint" any; it only leads to the stationary point.
        sweeps: static.
        key: for the initial factors (default `jax.random.key(0)`), which have no derivative; their mean has.
        method: "unrolled": the derivative of these sweeps, exactly. In reverse the factors before each sweep are kept
            and the sweep is made again: memory of `sweeps` times the factors, 4 times the passes of the fit (over 16
            sweeps, 2 sqrt(sweeps) times the factors, 5 times the passes). Forward: 3 times the passes, for any number
            of tangents that are carried together (`jax.jacfwd`); right for few parameters.
            "adjoint": `sweeps` sweeps, then `jals.NewtonCG` until the stationarity is at most `tol`; the derivative of
            that point, by one linear system whatever the sweeps (`jals.adjoint`).
        tol: for "adjoint" only; default 1e-6 in float64, 1e-5 in float32.
        init: factors to start from, in place of initial ones.

    Returns: `predict(user, item, clip=None)`, as `jals.predict` with the factors given. Of an adjoint solution that
        failed inside a transformation, NaN.

    Raises:
        ArgumentError: for invalid arguments; where what is static is traced (rank, sweeps); for "adjoint"
            where a lambda is 0.
        AdjointError: where no stationary point was reached, outside transformations.
    """
    check_choice("method", method, METHODS)
    if method == "unrolled" and tol is not None:
        raise ArgumentError('tol is for method="adjoint": "unrolled" makes `sweeps` sweeps, no more and no fewer.')
    check_whole("sweeps", sweeps, 0)
    check_solver(solver)
    given = objective
    init, problem, objective = checked_inputs(init, problem, objective, rank=solver.rank, name="init", lead="problem")
    problem.check()
    given.check(problem, solver.rank)
    if key is not None:
        check_key(key)
    solver = cast(solver, problem.dtype)
    if method == "adjoint":
        check_positive(objective)
    factors = fitted(solver, problem, objective, jax.random.key(0) if key is None else key, init, sweeps)
    if method == "adjoint":
        factors = stationary_factors(factors, problem, objective, tol=tol)
        if not is_traced(factors.user) and not bool(jnp.isfinite(factors.user).all()):
            raise AdjointError(
                'no stationary point was reached: use float64, raise tol, or give method="unrolled", which '
                "differentiates the sweeps that were run. `jals.adjoint.polish` says how far it came.",
                info=None,
            )
    return functools.partial(predict, factors)


@functools.partial(jax.jit, static_argnames=("sweeps",))
def fitted(solver, problem, objective, key, init, sweeps) -> Factors:
    """The factors after `sweeps` sweeps, `unrolled` from the start of the key or from factors `init`."""
    state = solver.init(key, problem, objective, init)
    return unrolled(solver, state, problem, objective, sweeps).factors


def unrolled(solver: Any, state: State, problem: Problem, objective: Objective, sweeps: int) -> State:
    """The state after `sweeps` sweeps, as `jals.run`'s; in reverse mode it keeps states only, and makes each sweep
    again (see `solution_map`)."""
    check_whole("sweeps", sweeps, 0)
    return _unrolled(*entering(solver, state, problem, objective), sweeps)


@functools.partial(jax.jit, static_argnames=("sweeps",))
def _unrolled(solver: Any, state: State, problem: Problem, objective: Objective, sweeps: int) -> State:
    problem = problem.arrange()

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def one(state, _):
        return solver.sweep(state, problem, objective)[0], None

    if sweeps <= _ONE_LEVEL:
        return jax.lax.scan(one, state, length=sweeps)[0]
    several = math.isqrt(sweeps)

    @functools.partial(jax.checkpoint, prevent_cse=False)
    def some(state, _):
        return jax.lax.scan(one, state, length=several)

    state, _ = jax.lax.scan(some, state, length=sweeps // several)
    return jax.lax.scan(one, state, length=sweeps % several)[0]


def passes(solver: Any, sweeps: int, direction: str | None = None) -> int:
    """Passes over the entries by `unrolled` sweeps of ALS: without a derivative, or with one in "forward" or "reverse"
    mode.

    A half-sweep is one. Its tangents, any number together, take one for the derivative of the normal equations'
    residual and one to solve with their matrices again. In reverse it is made once more, and over 16 sweeps twice.
    """
    times = {None: 1, "forward": 3, "reverse": 4 if sweeps <= _ONE_LEVEL else 5}
    return (traits(solver).passes_per_sweep or 2) * sweeps * times[direction]

"""Derivatives of a stationary point of the loss, by the implicit function theorem: one linear system, however many
sweeps led there.

Where half the gradient g(theta, phi) of L in the unknowns theta (both sides' factors and biases) is zero, and phi are
the numbers of the objective, the values and the weights,

    d theta / d phi = -H^-1 dg/dphi,      so      d f / d phi = df/dphi - (H^-1 df/dtheta)' dg/dphi

for any f of the predictions; H is half the Hessian (`jals.rows.curvature`). H is singular along rotations of the
factors, which f does not see: they are projected out. Source: the implicit function theorem, for hypergradients as in
Bengio (2000) and Pedregosa (2016).

This is the derivative of the *converged* fit. One stopped early has another, that of the sweeps that were run
(`jals.solution_map` with method "unrolled").
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import metrics
from ..data.ratings import Ratings
from ..devices import match_varying
from ..errors import AdjointError, ArgumentError, is_traced
from ..model.factors import Factors, predict
from ..model.objectives import Objective
from ..model.problem import Problem
from ..reals import one_real
from ..rows import curvature
from ..rows.curvature import Joint
from ..solvers.newton import NewtonCG
from ..solvers.protocol import cast, check_whole, checked_inputs, mean_value

_PASSES_AROUND = 8  # of an adjoint solve: 2 for the rows' inverses, 4 of `curvature.solve`, 2 to pull it back


class Polished(NamedTuple):
    """A point made stationary.

    Attributes:
        factors: with the mean of the problem's values, where the objective centres.
        stationarity: as `Certificate.stationarity`.
        given: the same of the factors as they were given: how converged the fit was.
        sweeps: of `jals.NewtonCG`.
        passes: over the entries, including those that compute the stationarity.
    """

    factors: Factors
    stationarity: jax.Array
    given: jax.Array
    sweeps: jax.Array
    passes: jax.Array


class AdjointInfo(NamedTuple):
    """What a hypergradient cost, and how far to trust it.

    Attributes:
        iterations: of conjugate gradients in the adjoint system.
        residual: |H w - r| / |r| of its solution, computed anew, rotations projected out.
        curvature: the least curvature that conjugate gradients found, relative to that of the items' own matrices, at
            most 1. Negative: the point is no minimum, and there is no derivative.
        passes: over the entries by the adjoint system, polishing apart.
        polish_passes: by polishing.
        given, stationarity: how converged the factors were, and are after polishing.
        factors: the stationary point, where value and gradient are taken.
    """

    iterations: int
    residual: float
    curvature: float
    passes: int
    polish_passes: int
    given: float
    stationarity: float
    factors: Factors


class Hypergradient(NamedTuple):
    """The derivative of a held-out error in every number.

    Attributes:
        objective: an Objective whose leaves are derivatives in the objective's; None where that has None.
        values, weight: `(entries,)`, in the order of the ratings; those in weights hold at weights > 0.
    """

    objective: Objective
    values: jax.Array
    weight: jax.Array


Info, Gradient = AdjointInfo, Hypergradient  # the names that these had


def hypergradient(
    held_out: Ratings | Callable[[Callable], jax.Array],
    factors: Factors,
    problem: Problem,
    objective: Objective,
    *,
    tol: float = 1e-4,
    iterations: int = 1000,
    stationarity: float | None = None,
    polish_sweeps: int = 100,
) -> tuple[float, Hypergradient, AdjointInfo]:
    """The held-out error of the converged fit, and its derivative in every number of the objective, the values and the
    weights.

    The factors are first made stationary by `jals.NewtonCG` (`polish`), so they may come from a fit that was stopped
    early; but the answer is then that of the stationary point, which is another fit (`info.given`, `info.factors`).

    Args:
        held_out: Ratings, for the mean squared error sum v (s - t)^2 / sum v of their predictions s, t being the
            objective's target (the value; 1 with implicit feedback). Or a function that takes `predict(user, item)`
            and returns a scalar: of predictions, never of factors.
        factors: to start from.
        tol: the relative residual |H w - r| / |r| that the adjoint system must reach.
        iterations: of conjugate gradients, at most.
        stationarity: that the point must reach; default 1e-6 in float64, 1e-5 in float32, where less than 1e-6 may be
            out of reach.
        polish_sweeps: at most.

    Returns: (value, gradient, info).

    Passes: 8 + 2 iterations, polishing apart. Memory: (users + items) k^2 numbers for the rows' inverses, k = rank
    (+ 1 with biases), whatever the number of sweeps.

    Raises:
        ArgumentError: where arguments do not fit together, or a lambda is 0: then the loss has no isolated minimum.
        AdjointError: where polishing does not reach a stationary point, its curvature is negative (a saddle), or the
            system is not solved to `tol`. It carries `info`.
    """
    if not isinstance(held_out, Ratings) and not callable(held_out):
        raise ArgumentError(f"held_out is {type(held_out).__name__}, but must be Ratings, or a function of predict.")
    value_of = functools.partial(held_out_value, held_out)
    return stationary_gradient(
        value_of,
        factors,
        problem,
        objective,
        tol=tol,
        iterations=iterations,
        stationarity=stationarity,
        polish_sweeps=polish_sweeps,
    )


def stationary_gradient(
    value_of: Callable[[Factors, Objective], jax.Array],
    factors: Factors,
    problem: Problem,
    objective: Objective,
    *,
    tol: float = 1e-4,
    iterations: int = 1000,
    stationarity: float | None = None,
    polish_sweeps: int = 100,
) -> tuple[float, Hypergradient, AdjointInfo]:
    """`hypergradient` of any function of factors and objective that stays as it is when the factors are rotated, such
    as a ranking loss. Its own derivative in the objective's numbers, at fixed factors, is not in the gradient."""
    given, (factors, problem, objective) = objective, checked_inputs(factors, problem, objective, lead="problem")
    problem = problem.checked()
    given.check(problem, factors.rank)
    check_positive(objective)
    for name, number in (("tol", tol), ("stationarity", 0 if stationarity is None else stationarity)):
        one_real(name, number)
    check_whole("iterations", iterations, 1)
    check_whole("polish_sweeps", polish_sweeps, 0)
    if stationarity is None:
        stationarity = 1e-6 if problem.dtype == jnp.float64 else 1e-5
    polished = polish(factors, problem, objective, tol=stationarity, sweeps=polish_sweeps)
    here = polished.factors

    value, slope = jax.value_and_grad(value_of)(here, objective)
    found, gradient = _pulled(here, slope, problem, objective, tol, iterations)
    info = AdjointInfo(
        int(found.iterations),
        float(found.residual),
        float(found.curvature),
        _PASSES_AROUND + 2 * int(found.iterations),
        int(polished.passes),
        float(polished.given),
        float(polished.stationarity),
        here,
    )
    _judge(info, bool(found.converged), tol, stationarity, int(polished.sweeps))
    return float(value), gradient, info


def polish(factors: Factors, problem: Problem, objective: Objective, *, tol: Any = 1e-6, sweeps: Any = 100) -> Polished:
    """The stationary point that `jals.NewtonCG` reaches from these factors: sweeps until the stationarity is at most
    `tol`, `sweeps` of them at most. Jittable, without a derivative: `jals.solution_map` and `stationary_factors`
    differentiate where it ends."""
    return _polish(*checked_inputs(factors, problem, objective, lead="problem"), tol, sweeps)


class PolishProgress(NamedTuple):
    """The newest stationarity and the first, how many were computed, and the passes so far."""

    value: jax.Array
    given: jax.Array
    looks: jax.Array
    passes: jax.Array


@jax.jit
def _polish(factors: Factors, problem: Problem, objective: Objective, tol, sweeps) -> Polished:
    problem = problem.arrange()
    if factors.mean is not None:
        factors = dataclasses.replace(factors, mean=mean_value(problem))
    solver = cast(NewtonCG(factors.rank), problem.dtype)

    start = solver.init(jax.random.key(0), problem, objective, factors)
    unknown, zero = jnp.full((), jnp.nan, problem.dtype), jnp.zeros((), jnp.int32)
    (start, unknown, zero), *_ = match_varying((start, unknown, zero), problem, objective, tol, sweeps)

    def going(now: PolishProgress) -> jax.Array:
        return (now.looks == 0) | ((now.value > tol) & (now.looks <= sweeps))

    def step(carry):
        # The stationarity is computed before the sweep and not again after the loop: half as much to compile.
        state, now = carry
        value = curvature.stationarity(state.factors, problem, objective)
        more = (value > tol) & (now.looks < sweeps)
        after, passes = jax.lax.cond(more, swept, lambda state: (state, zero), state)
        given = jnp.where(now.looks == 0, value, now.given)
        return after, PolishProgress(value, given, now.looks + 1, now.passes + passes + 4)

    def swept(state):
        after, info = solver.sweep(state, problem, objective)
        return after, info.passes

    fresh = PolishProgress(unknown, unknown, zero, zero)
    state, now = jax.lax.while_loop(lambda carry: going(carry[1]), step, (start, fresh))
    return Polished(state.factors, now.value, now.given, now.looks - 1, now.passes)


@jax.jit
def _pulled(here: Factors, slope: Factors, problem: Problem, objective: Objective, tol, iterations):
    """(the solution w of H w = slope, d f / d phi)."""
    at = curvature.point(here, problem, objective)
    found = curvature.solve(at, Joint(slope.joint("user"), slope.joint("item")), tol, iterations)
    w = found.v

    def seen(objective: Objective, values: jax.Array, weight: jax.Array) -> jax.Array:
        now = problem.with_values(values, weight)
        mean = None if here.mean is None else mean_value(now)
        left = curvature.neg_half_gradients(dataclasses.replace(here, mean=mean), now, objective)
        direct = 0.0 if mean is None else slope.mean * mean
        return jnp.vdot(w.user, left.user) + jnp.vdot(w.item, left.item) + direct

    return found, Hypergradient(*jax.grad(seen, argnums=(0, 1, 2))(objective, problem.value, problem.weight))


def stationary_factors(
    start: Factors,
    problem: Problem,
    objective: Objective,
    *,
    tol: Any = None,
    sweeps: Any = 100,
    solve_tol: Any = None,
    iterations: Any = 1000,
) -> Factors:
    """`polish`'s factors, differentiable forward and in reverse in the objective, values and weights, by the implicit
    function theorem. Pure and jittable. NaN where no stationary point was reached; NaN derivatives where it has
    negative curvature or the adjoint system was not solved. Differentiate functions of predictions only.

    `tol` of the stationarity and `solve_tol` of the system's relative residual are 1e-6 and 1e-8 in float64, 1e-5 and
    1e-4 in float32, unless given.
    """
    start, problem, objective = checked_inputs(start, problem, objective, name="start", lead="problem")
    double = problem.dtype == jnp.float64
    tol = (1e-6 if double else 1e-5) if tol is None else tol
    solve_tol = (1e-8 if double else 1e-4) if solve_tol is None else solve_tol
    start = jax.lax.stop_gradient(start)
    if start.mean is not None:
        start = dataclasses.replace(start, mean=mean_value(problem))
    numbers = jax.tree.map(jnp.asarray, (tol, sweeps, solve_tol, iterations))
    return _stationary(*match_varying(start, problem, objective, numbers))


@jax.custom_jvp
def _stationary(start: Factors, problem: Problem, objective: Objective, numbers: Any) -> Factors:
    tol, sweeps, _, _ = numbers
    found = _polish(start, problem, objective, tol, sweeps)
    return jax.tree.map(lambda leaf: jnp.where(found.stationarity <= tol, leaf, jnp.nan), found.factors)


@_stationary.defjvp
def _stationary_jvp(primals, tangents):
    start, problem, objective, numbers = primals
    start_dot, problem_dot, objective_dot, _ = tangents
    here = _stationary(start, problem, objective, numbers)
    *_, solve_tol, iterations = numbers

    def equations(mean, problem, objective):
        return curvature.neg_half_gradients(dataclasses.replace(here, mean=mean), problem, objective)

    outer = (here.mean, problem, objective)
    _, moved = jax.jvp(equations, outer, (start_dot.mean, problem_dot, objective_dot))

    def solve(_, rhs):
        found = curvature.solve(curvature.point(here, problem, objective), rhs, solve_tol, iterations)
        return jax.tree.map(lambda leaf: jnp.where(found.converged, leaf, jnp.nan), found.v)

    product = functools.partial(curvature.product, here, problem, objective)
    v = jax.lax.custom_linear_solve(product, moved, solve, symmetric=True)
    dot = dataclasses.replace(here, mean=start_dot.mean).with_joint("user", v.user).with_joint("item", v.item)
    return here, dot


def held_out_value(held_out: Ratings | Callable, factors: Factors, objective: Objective) -> jax.Array:
    """The held-out error at these factors, see `hypergradient`."""
    if not isinstance(held_out, Ratings):
        return held_out(functools.partial(predict, factors))
    return metrics.held_out_error(factors, metrics.HeldOut.of(held_out, factors.dtype), objective)


def check_positive(objective: Objective) -> None:
    """Refuses a lambda of 0, where it is not traced.

    Raises:
        ArgumentError: naming it.
    """
    for name in ("reg_user", "reg_item"):
        reg = getattr(objective, name)
        if not is_traced(reg) and (np.asarray(reg) <= 0).any():
            row = f" in row {int(np.argmax(np.asarray(reg) <= 0))}" if np.ndim(reg) else ""
            raise ArgumentError(
                f"{name} is 0{row}: without regularisation any invertible change of basis leaves the loss as it is, "
                "and no minimum can be followed as the numbers move. Give a lambda > 0, however small, or "
                'differentiate the sweeps that were run (method "unrolled").'
            )


def _judge(info: AdjointInfo, converged: bool, tol: float, stationarity: float, sweeps: int) -> None:
    if not info.stationarity <= stationarity:
        raise AdjointError(
            f"no stationary point: the fit's stationarity was {info.given:.1e}, {sweeps} polishing sweeps "
            f"({info.polish_passes:,} passes) brought it to {info.stationarity:.1e}, and {stationarity:.0e} is asked "
            "for. Fit longer, raise polish_sweeps, use float64, or differentiate the sweeps that were run "
            '(jals.solution_map, method="unrolled").',
            info=info,
        )
    if info.curvature < 0 and not converged:
        raise AdjointError(
            f"the point is no minimum: its curvature is negative ({info.curvature:.1e} of the items' own). Start from "
            "other factors (another key), or polish further (a smaller `stationarity`).",
            info=info,
        )
    if not converged or not np.isfinite(info.residual):
        raise AdjointError(
            f"the adjoint system is solved to a relative residual of {info.residual:.1e} in {info.iterations} "
            f"iterations, and {tol:.0e} is asked for. Raise `iterations` or `tol`, or use float64.",
            info=info,
        )

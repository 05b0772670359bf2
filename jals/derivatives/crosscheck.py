"""Hypergradients in three ways: unrolled, adjoint, and by finite differences of whole fits."""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..model.objectives import Objective
from ..model.problem import Problem
from ..solvers.protocol import check_whole
from . import adjoint, solution

_PLACES, _WEIGHTS = (-2, -1, 1, 2), (1 / 12, -8 / 12, 8 / 12, -1 / 12)  # a difference of order 4
_STEPS = 1e-4, 1e-3  # h: of sweeps, exact to rounding; of stationary points, exact to their stationarity


class Compared(NamedTuple):
    """The derivative of the held-out error as one number of the fit moves along a random direction (numbers of the
    objective and weights in proportion to themselves, values by about 1): of the sweeps that were run, and of the
    stationary point, each with the difference of fits made anew."""

    name: str
    unrolled: float
    sweeps_difference: float
    adjoint: float
    converged_difference: float

    @property
    def unrolled_error(self) -> float:
        return _apart(self.unrolled, self.sweeps_difference)

    @property
    def adjoint_error(self) -> float:
        return _apart(self.adjoint, self.converged_difference)


class Cost(NamedTuple):
    """Of one way, all numbers together: passes over the entries, seconds without compilation."""

    passes: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class Check:
    """What `check_hypergradient` found; `str` of it is a table.

    Attributes:
        rows: one `Compared` for each number.
        costs: `Cost` by "unrolled", "sweeps_difference", "adjoint", "polish", "converged_difference".
        sweeps: of the unrolled fit.
        error, converged_error: the held-out error after these sweeps, and at the stationary point.
        info: of the adjoint, see `jals.adjoint.AdjointInfo`.
    """

    rows: list[Compared]
    costs: dict[str, Cost]
    sweeps: int
    error: float
    converged_error: float
    info: adjoint.AdjointInfo

    def worst(self) -> tuple[float, float]:
        """The largest relative errors, (unrolled, adjoint), against their differences."""
        return max(row.unrolled_error for row in self.rows), max(row.adjoint_error for row in self.rows)

    def __str__(self) -> str:
        fits = f"{self.sweeps} sweeps", "stationary point"
        lines = [
            f"{'':14}{f'derivative of {fits[0]}':^38}{f'derivative of the {fits[1]}':^38}",
            f"{'':14}{'unrolled':>13}{'differences':>14}{'apart':>10} {'adjoint':>13}{'differences':>14}{'apart':>10}",
        ]
        for name, unrolled, again, implicit, converged in self.rows:
            pairs = (unrolled, again), (implicit, converged)
            lines.append(name.ljust(14) + " ".join(f"{a:>13.5e}{b:>14.5e}{_apart(a, b):>10.0e}" for a, b in pairs))
        lines += ["", f"{'':24}{'passes':>12}{'seconds':>10}   (each for all numbers together; compilation apart)"]
        lines += [
            f"{name.replace('_', ' '):24}{cost.passes:>12,}{cost.seconds:>10.3f}" for name, cost in self.costs.items()
        ]
        info = self.info
        lines.append(
            f"held-out error {self.error:.6g} after {fits[0]} (stationarity {info.given:.0e}), "
            f"{self.converged_error:.6g} at the {fits[1]} ({info.stationarity:.0e})"
        )
        return "\n".join(lines)


def check_hypergradient(
    held_out: Ratings | Callable[[Callable], jax.Array],
    solver: Any,
    problem: Problem,
    objective: Objective,
    *,
    sweeps: int = 15,
    key: jax.Array | None = None,
    tol: float = 1e-10,
    seed: int = 0,
) -> Check:
    """Compares the derivatives of a held-out error, unrolled, adjoint and by differences, in every number of the
    objective, in the values and in the weights; prints the table, and returns it.

    Args:
        held_out: as for `jals.adjoint.hypergradient`.
        solver: one that differentiates in reverse.
        sweeps: of the unrolled fit; also what the polishing starts from.
        tol: the stationarity of the converged fit, and the relative residual of the adjoint system.
        seed: of the random directions.

    Differences are of order 4, (f(-2h) - 8 f(-h) + 8 f(h) - f(2h)) / 12 h with h = 1e-4 for the sweeps and 1e-3 for the
    stationary point: four fits a number, those of the stationary point polished from it, to tol / 100
    (but no further than 1e-13).

    Raises:
        ArgumentError: for float32 problems, in which differences say nothing.
        AdjointError: see `jals.adjoint.hypergradient`.
    """
    check_whole("sweeps", sweeps, 1)
    if problem.dtype != jnp.float64:
        raise ArgumentError(
            'differences need float64: jax.config.update("jax_enable_x64", True), and values of dtype float64.'
        )
    objective, key = objective.cast(problem.dtype), jax.random.key(0) if key is None else key
    numbers = (objective, problem.value, problem.weight)

    @jax.jit
    def error(numbers):
        objective, values, weight = numbers
        now = problem.with_values(values, weight)
        return adjoint.held_out_value(held_out, solution.fitted(solver, now, objective, key, None, sweeps), objective)

    @jax.jit
    def converged(numbers, factors):
        objective, values, weight = numbers
        now = adjoint.polish(factors, problem.with_values(values, weight), objective, tol=max(tol / 100, 1e-13))
        return adjoint.held_out_value(held_out, now.factors, objective), now.passes

    costs: dict[str, Cost] = {}
    (value, unrolled), seconds = _timed(jax.jit(jax.value_and_grad(error)), numbers)
    costs["unrolled"] = Cost(solution.passes(solver, sweeps, "reverse"), seconds)
    factors = solution.fitted(solver, problem, objective, key, None, sweeps)
    polished, seconds = _timed(functools.partial(adjoint.polish, tol=tol), factors, problem, objective)
    by_adjoint = functools.partial(adjoint.hypergradient, tol=tol, stationarity=tol)
    (converged_value, gradient, info), again = _timed(by_adjoint, held_out, polished.factors, problem, objective)
    info = info._replace(given=float(polished.given), polish_passes=int(polished.passes))

    rows, passes, spent = [], [0, 0], [0.0, 0.0]
    for name, direction in _directions(numbers, seed):
        found = []
        for way, function in enumerate((lambda n: (error(n), 2 * sweeps), lambda n: converged(n, info.factors))):
            total = 0.0
            for place, weight in zip(_PLACES, _WEIGHTS, strict=True):
                (at, made), took = _timed(function, _moved(numbers, direction, place * _STEPS[way]))
                total += weight * float(at) / _STEPS[way]
                passes[way] += int(made)
                spent[way] += took
            found.append(total)
        exact = [_along(each, direction) for each in (unrolled, tuple(gradient))]
        rows.append(Compared(name, exact[0], found[0], exact[1], found[1]))
    costs["sweeps_difference"] = Cost(passes[0], spent[0])
    costs |= {"polish": Cost(info.polish_passes, seconds), "adjoint": Cost(info.passes, again)}
    costs["converged_difference"] = Cost(passes[1], spent[1])
    check = Check(rows, costs, sweeps, float(value), float(converged_value), info)
    print(check)
    return check


def _moved(numbers: Any, direction: Any, step: float) -> Any:
    return jax.tree.map(lambda number, d: number + step * d, numbers, direction)


def _timed(function: Callable, *arguments: Any) -> tuple[Any, float]:
    """(what it returns, seconds of a second call)."""
    jax.block_until_ready(function(*arguments))
    started = time.perf_counter()
    found = jax.block_until_ready(function(*arguments))
    return found, time.perf_counter() - started


def _directions(numbers: Any, seed: int):
    """(name, direction that moves it alone) for every leaf."""
    rng = np.random.default_rng(seed)
    named = [(field.name, getattr(numbers[0], field.name)) for field in dataclasses.fields(numbers[0])]
    leaves, structure = jax.tree.flatten(numbers)
    names = [name for name, leaf in named if isinstance(leaf, jax.Array)] + ["values", "weight"]
    for at, (name, leaf) in enumerate(zip(names, leaves, strict=True)):
        move = [np.zeros(each.shape) for each in leaves]
        scale = 1.0 if name == "values" or name.startswith("prior") else np.asarray(leaf)
        move[at] = rng.normal(size=leaf.shape) * scale if leaf.ndim else np.asarray(scale)
        if move[at].any():
            yield name, jax.tree.unflatten(structure, move)


def _along(gradient: Any, direction: Any) -> float:
    return float(sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)))


def _apart(one: float, other: float) -> float:
    return abs(one - other) / max(abs(other), 1e-300)

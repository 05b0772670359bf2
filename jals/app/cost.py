"""What a fit costs apart from seconds: passes over the entries, estimated operations, estimated memory.

Operations are floating point additions and multiplications of the textbook algorithm for n entries, rank k (with a
bias k + 1), and rows on both sides together; what a compiler adds or saves is not in them.

    exact ALS, a half-sweep    n (k^2 + 3 k) for Grams and right-hand sides; a row k^3 / 3 + 2 k^2 (LU: 2/3 k^3 + 2 k^2)
    accelerated ALS            the same for every two passes; 4 k n for the loss; the step ahead from m changes,
                               items k (2 m (m + 1) + 6 m), and m^3 for its system
    Newton's method            three exact half-sweeps, 2 k^3 a row for inverses; 2 k^2 a row for two other passes
    a pass of anything else    4 k n: each entry's score, and its part in a row's sum
    the sum over all pairs     2 k^2 a row for the Gram of a side, and as much for its product with the rows
    an optimizer's step        12 for each number of the factors
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jals

from ..anderson import AndersonALS
from ..newton import NewtonCG

Solver = jals.ALS | AndersonALS | NewtonCG | jals.Gradient


class Size(NamedTuple):
    """Of the table that a fit learns from."""

    users: int
    items: int
    entries: int


def passes_per_sweep(solver: Solver) -> int | None:
    """Passes over the entries a sweep makes, or None where it takes as many as it needs: a line search, a step turned
    down, conjugate gradients."""
    if isinstance(solver, jals.ALS):
        return 2 if solver.linsolve != "cg" else 2 * (2 + 2 * solver.cg_steps)
    if isinstance(solver, AndersonALS | NewtonCG):
        return None
    memory = jax.eval_shape(lambda: solver.optimizer(**solver.hyper).init(jnp.zeros(2)))
    return 2 if optax.tree.get(memory, "num_linesearch_steps") is None else None


def operations(solver: Solver, objective: jals.Objective, size: Size, sweeps: Any, passes: Any) -> np.ndarray:
    """Estimated operations after so many sweeps and passes, as float64 of their shape."""
    sweeps, passes = np.asarray(sweeps, float), np.asarray(passes, float)
    k, rows = solver.rank + objective.bias, size.users + size.items
    all_pairs = 0 if objective.unobserved_weight is None else 4 * k**2 * rows
    entries_of_pass = 4 * k * size.entries
    if isinstance(solver, jals.ALS) and solver.linsolve != "cg":
        return sweeps * _exact(size, k, rows, solver.linsolve, all_pairs)
    if isinstance(solver, AndersonALS):
        m = solver.memory
        ahead = size.items * k * (2 * m * (m + 1) + 6 * m) + m**3
        return passes / 2 * (_exact(size, k, rows, solver.linsolve, all_pairs) + entries_of_pass) + sweeps * ahead
    if isinstance(solver, NewtonCG):
        solving = 1.5 * _exact(size, k, rows, "cholesky", all_pairs) + 2 * k**3 * rows
        return sweeps * solving + (passes - 3 * sweeps) * (entries_of_pass + k**2 * rows + all_pairs / 2)
    stepping = 0 if isinstance(solver, jals.ALS) else 12 * k * rows * _steps(solver, size)
    return passes * (entries_of_pass + all_pairs / 2) + sweeps * stepping


def _exact(size: Size, k: int, rows: int, linsolve: str, all_pairs: int) -> float:
    """Operations of a sweep of exact ALS."""
    solving = (1 if linsolve == "lu" else 0.5) * (2 / 3) * k**3 + 2 * k**2
    return 2 * size.entries * (k**2 + 3 * k) + rows * solving + all_pairs


def _steps(solver: jals.Gradient, size: Size) -> int:
    """Steps of the optimizer a sweep."""
    return 1 if solver.batch_size is None else -(-size.entries // solver.batch_size)


def table_bytes(size: Size, dtype: str, folds: int = 1) -> int:
    """Estimated memory of a problem on the device: the entries, and both sides' layouts with a sixth of padding."""
    number = np.dtype(dtype).itemsize
    return size.entries * int(8 + 2 * number + 2 * 1.17 * (8 + 2 * number * folds))


def fit_bytes(solver: Solver, size: Size, dtype: str) -> int:
    """Estimated memory of a fit's state, before and after a sweep, and of what a sweep makes on the way: for an
    optimizer the gradient, two memories and an update; for ALS one side's systems, accelerated the changes it remembers
    too; for Newton's method every row's inverse."""
    rows, k = size.users + size.items, solver.rank + 1
    numbers = rows * k * (2 if isinstance(solver, jals.ALS | AndersonALS) else 8)
    if isinstance(solver, AndersonALS):
        numbers += 2 * size.items * k * (2 * solver.memory + 1)
    if isinstance(solver, NewtonCG):
        numbers += rows * k**2
    return np.dtype(dtype).itemsize * numbers

"""Solving the normal equations of one side: exactly, by Cholesky or LU, or nearly, by conjugate gradients.

How the exact solution is differentiated is apart from how it is found. The residual of the equations is cheap, plain
JAX; by the implicit function theorem its derivative gives that of the solution, at the price of one more solve with the
same matrices (`_exact`). So memory does not grow with what a solve does inside, and whatever solves them will do.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .normal import View, over_slabs, products, residuals, slab_diagonals, slab_products, slab_systems, take


class Solved(NamedTuple):
    """One side's rows at the minimum of the loss with the other side held.

    Attributes:
        rows: `(rows, rank)`. NaN where a row has no unique solution.
        bias: `(rows,)`, or None.
        good: bool `(rows,)`, False where a row has no unique solution.
        cholesky: `(rows, k, k)`, the lower Cholesky factor of each row's matrix, or None.
    """

    rows: jax.Array
    bias: jax.Array | None
    good: jax.Array
    cholesky: jax.Array | None = None


# ---- one row ----


def _cholesky(matrix: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(solution, pivots, lower factor) of one row; NaN where the matrix is not positive definite."""
    lower = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    return jax.scipy.linalg.cho_solve((lower, True), rhs), jnp.diagonal(lower) ** 2, lower


def _lu(matrix: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same by the algorithm of `jnp.linalg.solve`, whose pivots can be seen here."""
    factor, swaps, _ = jax.lax.linalg.lu(matrix)
    return jax.scipy.linalg.lu_solve((factor, swaps), rhs), jnp.abs(jnp.diagonal(factor)), factor


def _inverse(matrix: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(solution, pivots, inverse of the matrix) of one row."""
    x, pivots, lower = _cholesky(matrix, rhs)
    return x, pivots, jax.scipy.linalg.cho_solve((lower, True), jnp.eye(len(rhs), dtype=rhs.dtype))


_EXACT = {"cholesky": _cholesky, "lu": _lu}
LINSOLVES = (*_EXACT, "cg")


# ---- all rows of a side ----


def solve(view: View, linsolve: str = "cholesky") -> Solved:
    """The minimisers by an exact `linsolve`, "cholesky" or "lu".

    Differentiable in every number of the view, forward and reverse, any number of times: each derivative costs one
    more solve and two products with the entries.
    """
    return _solved(view, *_exact(linsolve, view))


def solve_with_cholesky(view: View) -> Solved:
    """`solve` by Cholesky that hands each row's factor back, k^2 numbers a row, for sampling and uncertainty.
    Derivatives go by JAX's own rule for the factorization."""
    return _solved(view, *_factorize_and_solve(_cholesky, view, keep=True, differentiable=True))


def solve_with_inverse(view: View) -> tuple[Solved, jax.Array]:
    """(`solve` by Cholesky, the inverse of each row's matrix `(rows, k, k)`), not differentiable. What has to be solved
    many times with the same matrices is then a product: on a CPU far quicker than a call of LAPACK a row."""
    x, good, inverse = _factorize_and_solve(_inverse, view, keep=True)
    assert inverse is not None
    return _solved(view, x, good), inverse


def solve_cg(view: View, start: jax.Array, steps: int) -> Solved:
    """`steps` steps of conjugate gradients from the unknowns `start` `(rows, k)`, preconditioned by the diagonal.

    Matrix-free: a step costs two products with each row's entries. The result is not exact, and its derivatives are
    those of the steps made, the start included. Source: Hestenes and Stiefel (1952).
    """
    start = jnp.where(empty_rows(view)[:, None], view.prior, start)

    def work(row, sums):
        diagonal, rhs = slab_diagonals(view, row, sums)
        scale = 1 / jnp.where(diagonal > 0, diagonal, 1.0)

        def step(carry, _):
            x, residual, direction, size = carry
            moved = slab_products(view, row, sums, direction)
            length = _ratio(size, jnp.sum(direction * moved, axis=-1))
            x, residual = x + length * direction, residual - length * moved
            preconditioned = scale * residual
            new_size = jnp.sum(residual * preconditioned, axis=-1)
            return (x, residual, preconditioned + _ratio(new_size, size) * direction, new_size), None

        x = take(start, row)
        residual = rhs - slab_products(view, row, sums, x)
        direction = scale * residual
        carry = (x, residual, direction, jnp.sum(residual * direction, axis=-1))
        return jax.lax.scan(step, carry, length=steps)[0][0]

    x = over_slabs(view, work, start)
    enough = view.slots.count >= view.needed
    return _solved(view, x, view.blank | (jnp.isfinite(x).all(axis=-1) & enough))


def _ratio(over: jax.Array, under: jax.Array) -> jax.Array:
    """over / under `(rows, 1)`, 0 where under is 0: conjugate gradients that have arrived stay where they are."""
    positive = under > 0
    return jnp.where(positive, over / jnp.where(positive, under, 1.0), 0.0)[:, None]


def _solved(view: View, x: jax.Array, good: jax.Array, cholesky: jax.Array | None = None) -> Solved:
    x = jnp.where(good[:, None], x, jnp.nan)
    x = jnp.where(empty_rows(view)[:, None], view.prior, x)  # to the bit, as P x = P m is not solved to the bit
    rows, bias = (x[:, :-1], x[:, -1]) if view.has_bias else (x, None)
    return Solved(rows, bias, good, cholesky)


def empty_rows(view: View) -> jax.Array:
    """bool `(rows,)`: rows that equal their prior mean, since nothing but the prior knows them."""
    return (view.slots.count == 0) if view.gram is None else view.blank


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _exact(linsolve: str, view: View) -> tuple[jax.Array, jax.Array]:
    """(x, good) for every row."""
    return _factorize_and_solve(_EXACT[linsolve], view)[:2]


@_exact.defjvp
def _exact_jvp(linsolve, primals, tangents):
    (view,), (view_dot,) = primals, tangents
    x, good = _exact(linsolve, view)
    # matrix(view) x = rhs(view), so matrix x_dot = the derivative of rhs - matrix x with x held.
    _, residual_dot = jax.jvp(lambda view: residuals(view, x), (view,), (view_dot,))
    x_dot = jax.lax.custom_linear_solve(
        functools.partial(products, view),
        residual_dot,
        lambda _, rhs: _factorize_and_solve(_EXACT[linsolve], view, rhs)[0],
        symmetric=True,
    )
    return (x, good), (x_dot, np.zeros(good.shape, jax.dtypes.float0))


def _factorize_and_solve(
    solver: Callable, view: View, rhs: jax.Array | None = None, keep: bool = False, differentiable: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """(x, good, factors) for the equations' own right-hand side, or for another one `(rows, k)`; the factors
    `(rows, k, k)`, what `solver` makes third of each row, only with `keep`."""
    rows, k = view.reg.shape
    epsilon = k * jnp.finfo(view.reg.dtype).eps

    def work(row, sums):
        matrix, own = slab_systems(view, row, sums)
        x, pivots, factor = _each_row(solver, matrix, own if rhs is None else take(rhs, row), differentiable)
        largest = jnp.max(jnp.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)
        solvable = ~take(view.strict, row, False) | (pivots.min(axis=-1) > epsilon * largest)
        good = jnp.isfinite(x).all(axis=-1) & solvable & (take(view.slots.count, row) >= take(view.needed, row))
        good |= take(view.blank, row, True)
        return (x, good, factor) if keep else (x, good)

    # Rows in no slab have no entries: their matrix is a diagonal, and their solution the prior mean.
    diagonal = jnp.where(view.blank[:, None], 1.0, view.reg)
    initial = [view.prior if rhs is None else rhs / diagonal, jnp.ones(rows, bool)]
    if keep:
        initial.append(jax.vmap(jnp.diag)(1 / diagonal if solver is _inverse else jnp.sqrt(diagonal)))
    x, good, *factors = over_slabs(view, work, tuple(initial))
    return x, good, factors[0] if keep else None


def _each_row(solver: Callable, matrix: jax.Array, rhs: jax.Array, differentiable: bool) -> tuple[jax.Array, ...]:
    """`solver` for each of a slab's systems: batched on accelerators; on a CPU one LAPACK call a system.

    jaxlib 0.10 splits a batched LAPACK call over XLA's thread pool and waits there for the parts. As many such calls at
    once as the pool has threads (two buckets of one sweep on two cores; the shards of a `shard_map`) wait for ever.
    Calls for single systems never wait, were measured faster, and leave the other threads to other buckets.
    `sequential_vmap` keeps them single under the caller's `vmap`; it does not differentiate, which only the `keep`
    path asks for.
    """
    single = solver if differentiable else jax.custom_batching.sequential_vmap(solver)
    return jax.lax.platform_dependent(
        matrix,
        rhs,
        cpu=lambda matrix, rhs: jax.lax.map(lambda system: single(*system), (matrix, rhs)),
        default=jax.vmap(solver),
    )

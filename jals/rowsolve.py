"""Solving the normal equations of one side: exactly, by Cholesky or LU, or nearly, by conjugate gradients.

How the exact solution is differentiated is apart from how it is found. The residual of the equations is cheap, plain
JAX; by the implicit function theorem its derivative gives that of the solution, at the price of one more solve with the
same matrices (`_exact`). So memory does not grow with what a solve does inside, and whatever solves them will do: XLA
slab by slab, or on a CPU the kernel of `jals.native` (`BACKENDS`).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from . import native
from .devices import alike
from .normal import (
    View,
    over_slabs,
    products,
    residuals,
    row_losses,
    slab_diagonals,
    slab_products,
    slab_systems,
    take,
)
from .opaque import Opaque


class Solved(NamedTuple):
    """One side's rows at the minimum of the loss with the other side held.

    Attributes:
        rows: `(rows, rank)`. NaN where a row has no unique solution.
        bias: `(rows,)`, or None.
        good: bool `(rows,)`, False where a row has no unique solution.
        value: `(rows,)`, the part of the loss that depends on the row (see `normal.row_losses`), or None. Taken from
            the row's system A x = b as c - 2 b'x + x'A x: without another pass, and rounded as c + |A|_F |x|^2 is. (A
            itself is rounded so; where it is ill-conditioned, |A|_F |x|^2 may be far above c and x'A x.)
        cholesky: `(rows, k, k)`, the lower Cholesky factor of each row's matrix, or None.
    """

    rows: jax.Array
    bias: jax.Array | None
    good: jax.Array
    value: jax.Array | None = None
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
BACKENDS = ("auto", "xla", "native")


class _How(NamedTuple):
    """What is fixed when a solve is compiled: see `solve`."""

    linsolve: str
    backend: str
    value: bool = False


# ---- all rows of a side ----


def solve(view: View, linsolve: str = "cholesky", backend: str = "auto", value: bool = False) -> Solved:
    """The minimisers by an exact `linsolve`, "cholesky" or "lu".

    Differentiable in every number of the view, forward and reverse, any number of times: each derivative costs one
    more solve and two products with the entries.

    Args:
        backend: "xla"; "native", the kernel of `jals.native`, on CPUs and by Cholesky only; "auto", the kernel where it
            can be used, else XLA, chosen for the platform that the program is compiled for.
        value: whether `Solved.value` is wanted.
    """
    x, good, *values = _exact(_How(linsolve, backend, value), view)
    return _solved(view, x, good > 0, *values)


def solve_with_cholesky(view: View, backend: str = "auto") -> Solved:
    """`solve` by Cholesky that hands each row's factor back, k^2 numbers a row, for sampling and uncertainty.
    Derivatives go by JAX's own rule for the factorization."""
    x, good, cholesky = _factored(backend, view)
    return _solved(view, x, good > 0, cholesky=cholesky)


def solve_with_inverse(view: View) -> tuple[Solved, jax.Array]:
    """(`solve` by Cholesky, the inverse of each row's matrix `(rows, k, k)`), not differentiable. What has to be solved
    many times with the same matrices is then a product: on a CPU far quicker than a call of LAPACK a row."""
    x, good, _, inverse = _factorize_and_solve(_inverse, view, keep=True)
    return _solved(view, x, good), inverse


def solve_cg(view: View, start: jax.Array, steps: int, value: bool = False) -> Solved:
    """`steps` steps of conjugate gradients from the unknowns `start` `(rows, k)`, preconditioned by the diagonal.

    Matrix-free: a step costs two products with each row's entries. The result is not exact, and its derivatives are
    those of the steps made, the start included. Source: Hestenes and Stiefel (1952).
    """
    view, start = alike(view, start)
    start = jnp.where(empty_rows(view)[:, None], view.prior, start)

    def work(row, sums):
        diagonal, rhs, constant = slab_diagonals(view, row, sums, constant=value)
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
        x, residual = jax.lax.scan(step, carry, length=steps)[0][:2]
        # x'A x = x'(b - the residual)
        return (x,) if constant is None else (x, constant - jnp.sum(x * (rhs + residual), axis=-1))

    initial = (start, jnp.zeros(len(start), start.dtype)) if value else (start,)
    x, *values = over_slabs(view, work, initial)
    enough = view.slots.count >= view.needed
    good = view.blank | (jnp.isfinite(x).all(axis=-1) & enough)
    return _solved(view, x, good, values[0] if value else None)


def _ratio(over: jax.Array, under: jax.Array) -> jax.Array:
    """over / under `(rows, 1)`, 0 where under is 0: conjugate gradients that have arrived stay where they are."""
    positive = under > 0
    return jnp.where(positive, over / jnp.where(positive, under, 1.0), 0.0)[:, None]


def _solved(
    view: View, x: jax.Array, good: jax.Array, value: jax.Array | None = None, cholesky: jax.Array | None = None
) -> Solved:
    x = jnp.where(good[:, None], x, jnp.nan)
    x = jnp.where(empty_rows(view)[:, None], view.prior, x)  # to the bit, as P x = P m is not solved to the bit
    rows, bias = (x[:, :-1], x[:, -1]) if view.has_bias else (x, None)
    return Solved(rows, bias, good, value, cholesky)


def empty_rows(view: View) -> jax.Array:
    """bool `(rows,)`: rows that equal their prior mean, since nothing but the prior knows them."""
    return (view.slots.count == 0) if view.gram is None else view.blank


def _solution(how: _How, view: View) -> list[jax.Array]:
    """[x, good as 0 or 1, value where asked for] for every row."""
    x, good, value = _each_backend(how, view, None)
    return [x, good.astype(x.dtype), *([] if value is None else [value])]


def _solution_rule(how: _How, view: View, view_dot: View) -> tuple[list[jax.Array], list[jax.Array]]:
    x, good, *value = solution = _exact(how, view)
    # matrix(view) x = rhs(view), so matrix x_dot = the derivative of rhs - matrix x with x held.
    _, residual_dot = jax.jvp(lambda view: residuals(view, x), (view,), (view_dot,))
    x_dot = jax.lax.custom_linear_solve(
        functools.partial(products, view),
        residual_dot,
        lambda _, rhs: _each_backend(how._replace(value=False), view, rhs)[0],
        symmetric=True,
    )
    value_dot = [jax.jvp(row_losses, (view, x), (view_dot, x_dot))[1]] if value else []
    return solution, [x_dot, jnp.zeros_like(good), *value_dot]


def _solution_like(how: _How, view: View) -> list[jax.ShapeDtypeStruct]:
    rows = jax.ShapeDtypeStruct(view.reg.shape[:1], view.reg.dtype)
    return [jax.ShapeDtypeStruct(view.reg.shape, view.reg.dtype), rows, *([rows] if how.value else [])]


_exact = Opaque(_solution, _solution_rule, _solution_like)


def _each_backend(how: _How, view: View, rhs: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """(x, good, value or None) by the backend asked for, for the equations' own right-hand side or another one."""

    def by_xla(view, rhs):
        return _factorize_and_solve(_EXACT[how.linsolve], view, rhs, value=how.value)[:3]

    def by_kernel(view, rhs):
        found = native.solve_rows(view, rhs, value=how.value)
        return found.x, _good(view, found.good), found.value

    if how.linsolve != "cholesky":
        return by_xla(view, rhs)
    return _by(how.backend, view, by_xla, by_kernel)(view, rhs)


def _by(backend: str, view: View, by_xla: Callable, by_kernel: Callable) -> Callable:
    """The function that the backend asked for means, where kernel and XLA are the choice. A problem on several devices
    is XLA's: the kernel would solve every row on each."""
    if backend == "xla" or (backend == "auto" and (view.layout.mesh is not None or not native.status().available)):
        return by_xla
    if backend == "native":
        native.require()
        return functools.partial(jax.lax.platform_dependent, cpu=by_kernel)  # elsewhere it does not compile
    return functools.partial(jax.lax.platform_dependent, cpu=by_kernel, default=by_xla)


def _factor(backend: str, view: View) -> list[jax.Array]:
    """[x, good as 0 or 1, the factors] for every row."""

    def by_kernel(view):
        found = native.solve_rows(view, cholesky=True)
        return found.x, _good(view, found.good).astype(found.x.dtype), found.cholesky

    return list(_by(backend, view, _factor_by_xla, by_kernel)(view))


def _factor_by_xla(view: View, differentiable: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, good, _, cholesky = _factorize_and_solve(_cholesky, view, keep=True, differentiable=differentiable)
    return x, good.astype(x.dtype), cholesky


def _factor_rule(backend: str, view: View, view_dot: View) -> tuple[list[jax.Array], list[jax.Array]]:
    by_jax = functools.partial(_factor_by_xla, differentiable=True)
    factored, factored_dot = jax.jvp(by_jax, (view,), (view_dot,))
    return list(factored), list(factored_dot)


def _factor_like(backend: str, view: View) -> list[jax.ShapeDtypeStruct]:
    rows, k = view.reg.shape
    return [jax.ShapeDtypeStruct(shape, view.reg.dtype) for shape in ((rows, k), (rows,), (rows, k, k))]


_factored = Opaque(_factor, _factor_rule, _factor_like)


def _good(view: View, solvable: jax.Array) -> jax.Array:
    """bool `(rows,)`: rows with a unique solution, of those whose matrix is not singular."""
    return (solvable & (view.slots.count >= view.needed)) | view.blank


def _factorize_and_solve(
    solver: Callable,
    view: View,
    rhs: jax.Array | None = None,
    value: bool = False,
    keep: bool = False,
    differentiable: bool = False,
) -> tuple[jax.Array, jax.Array, Any, Any]:
    """(x, good, value, factors) for the equations' own right-hand side, or for another one `(rows, k)`; the value only
    with `value`, the factors `(rows, k, k)`, what `solver` makes third of each row, only with `keep`; else None."""
    rows, k = view.reg.shape
    epsilon = k * jnp.finfo(view.reg.dtype).eps

    def work(row, sums):
        matrix, own, part = slab_systems(view, row, sums, constant=value)
        x, pivots, factor = _each_row(solver, matrix, own if rhs is None else take(rhs, row), differentiable)
        largest = jnp.max(jnp.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)
        solvable = ~take(view.strict, row, False) | (pivots.min(axis=-1) > epsilon * largest)
        if part is not None:
            left = 2 * own - jnp.einsum("rkl,rl->rk", matrix, x, precision=jax.lax.Precision.HIGHEST)
            part -= jnp.sum(x * left, axis=-1)
        return x, jnp.isfinite(x).all(axis=-1) & solvable, part, factor if keep else None

    # Rows in no slab have no entries: their matrix is a diagonal, and their solution the prior mean.
    diagonal = jnp.where(view.blank[:, None], 1.0, view.reg)
    factors = jax.vmap(jnp.diag)(1 / diagonal if solver is _inverse else jnp.sqrt(diagonal)) if keep else None
    initial = (
        view.prior if rhs is None else rhs / diagonal,
        jnp.ones(rows, bool),
        jnp.zeros(rows, diagonal.dtype) if value else None,
        factors,
    )
    x, solvable, values, factors = over_slabs(view, work, initial)
    return x, _good(view, solvable), values, factors


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

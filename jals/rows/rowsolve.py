"""Solving the normal equations of one side: exactly, by Cholesky or LU, or nearly, by conjugate gradients.

How the exact solution is differentiated is apart from how it is found. The residual of the equations is cheap, plain
JAX; by the implicit function theorem its derivative gives that of the solution, at the price of one more solve with the
same matrices (`_exact`). So memory does not depend on how a backend solves, and every backend has derivatives.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..devices import match_varying
from ..errors import ArgumentError, check_choice
from . import native
from .normal import products, residuals, row_losses, slab_diagonals, slab_products, slab_systems, systems
from .norms import norm
from .primitive import Opaque
from .view import View
from .walk import Slab, over_rows

_HIGHEST = jax.lax.Precision.HIGHEST
WANTS = ("value", "cholesky", "inverse", "norms")
LINSOLVES = ("cholesky", "lu", "cg")


class Solved(NamedTuple):
    """One side's rows at the minimum of the loss with the other side held, and what else was wanted.

    Attributes:
        rows: `(rows, rank)`. NaN where a row has no unique solution.
        bias: `(rows,)`, or None.
        good: bool `(rows,)`, False where a row has no unique solution.
        value: `(rows,)`, the part of the loss that depends on the row (see `normal.row_losses`), or None. Taken from
            the row's system A x = b without another pass: as c - 2 b'x + x'A x, and rounded as c + |A|_F |x|^2 is. (A
            itself is rounded so; where it is ill-conditioned, |A|_F |x|^2 may be far above c and x'A x.) With a start y
            it is the loss at y minus (y - x)'A (y - x), which cancels less.
        cholesky: `(rows, k, k)`, the lower Cholesky factor of each row's matrix, or None.
        inverse: `(rows, k, k)`, of each row's matrix, or None. What has to be solved many times with the same matrices
            is then a product.
        norms: `(rows, 2)`, |A|_F and |b| of each row's system (of 1 and m in blank rows), or None.
    """

    rows: jax.Array
    bias: jax.Array | None
    good: jax.Array
    value: Any = None
    cholesky: Any = None
    inverse: Any = None
    norms: Any = None

    def joint(self) -> jax.Array:
        """`(rows, k)`, the bias last."""
        return self.rows if self.bias is None else jnp.concatenate([self.rows, self.bias[:, None]], axis=1)


class _How(NamedTuple):
    """What is fixed when a solve is compiled: see `solve`."""

    linsolve: str
    backend: str
    want: tuple[str, ...] = ()


# ---- all rows of a side ----


def solve(
    view: View,
    linsolve: str = "cholesky",
    backend: str = "auto",
    want: tuple[str, ...] = (),
    start: jax.Array | None = None,
) -> Solved:
    """The minimisers by an exact `linsolve`, "cholesky" or "lu", and what else is wanted, all in one pass.

    Differentiable in every number of the view, forward and reverse, any number of times: each derivative costs one
    more solve and two products with the entries; with the inverses wanted, or the factors, it forms all rows' matrices.

    Args:
        backend: a row of `BACKENDS`; "auto", the kernel where it can be used, else XLA, chosen for the platform that
            the program is compiled for.
        want: of "value", "cholesky", "inverse" and "norms", see `Solved`; "cholesky" and "inverse", k^2 numbers a row,
            by Cholesky only.
        start: `(rows, k)`, where `value` is reckoned from; it has no derivative.

    Raises:
        ArgumentError: for what cannot be wanted, or not by this linsolve.
    """
    for each in want:
        check_choice("want", each, WANTS)
        if linsolve != "cholesky" and each in ("cholesky", "inverse"):
            raise ArgumentError(f'want has "{each}", which linsolve="cholesky" alone returns, not "{linsolve}".')
    x, good, *wanted = _exact(_How(linsolve, backend, tuple(want)), (view, start))
    return _solved(view, x, good > 0, **dict(zip(want, wanted, strict=True)))


def solve_cg(view: View, start: jax.Array, steps: int, want: tuple[str, ...] = ()) -> Solved:
    """`steps` steps of conjugate gradients from the unknowns `start` `(rows, k)`, preconditioned by the diagonal.

    Matrix-free: a step costs two products with each row's entries. The result is not exact, and its derivatives are
    those of the steps made, the start included. `want` may be "value". Source: Hestenes and Stiefel (1952).
    """
    view, start = match_varying(view, start)
    start = jnp.where(view.empty[:, None], view.prior, start)
    value = "value" in want
    initial = (start, jnp.zeros(len(start), start.dtype) if value else None)
    x, values = over_rows(view, functools.partial(_cg_slab, steps, value), initial, start)
    solvable = jnp.isfinite(x).all(axis=-1)
    return _solved(view, x, view.blank | (solvable & (view.count >= view.needed)), values)


def _cg_slab(steps: int, value: bool, slab: Slab, start: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    diagonal, rhs, constant = slab_diagonals(slab, loss=value)
    scale = 1 / jnp.where(diagonal > 0, diagonal, 1.0)

    def step(carry, _):
        x, residual, direction, size = carry
        moved = slab_products(slab, direction)
        length = _ratio(size, jnp.sum(direction * moved, axis=-1))
        x, residual = x + length * direction, residual - length * moved
        preconditioned = scale * residual
        new_size = jnp.sum(residual * preconditioned, axis=-1)
        return (x, residual, preconditioned + _ratio(new_size, size) * direction, new_size), None

    x = start
    residual = rhs - slab_products(slab, x)
    direction = scale * residual
    carry = (x, residual, direction, jnp.sum(residual * direction, axis=-1))
    x, residual = jax.lax.scan(step, carry, length=steps)[0][:2]
    # x'A x = x'(b - the residual)
    return x, None if constant is None else constant - jnp.sum(x * (rhs + residual), axis=-1)


def _ratio(over: jax.Array, under: jax.Array) -> jax.Array:
    """over / under `(rows, 1)`, 0 where under is 0: conjugate gradients that have arrived stay where they are."""
    positive = under > 0
    return jnp.where(positive, over / jnp.where(positive, under, 1.0), 0.0)[:, None]


def _solved(view: View, x: jax.Array, good: jax.Array, value: jax.Array | None = None, **more: jax.Array) -> Solved:
    x = jnp.where(good[:, None], x, jnp.nan)
    x = jnp.where(view.empty[:, None], view.prior, x)  # to the bit, as P x = P m is not solved to the bit
    rows, bias = (x[:, :-1], x[:, -1]) if view.has_bias else (x, None)
    return Solved(rows, bias, good, value, **more)


# ---- the exact solution and its derivative ----

_Argument = tuple[View, jax.Array | None]


def _solution(how: _How, argument: _Argument) -> list[jax.Array]:
    """[x, good as 0 or 1, what is wanted] for every row."""
    view, start = argument
    found = _by_backend(how, view, None, start)
    good = view.good(jnp.isfinite(found.x).all(axis=-1))
    return [found.x, good.astype(found.x.dtype), *(getattr(found, name) for name in how.want)]


def _solution_rule(how: _How, argument: _Argument, dot: Any) -> tuple[list[jax.Array], list[jax.Array]]:
    (view, _), (view_dot, _) = argument, dot
    x, good, *wanted = solution = _exact(how, argument)
    dots = {}
    if "inverse" in how.want:
        # Rows without a solution are 0 here, so that they spoil no other row's derivatives.
        fine = good > 0
        inverse = jnp.where(fine[:, None, None], wanted[how.want.index("inverse")], 0.0)
        at = jnp.where(fine[:, None], x, 0.0)
        matrix_dot, rhs_dot = jax.jvp(systems, (view,), (view_dot,))[1]
        product = functools.partial(jnp.einsum, precision=_HIGHEST)
        x_dot = product("rij,rj->ri", inverse, rhs_dot - product("rij,rj->ri", matrix_dot, at))
        dots["inverse"] = -product("rij,rjk,rkl->ril", inverse, matrix_dot, inverse)
    else:
        # matrix(view) x = rhs(view), so matrix x_dot = the derivative of rhs - matrix x with x held.
        _, residual_dot = jax.jvp(lambda view: residuals(view, x), (view,), (view_dot,))
        x_dot = jax.lax.custom_linear_solve(
            functools.partial(products, view),
            residual_dot,
            lambda _, rhs: _by_backend(how._replace(want=()), view, rhs, None).x,
            symmetric=True,
        )
    if "cholesky" in how.want:
        factor = functools.partial(jax.lax.linalg.cholesky, symmetrize_input=False)
        dots["cholesky"] = jax.jvp(lambda view: _each_row(factor, False, systems(view)[0]), (view,), (view_dot,))[1]
    if "norms" in how.want:
        dots["norms"] = jax.jvp(lambda view: _norms(*systems(view)), (view,), (view_dot,))[1]
    if "value" in how.want:
        dots["value"] = jax.jvp(row_losses, (view, x), (view_dot, x_dot))[1]
    return solution, [x_dot, jnp.zeros_like(good), *(dots[name] for name in how.want)]


def _solution_like(how: _How, argument: _Argument) -> list[jax.ShapeDtypeStruct]:
    (rows, k), dtype = argument[0].reg.shape, argument[0].reg.dtype
    shapes = {"value": (rows,), "cholesky": (rows, k, k), "inverse": (rows, k, k), "norms": (rows, 2)}
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in ((rows, k), (rows,), *(shapes[name] for name in how.want))]


_exact = Opaque(_solution, _solution_rule, _solution_like)


# ---- what solves ----


class RowSolutions(NamedTuple):
    """What a backend finds for every row: `x` `(rows, k)`, and what was wanted, else None. x is NaN where the matrix is
    singular: where a pivot is not positive, or in a strict row not more than k eps (the largest diagonal element)."""

    x: jax.Array
    value: jax.Array | None = None
    cholesky: jax.Array | None = None
    inverse: jax.Array | None = None
    norms: jax.Array | None = None


class Backend(NamedTuple):
    """A way of solving rows.

    Attributes:
        solve: (how, view, right-hand side or None for the equations' own, start or None) -> `RowSolutions`.
        linsolves: the algorithms that it has; "cg" is `solve_cg`'s.
        wants: what it can return.
        platform: of jax, the only one that it is for; None for all.
        sharded: whether it can solve rows that are sharded over the devices of a mesh.
        missing: why it cannot be used in this process; "" where it can.
    """

    solve: Callable[[_How, View, jax.Array | None, jax.Array | None], RowSolutions]
    linsolves: tuple[str, ...]
    wants: tuple[str, ...]
    platform: str | None
    sharded: bool
    missing: Callable[[], str]

    def can(self, how: _How, view: View) -> bool:
        suits = how.linsolve in self.linsolves and set(how.want) <= set(self.wants)
        return suits and (self.sharded or view.layout.mesh is None) and not self.missing()


def _by_backend(how: _How, view: View, rhs: jax.Array | None, start: jax.Array | None) -> RowSolutions:
    """By the backend asked for."""
    if how.backend != "auto":
        one = _TABLE[how.backend]
        if why := one.missing():
            raise ArgumentError(f'backend is "{how.backend}", but {why} backend="auto" works without it.')
        only = {one.platform: functools.partial(one.solve, how)} if one.platform else None
        return jax.lax.platform_dependent(view, rhs, start, **only) if only else one.solve(how, view, rhs, start)
    able = [one for one in _TABLE.values() if one.can(how, view)]
    own = {one.platform: functools.partial(one.solve, how) for one in able if one.platform}
    general = next(functools.partial(one.solve, how) for one in able if one.platform is None)
    return jax.lax.platform_dependent(view, rhs, start, **own, default=general) if own else general(view, rhs, start)


# ---- XLA, slab by slab ----


def _solve_by_xla(how: _How, view: View, rhs: jax.Array | None, start: jax.Array | None) -> RowSolutions:
    rows = len(view.reg)
    # Rows in no slab have no entries: their matrix is a diagonal, and their solution the prior mean.
    diagonal = jnp.where(view.blank[:, None], 1.0, view.reg)
    beside = {
        "value": lambda: jnp.zeros(rows, diagonal.dtype),
        "cholesky": lambda: jax.vmap(jnp.diag)(jnp.sqrt(diagonal)),
        "inverse": lambda: jax.vmap(jnp.diag)(1 / diagonal),
        "norms": lambda: _norms(diagonal, diagonal * view.prior),
    }
    x = view.prior if rhs is None else rhs / diagonal
    initial = RowSolutions(x, **{name: beside[name]() for name in how.want})
    return over_rows(view, functools.partial(_solve_slab, how), initial, rhs, start)


def _solve_slab(how: _How, slab: Slab, rhs: jax.Array | None, start: jax.Array | None) -> RowSolutions:
    matrix, own, loss = slab_systems(slab, "value" in how.want, start)
    one = _lu if how.linsolve == "lu" else functools.partial(_cholesky, how.want)
    x, pivots, cholesky, inverse = _each_row(one, True, matrix, own if rhs is None else rhs)
    largest = jnp.max(jnp.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)
    least = jnp.where(slab.view.strict, x.shape[-1] * jnp.finfo(x.dtype).eps * largest, 0)
    if loss is not None:
        away, both = (-x, x) if start is None else (start - x, start + x)
        left = jnp.einsum("rkl,rl->rk", matrix, both, precision=_HIGHEST)
        loss -= jnp.sum(away * (left - own - own), axis=-1)
    norms = _norms(matrix, own) if "norms" in how.want else None
    return RowSolutions(jnp.where((pivots.min(axis=-1) > least)[:, None], x, jnp.nan), loss, cholesky, inverse, norms)


def _norms(matrix: jax.Array, rhs: jax.Array) -> jax.Array:
    """`Found.norms` of systems, whose matrices may be given by their diagonals."""
    return jnp.stack([norm(matrix, tuple(range(1, matrix.ndim))), norm(rhs, -1)], axis=-1)


def _cholesky(want: tuple[str, ...], matrix: jax.Array, rhs: jax.Array) -> tuple[Any, ...]:
    """(solution, pivots, lower factor and inverse where wanted) of one row; NaN where the matrix is not positive
    definite."""
    lower = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    solved = functools.partial(jax.scipy.linalg.cho_solve, (lower, True))
    inverse = solved(jnp.eye(len(rhs), dtype=rhs.dtype)) if "inverse" in want else None
    return solved(rhs), jnp.diagonal(lower) ** 2, lower if "cholesky" in want else None, inverse


def _lu(matrix: jax.Array, rhs: jax.Array) -> tuple[Any, ...]:
    """The same by the algorithm of `jnp.linalg.solve`, whose pivots can be seen here."""
    factor, swaps, _ = jax.lax.linalg.lu(matrix)
    return jax.scipy.linalg.lu_solve((factor, swaps), rhs), jnp.abs(jnp.diagonal(factor)), None, None


def _each_row(one: Callable, opaque: bool, *systems: jax.Array) -> Any:
    """`one` for each of a slab's systems: batched on accelerators; on a CPU one LAPACK call a system.

    jaxlib 0.10 splits a batched LAPACK call over XLA's thread pool and waits there for the parts. As many such calls at
    once as the pool has threads (two buckets of one sweep on two cores; the shards of a `shard_map`) wait for ever.
    Calls for single systems never wait, were measured faster, and leave the other threads to other buckets.
    `sequential_vmap` keeps them single under the caller's `vmap`; it does not differentiate, so that what is to be
    differentiated is not to be `opaque`.
    """
    single = jax.custom_batching.sequential_vmap(one) if opaque else one
    return jax.lax.platform_dependent(
        *systems, cpu=lambda *systems: jax.lax.map(lambda system: single(*system), systems), default=jax.vmap(one)
    )


# ---- the kernel ----


def _solve_by_kernel(how: _How, view: View, rhs: jax.Array | None, start: jax.Array | None) -> RowSolutions:
    return RowSolutions(*native.solve_rows(view, rhs, start, how.want))


_TABLE = {
    "xla": Backend(_solve_by_xla, LINSOLVES, WANTS, None, True, lambda: ""),
    "native": Backend(_solve_by_kernel, ("cholesky",), WANTS, "cpu", False, lambda: native.status().reason),
}
BACKENDS = ("auto", *_TABLE)


def check_backend(backend: str, linsolve: str) -> None:
    """Raises ArgumentError unless a backend, "auto" or by name, has an algorithm."""
    if backend != "auto" and linsolve not in _TABLE[backend].linsolves:
        by = " or ".join(f'"{each}"' for each in _TABLE[backend].linsolves)
        raise ArgumentError(f'backend "{backend}" solves by {by} only, not by "{linsolve}": leave it out.')

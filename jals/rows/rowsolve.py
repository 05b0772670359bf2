"""Solving the normal equations of one side exactly, by Cholesky or LU; `steps` nears the solutions.

How the exact solution is differentiated is apart from how it is found. The residual of the equations is cheap, plain
JAX; by the implicit function theorem its derivative gives that of the solution, at the price of one more solve with the
same matrices (`_exact`). So memory does not depend on how a backend solves, and every backend has derivatives.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..devices import averaged
from ..errors import ArgumentError, check_choice
from ..model.exchange import AXIS
from . import native
from .backends import Backend, How, RowSolutions, by_backend, each_row
from .normal import products, residuals, row_losses, slab_systems, systems
from .norms import norm
from .primitive import Opaque
from .spread import on_devices
from .view import View
from .walk import Slab, over_rows

_HIGHEST = jax.lax.Precision.HIGHEST
WANTS = ("value", "cholesky", "inverse", "norms")
EXACT = ("cholesky", "lu")


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
    if view.layout.mesh is not None:
        here = lambda view, start: solve(view.weighed(), linsolve, backend, want, start)  # noqa: E731
        return on_devices(here, view, start)
    x, good, *wanted = _exact(How(linsolve, backend, tuple(want)), (view, start))
    return solved_of(view, x, good > 0, **dict(zip(want, wanted, strict=True)))


def solved_of(view: View, x: jax.Array, good: jax.Array, value: jax.Array | None = None, **more: jax.Array) -> Solved:
    x = jnp.where(good[:, None], x, jnp.nan)
    x = jnp.where(view.empty[:, None], view.prior, x)  # to the bit, as P x = P m is not solved to the bit
    rows, bias = (x[:, :-1], x[:, -1]) if view.has_bias else (x, None)
    return Solved(rows, bias, good, value, **more)


# ---- the exact solution and its derivative ----

_Argument = tuple[View, jax.Array | None]


def _solution(how: How, argument: _Argument) -> list[jax.Array]:
    """[x, good as 0 or 1, what is wanted] for every row."""
    view, start = argument
    found = by_backend(_TABLE, how, view, None, start)
    good = view.good(jnp.isfinite(found.x).all(axis=-1))
    return [found.x, good.astype(found.x.dtype), *(getattr(found, name) for name in how.want)]


def _solution_rule(how: How, argument: _Argument, dot: Any) -> tuple[list[jax.Array], list[jax.Array]]:
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
        # Giants are worked on by every device, and what each has is the same. But what comes back in reverse mode is
        # not: the mean makes it so, without which the system would not be symmetric over all devices.
        alike = functools.partial(averaged, axis=AXIS) if view.layout.summed else lambda rows: rows
        # matrix(view) x = rhs(view), so matrix x_dot = the derivative of rhs - matrix x with x held.
        _, residual_dot = jax.jvp(lambda view: residuals(view, x), (view,), (view_dot,))
        x_dot = jax.lax.custom_linear_solve(
            lambda rows: products(view, alike(rows)),
            residual_dot,
            lambda _, rhs: by_backend(_TABLE, how._replace(want=()), view, alike(rhs), None).x,
            symmetric=True,
        )
    if "cholesky" in how.want:
        factor = functools.partial(jax.lax.linalg.cholesky, symmetrize_input=False)
        dots["cholesky"] = jax.jvp(lambda view: each_row(factor, False, systems(view)[0]), (view,), (view_dot,))[1]
    if "norms" in how.want:
        dots["norms"] = jax.jvp(lambda view: _norms(*systems(view)), (view,), (view_dot,))[1]
    if "value" in how.want:
        dots["value"] = jax.jvp(row_losses, (view, x), (view_dot, x_dot))[1]
    return solution, [x_dot, jnp.zeros_like(good), *(dots[name] for name in how.want)]


def _solution_like(how: How, argument: _Argument) -> list[jax.ShapeDtypeStruct]:
    (rows, k), dtype = argument[0].reg.shape, argument[0].reg.dtype
    shapes = {"value": (rows,), "cholesky": (rows, k, k), "inverse": (rows, k, k), "norms": (rows, 2)}
    return [jax.ShapeDtypeStruct(shape, dtype) for shape in ((rows, k), (rows,), *(shapes[name] for name in how.want))]


_exact = Opaque(_solution, _solution_rule, _solution_like, How.narrow)


# ---- XLA, slab by slab ----


def _solve_by_xla(how: How, view: View, rhs: jax.Array | None, start: jax.Array | None) -> RowSolutions:
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


def _solve_slab(how: How, slab: Slab, rhs: jax.Array | None, start: jax.Array | None) -> RowSolutions:
    matrix, own, loss = slab_systems(slab, "value" in how.want, start)
    one = _lu if how.linsolve == "lu" else functools.partial(_cholesky, how.want)
    x, pivots, cholesky, inverse = each_row(one, True, matrix, own if rhs is None else rhs)
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


# ---- the kernel ----


def _solve_by_kernel(how: How, view: View, rhs: jax.Array | None, start: jax.Array | None) -> RowSolutions:
    return RowSolutions(*native.solve_rows(view, rhs, start, how.want))


_TABLE = {
    "xla": Backend(_solve_by_xla, EXACT, WANTS, lambda view: True),
    "native": Backend(_solve_by_kernel, ("cholesky",), WANTS, native.takes, lambda: native.missing()),
}

"""Some steps from where rows are towards the solutions of their normal equations, at less than what solving costs: by
conjugate gradients, or a block of columns at a time with the others held.

What XLA does here is the algorithm, and differentiable as it stands: the derivatives are those of the steps made, the
start included. The kernel makes the same steps; a derivative is then XLA's (`_nearer`).
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..devices import match_varying
from . import native
from .backends import Backend, How, RowSolutions, by_backend, each_row
from .normal import slab_block, slab_diagonals, slab_products, with_held_loss
from .primitive import Opaque
from .rowsolve import Solved, solved_of
from .spread import on_devices
from .view import Columns, Piece, View, in_blocks
from .walk import Slab, over_rows

_HIGHEST = jax.lax.Precision.HIGHEST
STEPPING = ("cg", "subspace")


def solve_cg(view: View, start: jax.Array, steps: int, want: tuple[str, ...] = (), backend: str = "auto") -> Solved:
    """`steps` steps of conjugate gradients from the unknowns `start` `(rows, k)`, preconditioned by the diagonal.

    Matrix-free: a step costs two products with each row's entries, and with a term over all pairs one with its Gram.
    `want` may be "value". Source: Hestenes and Stiefel (1952); for ALS Takács, Pilászy, Tikk (RecSys 2011).
    """
    return _stepped(How("cg", backend, want, steps), view, start)


def solve_subspace(
    view: View, start: jax.Array, block: int, want: tuple[str, ...] = (), backend: str = "auto"
) -> Solved:
    """One step for each block of `block` columns from the unknowns `start` `(rows, k)`, one after the other: the block
    goes where the loss is least with all other columns held,

        x_b := x_b + A_bb^-1 (rhs - A x)_b.

    With block >= k that is the solution. A row costs k block a entry and k block^2 / 3 + k^2, for k^2 and k^3 / 3 when
    it is solved. `want` may be "value". Source: Rendle, Krichene, Zhang, Koren, iALS++ (arXiv 2110.14044).
    """
    return _stepped(How("subspace", backend, want, min(block, view.reg.shape[1])), view, start)


def _stepped(how: How, view: View, start: jax.Array) -> Solved:
    if view.layout.mesh is not None:
        return on_devices(lambda view, start: _stepped(how, view.weighed(), start), view, start)
    view, start = match_varying(view, start)
    start = jnp.where(view.empty[:, None], view.prior, start)
    if how.backend != "xla" and (how.backend == "native" or _TABLE["native"].can(how, view)):
        x, *wanted = _nearer(how, (view, start))
    else:
        x, *wanted = _together(how, _by_xla(how, view, start))
    value = wanted[0] if wanted else None
    return solved_of(view, x, view.good(jnp.isfinite(x).all(axis=-1)), value)


# ---- XLA, slab by slab ----


def _by_xla(how: How, view: View, start: jax.Array) -> RowSolutions:
    value = "value" in how.want
    initial = start, jnp.zeros(len(start), start.dtype) if value else None
    if how.linsolve == "cg":
        return RowSolutions(*over_rows(view, functools.partial(_cg_slab, how.size, value), initial, start))
    by_blocks = view._replace(others=Columns.of(view.others, how.size))
    x, entries = over_rows(by_blocks, functools.partial(_subspace_slab, how.size, value), initial, start)
    return RowSolutions(x, with_held_loss(view, x, entries) if value else None)


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


def _subspace_slab(size: int, value: bool, slab: Slab, start: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    blocks = jnp.arange(-(-start.shape[1] // size))

    def of_block(block: Any, scores: jax.Array | None = None) -> Slab:
        view = slab.view
        return slab._replace(view=view._replace(others=view.others._replace(block=block)), held=scores)

    def score(scores, block):
        return scores + of_block(block).each(Piece.scores, x[:, block]), None

    def step(carry, block):
        x, scores = carry
        matrix, rhs, _ = slab_block(of_block(block, scores), x, block)
        moved = _solved_for(slab.view.strict, matrix, rhs)
        scores += of_block(block).each(Piece.scores, moved)
        return (x.at[:, block].add(moved), scores), None

    x = in_blocks(start, size)
    zero, _ = match_varying(jnp.zeros(slab.other.shape, start.dtype), (slab.view, start, slab.value))
    scores = jax.lax.scan(score, zero, blocks)[0]
    x, scores = jax.lax.scan(step, (x, scores), blocks)[0]
    entries = of_block(0, scores).sums(Piece.loss) if value else None
    return x.reshape(len(x), -1)[:, : start.shape[1]], entries


def _solved_for(strict: jax.Array, matrix: jax.Array, rhs: jax.Array) -> jax.Array:
    """The solutions `(rows, size)`; NaN where a pivot is not positive, or in a strict row too small."""
    largest = jnp.max(jnp.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)
    least = jax.lax.stop_gradient(jnp.where(strict, rhs.shape[-1] * jnp.finfo(rhs.dtype).eps * largest, 0))

    def one(matrix, rhs):
        lower = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
        return jax.scipy.linalg.cho_solve((lower, True), rhs), jnp.diagonal(lower) ** 2

    def solve(_, rhs):
        x, pivots = each_row(one, True, jax.lax.stop_gradient(matrix), rhs)
        return jnp.where((pivots.min(axis=-1) > least)[:, None], x, jnp.nan)

    by_matrix = functools.partial(jnp.einsum, "rkl,rl->rk", matrix, precision=_HIGHEST)
    return jax.lax.custom_linear_solve(by_matrix, rhs, solve, symmetric=True)


# ---- the kernel ----


def _by_kernel(how: How, view: View, start: jax.Array) -> RowSolutions:
    return RowSolutions(*native.step_rows(view, start, how.linsolve, how.size, how.want))


_TABLE = {
    "xla": Backend(_by_xla, STEPPING, ("value",), lambda view: True),
    "native": Backend(
        _by_kernel, STEPPING, ("value",), native.takes_steps, lambda: {"cpu": native.missing()["cpu"]}
    ),
}


def _together(how: How, found: RowSolutions) -> list[jax.Array]:
    return [found.x, *(getattr(found, name) for name in how.want)]


def _by_either(how: How, argument: tuple[View, jax.Array]) -> list[jax.Array]:
    return _together(how, by_backend(_TABLE, how, *argument))


def _by_xla_with_tangents(how: How, argument: Any, dot: Any) -> tuple[list[jax.Array], list[jax.Array]]:
    return jax.jvp(lambda argument: _together(how, _by_xla(how, *argument)), (argument,), (dot,))


def _like(how: How, argument: tuple[View, jax.Array]) -> list[jax.ShapeDtypeStruct]:
    _, start = argument
    return [jax.ShapeDtypeStruct(shape, start.dtype) for shape in (start.shape, start.shape[:1])[: 1 + len(how.want)]]


_nearer = Opaque(_by_either, _by_xla_with_tangents, _like, How.narrow)

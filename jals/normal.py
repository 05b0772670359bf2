"""The normal equations of one side's rows, with the other side held.

Seen from one side, the other side's rows are a fixed table z_i = (y_i, 1) (or y_i where there are no biases), and the
unknown of a row is x = (x_u, b_u). With prior mean m and prior precision P (lambda on the diagonal, unless a matrix is
given) a row's part of the loss is least where

    (sum_entries w z z' + a0 Z'Z + P) x = sum_entries p z + P m,      p = w (t - o) + q,

o being the part of the score that is held (mean + b_i). This module walks a side slab by slab to form these systems, or
their products and residuals without forming them. It never looks at the loss: the certificate and the tests tie the
two.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .devices import alike, dealt
from .factors import Factors, remainder
from .layouts import Side
from .objectives import Entry, Objective, squared_sum
from .problem import Problem, Slots

_HIGHEST = jax.lax.Precision.HIGHEST


class View(NamedTuple):
    """What one side's rows are solved against; k = rank + 1 where there are biases, else rank.

    Attributes:
        layout, slots: the side's rows, and the entries' numbers in their order.
        objective: where an entry's (w, t, q) come from.
        table: `(others, k)`, z.
        mean, held_bias: `()` and `(others,)`, which make up o; None for 0.
        prior_mean: `(k,)` or `(rows, k)`, m; None for 0.
        reg: `(rows, k)`, the diagonal of P.
        precision: `(k, k)` or `(rows, k, k)`, the rest of P; None for 0.
        gram: `(k, k)`, a0 Z'Z; None without a0.
        blank: bool `(rows,)`, rows that nothing pulls from their prior mean; their matrix counts as the identity.
        strict: bool `(rows,)`, rows whose pivots must exceed k * eps * (the matrix's largest diagonal element), as
            their P does not make them solvable.
        needed: `(rows,)`, how many entries a strict row must have.
    """

    layout: Side
    slots: Slots
    objective: Objective
    table: jax.Array
    mean: jax.Array | None
    held_bias: jax.Array | None
    prior_mean: jax.Array | None
    reg: jax.Array
    precision: jax.Array | None
    gram: jax.Array | None
    blank: jax.Array
    strict: jax.Array
    needed: jax.Array

    @property
    def has_bias(self) -> bool:
        return self.held_bias is not None

    @property
    def prior(self) -> jax.Array:
        """`(rows, k)`, m."""
        prior = jnp.zeros((), self.reg.dtype) if self.prior_mean is None else self.prior_mean
        return jnp.broadcast_to(prior, self.reg.shape)


def view(
    factors: Factors, problem: Problem, objective: Objective, side: str, precision: Any = None, prior: Any = None
) -> View:
    """The equations of `side`, "user" or "item", with the other side of `factors` held.

    Args:
        precision: in place of the objective's lambda of this side: `()`, `(rows,)`, or a symmetric positive definite
            matrix `(rank, rank)` or `(rows, rank, rank)`. The biases keep the objective's lambda.
        prior: in place of the objective's prior mean: `(rank,)` or `(rows, rank)`.
    """
    problem = problem.arrange()
    if side == "user":
        layout, slots, table, held_bias = problem.user_side, problem.user_slots, factors.item, factors.item_bias
    else:
        layout, slots, table, held_bias = problem.item_side, problem.item_slots, factors.user, factors.user_bias
    assert slots is not None
    rows, (others, rank), dtype = layout.num_rows, table.shape, table.dtype
    unknowns = rank
    reg, reg_bias = objective.row_reg(side, slots.count, others)
    prior = getattr(objective, f"prior_{side}") if prior is None else prior
    prior = None if prior is None else jnp.asarray(prior, dtype)

    matrix = None
    if precision is not None and jnp.ndim(precision) < 2:
        reg = jnp.broadcast_to(jnp.asarray(precision, dtype), (rows,))
    elif precision is not None:
        reg, matrix = jnp.zeros(rows, dtype), jnp.asarray(precision, dtype)
    strict = reg == 0
    reg = jnp.broadcast_to(reg[:, None], (rows, rank))
    if held_bias is not None:
        unknowns += (reg_bias == 0).astype(jnp.int32)
        table = jnp.concatenate([table, jnp.ones((others, 1), dtype)], axis=1)
        reg = jnp.concatenate([reg, reg_bias[:, None]], axis=1)
        prior = None if prior is None else jnp.pad(prior, [(0, 0)] * (prior.ndim - 1) + [(0, 1)])
        matrix = None if matrix is None else jnp.pad(matrix, [(0, 0)] * (matrix.ndim - 2) + [(0, 1), (0, 1)])

    gram = None if objective.unobserved_weight is None else objective.unobserved_weight * squared_sum(table)
    blank = slots.count == 0
    if matrix is not None:
        blank &= jnp.trace(matrix, axis1=-2, axis2=-1) == 0
    if gram is not None:
        blank &= reg.sum(axis=-1) + jnp.trace(gram) == 0
    alone = matrix is None and gram is None  # then nothing but entries can make a row without lambda solvable
    needed = jnp.where(strict & alone, unknowns, 0).astype(dtype)
    held = (factors.mean, held_bias)
    return View(layout, slots, objective, table, *held, prior, reg, matrix, gram, blank, strict, needed)


# ---- one piece of a row ----


class Piece(NamedTuple):
    """The slots of one piece: `z` `(width, k)`, the entries' (w, t, q), `gap`, t - o, and value and weight as given."""

    z: jax.Array
    entry: Entry
    gap: jax.Array
    value: jax.Array
    weight: jax.Array

    def target(self) -> jax.Array:
        """p of each slot."""
        return self.entry.w * self.gap + self.entry.q

    def scores(self, x: jax.Array) -> jax.Array:
        """z.x of each slot."""
        return jnp.einsum("sk,k->s", self.z, x, precision=_HIGHEST)


def _gram(piece: Piece) -> tuple[jax.Array, jax.Array]:
    """(sum w z z', sum p z)"""
    gram = jnp.einsum("sk,sl->kl", piece.entry.w[:, None] * piece.z, piece.z, precision=_HIGHEST)
    return gram, _weighted(piece, piece.target())


def _with_constant(function: Callable) -> Callable:
    """`function(piece)` and, after what it returns, the piece's loss at x = 0."""
    return lambda piece: (*function(piece), piece.entry.loss(piece.gap).sum())


def _diagonal(piece: Piece) -> tuple[jax.Array, jax.Array]:
    """(diagonal of sum w z z', sum p z)"""
    return jnp.sum(piece.entry.w[:, None] * piece.z**2, axis=0), _weighted(piece, piece.target())


def _product(piece: Piece, v: jax.Array) -> jax.Array:
    """(sum w z z') v"""
    return _weighted(piece, piece.entry.w * piece.scores(v))


def _residual(piece: Piece, x: jax.Array) -> jax.Array:
    """sum p z - (sum w z z') x, minus half the gradient of the piece's loss in x"""
    return _weighted(piece, piece.target() - piece.entry.w * piece.scores(x))


def _loss_and_residual(piece: Piece, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    left = piece.gap - piece.scores(x)
    return piece.entry.loss(left).sum(), _weighted(piece, piece.entry.w * left + piece.entry.q)


def _loss(piece: Piece, x: jax.Array) -> jax.Array:
    return piece.entry.loss(piece.gap - piece.scores(x)).sum()


def _weighted(piece: Piece, numbers: jax.Array) -> jax.Array:
    return jnp.einsum("s,sk->k", numbers, piece.z, precision=_HIGHEST)


# ---- all rows of a side, slab by slab ----


class _Slab(NamedTuple):
    """One slab of a bucket with its entries' numbers."""

    row: jax.Array
    other: jax.Array
    piece_row: jax.Array | None
    value: jax.Array
    weight: jax.Array


def over_slabs(view: View, work: Callable, initial: Any) -> Any:
    """Calls `work(row, sums)` for each slab with the numbers of its rows; what it returns (a leaf is
    `(rows in slab, ...)`) goes into those rows of `initial`.

    `sums(function, *arguments)` applies `function(piece, *arguments of the piece's row)` to every piece of the slab
    and adds the results up by row; each argument is `(rows in slab, ...)`.
    """
    result = initial
    for bucket, value, weight in zip(view.layout.buckets, view.slots.value, view.slots.weight, strict=True):
        if bucket.width == 0 and view.gram is None and view.precision is None:
            continue  # rows without entries whose matrix is a diagonal: `initial` knows them

        @jax.checkpoint  # a backward pass gathers again instead of keeping the rows gathered for every slot
        def one(slab, view, bucket=bucket):
            return work(slab.row, _summing(slab, view, bucket.step))

        slabs = _Slab(bucket.row, bucket.other, bucket.piece_row, value, weight)
        each = dealt(view.layout.mesh, lambda slabs, one=one: jax.lax.map(lambda slab: one(slab, view), slabs))
        parts = each(slabs)
        rows = bucket.row.reshape(-1)
        put = lambda table, part, rows=rows: table.at[rows].set(part.reshape(-1, *part.shape[2:]), mode="drop")  # noqa: E731
        result = jax.tree.map(put, result, parts)
    return result


def gathered(view: View, other: jax.Array, value: jax.Array, weight: jax.Array) -> Piece:
    """The slots of many pieces, from their index and number arrays `(pieces, width)`: leaves `(pieces, width, ...)`."""
    z = view.table.at[other].get(mode="promise_in_bounds")
    entry = view.objective.entry(value, weight)
    held = [] if view.mean is None else [jnp.broadcast_to(view.mean, other.shape)]
    if view.held_bias is not None:
        held.append(view.held_bias.at[other].get(mode="promise_in_bounds"))
    return Piece(z, entry, remainder(entry.t, held), value, weight)


def _summing(slab: _Slab, view: View, step: int) -> Callable:
    if slab.piece_row is None:
        whole = gathered(view, slab.other, slab.value, slab.weight)
        return lambda function, *arguments: jax.vmap(function)(whole, *arguments)

    def sums(function, *arguments):
        def part(piece_row, other, value, weight):
            mine = (take(argument, piece_row) for argument in arguments)
            return jax.vmap(function)(gathered(view, other, value, weight), *mine)

        def add(total, pieces):
            put = lambda table, more: table.at[pieces[0]].add(more, mode="drop")  # noqa: E731
            return jax.tree.map(put, total, part(*pieces)), None

        pieces = (slab.piece_row, slab.other, slab.value, slab.weight)
        steps = jax.tree.map(lambda array: array.reshape(-1, step, *array.shape[1:]), pieces)
        shapes = jax.eval_shape(part, *jax.tree.map(lambda array: array[0], steps))
        zeros = jax.tree.map(lambda s: jnp.zeros(slab.row.shape + s.shape[1:], s.dtype), shapes)
        return jax.lax.scan(add, alike(zeros, (slab, view, arguments))[0], steps)[0]

    return sums


def take(table: jax.Array, row: jax.Array, fill: Any = 0) -> jax.Array:
    """Rows of a table; `fill` for the row numbers that mark unused places."""
    return table.at[row].get(mode="fill", fill_value=fill)


def _held(view: View, row: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """P of these rows (None: of all) as (diagonal `(rows, k)`, the rest `(k, k)` or `(rows, k, k)` or None)."""
    if row is None:
        return view.reg, view.precision
    rest = view.precision
    if rest is not None and rest.ndim == 3:
        rest = take(rest, row)
    return take(view.reg, row), rest


def _held_product(held: tuple[jax.Array, jax.Array | None], v: jax.Array) -> jax.Array:
    """P v of each row."""
    reg, rest = held
    if rest is None:
        return reg * v
    return reg * v + jnp.einsum("rk,kl->rl" if rest.ndim == 2 else "rk,rkl->rl", v, rest, precision=_HIGHEST)


def _all_pairs_product(view: View, v: jax.Array) -> jax.Array | float:
    """a0 Z'Z v of each row."""
    return 0.0 if view.gram is None else jnp.einsum("rk,kl->rl", v, view.gram, precision=_HIGHEST)


def entry_residuals(view: View, x: jax.Array) -> jax.Array:
    """sum over the row's entries of (p - w z.x) z, `(rows, k)`: minus half the gradient of the entries' loss."""
    return over_slabs(view, lambda row, sums: sums(_residual, take(x, row)), jnp.zeros_like(x))


def entry_loss_and_residuals(view: View, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the entries' loss by row `(rows,)`, `entry_residuals`), in one pass."""
    initial = (jnp.zeros(len(x), x.dtype), jnp.zeros_like(x))
    return over_slabs(view, lambda row, sums: sums(_loss_and_residual, take(x, row)), initial)


def row_losses(view: View, x: jax.Array) -> jax.Array:
    """What of the loss depends on each row, `(rows,)`: its entries', its share of the sum over all pairs and its
    regularisation; 0 in blank rows. Over a side they add up to the loss, but for the other side's regularisation."""
    entries = over_slabs(view, lambda row, sums: sums(_loss, take(x, row)), jnp.zeros(len(x), x.dtype))
    away = x - view.prior
    held = jnp.sum(away * _held_product(_held(view), away) + x * _all_pairs_product(view, x), axis=-1)
    return jnp.where(view.blank, 0.0, entries + held)


def residuals(view: View, x: jax.Array) -> jax.Array:
    """Right-hand side minus matrix times x, `(rows, k)`: minus half the gradient of the loss; m - x in blank rows."""
    return with_prior_pull(view, x, entry_residuals(view, x))


def with_prior_pull(view: View, x: jax.Array, entries: jax.Array) -> jax.Array:
    """`residuals` from `entry_residuals`."""
    pull = _held_product(_held(view), view.prior - x) - _all_pairs_product(view, x)
    return jnp.where(view.blank[:, None], view.prior - x, entries + pull)


def products(view: View, v: jax.Array) -> jax.Array:
    """Matrix times v for every row, `(rows, k)`, without forming the matrices."""
    entries = over_slabs(view, lambda row, sums: sums(_product, take(v, row)), jnp.zeros_like(v))
    held = _held_product(_held(view), v) + _all_pairs_product(view, v)
    return jnp.where(view.blank[:, None], v, entries + held)


def slab_products(view: View, row: jax.Array, sums: Callable, v: jax.Array) -> jax.Array:
    """`products` for the rows of one slab."""
    held = _held_product(_held(view, row), v) + _all_pairs_product(view, v)
    return jnp.where(take(view.blank, row, True)[:, None], v, sums(_product, v) + held)


class Systems(NamedTuple):
    """A x = b of one slab's rows; in blank rows A is the identity, and b the prior mean.

    Attributes:
        matrix: `(rows, k, k)`, A; from `slab_diagonals` `(rows, k)`, its diagonal.
        rhs: `(rows, k)`, b.
        constant: `(rows,)`, c: `row_losses` at x is c - 2 b'x + x'A x. None where not asked for.
    """

    matrix: jax.Array
    rhs: jax.Array
    constant: jax.Array | None


def slab_diagonals(view: View, row: jax.Array, sums: Callable, constant: bool = False) -> Systems:
    """The systems of one slab's rows, but only the diagonals of the matrices."""
    diagonal, *rest = sums(_with_constant(_diagonal) if constant else _diagonal)
    held = _held(view, row)
    diagonal += held[0] + (0.0 if held[1] is None else jnp.diagonal(held[1], axis1=-2, axis2=-1))
    diagonal += 0.0 if view.gram is None else jnp.diagonal(view.gram)
    return _systems(view, row, jnp.ones_like(diagonal), diagonal, held, *rest)


def slab_systems(view: View, row: jax.Array, sums: Callable, constant: bool = False) -> Systems:
    """The systems of one slab's rows."""
    matrix, *rest = sums(_with_constant(_gram) if constant else _gram)
    held = _held(view, row)
    matrix += jax.vmap(jnp.diag)(held[0])
    for more in (held[1], view.gram):
        matrix += 0.0 if more is None else more
    identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    return _systems(view, row, identity, matrix, held, *rest)


def _systems(view, row, identity, matrix, held, rhs, constant=None) -> Systems:
    """What was added up over entries, and the prior's part; blank rows by themselves."""
    prior, blank = take(view.prior, row), take(view.blank, row, True)
    pull = _held_product(held, prior)
    matrix = jnp.where(blank.reshape(-1, *[1] * (matrix.ndim - 1)), identity, matrix)
    rhs = jnp.where(blank[:, None], prior, rhs + pull)
    if constant is not None:
        constant = jnp.where(blank, jnp.sum(prior**2, axis=-1), constant + jnp.sum(prior * pull, axis=-1))
    return Systems(matrix, rhs, constant)

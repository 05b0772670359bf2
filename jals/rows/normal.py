"""The normal equations of one side's rows (see `view`): their systems, products and residuals, a slab at a time.

This module never looks at the loss: the certificate and the tests tie the two.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from .view import Piece, View, in_blocks
from .view import view as view  # whoever forms equations begins with one
from .walk import Slab, over_rows

_HIGHEST = jax.lax.Precision.HIGHEST


# ---- of one piece ----


def _gram(piece: Piece) -> tuple[jax.Array, jax.Array]:
    """(sum w z z', sum p z)"""
    gram = jnp.einsum("sk,sl->kl", piece.entry.w[:, None] * piece.z, piece.z, precision=_HIGHEST)
    return gram, piece.weighted(piece.target())


def _diagonal(piece: Piece) -> tuple[jax.Array, jax.Array]:
    """(diagonal of sum w z z', sum p z)"""
    return jnp.sum(piece.entry.w[:, None] * piece.z**2, axis=0), piece.weighted(piece.target())


def _gram_and_loss(piece: Piece, *x: jax.Array) -> tuple[jax.Array, ...]:
    return *_gram(piece), piece.loss(*x)


def _diagonal_and_loss(piece: Piece, *x: jax.Array) -> tuple[jax.Array, ...]:
    return *_diagonal(piece), piece.loss(*x)


def _product(piece: Piece, v: jax.Array) -> jax.Array:
    """(sum w z z') v"""
    return piece.weighted(piece.entry.w * piece.scores(v))


def _residual(piece: Piece, x: jax.Array) -> jax.Array:
    """sum p z - (sum w z z') x, minus half the gradient of the piece's loss in x"""
    return piece.weighted(piece.target() - piece.entry.w * piece.scores(x))


def _loss_and_residual(piece: Piece, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    left = piece.gap - piece.scores(x)
    return piece.entry.loss(left).sum(), piece.weighted(piece.entry.w * left + piece.entry.q)


# ---- of what a row's system holds beside its entries ----


class _Held(NamedTuple):
    """P of some rows, diagonal `(rows, k)` and the rest `(k, k)` or `(rows, k, k)` or None; a0 Z'CZ `(k, k)` or None,
    and what multiplies it in each row `(rows,)`, None for 1; and their prior means `(rows, k)`."""

    reg: jax.Array
    precision: jax.Array | None
    gram: jax.Array | None
    pairs: jax.Array | None
    prior: jax.Array

    @classmethod
    def of(cls, view: View) -> "_Held":
        return cls(view.reg, view.precision, view.gram, view.pairs, view.prior)

    def by_precision(self, v: jax.Array) -> jax.Array:
        """P v of each row."""
        if self.precision is None:
            return self.reg * v
        form = "rk,kl->rl" if self.precision.ndim == 2 else "rk,rkl->rl"
        return self.reg * v + jnp.einsum(form, v, self.precision, precision=_HIGHEST)

    def by_pairs(self, v: jax.Array) -> jax.Array | float:
        """a0 a Z'CZ v of each row."""
        if self.gram is None:
            return 0.0
        product = jnp.einsum("rk,kl->rl", v, self.gram, precision=_HIGHEST)
        return product if self.pairs is None else self.pairs[:, None] * product

    def matrices(self) -> list[jax.Array]:
        """What is added to every row's matrix beside the diagonal: each `(k, k)` or `(rows, k, k)`."""
        weighted = self.gram is not None and self.pairs is not None
        gram = self.pairs[:, None, None] * self.gram if weighted else self.gram  # pyright: ignore
        return [each for each in (self.precision, gram) if each is not None]

    def loss(self, x: jax.Array) -> jax.Array:
        """A row's share of the sum over all pairs, and its regularisation."""
        away = x - self.prior
        return jnp.sum(away * self.by_precision(away) + x * self.by_pairs(x), axis=-1)


# ---- of all rows ----


def entry_residuals(view: View, x: jax.Array) -> jax.Array:
    """sum over the row's entries of (p - w z.x) z, `(rows, k)`: minus half the gradient of the entries' loss."""
    return over_rows(view, _slab_residuals, jnp.zeros_like(x), x)


def _slab_residuals(slab: Slab, x: jax.Array) -> jax.Array:
    return slab.sums(_residual, x)


def entry_loss_and_residuals(view: View, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the entries' loss by row `(rows,)`, `entry_residuals`), in one pass."""
    initial = (jnp.zeros(len(x), x.dtype), jnp.zeros_like(x))
    return over_rows(view, _slab_loss_and_residuals, initial, x)


def _slab_loss_and_residuals(slab: Slab, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    return slab.sums(_loss_and_residual, x)


def row_losses(view: View, x: jax.Array) -> jax.Array:
    """What of the loss depends on each row, `(rows,)`: its entries', its share of the sum over all pairs and its
    regularisation; 0 in blank rows. Over a side they add up to the loss, but for the other side's regularisation."""
    return with_held_loss(view, x, over_rows(view, _slab_losses, jnp.zeros(len(x), x.dtype), x))


def _slab_losses(slab: Slab, x: jax.Array) -> jax.Array:
    return slab.sums(Piece.loss, x)


def with_held_loss(view: View, x: jax.Array, entries: jax.Array) -> jax.Array:
    """`row_losses` from the entries' `(rows,)`."""
    return jnp.where(view.blank, 0.0, entries + _Held.of(view).loss(x))


def residuals(view: View, x: jax.Array) -> jax.Array:
    """Right-hand side minus matrix times x, `(rows, k)`: minus half the gradient of the loss; m - x in blank rows."""
    return with_prior_pull(view, x, entry_residuals(view, x))


def with_prior_pull(view: View, x: jax.Array, entries: jax.Array) -> jax.Array:
    """`residuals` from `entry_residuals`."""
    held = _Held.of(view)
    pull = held.by_precision(held.prior - x) - held.by_pairs(x)
    return jnp.where(view.blank[:, None], held.prior - x, entries + pull)


def products(view: View, v: jax.Array) -> jax.Array:
    """Matrix times v for every row, `(rows, k)`, without forming the matrices."""
    held = _Held.of(view)
    entries = over_rows(view, _slab_entry_products, jnp.zeros_like(v), v)
    return jnp.where(view.blank[:, None], v, entries + held.by_precision(v) + held.by_pairs(v))


def _slab_entry_products(slab: Slab, v: jax.Array) -> jax.Array:
    return slab.sums(_product, v)


def systems(view: View) -> tuple[jax.Array, jax.Array]:
    """(A `(rows, k, k)`, b `(rows, k)`) of every row: k^2 numbers a row."""
    diagonal = jnp.where(view.blank[:, None], 1.0, view.reg)
    return over_rows(view, _matrix_and_rhs, (jax.vmap(jnp.diag)(diagonal), diagonal * view.prior))


def _matrix_and_rhs(slab: Slab) -> tuple[jax.Array, jax.Array]:
    return slab_systems(slab)[:2]


# ---- of one slab ----


class Systems(NamedTuple):
    """A x = b of one slab's rows; in blank rows A is the identity, and b the prior mean.

    Attributes:
        matrix: `(rows, k, k)`, A; from `slab_diagonals` `(rows, k)`, its diagonal.
        rhs: `(rows, k)`, b.
        loss: `(rows,)`, the row's part of the loss at `at`, l: at x it is l - d'(A d - 2 (b - A x)), d = at - x. None
            where not asked for.
    """

    matrix: jax.Array
    rhs: jax.Array
    loss: jax.Array | None


def slab_products(slab: Slab, v: jax.Array) -> jax.Array:
    """`products` for the rows of one slab, `(rows, k)`."""
    held = _Held.of(slab.view)
    product = slab.sums(_product, v) + held.by_precision(v) + held.by_pairs(v)
    return jnp.where(slab.view.blank[:, None], v, product)


def slab_diagonals(slab: Slab, loss: bool = False) -> Systems:
    """The systems of one slab's rows, but only the diagonals of the matrices; `loss` for that at x = 0."""
    diagonal, *rest = slab.sums(_diagonal_and_loss if loss else _diagonal)
    held = _Held.of(slab.view)
    diagonal += held.reg
    for more in held.matrices():
        diagonal += jnp.diagonal(more, axis1=-2, axis2=-1)
    return _systems(slab, held, jnp.ones_like(diagonal), diagonal, *rest)


def slab_systems(slab: Slab, loss: bool = False, at: jax.Array | None = None) -> Systems:
    """The systems of one slab's rows; `loss` for that at the rows `at` `(rows, k)`, None for 0."""
    where = () if at is None else (at,)
    matrix, *rest = slab.sums(_gram_and_loss, *where) if loss else slab.sums(_gram)
    held = _Held.of(slab.view)
    matrix += jax.vmap(jnp.diag)(held.reg)
    for more in held.matrices():
        matrix += more
    identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    return _systems(slab, held, identity, matrix, *rest, at=at)


def slab_block(slab: Slab, x: jax.Array, block: jax.Array) -> Systems:
    """A d = b for how far a block of columns goes from x `(rows, blocks, size)` where all others stay: A `(rows, size,
    size)` is that part of the rows' matrices, b of their residuals. What fills up the last block stays 0, and so do the
    columns of blank rows. The slab's view fetches the block's columns (`view.Columns`), and `held` has the scores at x.
    """
    held, size = _Held.of(slab.view), x.shape[-1]

    def here(columns: jax.Array, fill: Any = 0) -> jax.Array:
        return jax.lax.dynamic_index_in_dim(in_blocks(columns, size, fill), block, -2, keepdims=False)

    matrix, rhs = slab.sums(_gram)
    reg, away = here(held.reg, 1), in_blocks(held.prior, size) - x
    matrix += jax.vmap(jnp.diag)(reg)
    rhs += reg * jax.lax.dynamic_index_in_dim(away, block, 1, keepdims=False)
    for more, share, at in ((held.precision, None, away), (held.gram, held.pairs, -x)):
        if more is None:
            continue
        strip = in_blocks(jnp.swapaxes(here(more), -1, -2), size)  # the block's rows: (..., size, blocks, size)
        pull = jnp.einsum("rnb,anb->ra" if more.ndim == 2 else "rnb,ranb->ra", at, strip, precision=_HIGHEST)
        square = jax.lax.dynamic_index_in_dim(strip, block, -2, keepdims=False)
        rhs += pull if share is None else share[:, None] * pull
        matrix += square if share is None else share[:, None, None] * square
    blank = slab.view.blank
    identity = jnp.eye(size, dtype=matrix.dtype)
    return Systems(jnp.where(blank[:, None, None], identity, matrix), jnp.where(blank[:, None], 0.0, rhs), None)


def _systems(slab: Slab, held: _Held, identity, matrix, rhs, loss=None, at=None) -> Systems:
    """What was added up over entries, and the prior's part; blank rows by themselves."""
    blank = slab.view.blank
    at = jnp.zeros_like(rhs) if at is None else at
    matrix = jnp.where(blank.reshape(-1, *[1] * (matrix.ndim - 1)), identity, matrix)
    rhs = jnp.where(blank[:, None], held.prior, rhs + held.by_precision(held.prior))
    if loss is not None:
        loss = jnp.where(blank, jnp.sum((at - held.prior) ** 2, axis=-1), loss + held.loss(at))
    return Systems(matrix, rhs, loss)

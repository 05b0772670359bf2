"""One side of a problem, ready to be solved for: its rows' equations, with the other side held.

Seen from one side, the other side's rows are a fixed table z_i = (y_i, 1) (or y_i where there are no biases), and the
unknown of a row is x = (x_u, b_u). With prior mean m and prior precision P (lambda on the diagonal, unless a matrix is
given) a row's part of the loss is least where

    (sum_entries w z z' + a0 a Z'CZ + P) x = sum_entries p z + P m,      p = w (t - o) + q,

o being the part of the score that is held (mean + b_i), a the row's weight in the sum over all pairs, and C those of
the other side's rows on a diagonal. A `View` holds what goes into these systems; `walk` goes
through it slab by slab, and `normal` forms the systems, their products and residuals.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..model.factors import Factors, remainder
from ..model.layouts import Side
from ..model.objectives import Entry, Objective, by_rows, row_sizes, squared_sum
from ..model.problem import Problem, Slots

_HIGHEST = jax.lax.Precision.HIGHEST


class Whole(NamedTuple):
    """The other side's rows, all of them at hand: `z` `(others, k)`, and `bias` `(others,)`, the held part of their
    scores, or None. A walk asks for rows by `fetch` alone, so others may get them from elsewhere. `weight` `(others,)`:
    as of `View`."""

    z: jax.Array
    bias: jax.Array | None
    weight: jax.Array | None = None

    def fetch(self, other: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        """(z, held bias or None) of these rows."""
        z, bias = (None if each is None else each.at[other].get(mode="promise_in_bounds") for each in self[:2])
        assert z is not None
        return z, bias


class Columns(NamedTuple):
    """A block of the other side's columns: `z` `(others, blocks, size)`, and `block`, which of them. `bias` as of
    `Whole`."""

    z: jax.Array
    bias: jax.Array | None
    block: Any
    weight: jax.Array | None = None

    @classmethod
    def of(cls, z: jax.Array, bias: jax.Array | None, size: int) -> "Columns":
        """Blocks of `size` columns of z `(others, k)`, the last filled up with zeros."""
        return cls(in_blocks(z, size), bias, 0)

    def fetch(self, other: jax.Array) -> tuple[jax.Array, jax.Array | None]:
        z = self.z.at[other, self.block].get(mode="promise_in_bounds")
        return z, None if self.bias is None else self.bias.at[other].get(mode="promise_in_bounds")


def in_blocks(columns: jax.Array, size: int, fill: Any = 0) -> jax.Array:
    """`(..., k)` as `(..., blocks, size)`, the last block filled up."""
    more = -columns.shape[-1] % size
    padded = jnp.pad(columns, [(0, 0)] * (columns.ndim - 1) + [(0, more)], constant_values=fill)
    return padded.reshape(*columns.shape[:-1], -1, size)


class View(NamedTuple):
    """What one side's rows are solved against; k = rank + 1 where there are biases, else rank.

    Attributes:
        layout, slots: the side's rows, and the entries' numbers in their order; weights v g_u h_i.
        objective: where an entry's (w, t, q) come from; without what is in the slots' weights, and without powers.
        others: the other side's rows and biases.
        mean: `()`, which with the others' biases makes up o; None for 0.
        prior_mean: `(k,)` or `(rows, k)`, m; None for 0.
        reg: `(rows, k)`, the diagonal of P.
        precision: `(k, k)` or `(rows, k, k)`, the rest of P; None for 0.
        gram: `(k, k)`, a0 Z'CZ; None without a0.
        pairs: `(rows,)`, a, which multiplies gram; None for 1.
        count: `(rows,)`, how many entries of weight > 0 each row has.
        blank: bool `(rows,)`, rows whose system is empty: they keep their prior mean, and their matrix counts as the
            identity.
        strict: bool `(rows,)`, rows whose pivots must exceed k * eps * (the matrix's largest diagonal element), as
            their P does not make them solvable.
        needed: `(rows,)`, how many entries a strict row must have.
        weight: `(rows,)`, g of the rows where it is not in the slots' weights yet, as h of the others in `others`: on
            several devices, until these have been sent. None for 1.
    """

    layout: Side
    slots: Slots
    objective: Objective
    others: Whole | Columns
    mean: jax.Array | None
    prior_mean: jax.Array | None
    reg: jax.Array
    precision: jax.Array | None
    gram: jax.Array | None
    pairs: jax.Array | None
    count: jax.Array
    blank: jax.Array
    strict: jax.Array
    needed: jax.Array
    weight: jax.Array | None = None

    @property
    def has_bias(self) -> bool:
        return self.others.bias is not None

    @property
    def prior(self) -> jax.Array:
        """`(rows, k)`, m."""
        prior = jnp.zeros((), self.reg.dtype) if self.prior_mean is None else self.prior_mean
        return jnp.broadcast_to(prior, self.reg.shape)

    @property
    def empty(self) -> jax.Array:
        """bool `(rows,)`: rows that equal their prior mean, since nothing but the prior knows them."""
        return self.blank if self.gram is not None else self.count == 0

    def rows(self) -> dict[str, jax.Array]:
        """What there is of each row, by name: leaves `(rows, ...)`."""
        named = {name: getattr(self, name) for name in ("reg", "count", "blank", "strict", "needed")}
        shared = {"prior_mean": 1, "precision": 2, "pairs": 0}  # with so many axes it is the same for all rows
        more = {name: getattr(self, name) for name in shared}
        named |= {name: each for name, each in more.items() if each is not None and each.ndim > shared[name]}
        return named if self.weight is None else named | {"weight": self.weight}

    def weighed(self) -> "View":
        """The same with g and h in the slots' weights."""
        if self.weight is None and self.others.weight is None:
            return self
        slots = _weighed(self.layout, self.slots, self.weight, self.others.weight, self.reg.dtype)
        return self._replace(slots=slots, weight=None, others=self.others._replace(weight=None))

    @property
    def by_entries(self) -> bool:
        """Whether rows without entries have diagonal matrices, which need no solving."""
        return self.gram is None and self.precision is None

    def good(self, solvable: jax.Array) -> jax.Array:
        """bool `(rows,)`: rows with a unique solution, of those whose matrix is not singular."""
        return (solvable & (self.count >= self.needed)) | self.blank


def view(
    factors: Factors,
    problem: Problem,
    objective: Objective,
    side: str,
    precision: Any = None,
    prior: Any = None,
    gram: jax.Array | None = None,
) -> View:
    """The equations of `side`, "user" or "item", with the other side of `factors` held.

    Args:
        precision: in place of the objective's lambda of this side: `()`, `(rows,)`, or a symmetric positive definite
            matrix `(rank, rank)` or `(rows, rank, rank)`. The biases keep the objective's lambda.
        prior: in place of the objective's prior mean: `(rank,)` or `(rows, rank)`.
        gram: `pairs_gram`, where it is known already.
    """
    problem = problem.arrange()
    if side == "user":
        layout, slots, table, held_bias = problem.user_side, problem.user_slots, factors.item, factors.item_bias
    else:
        layout, slots, table, held_bias = problem.item_side, problem.item_slots, factors.user, factors.user_bias
    assert slots is not None
    rows, (others, rank), dtype, count = layout.num_rows, table.shape, table.dtype, slots.count
    n = row_sizes(problem, objective)[side == "item"]
    objective = by_rows(problem, objective)
    own, opposite = objective.weight_user, objective.weight_item
    weights = (own, opposite) if side == "user" else (opposite, own)
    objective = dataclasses.replace(objective, weight_user=None, weight_item=None)
    unknowns = rank
    reg, reg_bias = objective.row_reg(side, n, others)
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

    pairs, gram = objective.unobserved(side)[0], pairs_gram(table, objective, side) if gram is None else gram
    blank = count == 0
    if matrix is not None:
        blank &= jnp.trace(matrix, axis1=-2, axis2=-1) == 0
    if gram is not None:
        blank &= reg.sum(axis=-1) + jnp.trace(gram) * (1 if pairs is None else pairs) == 0
    alone = matrix is None and gram is None  # then nothing but entries can make a row without lambda solvable
    needed = jnp.where(strict & alone, unknowns, 0).astype(dtype)
    held = Whole(table, held_bias, weights[1]), factors.mean
    here = View(
        layout, slots, objective, *held, prior, reg, matrix, gram, pairs, count, blank, strict, needed, weights[0]
    )
    return here if layout.mesh is not None else here.weighed()


def pairs_gram(table: jax.Array, objective: Objective, side: str) -> jax.Array | None:
    """a0 Z'CZ `(k, k)` of the other side's rows, None without a0; of an objective without powers."""
    if objective.unobserved_weight is None:
        return None
    return objective.unobserved_weight * squared_sum(table, objective.unobserved(side)[1])


def _weighed(layout: Side, slots: Slots, own: jax.Array | None, opposite: jax.Array | None, dtype: Any) -> Slots:
    """Slots of weights v g_u h_i."""
    weights = []
    for bucket, weight in zip(layout.buckets, slots.weights(), strict=True):
        weight = (bucket.entry != layout.num_entries).astype(dtype) if weight is None else weight
        if own is not None:
            weight = weight * own.at[layout.of_pieces(bucket)].get(mode="fill", fill_value=0)[..., None]
        if opposite is not None:
            weight = weight * opposite.at[bucket.other].get(mode="promise_in_bounds")
        weights.append(weight)
    return slots._replace(weight=tuple(weights))


# ---- one piece of a row ----


class Piece(NamedTuple):
    """The slots of one piece: `z` `(width, k)`, the entries' (w, t, q), `gap`, t - o, and value and weight."""

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

    def weighted(self, numbers: jax.Array) -> jax.Array:
        """The sum of z, each times its slot's number: `(k,)`."""
        return jnp.einsum("s,sk->k", numbers, self.z, precision=_HIGHEST)

    def loss(self, x: jax.Array | None = None) -> jax.Array:
        """The entries' part of the loss, `()`, where the row is x; None for 0."""
        return self.entry.loss(self.gap if x is None else self.gap - self.scores(x)).sum()


def gathered(view: View, other: jax.Array, value: jax.Array, weight: jax.Array, more: jax.Array | None = None) -> Piece:
    """The slots of many pieces, from their index and number arrays `(pieces, width)`: leaves `(pieces, width, ...)`;
    `more`: what is held of their scores beside o."""
    z, bias = view.others.fetch(other)
    entry = view.objective.entry(value, weight)
    held = [] if view.mean is None else [jnp.broadcast_to(view.mean, other.shape)]
    held += [each for each in (bias, more) if each is not None]
    return Piece(z, entry, remainder(entry.t, held), value, weight)

"""The normal equations of one side's rows, solved row by row with the other side held.

Seen from one side, the other side's rows are a fixed table z_i = (y_i, 1) (or y_i where there are no biases), and the
unknown of a row is x = (x_u, b_u). With prior mean m and prior precision P (lambda on the diagonal, unless a matrix is
given) a row's part of the loss is least where d = x - m solves

    (sum_entries w z z' + a0 Z'Z + P) d = sum_entries p z - a0 Z'Z m,      p = w (t - o - z.m) + q,

o being the part of the score that is held (mean + b_i). Solving for d rather than x makes an empty row equal its prior
mean exactly. This module never looks at the loss; the certificate and the tests tie the two.

How the solution is differentiated is apart from how it is found: the residual of the equations is cheap, plain JAX, and
the implicit function theorem turns its derivative into that of the solution by one more solve with the same matrices
(`_exact`). So memory does not grow with what the solve does inside, and whatever solves the equations will do.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

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
        prior: `(rows, k)`, m; None for 0.
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
    prior: jax.Array | None
    reg: jax.Array
    precision: jax.Array | None
    gram: jax.Array | None
    blank: jax.Array
    strict: jax.Array
    needed: jax.Array

    @property
    def has_bias(self) -> bool:
        return self.held_bias is not None


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
    rows, (others, rank), dtype = layout.num_rows, table.shape, table.dtype
    unknowns = rank
    reg, reg_bias = objective.row_reg(side, slots.count, others)
    prior = getattr(objective, f"prior_{side}") if prior is None else prior
    prior = None if prior is None else jnp.broadcast_to(jnp.asarray(prior, dtype), (rows, rank))

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
        prior = None if prior is None else jnp.pad(prior, ((0, 0), (0, 1)))
        matrix = None if matrix is None else jnp.pad(matrix, [(0, 0)] * (matrix.ndim - 2) + [(0, 1), (0, 1)])

    gram = None if objective.unobserved_weight is None else objective.unobserved_weight * squared_sum(table)
    blank = slots.count == 0
    if matrix is not None:
        blank &= jnp.trace(matrix, axis1=-2, axis2=-1) == 0
    if gram is not None:
        blank &= reg.sum(axis=-1) + jnp.trace(gram) == 0
    needed = jnp.where(strict, unknowns, 0).astype(dtype) if matrix is None and gram is None else jnp.zeros(rows, dtype)
    return View(layout, slots, objective, table, factors.mean, held_bias, prior, reg, matrix, gram, blank, strict, needed)


# ---- one piece of a row ----


class Piece(NamedTuple):
    """The slots of one piece: `z` `(width, k)`, the entries' (w, t, q), and `gap`, t - s at d = 0."""

    z: jax.Array
    entry: Entry
    gap: jax.Array

    def target(self) -> jax.Array:
        """p of each slot."""
        return self.entry.w * self.gap + self.entry.q

    def scores(self, d: jax.Array) -> jax.Array:
        """z.d of each slot."""
        return jnp.einsum("sk,k->s", self.z, d, precision=_HIGHEST)


def _gram(piece: Piece) -> tuple[jax.Array, jax.Array]:
    """(sum w z z', sum p z)"""
    gram = jnp.einsum("sk,sl->kl", piece.entry.w[:, None] * piece.z, piece.z, precision=_HIGHEST)
    return gram, _weighted(piece, piece.target())


def _diagonal(piece: Piece) -> tuple[jax.Array, jax.Array]:
    """(diagonal of sum w z z', sum p z)"""
    return jnp.sum(piece.entry.w[:, None] * piece.z**2, axis=0), _weighted(piece, piece.target())


def _product(piece: Piece, d: jax.Array) -> jax.Array:
    """(sum w z z') d"""
    return _weighted(piece, piece.entry.w * piece.scores(d))


def _residual(piece: Piece, d: jax.Array) -> jax.Array:
    """sum p z - (sum w z z') d, minus half the gradient of the piece's loss in d"""
    return _weighted(piece, piece.target() - piece.entry.w * piece.scores(d))


def _loss_and_residual(piece: Piece, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    left = piece.gap - piece.scores(d)
    return piece.entry.loss(left).sum(), _weighted(piece, piece.entry.w * left + piece.entry.q)


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


def _over_slabs(view: View, work: Callable, initial: Any) -> Any:
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
        parts = jax.lax.map(lambda slab, one=one: one(slab, view), slabs)
        rows = bucket.row.reshape(-1)
        put = lambda table, part, rows=rows: table.at[rows].set(part.reshape(-1, *part.shape[2:]), mode="drop")  # noqa: E731
        result = jax.tree.map(put, result, parts)
    return result


def _summing(slab: _Slab, view: View, step: int) -> Callable:
    def gather(row, other, value, weight):
        z = view.table.at[other].get(mode="promise_in_bounds")
        entry = view.objective.entry(value, weight)
        held = [] if view.mean is None else [jnp.broadcast_to(view.mean, other.shape)]
        if view.held_bias is not None:
            held.append(view.held_bias.at[other].get(mode="promise_in_bounds"))
        if view.prior is not None:
            held.append(jnp.einsum("psk,pk->ps", z, _take(view.prior, row), precision=_HIGHEST))
        return Piece(z, entry, remainder(entry.t, held))

    if slab.piece_row is None:
        whole = gather(slab.row, slab.other, slab.value, slab.weight)
        return lambda function, *arguments: jax.vmap(function)(whole, *arguments)

    def sums(function, *arguments):
        def part(piece_row, other, value, weight):
            pieces = gather(_take(slab.row, piece_row, view.layout.num_rows), other, value, weight)
            return jax.vmap(function)(pieces, *(_take(argument, piece_row) for argument in arguments))

        def add(total, pieces):
            put = lambda table, more: table.at[pieces[0]].add(more, mode="drop")  # noqa: E731
            return jax.tree.map(put, total, part(*pieces)), None

        pieces = (slab.piece_row, slab.other, slab.value, slab.weight)
        steps = jax.tree.map(lambda array: array.reshape(-1, step, *array.shape[1:]), pieces)
        shapes = jax.eval_shape(part, *jax.tree.map(lambda array: array[0], steps))
        zeros = jax.tree.map(lambda s: jnp.zeros(slab.row.shape + s.shape[1:], s.dtype), shapes)
        return jax.lax.scan(add, zeros, steps)[0]

    return sums


def _take(table: jax.Array, row: jax.Array, fill: Any = 0) -> jax.Array:
    """Rows of a table; `fill` for the row numbers that mark unused places."""
    return table.at[row].get(mode="fill", fill_value=fill)


def _held(view: View, row: jax.Array | None = None) -> tuple[jax.Array, jax.Array | None]:
    """The part of the matrices that needs no entries, P + a0 Z'Z, for these rows (None: for all), as
    (diagonal `(rows, k)`, full `(k, k)` or `(rows, k, k)` or None)."""
    reg, full = view.reg, view.precision
    if row is not None:
        reg = _take(reg, row)
        full = full if full is None or full.ndim == 2 else _take(full, row)
    if view.gram is not None:
        full = view.gram if full is None else full + view.gram
    return reg, full


def _held_product(held: tuple[jax.Array, jax.Array | None], v: jax.Array) -> jax.Array:
    reg, full = held
    if full is None:
        return reg * v
    return reg * v + jnp.einsum("rk,kl->rl" if full.ndim == 2 else "rk,rkl->rl", v, full, precision=_HIGHEST)


def _prior_pull(view: View, prior: jax.Array | None) -> jax.Array | float:
    """a0 Z'Z m of each row: how the sum over all pairs pulls rows from their prior mean."""
    if view.gram is None or prior is None:
        return 0.0
    return jnp.einsum("rk,kl->rl", prior, view.gram, precision=_HIGHEST)


def entry_residuals(view: View, d: jax.Array) -> jax.Array:
    """sum over the row's entries of (p - w z.d) z, `(rows, k)`: minus half the gradient of the entries' loss."""
    return _over_slabs(view, lambda row, sums: sums(_residual, _take(d, row)), jnp.zeros_like(d))


def entry_loss_and_residuals(view: View, d: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the entries' loss by row `(rows,)`, `entry_residuals`), in one pass."""
    initial = (jnp.zeros(len(d), d.dtype), jnp.zeros_like(d))
    return _over_slabs(view, lambda row, sums: sums(_loss_and_residual, _take(d, row)), initial)


def residuals(view: View, d: jax.Array) -> jax.Array:
    """Right-hand side minus matrix times d, `(rows, k)`; minus half the gradient of the loss."""
    inner = entry_residuals(view, d) - _held_product(_held(view), d) - _prior_pull(view, view.prior)
    return jnp.where(view.blank[:, None], 0.0, inner)


def products(view: View, v: jax.Array) -> jax.Array:
    """Matrix times v for every row, `(rows, k)`, without forming the matrices."""
    entries = _over_slabs(view, lambda row, sums: sums(_product, _take(v, row)), jnp.zeros_like(v))
    return jnp.where(view.blank[:, None], v, entries + _held_product(_held(view), v))


# ---- solvers ----


def _cholesky(matrix: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(solution, pivots, lower factor) of one row; NaN where the matrix is not positive definite."""
    lower = jax.lax.linalg.cholesky(matrix, symmetrize_input=False)
    return jax.scipy.linalg.cho_solve((lower, True), rhs), jnp.diagonal(lower) ** 2, lower


def _lu(matrix: jax.Array, rhs: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same by the algorithm of `jnp.linalg.solve`, whose pivots can be seen here."""
    factor, swaps, _ = jax.lax.linalg.lu(matrix)
    return jax.scipy.linalg.lu_solve((factor, swaps), rhs), jnp.abs(jnp.diagonal(factor)), factor


_EXACT = {"cholesky": _cholesky, "lu": _lu}
LINSOLVES = (*_EXACT, "cg")


def solve(view: View, linsolve: str = "cholesky") -> Solved:
    """The minimisers by an exact `linsolve`, "cholesky" or "lu".

    Differentiable in every number of the view, forward and reverse, any number of times: each derivative costs one
    more solve and two products with the entries.
    """
    return _solved(view, *_exact(linsolve, view))


def solve_with_cholesky(view: View) -> Solved:
    """`solve` by Cholesky that hands each row's factor back, k^2 numbers a row, for sampling and uncertainty.
    Derivatives go by JAX's own rule for the factorization."""
    d, good, lower = _factorize_and_solve("cholesky", view, keep=True)
    return _solved(view, d, good, lower)


def solve_cg(view: View, start: jax.Array, steps: int) -> Solved:
    """`steps` steps of conjugate gradients from the unknowns `start` `(rows, k)`, preconditioned by the diagonal.

    Matrix-free: a step costs two products with each row's entries. The result is not exact, and its derivatives are
    those of the steps made, the start included.
    """
    start = start if view.prior is None else start - view.prior
    start = jnp.where(view.blank[:, None], 0.0, start)

    def work(row, sums):
        blank, held = _take(view.blank, row, True)[:, None], _held(view, row)

        def product(v):
            return jnp.where(blank, v, sums(_product, v) + _held_product(held, v))

        diagonal, rhs = sums(_diagonal)
        rhs -= _prior_pull(view, None if view.prior is None else _take(view.prior, row))
        diagonal += held[0] if held[1] is None else held[0] + jnp.diagonal(held[1], axis1=-2, axis2=-1)
        scale = 1 / jnp.where(diagonal > 0, diagonal, 1.0)

        def step(carry, _):
            d, residual, direction, size = carry
            moved = product(direction)
            d += _ratio(size, jnp.sum(direction * moved, axis=-1)) * direction
            residual -= _ratio(size, jnp.sum(direction * moved, axis=-1)) * moved
            preconditioned = scale * residual
            new_size = jnp.sum(residual * preconditioned, axis=-1)
            return (d, residual, preconditioned + _ratio(new_size, size) * direction, new_size), None

        d = _take(start, row)
        residual = jnp.where(blank, 0.0, rhs - product(d))
        direction = scale * residual
        carry = (d, residual, direction, jnp.sum(residual * direction, axis=-1))
        return jax.lax.scan(step, carry, length=steps)[0][0]

    d = _over_slabs(view, work, jnp.zeros_like(start))
    enough = view.slots.count >= view.needed
    return _solved(view, d, view.blank | (jnp.isfinite(d).all(axis=-1) & enough))


def _ratio(over: jax.Array, under: jax.Array) -> jax.Array:
    """over / under `(rows, 1)`, 0 where under is 0: conjugate gradients that have arrived stay where they are."""
    positive = under > 0
    return jnp.where(positive, over / jnp.where(positive, under, 1.0), 0.0)[:, None]


def _solved(view: View, d: jax.Array, good: jax.Array, cholesky: jax.Array | None = None) -> Solved:
    x = d if view.prior is None else view.prior + d
    x = jnp.where(good[:, None], x, jnp.nan)
    rank = x.shape[1] - 1 if view.has_bias else x.shape[1]
    return Solved(x[:, :rank], x[:, rank] if view.has_bias else None, good, cholesky)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _exact(linsolve: str, view: View) -> tuple[jax.Array, jax.Array]:
    """(d, good) for every row."""
    return _factorize_and_solve(linsolve, view)[:2]


@_exact.defjvp
def _exact_jvp(linsolve, primals, tangents):
    (view,), (view_dot,) = primals, tangents
    d, good = _exact(linsolve, view)
    # matrix(view) d = rhs(view), so matrix d_dot = the derivative of rhs - matrix d with d held.
    _, residual_dot = jax.jvp(lambda view: residuals(view, d), (view,), (view_dot,))
    d_dot = jax.lax.custom_linear_solve(
        functools.partial(products, view),
        residual_dot,
        lambda _, rhs: _factorize_and_solve(linsolve, view, rhs)[0],
        symmetric=True,
    )
    return (d, good), (d_dot, np.zeros(good.shape, jax.dtypes.float0))


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


def _equations(view: View, row: jax.Array, sums: Callable) -> tuple[jax.Array, jax.Array]:
    """(matrix, right-hand side) of a slab's rows, for d."""
    gram, target = sums(_gram)
    reg, full = _held(view, row)
    matrix = gram + jax.vmap(jnp.diag)(reg) + (0.0 if full is None else full)
    return matrix, target - _prior_pull(view, None if view.prior is None else _take(view.prior, row))


def norms(view: View) -> tuple[jax.Array, jax.Array]:
    """(|A|_F, |b|) of every row's system A x = b, each `(rows,)`; for x = m + d itself, not for d."""

    def work(row, sums):
        matrix, target = _equations(view, row, sums)
        if view.prior is not None:
            target += jnp.einsum("rkl,rl->rk", matrix, _take(view.prior, row), precision=_HIGHEST)
        return jnp.linalg.norm(matrix, axis=(-2, -1)), jnp.linalg.norm(target, axis=-1)

    prior = 0.0 if view.prior is None else view.prior
    initial = (jnp.linalg.norm(view.reg, axis=-1), jnp.linalg.norm(view.reg * prior, axis=-1))
    return _over_slabs(view, work, initial)


def _factorize_and_solve(
    linsolve: str, view: View, rhs: jax.Array | None = None, keep: bool = False
) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """(d, good, factors) for the equations' own right-hand side, or for another one `(rows, k)`; the factors
    `(rows, k, k)` only with `keep`."""
    rows, k = view.reg.shape
    epsilon = k * jnp.finfo(view.reg.dtype).eps

    def work(row, sums):
        matrix, target = _equations(view, row, sums)
        blank = _take(view.blank, row, True)
        matrix = jnp.where(blank[:, None, None], jnp.eye(k, dtype=matrix.dtype), matrix)
        target = jnp.where(blank[:, None], 0.0, target) if rhs is None else _take(rhs, row)
        d, pivots, factor = _each_row(_EXACT[linsolve], matrix, target, differentiable=keep)
        largest = jnp.max(jnp.diagonal(matrix, axis1=-2, axis2=-1), axis=-1)
        solvable = ~_take(view.strict, row, False) | (pivots.min(axis=-1) > epsilon * largest)
        good = jnp.isfinite(d).all(axis=-1) & solvable & (_take(view.slots.count, row) >= _take(view.needed, row))
        return (d, blank | good, factor) if keep else (d, blank | good)

    diagonal = jnp.where(view.blank[:, None], 1.0, view.reg)  # all there is to a row without entries
    initial = [jnp.zeros((rows, k), view.reg.dtype) if rhs is None else rhs / diagonal, jnp.ones(rows, bool)]
    if keep:
        initial.append(jax.vmap(jnp.diag)(jnp.sqrt(diagonal)))
    d, good, *factors = _over_slabs(view, work, tuple(initial))
    return d, good, factors[0] if keep else None

"""Backward errors of rows, and whether the numbers of the dtype can tell them.

Squares never overflow or underflow here: norms divide by the largest magnitude first. What the loss and the normal
equations multiply may. A product under the least normal number, `tiny`, comes out as 0 (XLA on CPUs flushes what lies
below), and 0 / 0 proves nothing. So beside |A|_F and |b| a row's `Sizes` count what underflow may have taken: every
product and difference may be off by `tiny`, times what it is multiplied by afterwards. Where that is not small against
bound * (|A|_F |x| + |b|), or where a number is not finite, the backward error is NaN. It is exactly 0 where nothing
pulls: x = 0 (or A = 0), and every product of b has a factor that is exactly 0.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..devices import match_varying, summed
from ..model.counts import POWERS
from ..model.exchange import AXIS
from ..model.factors import Factors
from ..model.feedback import feature, slope
from ..model.objectives import NUMBERS, Objective, by_rows
from ..model.problem import Problem
from . import normal, rowsolve
from .norms import bits, norm, units
from .spread import on_devices
from .view import Piece, View, gathered

_REGS = tuple(name for name in NUMBERS if name.startswith("reg_") and name != "reg_power")
_CHUNK = 2**16  # entries looked at together


def bound(dtype: Any) -> float:
    """What an exact solver's backward errors stay under."""
    return 1e-13 if dtype == jnp.float64 else 1e-5


class Sizes(NamedTuple):
    """The sizes that backward errors of a side's rows are relative to; each `(rows,)`. See the top of the module.

    Attributes:
        matrix, rhs: |A|_F and |b| of every row's system A x = b. In blank rows A is the prior's precision.
        lost: how far underflow may have moved A x - b, over 4 k tiny; 0, or at least 1.
        lost_by_x: the same, over |x|.
        vanished: bool, whether something that is added up in b may have come out as 0 without being 0.
    """

    matrix: jax.Array
    rhs: jax.Array
    lost: jax.Array
    lost_by_x: jax.Array
    vanished: jax.Array


class Error(NamedTuple):
    """|A x - b|, |A|_F |x| + |b|, and what underflow may have taken from the former, over `tiny`; all three over a
    `unit` >= 1, as the second may overflow. Of rows, each `(rows,)`, or of many rows together, each `()`."""

    residual: jax.Array
    scale: jax.Array
    lost: jax.Array
    unit: jax.Array

    def ratio(self) -> jax.Array:
        """The backward error; NaN where it cannot be judged, 0 where there is no residual, infinite without a scale."""
        dtype = self.scale.dtype
        finite = jnp.isfinite(self.residual) & jnp.isfinite(self.scale) & jnp.isfinite(self.lost)
        judged = finite & (self.lost * (2 * jnp.finfo(dtype).tiny / bound(dtype)) <= self.scale)
        ratio = self.residual / jnp.where(self.residual == 0, 1, self.scale)
        return jnp.where(judged, ratio, jnp.nan)

    @staticmethod
    def together(errors: list["Error"]) -> "Error":
        """Of all rows of these together."""
        rows = Error(*map(jnp.concatenate, zip(*errors, strict=True)))
        unit, inverse = units(jnp.max(rows.unit))
        share = rows.unit * inverse
        residual, scale, lost = (norm(each * share) for each in (rows.residual, rows.scale, rows.lost))
        return Error(residual, scale, lost + jnp.sign(jnp.max(rows.lost)), unit)


def error(residual: jax.Array, x: jax.Array, sizes: Sizes) -> Error:
    """Of every row, from |A x - b| `(rows,)` and x `(rows, k)`."""
    length = norm(x, axis=-1)
    unit, inverse = units(jnp.maximum(length, 1))
    scale = sizes.matrix * (length * inverse) + sizes.rhs * inverse
    unseen = jnp.sum((jnp.abs(x) < jnp.finfo(x.dtype).tiny).astype(x.dtype), axis=-1)  # 0 may be any such number
    lost = sizes.lost * inverse + sizes.lost_by_x * (length * inverse) + jnp.sign(sizes.lost)  # scaled, it is off anew
    lost = 4 * x.shape[-1] * lost + sizes.matrix * unseen * inverse
    nothing_pulls = (scale == 0) & ~sizes.vanished & ~_nonzero(x).any(axis=-1)
    return Error(residual * inverse, scale, jnp.where(nothing_pulls, 0, lost), unit)


def sizes(factors: Factors, problem: Problem, objective: Objective, side: str) -> Sizes:
    """Of every row of a side: one pass over the entries that forms the rows' matrices, and one that forms nothing."""
    problem = problem.arrange()
    here = normal.view(factors, problem, objective, side)
    lost, by_x, vanished = _lost_in_entries(here, problem, by_rows(problem, objective), side)
    fixed = _of_prior_and_all_pairs(here, side)
    norms = rowsolve.solve(here, want=("norms",)).norms
    matrix, rhs = (jnp.where(here.blank, own, each) for own, each in zip(fixed, norms.T, strict=False))
    return Sizes(matrix, rhs, fixed.lost + lost, fixed.lost_by_x + by_x, fixed.vanished | (vanished > 0))


# ---- what underflow may take ----


def _lost_in_entries(view: View, problem: Problem, objective: Objective, side: str) -> tuple[jax.Array, ...]:
    """(`Sizes.lost`, `Sizes.lost_by_x`, how many entries may have vanished) of every row, each `(rows,)`. In the order
    of the table, chunk by chunk: one small loop, whatever the layout."""
    faint = jnp.zeros((), bool)  # whether what is taken off the targets may leave less than a normal number
    for held in (view.mean, view.others.bias):
        faint |= False if held is None else _faint(held).any()
    if view.layout.mesh is not None:
        return on_devices(_lost_in_slots, view, jnp.broadcast_to(faint, view.count.shape))
    row, other = (problem.user, problem.item) if side == "user" else (problem.item, problem.user)
    rows, size = len(view.reg), min(_CHUNK, len(row))
    fill = -len(row) % size
    given = problem.weight
    weight = objective.weighed(given, problem.user, problem.item)
    columns = [other, problem.value, weight]
    if weight is not given:
        columns.append(_vanished(weight, *objective.weight_factors(given, problem.user, problem.item)))
    columns = [jnp.pad(each, (0, fill)) for each in columns]
    columns = [each.reshape(-1, size) for each in (jnp.pad(row, (0, fill), constant_values=rows), *columns)]

    def add(totals, chunk):
        row, *entries = chunk
        parts = _lost(gathered(view, *entries[:3]), view.objective, faint, *entries[3:])
        return tuple(total.at[row].add(part, mode="drop") for total, part in zip(totals, parts, strict=True)), None

    start, _ = match_varying(tuple(jnp.zeros(rows, view.reg.dtype) for _ in range(3)), (view, problem))
    return jax.lax.scan(add, start, tuple(columns))[0]


def _lost_in_slots(view: View, faint: jax.Array) -> tuple[jax.Array, ...]:
    """The same of the rows of one device, slab by slab."""
    weighed, layout = view.weighed(), view.layout
    faint_here = faint[0] if len(faint) else jnp.zeros((), bool)
    totals = tuple(0 * view.count for _ in range(3))
    numbers = (layout.buckets, view.slots.value, view.slots.weights(), weighed.slots.weights())
    for bucket, value, given, weight in zip(*numbers, strict=True):
        row = layout.of_pieces(bucket)

        def slab(row, other, entry, value, given, weight):
            there = (entry != layout.num_entries).astype(view.reg.dtype)
            given, weight = (there if each is None else each for each in (given, weight))
            factors = [given]
            if view.weight is not None:
                factors.append(view.weight.at[row].get(mode="fill", fill_value=0)[:, None])
            if view.others.weight is not None:
                factors.append(view.others.weight.at[other].get(mode="promise_in_bounds"))
            lost_weight = () if len(factors) == 1 else (_vanished(weight, *factors),)
            piece = gathered(weighed, other, view.slots.numbers(value), weight)
            of_piece = lambda piece, *lost: _lost(piece, view.objective, faint_here, *lost)  # noqa: E731
            parts = jax.vmap(of_piece)(piece, *lost_weight)
            return tuple(jnp.where(there > 0, part, 0).sum(axis=-1) for part in parts)

        parts = jax.lax.map(lambda each: slab(*each), (row, bucket.other, bucket.entry, value, given, weight))
        at = row.reshape(-1)
        totals = tuple(
            total.at[at].add(part.reshape(-1), mode="drop") for total, part in zip(totals, parts, strict=True)
        )
    return summed(totals, AXIS) if layout.summed else totals


def _lost(
    piece: Piece, objective: Objective, faint_held: jax.Array, lost_weight: jax.Array | None = None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The same of each of these entries; `lost_weight`: whose weight v g_u h_i may be 0 without being it."""
    z, (w, t, q), gap, p = piece.z, piece.entry, piece.gap, piece.target()
    unknowns = z.shape[-1]
    there = _nonzero(z)
    given = _nonzero(piece.weight) if lost_weight is None else _nonzero(piece.weight) | lost_weight
    live = there.any(axis=-1) & (_nonzero(w) | _nonzero(q) | given)
    length = jnp.where(live, jnp.abs(z).sum(axis=-1), 0)
    # A weight may be a product too, weight * alpha * f(value): where it is faint, all of it may be an underflow's. So
    # may all of an f(value) under the least normal number.
    f, grown = feature(objective, piece.value, piece.weight), jnp.abs(slope(objective, piece.weight))
    thin = given & (jnp.abs(w) < _small(w))
    unseen = _nonzero(piece.value) & (jnp.abs(f) < jnp.finfo(f.dtype).tiny)
    slip = jnp.where(thin, length * (1 + jnp.abs(f) + jnp.where(unseen, grown, 0)), 0)
    score = (unknowns + 4) * length * jnp.abs(w)  # t - o - z.x, and an x under tiny
    product = length + jnp.where(live, unknowns + jnp.abs(p), 0)  # w (t - s), its product with z; a z under tiny
    off = (jnp.abs(gap) < _small(gap)) & (_faint(t) | unseen | faint_held)
    no_p = (off & _nonzero(w)) | _vanished(w * gap, w, gap) | _faint(q) | (thin & _nonzero(gap))
    no_p = no_p if lost_weight is None else no_p | lost_weight
    gone = there & (no_p[:, None] | _vanished(p[:, None] * z, p[:, None], z))
    return score + product + slip * (1 + jnp.abs(gap)), score + slip * length, gone.any(axis=-1).astype(z.dtype)


def _of_prior_and_all_pairs(view: View, side: str) -> Sizes:
    """What a row's system holds beside its entries: the sizes of rows without entries, but for a0 a Z'CZ."""
    unknowns, objective, count = view.reg.shape[-1], view.objective, view.count
    regs = [reg for reg in (getattr(objective, name) for name in _REGS) if reg is not None]
    pairs = objective.unobserved_weight
    by_row = jnp.ones_like(count) if view.pairs is None else view.pairs
    # lambda may be a power that underflows; 0^nu is 0 in truth.
    some = jnp.stack([_nonzero(reg).any() for reg in regs]).any()
    base = (count > 0) | (objective.reg_power == 0)
    base |= jnp.zeros((), bool) if pairs is None else _nonzero(pairs) & _nonzero(by_row)
    held = _nonzero(view.reg) | (some & base)[:, None]
    matrix = norm(view.reg, axis=-1)
    lost = jnp.sum(jnp.where(held, view.reg + 1, 0), axis=-1)
    by_x = jnp.sum(held.astype(view.reg.dtype), axis=-1)
    rhs, vanished = jnp.zeros_like(matrix), jnp.zeros_like(matrix, bool)
    if view.prior_mean is not None:
        rhs = norm(view.reg * view.prior, axis=-1)
        lost += jnp.sum(jnp.where(held, jnp.abs(view.prior), 0), axis=-1)
        vanished = (held & _vanished(view.reg * view.prior, view.prior)).any(axis=-1)
    if pairs is not None:
        some = _nonzero(pairs) & _nonzero(view.others.z).any()
        # a0 Z'CZ is a sum of products, then multiplied by the row's a; so is its product with x.
        z, opposite = jnp.abs(view.others.z), objective.unobserved(side)[1]
        reach = 2 * z.sum() if opposite is None else z.sum() + 2 * jnp.sum(opposite[:, None] * z)
        lost += jnp.where(some, unknowns * (1 + (0 if view.pairs is None else by_row)), 0)
        own = 0 if view.pairs is None else 1
        by_x += jnp.where(some, unknowns * (own + by_row * (1 + pairs * (len(z) + reach))), 0)
    numbers = [getattr(objective, name) for name in NUMBERS if name not in ("reg_power", *POWERS)]
    numbers = [number for number in numbers if number is not None]
    denormal = jnp.stack([(_nonzero(each) & (jnp.abs(each) < jnp.finfo(each.dtype).tiny)).any() for each in numbers])
    return Sizes(matrix, rhs, jnp.where(denormal.any(), jnp.inf, lost), by_x, vanished | denormal.any())


def _small(numbers: jax.Array) -> float:
    """Numbers at least this large, added up, come out as 0 only where they cancel."""
    info = jnp.finfo(numbers.dtype)
    return float(info.tiny / info.eps)


def _nonzero(numbers: jax.Array) -> jax.Array:
    """Whether numbers differ from 0: by their bits, as arithmetic takes what lies under the least normal one for 0."""
    return (bits(numbers) << 1) != 0


def _faint(numbers: jax.Array) -> jax.Array:
    return _nonzero(numbers) & (jnp.abs(numbers) < _small(numbers))


def _vanished(product: jax.Array, *factors: jax.Array) -> jax.Array:
    """Whether a product of these factors, none of them 0, may be lost as 0 once it is added up."""
    small = jnp.abs(product) < _small(product)
    for factor in factors:
        small &= _nonzero(factor)
    return small

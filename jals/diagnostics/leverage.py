"""Leave one out in closed form: what each entry's row would have predicted for it, had the row never seen it.

With the other side held, a row x solves A x = b (see `normal`): A = sum w z z' + a0 Z'Z + P, b = sum p z + P m, with
p = w (t - o) + q. Without one of its entries it solves (A - w z z') x' = b - p z. By Sherman and Morrison's formula

    z.x' = (z.x - p g) / (1 - h),      g = z'A^-1 z,      h = w g, the entry's leverage,

so the error on the entry left out is t - o - z.x' = (t - o - z.x + q g) / (1 - h): one inverse serves a whole row.
And x' = x - A^-1 z (p - w z.x) / (1 - h).
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import check_choice
from ..html import MANY, Table, brief, from_to, shown
from ..model.factors import Factors, in_brief, remainder
from ..model.objectives import Objective
from ..model.problem import Problem
from ..rows import normal, rowsolve
from ..rows.view import Piece, View
from ..rows.walk import Slab, over_entries
from ..solvers.protocol import checked_inputs

_HIGHEST = jax.lax.Precision.HIGHEST


class LeaveOneOut(NamedTuple):
    """What `leave_one_out` finds; all `(entries,)` in the order of the ratings, in the factors' dtype.

    Attributes:
        leverage: h = w z'A^-1 z, where A is the matrix of the row's equations, z the other side's row (and 1 for the
            bias) and w the entry's weight. From 0 to 1: how far the row's prediction of the entry follows its target.
            Over a row they add up to its degrees of freedom. None for "both": there is one for each side.
        prediction: the score of the entry by its row, or both its rows, solved without it.
        residual: t - prediction, t being the target: the value, or 1 for implicit feedback.
        weight: v, the data weights.
    """

    leverage: jax.Array | None
    prediction: jax.Array
    residual: jax.Array
    weight: jax.Array

    def __repr__(self) -> str:
        """Dtypes and shapes, and no numbers."""
        parts = {name: each for name, each in self._asdict().items() if each is not None}
        return f"LeaveOneOut({', '.join(f'{name} {in_brief(each)}' for name, each in parts.items())})"

    @shown
    def _repr_html_(self) -> Table:
        rows = [("entries", f"{self.residual.size:,}")]
        if self.residual.size <= MANY:
            residual, weight = (np.asarray(each, np.float64) for each in (self.residual, self.weight))
            known = np.isfinite(residual) & (weight > 0)
            square = np.average(residual[known] ** 2, weights=weight[known]) if known.any() else np.nan
            rows.append(("RMSE, each left out", brief(np.sqrt(square))))
            rows.append(("without an answer", f"{np.count_nonzero(~np.isfinite(residual)):,}"))
            if self.leverage is not None:
                rows.append(("leverage", from_to(*np.nanquantile(np.asarray(self.leverage, np.float64), (0, 1)))))
        return Table("leave one out", rows)

    @property
    def mean_squared_error(self) -> jax.Array:
        """sum v residual^2 / sum v, `()`. NaN as soon as one entry of weight > 0 has no answer."""
        square = jnp.where(self.weight > 0, self.residual, 0.0) ** 2
        return jnp.sum(self.weight * square) / jnp.sum(self.weight)


def leave_one_out(factors: Factors, problem: Problem, objective: Objective, side: str = "user") -> LeaveOneOut:
    """Leverage and leave-one-out prediction of every entry, as if its row had been solved again without it.

    Exact for the row, and *conditional on everything else*: the other side's factors and biases, the mean, and the
    row's lambda and weights by powers of n stay as they are (n is not recomputed as n - 1), though all of them have
    seen the entry. So the error found is optimistic, most of all at small lambda, where other rows fitted closely to
    the entry give it away: the lambda that one side's error would choose is far too small. With "both", its user's and
    its item's row are each solved again without it. Nothing but the entry (and a sum over all pairs) ties the two rows,
    so this is what they are with all other rows held: less optimistic, and close only where entries far outnumber the
    unknowns. To choose lambda a validation split did better in every case measured (experiments/leave_one_out.py).

    Only the other side of `factors` is used, with the mean: the rows of `side` are solved here, so that factors from
    any solver, at any sweep, will do ("both": each side's rows against the other side as given). What goes is the
    entry's own term of the loss, w (s - t)^2 + q (1 - 2 s); of a sum over all pairs nothing goes: for implicit feedback
    the entry left out becomes a pair that was not observed. An entry of weight 0 was never in its row: leverage 0, and
    the prediction is the row's own.

    Args:
        factors: with one side, that side's own rows and biases may hold anything.
        problem: entries of any layout; the results do not depend on it beyond rounding.
        side: "user": each entry is left out of its user's row, the items held; "item": the other way round; "both".

    Returns: a `LeaveOneOut`. NaN where there is no answer: in rows without a unique solution, and for prediction and
        residual where the row has none without the entry (a row with lambda 0 needs more entries than it has unknowns),
        or one that rounding cannot tell from none.

    Three passes over the entries a side, and k^2 numbers a row for one slab of rows at a time; "both" also keeps 2 k
    numbers an entry. Pure; jit, vmap, forward and reverse derivatives of any order in the factors, values, weights (at
    weights > 0) and every number of the objective, by products with the inverses at hand. With `jvp` four passes a
    side, with `grad` nine: three there, four that work out each slab again on the way back, two back.

    Raises:
        ArgumentError: for another side; where factors, problem and objective do not fit together.
        DataError: for `hu_koren`, an entry of negative confidence; see `Problem.check`.

    Source: Allen, "The relationship between variable selection and data augmentation and a method for prediction"
    (1974), for least squares; here with prior, offsets, weights and the sum over all pairs.
    """
    check_choice("side", side, ("user", "item", "both"))
    given, (factors, problem, objective) = objective, checked_inputs(factors, problem, objective)
    problem.check()
    given.check(problem, factors.rank)
    return _leave_one_out(factors, problem, objective, side)


@functools.partial(jax.jit, static_argnames=("side",))
def _leave_one_out(factors: Factors, problem: Problem, objective: Objective, side: str) -> LeaveOneOut:
    target = objective.entry(problem.value, problem.weight).t
    if side != "both":
        leverage, residual, _ = _over_entries(normal.view(factors, problem, objective, side))
        return LeaveOneOut(leverage, target - residual, residual, problem.weight)
    problem = problem.arrange()
    user, item = (_over_entries(normal.view(factors, problem, objective, each))[2] for each in ("user", "item"))
    rank = factors.rank
    terms = [] if factors.mean is None else [jnp.broadcast_to(factors.mean, target.shape)]
    terms += [user[:, rank], item[:, rank]] if objective.bias else []
    residual = remainder(target, [*terms, jnp.sum(user[:, :rank] * item[:, :rank], axis=-1)])
    return LeaveOneOut(None, target - residual, residual, problem.weight)


class _Rows(NamedTuple):
    """Rows of a slab, solved: `inverse` `(rows, k, k)` of A, `x` `(rows, k)`; both 0 where not `good`.

    `spare`: whether the row can lose an entry; `grain` `(rows,)`: an eigenvalue of A below it may be 0.
    """

    inverse: jax.Array
    x: jax.Array
    good: jax.Array
    spare: jax.Array
    grain: jax.Array


def _solved_rows(slab: Slab) -> _Rows:
    solved, view = rowsolve.solve(slab.alone(), want=("inverse",)), slab.view
    x = solved.joint()
    largest = jnp.max(normal.slab_diagonals(slab).matrix, axis=-1)
    grain = jax.lax.stop_gradient(x.shape[-1] * jnp.finfo(x.dtype).eps * largest)
    free = jnp.zeros_like(view.count)  # unknowns that nothing but entries can determine
    if view.by_entries:
        free = jnp.sum(view.reg == 0, axis=-1).astype(view.count.dtype)
    # A row without a solution is 0, so that it spoils no other row's derivatives.
    inverse = jnp.where(solved.good[:, None, None], solved.inverse, 0.0)
    return _Rows(inverse, jnp.where(solved.good[:, None], x, 0.0), solved.good, view.count > free, grain)


def _left_out(piece: Piece, row: _Rows) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(leverage `(width,)`, leave-one-out residual `(width,)`, x' `(width, k)`) of a piece's slots."""
    w, _, q = piece.entry
    moved = jnp.einsum("sk,kl->sl", piece.z, row.inverse, precision=_HIGHEST)
    g = jnp.sum(moved * piece.z, axis=-1)
    room = 1 - w * g
    # The matrix without the entry has an eigenvalue of at most room / (w |A^-1 z|^2).
    regular = room > row.grain * w * jnp.sum(moved**2, axis=-1)
    answered = row.good & ((w == 0) | (row.spare & regular))
    room, left = jnp.where(answered, room, 1.0), piece.gap - piece.scores(row.x)
    without = row.x - moved * ((w * left + q) / room)[:, None]
    return (
        jnp.where(row.good, w * g, jnp.nan),
        jnp.where(answered, (left + q * g) / room, jnp.nan),
        jnp.where(answered[:, None], without, jnp.nan),
    )


def _over_entries(view: View) -> tuple[jax.Array, ...]:
    """`_left_out` of all entries, in the order of the ratings; one slab of rows after another."""
    entries, k = view.layout.num_entries, view.reg.shape[1]
    zeros = tuple(jnp.zeros(shape, view.reg.dtype) for shape in ((entries,), (entries,), (entries, k)))
    return over_entries(view, _slab_left_out, zeros)


def _slab_left_out(slab: Slab) -> tuple[jax.Array, ...]:
    return slab.each(_left_out, _solved_rows(slab))

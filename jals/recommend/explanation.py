"""Why a score is what it is: what each of the user's own entries adds to it."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, is_traced
from ..html import Table, draw
from ..model.factors import Factors, checked_ids, predict
from ..model.objectives import Objective
from ..model.problem import Problem
from ..rows import rowsolve
from ..rows.view import gathered, view
from ..solvers.protocol import checked_inputs
from .folding import of_rows

_HIGHEST = jax.lax.Precision.HIGHEST
_SHOWN = 5


class Explanation(NamedTuple):
    """A user's score of an item as a sum: contributions and offset add up to the score of the user solved afresh from
    the factors as given.

    Attributes:
        item: int32 `(entries,)`, the items that the user has entries of weight > 0 of, the largest contribution by
            magnitude first (equal ones by item).
        contribution: `(entries,)`, what each adds to the score.
        offset: what no entry adds: mean, the item's bias, and what the prior means do.
        stale: `predict` minus the sum: how far the row as given is from the one solved afresh. (The last half-sweep
            solves the items; the users were solved against the items before.)
    """

    item: np.ndarray
    contribution: np.ndarray
    offset: float
    stale: float

    @property
    def score(self) -> float:
        """That of the user solved afresh."""
        return float(self.contribution.sum() + self.offset)

    def __repr__(self) -> str:
        """The score and the largest contributions."""
        pairs = zip(self.item[:_SHOWN].tolist(), self.contribution[:_SHOWN].tolist(), strict=True)
        said = [f"{contribution:+.4g} by item {item}" for item, contribution in pairs]
        said += [f"{len(self.item) - _SHOWN:,} more"] if len(self.item) > _SHOWN else []
        said += [f"offset {self.offset:.4g}", f"stale {self.stale:.2g}"]
        return f"Explanation(score {self.score:.4g}: {', '.join(said)})"

    def _repr_html_(self) -> str:
        rows: list[Any] = [(int(item), f"{adds:+.4g}") for item, adds in zip(self.item, self.contribution, strict=True)]
        rest = self.contribution[_SHOWN:]
        rows[_SHOWN:] = [(f"{len(rest):,} others", f"{rest.sum():+.4g}")] if len(rest) else []
        rows.append(("mean, bias, prior", f"{self.offset:+.4g}"))
        stale = f"the row as given scores {self.stale:+.2g} beside it"
        return draw(Table(f"score {self.score:.4g}, as a sum", rows, ("item", "adds"), stale))


def explain(factors: Factors, problem: Problem, objective: Objective, user: int, item: int) -> Explanation:
    """What each entry of a user adds to the score of an item.

    The user's row x, solved from the items' rows as given, is A^-1 b, with b a sum over its entries (see `jals.view`):

        s = mean + b_i + z' A^-1 b = sum over the entries of  p z' A^-1 z_e  + offset,    z = (y_i, 1), or y_i,

    p = w (t - mean - b_e) + q of the entry e, and offset = mean + b_i + z' A^-1 P m. For every objective. Source: Hu,
    Koren and Volinsky (2008), section 5, for implicit feedback: z' A^-1 z_e is how alike the two items are in the eyes
    of this user, and p what the entry weighs.

    Args:
        factors: as fitted to `problem` and `objective`.
        user, item: one id each; the item may be any, seen or not.

    On the host: not traceable. Goes through the table once, to find the entries.

    Raises:
        ArgumentError: where the arguments do not fit together, an id is out of range, something is traced, or the
            user's row has no unique solution.
    """
    factors, problem, objective = checked_inputs(factors, problem, objective)
    user, item = _one("user", user, factors.user), _one("item", item, factors.item)
    if any(map(is_traced, jax.tree.leaves((factors, problem, objective)))):
        raise ArgumentError("explain finds the user's entries on the host: call it outside of jit, vmap and grad.")
    entries = np.flatnonzero((np.asarray(problem.user) == user) & (np.asarray(problem.weight) > 0))
    columns = problem.item, problem.value, problem.weight
    items, value, weight = (np.asarray(column)[entries] for column in columns)
    objective = objective.resolved(problem)  # the user alone has other counts
    own = table_of_one(items, value, weight, problem.num_items)
    rows = np.array([user])
    one = dataclasses.replace(factors, user=factors.user[rows])
    if factors.user_bias is not None:
        one = dataclasses.replace(one, user_bias=factors.user_bias[rows])
    contribution, offset, good = _parts(one, Problem.build(own), of_rows(objective, "user", rows), item)
    if not good:
        raise ArgumentError(f"the row of user {user} has no unique solution: its lambda is 0. Raise reg.")
    contribution, offset = np.asarray(contribution)[: len(entries)], float(offset)
    items = items[: len(entries)]
    order = np.lexsort((items, -np.abs(contribution)))
    stale = float(predict(factors, user, item)) - float(contribution.sum()) - offset
    return Explanation(items[order], contribution[order], offset, stale)


def table_of_one(item: np.ndarray, value: np.ndarray, weight: np.ndarray, items: int) -> Ratings:
    """A table of one user, its entries first: item numbers `(n,)`, none twice, of `items`. Others, of weight 0, which
    count as missing, make their number 256, 4,096, 65,536, ..., or all, so that few sizes are compiled."""
    unrated = np.ones(items, bool)
    unrated[item] = False
    size = 16 ** max(2, -(-max(0, len(item) - 1).bit_length() // 4))
    more = np.flatnonzero(unrated)[: size - len(item)].astype(np.int32)
    nothing = np.zeros(len(item) + len(more), np.int32)
    value = np.append(value, np.ones(len(more), value.dtype))
    weight = np.append(weight, np.zeros(len(more), weight.dtype))
    item = np.append(item, more).astype(np.int32)
    return Ratings(nothing, item, value, weight, None, nothing, 1, items)


def _one(name: str, given: Any, table: jax.Array) -> int:
    if is_traced(given):
        raise ArgumentError(f"{name} is traced: call explain outside of jit, vmap and grad.")
    checked_ids(name, given, len(table))
    if np.ndim(given):
        raise ArgumentError(f"{name} has shape {np.shape(given)}, but must be one id.")
    return int(given)


@jax.jit
def _parts(factors: Factors, problem: Problem, objective: Objective, item: Any) -> tuple[jax.Array, ...]:
    """(what each entry adds, offset, whether the row has a unique solution)"""
    here = view(factors, problem, objective, "user")
    solved = rowsolve.solve(here, want=("inverse",))
    assert here.others is not None and solved.inverse is not None
    product = functools.partial(jnp.matmul, precision=_HIGHEST)
    toward = product(solved.inverse[0], here.others.z[item])
    weight = objective.weighed(problem.weight, problem.user, problem.item)
    piece = gathered(here, problem.item, problem.value, weight)
    prior = here.prior[0]  # of a blank row, whose matrix counts as the identity, all there is
    offset = jnp.sum(toward * jnp.where(here.blank[0], prior, here.reg[0] * prior))
    offset += 0.0 if factors.mean is None else factors.mean
    offset += 0.0 if factors.item_bias is None else factors.item_bias[item]
    return piece.target() * product(piece.z, toward), offset, solved.good[0]

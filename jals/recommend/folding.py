"""Rows for newcomers without a fit: from their own entries, against the other side's rows as they are."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..devices import match_varying
from ..errors import ArgumentError, DataError, is_traced
from ..forks import check_jax
from ..model.factors import Factors, consistent
from ..model.objectives import Objective
from ..model.problem import Problem
from ..rows import rowsolve
from ..rows.view import view
from ..solvers.protocol import check_kind, check_problem, check_side, checked_inputs

SIDES = {"user": "item", "item": "user"}


def fold_in(
    factors: Factors, ratings: Ratings | Problem, objective: Objective, side: str = "user"
) -> tuple[jax.Array, jax.Array | None]:
    """Rows of one side for those who were in no fit, from their entries: the minimisers of the loss with the other side
    held, as in half a sweep of `ALS` over a table of theirs.

    Args:
        factors: as fitted. The rows of `side` have no part in it.
        ratings: the entries of n new rows, numbered from 0; the other side's rows are those of the factors. A
            `Problem` of them where values and weights are traced (`Problem.with_values`).
        objective: what the factors were fitted to; what it gives by row of this side (`reg_user`, `prior_user`,
            `weight_user`, ...), it must give for the new rows. Powers of n of this side are of the new rows' own table,
            as in a sweep over it; to have the newcomers weighed as rows of the table that was fitted, give
            `objective.resolved(problem, n of the new rows, side)`.
        side: "user" or "item", what the new rows are.

    Returns: (rows `(n, rank)`, bias `(n,)` or None) in the factors' dtype. A row without entries of weight > 0 is its
        prior mean, 0 unless given, and its bias 0 (with a term over all pairs: the minimiser with that term).
        Differentiable in the factors, the objective's numbers, and a problem's values and weights; where anything is
        traced, a row that has no unique solution is NaN.

    Raises:
        ArgumentError: where factors, ratings and objective do not fit together; for a row without a unique solution;
            for an objective that weighs the other side by a power of n, which these entries do not tell.
        DataError: for values that the objective cannot take.
    """
    check_side(side)
    from_ratings = isinstance(ratings, Ratings)
    if from_ratings:
        check_jax()
        ratings = Problem.of_side(ratings, side)
    check_problem(ratings, objective)
    factors = consistent(factors)
    opposite = SIDES[side]
    unknown = [name for name in objective.powers if name.endswith(opposite)]
    if unknown:
        raise ArgumentError(
            f"{unknown[0]} weighs {opposite}s by their entries in the table that was fitted, which is not here: fold "
            f"in by objective.resolved(problem, newcomers=n, side={side!r}), n being how many entries each new row has."
        )
    others, have = len(getattr(factors, opposite)), getattr(ratings, f"num_{opposite}s")
    if have != others:
        raise ArgumentError(
            f"the ratings have {have:,} {opposite}s, but the factors {others:,}: number the {opposite}s as in the fit, "
            f"and give num_{opposite}s={others} where the ratings are made."
        )
    given, (factors, problem, objective) = objective, _with_new_rows(factors, ratings, objective, side)
    # Ratings are checked already; and rows without any entry are rows, too.
    if not from_ratings and (is_traced(problem.weight) or (problem.weight != 0).any()):
        problem = problem.checked()
    given.check(problem, factors.rank)
    rows, bias, good = _solved(*match_varying(factors, problem, objective), side)
    if not is_traced(good) and not good.all():
        raise ArgumentError(
            f"{side} {int(jnp.argmin(good))} of the ratings has no unique solution: with lambda 0 a row needs as many "
            "entries as unknowns. Raise reg."
        )
    return rows, bias


def _with_new_rows(factors: Factors, problem: Problem, objective: Objective, side: str) -> Any:
    """(factors with rows of 0 in the place of this side's, problem, objective) of one dtype."""
    count, dtype = getattr(problem, f"num_{side}s"), factors.dtype
    bias = None if factors.user_bias is None else jnp.zeros(count, dtype)
    blank = {side: jnp.zeros((count, factors.rank), dtype), f"{side}_bias": bias}
    return checked_inputs(dataclasses.replace(factors, **blank), problem, objective)


@functools.partial(jax.jit, static_argnames=("side",))
def _solved(factors: Factors, problem: Problem, objective: Objective, side: str) -> tuple[Any, Any, jax.Array]:
    solved = rowsolve.solve(view(factors, problem, objective, side))
    return solved.rows, solved.bias, solved.good


# ---- of rows that are there ----


def of_rows(objective: Objective, side: str, rows: np.ndarray) -> Objective:
    """The objective for these rows of one side alone: of what it gives by row, theirs."""
    by_row = {f"prior_{side}": 2}  # dimensions of what is by row
    parts = {}
    for field in dataclasses.fields(objective):
        value = getattr(objective, field.name)
        if field.name.endswith(f"_{side}") and np.ndim(value) == by_row.get(field.name, 1):
            parts[field.name] = jnp.asarray(value)[rows]
    return dataclasses.replace(objective, **parts)


def entries_of(ratings: Ratings, side: str, rows: np.ndarray) -> Ratings:
    """The entries of these rows of one side (sorted, none twice), as a table where the rows are numbered from 0."""
    column = getattr(ratings, side)
    part = ratings.select(np.isin(column, rows))
    place = np.searchsorted(rows, getattr(part, side)).astype(np.int32)
    return dataclasses.replace(part, **{side: place, f"num_{side}s": len(rows)})


class Appended(NamedTuple):
    """A table that has grown, and factors for it.

    Attributes:
        factors: of all rows, the new ones included.
        problem: of all entries: the old ones, then the new.
        touched_user, touched_item: int32, sorted: the rows that have new entries, and were solved anew.
    """

    factors: Factors
    problem: Problem
    touched_user: np.ndarray
    touched_item: np.ndarray

    def __repr__(self) -> str:
        """The table, and how many rows were solved anew."""
        users, items = len(self.touched_user), len(self.touched_item)
        return f"Appended({self.problem!r}, solved anew {users:,} users, {items:,} items)"


def append(factors: Factors, problem: Problem, ratings: Ratings, objective: Objective) -> Appended:
    """Factors for a table to which entries are added, without a fit: every user with a new entry is solved from all of
    its entries, with the items as they are; then every item with a new entry, with the users as they are then.

    All other rows, and the mean, stay. So this is not the fit of the larger table, but near it where what is added is
    little (docs/recommend.md has measurements); `jals.fit(..., init=appended.factors)` goes on from there.

    Args:
        factors: fitted to `problem` and `objective`.
        problem: the table so far.
        ratings: what is new, in the same numbering; users and items beyond the problem's are new ones. No pair of them
            may be in the problem.
        objective: what the factors were fitted to; what it gives by row, it must give for the new rows too. Powers of
            n weigh by the larger table: a row that is solved anew is as a fit of that table would weigh it.

    New rows without entries are their prior mean. On the host: not traceable.

    Raises:
        ArgumentError: where the arguments do not fit together, or are traced; for a row without a unique solution.
        DataError: for a pair that is in the problem, and for values that the objective cannot take.
    """
    check_problem(problem, objective)
    check_kind("ratings", ratings, Ratings, "make them with Ratings.from_arrays")
    factors = consistent(factors)
    if any(map(is_traced, jax.tree.leaves((factors, problem, objective)))):
        raise ArgumentError("append lays out a table on the host: call it outside of jit, vmap and grad.")
    for side in SIDES:
        rows, have = len(getattr(factors, side)), getattr(problem, f"num_{side}s")
        if rows != have:
            raise ArgumentError(f"factors.{side} has {rows:,} rows, but the problem has {have:,} {side}s.")
    whole = _joined(problem, ratings)
    larger = Problem.build(whole)
    grown = {}
    for side in SIDES:
        count = getattr(larger, f"num_{side}s")
        more = count - len(getattr(factors, side))
        prior = getattr(objective, f"prior_{side}")
        prior = jnp.zeros(()) if prior is None else jnp.asarray(prior)
        prior = jnp.broadcast_to(prior, (count, factors.rank)) if prior.ndim < 2 else prior
        grown[side] = jnp.concatenate([getattr(factors, side), prior[count - more :].astype(factors.dtype)])
        bias = getattr(factors, f"{side}_bias")
        grown[f"{side}_bias"] = None if bias is None else jnp.pad(bias, (0, more))
    factors = checked_inputs(dataclasses.replace(factors, **grown), larger, objective)[0]
    objective.check(larger, factors.rank)
    objective = objective.resolved(larger)
    touched = {}
    for side in SIDES:
        rows = touched[side] = np.unique(getattr(ratings, side))
        solved, bias = fold_in(factors, entries_of(whole, side, rows), of_rows(objective, side, rows), side)
        put = {side: getattr(factors, side).at[rows].set(solved)}
        if bias is not None:
            put[f"{side}_bias"] = getattr(factors, f"{side}_bias").at[rows].set(bias)
        factors = dataclasses.replace(factors, **put)
    return Appended(factors, larger, touched["user"], touched["item"])


def table_of(problem: Problem) -> Ratings:
    """A problem's entries as a table on the host, in their order."""
    user, item, value, weight = (np.asarray(getattr(problem, name)) for name in ("user", "item", "value", "weight"))
    place = np.arange(len(user), dtype=np.int32)
    return Ratings(user, item, value, weight, None, place, problem.num_users, problem.num_items)


def _joined(problem: Problem, ratings: Ratings) -> Ratings:
    old = table_of(problem)
    weight = np.ones_like(ratings.value) if ratings.weight is None else ratings.weight
    pairs = [(old.user, ratings.user), (old.item, ratings.item), (old.value, ratings.value), (old.weight, weight)]
    user, item, value, weight = (np.concatenate(pair) for pair in pairs)
    users, items = (max(getattr(old, name), getattr(ratings, name)) for name in ("num_users", "num_items"))
    # checked for pairs that are there already
    try:
        return Ratings.from_arrays(user, item, value.astype(old.value.dtype), users, items, weight.astype(value.dtype))
    except DataError as error:
        raise DataError(f"the problem and the ratings to append cannot be one table: {error}") from error

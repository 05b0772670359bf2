"""The best rows of the other side for a row, and the rows most like one of the same side."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ArgumentError, check_choice, is_traced
from ..forks import check_jax
from ..model.factors import Factors, checked_ids, consistent, score_terms
from ..rows.norms import norm
from ..solvers.protocol import check_side, check_whole
from . import candidates
from .selection import Closed, largest

MEASURES = ("cosine", "dot")


def top_k(
    factors: Factors, user: Any, k: int, exclude: Any = None, allow: Any = None, side: str = "user"
) -> tuple[jax.Array, jax.Array]:
    """The k items of highest score for each user, s = mean + b_u + b_i + x_u . y_i as `predict` has it.

    Exact: every item is scored, so many users at a time that memory stays bounded, however many are asked for.

    Args:
        factors: as fitted.
        user: ids `(n,)`, n >= 1; one id counts as a list of one.
        k: from 1 to the number of items; static.
        exclude: what not to return. `Ratings` of the table that was fitted: each user's own entries of weight > 0. A
            bool mask `(n, items)`: True where row n is not to have the item. Item ids `(m,)`, or a bool mask
            `(items,)`: for all.
        allow: what alone to return: item ids `(m,)`, m >= 1, or a mask likewise, True where allowed. What is both
            allowed and excluded is not returned.
        side: "user", or "item": then `user` holds items, and what is returned, excluded and allowed are users.

    Returns: (item int32 `(n, k)`, score `(n, k)` in the factors' dtype), the highest first, equal scores by item.
        Where too few items are left: item -1, score -inf; a score that is NaN counts as no item. Scores agree with
        `predict` up to rounding, and are differentiable in the factors with the items held; traceable with k, and
        Ratings, as constants. (For a CPU a program has the kernel inside where that is built, and then is not to be
        exported for another process; for CUDA and TPU it can.)

    Raises:
        ArgumentError: for a k out of range, ids that are not there, or an `exclude` or `allow` that does not fit.
    """
    check_jax()
    check_side(side)
    factors = consistent(factors)
    opposite = "item" if side == "user" else "user"
    mine, theirs = getattr(factors, side), getattr(factors, opposite)
    check_k(k, len(theirs), f"the factors have {len(theirs):,} {opposite}s")
    query = checked_rows(side, user, mine)
    closed = candidates.closed(exclude, allow, query, side, len(mine), len(theirs))
    return _top_k(factors, jnp.asarray(query), closed, k, side)


def similar(
    factors: Factors, row: Any, k: int, side: str = "item", measure: str = "cosine"
) -> tuple[jax.Array, jax.Array]:
    """The k rows of the same side that are most like each row.

    Args:
        factors: as fitted; biases and mean have no part in it.
        row: ids `(n,)` of `side`, n >= 1; one id counts as a list of one.
        k: from 1 to the number of other rows; static.
        side: "item" or "user".
        measure: "cosine", y_i . y_j / (|y_i| |y_j|), 0 where one of them is 0; or "dot", y_i . y_j. (The loss does not
            change when both factors turn alike, nor do these.)

    Returns: (row int32 `(n, k)`, score `(n, k)`) as of `top_k`, never the row itself.

    Raises:
        ArgumentError: for a k out of range, ids that are not there, or another measure.
    """
    check_jax()
    check_side(side)
    check_choice("measure", measure, MEASURES)
    factors = consistent(factors)
    table = getattr(factors, side)
    check_k(k, len(table) - 1, f"each of {len(table):,} {side}s has {len(table) - 1:,} others")
    return _similar(table, jnp.asarray(checked_rows(side, row, table)), k, measure)


def check_k(k: Any, most: int, why: str) -> None:
    """Raises ArgumentError unless k is a whole number from 1 to `most`."""
    check_whole("k", k, 1)
    if k > most:
        raise ArgumentError(f"k is {k:,}, but {why}: ask for at most {most:,}.")


def checked_rows(side: str, rows: Any, table: jax.Array) -> Any:
    """Ids of one axis: NumPy's where they are known."""
    checked_ids(side, rows, len(table))
    ids = jnp.atleast_1d(rows) if is_traced(rows) else np.atleast_1d(np.asarray(rows))
    if ids.ndim > 1 or not ids.size:
        raise ArgumentError(f"{side} ids have shape {ids.shape}, but must be (n,), with one id at least.")
    return ids


@functools.partial(jax.jit, static_argnames=("k", "side"))
def _top_k(factors: Factors, query: jax.Array, closed: Closed, k: int, side: str) -> tuple[jax.Array, jax.Array]:
    mine, theirs = (side, "item") if side == "user" else (side, "user")
    item, score = largest(
        getattr(factors, mine)[query], getattr(factors, theirs), getattr(factors, f"{theirs}_bias"), k, closed
    )
    own = [] if factors.mean is None else [factors.mean]
    own += [] if factors.user_bias is None else [getattr(factors, f"{mine}_bias")[query][:, None]]
    score = sum(map(jax.lax.stop_gradient, own), score)
    return item, _differentiable(functools.partial(_pair_scores, side), (factors, query[:, None], item), score)


def _pair_scores(side: str, argument: tuple) -> jax.Array:
    factors, query, item = argument
    query = jnp.broadcast_to(query, item.shape)
    found = jnp.maximum(item, 0)
    score = sum(score_terms(factors, *((query, found) if side == "user" else (found, query))))
    return jnp.where(item < 0, -jnp.inf, score)


@functools.partial(jax.jit, static_argnames=("k", "measure"))
def _similar(table: jax.Array, row: jax.Array, k: int, measure: str) -> tuple[jax.Array, jax.Array]:
    scaled = _directions(table) if measure == "cosine" else table
    row = row.astype(jnp.int32)
    itself = Closed(None, None, row, row + 1, jnp.arange(len(table), dtype=jnp.int32))
    found, score = largest(scaled[row], scaled, None, k, itself)
    return found, _differentiable(functools.partial(_likeness, measure), (table, row[:, None], found), score)


def _directions(rows: jax.Array) -> jax.Array:
    """Rows of length 1; 0 stays 0."""
    zero = (rows == 0).all(axis=-1, keepdims=True)
    length = norm(jnp.where(zero, 1.0, rows), -1)[..., None]
    return jnp.where(zero, 0.0, rows / length)


def _likeness(measure: str, argument: tuple) -> jax.Array:
    table, row, found = argument
    pair = [table[row], table[jnp.maximum(found, 0)]]
    if measure == "cosine":
        pair = [_directions(each) for each in pair]
    return jnp.where(found < 0, -jnp.inf, jnp.sum(pair[0] * pair[1], axis=-1))


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _differentiable(formula: Any, argument: Any, value: jax.Array) -> jax.Array:
    """`value`, which is `formula(argument)` found in another way, with that formula's derivative."""
    return value


@_differentiable.defjvp
def _differentiable_rule(formula: Any, primals: tuple, tangents: tuple) -> tuple[jax.Array, jax.Array]:
    (argument, value), (argument_dot, _) = primals, tangents
    return value, jax.jvp(formula, (argument,), (argument_dot,))[1]

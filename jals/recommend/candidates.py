"""Which rows may be recommended to whom: `exclude` and `allow` in each of their forms, as a `selection.Closed`; and how
many entries an item needs."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, is_traced
from ..model.feedback import KINDS
from ..model.objectives import Objective
from .selection import Closed

ENOUGH = 30  # entries: the mean of as many ratings is known to a fifth of their standard deviation


def closed(
    exclude: Any, allow: Any, query: Any, side: str, rows: int, others: int, position: np.ndarray | None = None
) -> Closed:
    """What is closed to the rows `query` `(n,)` of `side`, which has `rows`; the catalogue has `others`. `position`:
    what stands for their numbers in the pairs, int32 `(others,)`.

    Raises:
        ArgumentError: for what is none of the forms, a shape or number that does not fit, or an `allow` without ids.
    """
    what = "item" if side == "user" else "user"
    everywhere, mask, pairs = None, None, (None, None, None)
    if isinstance(exclude, Ratings):
        have = (exclude.num_users, exclude.num_items) if side == "user" else (exclude.num_items, exclude.num_users)
        if have != (rows, others):
            raise ArgumentError(
                f"exclude has {have[0]:,} {side}s and {have[1]:,} {what}s, but the factors have {rows:,} and "
                f"{others:,}: make the ratings with num_users and num_items of the table that was fitted."
            )
        pairs = _pairs(exclude, query, side, rows, position)
    elif exclude is not None:
        everywhere, mask = _bits("exclude", exclude, what, len(query), others)
    if allow is not None:
        allowed, allowed_mask = _bits("allow", allow, what, len(query), others)
        if allowed is not None:
            everywhere = ~allowed if everywhere is None else everywhere | ~allowed
        if allowed_mask is not None:
            mask = ~allowed_mask if mask is None else mask | ~allowed_mask
    return Closed(everywhere, mask, *pairs)


def entries_of(ratings: Ratings, side: str = "item") -> np.ndarray:
    """How many entries of weight > 0 each row of a side has, `(rows,)`."""
    row = getattr(ratings, side)
    row = row if ratings.weight is None else row[ratings.weight > 0]
    return np.bincount(row, minlength=getattr(ratings, f"num_{side}s"))


def least_entries(objective: Objective | None, entries: np.ndarray) -> int:
    """How many entries an item needs to be recommended, unless the caller says.

    A model of ratings, without a sum over all pairs, predicts how an item would be rated if it were taken: the highest
    of many predictions are those that rest on the fewest ratings. Then `ENOUGH`, or as many fewer as it takes for the
    items that are left to have half of all entries. Other models know that what few take is seldom taken: 0.

    Args:
        objective: None where it is not known: 0.
        entries: `(num_items,)`.
    """
    if objective is None or objective.unobserved_weight is not None or KINDS[objective.feedback].t[1] == 0:
        return 0
    falling = np.sort(entries)[::-1]
    half = int(np.searchsorted(np.cumsum(falling), falling.sum() / 2))
    return min(ENOUGH, int(falling[half]))


def _bits(name: str, given: Any, what: str, queries: int, others: int) -> tuple[Any, Any]:
    """(bool `(others,)` for all rows or None, bool `(queries, others)` or None): ids, or a mask."""
    forms = f"{what} ids, or a bool mask of shape ({queries:,}, {others:,})"
    if name == "exclude":
        forms = f"Ratings, {forms}"
    if not is_traced(given):
        try:
            given = np.asarray(given)
        except Exception:  # ragged, or what a class of someone else's says to being an array
            raise ArgumentError(f"{name} is of type {type(given).__name__}, but must be {forms}.") from None
        if given.shape == (0,):
            given = given.astype(np.int32)
    if given.dtype == bool:
        if given.shape == (others,):
            return jnp.asarray(given), None
        if given.shape != (queries, others):
            raise ArgumentError(f"{name} is a mask of shape {given.shape}, but must be of ({queries:,}, {others:,}).")
        return None, jnp.asarray(given)
    if given.ndim != 1 or not np.issubdtype(given.dtype, np.integer):
        raise ArgumentError(f"{name} is {given.dtype} of shape {given.shape}, but must be {forms}.")
    if name == "allow" and not len(given):
        raise ArgumentError(f"allow names no {what}: give one at least, or None to allow all.")
    if not is_traced(given) and len(given):
        wrong = (given < 0) | (given >= others)
        if wrong.any():
            at = int(wrong.argmax())
            raise ArgumentError(f"{name}[{at}] is {given[at]}, but the factors have {others:,} {what}s.")
    return jnp.zeros(others, bool).at[jnp.asarray(given)].set(True, mode="drop"), None


def _pairs(seen: Ratings, query: Any, side: str, rows: int, position: np.ndarray | None) -> tuple[Any, Any, Any]:
    """(start, stop, item) of the entries of weight > 0 of these rows."""
    row, other = (seen.user, seen.item) if side == "user" else (seen.item, seen.user)
    other = other if position is None else position[other]
    keep = np.ones(len(row), bool) if seen.weight is None else seen.weight > 0
    if not is_traced(query) and len(query) < rows:
        asked = np.zeros(rows, bool)
        asked[np.asarray(query)] = True
        keep &= asked[row]
    if not keep.all():
        row, other = row[keep], other[keep]
    keys = row.astype(np.int64) << 32
    keys |= other
    if (keys[1:] < keys[:-1]).any():
        keys.sort()  # several times faster than a stable argsort
        row, other = (keys >> 32).astype(np.int32), keys.astype(np.int32)
    until = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(row, minlength=rows), out=until[1:])
    # to a power of two, so that tables of about one size share a program
    other = np.pad(other, (0, 2 ** max(len(other) - 1, 1).bit_length() - len(other)))
    bound = jnp.asarray(until)
    query = jnp.asarray(query)
    return bound[query], bound[query + 1], jnp.asarray(other)

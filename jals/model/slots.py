"""The entries' numbers in the order of a layout, and the check that it is a layout of these entries."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data import grouping
from ..data.ratings import Ratings
from ..errors import is_traced
from . import layout_checks
from .layouts import Side, forecast_slots

# Entries from which on what can be left out is left out: weights that are all 1, bytes of values. With fewer there is
# nothing to save at, and a table with its own numbers and with others, such as a fold's weights, is one program.
_LEAN = 2**20
CODES = (np.dtype(np.uint8), np.dtype(np.uint16))  # what values may be coded as


class Slots(NamedTuple):
    """The entries' numbers in the order of one side's layout, in as few bytes as hold them exactly.

    Attributes:
        value: one array `(slabs, pieces, width)` a bucket: numbers, 0 in padding; or codes (see `codes`).
        weight: likewise, 0 in padding; None where every entry has weight 1.
        count: `(num_rows,)`, n, how many of each row's entries have weight > 0, in the problem's dtype; NaN where the
            layout is not the table's.
        scale: `(2,)`, (low, step) in the problem's dtype where values are codes, uint8 or uint16: a code c stands for
            low + step c. Else None.
    """

    value: tuple[jax.Array, ...]
    weight: tuple[jax.Array, ...] | None
    count: jax.Array
    scale: jax.Array | None = None

    def weights(self) -> tuple[Any, ...]:
        """`weight`, with a None for each bucket where there is none."""
        return (None,) * len(self.value) if self.weight is None else self.weight

    def numbers(self, value: jax.Array) -> jax.Array:
        """The numbers of values as they are stored here."""
        return value if self.scale is None else self.scale[0] + self.scale[1] * value.astype(self.scale.dtype)


def is_lean(ratings: Ratings) -> bool:
    """Whether a table is large enough to leave out what can be."""
    return len(ratings) >= _LEAN


def arranged(columns: tuple, user_side: Side, item_side: Side, compact: bool) -> tuple[Slots, Slots]:
    """The slots of both sides, of a table's columns (user, item, value, weight or None). Where a layout is not one of
    the entries, the side's counts are NaN: a wrong index reads or writes a number of another row, and no result would
    show it. So n becomes NaN, which reaches everything (`Objective.row_reg`).

    On the host where all is known and lies there, which compiles nothing; else by XLA.
    """
    known = not any(map(is_traced, jax.tree.leaves((columns, user_side, item_side))))
    coded = codes(np.asarray(columns[2])) if compact and known else (None, None)
    if known and (here := _on_host(columns, user_side, item_side, *coded)) is not None:
        return here
    return _by_xla(columns, user_side, item_side, *jax.device_put(coded))


def codes(value: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(codes `(entries,)` uint8 or uint16, scale `(2,)`) of values that low + step code gives back to the last bit,
    whatever the order of rounding: step is 1, a half, ..., 1/256, and value / step a whole number below 2^20. (None,
    None) where they are not such values."""
    block = 1 << 20  # so that little is held beside the codes
    parts = [value[at : at + block] for at in range(0, len(value), block)]
    low, high = float(value.min(initial=np.inf)), float(value.max(initial=-np.inf))
    for step in (2.0**-each for each in range(9)):
        if not max(abs(low), abs(high)) < 2**20 * step:
            break
        # The first entries tell soon of most steps that they are too long.
        if all((np.rint(part / step) * step == part).all() for part in (value[:1000], *parts)):
            bound = round((high - low) / step)
            dtype = next((each for each in CODES if bound <= np.iinfo(each).max), None)
            if dtype is None:
                break
            coded = np.empty(len(value), dtype)
            for at, part in zip(range(0, len(value), block), parts, strict=True):
                coded[at : at + block] = np.rint((part - low) / step)
            return coded, np.array([low, step], value.dtype)
    return None, None


def forecast_bytes(ratings: Ratings, layout: str, dtype: Any, folds: int = 1) -> int:
    """What the problem of a table will hold, arranged, without laying it out: the columns, and for each slot its other
    row, its entry, and its numbers; `folds` > 1: with the weights of so many folds, as masks."""
    number, slots = np.dtype(dtype).itemsize, 0
    for row, rows in ((ratings.user, ratings.num_users), (ratings.item, ratings.num_items)):
        slots += forecast_slots(np.bincount(row, minlength=rows), layout, jax.default_backend())
    lean = is_lean(ratings) and folds == 1
    coded = codes(ratings.value)[0] if lean else None
    weight = 0 if lean and ratings.weight is None else number * folds
    value = number if coded is None else coded.itemsize
    return len(ratings) * (8 + number + weight) + slots * (8 + value + weight)


@jax.jit
def _by_xla(
    columns: tuple, user_side: Side, item_side: Side, coded: jax.Array | None, scale: jax.Array | None
) -> tuple[Slots, Slots]:
    user, item, value, weight = columns
    table = layout_checks.table_fingerprint(user, item, user_side.num_rows, item_side.num_rows)

    def slots(side: Side, row_first: bool) -> Slots:
        found = side_slots(side, value if coded is None else coded, weight, value.dtype)
        sound = layout_checks.has_rows(side) & (layout_checks.fingerprint(side, row_first) == table)
        return found._replace(count=jnp.where(sound, found.count, jnp.asarray(jnp.nan, found.count.dtype)), scale=scale)

    return slots(user_side, True), slots(item_side, False)


@functools.partial(jax.jit, static_argnames="dtype")
def side_slots(side: Side, value: jax.Array, weight: jax.Array | None, dtype: Any) -> Slots:
    """The slots of one side, unchecked, with counts of this dtype."""
    entries = [bucket.entry for bucket in side.buckets]

    def laid_out(column: jax.Array) -> tuple[jax.Array, ...]:
        column = jnp.pad(column, (0, 1))  # the 0 that padding reads
        return tuple(column.at[entry].get(mode="promise_in_bounds") for entry in entries)

    weights = None if weight is None else laid_out(weight)
    seen = [entry != side.num_entries for entry in entries] if weights is None else [each > 0 for each in weights]
    return Slots(laid_out(value), weights, row_sums(side, seen, dtype))


def row_sums(side: Side, numbers: Any, dtype: Any) -> jax.Array:
    """The sums by row of numbers of each bucket's slots."""
    if not side.buckets:  # not laid out
        return jnp.zeros(side.num_rows, dtype)
    rows = jnp.concatenate([side.of_pieces(bucket).reshape(-1) for bucket in side.buckets])
    here = jnp.concatenate([each.sum(axis=-1).reshape(-1) for each in numbers])
    return jnp.zeros(side.num_rows, dtype).at[rows].add(here.astype(dtype), mode="drop")



# ---- on the host ----


def _on_host(
    columns: tuple, user_side: Side, item_side: Side, coded: np.ndarray | None, scale: Any
) -> tuple[Slots, Slots] | None:
    """`arranged` by the library of `data.grouping`; None where that is not here, or the arrays are not."""
    library = grouping.library()
    leaves = jax.tree.leaves((columns, user_side, item_side))
    if library is None or user_side.mesh or item_side.mesh or not all(map(_at_hand, leaves)):
        return None
    user, item, value, weight = (None if each is None else np.ascontiguousarray(each) for each in columns)
    value = value if coded is None else coded
    table, found = library.jals_fingerprint(user, item, user_side.num_entries), []
    for side, opposite in ((user_side, item_side), (item_side, user_side)):
        slots = _side_on_host(library, side, opposite.num_rows, value, weight, row_first=side is user_side)
        if slots is None:
            return None
        values, weights, count, sum_of_slots = slots
        count: Any = np.where(sum_of_slots == table, count, np.nan).astype(columns[2].dtype)
        found.append(Slots(tuple(values), None if weights is None else tuple(weights), count, scale))
    with jax.ensure_compile_time_eval():  # what is known stays known in a function that is traced
        return jax.device_put(tuple(found))


def _at_hand(array: Any) -> bool:
    if isinstance(array, np.ndarray):
        return True
    return len(array.devices()) == 1 and next(iter(array.devices())).platform == "cpu"


def _side_on_host(
    library: Any, side: Side, others: int, value: Any, weight: Any, row_first: bool
) -> tuple[list, list | None, np.ndarray, int | None] | None:
    """(values, weights, counts, the fingerprint of what lies where, or None of no layout) of one side; None where
    memory is short."""
    count, lies, total = (np.zeros(size, dtype) for size, dtype in ((side.num_rows, np.int32),) * 2 + ((1, np.uint64),))
    values, weights, sound = [], None if weight is None else [], True
    for bucket in side.buckets:
        arrays = [np.ascontiguousarray(each, np.int32) for each in (bucket.row, bucket.other, bucket.entry)]
        piece_row = None if bucket.piece_row is None else np.ascontiguousarray(bucket.piece_row, np.int32)
        shape = arrays[1].shape
        values.append(grouping.empty(shape, value.dtype))
        if weights is not None:
            weights.append(grouping.empty(shape, weight.dtype))
        given = [*arrays, piece_row, value, weight, values[-1], weights and weights[-1], count, lies, total]
        sizes = (*arrays[0].shape, *shape[1:], side.num_rows, others, side.num_entries)
        bytes_of = value.itemsize, 0 if weight is None else weight.itemsize
        told = library.jals_arrange(*map(grouping.address, given), row_first, *sizes, *bytes_of, grouping.cores())
        if told == grouping.SHORT:
            return None
        sound &= told == 0
    return values, weights, count, int(total[0]) if sound and (lies == 1).all() else None

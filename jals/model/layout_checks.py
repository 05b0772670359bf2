"""Checks that a layout belongs to a table: by its shapes, by a fingerprint of its indices, and in words for errors.

Layouts of `build_side` do, but a `Problem` is a plain pytree, which anyone may alter. A wrong index would read or write
a number of another row, and no result would show it.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ArgumentError
from .layouts import Bucket, Side

_BUILD = "Problem.build lays a table out; with_values takes other numbers for it."


def check_shapes(side: Side, name: str) -> None:
    """Refuses arrays that cannot be those of one layout, by what is static: their shapes and dtypes.

    Raises:
        ArgumentError: naming the array.
    """
    if not isinstance(side.buckets, (tuple, list)) or not all(isinstance(each, Bucket) for each in side.buckets):
        raise ArgumentError(f"{name}.buckets must be a tuple of buckets. {_BUILD}")
    for place, bucket in enumerate(side.buckets):
        here = f"{name}.buckets[{place}]"
        slabs, rows = _sizes(f"{here}.row", bucket.row, 2)
        _, pieces, width = _sizes(f"{here}.other", bucket.other, 3)
        needed = {"row": (slabs, rows), "other": (slabs, pieces, width), "entry": (slabs, pieces, width)}
        if bucket.piece_row is None:
            needed["other"] = needed["entry"] = (slabs, rows, width)
        else:
            needed["piece_row"] = (slabs, pieces)
        if bucket.length is not None:
            needed["length"] = needed.pop("entry")[:2]
        for part, shape in needed.items():
            check_form(f"{here}.{part}", getattr(bucket, part), np.int32, shape)
        if pieces and (type(bucket.step) is not int or bucket.step < 1 or pieces % bucket.step):
            raise ArgumentError(f"{here}.step is {bucket.step!r}, but must divide its {pieces} pieces. {_BUILD}")


def check_form(name: str, array: Any, dtype: Any, shape: tuple[int, ...]) -> None:
    """Raises ArgumentError unless something is an array of this dtype and shape."""
    have = getattr(array, "dtype", None), getattr(array, "shape", None)
    if have != (dtype, shape):
        what = f"of type {type(array).__name__}" if have[1] is None else f"{have[0]} of shape {have[1]}"
        raise ArgumentError(f"{name} is {what}, but must be {np.dtype(dtype)} of shape {shape}. {_BUILD}")


def _sizes(name: str, array: Any, axes: int) -> tuple[int, ...]:
    shape = getattr(array, "shape", None)
    if shape is None or len(shape) != axes:
        what = f"of type {type(array).__name__}" if shape is None else f"of shape {shape}"
        raise ArgumentError(f"{name} is {what}, but must be an array of {axes} axes. {_BUILD}")
    return shape


def fingerprint(side: Side, row_first: bool) -> jax.Array:
    """A number of all places of a layout's entries, uint32: `table_fingerprint` of the table's columns where every
    entry lies in one slot, that of its row and other row; otherwise another number, except by a chance of 2^-32."""
    total = jnp.zeros((), jnp.uint32)
    for bucket in side.buckets:
        row = side.of_pieces(bucket)[..., None]
        places = _mixed(bucket.entry, *((row, bucket.other) if row_first else (bucket.other, row)))
        total += jnp.sum(jnp.where(bucket.entry != side.num_entries, places, jnp.uint32(0)), dtype=jnp.uint32)
    return total


def table_fingerprint(user: jax.Array, item: jax.Array, num_users: int, num_items: int) -> jax.Array:
    """That of a table's entries, see `fingerprint`; one that no layout has where an index is out of range."""
    entry = jnp.arange(len(user), dtype=jnp.int32)
    off = (user < 0) | (user >= num_users) | (item < 0) | (item >= num_items)
    return jnp.sum(_mixed(entry, user, item) + off.astype(jnp.uint32), dtype=jnp.uint32)


def has_rows(side: Side) -> jax.Array:
    """Whether every row lies in one place, and all numbers of rows and places are in range: bool `()`."""
    rows = jnp.concatenate([bucket.row.reshape(-1) for bucket in side.buckets])
    times = jnp.zeros(side.num_rows, jnp.int32).at[rows].add(1, mode="drop")
    fine = [(times == 1).all(), ((rows >= 0) & (rows <= side.num_rows)).all()]
    for bucket in side.buckets:
        if bucket.piece_row is not None:
            fine.append(((bucket.piece_row >= 0) & (bucket.piece_row <= bucket.row.shape[1])).all())
    return jnp.stack(fine).all()


def fault(side: Side, name: str, row: np.ndarray, other: np.ndarray, others: int) -> str:
    """What is off in a layout that is not the table's: the array and the place, in words. On the host."""
    seen, lies = np.zeros(side.num_entries, int), np.zeros(side.num_rows, int)
    for place, bucket in enumerate(side.buckets):
        here = f"{name}.buckets[{place}]"
        arrays = {part: np.asarray(getattr(bucket, part)) for part in ("row", "other", "entry")}
        most = {"row": side.num_rows, "other": others - 1, "entry": side.num_entries}
        most["piece_row"] = arrays["row"].shape[1]
        if bucket.piece_row is not None:
            arrays["piece_row"] = np.asarray(bucket.piece_row)
        for part, array in arrays.items():
            if found := _first((array < 0) | (array > most[part])):
                return f"{here}.{part}{list(found)} is {array[found]}, but must be from 0 to {most[part]:,}"
        used = arrays["entry"] < side.num_entries
        if found := _first(used[..., 1:] & ~used[..., :-1]):
            return f"{here}.entry{list(found)} is padding, but entries follow it in its piece"
        np.add.at(lies, arrays["row"][arrays["row"] < side.num_rows], 1)
        np.add.at(seen, arrays["entry"][used], 1)
        of_piece = np.asarray(side.of_pieces(bucket))
        entry = np.minimum(arrays["entry"], side.num_entries - 1)
        for part, right in (("row", row[entry] == of_piece[..., None]), ("other", other[entry] == arrays["other"])):
            if found := _first(used & ~right):
                return f"{here}.entry{list(found)} is entry {entry[found]}, which is not of this slot's {part}"
    for what, times in (("row", lies), ("entry", seen)):
        if found := _first(times != 1):
            return f"{name} has {what} {found[0]} {times[found]} times, but must have it once"
    return f"{name} is not a layout of this table"


def _mixed(*parts: jax.Array) -> jax.Array:
    """One number for these whole numbers together, uint32, that others hardly share."""
    total = jnp.zeros((), jnp.uint32)
    for part, odd in zip(parts, (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D), strict=False):
        total = total + part.astype(jnp.uint32) * jnp.uint32(odd)
    total = (total ^ (total >> 15)) * jnp.uint32(0x2C1B3C6D)
    return total ^ (total >> 13)


def _first(wrong: np.ndarray) -> tuple[int, ...] | None:
    """The place of the first True, or None."""
    return tuple(map(int, np.unravel_index(wrong.argmax(), wrong.shape))) if wrong.any() else None

"""Sorting a table's entries by row and laying them out in slots, on the host: in C++ on all cores where that is built
(native/grouping.cpp), else by NumPy. Both give the same, to the last bit."""

import ctypes
import functools
import os
import pathlib
from typing import Any

import numpy as np

_CALLS = 1  # what the library is called with here: `jals_grouping` there, raised with every change to it
SHORT = -2  # what jals_arrange says where memory is short
_LINE = 64  # bytes; jax takes an array that begins at a multiple of it over on a CPU as it is, else copies it


def empty(shape: Any, dtype: Any) -> np.ndarray:
    """`numpy.empty`, of an array that jax takes over on a CPU without a copy."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.empty(size + _LINE, np.uint8)
    start = -room.ctypes.data % _LINE
    return room[start : start + size].view(dtype).reshape(shape)


def aligned(column: np.ndarray) -> np.ndarray:
    """A column as of `empty`: itself where it begins so, else a copy."""
    if column.ctypes.data % _LINE == 0:
        return column
    made = empty(column.shape, column.dtype)
    made[...] = column
    return made


def cast(column: np.ndarray, dtype: Any) -> np.ndarray:
    """A column in this dtype: itself where it has it, else an array as of `empty`."""
    if column.dtype == dtype:
        return column
    made = empty(column.shape, dtype)
    made[...] = column
    return made


def group(row: np.ndarray, rows: int, sort: bool = True) -> tuple[np.ndarray, np.ndarray | None]:
    """(start, order) of entries of these rows, int32 `(entries,)` from 0 below `rows`: the entries of row r are
    `order[start[r] : start[r + 1]]`, in input order; start is int64 `(rows + 1,)`, order int32 `(entries,)`, or None
    where the entries are sorted by row already, or where that is not wanted."""
    row = np.ascontiguousarray(row, np.int32)
    order = np.empty(len(row), np.int32) if sort and not (row[1:] >= row[:-1]).all() else None
    start, compiled = np.zeros(rows + 1, np.int64), library()
    if compiled is not None and compiled.jals_group(row, len(row), rows, cores(), start, address(order)):
        return start, order
    start[1:] = np.cumsum(np.bincount(row, minlength=rows))
    if order is not None:
        keys = row.astype(np.int64) << 32
        keys |= np.arange(len(row), dtype=np.int64)
        keys.sort()  # several times faster than a stable argsort
        order = keys.astype(np.int32)  # the low half
    return start, order


def distinct(row: np.ndarray, other: np.ndarray, rows: int, others: int) -> bool:
    """Whether no pair (row, other) occurs twice; all numbers from 0 below `rows` and `others`."""
    few = max(rows, others) <= max(4 * len(row), 1 << 20)  # else numbering them all costs more than sorting the pairs
    compiled = library() if few else None
    if compiled is not None:
        start, order = group(row, rows)
        other = np.ascontiguousarray(other, np.int32)
        told = compiled.jals_distinct(address(order), start, rows, other, others, cores())
        if told >= 0:
            return bool(told)
    keys = row.astype(np.int64)
    keys *= others
    keys += other
    if (keys[1:] > keys[:-1]).all():
        return True
    keys.sort()
    return bool((keys[1:] != keys[:-1]).all())


def fill(
    begin: np.ndarray, length: np.ndarray, width: int, order: np.ndarray | None, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(others, entries), int32 `(..., width)`, of pieces that hold so many of the sorted entries each, from `begin` on,
    int32 `(...)` both: their other rows, 0 in padding, and their numbers, `len(other)` in padding. `order` as `group`
    gives it."""
    shape, compiled = (*begin.shape, width), library()
    others, entries = empty(shape, np.int32), empty(shape, np.int32)
    begin, length, other = (np.ascontiguousarray(each, np.int32) for each in (begin, length, other))
    laid = (begin, length, begin.size, width, address(order), other, len(other), cores(), others, entries)
    if compiled is not None and compiled.jals_fill(*laid):
        return others, entries
    slot = np.arange(width, dtype=np.int32)
    padding = slot >= length[..., None]
    position = begin[..., None] + slot
    position[padding] = 0
    entries[...] = position if order is None else order[position]
    others[...] = other[entries]
    others[padding], entries[padding] = 0, len(other)
    return others, entries


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def address(array: np.ndarray | None) -> Any:
    """Where an array's numbers lie, as the library takes it; None for no array."""
    return None if array is None else array.ctypes.data


@functools.cache
def library() -> Any:
    """The compiled functions of native/grouping.cpp, or None. They take addresses of contiguous arrays (`address`)."""
    try:
        found = ctypes.CDLL(str(pathlib.Path(__file__).parent / "native" / "_grouping.so"))
        if found.jals_grouping() != _CALLS:
            return None
        whole, place, small = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int
        ints, starts = (np.ctypeslib.ndpointer(each, flags="C_CONTIGUOUS") for each in (np.int32, np.int64))
        found.jals_group.argtypes = [ints, whole, whole, whole, starts, place]
        found.jals_distinct.argtypes = [place, starts, whole, ints, whole, whole]
        found.jals_fill.argtypes = [ints, ints, whole, whole, place, ints, whole, whole, ints, ints]
        found.jals_fingerprint.argtypes = [ints, ints, whole]
        found.jals_arrange.argtypes = [place] * 11 + [ctypes.c_bool] + [whole] * 7 + [small] * 2 + [whole]
    except (OSError, AttributeError):  # not built, or built of other sources
        return None
    found.jals_group.restype = found.jals_fill.restype = ctypes.c_bool
    found.jals_arrange.restype, found.jals_fingerprint.restype = whole, ctypes.c_uint64
    return found

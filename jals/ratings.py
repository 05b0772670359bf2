"""The ratings table on the host: checked once, here, and trusted everywhere after."""

import dataclasses
import hashlib
from typing import Any

import numpy as np

from .errors import DataError, check_choice

_MAX_ENTRIES = 2**31 - 1  # int32 indices throughout
_DUPLICATES = ("error", "last", "mean", "sum")


@dataclasses.dataclass(frozen=True, eq=False)
class Ratings:
    """A table of observed entries, as NumPy arrays on the host.

    Make one with `from_arrays` or `from_scipy`, which check it; the constructor itself checks nothing. Arrays of the
    right dtype are kept, not copied: do not write to them afterwards.

    Attributes:
        user, item: int32 `(entries,)`, ids from 0.
        value: float32 or float64 `(entries,)`.
        weight: like `value`, each >= 0, or None where every entry has weight 1.
        time: any sortable dtype `(entries,)`, or None.
        source_index: int32 `(entries,)`, increasing: the place of each entry in the input it came from
            (where duplicates were merged: the last of them for "last", the first for "mean" and "sum").
        num_users, num_items: the table's shape, empty rows included.
    """

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    weight: np.ndarray | None
    time: np.ndarray | None
    source_index: np.ndarray
    num_users: int
    num_items: int

    @classmethod
    def from_arrays(
        cls,
        user: Any,
        item: Any,
        value: Any,
        num_users: int | None = None,
        num_items: int | None = None,
        weight: Any = None,
        duplicates: str = "error",
        time: Any = None,
    ) -> "Ratings":
        """Checks and keeps entries given as parallel arrays.

        Args:
            user, item: integer ids `(entries,)`, 0 <= id < num_users, num_items (default: largest id + 1).
            value: real numbers `(entries,)`; float64 stays float64, everything else becomes float32.
            weight: finite numbers >= 0, or None. A weight multiplies the entry's whole loss term; entries of
                weight 0 count as missing.
            duplicates: what to do when a (user, item) pair occurs again: "error"; "last" keeps the last entry;
                "mean" takes the weighted mean of the values; "sum" adds the values. "mean" and "sum" give the
                merged entry the mean of the weights and the latest of the times.
            time: anything sortable `(entries,)`, or None.

        Raises:
            DataError: naming the first offending entry.
            ArgumentError: for an unknown `duplicates`.
        """
        check_choice("duplicates", duplicates, _DUPLICATES)
        user, num_users = _checked_ids("user", user, num_users)
        item, num_items = _checked_ids("item", item, num_items)
        value = _checked_numbers("value", value)
        columns = {"user": user, "item": item, "value": value}
        if weight is not None:
            columns["weight"] = weight = _checked_numbers("weight", weight, value.dtype)
            if (weight < 0).any():
                at = int(np.argmax(weight < 0))
                raise DataError(f"weight of entry {at} is {weight[at]}, but weights must be >= 0.")
        if time is not None:
            columns["time"] = time = np.asarray(time)
            if time.ndim != 1:
                raise DataError(f"time must be one-dimensional, got shape {time.shape}.")
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns differ in length: {lengths}. Give one value of each an entry.")
        source_index = np.arange(len(user), dtype=np.int32)
        ratings = cls(user, item, value, weight, time, source_index, num_users, num_items)
        return ratings._merged(duplicates)

    @classmethod
    def from_scipy(cls, table: Any, duplicates: str = "error") -> "Ratings":
        """Ratings from any two-dimensional scipy.sparse array or matrix (rows are users, columns items).

        Stored entries are the observed ones, stored zeros included; entries that are not stored are missing.
        Order of entries: that of `table.tocoo()`.
        """
        if not hasattr(table, "tocoo") or len(getattr(table, "shape", ())) != 2:
            raise DataError(
                f"expected a two-dimensional scipy.sparse table, got {type(table).__name__}. "
                "For plain arrays use Ratings.from_arrays(user, item, value)."
            )
        coo = table.tocoo()
        return cls.from_arrays(coo.row, coo.col, coo.data, *table.shape, duplicates=duplicates)

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        density = len(self) / (self.num_users * self.num_items)
        shape = f"{self.num_users:,} users x {self.num_items:,} items"
        return f"Ratings({shape}, {len(self):,} entries, {density:.2%} full)"

    def select(self, which: np.ndarray) -> "Ratings":
        """The entries that a boolean mask or an index array picks, with the same users and items.

        Raises:
            DataError: when nothing is picked.
        """
        which = np.asarray(which)
        if not (which.any() if which.dtype == bool else which.size):
            raise DataError("the selection leaves no entry of the table.")
        columns = ("user", "item", "value", "weight", "time", "source_index")
        picked = {name: None if getattr(self, name) is None else getattr(self, name)[which] for name in columns}
        return dataclasses.replace(self, **picked)

    def data_hash(self) -> str:
        """SHA-256 of shape, entries, values and weights, the same whatever the order of the entries."""
        order = np.argsort(_keys(self.user, self.item, self.num_items), kind="stable")
        digest = hashlib.sha256(f"jals ratings {self.num_users} {self.num_items}".encode())
        for column in (self.user, self.item, self.value, self.weight):
            digest.update(b"none" if column is None else np.ascontiguousarray(column[order]).tobytes())
        return digest.hexdigest()

    def _merged(self, duplicates: str) -> "Ratings":
        keys = _keys(self.user, self.item, self.num_items)
        if (keys[1:] > keys[:-1]).all():  # already sorted and unique: the common case for a CSR table
            return self
        ordered = np.sort(keys)
        repeated = ordered[1:] == ordered[:-1]
        if not repeated.any():
            return self
        if duplicates == "error":
            key = ordered[1:][repeated][0]
            first, second = np.flatnonzero(keys == key)[:2]
            raise DataError(
                f"{int(repeated.sum()):,} duplicate entries; the first: user {self.user[first]}, item "
                f"{self.item[first]} at entries {first} and {second}. Merge them with "
                'duplicates="last", "mean" or "sum".'
            )
        order = np.argsort(keys, kind="stable")
        starts = np.flatnonzero(np.r_[True, ~repeated])
        group = np.empty(len(keys), np.int64)
        group[order] = np.cumsum(np.r_[True, ~repeated]) - 1
        first, last = order[starts], order[np.r_[starts[1:], len(keys)] - 1]
        if duplicates == "last":
            kept = self
        else:
            size = np.bincount(group)
            value, weight, time = self.value.astype(np.float64), self.weight, self.time
            if duplicates == "sum":
                merged_value = np.bincount(group, value)
                _checked_numbers("the sum of duplicates of the value", merged_value[group], self.value.dtype)
            else:
                share = np.ones(len(keys)) if weight is None else weight.astype(np.float64)
                total = np.bincount(group, share)
                share = np.where(total[group] > 0, share, 1.0)  # all weights 0: the plain mean
                merged_value = np.bincount(group, share * value) / np.bincount(group, share)
            columns = {"value": merged_value[group].astype(self.value.dtype)}
            if weight is not None:
                columns["weight"] = (np.bincount(group, weight) / size)[group].astype(weight.dtype)
            if time is not None:
                latest = np.maximum.reduceat(time[order], starts)
                columns["time"] = latest[group]
            kept = dataclasses.replace(self, **columns)
        return kept.select(np.sort(last if duplicates == "last" else first))


def _keys(user: np.ndarray, item: np.ndarray, num_items: int) -> np.ndarray:
    """One int64 an entry that sorts like (user, item)."""
    keys = user.astype(np.int64)
    keys *= num_items
    keys += item
    return keys


def _checked_ids(name: str, ids: Any, count: int | None) -> tuple[np.ndarray, int]:
    ids = np.asarray(ids)
    if ids.ndim != 1:
        raise DataError(f"{name} must be one-dimensional, got shape {ids.shape}.")
    if ids.size == 0:
        raise DataError("the table is empty: there is no entry to learn from.")
    if not np.issubdtype(ids.dtype, np.integer):
        raise DataError(
            f"{name} ids must be integers, got {ids.dtype}. Round and convert them (ids.astype(int)), or number "
            "outside ids with numpy.unique(ids, return_inverse=True)."
        )
    if ids.size > _MAX_ENTRIES:
        raise DataError(f"{ids.size:,} entries, but a table holds fewer than 2**31; split it.")
    whole = isinstance(count, (int, np.integer)) and not isinstance(count, bool)
    if count is not None and not (whole and 1 <= count < 2**31):
        raise DataError(f"num_{name}s is {count!r}, but must be a whole number from 1 to 2**31 - 1.")
    low, high = int(ids.min()), int(ids.max())
    if low < 0:
        at = int(np.argmax(ids < 0))
        raise DataError(f"{name} of entry {at} is {ids[at]}, but ids start at 0.")
    if high >= 2**31 - 1:
        at = int(np.argmax(ids >= 2**31 - 1))
        raise DataError(
            f"{name} of entry {at} is {ids[at]}, but ids must be below 2**31 - 1. "
            "Number them with numpy.unique(ids, return_inverse=True)."
        )
    count = high + 1 if count is None else int(count)
    if high >= count:
        at = int(np.argmax(ids >= count))
        raise DataError(f"{name} of entry {at} is {ids[at]}, but num_{name}s is {count} (ids run from 0).")
    return ids.astype(np.int32, copy=False), count


def _checked_numbers(name: str, numbers: Any, dtype: Any = None) -> np.ndarray:
    numbers = np.asarray(numbers)
    if numbers.ndim != 1:
        raise DataError(f"{name} must be one-dimensional, got shape {numbers.shape}.")
    if not (np.issubdtype(numbers.dtype, np.number) or numbers.dtype == bool) or np.iscomplexobj(numbers):
        raise DataError(f"{name} must be real numbers, got {numbers.dtype}.")
    dtype = dtype or (np.float64 if numbers.dtype == np.float64 else np.float32)
    with np.errstate(over="ignore"):  # what does not fit becomes inf, and is refused below
        numbers = numbers.astype(dtype, copy=False)
    finite = np.isfinite(numbers)
    if not finite.all():
        at = int(np.argmin(finite))
        raise DataError(
            f"{name} of entry {at} is {numbers[at]}; {int((~finite).sum()):,} entries are not finite. "
            "Leave missing entries out of the table instead of marking them."
        )
    return numbers

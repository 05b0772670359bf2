"""The ratings table on the host: checked here, once, and trusted afterwards."""

import dataclasses
import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import ArgumentError, DataError, EntryError, check_choice
from ..html import MANY, Table, from_to, shown
from . import grouping
from .entries import checked_ids, checked_numbers, checked_time

if TYPE_CHECKING:
    from .vocabulary import Vocabulary

DUPLICATES = ("error", "last", "mean", "sum")


class DuplicateEntries(DataError):
    """Pairs that occur again, `count` of them; the first such pair is entries `first` and `second`."""

    def __init__(self, message: str, count: int, first: int, second: int):
        super().__init__(message)
        self.count, self.first, self.second = count, first, second


@dataclasses.dataclass(frozen=True, eq=False)
class Ratings:
    """A table of observed entries, as NumPy arrays on the host.

    Make one with `from_arrays`, `from_scipy`, `from_dataframe` or `jals.read_ratings`, which check it; the constructor
    itself checks nothing. The same data read in any two of these ways is the same table, bit for bit, once both are
    `sorted()`. Arrays of the right dtype are kept, not copied: do not write to them afterwards.

    Attributes:
        user, item: int32 `(entries,)`, ids from 0.
        value: float32 or float64 `(entries,)`.
        weight: like `value`, each >= 0, or None where every entry has weight 1.
        time: int64, float64 or datetime64[us] `(entries,)`, or None; datetime64[ns] where the times differ from whole
            microseconds.
        places: `source_index`, or None where the entries are those of the input, one after the other.
        num_users: rows of the table, empty ones included.
        num_items: its columns, likewise.
    """

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    weight: np.ndarray | None
    time: np.ndarray | None
    places: np.ndarray | None
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
            value: real numbers `(entries,)`; float64 stays float64, longdouble is rounded to it, and everything else
                becomes float32.
            weight: finite numbers >= 0, or None. A weight multiplies the entry's whole loss term; entries of
                weight 0 count as missing.
            duplicates: what to do when a (user, item) pair occurs again: "error"; "last" keeps the last entry;
                "mean" takes the weighted mean of the values; "sum" adds the values. "mean" and "sum" give the
                merged entry the mean of the weights and the latest of the times.
            time: `(entries,)` or None. Integers are kept as int64 and real numbers as float64; dates, and text in ISO
                format ("2001-05-01", "2001-05-01T10:30:00+02:00"), as datetime64[us], in UTC where a zone is given.
                datetime64 with digits below a microsecond is kept as datetime64[ns], so that no two times become one.

        Raises:
            DataError: naming the first offending entry: a masked one, too (leave it out).
            ArgumentError: for an unknown `duplicates`.
        """
        check_choice("duplicates", duplicates, DUPLICATES)
        user, num_users = checked_ids("user", user, num_users)
        item, num_items = checked_ids("item", item, num_items)
        value = checked_numbers("value", value)
        columns = {"user": user, "item": item, "value": value}
        if weight is not None:
            columns["weight"] = weight = checked_numbers("weight", weight, value.dtype)
            if (weight < 0).any():
                at = int(np.argmax(weight < 0))
                raise EntryError("weight", at, f"is {weight[at]}, but weights must be >= 0.")
        if time is not None:
            columns["time"] = time = checked_time(time)
        lengths = {name: len(column) for name, column in columns.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"the columns differ in length: {lengths}. Give one value of each an entry.")
        return cls(user, item, value, weight, time, None, num_users, num_items)._merged(duplicates)

    @classmethod
    def from_scipy(cls, table: Any, duplicates: str = "error") -> "Ratings":
        """Ratings from any two-dimensional scipy.sparse array or matrix (rows are users, columns items).

        Stored entries are the observed ones, stored zeros included; entries that are not stored are missing.
        Order of entries: that of `table.tocoo()`.
        """
        shape = getattr(table, "shape", None)
        if not hasattr(table, "tocoo") or not isinstance(shape, tuple) or len(shape) != 2:
            raise DataError(
                f"expected a two-dimensional scipy.sparse table, got {type(table).__name__}. "
                "For plain arrays use Ratings.from_arrays(user, item, value)."
            )
        try:
            coo = table.tocoo()
        except Exception as error:  # index arrays that were written to and no longer fit, or another library's class
            raise DataError(f"the {type(table).__name__} is not a valid sparse table: {error}") from error
        return cls.from_arrays(coo.row, coo.col, coo.data, *shape, duplicates=duplicates)

    @classmethod
    def from_dataframe(
        cls,
        df: Any,
        user: Any = None,
        item: Any = None,
        value: Any = True,
        time: Any = None,
        weight: Any = None,
        duplicates: str = "error",
    ) -> tuple["Ratings", "Vocabulary"]:
        """Ratings, and the outside ids of their rows, from a pandas, polars (lazy too) or pyarrow table.

        Args:
            df: the table, one row an entry; other columns are not looked at.
            user, item: the columns of outside ids, each all integers or all text: a name, or a position from 0 (where
                no column is named by a number). None looks for the usual names, as `jals.read_ratings` does: userId,
                movie_id, ...
            value: the column of values, likewise. True looks for the usual names (rating, score, ...; a table of two
                columns needs none), None or False makes every value 1. float64 stays float64, everything else becomes
                float32.
            time, weight: likewise. None or False leaves them out, whatever the table has.
            duplicates: the rule, as in `from_arrays`.

        Returns:
            (ratings, vocab): entries in the order of the rows; `vocab.user[ratings.user]` is the column of users.

        Raises:
            DataError: naming column and row (counted from 0) of the first empty, infinite or wrong field.
            ArgumentError: for what names no column.
            ImportError: without the extra `tables`.
        """
        from .frames import assemble, table_of_frame

        check_choice("duplicates", duplicates, DUPLICATES)
        for role, column in (("user", user), ("item", item)):
            if isinstance(column, bool):
                raise ArgumentError(f"{role} is {column}, but must be a column's name or its position, from 0.")
        wanted = {"user": user, "item": item}
        for role, column in (("value", value), ("time", time), ("weight", weight)):
            wanted[role] = None if column is True else False if column is None else column
        return assemble(table_of_frame(df, wanted), duplicates)

    def __len__(self) -> int:
        return len(self.user)

    def __repr__(self) -> str:
        density = len(self) / (self.num_users * self.num_items)
        shape = f"{self.num_users:,} users x {self.num_items:,} items"
        return f"Ratings({shape}, {len(self):,} entries, {density:.2%} full)"

    @shown
    def _repr_html_(self) -> Table:
        cells = self.num_users * self.num_items
        rows = [("users", f"{self.num_users:,}"), ("items", f"{self.num_items:,}")]
        rows.append(("entries", f"{len(self):,}, {len(self) / cells:.2%} of all pairs" if cells else "0"))
        for name in ("value", "weight", "time"):
            column = getattr(self, name)
            if column is not None:
                known = name != "time" and 0 < len(self) <= MANY
                ends = f"{from_to(column.min(), column.max())}, " if known else ""
                rows.append((f"{name}s", f"{ends}{column.dtype}"))
        return Table("ratings", rows)

    @property
    def source_index(self) -> np.ndarray:
        """int32 `(entries,)`: the place of each entry in the input it came from, increasing unless the table was
        reordered (where duplicates were merged: the last of them for "last", the first for "mean" and "sum")."""
        return np.arange(len(self), dtype=np.int32) if self.places is None else self.places

    def select(self, which: np.ndarray) -> "Ratings":
        """The entries that a boolean mask or an index array picks, with the same users and items.

        Raises:
            DataError: when nothing is picked.
        """
        which = np.asarray(which)
        if not (which.any() if which.dtype == bool else which.size):
            raise DataError("the selection leaves no entry of the table.")
        columns = ("user", "item", "value", "weight", "time")
        picked = {}
        for name in columns:
            column = getattr(self, name)
            # A problem of them on a CPU then has no columns of its own.
            picked[name] = None if column is None else grouping.aligned(column[which])
        return dataclasses.replace(self, places=self.source_index[which], **picked)

    def sorted(self) -> "Ratings":
        """The same entries in the order of (user, item), the form in which tables can be compared bit for bit."""
        return self.select(np.argsort(_keys(self.user, self.item, self.num_items), kind="stable"))

    def data_hash(self) -> str:
        """SHA-256 of shape, entries, values and weights, the same whatever the order of the entries."""
        order = np.argsort(_keys(self.user, self.item, self.num_items), kind="stable")
        digest = hashlib.sha256(f"jals ratings {self.num_users} {self.num_items}".encode())
        for column in (self.user, self.item, self.value, self.weight):
            digest.update(b"none" if column is None else np.ascontiguousarray(column[order]).tobytes())
        return digest.hexdigest()

    def _merged(self, duplicates: str) -> "Ratings":
        if grouping.distinct(self.user, self.item, self.num_users, self.num_items):
            return self
        keys = _keys(self.user, self.item, self.num_items)
        ordered = np.sort(keys)
        repeated = ordered[1:] == ordered[:-1]
        if duplicates == "error":
            key = ordered[1:][repeated][0]
            first, second = np.flatnonzero(keys == key)[:2]
            count = int(repeated.sum())
            raise DuplicateEntries(
                f"{count:,} duplicate entries; the first: user {self.user[first]}, item {self.item[first]} at entries "
                f'{first} and {second}. Merge them with duplicates="last", "mean" or "sum".',
                count,
                int(first),
                int(second),
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
                checked_numbers("the sum of duplicates of the value", merged_value[group], self.value.dtype)
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

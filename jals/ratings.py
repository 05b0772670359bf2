"""The ratings table on the host: checked once, here, and trusted everywhere after."""

import dataclasses
import datetime
import hashlib
import re
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import ArgumentError, DataError, check_choice, is_traced

if TYPE_CHECKING:
    from .vocabulary import Vocabulary

_MAX_ENTRIES = 2**31 - 1  # int32 indices throughout
_BELOW = re.compile(r"[.,]\d{6}0*[1-9]")  # digits of a second that Python passes over
_DUPLICATES = ("error", "last", "mean", "sum")


class EntryError(DataError):
    """One entry that cannot be: `column` ("user", "value", ...), `entry` (its place), `problem` ("is nan, but ...")."""

    def __init__(self, column: str, entry: int, problem: str):
        super().__init__(f"{column} of entry {entry} {problem}")
        self.column, self.entry, self.problem = column, entry, problem


class DuplicateEntries(DataError):
    """Pairs that occur again, `count` of them; the first such pair is entries `first` and `second`."""

    def __init__(self, message: str, count: int, first: int, second: int):
        super().__init__(message)
        self.count, self.first, self.second = count, first, second


@dataclasses.dataclass(frozen=True, eq=False)
class Ratings:
    """A table of observed entries, as NumPy arrays on the host.

    Make one with `from_arrays`, `from_scipy`, `from_dataframe` or `jals.read_ratings`, which check it; the constructor
    itself checks nothing. The same data through any two of these doors is the same table, bit for bit, once both are
    `sorted()`. Arrays of the right dtype are kept, not copied: do not write to them afterwards.

    Attributes:
        user, item: int32 `(entries,)`, ids from 0.
        value: float32 or float64 `(entries,)`.
        weight: like `value`, each >= 0, or None where every entry has weight 1.
        time: int64, float64 or datetime64[us] `(entries,)`, or None; datetime64[ns] where the times differ from whole
            microseconds.
        source_index: int32 `(entries,)`: the place of each entry in the input it came from, increasing unless the
            table was reordered (where duplicates were merged: the last of them for "last", the first for "mean" and
            "sum").
        num_users: rows of the table, empty ones included.
        num_items: its columns, likewise.
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
        check_choice("duplicates", duplicates, _DUPLICATES)
        user, num_users = _checked_ids("user", user, num_users)
        item, num_items = _checked_ids("item", item, num_items)
        value = _checked_numbers("value", value)
        columns = {"user": user, "item": item, "value": value}
        if weight is not None:
            columns["weight"] = weight = _checked_numbers("weight", weight, value.dtype)
            if (weight < 0).any():
                at = int(np.argmax(weight < 0))
                raise EntryError("weight", at, f"is {weight[at]}, but weights must be >= 0.")
        if time is not None:
            columns["time"] = time = _checked_time(time)
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
        from .frames import assembled, table_of_frame

        check_choice("duplicates", duplicates, _DUPLICATES)
        for role, column in (("user", user), ("item", item)):
            if isinstance(column, bool):
                raise ArgumentError(f"{role} is {column}, but must be a column's name or its position, from 0.")
        wanted = {"user": user, "item": item}
        for role, column in (("value", value), ("time", time), ("weight", weight)):
            wanted[role] = None if column is True else False if column is None else column
        return assembled(table_of_frame(df, wanted), duplicates)

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


def unmasked(name: str, column: Any) -> Any:
    """The column itself, once it is sure that nothing in it is masked: NumPy drops a mask without a word.

    Raises:
        EntryError: naming the first masked entry.
    """
    mask = np.ma.getmaskarray(column) if isinstance(column, np.ma.MaskedArray) else np.zeros(0, bool)
    if mask.dtype == bool and mask.any():  # a record has a mask of its own kind, and is no column anyway
        at = int(np.argmax(mask.ravel()))
        raise EntryError(name, at, "is masked. Leave such entries out, of every column alike.")
    return column


def shown(value: Any) -> str:
    """A value in a message, cut where it would fill the page."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _column(name: str, column: Any) -> np.ndarray:
    if is_traced(column):
        raise DataError(f"{name} is traced: make the table outside of jit, vmap and grad.")
    try:
        column = np.asarray(unmasked(name, column))
    except DataError:
        raise
    except Exception as error:  # what a class of someone else's says to being an array
        what = "is ragged" if isinstance(column, list | tuple) else f"of type {type(column).__name__} is no array"
        raise DataError(f"{name} {what}: {str(error).rstrip('.')}. Give one {name} an entry.") from error
    if column.ndim != 1:
        raise DataError(f"{name} must be one-dimensional, got shape {column.shape}.")
    return column


def _checked_ids(name: str, ids: Any, count: int | None) -> tuple[np.ndarray, int]:
    ids = _column(name, ids)
    if ids.size == 0:
        raise DataError("the table is empty: there is no entry to learn from.")
    if ids.dtype.kind not in "iu":
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
        raise EntryError(name, at, f"is {ids[at]}, but ids start at 0.")
    if high >= 2**31 - 1:
        at = int(np.argmax(ids >= 2**31 - 1))
        raise EntryError(
            name,
            at,
            f"is {ids[at]}, but ids must be below 2**31 - 1. Number them with numpy.unique(ids, return_inverse=True).",
        )
    count = high + 1 if count is None else int(count)
    if high >= count:
        at = int(np.argmax(ids >= count))
        raise EntryError(name, at, f"is {ids[at]}, but num_{name}s is {count} (ids run from 0).")
    return ids.astype(np.int32, copy=False), count


def _checked_numbers(name: str, numbers: Any, dtype: Any = None) -> np.ndarray:
    numbers = _column(name, numbers)
    if numbers.dtype.kind not in "biuf":
        raise DataError(f"{name} must be real numbers, got {numbers.dtype}.")
    wide = numbers.dtype.kind == "f" and numbers.dtype.itemsize >= 8  # in either byte order
    dtype = dtype or (np.float64 if wide else np.float32)
    with np.errstate(over="ignore"):  # what does not fit becomes inf, and is refused below
        numbers = numbers.astype(dtype, copy=False)
    finite = np.isfinite(numbers)
    if not finite.all():
        at = int(np.argmin(finite))
        raise EntryError(
            name,
            at,
            f"is {numbers[at]}; {int((~finite).sum()):,} entries are not finite. "
            "Leave missing entries out of the table instead of marking them.",
        )
    return numbers


def _checked_time(time: Any) -> np.ndarray:
    """Times as int64, float64 or datetime64[us]: whatever the door, the same times have the same dtype."""
    time = _column("time", time)
    if time.dtype == object and all(type(each) in (int, float) for each in time.tolist()):
        time = np.array(time.tolist())
    elif time.dtype.kind in "OUT":
        time = _moments(time)
    if time.dtype.kind in "iu" and (time.dtype.itemsize < 8 or not time.size or int(time.max()) < 2**63):
        return time.astype(np.int64, copy=False)
    if time.dtype.kind not in "fM":
        raise DataError(f"time must be integers below 2**63, real numbers or dates, got {time.dtype}.")
    wrong = np.isnat(time) if time.dtype.kind == "M" else ~np.isfinite(time)
    if wrong.any():
        at = int(np.argmax(wrong))
        raise EntryError("time", at, f"is {time[at]}. Every entry needs one, or leave the times out.")
    return _in_microseconds(time) if time.dtype.kind == "M" else time.astype(np.float64, copy=False)


def _in_microseconds(time: np.ndarray) -> np.ndarray:
    """The same moments in the same order as datetime64[us]; as [ns] where these are no whole microseconds."""
    unit, _ = np.datetime_data(time.dtype)
    if unit == "generic":
        raise DataError('time is datetime64 without a unit. Say which it counts: time.astype("datetime64[s]").')
    fine = unit in ("ns", "ps", "fs", "as")
    for target in ("datetime64[us]", "datetime64[ns]") if fine else ("datetime64[us]",):
        kept = time.astype(target, copy=False)
        changed = kept.astype(time.dtype) != time  # NumPy rounds, and wraps what is too large, without a word
        if not changed.any():
            return kept
    at = int(np.argmax(changed))
    far = "beyond the years -290,307 to 294,246, which microseconds reach. Leave it out, or give integers as times."
    below = "with digits below a nanosecond. Round the times."
    raise EntryError("time", at, f"is {time[at]}, {below if fine else far}")


def _moments(time: np.ndarray) -> np.ndarray:
    """Dates given as objects or as text in ISO format."""
    numbers = [isinstance(given, int | float) and given == given for given in time.tolist()]
    if any(numbers) and not all(numbers):
        at = numbers.index(not numbers[0])
        raise EntryError(
            "time", at, f"is {time[at]!r}, while the first is {time[0]!r}. Give numbers only, or dates only."
        )
    moments = []
    for at, given in enumerate(time.tolist()):
        try:
            moment = datetime.datetime.fromisoformat(given) if isinstance(given, str) else given
            if isinstance(moment, datetime.datetime) and moment.tzinfo is not None:
                zoned = moment.utcoffset() is not None
                moment = (moment.astimezone(datetime.UTC) if zoned else moment).replace(tzinfo=None)
        except Exception:  # no date; or one at an end of the calendar, or with a zone of someone else's
            moment = None
        if not isinstance(moment, datetime.date) or moment != moment:  # pandas.NaT is a date that differs from itself
            raise EntryError(
                "time",
                at,
                f"is {shown(given)}, but must be a date (as text in ISO format, 2001-05-01 or 2001-05-01 10:30:00), or "
                "every entry's time a number.",
            )
        # Python's own dates end at microseconds; those of pandas, and text, may go on.
        if getattr(moment, "nanosecond", 0) or (isinstance(given, str) and _BELOW.search(given)):
            raise EntryError("time", at, f"is {given!r}, with digits below a microsecond: give datetime64[ns].")
        moments.append(moment)
    return np.array(moments, "datetime64[us]")

"""Checks of the columns of entries; an error names the first wrong entry."""

import datetime
import re
from typing import Any

import numpy as np

from ..errors import DataError, EntryError, is_traced
from ..reals import refuse_masked
from . import grouping

_MAX_ENTRIES = 2**31 - 1  # int32 indices throughout
BELOW_MICROSECOND = re.compile(r"[.,]\d{6}0*[1-9]")  # digits of a second that Python passes over


def shown(value: Any) -> str:
    """A value in a message, cut where it would fill the page."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


def _column(name: str, column: Any) -> np.ndarray:
    if is_traced(column):
        raise DataError(f"{name} is traced: make the table outside of jit, vmap and grad.")
    try:
        column = np.asarray(refuse_masked(name, column))
    except DataError:
        raise
    except Exception as error:  # what a class of someone else's says to being an array
        what = "is ragged" if isinstance(column, list | tuple) else f"of type {type(column).__name__} is no array"
        raise DataError(f"{name} {what}: {str(error).rstrip('.')}. Give one {name} an entry.") from error
    if column.ndim != 1:
        raise DataError(f"{name} must be one-dimensional, got shape {column.shape}.")
    return column


def checked_ids(name: str, ids: Any, count: int | None) -> tuple[np.ndarray, int]:
    """(int32 ids, how many there may be); `count` None: the largest and one."""
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
    return grouping.cast(ids, np.int32), count


def checked_numbers(name: str, numbers: Any, dtype: Any = None) -> np.ndarray:
    """Finite numbers, as float64 where they are as wide as that, else float32; or as `dtype`."""
    numbers = _column(name, numbers)
    if numbers.dtype.kind not in "biuf":
        raise DataError(f"{name} must be real numbers, got {numbers.dtype}.")
    wide = numbers.dtype.kind == "f" and numbers.dtype.itemsize >= 8  # in either byte order
    dtype = dtype or (np.float64 if wide else np.float32)
    with np.errstate(over="ignore"):  # what does not fit becomes inf, and is refused below
        numbers = grouping.cast(numbers, dtype)
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


def checked_time(time: Any) -> np.ndarray:
    """Times as int64, float64 or datetime64[us] (or [ns]): whatever the door, the same times have the same dtype."""
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
        if getattr(moment, "nanosecond", 0) or (isinstance(given, str) and BELOW_MICROSECOND.search(given)):
            raise EntryError("time", at, f"is {given!r}, with digits below a microsecond: give datetime64[ns].")
        moments.append(moment)
    return np.array(moments, "datetime64[us]")

"""Columns of outside ids, values and times become Ratings and a Vocabulary: what data frames and files share."""

import dataclasses
import numbers
import re
import sys
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from ..errors import ArgumentError, DataError, EntryError, did_you_mean
from ..forks import check_polars
from .entries import shown
from .ratings import DuplicateEntries, Ratings
from .vocabulary import Vocabulary, empty_id, number_ids, text_array

# What columns are usually called, lower case, without blanks and underscores. Earlier names win.
USUAL = {
    "user": "userid user uid users username customerid customer reviewerid memberid visitorid",
    "item": "itemid item iid items movieid movie filmid film productid product asin isbn bookid book songid song "
    "trackid track artistid artist",
    "value": "rating ratings score value stars overall count plays playcount",
    "time": "timestamp time datetime date unixtime unixreviewtime",
    "weight": "weight weights",
}


@dataclasses.dataclass(frozen=True)
class SourceTable:
    """Columns as they were read, with their names for messages.

    Attributes:
        source: "ratings.csv", "the data frame".
        labels: by role, "column 'rating'".
        columns: by role; without values, every one is 1; ids may come as (known, rows), already numbered.
        place: where an entry is found: "line 7", "row 5".
    """

    source: str
    labels: dict[str, str]
    columns: dict[str, Any]
    place: Callable[[int], str]

    def error(self, role: str, entry: int, problem: str) -> DataError:
        return DataError(f"{self.source}, {self.place(entry)}, {self.labels[role]} {problem}")


def assemble(table: SourceTable, duplicates: str) -> tuple[Ratings, Vocabulary]:
    """The table's entries, checked, with their ids numbered.

    Raises:
        DataError: naming source, place and column of the first field that is wrong, or both places of a duplicate.
    """
    known, rows = {}, {}
    for role in ("user", "item"):
        ids = table.columns[role]
        try:
            ids = ids if isinstance(ids, tuple) else number_ids(f"{table.source}: the ids in {table.labels[role]}", ids)
        except EntryError as error:
            raise table.error(role, error.entry, error.problem) from None
        known[role], rows[role] = ids
    value = table.columns.get("value")
    if value is None:
        value = np.ones(len(rows["user"]), np.float32)
    weight, time = table.columns.get("weight"), table.columns.get("time")
    sizes = {"num_users": len(known["user"]), "num_items": len(known["item"])}
    try:
        ratings = Ratings.from_arrays(**rows, value=value, weight=weight, time=time, duplicates=duplicates, **sizes)
    except EntryError as error:
        if error.column not in table.labels:
            raise DataError(f"{table.source}: {error}") from None
        raise table.error(error.column, error.entry, error.problem) from None
    except DuplicateEntries as error:
        user, item = (known[role].item(rows[role][error.first]) for role in ("user", "item"))
        raise DataError(
            f"{table.source}: {error.count:,} duplicate entries; the first: user {shown(user)}, item {shown(item)} in "
            f'{table.place(error.first)} and {table.place(error.second)}. Merge them with duplicates="last", "mean" '
            'or "sum".'
        ) from None
    except DataError as error:
        raise DataError(f"{table.source}: {error}") from error
    return ratings, Vocabulary(known["user"], known["item"])


def missing_column(source: str, name: Any, names: list[Any]) -> DataError:
    """The error for a column that is not there."""
    known = ", ".join(map(repr, names)) or "none"
    return DataError(f"{source} has no column {name!r}.{did_you_mean(name, names)} Its columns are {known}.")


def table_of_frame(df: Any, wanted: dict[str, Any], source: str = "the data frame") -> SourceTable:
    """The columns of a pandas, polars or pyarrow table, or of anything else that narwhals knows; `wanted` as for
    `chosen_columns`, where a name may be whatever the table has for names."""
    try:
        import narwhals as nw
    except ImportError as missing:
        raise ImportError('Data frames are read by the extra "tables": pip install "jals[tables]"') from missing
    try:
        frame: Any = nw.from_native(df)
        present = frame.collect_schema().names()
    except ImportError:  # of what collects another library's tables
        raise
    except TypeError:
        raise DataError(
            f"expected a pandas, polars or pyarrow table, got {type(df).__name__}. "
            "For plain arrays use Ratings.from_arrays(user, item, value)."
        ) from None
    except _failures() as error:  # each library has its own; two columns of one name, mostly
        raise DataError(f"{source} cannot be read: {first_line(error)}") from error
    if frame.implementation.is_polars():
        polars()
    chosen = chosen_columns(source, wanted, present, len(present))
    places = sorted(set(chosen.values()))
    try:
        frame = frame.select(nw.nth(*places))
        frame = frame.collect() if isinstance(frame, nw.LazyFrame) else frame
    except ImportError:
        raise
    except _failures() as error:  # the plan behind it may fail in any way
        raise DataError(f"{source} cannot be read: {first_line(error)}") from error
    if not len(frame):
        raise DataError(f"{source} has no rows: there is no entry to learn from.")
    labels = {role: f"column {present[place]!r}" for role, place in chosen.items()}
    table = SourceTable(source, labels, {}, "row {}".format)
    for role, place in chosen.items():
        try:
            table.columns[role] = _column(nw, table, role, frame[:, places.index(place)])
        except EntryError as error:
            raise table.error(role, error.entry, error.problem) from None
        except DataError:
            raise
        except _failures() as error:  # types that the libraries do not agree upon
            raise DataError(f"{source}: {labels[role]} cannot be read: {first_line(error)} Cast it first.") from error
    return table


def _failures() -> tuple[type[BaseException], ...]:
    """What other libraries raise. A panic of polars is not even an Exception."""
    loaded = sys.modules.get("polars")
    return (Exception,) if loaded is None else (Exception, loaded.exceptions.PanicException)


def _column(nw: Any, table: SourceTable, role: str, series: Any) -> Any:
    empty = series.is_null()
    if empty.any():
        raise EntryError(role, int(np.argmax(empty.to_numpy())), "is empty. Drop such rows first.")
    dtype, needed = series.dtype, None
    if role in ("user", "item"):
        if dtype == nw.String and series.implementation.is_polars():
            return text_codes(series.to_native(), f"{table.source}: the ids in {table.labels[role]}")
        if not (dtype.is_integer() or dtype in (nw.String, nw.Categorical, nw.Enum, nw.Object)):
            needed = "integers or text"
    elif dtype.is_decimal():
        series = series.cast(nw.Float64)
    elif role != "time":
        if not (dtype.is_numeric() or dtype == nw.Boolean):
            needed = "numbers"
    elif dtype == nw.Datetime:
        if dtype.time_zone is not None:
            series = series.dt.convert_time_zone("UTC").dt.replace_time_zone(None)
    elif not (dtype.is_numeric() or dtype in (nw.Date, nw.String, nw.Object)):
        needed = "numbers or dates"
    if needed is None and dtype in (nw.Int128, nw.UInt128):
        needed = "what NumPy can hold"
    if needed is None:
        try:
            return series.to_numpy()
        except Exception:  # other types that NumPy has not
            needed = "what NumPy can hold"
    example = "" if dtype.is_temporal() else f"such as {shown(series.head(1).to_list()[0])}, "
    raise DataError(
        f"{table.source}: {table.labels[role]} holds {dtype}, {example}but must hold {needed}. Cast it first."
    )


def text_codes(series: Any, what: str) -> tuple[np.ndarray, np.ndarray]:
    """`number_ids` for a polars series of strings without nulls: no Python object is made an entry."""
    import polars as pl

    distinct = series.unique().sort()
    if distinct[0] == "":
        raise empty_id(what, (series == "").arg_max())
    if distinct.str.ends_with("\0").any():
        return number_ids(what, distinct.to_numpy())  # which has the words for it
    return text_array(distinct.to_list()), series.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int32)


def _plain(name: Any) -> str:
    return re.sub(r"[\s_\-.]", "", name).lower() if isinstance(name, str) else ""


def _same(name: Any, column: Any) -> bool:
    try:
        return name is column or bool(name == column)
    except Exception:  # an expression of polars, an array: equal to nothing that is a name
        return False


def is_usual(name: str) -> bool:
    """Whether a column of ratings is often called so."""
    return any(_plain(name) in names.split() for names in USUAL.values())


def chosen_columns(source: Any, wanted: dict[str, Any], names: list[Any] | None, width: int) -> dict[str, int]:
    """The position of each role's column, which is `wanted` by name or position; None looks for the usual names, False
    wants none. `names` is None where the file has no header."""
    listed = f"its columns are {', '.join(map(repr, names))}" if names else f"it has {width} columns and no header"
    usual = [_plain(name) for name in names or ()]
    by_number = any(isinstance(name, numbers.Integral) for name in names or ())
    chosen = {}
    for role, column in wanted.items():
        if column is False:
            continue
        if column is None:
            found = [names[usual.index(name)] for name in USUAL[role].split() if name in usual] if names else []
            if not found:
                continue
            column = found[0]
        if not isinstance(column, Hashable):
            raise ArgumentError(f"{role} is {column!r}, but must be a column's name or its position, from 0.")
        twins = [place for place, name in enumerate(names or ()) if _same(name, column)]
        if len(twins) > 1:
            raise DataError(f"{source} has two columns {column!r}: give the position of {role}, from 0.")
        if twins:
            chosen[role] = twins[0]
        elif isinstance(column, int) and not by_number:
            if not 0 <= column < width:
                raise DataError(f"{source}: there is no column {column} for {role}; counted from 0, {listed}.")
            chosen[role] = column
        elif names is None:
            raise DataError(f"{source} has no header: give the position of {role}, from 0, in place of {column!r}.")
        else:
            raise missing_column(source, column, names)
    if names is None:
        for place, role in enumerate(("user", "item", "value", "time")):
            if wanted[role] is None and place < width and (role != "time" or place not in chosen.values()):
                chosen[role] = place
    for role in ("user", "item", "value"):
        optional = role == "value" and (wanted[role] is False or width == 2)
        if role not in chosen and not optional:
            hint = " (value=False: every value is 1)" if role == "value" else ""
            raise DataError(f"{source}: no column looks like {role}; {listed}. Pass {role}=, a name or position{hint}.")
    for role in ("item", "value"):
        if chosen.get(role) in [chosen[other] for other in ("user", "item") if other != role]:
            same = next(other for other in ("user", "item") if other != role and chosen[other] == chosen[role])
            raise DataError(f"{source}: {same} and {role} are both column {chosen[role]}. Name one for each; {listed}.")
    return chosen


def polars(needs: str = "Tables in files are read by") -> Any:
    """polars, ready to work in this process.

    Raises:
        ImportError: where it is not installed; `needs` says what for.
        ForkError: where its threads stayed in a parent process.
    """
    try:
        import polars
    except ImportError as missing:
        raise ImportError(f'{needs} the extra "tables": pip install "jals[tables]"') from missing
    check_polars(polars.thread_pool_size)
    return polars


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300].rstrip(".:") + "."

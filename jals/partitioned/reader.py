"""A partitioned table in memory: the ratings that were partitioned, in their order."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.frames import first_line, polars
from ..data.ratings import Ratings
from ..data.vocabulary import Vocabulary, text_array
from ..errors import DataError, StorageError
from .manifest import MOST, NAME, SIDES, Manifest

_INTEGERS = ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
_FLOATS = ("Float32", "Float64")


def read(manifest: Manifest) -> tuple[Ratings, Vocabulary | None]:
    """(ratings, vocab) from the files of the user side and those of the rows, each field checked. The entries are in
    the order of the input, or of user and item where the table does not know it; vocab is None where there are no ids.

    Raises:
        DataError: naming file, shard and row of the first field that cannot be, or of a pair that is there twice.
        StorageError: for a file that cannot be read, or lacks a column; where rows are missing or two have one place.
    """
    if manifest.entries > MOST:
        raise DataError(
            f"{manifest.folder} holds {manifest.entries:,} entries, but a problem in memory has fewer than 2**31."
        )
    known, row_at = zip(*(row_places(manifest, side) for side in SIDES), strict=True)
    files = manifest.shard_files("user")
    counts = [sum(_height(path) for path in each) for each in files]
    for shard, (count, said) in enumerate(zip(counts, manifest.user.entries or counts, strict=True)):
        if count != said:
            raise StorageError(
                f"{manifest.folder}: shard {shard} of the user side holds {count:,} entries, but {NAME} says {said:,}."
            )
    if sum(counts) != manifest.entries:
        raise StorageError(
            f"{manifest.folder}: the shards of the user side hold {sum(counts):,} entries, but {NAME} says "
            f"{manifest.entries:,}."
        )
    columns: dict[str, np.ndarray] = {name: np.empty(manifest.entries, np.int32) for name in SIDES}
    columns["value"] = np.empty(manifest.entries, manifest.value)
    if manifest.weighted:
        columns["weight"] = np.empty(manifest.entries, manifest.value)
    if manifest.ordered:
        columns["entry"] = np.empty(manifest.entries, np.int64)
    start = 0
    for shard, paths in enumerate(files):
        keys, others = [], manifest.shards * manifest.item.size
        for path in paths:
            part = entries_of(manifest, path, "user", shard)
            here = slice(start, start + len(part["row"]))
            columns["user"][here] = row_at[0][shard * manifest.user.size + part["row"]]
            columns["item"][here] = row_at[1][part["other"]]
            for role in ("user", "item"):
                wrong = columns[role][here] < 0
                refuse(path, "user", shard, role, columns[role][here], wrong, "is no row's place")
            for role in ("value", "weight", "entry"):
                if role in columns:
                    columns[role][here] = part[role]
            keys.append(part["row"].astype(np.int64) * others + part["other"])
            start = here.stop
        _refuse_twice(manifest, shard, np.concatenate([*keys, np.empty(0, np.int64)]), row_at, known)
    order = _order(manifest, columns)
    ratings = Ratings(
        columns["user"][order],
        columns["item"][order],
        columns["value"][order],
        columns["weight"][order] if manifest.weighted else None,
        None,
        np.arange(manifest.entries, dtype=np.int32),
        manifest.user.rows,
        manifest.item.rows,
    )
    return ratings, None if known[0] is None or known[1] is None else Vocabulary(known[0], known[1])


Places = dict[str, tuple[np.ndarray | None, np.ndarray]]  # `row_places` of each side


def read_shard(
    manifest: Manifest, side: str, shard: int, paths: list[Path], places: Places
) -> dict[str, np.ndarray]:
    """The entries of one shard, which these files hold, each field checked: `row` int32, the place in the shard,
    `other` int32, the other side's row in the ratings, `value`, and `weight` where there is one.

    Raises:
        DataError, StorageError: as `read`; pairs that are there twice are looked for on the user side.
    """
    opposite = "item" if side == "user" else "user"
    own_rows, other_rows = (places[name][1] for name in (side, opposite))
    first, parts, keys = shard * getattr(manifest, side).size, [], []
    for path in paths:
        part = entries_of(manifest, path, side, shard, ordered=False)
        keys.append(part["row"].astype(np.int64) * len(other_rows) + part["other"])
        here = own_rows[first + part["row"]]
        refuse(path, side, shard, "row", part["row"], here < 0, "is no row's place")
        other = other_rows[part["other"]]
        refuse(path, side, shard, "other", part["other"], other < 0, "is no row's place")
        parts.append(part | {"row": part["row"].astype(np.int32), "other": other})
    nothing = {"row": np.int32, "other": np.int32, "value": manifest.value}
    nothing |= {"weight": manifest.value} if manifest.weighted else {}
    if side == "user" and keys:
        known, row_at = zip(places["user"], places["item"], strict=True)
        _refuse_twice(manifest, shard, np.concatenate(keys), row_at, known)
    said = getattr(manifest, side).entries
    found = sum(len(part["row"]) for part in parts)
    if said is not None and found != said[shard]:
        raise StorageError(
            f"{manifest.folder}: shard {shard} of the {side} side holds {found:,} entries, but {NAME} says "
            f"{said[shard]:,}."
        )
    return {name: np.concatenate([np.empty(0, of), *(part[name] for part in parts)]) for name, of in nothing.items()}


def _order(manifest: Manifest, columns: dict[str, np.ndarray]) -> np.ndarray:
    if not manifest.ordered:
        return np.lexsort((columns["item"], columns["user"]))
    entry = columns.pop("entry")
    low, high = int(entry.min()), int(entry.max())
    if high - low < 2 * len(entry):  # few gaps: each number's place is written where it belongs
        order = np.full(high - low + 1, -1, np.int32)
        order[entry - low] = np.arange(len(entry), dtype=np.int32)
        order = order[order >= 0]
        if len(order) == len(entry):
            return order
    order = np.argsort(entry, kind="stable")
    ordered = entry[order]
    again = ordered[1:] == ordered[:-1]
    if again.any():
        twice = ordered[1:][again][0]
        raise DataError(f"{manifest.folder}: two entries of the user side have the number {twice} in column entry.")
    return order


def row_places(manifest: Manifest, side: str) -> tuple[np.ndarray | None, np.ndarray]:
    """(the outside ids by row, or None; the row at each place, -1 where there is none)."""
    said = getattr(manifest, side)
    if said.rows > MOST:
        raise DataError(f"{manifest.folder} has {said.rows:,} {side}s, but a problem in memory has fewer than 2**31.")
    where = f"{manifest.folder}/rows/{side}"
    names = ("row", "shard", "place") if said.ids is None else ("row", "shard", "place", "id")
    paths = manifest.row_files(side)
    if not paths:
        raise StorageError(f"{where} has no Parquet file, but must say which {side} stands at which place.")
    parts = [_columns(path, names) for path in paths]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in names}
    row, shard, place = (columns[name] for name in ("row", "shard", "place"))
    for name, most in (("row", said.rows), ("shard", manifest.shards), ("place", said.size)):
        numbers = columns[name]
        wrong = (numbers < 0) | (numbers >= most)
        if wrong.any():
            raise StorageError(f"{where}: {name} {numbers[wrong.argmax()]} is not below {most:,}, as {NAME} says.")
    if len(row) != said.rows or len(np.unique(row)) != len(row):
        raise StorageError(f"{where} has {len(row):,} rows, but must have each of {said.rows:,} once.")
    at = shard.astype(np.int64) * said.size + place
    row_at = np.full(manifest.shards * said.size, -1, np.int32)
    row_at[at] = row
    if np.count_nonzero(row_at >= 0) < len(row):
        raise StorageError(f"{where} has two {side}s at one place of a shard.")
    if said.ids is None:
        return None, row_at
    ids = columns["id"][np.argsort(row)]
    if (ids.dtype == np.int64) != (said.ids == "int64"):
        raise StorageError(f"{where}: the ids are not {said.ids}, as {NAME} says.")
    wrong = ids[1:] <= ids[:-1]
    if wrong.any():
        at = int(wrong.argmax())
        pair = f"row {at + 1} has {ids[at + 1]!r} after {ids[at]!r}"
        raise StorageError(f"{where}: ids must increase with the row, but {pair}.")
    return ids if said.ids == "int64" else text_array(ids.tolist()), row_at


def entries_of(
    manifest: Manifest, path: Path, side: str, shard: int, ordered: bool = True
) -> dict[str, np.ndarray]:
    """The columns of one file of a side's shard, each field checked by itself: `row`, `other`, `value`, and where there
    are any `weight` and, unless not `ordered`, `entry`.

    Raises:
        DataError: naming file, shard and row of the first field that cannot be.
        StorageError: for a file that cannot be read, or lacks a column.
    """
    numbered = manifest.ordered and ordered and side == "user"
    optional = [name for name, there in (("weight", manifest.weighted), ("entry", numbered)) if there]
    columns = _columns(path, ("row", "other", "value", *optional))
    own, opposite = (manifest.user, manifest.item) if side == "user" else (manifest.item, manifest.user)
    for name, most in (("row", own.size), ("other", manifest.shards * opposite.size)):
        numbers = columns[name]
        wrong = (numbers < 0) | (numbers >= most)
        refuse(path, side, shard, name, numbers, wrong, f"must be from 0 to {most - 1:,}")
    for name in ("value", "weight"):
        if name in columns:
            numbers = columns[name]
            refuse(path, side, shard, name, numbers, ~np.isfinite(numbers), "must be finite")
            if name == "weight":
                refuse(path, side, shard, name, numbers, numbers < 0, "must be >= 0")
    return columns


def refuse(path: Path, side: str, shard: int, name: str, numbers: Any, wrong: Any, need: str) -> None:
    """Raises DataError for the first number of a file's column that is wrong."""
    if wrong.any():
        at = int(wrong.argmax())
        raise DataError(f"{path} (shard {shard} of the {side} side), row {at}: {name} is {numbers[at]}, but {need}.")


def _refuse_twice(manifest: Manifest, shard: int, keys: np.ndarray, row_at: Any, known: Any) -> None:
    """Refuses a pair that a shard has twice; `keys` hold the place in the shard and that of the other side."""
    if (keys[1:] > keys[:-1]).all():  # as jals writes them
        return
    keys.sort()
    again = keys[1:] == keys[:-1]
    if again.any():
        row, other = divmod(int(keys[1:][again][0]), manifest.shards * manifest.item.size)
        pair = row_at[0][shard * manifest.user.size + row], row_at[1][other]
        named = [number if ids is None else ids[number] for number, ids in zip(pair, known, strict=True)]
        raise DataError(
            f"{manifest.folder}: shard {shard} of the user side has user {named[0]!r}, item {named[1]!r} twice. Merge "
            "duplicates before the table is written."
        )


def _height(path: Path) -> int:
    """How many entries a file holds."""
    return _collected(path, lambda scanned: scanned.select(polars().len())).item()


def _columns(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Columns of one file, without nulls: integers, floats, or for ids integers or objects that are str."""
    frame = _collected(path, lambda scanned: scanned.select(names))
    arrays = {}
    for name in names:
        kind = str(frame[name].dtype)
        fits = _FLOATS if name in ("value", "weight") else (*_INTEGERS, "String") if name == "id" else _INTEGERS
        if kind not in fits:
            raise StorageError(f"{path}: column {name!r} holds {kind}, but must hold one of {', '.join(fits)}.")
        if frame[name].null_count():
            row = int(frame[name].is_null().arg_max())
            raise DataError(f"{path}, row {row}: {name} is empty.")
        array = frame[name].to_numpy()
        arrays[name] = array.astype(np.int64) if name == "id" and kind != "String" else array
    return arrays


def _collected(path: Path, of: Callable[[Any], Any]) -> Any:
    """What is asked of a file."""
    pl = polars("Partitioned tables are read by")
    try:
        return of(pl.scan_parquet(path, glob=False, hive_partitioning=False)).collect()
    except FileNotFoundError:
        raise StorageError(f"{path} is missing. Copy the table again, or partition its source again.") from None
    except pl.exceptions.ColumnNotFoundError as error:
        raise StorageError(f"{path} lacks a column: {first_line(error)}") from error
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise StorageError(f"{path} is damaged, or not a Parquet file: {first_line(error)} Copy it again.") from error

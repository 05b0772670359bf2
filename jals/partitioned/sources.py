"""What a table is partitioned from: Parquet files are read by DuckDB where they are, everything else is written as
Parquet first, in pieces, by the readers that `jals.read_ratings` has."""

import bisect
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..data.entries import checked_numbers
from ..data.frames import SourceTable, chosen_columns, first_line, polars
from ..data.ratings import Ratings
from ..data.readers import Reading, read_table
from ..data.sources import open_file
from ..data.text import Text, text_table
from ..data.vocabulary import number_ids
from ..errors import DataError, EntryError

SIDES, ROLES = ("user", "item"), ("user", "item", "value", "weight")
_PIECE = 4 << 20  # bytes of text read together
_SLICE = 1 << 20  # entries written together
_EXACT = 1 << 24  # whole numbers up to this one are float32
_INTEGERS = {f"{sign}{size}INT" for sign in ("", "U") for size in ("TINY", "SMALL", "BIG")} | {"INTEGER", "UINTEGER"}
_SAID = "said.json"
_ORDERS = {"row": "row {}".format, "entry": "entry {}".format}


class Part(NamedTuple):
    """A file of the source.

    Attributes:
        table: its names, for messages; no columns.
        files: Parquet files that hold its entries in order, and how many each holds.
        schema: the columns of these files and DuckDB's types of them.
        columns: by role, the column's name there.
        wide: whether its values are float64.
    """

    table: SourceTable
    files: list[tuple[Path, int]]
    schema: tuple[tuple[str, str], ...]
    columns: dict[str, str]
    wide: bool

    def kind(self, role: str) -> str:
        return dict(self.schema)[self.columns[role]]

    @property
    def rows(self) -> int:
        return sum(rows for _, rows in self.files)


class Source(NamedTuple):
    """All that is read, as one table for DuckDB.

    Attributes:
        parts: the files.
        starts: the number of the first entry of each.
        ids: by side, "int64" or "text".
        counts: by side, how many rows there are, where that is known beforehand: ids are row numbers then.
    """

    parts: list[Part]
    starts: list[int]
    ids: dict[str, str]
    counts: dict[str, int] | None

    @property
    def value(self) -> str:
        return "float64" if any(part.wide for part in self.parts) else "float32"

    def error(self, entry: int, role: str, problem: str) -> DataError:
        part, row = self.found(entry)
        return part.table.error(role, row, problem)

    def place(self, entry: int) -> str:
        """Where an entry stands, in words."""
        part, row = self.found(entry)
        return f"{part.table.source}, {part.table.place(row)}"

    def found(self, entry: int) -> tuple[Part, int]:
        at = bisect.bisect_right(self.starts, entry) - 1
        return self.parts[at], entry - self.starts[at]

    def sql(self) -> str:
        """The entries: user, item, value and weight (1 where there are none), NULL where a number is none or does not
        fit, and `entry`, their number in the order of the input."""
        number = "DOUBLE" if self.value == "float64" else "FLOAT"
        selects = []
        with_starts = zip(self.parts, self.starts, strict=True)
        for _, group in itertools.groupby(with_starts, lambda pair: (pair[0].schema, pair[0].columns)):
            members = list(group)
            part = members[0][0]
            paths, begins = [], []
            for member, start in members:
                for path, rows in member.files:
                    paths.append(quoted_path(path))
                    begins.append(str(start))
                    start += rows
            columns = []
            for role in ROLES:
                raw = f"{_name(part.columns[role])}" if role in part.columns else "1"
                to = number if role not in SIDES else "BIGINT" if self.ids[role] == "int64" else "VARCHAR"
                columns.append(f"TRY_CAST({raw} AS {to}) AS {_name(role)}")
            begin = f"list_extract(CAST([{', '.join(begins)}] AS BIGINT[]), CAST(file_index AS BIGINT) + 1)"
            read = f"read_parquet([{', '.join(paths)}], hive_partitioning=false)"
            selects.append(f"SELECT {', '.join(columns)}, {begin} + file_row_number AS entry FROM {read}")
        return "\nUNION ALL ".join(selects)

    def raw(self, connection: Any, entry: int, role: str) -> Any:
        """A field as the file has it."""
        part, row = self.found(entry)
        for path, rows in part.files:
            if row < rows:
                column = _name(part.columns[role])
                query = f"SELECT {column} FROM read_parquet({quoted_path(path)}) WHERE file_row_number = {row}"
                return connection.execute(query).fetchone()[0]
            row -= rows
        raise AssertionError(entry)


def quoted_path(path: Path) -> str:
    """A path as SQL, in which nothing stands for other names."""
    text = str(path).replace("'", "''")
    for mark in "[*?":
        text = text.replace(mark, f"[{mark}]")
    return f"'{text}'"


def _name(column: str) -> str:
    return '"' + column.replace('"', '""') + '"'


def listed(path: Path) -> list[Path]:
    """The files of a source: itself, or all in the folder, sorted, but for those whose names begin with . or _, which
    other programs leave for themselves."""
    if not path.is_dir():
        return [path]
    found = sorted(each for each in path.rglob("*") if each.is_file())
    found = [each for each in found if not any(name[0] in "._" for name in each.relative_to(path).parts)]
    if not found:
        raise DataError(f"{path} is a folder without files: there is no entry to learn from.")
    return found


def of_ratings(connection: Any, ratings: Ratings, once: Callable) -> Source:
    """A table that is in memory."""
    columns = {role: getattr(ratings, role) for role in ROLES if getattr(ratings, role) is not None}
    for side in SIDES:
        columns[side] = np.arange(getattr(ratings, f"num_{side}s"), dtype=np.int64), columns[side]
    table = SourceTable("the ratings", {role: role for role in columns}, columns, _ORDERS["entry"])
    part = _staged(connection, once, "source/00000", lambda folder: _write_table(table, folder), table.place)
    counts = {side: getattr(ratings, f"num_{side}s") for side in SIDES}
    return Source([part], [0], dict.fromkeys(SIDES, "int64"), counts)


def of_files(connection: Any, path: Path, reading: Reading, once: Callable) -> Source:
    """A file, or the files in a folder, of which each may be of another kind.

    Raises:
        DataError: for a file that cannot be read, or whose ids are of another kind than those of the first.
    """
    parts = []
    for at, file in enumerate(listed(path)):
        kind, content, _ = open_file(file)
        if kind == "Parquet" and content is None:
            parts.append(_parquet(connection, file, reading))
            continue

        def make(folder: Path, file: Path = file) -> None:
            _write_file(file, reading, folder)

        def place(entry: int, file: Path = file) -> str:
            return reading.text(file, *open_file(file)[1:]).place(entry)

        parts.append(_staged(connection, once, f"source/{at:05d}", make, place if kind == "text" else None))
    starts = list(itertools.accumulate((part.rows for part in parts), initial=0))
    if not starts[-1]:
        raise DataError(f"{path} has no rows: there is no entry to learn from.")
    ids = {side: _kind_of_ids(parts, side, reading.ids[side]) for side in SIDES}
    return Source(parts, starts[:-1], ids, None)


def _kind_of_ids(parts: list[Part], side: str, wanted: str) -> str:
    kinds = ["int64" if part.kind(side) in _INTEGERS else "text" for part in parts]
    if wanted == "str":
        return "text"
    for part, kind in zip(parts, kinds, strict=True):
        if kind != kinds[0]:
            first = parts[0].table
            words = {"int64": "integers", "text": "text"}
            raise DataError(
                f"{part.table.source}: {part.table.labels[side]} holds {words[kind]}, but {first.labels[side]} of "
                f'{first.source} {words[kinds[0]]}. Where all are text, pass ids="str".'
            )
        if wanted == "int" and kind != "int64":
            raise DataError(
                f"{part.table.source}: {part.table.labels[side]} holds no integers. Leave the kind of ids to be found."
            )
    return kinds[0]


def _parquet(connection: Any, path: Path, reading: Reading) -> Part:
    read = f"read_parquet({quoted_path(path)}, hive_partitioning=false)"
    try:
        described = connection.execute(f"DESCRIBE SELECT * FROM {read}").fetchall()
        rows = connection.execute(f"SELECT num_rows FROM parquet_file_metadata({quoted_path(path)})").fetchone()[0]
    except connection_error() as error:
        raise DataError(f"{path} is damaged, or not a Parquet file: {first_line(error)} Fetch it again.") from error
    schema = tuple((name, kind) for name, kind, *_ in described)
    names = [name for name, _ in schema]
    chosen = chosen_columns(path, reading.wanted, names, len(names))
    columns = {role: names[place] for role, place in chosen.items() if role in ROLES}
    labels = {role: f"column {name!r}" for role, name in columns.items()}
    for role, name in columns.items():
        kind = dict(schema)[name]
        fits, need = kind in _INTEGERS or kind == "VARCHAR" or kind.startswith("ENUM"), "integers or text"
        if role not in SIDES:
            fits, need = kind in (*_INTEGERS, "BOOLEAN", "FLOAT", "DOUBLE") or kind.startswith("DECIMAL"), "numbers"
        if not fits:
            raise DataError(f"{path}: {labels[role]} holds {kind}, but must hold {need}. Cast it first.")
    wide = dict(schema).get(columns.get("value", ""), "").startswith(("DOUBLE", "DECIMAL"))
    return Part(SourceTable(str(path), labels, {}, _ORDERS["row"]), [(path, rows)], schema, columns, wide)


def connection_error() -> type[Exception]:
    """What DuckDB raises."""
    import duckdb

    return duckdb.Error


def _staged(connection: Any, once: Callable, name: str, make: Callable, place: Callable | None) -> Part:
    """The part that `make` has written as Parquet."""
    folder = once(name, make)
    said = json.loads((folder / _SAID).read_bytes())
    files = sorted(folder.glob("*.parquet"))
    listing = ", ".join(map(quoted_path, files))
    query = f"SELECT num_rows FROM parquet_file_metadata([{listing}]) ORDER BY file_name"
    counts = [rows for (rows,) in connection.execute(query).fetchall()]
    described = connection.execute(f"DESCRIBE SELECT * FROM read_parquet({quoted_path(files[0])})").fetchall()
    schema = tuple((column, kind) for column, kind, *_ in described)
    table = SourceTable(said["source"], said["labels"], {}, place or _ORDERS[said["order"]])
    columns = {role: role for role, _ in schema}
    return Part(table, list(zip(files, counts, strict=True)), schema, columns, said["wide"])


def _write_file(path: Path, reading: Reading, folder: Path) -> None:
    kind, content, start = open_file(path)
    if kind == "text" and _write_pieces(reading.text(path, content, start), folder):
        return
    for found in folder.iterdir():
        found.unlink()
    _write_table(read_table(path, reading), folder)


def _write_pieces(text: Text, folder: Path) -> bool:
    """Writes a text file without holding it. False where only the whole tells what it is: ids of digits with zeros
    before them, lines that are not regular, and whatever is wrong, which is then found with its line."""
    wide, exact, table = False, True, None
    try:
        for at, piece in enumerate(text.pieces(_PIECE)):
            table = text_table(piece)
            for side in SIDES:
                integers, expected = table.columns[side][0].dtype == np.int64, text.kinds[side]
                if expected == "padded ids" or integers != (expected in ("integer ids", "any integers")):
                    return False
            value = table.columns.get("value")
            if value is not None:  # float32 where all of the piece are whole
                wide |= value.dtype == np.float64
                exact &= value.dtype == np.float64 or bool((np.abs(value) <= _EXACT).all())
                table.columns["value"] = value.astype(np.float64)
            _write_slices(table, folder, at)
    except DataError:
        return False
    if table is None or (wide and not exact):
        return False
    _say(folder, str(text.path), text.labels, wide)
    return True


def _write_table(table: SourceTable, folder: Path) -> None:
    """Writes a table that is in memory, with its numbers checked as far as a column alone tells."""
    for side in SIDES:
        ids = table.columns[side]
        if isinstance(ids, np.ndarray) and ids.ndim == 1 and ids.dtype.kind == "i":  # as they stand
            table.columns[side] = None, ids
            continue
        try:
            table.columns[side] = ids if isinstance(ids, tuple) else number_ids(f"{table.source}: the ids", ids)
        except EntryError as error:
            raise table.error(side, error.entry, error.problem) from None
    wide = False
    for role in ("value", "weight"):
        if role in table.columns:
            try:
                table.columns[role] = checked_numbers(role, table.columns[role])
            except EntryError as error:
                raise table.error(role, error.entry, error.problem) from None
            except DataError as error:
                raise DataError(f"{table.source}: {error}") from error
            wide |= role == "value" and table.columns[role].dtype == np.float64
    present = [role for role in ROLES if role in table.columns]
    lengths = {role: len(table.columns[role][1] if role in SIDES else table.columns[role]) for role in present}
    if len(set(lengths.values())) > 1:
        raise DataError(f"{table.source}: the columns differ in length: {lengths}. Give one value of each an entry.")
    _write_slices(table, folder, 0)
    _say(folder, table.source, table.labels, wide, table.place(0).partition(" ")[0])


def _write_slices(table: SourceTable, folder: Path, at: int) -> None:
    pl = polars()
    known: dict[str, Any] = {}
    for side in SIDES:
        ids = table.columns[side][0]
        known[side] = None if ids is None else pl.Series(ids if ids.dtype == np.int64 else ids.tolist())
    entries = len(table.columns["user"][1])
    for number, start in enumerate(range(0, entries, _SLICE)):
        here = slice(start, start + _SLICE)
        columns = {}
        for side in SIDES:
            numbers = table.columns[side][1][here]
            columns[side] = pl.Series(numbers.astype(np.int64)) if known[side] is None else known[side].gather(numbers)
        columns |= {role: table.columns[role][here] for role in ("value", "weight") if role in table.columns}
        pl.DataFrame(columns).write_parquet(folder / f"{at:06d}-{number:06d}.parquet")


def _say(folder: Path, source: str, labels: dict[str, str], wide: bool, order: str = "entry") -> None:
    said = {"source": source, "labels": labels, "wide": bool(wide), "order": order}
    (folder / _SAID).write_text(json.dumps(said), encoding="utf-8")

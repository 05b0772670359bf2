"""Ratings tables out of files: csv, tsv, MovieLens `::`, Parquet and npz, checked on the way in.

sources.py opens the file and finds what is in it, text.py reads the text formats, this module the others.
"""

import base64
import io
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import ArgumentError, DataError, check_choice
from . import grouping
from .frames import SourceTable, assemble, chosen_columns, first_line, polars, table_of_frame
from .ratings import DUPLICATES, Ratings
from .sources import as_path, open_file
from .text import Text, open_text, text_table
from .vocabulary import Vocabulary

_ARROW = b"ARROW:schema"  # under which name writers of Parquet leave what its own types do not say
_OFFSET = re.compile(rb"[\x03\x05\x06]\0\0\0[+-]\d\d(?!:00)(:?\d\d)?\0")  # a time zone like +07:30 in it


def read_ratings(
    path: Any,
    user: Any = None,
    item: Any = None,
    value: Any = None,
    time: Any = None,
    weight: Any = None,
    *,
    delimiter: str | None = None,
    header: bool | None = None,
    quoted: bool | None = None,
    ids: Any = "auto",
    duplicates: str = "error",
) -> tuple[Ratings, Vocabulary]:
    """Ratings, and the outside ids of their rows, from a file.

    The format is found in the file itself: text with any single-character delimiter (tab, comma, semicolon, bar and
    blank are found alone) or MovieLens' `::`; Parquet; npz, by the names of its arrays. Each may be packed by gzip,
    bzip2 or xz (by Zstandard from Python 3.14 on), or be the only file in a zip archive. npz needs NumPy alone, the
    others the extra `tables`.

    Text is read by the rule of Python's csv module, and every record has to have the same number of fields, whether or
    not they are used: what is read is what was there, or the line is named. docs/data.md has the dialects.

    Args:
        path: the file; `~` is the home folder.
        user, item, value, time, weight: the column's name, or its position from 0. None looks for the usual names
            (userId, movie_id, rating, timestamp, ...), whatever their case; in text without a header the first three
            columns are user, item and value, and the fourth is the time. False for value, time or weight leaves the
            column out. Without a column of values (left out, or a file of two columns) every value is 1.
        delimiter: one character or "::", where it is not found, or several would do.
        header: whether the first record names the columns; None finds out, by names and numbers.
        quoted: False where quotes in text are characters like others; None and True: a field may stand "in quotes".
        ids: what outside ids are in text: "auto" reads a column of integers as int64 and a column without any as text.
            Digits with zeros or a plus before them (007) make text of a column of digits. A column that mixes integers
            with other texts is refused, or one with both 7 and 007. "int" (007 is 7) and "str" say which; a pair of
            these says so for users and items. Columns of Parquet and npz have types already, where "str" makes text of
            integers.
        duplicates: as in `Ratings.from_arrays`.

    Returns:
        (ratings, vocab): entries in the order of the file; `vocab.user[ratings.user]` is the column of users. Numbers
        in text are float64 unless all of a column are integers; what becomes of them, and of times, says
        `Ratings.from_arrays`: text, data frames and arrays of the same numbers give the same table.

    Raises:
        DataError: naming file, line (or row, from 0) and column of the first wrong field, and what to do.
        ArgumentError: for an argument that no file could fit.
        ImportError: without the extra `tables`.
    """
    check_choice("duplicates", duplicates, DUPLICATES)
    wanted = {"user": user, "item": item, "value": value, "time": time, "weight": weight}
    return assemble(read_table(as_path(path), Reading.checked(wanted, delimiter, header, quoted, ids)), duplicates)


class Reading(NamedTuple):
    """What a caller says of a file: the arguments of `read_ratings`, the columns by role."""

    wanted: dict[str, Any]
    delimiter: str | None
    header: bool | None
    quoted: bool | None
    ids: dict[str, str]

    @classmethod
    def checked(cls, wanted: dict[str, Any], delimiter: Any, header: Any, quoted: Any, ids: Any) -> "Reading":
        """Raises ArgumentError for what no file could fit."""
        pair = (ids, ids) if isinstance(ids, str) else ids
        if not isinstance(pair, list | tuple) or len(pair) != 2 or not set(pair) <= {"auto", "int", "str"}:
            allowed = '"auto", "int" or "str", or a pair of these: users, items'
            raise ArgumentError(f"ids is {ids!r}, but must be {allowed}.")
        for role, column in wanted.items():
            left_out = column is False and role in ("value", "time", "weight")
            position = isinstance(column, int) and not isinstance(column, bool) and column >= 0
            if not (column is None or left_out or position or isinstance(column, str)):
                raise ArgumentError(f"{role} is {column!r}, but must be a column's name or its position, from 0.")
        if delimiter is not None and delimiter != "::" and not re.fullmatch(r"[\t -!#-~]", str(delimiter)):
            raise ArgumentError(f'delimiter is {delimiter!r}, but must be "::" or one ASCII character, not a quote.')
        for name, known in (("header", header), ("quoted", quoted)):
            if known not in (None, True, False):
                raise ArgumentError(f"{name} is {known!r}, but must be True, False or None.")
        return cls(wanted, delimiter, header, quoted, {"user": pair[0], "item": pair[1]})

    def text(self, path: Path, content: bytes | None, start: bytes) -> Text:
        """The text file, what else is known of which `open_file` says."""
        return open_text(path, content, start, self.delimiter, self.header, self.quoted, self.wanted, self.ids)


def read_table(path: Path, reading: Reading) -> SourceTable:
    """A file's columns, of which `assemble` makes ratings."""
    kind, content, start = open_file(path)
    if kind == "text":
        return text_table(reading.text(path, content, start))
    table = (_parquet if kind == "Parquet" else _npz)(path, content, reading.wanted)
    for role, ids in reading.ids.items():
        table.columns[role] = _as_kind(table, role, ids)
    return table


def _npz(path: Path, content: bytes | None, wanted: dict[str, Any]) -> SourceTable:
    try:
        with (
            open(path, "rb") if content is None else io.BytesIO(content) as raw,
            np.load(raw, allow_pickle=False) as file,
        ):
            chosen = chosen_columns(path, wanted, file.files, len(file.files))
            columns = {role: _npz_column(file, file.files[place]) for role, place in chosen.items()}
            labels = {role: f"array {file.files[place]!r}" for role, place in chosen.items()}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, ast and NumPy all meet the bytes of a damaged file, each in its way
        raise DataError(f"{path} cannot be read as npz: {first_line(error)}") from error
    for role, column in columns.items():
        if not isinstance(column, np.ndarray):
            raise DataError(f"{path}: {labels[role]} is no array of NumPy; numpy.savez writes them.")
    return SourceTable(str(path), labels, columns, "entry {}".format)


def _npz_column(file: Any, name: str) -> Any:
    """An array of an npz; a column of numbers is read to where jax can take it over."""
    member = name if name in file.zip.namelist() else f"{name}.npy"
    with file.zip.open(member) as packed:
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        version = np.lib.format.read_magic(packed) if packed.peek(6)[:6] == np.lib.format.MAGIC_PREFIX else None
        shape, _, dtype = read_header[version](packed) if version in read_header else ((), False, np.dtype(object))
        if len(shape) != 1 or dtype.kind not in "iuf":
            return file[name]
        column = grouping.empty(shape, dtype)
        rest = column.view(np.uint8).data
        while len(rest) and (count := packed.readinto(rest)):
            rest = rest[count:]
        if len(rest) or packed.read(1):  # to the end, where the checksum is
            raise ValueError(f"array {name!r} holds another number of bytes than its header says.")
    return column


def _parquet(path: Path, content: bytes | None, wanted: dict[str, Any]) -> SourceTable:
    pl = polars()
    broken = (OSError, pl.exceptions.ComputeError, pl.exceptions.PanicException)
    try:
        lazy, types = _scanned(pl, path, content)
    except pl.exceptions.DuplicateError as error:
        raise DataError(f"{path} has two columns of one name: {first_line(error)} Rename one.") from error
    except (*broken, pl.exceptions.PolarsError) as error:
        raise DataError(f"{path} is damaged, or not a Parquet file: {first_line(error)} Fetch it again.") from error
    names = types.names()
    chosen = chosen_columns(path, wanted, names, len(names))
    parts = []
    for place in sorted(set(chosen.values())):
        try:
            parts.append(lazy.select(pl.nth(place)).collect())
        except (*broken, pl.exceptions.PolarsError) as error:
            what = f"{path}: column {names[place]!r}, of type {types[names[place]]}, "
            what += "is damaged" if isinstance(error, broken) else "is of no type that polars reads"
            cure = "Fetch the file again." if isinstance(error, broken) else "Write it as another."
            raise DataError(f"{what}: {first_line(error)} {cure}") from error
    frame = pl.concat(parts, how="horizontal")
    named = dict.fromkeys(wanted, False) | {role: names[place] for role, place in chosen.items()}
    return table_of_frame(frame, named, str(path))


def _scanned(pl: Any, path: Path, content: bytes | None) -> tuple[Any, Any]:
    """(lazy frame, schema). At a time zone that it does not know polars panics, in whatever column that is: without the
    schema that Arrow leaves in the footer, its moments are those of UTC, which Parquet's own types say."""
    footer = _footer(path, content)
    left = re.search(_ARROW + rb".{1,9}?([A-Za-z0-9+/=]{40,})", footer, re.DOTALL)
    if left is None or not _OFFSET.search(base64.b64decode(left[1][: len(left[1]) // 4 * 4])):
        lazy = pl.scan_parquet(path if content is None else io.BytesIO(content), glob=False)
        try:
            return lazy, lazy.collect_schema()
        except pl.exceptions.PanicException as error:
            if "time zone" not in str(error):
                raise
    whole = path.read_bytes() if content is None else content
    lazy = pl.scan_parquet(io.BytesIO(whole[: -len(footer)] + footer.replace(_ARROW, _ARROW.lower())))
    return lazy, lazy.collect_schema()


def _footer(path: Path, content: bytes | None) -> bytes:
    """The end of a Parquet file, which says what is where in it."""
    with open(path, "rb") if content is None else io.BytesIO(content) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(max(size - 8, 0))
        last = file.read()
        length = 8 + int.from_bytes(last[:4], "little")
        if last[4:] == b"PARE":
            raise DataError(f"{path} is an encrypted Parquet file. Write it without encryption.")
        if last[4:] != b"PAR1" or not 8 < length <= size - 4:
            raise DataError(f"{path} is damaged, or not a Parquet file: it does not end as one. Fetch it again.")
        file.seek(-length, io.SEEK_END)
        return file.read()


def _as_kind(table: SourceTable, role: str, kind: str) -> Any:
    """Ids of a typed column as text, where that is wanted."""
    ids: Any = table.columns[role]
    if not isinstance(ids, tuple) and ids.dtype.kind in "iu":
        return ids.astype(str) if kind == "str" else ids
    if kind == "int":
        raise DataError(f"{table.source}: {table.labels[role]} holds no integers. Leave the kind of ids to be found.")
    return ids

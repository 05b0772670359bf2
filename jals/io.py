"""Ratings tables out of files: csv, tsv, MovieLens `::`, Parquet and npz, checked on the way in.

This module opens the file and finds its format; text.py reads the text formats.
"""

import gzip
import io
import re
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .errors import ArgumentError, DataError, check_choice
from .frames import Table, assembled, chosen_columns, first_line, polars, table_of_frame
from .ratings import _DUPLICATES, Ratings
from .text import read_text
from .vocabulary import Vocabulary

_PARQUET, _ZIP, _GZIP = b"PAR1", b"PK\3\4", b"\x1f\x8b"  # how such files begin; npz is zip
_SAMPLE = 1 << 16


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
    blank are found alone) or MovieLens' `::`; Parquet; npz, by the names of its arrays. Each may be gzipped. npz needs
    NumPy alone, the others the extra `tables`.

    Text is read by the rule of Python's csv module, and every record has to have the same number of fields, whether or
    not they are used: what is read is what was there, or the line is named. docs/data.md has the dialects.

    Args:
        path: the file.
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
    check_choice("duplicates", duplicates, _DUPLICATES)
    pair = (ids, ids) if isinstance(ids, str) else ids
    if not isinstance(pair, list | tuple) or len(pair) != 2 or not set(pair) <= {"auto", "int", "str"}:
        raise ArgumentError(f'ids is {ids!r}, but must be "auto", "int" or "str", or a pair of these: users, items.')
    kinds = {"user": pair[0], "item": pair[1]}
    wanted = {"user": user, "item": item, "value": value, "time": time, "weight": weight}
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
    try:
        path = Path(path)
    except TypeError:
        raise ArgumentError(f"expected the path of a file, got {type(path).__name__}.") from None
    content, start = _opened(path)
    if start.startswith((_PARQUET, _ZIP)):
        read = _parquet if start.startswith(_PARQUET) else _npz
        table = read(path, content, wanted)
        for role in kinds:
            table.columns[role] = _as_kind(table, role, kinds[role])
    else:
        table = read_text(path, content, start, delimiter, header, quoted, wanted, kinds)
    return assembled(table, duplicates)


def _opened(path: Path) -> tuple[bytes | None, bytes]:
    """(the content where the file was gzipped, how the content starts)."""
    if path.is_dir():
        raise DataError(f"{path} is a folder. Give the file in it that holds the ratings.")
    content = None
    try:
        with open(path, "rb") as file:
            start = file.read(_SAMPLE)
            if start.startswith(_GZIP):
                content = gzip.decompress(start + file.read())
                start = content[:_SAMPLE]
    except FileNotFoundError:
        raise DataError(f"no file {path}" + (f" in {Path.cwd()}." if not path.is_absolute() else ".")) from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is cut short or damaged: {error}. Fetch it again.") from error
    except (OSError, ValueError) as error:  # ValueError: a name with a NUL character
        raise DataError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    suffixes = path.suffixes[-2:] if path.suffix.lower() == ".gz" else [path.suffix]
    promised = {suffix.lower() for suffix in suffixes}
    if not start.strip():
        raise DataError(f"{path} is empty.")
    for suffix, magic, name in ((".npz", _ZIP, "an npz"), (".parquet", _PARQUET, "a Parquet")):
        if suffix in promised and not start.startswith(magic):
            raise DataError(f"{path} is not {name} file: it begins with {start[:8]!r}. Name it after what it holds.")
    if ".gz" in promised and content is None:
        raise DataError(f"{path} is not gzipped: it begins with {start[:8]!r}. Take the .gz off its name.")
    return content, start


def _npz(path: Path, content: bytes | None, wanted: dict[str, Any]) -> Table:
    try:
        with (
            open(path, "rb") if content is None else io.BytesIO(content) as raw,
            np.load(raw, allow_pickle=False) as file,
        ):
            chosen = chosen_columns(path, wanted, file.files, len(file.files))
            columns = {role: file[file.files[place]] for role, place in chosen.items()}
            labels = {role: f"array {file.files[place]!r}" for role, place in chosen.items()}
    except DataError:
        raise
    except Exception as error:  # zipfile, zlib, ast and NumPy all meet the bytes of a damaged file, each in its way
        raise DataError(f"{path} cannot be read as npz: {error}.") from error
    for role, column in columns.items():
        if not isinstance(column, np.ndarray):
            raise DataError(f"{path}: {labels[role]} is no array of NumPy; numpy.savez writes them.")
    return Table(str(path), labels, columns, "entry {}".format)


def _parquet(path: Path, content: bytes | None, wanted: dict[str, Any]) -> Table:
    pl = polars()
    try:
        lazy = pl.scan_parquet(path if content is None else io.BytesIO(content), glob=False)
        names = lazy.collect_schema().names()
        chosen = chosen_columns(path, wanted, names, len(names))
        frame = lazy.select(sorted({names[place] for place in chosen.values()})).collect()
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        raise DataError(f"{path} is damaged, or not a Parquet file: {first_line(error)} Fetch it again.") from error
    return table_of_frame(frame, {role: names[place] for role, place in chosen.items()}, str(path))


def _as_kind(table: Table, role: str, kind: str) -> Any:
    """Ids of a typed column as text, where that is wanted."""
    ids: Any = table.columns[role]
    if not isinstance(ids, tuple) and ids.dtype.kind in "iu":
        return ids.astype(str) if kind == "str" else ids
    if kind == "int":
        raise DataError(f"{table.source}: {table.labels[role]} holds no integers. Leave the kind of ids to be found.")
    return ids

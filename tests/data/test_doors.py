"""The same table through every door is the same Ratings and the same Vocabulary, to the last bit, once sorted.

Each door is given the rows in an order of its own. A door that needs an extra which is not there is skipped.
"""

import gzip
import lzma
import zipfile
from typing import Any

import numpy as np
import pytest

import jals
from jals.data.readers import read_ratings
from jals.data.vocabulary import Vocabulary

COLUMNS = ("user", "item", "value", "weight", "time")
NAMES = {"user": "userId", "item": "movieId", "value": "rating", "time": "timestamp", "weight": "weight"}
NUM_ENTRIES = 40


def table(ids, value, time, weight):
    """Columns by role. Value and time by their kind; ids leave gaps, and texts sort otherwise than numbers."""
    rng = np.random.default_rng(0)
    cells = rng.choice(12 * 9, NUM_ENTRIES, replace=False)
    columns: dict[str, Any] = {"user": 7 * (cells // 9) - 3, "item": 1000 - 11 * (cells % 9)}
    if ids == "text":
        columns = {
            "user": np.array([f"u{id}" for id in columns["user"]]),
            "item": np.array(list("äzß€bcdef"))[cells % 9],
        }
    real = rng.normal(size=NUM_ENTRIES)
    columns["value"] = {
        "integer": rng.integers(-3, 6, NUM_ENTRIES),
        "half stars": rng.integers(1, 11, NUM_ENTRIES) / 2,
        "real": np.r_[real[2:], 1 / 3, 1e-300],
    }[value]
    moments = np.array("2001-05-01T10:30", "datetime64[us]") + rng.integers(0, 10**15, NUM_ENTRIES)
    columns["time"] = {
        "integer": rng.integers(800_000_000, 900_000_000, NUM_ENTRIES),
        "real": rng.uniform(8e8, 9e8, NUM_ENTRIES),
        "moment": moments,
        "day": moments.astype("datetime64[D]"),
        None: None,
    }[time]
    columns["weight"] = rng.uniform(0, 2, NUM_ENTRIES) if weight else None
    return {role: column for role, column in columns.items() if column is not None}


def arrays(columns, _):
    vocab, user, item = Vocabulary.from_ids(columns["user"], columns["item"])
    rest: dict[str, Any] = {role: columns.get(role) for role in ("value", "weight", "time")}
    return jals.Ratings.from_arrays(user, item, **rest), vocab


def swapped(columns, _):
    """Every array in the other byte order, some as masked arrays without a masked entry."""
    columns = {role: column.astype(column.dtype.newbyteorder()) for role, column in columns.items()}
    vocab, user, item = Vocabulary.from_ids(columns["user"], np.ma.array(columns["item"]))
    rest: dict[str, Any] = {role: columns.get(role) for role in ("value", "weight", "time")}
    return jals.Ratings.from_arrays(user.astype(">i4"), item, np.ma.array(rest.pop("value")), **rest), vocab


def lists(columns, _):
    vocab, user, item = Vocabulary.from_ids(columns["user"].tolist(), columns["item"].tolist())
    rest: dict[str, Any] = {
        role: columns[role].tolist() if role in columns else None for role in ("value", "weight", "time")
    }
    return jals.Ratings.from_arrays(user.tolist(), item.tolist(), **rest), vocab


def scipy_sparse(columns, _):
    sparse = pytest.importorskip("scipy.sparse")
    if not {"time", "weight"}.isdisjoint(columns):
        pytest.skip("a sparse matrix has room for the values only")
    vocab, user, item = Vocabulary.from_ids(columns["user"], columns["item"])
    return jals.Ratings.from_scipy(sparse.coo_array((columns["value"], (user, item))).tocsc()), vocab


def named(columns):
    return {NAMES[role]: column for role, column in columns.items()}


def from_frame(frame, columns):
    rest = {role: NAMES[role] for role in ("time", "weight") if role in columns}
    return jals.Ratings.from_dataframe(frame, **rest)


def pandas(columns, _):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("narwhals", reason='data frames need the extra "tables"')
    return from_frame(pd.DataFrame(named(columns)), columns)


def pandas_categories(columns, _):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("narwhals", reason='data frames need the extra "tables"')
    frame = pd.DataFrame(named(columns))
    return from_frame(frame.astype({"userId": "category", "movieId": "category"}), columns)


def pandas_arrow(columns, _):
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    pytest.importorskip("narwhals", reason='data frames need the extra "tables"')
    return from_frame(pd.DataFrame(named(columns)).convert_dtypes(dtype_backend="pyarrow"), columns)


def polars_frame(columns):
    pl = pytest.importorskip("polars", reason='needs the extra "tables"')
    return pl.DataFrame(named(columns))


def polars(columns, _):
    return from_frame(polars_frame(columns), columns)


def polars_lazy(columns, _):
    return from_frame(polars_frame(columns).lazy(), columns)


def pyarrow(columns, _):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("narwhals", reason='data frames need the extra "tables"')
    return from_frame(pa.table(named(columns)), columns)


def parquet(columns, folder):
    polars_frame(columns).write_parquet(folder / "t.parquet")
    return read_ratings(folder / "t.parquet")


def npz(columns, folder):
    np.savez(folder / "t.npz", **named(columns))
    return read_ratings(folder / "t.npz")


def npz_swapped(columns, folder):
    arrays = {name: column.astype(column.dtype.newbyteorder()) for name, column in named(columns).items()}
    np.savez(folder / "t.npz", **arrays)
    return read_ratings(folder / "t.npz")


def text(columns, delimiter, header=True):
    head = [delimiter.join(NAMES[role] for role in columns)] if header else []
    rows = [
        delimiter.join(map(str, row)) for row in zip(*(column.tolist() for column in columns.values()), strict=True)
    ]
    return "".join(line + "\n" for line in head + rows).encode()


def read_text(folder, name, content, **options):
    pytest.importorskip("polars", reason='needs the extra "tables"')
    (folder / name).write_bytes(content)
    return read_ratings(folder / name, **options)


def csv(columns, folder):
    return read_text(folder, "t.csv", text(columns, ","))


def tsv(columns, folder):
    return read_text(folder, "t.tsv", text(columns, "\t"))


def csv_gz(columns, folder):
    return read_text(folder, "t.csv.gz", gzip.compress(text(columns, ",")))


def csv_zip(columns, folder):
    with zipfile.ZipFile(folder / "t.zip", "w") as archive:
        archive.writestr("ratings/t.csv", text(columns, ","))
    return read_text(folder, "t.csv.xz", lzma.compress((folder / "t.zip").read_bytes()))


def weight_place(columns):
    return {"weight": list(columns).index("weight")} if "weight" in columns else {}


def u_data(columns, folder):
    return read_text(folder, "u.data", text(columns, "\t", header=False), **weight_place(columns))


def ratings_dat(columns, folder):
    return read_text(folder, "ratings.dat", text(columns, "::", header=False), **weight_place(columns))


DOORS = (
    arrays,
    swapped,
    lists,
    scipy_sparse,
    pandas,
    pandas_categories,
    pandas_arrow,
    polars,
    polars_lazy,
    pyarrow,
    parquet,
    npz,
    npz_swapped,
)
DOORS = (*DOORS, csv, tsv, csv_gz, csv_zip, u_data, ratings_dat)
TABLES = {
    "integers": ("integer", "integer", "integer", False),
    "half stars": ("integer", "half stars", "moment", False),
    "texts": ("text", "real", None, False),
    "weights": ("text", "half stars", "real", True),
    "days": ("integer", "real", "day", True),
}


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.__name__)
@pytest.mark.parametrize("kind", TABLES)
def test_every_door_leads_to_the_same_table(tmp_path, kind, door):
    columns = table(*TABLES[kind])
    vocab, user, item = Vocabulary.from_ids(columns["user"], columns["item"])
    order = np.lexsort((item, user))
    expected = {"user": user, "item": item} | {role: columns.get(role) for role in ("value", "weight", "time")}
    integer = kind == "integers"
    dtypes = {"user": np.int32, "item": np.int32, "value": np.float32 if integer else np.float64, "weight": np.float64}
    dtypes["time"] = {"integers": np.int64, "weights": np.float64}.get(kind, "datetime64[us]")

    shuffle = np.random.default_rng(DOORS.index(door)).permutation(NUM_ENTRIES)
    ratings, found = door({role: column[shuffle] for role, column in columns.items()}, tmp_path)
    ratings = ratings.sorted()
    for role in COLUMNS:
        column = getattr(ratings, role)
        if expected[role] is None:
            assert column is None
            continue
        assert column.dtype == dtypes[role]
        np.testing.assert_array_equal(column, expected[role][order].astype(dtypes[role]))
    assert (ratings.num_users, ratings.num_items) == (len(vocab.user), len(vocab.item))
    for side in ("user", "item"):
        ids = getattr(found, side)
        assert ids.dtype == (np.int64 if TABLES[kind][0] == "integer" else np.array(columns[side].tolist()).dtype)
        np.testing.assert_array_equal(ids, sorted(set(columns[side].tolist())))
    if door is not scipy_sparse:  # which orders the entries itself
        np.testing.assert_array_equal(columns["value"][shuffle][ratings.source_index], columns["value"][order])

"""Data frames of every library: what is read, and what is refused by column and row."""

import datetime
import decimal
import sys

import numpy as np
import pytest

import jals

pytest.importorskip("narwhals", reason='data frames need the extra "tables"')
pl = pytest.importorskip("polars", reason='data frames need the extra "tables"')

UTC_2 = datetime.timezone(datetime.timedelta(hours=2))
COLUMNS = {"userId": [3, 1, 3], "movieId": ["b", "a", "a"], "rating": [1.0, 2.5, 3.0], "when": [5, 7, 6]}


def pandas(columns):
    return pytest.importorskip("pandas").DataFrame(columns)


def pyarrow(columns):
    return pytest.importorskip("pyarrow").table(columns)


LIBRARIES = (pandas, pl.DataFrame, pl.LazyFrame, pyarrow)
libraries = pytest.mark.parametrize("library", LIBRARIES, ids=lambda library: library.__name__)


@libraries
def test_columns_by_name_in_the_order_of_the_rows(library):
    frame = library(COLUMNS | {"mass": [1.0, 0.0, 2.0], "unused": [None, "x", "y"]})
    ratings, vocab = jals.Ratings.from_dataframe(frame, time="when", weight="mass")
    assert vocab.user[ratings.user].tolist() == COLUMNS["userId"]
    assert vocab.item[ratings.item].tolist() == COLUMNS["movieId"]
    assert (ratings.value.tolist(), ratings.value.dtype) == (COLUMNS["rating"], np.float64)
    assert (ratings.time.tolist(), ratings.time.dtype) == (COLUMNS["when"], np.int64)
    assert ratings.weight.tolist() == [1, 0, 2]
    ratings, _ = jals.Ratings.from_dataframe(frame, value="when")
    assert (ratings.value.tolist(), ratings.value.dtype, ratings.time) == ([5, 7, 6], np.float32, None)
    ratings, _ = jals.Ratings.from_dataframe(frame, value=None)
    assert (ratings.value.tolist(), ratings.weight) == ([1, 1, 1], None)


@libraries
def test_duplicates_are_named_by_outside_id_or_merged(library):
    frame = library(COLUMNS | {"movieId": ["b", "a", "b"]})
    with pytest.raises(
        jals.DataError, match=r"1 duplicate entries; the first: user 3, item 'b' in row 0 and row 2\. Merge"
    ):
        jals.Ratings.from_dataframe(frame)
    ratings, _ = jals.Ratings.from_dataframe(frame, duplicates="mean", time="when")
    assert (ratings.value.tolist(), ratings.time.tolist()) == ([2, 2.5], [6, 7])
    with pytest.raises(jals.ArgumentError, match='Did you mean "sum"'):
        jals.Ratings.from_dataframe(frame, duplicates="summ")


@libraries
def test_columns_by_their_usual_names_or_by_position(library):
    frame = library({"Time Stamp": [5, 7, 6], "Item-ID": ["b", "a", "a"], "USER": [3, 1, 3], "stars": [1.0, 2.5, 3.0]})
    for options in ({}, {"user": 2, "item": 1, "value": 3}, {"user": "USER"}, {"item": 1, "value": "stars"}):
        ratings, vocab = jals.Ratings.from_dataframe(frame, **options)
        assert (vocab.user.tolist(), vocab.item.tolist()) == ([1, 3], ["a", "b"])
        assert (ratings.value.tolist(), ratings.time) == ([1, 2.5, 3], None)
    for time in (True, 0):
        assert jals.Ratings.from_dataframe(frame, time=time)[0].time.tolist() == [5, 7, 6]
    for value in (None, False):
        assert jals.Ratings.from_dataframe(frame, value=value)[0].value.tolist() == [1, 1, 1]
    pairs = library({"uid": [1, 2], "film": ["a", "b"]})
    assert jals.Ratings.from_dataframe(pairs)[0].value.tolist() == [1, 1]
    strange = library({"uid": [1, 2], "film": ["a", "b"], "mood": [1, 2]})
    with pytest.raises(jals.DataError, match=r"no column looks like value; .*value=False: every value is 1"):
        jals.Ratings.from_dataframe(strange)
    for wrong in ({"user": True}, {"item": ["film"]}):
        with pytest.raises(jals.ArgumentError, match="must be a column's name or its position, from 0"):
            jals.Ratings.from_dataframe(pairs, **wrong)


MOMENT = datetime.datetime(2001, 5, 1, 10, 30)


@libraries
@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (MOMENT, "2001-05-01T10:30"),
        (MOMENT.replace(tzinfo=UTC_2), "2001-05-01T08:30"),
        (MOMENT.date(), "2001-05-01"),
        ("2001-05-01T10:30:00+02:00", "2001-05-01T08:30"),
    ],
    ids=["naive", "zoned", "date", "text"],
)
def test_moments_are_kept_in_utc(library, given, meant):
    ratings, _ = jals.Ratings.from_dataframe(library(COLUMNS | {"when": [given] * 3}), time="when")
    assert ratings.time.dtype == "datetime64[us]"
    np.testing.assert_array_equal(ratings.time, np.array([meant] * 3, "datetime64[us]"))


BAD = {
    "empty id": ({"userId": [3, None, 3]}, {}, r"row 1, column 'userId' is empty\. Drop"),
    "empty text id": ({"movieId": ["a", "b", None]}, {}, "row 2, column 'movieId' is empty"),
    "empty value": ({"rating": [None, 1.0, 2.0]}, {}, "row 0, column 'rating' is empty"),
    "empty time": ({"when": [MOMENT, None, MOMENT]}, {"time": "when"}, "row 1, column 'when' is empty"),
    "infinite value": ({"rating": [1.0, 2.0, -np.inf]}, {}, "row 2, column 'rating' is -inf; 1 entries are not finite"),
    "negative weight": ({"when": [1, -1, 0]}, {"weight": "when"}, "row 1, column 'when' is -1.0, but weights must be"),
    "real ids": (
        {"userId": [3.0, 1.0, 3.0]},
        {},
        "column 'userId' holds Float64, such as 3.0, but .* integers or text",
    ),
    "true ids": ({"userId": [True, False, True]}, {}, "column 'userId' holds Boolean, such as .*True"),
    "text values": (
        {"rating": ["1", "2", "3"]},
        {},
        "column 'rating' holds String, such as '1', but must hold numbers",
    ),
    "list values": ({"rating": [[1.0], [2.0], [3.0]]}, {}, r"column 'rating' holds .*, such as \[1.0\], but must hold"),
    "date values": ({"rating": [MOMENT] * 3}, {}, "column 'rating' holds Datetime.* but must hold numbers"),
    "text times": (
        {"when": ["2001-05-01", "May", "x"]},
        {"time": "when"},
        "row 1, column 'when' is 'May', but .* a date",
    ),
    "span times": ({"when": [datetime.timedelta(1)] * 3}, {"time": "when"}, "column 'when' holds Duration.* or dates"),
    "misnamed": (
        {},
        {"value": "ratings"},
        r"no column 'ratings'\. Did you mean \"rating\"\? Its columns are 'userId', ",
    ),
    "beyond": ({}, {"user": 4}, "there is no column 4 for user; counted from 0, its columns are 'userId', 'movieId'"),
    "negative place": ({}, {"user": -1}, "there is no column -1 for user"),
    "no column": ({}, {"time": ("when", 1)}, r"no column \('when', 1\)\. Its columns are"),
    "an expression": ({}, {"time": pl.col("when")}, "no column .*when"),
    "no time to find": ({}, {"time": True, "value": True}, None),
    "one for two": ({}, {"item": "userId"}, "user and item are both column 0"),
    "an empty text": ({"movieId": ["a", "b", ""]}, {}, r"row 2, column 'movieId' is empty\. Leave such entries out"),
    "no rows": ({name: [] for name in COLUMNS}, {}, "has no rows"),
    "NUL": ({"movieId": ["a", "a\0", "b"]}, {}, "the ids in column 'movieId' end in NUL"),
}


@libraries
@pytest.mark.parametrize("case", BAD)
def test_bad_frames_are_refused(library, case):
    change, options, message = BAD[case]
    if message is None:
        assert jals.Ratings.from_dataframe(library(COLUMNS | change), **options)[0].time is None
        return
    with pytest.raises(jals.DataError, match=f"^the data frame.*{message}" if case[:3] != "one" else message):
        jals.Ratings.from_dataframe(library(COLUMNS | change), **options)


def test_columns_of_unusual_types():
    frame = pl.DataFrame(COLUMNS | {"rating": [decimal.Decimal("2.5")] * 3})
    frame = frame.with_columns(pl.col("userId").cast(pl.UInt8), pl.col("movieId").cast(pl.Categorical))
    ratings, vocab = jals.Ratings.from_dataframe(frame)
    assert (ratings.value.tolist(), vocab.user.tolist(), vocab.item.tolist()) == ([2.5] * 3, [1, 3], ["a", "b"])
    assert vocab.user.dtype == np.int64
    with pytest.raises(jals.DataError, match=r"column 'userId' holds Int128, such as 3, but .* NumPy can hold"):
        jals.Ratings.from_dataframe(frame.cast({"userId": pl.Int128}))
    with pytest.raises(jals.DataError, match=r"cannot be read: .*conversion"):
        jals.Ratings.from_dataframe(frame.lazy().with_columns(pl.col("movieId").cast(pl.String).cast(pl.Int64)))


def test_pandas_columns_of_unusual_types():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame(COLUMNS)
    nullable = frame.astype({"userId": "Int64", "rating": "Float32", "movieId": "category"})
    ratings, vocab = jals.Ratings.from_dataframe(nullable)
    assert (ratings.value.tolist(), ratings.value.dtype) == (COLUMNS["rating"], np.float32)
    assert (vocab.user.dtype, vocab.item.tolist()) == (np.int64, ["a", "b"])
    assert jals.Ratings.from_dataframe(frame.astype({"userId": "category"}))[1].user.tolist() == [1, 3]
    objects = frame.astype({"userId": object})
    assert jals.Ratings.from_dataframe(objects)[1].user.tolist() == [1, 3]
    objects.loc[1, "userId"] = "1"
    with pytest.raises(
        jals.DataError, match=r"column 'userId' must be .* got int and str \(entry 1 is '1', the first 3\)"
    ):
        jals.Ratings.from_dataframe(objects)
    nullable.loc[2, "userId"] = pd.NA
    with pytest.raises(jals.DataError, match="row 2, column 'userId' is empty"):
        jals.Ratings.from_dataframe(nullable)
    beyond = pd.DataFrame(COLUMNS | {"userId": np.array([1, 2**63, 2], np.uint64)})
    with pytest.raises(
        jals.DataError, match=r"must be within int64, but 9223372036854775808 is not\. Give them as strings"
    ):
        jals.Ratings.from_dataframe(beyond)
    numbered = frame.set_axis(range(4), axis=1)
    assert jals.Ratings.from_dataframe(numbered, user=0, item=1, value=2)[0].value.tolist() == COLUMNS["rating"]
    with pytest.raises(jals.DataError, match=r"no column 4\. Its columns are 0, 1, 2, 3"):
        jals.Ratings.from_dataframe(numbered, user=4, item=1, value=2)
    pairs = frame.set_axis(pd.MultiIndex.from_tuples([("id", "user"), ("id", "item"), ("x", "y"), (None, 1)]), axis=1)
    ratings, vocab = jals.Ratings.from_dataframe(pairs, ("id", "user"), ("id", "item"), ("x", "y"))
    assert (vocab.user[ratings.user].tolist(), ratings.value.tolist()) == (COLUMNS["userId"], COLUMNS["rating"])
    odd = frame.set_axis(["item", None, 2.5, "user"], axis=1)
    assert jals.Ratings.from_dataframe(odd, value=2.5)[0].value.tolist() == COLUMNS["rating"]
    with pytest.raises(jals.DataError, match=r"the data frame cannot be read: .*unique column names"):
        jals.Ratings.from_dataframe(frame.set_axis(["u", "u", "v", "w"], axis=1), user="u")


@pytest.mark.parametrize(
    "broken",
    [
        pl.LazyFrame(COLUMNS).with_columns(pl.col("nope")),
        pl.scan_csv("/absent/t.csv"),
        pl.LazyFrame(COLUMNS).with_columns(pl.col("rating").map_batches(lambda _: 1 / 0, return_dtype=pl.Float64)),
    ],
    ids=["no such column", "no such file", "a function that fails"],
)
def test_lazy_frames_that_cannot_be_made(broken):
    with pytest.raises(jals.DataError, match=r"^the data frame cannot be read: .*\.$") as caught:
        jals.Ratings.from_dataframe(broken)
    assert len(str(caught.value)) < 500


def test_what_polars_panics_at_is_refused(monkeypatch):
    frame = pl.DataFrame({"userId": [2**62], "movieId": [1], "rating": [1.0]}).lazy()

    def panic(*_, **__):
        raise pl.exceptions.PanicException(f"out of luck {'x' * 999}\nand much more")

    monkeypatch.setattr(pl.LazyFrame, "collect", panic)
    with pytest.raises(jals.DataError, match=r"the data frame cannot be read: out of luck x{288}\.$"):
        jals.Ratings.from_dataframe(frame)
    far = pl.DataFrame({"userId": [2**62], "movieId": [1], "rating": [1.0]}).cast({"userId": pl.Datetime("us")})
    with pytest.raises(jals.DataError, match=r"column 'userId' holds Datetime.*, but must hold integers or text"):
        jals.Ratings.from_dataframe(far)  # which no datetime of Python is


def test_moments_of_a_frame_keep_their_order():
    times = np.array(["9999-12-31", "1600-01-01", "2001-05-01"], "M8[ms]")
    for frame in (pandas(COLUMNS | {"when": times}), pl.DataFrame(COLUMNS | {"when": times})):
        np.testing.assert_array_equal(jals.Ratings.from_dataframe(frame, time="when")[0].time, times)
    fine = pl.DataFrame(COLUMNS | {"when": np.array([1001, 1000, 1002], "M8[ns]")})
    assert jals.Ratings.from_dataframe(fine, time="when")[0].time.astype(int).tolist() == [1001, 1000, 1002]
    with pytest.raises(jals.DataError, match=r"row 0, column 'when' is .*, beyond the years"):
        jals.Ratings.from_dataframe(pandas(COLUMNS | {"when": np.array([2**60, 0, 0], "M8[s]")}), time="when")


def test_a_missing_moment_of_pandas_among_objects():
    pd = pytest.importorskip("pandas")
    with pytest.raises(jals.DataError, match="time of entry 1 is NaT"):
        jals.Ratings.from_arrays([0, 1], [0, 0], [1.0, 2.0], time=[MOMENT, pd.NaT])
    with pytest.raises(jals.DataError, match=r"time of entry 1 is Timestamp.*digits below a microsecond"):
        jals.Ratings.from_arrays([0, 1], [0, 0], [1.0, 2.0], time=[MOMENT, pd.Timestamp(1, unit="ns")])


@pytest.mark.parametrize("frame", [COLUMNS, None, np.zeros((3, 3)), pl.Series([1]), "ratings.csv"], ids=str)
def test_what_is_no_frame_is_refused(frame):
    with pytest.raises(
        jals.DataError, match=r"expected a pandas, polars or pyarrow table, got .* Ratings\.from_arrays"
    ):
        jals.Ratings.from_dataframe(frame)


def test_missing_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "narwhals", None)
    with pytest.raises(ImportError, match=r'pip install "jals\[tables\]"'):
        jals.Ratings.from_dataframe(pl.DataFrame(COLUMNS))

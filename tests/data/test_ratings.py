"""The door for tables: what is kept, what is merged, what is refused."""

import dataclasses
import datetime
import time

import jax
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

import jals

from_arrays, from_scipy = jals.Ratings.from_arrays, jals.Ratings.from_scipy

USER, ITEM, VALUE = [2, 0, 2], [1, 3, 0], [4.0, 1.0, 2.5]
UTC_2 = datetime.datetime(2002, 1, 1, 10, 30, tzinfo=datetime.timezone(datetime.timedelta(hours=2)))
COLUMNS = ("user", "item", "value", "weight", "time", "source_index")


class Unwilling:
    def __array__(self, *_, **__):
        raise RuntimeError("not today")


def sorted_columns(ratings):
    order = np.lexsort((ratings.item, ratings.user))
    return {name: getattr(ratings, name)[order] for name in ("user", "item", "value")}


def test_columns_are_kept_in_order():
    ratings = from_arrays(USER, ITEM, VALUE, weight=[1, 0, 2], time=np.array([30, 10, 20]))
    expected = (USER, ITEM, VALUE, [1, 0, 2], [30, 10, 20], [0, 1, 2])
    for name, column in zip(COLUMNS, expected, strict=True):
        np.testing.assert_array_equal(getattr(ratings, name), column)
    assert (ratings.num_users, ratings.num_items, len(ratings)) == (3, 4, 3)
    assert (ratings.user.dtype, ratings.item.dtype, ratings.source_index.dtype) == (np.int32,) * 3
    assert ratings.weight.dtype == ratings.value.dtype
    assert "3 users x 4 items, 3 entries" in repr(ratings)
    plain = from_arrays(USER, ITEM, VALUE, num_users=7, num_items=np.int64(9))  # pyright: ignore[reportArgumentType]
    assert (plain.num_users, plain.num_items, plain.weight, plain.time) == (7, 9, None, None)


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *((wide, np.float64) for wide in ("f8", ">f8", np.longdouble)),
        *((other, np.float32) for other in ("f4", ">f4", "f2", "i1", ">i8", bool)),
    ],
)
def test_float64_values_stay_and_others_become_float32(given, kept):
    values = np.array([4, 1 / 3, 100], given)
    ratings = from_arrays(USER, ITEM, values, weight=values)
    for numbers in (ratings.value, ratings.weight, jals.Problem.build(ratings).with_values(values).value):
        assert numbers.dtype == kept
        np.testing.assert_array_equal(numbers, values.astype(kept))


@pytest.mark.parametrize("given", [np.int8, np.uint16, np.int64, np.uint64, ">i4", ">u8"])
def test_ids_of_any_integer_type(given):
    ratings = from_arrays(np.array(USER, given), np.array(ITEM, given), VALUE, time=np.array(USER, given))
    assert (ratings.user.tolist(), ratings.item.tolist(), ratings.time.tolist()) == (USER, ITEM, USER)
    assert ratings.user.dtype.isnative and ratings.time.dtype.isnative


@pytest.mark.parametrize("column", ["user", "item", "value", "weight", "time"])
def test_masked_entries_are_refused(column):
    given = {"user": USER, "item": ITEM, "value": VALUE, "weight": [1, 2, 3], "time": [7, 8, 9]}
    masked = np.ma.array(given[column], mask=[False, True, True])
    with pytest.raises(jals.DataError, match=f"{column} of entry 1 is masked. Leave such entries out"):
        from_arrays(**(given | {column: masked}))
    whole = from_arrays(**(given | {column: np.ma.array(given[column])}))
    np.testing.assert_array_equal(getattr(whole, column), given[column])
    assert type(getattr(whole, column)) is np.ndarray


def test_other_numbers_of_a_problem_go_through_the_same_door():
    problem, masked = jals.Problem.build(from_arrays(USER, ITEM, VALUE)), np.ma.array(VALUE, mask=[0, 0, 1])
    for numbers in ((masked,), (VALUE, masked)):
        with pytest.raises(jals.DataError, match="of entry 2 is masked"):
            problem.with_values(*numbers)
    keys = jax.random.split(jax.random.key(0), 3)
    for wrong in (["a"] * 3, [1j] * 3, [[1], [2, 3], [4]], Unwilling(), np.zeros(3, "m8[s]"), keys):
        with pytest.raises(jals.ArgumentError, match=r"values (is of .*must be real|holds no array of numbers)"):
            problem.with_values(wrong)


BAD_TABLES = {
    "nan": ({"value": [4, np.nan, np.nan]}, r"value of entry 1 is nan; 2 entries are not finite\. Leave missing"),
    "inf": ({"value": [4, 1, -np.inf]}, r"value of entry 2 is -inf; 1 entries are not finite\. Leave missing"),
    "complex value": ({"value": [4, 1, 2j]}, "value must be real numbers, got complex128"),
    "text value": ({"value": ["4", "1", "2"]}, "value must be real numbers, got <U1"),
    "object value": ({"value": [4, None, 2]}, "value must be real numbers, got object"),
    "negative user": ({"user": [2, -1, 2]}, "user of entry 1 is -1, but ids start at 0"),
    "negative item": ({"item": [1, 3, -7]}, "item of entry 2 is -7, but ids start at 0"),
    "user beyond": ({"num_users": 2}, r"user of entry 0 is 2, but num_users is 2 \(ids run from 0\)"),
    "item beyond": ({"num_items": 3}, r"item of entry 1 is 3, but num_items is 3 \(ids run from 0\)"),
    "user 2**31": ({"user": [0, 2**31, 1]}, r"user of entry 1 is 2147483648, .* 2\*\*31 - 1\. Number them with numpy"),
    "item 2**63": ({"item": np.array([0, 2**63, 1], np.uint64)}, r"item of entry 1 is 9223372036854775808, .* Number"),
    "float ids": ({"user": [2.0, 0.0, 2.0]}, r"user ids must be integers, got float64\. .*ids\.astype\(int\)"),
    "text ids": ({"item": ["a", "b", "c"]}, r"item ids must be integers, got <U1\. .*numpy\.unique"),
    "boolean ids": ({"item": [True, False, True]}, "item ids must be integers, got bool"),
    "duplicate": (
        {"item": [1, 3, 1]},
        r'1 duplicate entries; the first: user 2, item 1 at entries 0 and 2\. Merge them with duplicates="last"',
    ),
    "empty": ({"user": np.empty(0, int), "item": np.empty(0, int), "value": []}, "the table is empty"),
    "negative weight": ({"weight": [1, 1, -0.5]}, r"weight of entry 2 is -0\.5, but weights must be >= 0"),
    "nan weight": ({"weight": [1, np.nan, 1]}, "weight of entry 1 is nan"),
    "short values": ({"value": [4, 1]}, r"columns differ in length: .*'value': 2.* Give one value of each an entry"),
    "short items": ({"item": [4, 1]}, "columns differ in length: .*'item': 2"),
    "short weights": ({"weight": [4, 1]}, "columns differ in length: .*'weight': 2"),
    "short times": ({"time": [4, 1]}, "columns differ in length: .*'time': 2"),
    "2-d users": ({"user": [[2, 0, 2]]}, r"user must be one-dimensional, got shape \(1, 3\)"),
    "2-d values": ({"value": [[4], [1], [2]]}, r"value must be one-dimensional, got shape \(3, 1\)"),
    "2-d weights": ({"weight": np.ones((3, 3))}, r"weight must be one-dimensional, got shape \(3, 3\)"),
    "scalar value": ({"value": 4.0}, r"value must be one-dimensional, got shape \(\)"),
    "num_users 0": ({"num_users": 0}, "num_users is 0, but must be a whole number from 1 to"),
    "num_items real": ({"num_items": 4.0}, r"num_items is 4\.0, but must be a whole number from 1 to"),
    "num_items True": ({"num_items": True}, "num_items is True, but must be a whole number from 1 to"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_bad_tables_are_refused(case):
    change, message = BAD_TABLES[case]
    with pytest.raises(jals.DataError, match=message):
        from_arrays(**({"user": USER, "item": ITEM, "value": VALUE} | change))


def test_too_many_entries_are_refused():
    ids = np.broadcast_to(np.int32(0), 2**31)
    with pytest.raises(jals.DataError, match=r"2,147,483,648 entries, but a table holds fewer than 2\*\*31; split it"):
        from_arrays(ids, ids, np.broadcast_to(np.float32(1), 2**31))


FAR = np.array(["2001-05-01", "300000-01-01", "300000-01-02"], "datetime64[s]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"time": 5}, "time must be one-dimensional"),
        ({"time": np.zeros((3, 2))}, "time must be one-dimensional"),
        ({"time": [[1], [2, 3], [4]]}, r"time is ragged: .*Give one time an entry"),
        ({"time": [1.0, np.nan, 2.0]}, r"time of entry 1 is nan\. Every entry needs one"),
        ({"time": [5, None, 6]}, "time of entry 1 is None, while the first is 5"),
        ({"time": [None, 5, 6]}, "time of entry 1 is 5, while the first is None"),
        ({"time": np.array(["2001-05-01", "NaT", "2001-05-02"], "datetime64[D]")}, "time of entry 1 is NaT"),
        ({"time": ["2001-05-01", "2001-05-02", "soon"]}, "time of entry 2 is 'soon', but must be a date .*ISO"),
        ({"time": ["2001-05-01", 5, "2001-05-02"]}, "time of entry 1 is '5', but must be a date"),
        ({"time": np.zeros(3, "timedelta64[s]")}, r"time must be .*, got timedelta64\[s\]"),
        ({"time": np.array([1, 2**63, 3], np.uint64)}, r"time must be integers below 2\*\*63"),
        ({"time": [True, False, True]}, "time must be .*, got bool"),
        ({"user": np.zeros(3, "m8[s]")}, r"user ids must be integers, got timedelta64\[s\]"),
        ({"value": np.zeros(3, "m8[s]")}, r"value must be real numbers, got timedelta64\[s\]"),
        ({"time": np.array([1, 2**63, 3], ">u8")}, r"time must be integers below 2\*\*63"),
        ({"time": np.zeros(3).astype("M8")}, "time is datetime64 without a unit"),
        ({"time": FAR}, "time of entry 1 is 300000-.*, beyond the years -290,307 to 294,246, .*Leave it out"),
        ({"time": FAR.astype("M8[Y]")}, "time of entry 1 is 300000, beyond the years"),
        ({"time": np.array([0, 5, 2**60], "M8[D]")}, "time of entry 2 is .*, beyond the years"),
        ({"time": np.array([0, 5, 7], "M8[as]")}, "time of entry 1 is .*, with digits below a nanosecond. Round"),
        ({"time": ["9999-12-31T23:59:59-02:00"] * 3}, "time of entry 0 is '9999.*, but must be a date"),
        ({"time": ["2001-05-01T00:00:00.0000001"] * 3}, r"with digits below a microsecond: give datetime64\[ns\]"),
        ({"time": ["x" * 10_000] * 3}, r"time of entry 0 is 'x{199}\.\.\., but"),
        ({"user": Unwilling()}, "user of type Unwilling is no array: not today. Give one user an entry"),
        ({"user": [[1], [2, 3], [4]]}, r"user is ragged: .*Give one user an entry"),
        ({"value": [[1], [2, 3], [4]]}, r"value is ragged: .*Give one value an entry"),
        ({"num_users": 2**31}, "num_users is 2147483648"),
        ({"item": [1, 3, 1], "value": np.array([3e38, 1, 3e38], np.float32), "duplicates": "sum"}, "entry 0"),
    ],
    ids=lambda each: each[:40] if isinstance(each, str) else ", ".join(each),
)
@pytest.mark.filterwarnings("ignore:overflow")
def test_bad_tables_that_slip_through(change, message):
    with pytest.raises(jals.DataError, match=message):
        from_arrays(**({"user": USER, "item": ITEM, "value": VALUE} | change))


def test_unknown_merge_rule_is_refused():
    with pytest.raises(jals.ArgumentError, match=r"duplicates is 'means', .*\"sum\"\. Did you mean \"mean\"\?"):
        from_arrays(USER, ITEM, VALUE, duplicates="means")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.eye(3), r"expected a two-dimensional scipy\.sparse table, got ndarray\. .*from_arrays"),
        (scipy.sparse.coo_array(np.ones(3)), r"expected a two-dimensional scipy\.sparse table, got coo_array"),
        (scipy.sparse.csr_array((3, 4)), "the table is empty"),
        (scipy.sparse.csr_array(np.array([[1.0, np.nan]])), "value of entry 1 is nan"),
        (scipy.sparse.csr_array(np.array([[1j]])), "value must be real numbers"),
        (scipy.sparse.coo_array(([1.0, 2.0], ([0, 0], [1, 1]))), "user 0, item 1 at entries 0 and 1"),
    ],
)
def test_bad_scipy_tables_are_refused(table, message):
    with pytest.raises(jals.DataError, match=message):
        from_scipy(table)


def test_sparse_tables_that_are_none():
    with pytest.raises(jals.DataError, match=r"expected a two-dimensional scipy\.sparse table, got"):
        from_scipy(scipy.sparse.csr_array)  # the class
    table = scipy.sparse.csr_array(np.eye(3))
    table.data = table.data[:-1]
    with pytest.raises(jals.DataError, match="the csr_array is not a valid sparse table"):
        from_scipy(table)
    with pytest.raises(jals.DataError, match="the table is empty"):
        from_scipy(scipy.sparse.csr_array((3, 3)))


@pytest.mark.parametrize("form", ["csr_array", "csc_array", "coo_array", "csr_matrix", "dok_array", "lil_matrix"])
def test_both_doors_give_the_same_table(form):
    rng = np.random.default_rng(0)
    user, item = np.nonzero(rng.random((6, 9)) < 0.4)
    shuffle = rng.permutation(len(user))
    value = rng.normal(size=len(user)).astype(np.float32)
    table = scipy.sparse.coo_array((value, (user, item)), shape=(8, 9))
    by_scipy = from_scipy(getattr(scipy.sparse, form)(table))
    by_arrays = from_arrays(user[shuffle], item[shuffle], value[shuffle], num_users=8, num_items=9)
    assert (by_scipy.num_users, by_scipy.num_items) == (8, 9)
    np.testing.assert_equal(sorted_columns(by_scipy), sorted_columns(by_arrays))
    assert by_scipy.data_hash() == by_arrays.data_hash()


def test_stored_zeros_are_observed():
    ratings = from_scipy(scipy.sparse.coo_array(([0.0, 2.0], ([0, 1], [1, 0])), shape=(2, 2)).tocsr())
    np.testing.assert_array_equal(ratings.value, [0, 2])


def test_scipy_duplicates_can_be_merged():
    table = scipy.sparse.coo_array(([1.0, 2.0, 5.0], ([0, 0, 1], [1, 1, 0])))
    np.testing.assert_array_equal(from_scipy(table, duplicates="sum").value, [3, 5])


def merged_by_loop(entries, rule):
    """`entries` are (user, item, value, weight, time); returns the same and the source index, in input order."""
    groups = {}
    for place, (user, item, *rest) in enumerate(entries):
        groups.setdefault((user, item), []).append((place, *rest))
    merged = []
    for (user, item), group in groups.items():
        places, values, weights, times = zip(*group, strict=True)
        if rule == "last":
            merged.append((places[-1], user, item, values[-1], weights[-1], times[-1]))
            continue
        share = weights if sum(weights) > 0 else [1] * len(weights)
        mean = sum(w * v for w, v in zip(share, values, strict=True)) / sum(share)
        value = sum(values) if rule == "sum" else mean
        merged.append((places[0], user, item, value, sum(weights) / len(weights), max(times)))
    source, *columns = zip(*sorted(merged), strict=True)
    return *columns, source


ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 3), st.integers(0, 2), st.integers(-8, 8), st.sampled_from([0, 0.5, 1, 3]), st.integers(0, 9)
    ),
    min_size=1,
    max_size=30,
)


@settings(deadline=None)
@given(ENTRIES, st.sampled_from(["last", "mean", "sum"]))
def test_duplicates_are_merged_like_a_loop(entries, rule):
    user, item, value, weight, time = zip(*entries, strict=True)
    merged = from_arrays(user, item, np.array(value, float), weight=weight, duplicates=rule, time=time)
    for name, column in zip(COLUMNS, merged_by_loop(entries, rule), strict=True):
        np.testing.assert_allclose(getattr(merged, name), column, rtol=1e-14, err_msg=name)
    bare = from_arrays(user, item, np.array(value, float), duplicates=rule)
    alike = [(*entry[:3], 1, 0) for entry in entries]
    np.testing.assert_allclose(bare.value, merged_by_loop(alike, rule)[2], rtol=1e-14)
    assert bare.weight is None
    assert bare.time is None


def test_dates_are_kept_and_merged():
    days = np.array(["2001-05-01", "2003-01-01", "2002-01-01"], "datetime64[D]")
    merged = from_arrays([0, 0, 1], [0, 0, 0], [1.0, 2.0, 3.0], duplicates="mean", time=days)
    np.testing.assert_array_equal(merged.time, days[[1, 2]])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.array([30, 10, 20], np.uint8), np.array([30, 10, 20])),
        (np.array([3, 1, 2.5], np.float32), np.array([3, 1, 2.5])),
        (np.array([30, 10, 20], object), np.array([30, 10, 20])),
        (["2001-05-01", "2003-01-01T10:30:00.25", "2002-01-01 10:30:00+02:00"], None),
        ([datetime.date(2001, 5, 1), datetime.datetime(2003, 1, 1, 10, 30, 0, 250_000), UTC_2], None),
        (np.array(["2001-05-01", "2003-01-01T10:30:00.250", "2002-01-01T08:30"], "datetime64[ns]"), None),
    ],
    ids=["small integers", "small reals", "objects", "text", "Python's dates", "nanoseconds"],
)
def test_times_have_one_of_three_types(given, kept):
    if kept is None:
        kept = np.array(["2001-05-01", "2003-01-01T10:30:00.250", "2002-01-01T08:30"], "datetime64[us]")
    for rule in ("error", "mean", "sum", "last"):
        ratings = from_arrays(USER, ITEM, VALUE, time=given, duplicates=rule)
        assert ratings.time.dtype == kept.dtype
        np.testing.assert_array_equal(ratings.time, kept)
    merged = from_arrays([0, 0, 0], [0, 0, 0], VALUE, time=given, duplicates="sum")
    np.testing.assert_array_equal(merged.time, [kept.max()])


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (np.array([3, 1, 2], "M8[s]"), "us"),
        (np.array([3, 1, 2], ">M8[25s]"), "us"),
        (np.array(["9999-12-31", "-9999-01-01", "1970-01-01"], "M8[D]"), "us"),
        (np.array([2**62, -(2**62), 0], "M8[us]"), "us"),
        (np.array([3000, 1000, 2000], "M8[ns]"), "us"),
        (np.array([3000, 1000, 1001], "M8[ns]"), "ns"),
        (np.array([3000, 1000, 2000], ">M8[ps]"), "ns"),
    ],
    ids=lambda each: f"{getattr(each, 'dtype', each)}",
)
def test_moments_are_never_moved(given, kept):
    ratings = from_arrays(USER, ITEM, VALUE, time=given)
    assert ratings.time.dtype == f"datetime64[{kept}]"
    np.testing.assert_array_equal(ratings.time, given)


def test_a_zone_that_names_no_offset_is_none(monkeypatch):
    """Python takes such a moment for one of the machine's own zone."""

    class Nowhere(datetime.tzinfo):
        def utcoffset(self, _):
            return None

    moment = datetime.datetime(2001, 5, 1, 10, 30)
    try:
        with monkeypatch.context() as patch:
            patch.setenv("TZ", "Asia/Kolkata")
            time.tzset()
            ratings = from_arrays([0, 1], [0, 0], [1.0, 2.0], time=[moment.replace(tzinfo=Nowhere()), moment])
    finally:
        time.tzset()
    assert ratings.time.tolist() == [moment] * 2


def test_a_table_is_not_made_inside_jit():
    with pytest.raises(jals.DataError, match="value is traced: make the table outside of jit"):
        jax.jit(lambda value: from_arrays(USER, ITEM, value).value)(np.ones(3))


def test_sorted_orders_by_user_and_item():
    ratings = from_arrays(USER, ITEM, VALUE, num_items=9, weight=[1, 2, 3], time=[7, 8, 9]).sorted()
    for name, column in zip(COLUMNS, ([0, 2, 2], [3, 0, 1], [1, 2.5, 4], [2, 3, 1], [8, 9, 7], [1, 2, 0]), strict=True):
        np.testing.assert_array_equal(getattr(ratings, name), column)
    assert (ratings.num_users, ratings.num_items) == (3, 9)


def test_select_keeps_shape_and_order():
    ratings = from_arrays(USER, ITEM, VALUE, weight=[1, 2, 3], time=[7, 8, 9])
    for which in (np.array([True, False, True]), np.array([0, 2])):
        part = ratings.select(which)
        for name in COLUMNS:
            np.testing.assert_array_equal(getattr(part, name), getattr(ratings, name)[[0, 2]])
        assert (part.num_users, part.num_items) == (3, 4)
    with pytest.raises(jals.DataError, match="leaves no entry"):
        ratings.select(np.zeros(3, bool))


def test_hash_ignores_order_and_sees_every_change():
    whole = {"user": USER, "item": ITEM, "value": VALUE, "weight": [1, 1, 2]}
    changes = [
        {"user": [2, 1, 2]},
        {"item": [1, 2, 0]},
        {"user": [2, 2, 0], "item": [1, 3, 0]},
        {"value": [4.0, 1.0, np.nextafter(2.5, 3)]},
        {"value": [4.0, 2.5, 1.0]},
        {"value": np.array(VALUE, np.float32)},
        {"weight": [1, 2, 1]},
        {"weight": None},
        {"num_users": 4},
        {"num_items": 5},
    ]
    hashes = [from_arrays(**(whole | change)).data_hash() for change in [{}, *changes]]
    assert len(set(hashes)) == len(hashes)
    user, item, value, weight = (np.array(column)[[2, 0, 1]] for column in whole.values())
    assert from_arrays(user, item, value, weight=weight).data_hash() == hashes[0]
    assert from_arrays(**whole, time=[1, 2, 3]).data_hash() == hashes[0]


def test_ratings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        from_arrays(USER, ITEM, VALUE).num_users = 5  # pyright: ignore[reportAttributeAccessIssue]

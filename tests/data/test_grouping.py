"""Sorting and laying out a table's entries: in C++ as by NumPy, to the last bit."""

import ctypes

import numpy as np
import pytest

import jals
from jals.data import grouping
from tests.support import ROOT
from tests.support.compiler import build

pytestmark = pytest.mark.newest


@pytest.fixture(params=["compiled", "numpy"])
def by(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setattr(grouping, "library", lambda: None)
    elif grouping.library() is None:
        pytest.skip("needs jals/data/native/_grouping.so: a C++ compiler when jals is installed")
    return request.param


def entries(rows, others, count, seed=0):
    """Distinct pairs in no order, some rows long, some empty."""
    rng = np.random.default_rng(seed)
    pairs = rng.choice(rows * others, count, replace=False)
    row = (rows * (pairs // others / rows) ** 2).astype(np.int32)  # crowds the low ones
    other = (pairs % others).astype(np.int32)
    kept = np.unique(row.astype(np.int64) * others + other, return_index=True)[1]
    kept = rng.permutation(kept)
    return row[kept], other[kept]


@pytest.mark.parametrize("count, cores", [(1, 1), (50, 4), (300_000, 1), (300_000, 3)])
def test_entries_are_grouped_by_row_in_input_order(by, monkeypatch, count, cores):
    monkeypatch.setattr(grouping, "cores", lambda: cores)
    row, _ = entries(2_000, 1_000, count)
    start, order = grouping.group(row, 2_001)
    order = np.arange(len(row)) if order is None else order
    np.testing.assert_array_equal(order, np.argsort(row, kind="stable"))
    np.testing.assert_array_equal(np.diff(start), np.bincount(row, minlength=2_001))


def test_what_is_sorted_already_is_not_sorted(by):
    start, order = grouping.group(np.array([0, 0, 2, 2, 2], np.int32), 4)
    assert order is None and start.tolist() == [0, 2, 2, 5, 5]
    assert grouping.group(np.array([2, 0], np.int32), 3, sort=False)[1] is None


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize("place", [0, 100_000, -1])
def test_a_pair_that_occurs_again_is_found_wherever_it_is(by, monkeypatch, place, cores):
    monkeypatch.setattr(grouping, "cores", lambda: cores)
    row, other = entries(3_000, 500, 250_000)
    assert grouping.distinct(row, other, 3_000, 500)
    again = np.append(row, row[place]), np.append(other, other[place])
    assert not grouping.distinct(*again, 3_000, 500)
    assert grouping.distinct(np.arange(3, dtype=np.int32), np.zeros(3, np.int32), 2**31 - 1, 2**31 - 1)


@pytest.mark.parametrize("cores", [1, 3])
def test_pieces_hold_their_entries_and_padding(by, monkeypatch, cores):
    monkeypatch.setattr(grouping, "cores", lambda: cores)
    row, other = entries(900, 700, 200_000)
    start, order = grouping.group(row, 900)
    begin, length = start[:-1].astype(np.int32).reshape(30, 30), np.minimum(np.diff(start), 250).reshape(30, 30)
    others, numbers = grouping.fill(begin, length, 250, order, other)
    for at in np.ndindex(30, 30):
        mine = np.flatnonzero(row == at[0] * 30 + at[1])[:250]
        np.testing.assert_array_equal(numbers[at], np.pad(mine, (0, 250 - len(mine)), constant_values=len(row)))
        np.testing.assert_array_equal(others[at], np.pad(other[mine], (0, 250 - len(mine))))
    assert others.ctypes.data % 64 == numbers.ctypes.data % 64 == 0


def test_rows_that_are_out_of_range_are_not_written_with():
    """They reach it only of Ratings that were made by hand: NumPy then has its own words."""
    with pytest.raises((IndexError, ValueError)):
        grouping.group(np.array([3, -1, 0], np.int32), 4)


def test_a_library_of_other_sources_is_not_called(tmp_path, monkeypatch):
    source = tmp_path / "other.cpp"
    source.write_text('extern "C" int jals_grouping() { return 999; }')
    (tmp_path / "native").mkdir()
    built = build(source, tmp_path / "native" / "_grouping.so", "-shared", "-fPIC")
    assert built.returncode == 0, built.stderr
    monkeypatch.setattr(grouping, "__file__", str(tmp_path / "grouping.py"))
    grouping.library.cache_clear()
    try:
        assert grouping.library() is None
    finally:
        grouping.library.cache_clear()


def test_the_library_is_of_these_sources(tmp_path):
    """An installation is renewed with its sources; and what they say of themselves is what is asked."""
    built = build(ROOT / "jals/data/native/grouping.cpp", tmp_path / "again.so", "-shared", "-fPIC", "-pthread")
    assert built.returncode == 0, built.stderr
    found = grouping.library()
    if found is not None:
        assert ctypes.CDLL(str(tmp_path / "again.so")).jals_grouping() == found.jals_grouping()


def test_ratings_keep_the_columns_that_they_are_given():
    """Nothing is held twice: not by the table, and on a CPU not by the problem of it."""
    columns = [grouping.empty(4, dtype) for dtype in (np.int32, np.int32, np.float32)]
    for column, numbers in zip(columns, ([0, 1, 2, 2], [1, 0, 0, 1], [1, 2, 3, 4.5]), strict=True):
        column[:] = numbers
    ratings = jals.Ratings.from_arrays(*columns)
    problem = jals.Problem.build(ratings)
    for name, column in zip(("user", "item", "value"), columns, strict=True):
        assert getattr(ratings, name) is column
        assert np.shares_memory(np.asarray(getattr(problem, name)), column), name
    assert ratings.places is None


@pytest.mark.parametrize("mask", [True, False])
def test_a_selection_is_not_held_twice_either(mask):
    """What a split makes, wherever NumPy puts it: the training part of a large table is most of what a fit takes."""
    rng = np.random.default_rng(0)
    for count in (3, 40, 700, 50_000):
        columns = np.arange(count), rng.integers(9, size=count), rng.normal(size=count), None, None, rng.random(count)
        ratings = jals.Ratings.from_arrays(*columns)
        which = rng.random(count) < 0.9 if mask else rng.permutation(count)[: count // 2 + 1]
        part = ratings.select(which)
        problem = jals.Problem.build(part)
        for name in ("user", "item", "value"):
            assert (getattr(part, name) == getattr(ratings, name)[which]).all(), name
            assert np.shares_memory(np.asarray(getattr(problem, name)), getattr(part, name)), name
        assert np.shares_memory(np.asarray(problem.given_weight), part.weight)

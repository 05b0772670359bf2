"""Splits: disjoint, complete, reproducible, as slow loops make them, and Surprise's own folds."""

import dataclasses
import os
import pathlib
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jals

SIZE = 103
SPLITS = {
    "random": jals.split.random,
    "by_user": lambda ratings, seed: jals.split.by_user(ratings, 0.5, seed),
    "fold_numbers": lambda ratings, seed: jals.split.fold_numbers(ratings, 5, seed),
    "kfold": lambda ratings, seed: jals.split.kfold(ratings, 5, seed),
}


@pytest.fixture(scope="module")
def ratings():
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(40 * 30, SIZE, replace=False), 30)
    columns = {"value": rng.normal(size=SIZE), "weight": rng.random(SIZE), "time": rng.integers(0, 99, SIZE)}
    return jals.Ratings.from_arrays(user, item, **columns, num_users=41, num_items=30)


def assert_splits(ratings, train, test):
    both = np.concatenate([train.source_index, test.source_index])
    np.testing.assert_array_equal(np.sort(both), np.arange(len(ratings)))
    for part in (train, test):
        assert (part.num_users, part.num_items) == (ratings.num_users, ratings.num_items)
        assert (np.diff(part.source_index) > 0).all()
        for name in ("user", "item", "value", "weight", "time"):
            np.testing.assert_array_equal(getattr(part, name), getattr(ratings, name)[part.source_index])


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5, 0.99])
def test_random_holds_out_that_fraction(ratings, fraction):
    train, test = jals.split.random(ratings, fraction)
    assert len(test) == round(fraction * SIZE)
    assert_splits(ratings, train, test)


def test_random_follows_its_seed(ratings):
    tests = [jals.split.random(ratings, 0.3, seed)[1].source_index.tolist() for seed in (0, 0, 1, 2)]
    assert tests[0] == tests[1] == jals.split.random(ratings, 0.3)[1].source_index.tolist()
    assert len(set(map(tuple, tests))) == 3


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), 1e-9, 1 - 1e-9])
def test_random_refuses_an_empty_part(ratings, fraction):
    with pytest.raises(jals.ArgumentError, match=rf"test_fraction is {fraction}, .* choose it between 0 and 1"):
        jals.split.random(ratings, fraction)


def test_random_draws_what_it_always_drew(ratings):
    """The numbers in the README and in studies are those of NumPy's `choice` for a seed."""
    held_out = np.sort(np.random.default_rng(7).choice(SIZE, 31, replace=False))
    np.testing.assert_array_equal(jals.split.random(ratings, 0.3, 7)[1].source_index, held_out)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("seed", [-1, "a", 1.0, None, True, [1]])
def test_bad_seeds_are_refused(ratings, split, seed):
    with pytest.raises(jals.ArgumentError, match=re.escape(f"seed is {seed!r}, but must be a whole number >= 0")):
        SPLITS[split](ratings, seed=seed)


@pytest.mark.parametrize("split", ["random", "by_user", "fold_numbers"])
def test_numpy_seeds_are_seeds(ratings, split):
    one, two = (SPLITS[split](ratings, seed=seed) for seed in (5, np.uint8(5)))
    for part, same in zip(one, two, strict=True):
        np.testing.assert_array_equal(*(getattr(each, "source_index", each) for each in (part, same)))


def test_seeds_beyond_the_legacy_generator_are_refused_for_folds_only(ratings):
    jals.split.random(ratings, seed=2**32)
    with pytest.raises(jals.ArgumentError, match=r"seed is 4294967296, but .* end at 2\*\*32 - 1"):
        jals.split.kfold(ratings, seed=2**32)


@pytest.mark.parametrize("split", [jals.split.random, jals.split.by_user, jals.split.by_time])
@pytest.mark.parametrize("fraction", ["x", None, [0.1], 1j])
def test_fractions_that_are_no_numbers_are_refused(ratings, split, fraction):
    message = re.escape(f"test_fraction is {fraction!r}, but must be a number between 0 and 1")
    with pytest.raises(jals.ArgumentError, match=message):
        split(ratings, fraction)


@pytest.mark.parametrize("split", [*SPLITS.values(), lambda table, seed: jals.split.leave_last_out(table)])
def test_other_tables_are_refused(split):
    with pytest.raises(jals.ArgumentError, match=r"ratings is of type list, but must be a jals\.Ratings"):
        split([[1, 2, 3.0]], seed=0)


def tables(times):
    """Small tables in any order of entries, with empty users."""
    pairs = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 7)), min_size=1, max_size=40, unique=True)

    @st.composite
    def draw_one(draw):
        user, item = np.array(draw(pairs)).T
        size = len(user)
        time = np.array(draw(st.lists(times, min_size=size, max_size=size)))
        value = np.arange(size, dtype=np.float32)
        return jals.Ratings.from_arrays(user, item, value, num_users=7, num_items=8, weight=value + 1, time=time)

    return draw_one()


TIMES = {
    "integers": st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
    "reals": st.sampled_from([-0.0, 0.0]) | st.floats(allow_nan=False, allow_infinity=False),
    "dates": st.integers(-3, 3).map(lambda day: np.datetime64(day, "us")),
}


@pytest.mark.parametrize("kind", TIMES)
def test_leave_last_out_is_the_loop(kind):
    @settings(max_examples=100, deadline=None)
    @given(tables(TIMES[kind]), st.integers(1, 3))
    def check(ratings, count):
        held_out = []
        for user in range(ratings.num_users):
            entries = np.flatnonzero(ratings.user == user).tolist()
            if len(entries) > count:
                held_out += sorted(entries, key=lambda entry: (ratings.time[entry], entry))[-count:]
        if not held_out:
            with pytest.raises(jals.ArgumentError, match="nothing would be held out"):
                jals.split.leave_last_out(ratings, count)
            return
        train, test = jals.split.leave_last_out(ratings, count)
        assert_splits(ratings, train, test)
        assert test.source_index.tolist() == sorted(held_out)

    check()


@pytest.mark.parametrize("kind", TIMES)
def test_by_time_is_the_loop(kind):
    @settings(max_examples=100, deadline=None)
    @given(tables(TIMES[kind]), st.floats(0.01, 0.99))
    def check(ratings, fraction):
        size = round(fraction * len(ratings))
        if not 0 < size < len(ratings):
            with pytest.raises(jals.ArgumentError, match=r"both parts of .* need at least one"):
                jals.split.by_time(ratings, fraction)
            return
        train, test = jals.split.by_time(ratings, fraction)
        assert_splits(ratings, train, test)
        order = sorted(range(len(ratings)), key=lambda entry: (ratings.time[entry], entry))
        assert test.source_index.tolist() == sorted(order[-size:])

    check()


@pytest.mark.parametrize("split", ["leave_last_out", "by_time"])
def test_splits_by_time_need_times(ratings, split):
    timeless = dataclasses.replace(ratings, time=None)
    with pytest.raises(jals.ArgumentError, match=f"{split} needs .* these ratings have no times: give time="):
        getattr(jals.split, split)(timeless)


@pytest.mark.parametrize("count", [0, -1, 1.0, True, None, "1"])
def test_leave_last_out_refuses_other_counts(ratings, count):
    with pytest.raises(jals.ArgumentError, match=re.escape(f"count is {count!r}, but must be a whole number >= 1")):
        jals.split.leave_last_out(ratings, count)


@settings(max_examples=200, deadline=None)
@given(tables(st.just(0)), st.floats(0, 1, exclude_min=True, exclude_max=True), st.integers(0, 2**64))
def test_by_user_holds_out_that_fraction_of_every_user(ratings, fraction, seed):
    counts = np.bincount(ratings.user, minlength=7).tolist()
    sizes = [min(round(fraction * count), max(count - 1, 0)) for count in counts]
    if not any(sizes):
        with pytest.raises(jals.ArgumentError, match=rf"largest user's {max(counts)} entries holds out none"):
            jals.split.by_user(ratings, fraction, seed)
        return
    train, test = jals.split.by_user(ratings, fraction, seed)
    assert_splits(ratings, train, test)
    assert np.bincount(test.user, minlength=7).tolist() == sizes
    np.testing.assert_array_equal(jals.split.by_user(ratings, fraction, seed)[1].source_index, test.source_index)


def test_by_user_draws_every_entry_alike():
    """Of 4 entries of a user and 6 of another, halves: each entry is held out half the time, and so is each pair of a
    user's entries as often as chance has it (1/6 and 1/5)."""
    user = np.repeat([0, 1], [4, 6])
    ratings = jals.Ratings.from_arrays(user, np.r_[:4, :6], np.ones(10))
    draws = 3000
    held = np.zeros((draws, 10))
    for seed in range(draws):
        held[seed, jals.split.by_user(ratings, 0.5, seed)[1].source_index] = 1
    together = held.T @ held / draws
    expected = np.where(user[:, None] == user, np.where(user == 0, 1 / 6, 1 / 5), 1 / 4)
    expected[np.diag_indices(10)] = 1 / 2
    deviation = np.sqrt(expected * (1 - expected) / draws)
    assert np.abs(together - expected).max() < 5 * deviation.min()


@pytest.mark.parametrize("folds", [2, 5, SIZE])
def test_folds_are_even_and_cover_the_table(ratings, folds):
    number = jals.split.fold_numbers(ratings, folds, seed=3)
    sizes = np.bincount(number, minlength=folds)
    assert number.shape == (SIZE,)
    assert len(sizes) == folds
    assert sizes.max() - sizes.min() <= 1
    parts = list(jals.split.kfold(ratings, folds, seed=3))
    assert len(parts) == folds
    for fold, (train, test) in enumerate(parts):
        assert_splits(ratings, train, test)
        np.testing.assert_array_equal(test.source_index, np.flatnonzero(number == fold))


def test_folds_follow_their_seed(ratings):
    first, again, other = (jals.split.fold_numbers(ratings, 5, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize("folds", [-1, 0, 1, SIZE + 1, True, 2.0, "5", None])
def test_folds_out_of_range_are_refused(ratings, folds):
    message = rf"folds is {folds!r}, but must be a whole number from 2 to the {SIZE} entries"
    with pytest.raises(jals.ArgumentError, match=message):
        jals.split.fold_numbers(ratings, folds)
    with pytest.raises(jals.ArgumentError, match=message):
        list(jals.split.kfold(ratings, folds))


def test_folds_are_those_of_surprise():
    """The published numbers on MovieLens 100K are on these folds: KFold(5, random_state=0)."""
    path = pathlib.Path(os.environ.get("JALS_DATA", ""), "ml100k.npz")
    if "JALS_DATA" not in os.environ or not path.exists():
        pytest.skip("needs ml100k.npz in the folder named by JALS_DATA")
    with np.load(path) as table:
        ratings = jals.Ratings.from_arrays(table["user"], table["item"], table["rating"])
        np.testing.assert_array_equal(jals.split.fold_numbers(ratings, 5, seed=0), table["surprise_fold"])

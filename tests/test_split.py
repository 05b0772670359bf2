"""Splits: disjoint, complete, reproducible, and Surprise's own folds."""

import os
import pathlib

import numpy as np
import pytest

import jals

SIZE = 103


@pytest.fixture(scope="module")
def ratings():
    rng = np.random.default_rng(0)
    user, item = np.divmod(rng.choice(40 * 30, SIZE, replace=False), 30)
    columns = {"value": rng.normal(size=SIZE), "weight": rng.random(SIZE), "time": rng.integers(0, 99, SIZE)}
    return jals.Ratings.from_arrays(user, item, **columns, num_users=41, num_items=30)


def assert_splits(ratings, train, test):
    both = np.concatenate([train.source_index, test.source_index])
    np.testing.assert_array_equal(np.sort(both), np.arange(SIZE))
    for part in (train, test):
        assert (part.num_users, part.num_items) == (41, 30)
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


@pytest.mark.parametrize("folds", [-1, 0, 1, SIZE + 1])
def test_folds_out_of_range_are_refused(ratings, folds):
    message = rf"folds is {folds}, but must be a whole number from 2 to the {SIZE} entries"
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

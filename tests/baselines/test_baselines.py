"""Each baseline against plain NumPy loops on tables of a dozen users."""

import dataclasses
import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.baselines import ease, item_knn, most_popular

USERS, ITEMS = 13, 7


def table(dtype=np.float64, seed=0):
    """(X, the same as ratings); user 4 and item 2 have nothing, items 5 and 6 the same users."""
    rng = np.random.default_rng(seed)
    X = np.where(rng.random((USERS, ITEMS)) < 0.5, rng.integers(1, 6, (USERS, ITEMS)), 0).astype(dtype)
    X[4], X[:, 2], X[:, 6] = 0, 0, X[:, 5]
    user, item = np.nonzero(X)
    order = rng.permutation(len(user))
    user, item = user[order], item[order]
    return X, jals.Ratings.from_arrays(user, item, X[user, item], USERS, ITEMS)


def test_popularity_counts_entries_or_their_weights():
    _, ratings = table(np.float32)
    weight = np.linspace(0, 2, len(ratings), dtype=np.float32)
    for weights, each in ((None, np.ones(len(ratings))), (weight, weight)):
        expected = np.zeros(ITEMS)
        for i, v in zip(ratings.item, each, strict=True):
            expected[i] += v
        scores = most_popular(dataclasses.replace(ratings, weight=weights)).scores([3, 3, 0])
        assert scores.shape == (3, ITEMS) and scores.dtype == np.float32
        np.testing.assert_allclose(scores, np.tile(expected, (3, 1)), rtol=1e-6)


def similarity(X, i, j, shrink, measure):
    if measure == "cosine":
        size = np.sqrt(sum(x * x for x in X[:, i])) * np.sqrt(sum(x * x for x in X[:, j])) + shrink
        together = sum(x * y for x, y in zip(X[:, i], X[:, j], strict=True))
    else:
        size = sum(1 for x, y in zip(X[:, i], X[:, j], strict=True) if x or y) + shrink
        together = sum(1 for x, y in zip(X[:, i], X[:, j], strict=True) if x and y)
    return together / size if size else 0.0


@pytest.mark.parametrize("measure", ["cosine", "jaccard"])
@pytest.mark.parametrize("neighbours, shrink", [(1, 0.0), (3, 2.5), (100, 1)])
def test_item_knn_by_loops(measure, neighbours, shrink):
    X, ratings = table()
    model = item_knn(ratings, neighbours, shrink, measure)
    expected = np.zeros((USERS, ITEMS))
    for i in range(ITEMS):
        like = {j: similarity(X, i, j, shrink, measure) for j in range(ITEMS) if j != i}
        near = sorted(like, key=lambda j: (-round(like[j], 12), j))[:neighbours]
        assert model.item[i].tolist() == near
        for u in range(USERS):
            expected[u, i] = sum(X[u, j] * like[j] for j in near)
    users = np.array([5, 4, 12, 5])
    np.testing.assert_allclose(model.scores(users), expected[users], rtol=1e-12, atol=1e-12)


def test_ease_minimises_its_loss_among_zero_diagonals():
    """The gradient of the loss vanishes off the diagonal (not on it, where B is held), and so at no other B."""
    X, ratings = table()
    model = ease(ratings, reg=3.0)

    def loss(B):
        return jnp.sum((X - X @ B) ** 2) + 3.0 * jnp.sum(B**2)

    slope = np.asarray(jax.grad(loss)(jnp.asarray(model.weight)))
    on = np.eye(ITEMS, dtype=bool)
    assert not np.diag(model.weight).any()
    assert np.abs(slope[~on]).max() < 1e-11 < 1 < np.abs(slope[on]).max()
    np.testing.assert_allclose(model.scores(np.arange(USERS)), X @ model.weight, atol=1e-12)


def test_ease_of_one_item_by_ridge_regression():
    X, ratings = table()
    others = np.delete(np.arange(ITEMS), 3)
    A = X[:, others].T @ X[:, others] + 0.7 * np.eye(ITEMS - 1)
    column = np.linalg.solve(A, X[:, others].T @ X[:, 3])
    np.testing.assert_allclose(ease(ratings, 0.7).weight[others, 3], column, rtol=1e-11, atol=1e-14)


MODELS = {"most_popular": most_popular, "item_knn": item_knn, "ease": lambda ratings: ease(ratings, 1.0)}


@pytest.mark.parametrize("name", MODELS)
def test_dtype_order_and_lines(name):
    """Scores have the values' dtype, do not depend on the order of entries, and entries of weight 0 are missing."""
    _, ratings = table(np.float32)
    model = MODELS[name](ratings)
    scores = model.scores(np.arange(USERS))
    assert scores.dtype == np.float32 and scores.shape == (USERS, ITEMS)
    assert model.scores([]).shape == (0, ITEMS)
    assert "7 items" in repr(model) and len(repr(model)) < 80
    np.testing.assert_array_equal(MODELS[name](ratings.sorted()).scores(np.arange(USERS)), scores)
    kept = np.arange(len(ratings)) % 3 > 0
    masked = MODELS[name](dataclasses.replace(ratings, weight=kept.astype(np.float32)))
    fewer = MODELS[name](ratings.select(kept))
    np.testing.assert_array_equal(masked.scores([0, 1, 7]), fewer.scores([0, 1, 7]))
    assert not np.array_equal(masked.scores([0, 1, 7]), scores[[0, 1, 7]])


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "users, said",
    [([0, USERS], "user 13 is out of range: the table has 13"), ([-1], "user -1 is"), ([0.5], "whole"), (3, "list")],
)
def test_users_that_cannot_be(name, users, said):
    with pytest.raises(jals.ArgumentError, match=said):
        MODELS[name](table()[1]).scores(users)


@pytest.mark.parametrize(
    "make, said",
    [
        (lambda ratings: most_popular(ratings.value), "takes jals.Ratings, got ndarray"),
        (lambda ratings: ease(ratings, 0), "reg is 0, but must be a finite number > 0"),
        (lambda ratings: ease(ratings, np.nan), "reg is nan"),
        (lambda ratings: ease(ratings, "1"), "reg is '1'"),
        (lambda ratings: item_knn(ratings, 0), "neighbours is 0, but must be a whole number >= 1"),
        (lambda ratings: item_knn(ratings, 2.0), "neighbours is 2.0"),
        (lambda ratings: item_knn(ratings, shrink=-1), "shrink is -1, but must be"),
        (lambda ratings: item_knn(ratings, measure="cosin"), 'Did you mean "cosine"'),
        (lambda ratings: item_knn(jals.Ratings.from_arrays([0, 1], [0, 0], [1, 1])), "has no neighbours"),
    ],
)
def test_arguments_that_cannot_be(make, said):
    with pytest.raises(jals.ArgumentError, match=said):
        make(table()[1])


@pytest.mark.parametrize("make", [item_knn, lambda ratings: ease(ratings, 1.0)])
def test_weights_are_refused_by_name(make):
    weighted = dataclasses.replace(table()[1], weight=np.full(len(table()[1]), 0.5))
    with pytest.raises(jals.DataError, match=r"weight of entry 0 is 0.5, but \w+ knows no weights"):
        make(weighted)
    with pytest.raises(jals.DataError, match="every entry has weight 0"):
        make(dataclasses.replace(weighted, weight=np.zeros(len(weighted))))


def test_what_does_not_fit_is_refused_with_its_bytes():
    wide = jals.Ratings.from_arrays([0, 1], [0, 1], [1.0, 1.0], num_items=100_000)
    said = re.escape("240,000,000,000 bytes (224 GiB)") + ".*16 GiB"
    patched = mock.patch("jals.baselines.linear.memory_bytes", return_value=2**34)
    with patched, pytest.raises(jals.ArgumentError, match=said):
        ease(wide, 1.0)

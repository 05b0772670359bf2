"""Predictions and their accuracy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import metrics
from jals.model.factors import CHUNK


def random_factors(dtype=np.float64, bias=True, mean=True, rank=3):
    """5 users x 4 items; user 4 and item 3 are cold: rows and biases 0."""
    rng = np.random.default_rng(0)
    columns = [rng.normal(size=size) for size in ((5, rank), (4, rank), 5, 4)]
    for column in columns:
        column[-1] = 0
    user, item, user_bias, item_bias, middle = (jnp.asarray(column, dtype) for column in [*columns, 3.5])
    biases = (user_bias, item_bias) if bias else (None, None)
    return jals.Factors(user, item, *biases, mean=middle if mean else None)


def by_loop(factors, user, item):
    score = sum(float(x) * float(y) for x, y in zip(factors.user[user], factors.item[item], strict=True))
    if factors.user_bias is not None:
        score += float(factors.user_bias[user]) + float(factors.item_bias[item])
    return score + (0 if factors.mean is None else float(factors.mean))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("mean", [False, True])
def test_predict_is_the_score(dtype, bias, mean):
    factors = random_factors(dtype, bias, mean)
    user, item = (index.ravel() for index in np.indices((5, 4)))
    scores = jals.predict(factors, user, item)
    assert scores.dtype == dtype
    expected = [by_loop(factors, u, i) for u, i in zip(user, item, strict=True)]
    np.testing.assert_allclose(scores, expected, rtol=1e-5 if dtype == np.float32 else 1e-12)


def test_cold_rows_are_predicted_by_mean_and_known_bias():
    factors = random_factors()
    np.testing.assert_allclose(jals.predict(factors, 4, 1), 3.5 + factors.item_bias[1], rtol=1e-14)
    np.testing.assert_allclose(jals.predict(factors, 2, 3), 3.5 + factors.user_bias[2], rtol=1e-14)
    assert jals.predict(factors, 4, 3) == 3.5
    assert jals.predict(random_factors(bias=False, mean=False), 4, 3) == 0


@pytest.mark.parametrize("bias", [False, True])
def test_rows_unseen_in_a_fit_are_predicted_without_nan(bias):
    user, item = (index.ravel() for index in np.indices((5, 6)))
    value = np.random.default_rng(0).normal(size=30) + 3
    problem = jals.Problem.build(jals.Ratings.from_arrays(user, item, value, num_users=7, num_items=8))
    for preset, reg in itertools.product((jals.explicit, jals.als_wr), (0.0, 0.1)):
        factors = jals.fit(jals.ALS(rank=2), problem, preset(reg, bias=bias, center=True), sweeps=3).factors
        user_bias, item_bias = (factors.user_bias, factors.item_bias) if bias else (np.zeros(7), np.zeros(8))
        of_cold_user = jals.predict(factors, 6, np.arange(8))
        of_cold_item = jals.predict(factors, np.arange(7), 7)
        np.testing.assert_allclose(of_cold_user, value.mean() + item_bias, rtol=1e-12)
        np.testing.assert_allclose(of_cold_item, value.mean() + user_bias, rtol=1e-12)
        assert of_cold_user[7] == of_cold_item[6] == factors.mean


def test_ids_broadcast():
    factors = random_factors()
    table = jals.predict(factors, np.arange(5)[:, None], np.arange(4))
    assert table.shape == (5, 4)
    np.testing.assert_array_equal(jals.predict(factors, 2, [0, 3]), table[2, [0, 3]])
    np.testing.assert_array_equal(jals.predict(factors, jnp.array([1]), jnp.array([2])), table[1, 2:3])
    assert jals.predict(factors, np.zeros(0, int), np.zeros(0, int)).shape == (0,)


def test_clip_limits_scores():
    factors = random_factors()
    plain = jals.predict(factors, np.arange(5)[:, None], np.arange(4))
    assert plain.min() < 3
    assert plain.max() > 4
    clipped = jals.predict(factors, np.arange(5)[:, None], np.arange(4), clip=(3, 4))
    np.testing.assert_array_equal(clipped, np.clip(plain, 3, 4))


@pytest.mark.parametrize(
    ("user", "item", "message"),
    [
        ([0, -1], 0, r"user id -1 is out of range: the factors have 5 users"),
        ([0, 5], 0, "user id 5 is out of range"),
        (0, [3, 4], r"item id 4 is out of range: the factors have 4 items"),
        (0.0, 0, "user ids must be integers, got float64"),
        (0, [True], "item ids must be integers, got bool"),
        (["a"], 0, "user ids must be integers, got <U1"),
        (None, 0, "user ids must be integers, got object"),
        ([[1], [1, 2]], 0, "user ids are no array of integers"),
        (0, [[1], [1, 2]], "item ids are no array of integers"),
        ([0, 1], [0, 1, 2], r"user has shape \(2,\), item \(3,\): give ids of one shape"),
    ],
)
def test_bad_ids_are_refused(user, item, message):
    with pytest.raises(jals.ArgumentError, match=message):
        jals.predict(random_factors(), user, item)


@pytest.mark.parametrize(
    ("clip", "message"),
    [
        (5, r"clip is 5, but must be a pair \(low, high\), or None"),
        ((1, 2, 3), r"clip is \(1, 2, 3\), but must be a pair \(low, high\)"),
        ("15", "clip is '15', but must be a pair of numbers"),
        ((None, 5), r"clip is \(None, 5\), but must be a pair of numbers"),
        (([1, [2]], 5), "must be a pair of numbers"),
        (([1], [5]), "must be a pair of numbers"),
        ((5, 1), r"clip is \(5, 1\), but the low limit must not be above the high one"),
        ((float("nan"), 1), r"clip is \(nan, 1\), but the low limit"),
    ],
)
def test_bad_limits_are_refused(clip, message):
    with pytest.raises(jals.ArgumentError, match=message):
        jals.predict(random_factors(), 0, 0, clip=clip)


def test_limits_of_every_spelling_keep_the_dtype():
    factors = random_factors(np.float32)
    plain = jals.predict(factors, 0, np.arange(4))
    assert plain.min() < 2.5 < 3 < plain.max()
    for clip in ((2.5, 3), [2.5, 3.0], np.array([2.5, 3]), jnp.array([2.5, 3]), (np.float64(2.5), np.int8(3))):
        clipped = jals.predict(factors, 0, np.arange(4), clip=clip)
        assert clipped.dtype == np.float32
        np.testing.assert_array_equal(clipped, np.clip(plain, 2.5, 3))
    np.testing.assert_array_equal(jals.predict(factors, 0, np.arange(4), clip=(-np.inf, np.inf)), plain)
    traced = jax.jit(lambda low: jals.predict(factors, 0, np.arange(4), clip=(low, 3)))(2.5)
    np.testing.assert_array_equal(traced, np.clip(plain, 2.5, 3))


def test_many_pairs_are_scored_in_chunks_as_few_are():
    """The last, shorter chunk too; and differentiated."""
    rng = np.random.default_rng(0)
    factors = jals.Factors(*(jnp.asarray(rng.normal(size=(n, 3))) for n in (50, 40)))
    user, item = (rng.integers(0, n, (3, 50_001)) for n in (50, 40))
    assert user.size > 2 * CHUNK
    expected = np.einsum("abk,abk->ab", np.asarray(factors.user)[user], np.asarray(factors.item)[item])
    np.testing.assert_allclose(jals.predict(factors, user, item), expected, rtol=1e-12, atol=1e-12)
    slope = jax.grad(lambda factors: jals.predict(factors, user, item).sum())(factors)
    summed = np.zeros((50, 3))
    np.add.at(summed, user.ravel(), np.asarray(factors.item)[item.ravel()])
    np.testing.assert_allclose(slope.user, summed, rtol=1e-9)


def test_predict_needs_factors():
    with pytest.raises(jals.ArgumentError, match=r"factors is of type tuple: give result\.factors"):
        jals.predict((1, 2), 0, 0)  # pyright: ignore[reportArgumentType]


def test_predict_is_jitted_and_differentiated():
    factors = random_factors()
    np.testing.assert_array_equal(jax.jit(jals.predict)(factors, 1, 2), jals.predict(factors, 1, 2))
    slope = jax.grad(lambda factors: jals.predict(factors, 1, 2))(factors)
    np.testing.assert_array_equal(slope.user, np.zeros((5, 3)) + (np.arange(5) == 1)[:, None] * factors.item[2])
    np.testing.assert_array_equal(slope.item_bias, [0, 0, 1, 0])
    assert slope.mean == 1


def test_joint_appends_the_bias():
    factors = random_factors()
    np.testing.assert_array_equal(factors.joint("user")[:, :3], factors.user)
    np.testing.assert_array_equal(factors.joint("user")[:, 3], factors.user_bias)
    np.testing.assert_array_equal(factors.joint("item")[:, 3], factors.item_bias)
    assert random_factors(bias=False).joint("item").shape == (4, 3)
    assert (factors.rank, factors.dtype) == (3, np.float64)


PREDICTED, ACTUAL, WEIGHT = np.array([1.0, 2.0, 4.0]), np.array([1.5, 2.0, 1.0]), np.array([4.0, 9.0, 2.0])


def test_errors_by_hand():
    assert metrics.rmse(PREDICTED, ACTUAL) == pytest.approx(((0.25 + 9) / 3) ** 0.5, rel=1e-15)
    assert metrics.mae(PREDICTED, ACTUAL) == pytest.approx(3.5 / 3, rel=1e-15)
    assert metrics.rmse(PREDICTED, ACTUAL, WEIGHT) == pytest.approx(((1 + 18) / 15) ** 0.5, rel=1e-15)
    assert metrics.mae(PREDICTED, ACTUAL, WEIGHT) == pytest.approx((2 + 6) / 15, rel=1e-15)
    assert metrics.mae(PREDICTED, ACTUAL, [0.0, 1.0, 0.0]) == 0


@pytest.mark.parametrize("metric", [metrics.rmse, metrics.mae])
@pytest.mark.parametrize(
    "arguments", [(PREDICTED, ACTUAL[:1]), (PREDICTED[:, None], ACTUAL), (PREDICTED, ACTUAL, WEIGHT[:2]), (1.0, ACTUAL)]
)
def test_shapes_that_differ_are_refused(metric, arguments):
    shapes = [str(np.shape(argument)) for argument in arguments]
    with pytest.raises(jals.ArgumentError, match="the shapes differ") as error:
        metric(*arguments)
    assert all(shape in str(error.value) for shape in shapes)

"""Rankings with a derivative: by their formulas, user by user, and by differences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import jals
from jals.metrics import HeldOutRanking, smooth, smooth_ndcg_loss, softmax_loss

pytestmark = pytest.mark.newest

USERS, ITEMS, K = 30, 17, 5
RNG = np.random.default_rng(0)


def make_tables():
    """(train, validation): a user who has seen all but K items, one who has seen none, and one of whom more than K
    items are held out; an item without entries; entries that are not wanted, by value or by weight; pairs in both."""
    observed = RNG.random((USERS, ITEMS)) < 0.4
    observed[[3, 5]], observed[4], observed[:, 6] = True, False, False
    user, item = np.nonzero(observed)
    part = np.where(user == 3, np.searchsorted([K, ITEMS], item, "right"), RNG.random(len(user)) < 0.6)
    value, weight = RNG.choice([-1.0, 0.0, 1.0, 2.0, 3.0], len(user)), RNG.choice([0.0, 0.5, 1.0], len(user))
    value[user == 5], weight[user == 5] = 1, 1
    parts = []
    for held in (part == 1, (part == 0) | (RNG.random(len(user)) < 0.1)):
        given: Any = (user[held], item[held], value[held], USERS, ITEMS)
        parts.append(jals.Ratings.from_arrays(*given, weight=weight[held]))
    return parts


TRAIN, VALIDATION = make_tables()


def factors(dtype: Any = np.float64):
    rng = np.random.default_rng(1)
    shapes = {"user": (USERS, 3), "item": (ITEMS, 3), "user_bias": (USERS,), "item_bias": (ITEMS,), "mean": ()}
    return jals.Factors(**{name: jnp.asarray(rng.normal(size=shape), dtype) for name, shape in shapes.items()})


@pytest.fixture(scope="module")
def held_out():
    """In chunks of seven users at most."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(smooth, "CELLS", 7 * ITEMS)
        return HeldOutRanking.of(VALIDATION, TRAIN, np.float64)


def dense(found, users=range(USERS), temperature=0.5, power=0.0, of="softmax"):
    """By the formulas, with every score in one table."""
    score = np.asarray(found.user @ found.item.T + found.user_bias[:, None] + found.item_bias + found.mean)
    seen = np.zeros((USERS, ITEMS), bool)
    seen[TRAIN.user[TRAIN.weight > 0], TRAIN.item[TRAIN.weight > 0]] = True
    score = score * np.maximum(seen.sum(0), 1.0) ** power
    wanted = (VALIDATION.value > 0) & (VALIDATION.weight > 0)
    per_user = []
    for user in users:
        shown = np.flatnonzero(~seen[user])
        held = np.intersect1d(VALIDATION.item[wanted & (VALIDATION.user == user)], shown)
        if not len(held):
            continue
        own, all_of = score[user, held], score[user, shown]
        if of == "softmax":
            per_user.append(-np.mean(own / temperature - np.log(np.sum(np.exp(all_of / temperature)))))
            continue
        ahead = 1 / (1 + np.exp((own[:, None] - all_of) / temperature / all_of.std()))
        place = 1 + ahead.sum(axis=1) - 0.5  # without itself
        ideal = sum(1 / np.log2(1 + n) for n in range(1, len(held) + 1))
        per_user.append(1 - np.sum(1 / np.log2(1 + place)) / ideal)
    return np.mean(per_user)


def loss_of(which):
    return {"softmax": softmax_loss, "ndcg": smooth_ndcg_loss}[which]


@pytest.mark.parametrize("which", ["softmax", "ndcg"])
def test_it_is_the_formula_and_its_derivatives_are_those(which, held_out):
    """In factors, temperature and popularity's power; forward, in reverse, and the derivative of the derivative."""
    point = (factors(), jnp.asarray(0.5), jnp.asarray(0.2))
    assert held_out.user.shape[0] > 2
    value = float(loss_of(which)(point[0], held_out, *point[1:]))
    assert value == pytest.approx(dense(point[0], of=which, power=0.2), rel=1e-12)

    flat, shaped = ravel_pytree(point)
    loss = jax.jit(lambda flat: loss_of(which)(shaped(flat)[0], held_out, *shaped(flat)[1:]))
    slope = jax.jit(jax.grad(loss))
    way = jnp.asarray(np.random.default_rng(2).normal(size=flat.shape))
    near = [flat + step * way for step in (1e-5, -1e-5)]
    along = float(slope(flat) @ way)
    assert abs(along) > 1e-3
    assert along == pytest.approx(float(loss(near[0]) - loss(near[1])) / 2e-5, rel=1e-6)
    assert float(jax.jvp(loss, (flat,), (way,))[1]) == pytest.approx(along, rel=1e-10)
    bent = jax.jvp(slope, (flat,), (way,))[1]
    np.testing.assert_allclose(bent, (slope(near[0]) - slope(near[1])) / 2e-5, rtol=1e-4, atol=1e-6)
    for place in (-1, -2):  # of each number by itself
        assert float(slope(flat)[place]) == pytest.approx(
            float(loss(flat.at[place].add(1e-6)) - loss(flat.at[place].add(-1e-6))) / 2e-6, rel=1e-5
        )


@pytest.mark.parametrize("which", ["softmax", "ndcg"])
def test_many_at_once(which, held_out):
    temperatures = jnp.asarray([0.3, 0.6, 2.0])
    together = jax.vmap(lambda each: loss_of(which)(factors(), held_out, each))(temperatures)
    np.testing.assert_allclose(together, [dense(factors(), temperature=t, of=which) for t in temperatures], rtol=1e-12)


def test_float32_holds_scores_that_exponentials_do_not(held_out):
    found = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), factors())
    narrow = HeldOutRanking.of(VALIDATION, TRAIN)
    loss, slope = jax.value_and_grad(softmax_loss, 2)(found, narrow, jnp.float32(1e-2))
    wide, wide_slope = jax.value_and_grad(softmax_loss, 2)(factors(), held_out, 1e-2)
    assert loss.dtype == np.float32 and wide > 100
    assert float(loss) == pytest.approx(float(wide), rel=1e-5)
    assert float(slope) == pytest.approx(float(wide_slope), rel=1e-4)


def test_scores_that_are_all_equal():
    """Every item of the catalogue is as probable as another; the spread is 0, and so is the slope of places."""
    nothing = jax.tree.map(jnp.zeros_like, factors())
    held_out = HeldOutRanking.of(VALIDATION, dtype=np.float64)
    assert float(softmax_loss(nothing, held_out, 0.1)) == pytest.approx(np.log(ITEMS), rel=1e-12)
    for which in ("softmax", "ndcg"):
        slope = jax.grad(loss_of(which))(nothing, held_out, 0.1)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(slope))


@pytest.mark.parametrize("exponent", [-60, -90, 60])
def test_smooth_places_know_no_scale(exponent):
    """Of one user among others, in float32, where the square of such scores is 0 or infinite: the value stays, the
    user's slope is that over the scale, and the items' are as they were. (A descent of powers of n once led there.)"""
    found = jax.tree.map(lambda leaf: jnp.asarray(leaf, np.float32), factors())
    found = jals.Factors(found.user, found.item)
    held_out = HeldOutRanking.of(VALIDATION, TRAIN)
    user = int(held_out.user[0, held_out.row[0, 0]])
    slope = jax.value_and_grad(smooth_ndcg_loss)
    value, at = slope(found, held_out, 0.3)
    scale = np.float32(2.0**exponent)
    scaled, there = slope(jals.Factors(found.user.at[user].multiply(scale), found.item), held_out, 0.3)
    assert float(scaled) == pytest.approx(float(value), rel=1e-6)
    assert float(jnp.abs(at.user[user]).max()) > 1e-4
    np.testing.assert_allclose(there.user.at[user].multiply(scale), at.user, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(there.item, at.item, rtol=1e-4, atol=1e-7)


def test_a_small_temperature_is_the_ndcg_that_is_measured():
    """Of a list as long as the catalogue; users who have nothing left to find are in neither."""
    found = factors()
    wanted = VALIDATION.select((VALIDATION.value > 0) & (VALIDATION.weight > 0))
    seen = TRAIN.select(TRAIN.weight > 0)
    pairs = set(zip(seen.user.tolist(), seen.item.tolist(), strict=True))
    fresh = np.array([pair not in pairs for pair in zip(wanted.user.tolist(), wanted.item.tolist(), strict=True)])
    measured = jals.metrics.ranking(found, wanted.select(fresh), seen, ITEMS, ("ndcg",)).mean[f"ndcg@{ITEMS}"]
    smoothed = smooth_ndcg_loss(found, HeldOutRanking.of(VALIDATION, TRAIN, np.float64), 1e-6)
    assert 1 - float(smoothed) == pytest.approx(measured, abs=1e-6)


def test_a_sample_of_the_users():
    drawn = [HeldOutRanking.of(VALIDATION, TRAIN, np.float64, users=9, seed=seed) for seed in (0, 0, 1)]
    users = [sorted(each.user.ravel().tolist()) for each in drawn]
    assert users[0] == users[1] != users[2] and len(set(users[0])) == 9
    expected = dense(factors(), users[0])
    assert float(softmax_loss(factors(), drawn[0], 0.5)) == pytest.approx(expected, rel=1e-12)
    whole = HeldOutRanking.of(VALIDATION, TRAIN, np.float64, users=10_000)
    assert float(softmax_loss(factors(), whole, 0.5)) == pytest.approx(dense(factors()), rel=1e-12)


def test_one_who_has_seen_much_does_not_fill_up_the_others(monkeypatch):
    """Users are dealt out, so that chunks are alike but for the pairs of one user."""
    monkeypatch.setattr(smooth, "CELLS", 50 * 400)
    seen = np.r_[390, np.repeat(np.arange(1, 40), 10)]
    user = np.repeat(np.arange(len(seen)), seen)
    item = np.concatenate([np.arange(count) for count in seen])
    train = jals.Ratings.from_arrays(user, item, np.ones(len(user)), num_users=len(seen), num_items=400)
    held = jals.Ratings.from_arrays(np.arange(len(seen)), np.full(len(seen), 399), np.ones(len(seen)), len(seen), 400)
    found = HeldOutRanking.of(held, train)
    assert found.seen_row.shape[0] == 8
    assert found.seen_row.shape[1] <= len(user) / 8 + 390


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"held_out": [1]}, "held_out is of type list"),
        ({"seen": [1]}, "seen is of type list"),
        ({"seen": jals.Ratings.from_arrays([0], [1], [1.0])}, "seen is 1 x 2, held_out 30 x 17"),
        ({"held_out": TRAIN}, "there is nothing to find"),
        ({"users": 0}, "users is 0"),
        ({"users": 1.0}, "users is 1.0"),
    ],
)
def test_refused(change, message):
    with pytest.raises(jals.ArgumentError, match=message):
        HeldOutRanking.of(**{"held_out": VALIDATION, "seen": TRAIN} | change)


def test_refused_of_the_losses(held_out):
    short = jals.Factors(jnp.ones((USERS, 2)), jnp.ones((ITEMS - 1, 2)))
    with pytest.raises(jals.ArgumentError, match="of 16 items, the held-out table of 17"):
        softmax_loss(short, held_out, 1.0)

"""Ranking metrics against their definitions, with every order of equal scores enumerated."""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.metrics import places
from jals.metrics.formulas import METRICS

EVERY = METRICS
KS = (1, 2, 3, 5)


def table(mask, value=None, **arguments):
    """Ratings with an entry wherever the mask says so."""
    user, item = np.nonzero(mask)
    value = np.ones(len(user), np.float32) if value is None else value[user, item]
    return jals.Ratings.from_arrays(user, item, value, *mask.shape, **arguments)


def drawn(seed, users=4, items=5):
    """(scores of few levels, relevant, seen): ties within and across what is relevant, seen items that are relevant,
    users without relevant items and users who have seen all."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, rng.integers(1, 5), (users, items)).astype(np.float32)
    relevant, seen = rng.random((users, items)) < 0.4, rng.random((users, items)) < 0.3
    relevant[0, 0], seen[-1] = True, rng.random() < 0.3
    seen[0, -1] = True
    return scores, relevant, seen


def orders(scores, unseen):
    """Each order of a user's unseen items by falling score, once for each order of equal ones."""
    items = np.flatnonzero(unseen)
    groups = [items[scores[items] == level] for level in sorted(set(scores[items]), reverse=True)]
    for chosen in itertools.product(*map(itertools.permutations, groups)):
        yield [item for group in chosen for item in group]


def of_order(order, relevant, k, rarity, popularity, unseen):
    """The metrics of one order of a user's items, from their definitions."""
    total = relevant.sum()
    hit = [bool(relevant[item]) for item in order[:k]]
    hits = sum(hit)
    gains = [1 / math.log2(place + 1) for place in range(1, k + 1)]
    found = [place for place, it in enumerate(hit, 1) if it]
    others = [item for item in order if not relevant[item]]
    pairs = [
        (item in order) and sum(order.index(other) > order.index(item) for other in others) / max(len(others), 1)
        if others
        else item in order
        for item in np.flatnonzero(relevant)
    ]
    weight = 1 / np.sqrt(popularity)
    return {
        "recall": hits / total,
        "recall_capped": hits / min(k, total),
        "precision": hits / k,
        "ndcg": sum(gains[place - 1] for place in found) / sum(gains[: min(k, total)]),
        "map": sum(sum(hit[:place]) / place for place in found) / min(k, total),
        "mrr": 1 / found[0] if found else 0,
        "hit_rate": float(hits > 0),
        "recall_popularity": sum(weight[item] for item in order[:k] if relevant[item]) / weight[relevant].sum(),
        "auc": np.mean(pairs),
        "novelty": np.mean([rarity[item] for item in order[:k]]) if order else 0,
    }


def expected(scores, relevant, seen, k):
    """(each metric by user, coverage), the mean over all orders."""
    popularity = np.maximum(seen.sum(0), 1)
    rarity = -np.log2(popularity / len(seen))
    users, lists = [], []
    for score, its, known in zip(scores, relevant, seen, strict=True):
        if its.any():
            every = list(orders(score, ~known))
            told = [of_order(order, its, k, rarity, popularity, ~known) for order in every]
            users.append({name: np.mean([one[name] for one in told]) for name in told[0]})
            lists.append(every)
    absent = np.ones(scores.shape[1])
    for every in lists:
        absent *= 1 - np.mean([np.isin(np.arange(len(absent)), order[:k]) for order in every], axis=0)
    return {name: [user[name] for user in users] for name in users[0]}, np.mean(1 - absent)


@pytest.mark.parametrize("seed", range(12))
def test_every_metric_is_the_mean_over_all_orders_of_equal_scores(seed):
    scores, relevant, seen = drawn(seed)
    found = jals.metrics.ranking(lambda user: scores[user], table(relevant), table(seen), KS, EVERY)
    assert list(found.user) == list(np.flatnonzero(relevant.any(1)))
    assert found.left_out == (~relevant.any(1)).sum()
    for k in KS:
        users, coverage = expected(scores, relevant, seen, k)
        for name, numbers in users.items():
            key = name if name == "auc" else f"{name}@{k}"
            np.testing.assert_allclose(found.per_user[key], numbers, rtol=2e-6, atol=1e-7, err_msg=key)
            assert found.mean[key] == pytest.approx(np.mean(numbers), rel=2e-6, abs=1e-7)
            if len(numbers) > 1:
                assert found.stderr[key] == pytest.approx(np.std(numbers, ddof=1) / len(numbers) ** 0.5, abs=1e-6)
        assert found.mean[f"coverage@{k}"] == pytest.approx(coverage, rel=1e-5, abs=1e-7)
        assert f"coverage@{k}" not in found.per_user and np.isnan(found.stderr[f"coverage@{k}"])

"""Ranking metrics against their definitions, with every order of equal scores enumerated."""

import itertools
import json
import math
import os
from pathlib import Path
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


def of_order(order, relevant, k, rarity=None, popularity=None):
    """The metrics of one order of a user's items, from their definitions."""
    rarity = np.zeros(len(relevant)) if rarity is None else rarity
    weight = np.ones(len(relevant)) if popularity is None else 1 / np.sqrt(popularity)
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
            told = [of_order(order, its, k, rarity, popularity) for order in every]
            users.append({name: np.mean([one[name] for one in told]) for name in told[0]})
            lists.append(every)
    absent = np.ones(scores.shape[1])
    for every in lists:
        absent *= 1 - np.mean([np.isin(np.arange(len(absent)), order[:k]) for order in every], axis=0)
    return {name: [user[name] for user in users] for name in users[0]}, np.mean(1 - absent)


@pytest.mark.parametrize("seed", range(6))
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


def fitted(dtype=np.float32, users=37, items=23, bias=True, seed=0):
    """(factors, their scores in float64 without what is the same for a user, test, seen)."""
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    biases = (draw(users), draw(items), draw().astype(dtype)) if bias else ()
    factors = jals.Factors(*map(jnp.asarray, (draw(users, 3), draw(items, 3), *biases)))
    known = [np.asarray(part, np.float64) for part in (factors.user, factors.item)]
    scores = known[0] @ known[1].T + (np.asarray(factors.item_bias, np.float64) if bias else 0)
    relevant, seen = rng.random((users, items)) < 0.3, rng.random((users, items)) < 0.3
    relevant[5] = False
    seen[7], seen[8] = True, False
    return factors, scores, relevant, seen


def untied(scores, relevant, seen, k):
    """ndcg@k and auc by user, of scores without ties, from sorted lists."""
    told = []
    for score, its, known in zip(scores, relevant, seen, strict=True):
        if its.any():
            order = [item for item in np.argsort(-score) if not known[item]]
            told.append(of_order(order, its, k))
    return [one["ndcg"] for one in told], [one["auc"] for one in told]


@pytest.mark.parametrize(("dtype", "bias"), [(np.float32, True), (np.float64, False)])
def test_factors_rank_by_their_scores_whatever_the_batches(dtype, bias, monkeypatch):
    factors, scores, relevant, seen = fitted(dtype, bias=bias)
    arguments = table(relevant), table(seen), 4, ("ndcg", "auc", "coverage", "novelty")
    whole = jals.metrics.ranking(factors, *arguments)
    ndcg, auc = untied(scores, relevant, seen, 4)
    np.testing.assert_allclose(whole.per_user["ndcg@4"], ndcg, rtol=1e-12)
    np.testing.assert_allclose(whole.per_user["auc"], auc, rtol=1e-12)
    by_function = jals.metrics.ranking(lambda user: scores[user], *arguments)
    monkeypatch.setattr(places, "BATCH_BYTES", 1)
    monkeypatch.setattr(places, "MOST_BYTES", 16 * 23 * 5)
    monkeypatch.setattr(places, "GROUP", 3)
    for other in (by_function, *(jals.metrics.ranking(it, *arguments) for it in (factors, lambda u: scores[u]))):
        for key, number in whole.mean.items():
            assert other.mean[key] == pytest.approx(number, rel=1e-6), key
        np.testing.assert_allclose(other.per_user["auc"], auc, rtol=1e-12)


def test_what_fills_up_the_last_batch_is_in_no_list(monkeypatch):
    monkeypatch.setattr(places, "BATCH_BYTES", 1)
    monkeypatch.setattr(places, "MOST_BYTES", 2 * 4 * 4 * 4)  # two users of four items in a batch, with top lists
    scores, mask = np.array([[4.0, 3, 2, 1]] * 3, np.float32), np.zeros((3, 4), bool)
    test, seen = (mask | (np.arange(4) == item) for item in (3, 0))
    found = jals.metrics.ranking(lambda user: scores[user], table(test), table(seen), 1, "coverage")
    assert found.mean["coverage@1"] == 0.25  # item 1 alone: all have seen item 0


def test_one_program_serves_every_batch_and_every_factors(monkeypatch):
    monkeypatch.setattr(places, "BATCH_BYTES", 1)
    monkeypatch.setattr(places, "MOST_BYTES", 4 * 23 * 5)
    monkeypatch.setattr(places, "GROUP", 2)
    factors, scores, relevant, seen = fitted(seed=3)
    lengths = set()

    def noted(user):
        lengths.add((user.dtype, len(user)))
        return scores[user].astype(np.float32)

    before = places._in_group._cache_size(), places._in_table._cache_size()
    jals.metrics.ranking(factors, table(relevant), table(seen))
    jals.metrics.ranking(jax.tree.map(lambda leaf: leaf * 2, factors), table(relevant), table(seen))
    jals.metrics.ranking(noted, table(relevant), table(seen))
    assert (places._in_group._cache_size(), places._in_table._cache_size()) == (before[0] + 1, before[1] + 1)
    assert lengths == {(np.dtype(np.int32), 5)}


def test_what_is_relevant_and_what_is_seen():
    """Values and weights <= 0 make no entry relevant, seen entries of weight 0 hide nothing; order is of no account."""
    scores = np.array([[4.0, 3, 2, 1]] * 3)
    user, item = [1, 0, 0, 0, 2], [0, 3, 0, 1, 2]
    test = jals.Ratings.from_arrays(user, item, [-1.0, 5, 0, 1, 1], 3, 4, weight=[1, 1, 1, 1, 0])
    seen = jals.Ratings.from_arrays([2, 0, 0], [0, 1, 2], np.zeros(3), 3, 4, weight=[1, 0, 3])
    found = jals.metrics.ranking(lambda user: scores[user], test, seen, k=(1, 2, 3), metrics="recall")
    assert list(found.user) == [0] and found.left_out == 2
    assert found.mean == {"recall@1": 0, "recall@2": 0.5, "recall@3": 1}
    assert np.isnan(found.stderr["recall@1"])


def test_an_item_that_was_seen_or_cannot_be_shown_is_missed():
    test = table(np.array([[1, 1, 1, 0]], bool))
    scores = np.array([[-np.inf, 5, 1, 3]])
    found = jals.metrics.ranking(lambda user: scores, test, table(np.array([[0, 1, 0, 0]], bool)), 4, EVERY)
    assert found.mean["recall@4"] == pytest.approx(1 / 3)  # of three the last is at place 2, after item 3
    assert found.mean["mrr@4"] == 0.5 and found.mean["auc"] == 0 and found.mean["coverage@4"] == 0.5


def test_hits_break_recall_down():
    """Of each relevant entry, by its place in the test table; equal scores share what places there are."""
    scores = np.array([[4.0, 3, 3, 3, 1], [5, 4, 3, 2, 1]])
    test = jals.Ratings.from_arrays([1, 0, 0, 1, 1], [4, 1, 0, 0, 2], [1.0, 1, 1, 0, 1], 2, 5)
    seen = jals.Ratings.from_arrays([1], [2], [1.0], 2, 5)
    found = jals.metrics.ranking(lambda user: scores[user], test, seen, k=(1, 2, 4), metrics="recall")
    assert found.entry.tolist() == [1, 2, 0, 4]
    assert found.hits[1].tolist() == [0, 1, 0, 0]
    np.testing.assert_allclose(found.hits[2], [1 / 3, 1, 0, 0])
    assert found.hits[4].tolist() == [1, 1, 1, 0]  # what was seen is missed
    for k, hits in found.hits.items():
        by_user = np.bincount(test.user[found.entry], hits) / np.bincount(test.user[found.entry])
        np.testing.assert_allclose(found.per_user[f"recall@{k}"], by_user)


def test_each_entry_is_ranked_among_its_candidates():
    factors, scores, relevant, seen = fitted(np.float64)
    test = table(relevant)
    candidates = np.random.default_rng(1).integers(0, 23, (len(test), 6))
    candidates[0] = test.item[0], 2, 2, 3, 3, 3
    levels = np.round(scores)
    for of, known in ((factors, scores), (lambda user: levels[user], levels)):
        found = jals.metrics.ranking(of, test, table(seen), (1, 3), ("hit_rate", "ndcg", "mrr", "auc"), candidates)
        told = {key: np.zeros(37) for key in found.mean}
        for at, (user, item) in enumerate(zip(test.user, test.item, strict=True)):
            others = [it for it in set(candidates[at]) - {item} if not seen[user, it]]
            its, score = np.array([True] + [False] * len(others)), known[user][[item, *others]]
            unseen = np.array([not seen[user, item]] + [True] * len(others))
            for k in (1, 3):
                every = [of_order(order, its, k) for order in orders(score, unseen)]
                for key in told:
                    name, _, number = key.partition("@")
                    if number in (str(k), "") and (number or k == 1):
                        told[key][user] += np.mean([one[name] for one in every])
        for key, numbers in told.items():
            expected = (numbers / np.maximum(relevant.sum(1), 1))[found.user]
            np.testing.assert_allclose(found.per_user[key], expected, atol=1e-12, err_msg=key)


def test_paired_differences():
    _, scores, relevant, seen = fitted()
    noisy = scores + np.random.default_rng(2).normal(size=scores.shape)
    arguments = table(relevant), table(seen), 5, ("ndcg", "coverage")
    one, two = (jals.metrics.ranking(lambda user, s=s: s[user], *arguments) for s in (scores, noisy))
    found = two.minus(one)
    difference = two.per_user["ndcg@5"] - one.per_user["ndcg@5"]
    assert found.mean["ndcg@5"] == pytest.approx(two.mean["ndcg@5"] - one.mean["ndcg@5"], rel=1e-9)
    np.testing.assert_array_equal(found.hits[5], two.hits[5] - one.hits[5])
    assert found.stderr["ndcg@5"] == pytest.approx(difference.std(ddof=1) / 6)
    assert found.mean["coverage@5"] == two.mean["coverage@5"] - one.mean["coverage@5"]
    assert repr(found).startswith("Ranking(ndcg@5 ") and repr(found).endswith(": 36 users, 1 left out)")
    with pytest.raises(jals.ArgumentError, match="different users"):
        one.minus(jals.metrics.ranking(lambda user: scores[user], table(~relevant), None, 5))
    with pytest.raises(jals.ArgumentError, match="no metric is in both: ndcg@5, coverage@5 and recall@5"):
        one.minus(jals.metrics.ranking(lambda user: scores[user], table(relevant), None, 5, "recall"))


SMALL = table(np.eye(3, 4, dtype=bool))
FACTORS = jals.Factors(jnp.ones((3, 2)), jnp.ones((4, 2)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 0}, "k is 0, but must be a whole number from 1 to the number of items, 4"),
        ({"k": (2, 5)}, "k is 5, but must be a whole number from 1 to the number of items, 4"),
        ({"k": 2.0}, "k is 2.0, but must be a whole number"),
        ({"k": ()}, "k is empty"),
        ({"metrics": "ndgc"}, 'a metric is \'ndgc\'.*Did you mean "ndcg"'),
        ({"metrics": ()}, "metrics is empty"),
        ({"test": "ratings"}, "test is of type str"),
        ({"seen": np.eye(3)}, "seen is of type ndarray"),
        ({"seen": table(np.eye(3, dtype=bool))}, "seen is 3 x 3, test 3 x 4"),
        ({"test": table(np.eye(3, 4, dtype=bool), np.zeros((3, 4)))}, "test has no entry with a value > 0"),
        ({"test": table(np.eye(3, 5, dtype=bool))}, "of 3 users and 4 items, the test table of 3 and 5"),
        ({"metrics": "novelty"}, "need `seen`"),
        ({"factors": jals.Factors(jnp.full((3, 2), jnp.nan), FACTORS.item)}, "not finite"),
        ({"factors": jals.Factors(jnp.full((3, 2), 1e200), FACTORS.item * 1e200)}, "so large that their scores"),
        ({"factors": np.eye(3)}, "factors is of type ndarray"),
        ({"factors": lambda user: np.ones((4, len(user)))}, r"returned shape \(4, 3\), but must return \(3, 4\)"),
        ({"factors": lambda user: np.full((3, 4), np.nan)}, "returned nan for user 0"),
        ({"candidates": np.ones((2, 2), int)}, r"candidates is of shape \(2, 2\), but must be \(3, c\)"),
        ({"candidates": np.ones((3, 2))}, "candidates must be integers, got float64"),
        ({"candidates": np.array([[0, 1], [2, 4], [0, 0]])}, "candidate 4 of test entry 1 is out of range"),
        ({"candidates": np.ones((3, 2), int), "k": 4}, "k is 4, .* from 1 to an entry and its candidates, 3"),
        ({"candidates": np.ones((3, 2), int), "metrics": "coverage"}, '"coverage" needs the whole catalogue'),
    ],
)
def test_what_does_not_fit_is_refused(arguments: Any, message):
    with pytest.raises(jals.ArgumentError, match=message):
        jals.metrics.ranking(**({"factors": FACTORS, "test": SMALL, "k": 2} | arguments))


def test_what_is_traced_is_refused():
    with pytest.raises(jals.ArgumentError, match="traced"):
        jax.jit(lambda factors: jals.metrics.ranking(factors, SMALL, k=2).mean["ndcg@2"])(FACTORS)


LIBRARIES = json.loads((Path(__file__).parents[1] / "fixtures/ranking_libraries.json").read_text("utf-8"))


@pytest.mark.parametrize("library", LIBRARIES["libraries"])
def test_other_libraries_agree(library):
    """On 200 users with ties, averaged over all orders of equal scores; made by the script beside the fixture."""
    scores, relevant, seen = (np.array(LIBRARIES[name]) for name in ("scores", "relevant", "seen"))
    theirs = LIBRARIES["libraries"][library]
    names = {key.partition("@")[0] for key in theirs}
    found = jals.metrics.ranking(lambda user: scores[user], table(relevant), table(seen), (1, 3, 5), names)
    assert set(found.mean) == set(theirs) and len(found.user) == 200
    for key, numbers in theirs.items():
        name, _, k = key.partition("@")
        # They divide by the number of relevant items, wherever k ends.
        share = np.maximum(relevant.sum(1) / int(k), 1) if name == "map" else 1
        np.testing.assert_allclose(found.per_user[key], numbers * share, rtol=0, atol=1e-6, err_msg=key)


NCF = Path(os.environ.get("JALS_DATA", "there is none")) / "ml1m_ncf_loo.npz"


@pytest.mark.slow
@pytest.mark.skipif(not NCF.is_file(), reason="needs ml1m_ncf_loo.npz in JALS_DATA: NCF's split of MovieLens 1M")
def test_popularity_scores_what_was_published():
    """Rendle, Krichene, Zhang and Anderson, "Neural collaborative filtering vs. matrix factorization revisited" (RecSys
    2020): popularity on MovieLens 1M among 99 negatives, HR@10 .4535 and NDCG@10 .2543."""
    file = np.load(NCF)
    shape = len(file["test_user"]), int(file["train_item"].max()) + 1
    train, test = (
        jals.Ratings.from_arrays(file[f"{part}_user"], file[f"{part}_item"], np.ones(len(file[f"{part}_user"])), *shape)
        for part in ("train", "test")
    )
    popular = jals.baselines.most_popular(train)
    found = jals.metrics.ranking(popular.scores, test, train, 10, ("hit_rate", "ndcg"), file["test_neg"])
    assert {key: round(number, 4) for key, number in found.mean.items()} == {"hit_rate@10": 0.4535, "ndcg@10": 0.2543}

"""The object that answers by outside ids, from memory and from each kind of file."""

import copy
import dataclasses
import pickle

import numpy as np
import pytest

import jals
from jals.recommend import index_vectors
from tests.recommend.test_top import all_scores, some_factors, sorted_all

USERS, ITEMS = 7, 40


@pytest.fixture(scope="module")
def parts():
    rng = np.random.default_rng(4)
    factors = some_factors(np.float32, users=USERS, items=ITEMS)
    vocab = jals.Vocabulary(np.array([f"user {row}" for row in range(USERS)]), 100 + 10 * np.arange(ITEMS))
    user, item = np.nonzero(rng.random((USERS, ITEMS)) < 0.3)
    seen = jals.Ratings.from_arrays(user, item, np.ones(len(user), np.float32), USERS, ITEMS)
    full = np.zeros((USERS, ITEMS), bool)
    full[user, item] = True
    return factors, vocab, jals.als_wr(0.1, bias=True, center=True), seen, full


@pytest.fixture(params=["memory", ".npz", ".safetensors", ".parquet"])
def recommender(request, parts, tmp_path):
    factors, vocab, objective, seen, _ = parts
    if request.param == "memory":
        return jals.Recommender(factors, vocab, objective, seen)
    pytest.importorskip({".npz": "numpy", ".safetensors": "safetensors", ".parquet": "polars"}[request.param])
    jals.save(tmp_path / f"f{request.param}", factors, vocab, objective, seen=seen)
    return jals.load(tmp_path / f"f{request.param}")


def test_outside_ids_in_and_out(recommender, parts):
    factors, vocab, _, _, full = parts
    rows, k = [4, 1], 12
    names = vocab.user[rows]
    for exclude_seen in (True, False):
        ids, scores = recommender.recommend(names, k, exclude_seen)
        item, expected = sorted_all(all_scores(factors)[rows], k, full[rows] & exclude_seen)
        np.testing.assert_array_equal(ids, vocab.item[item])
        np.testing.assert_allclose(scores, expected, rtol=1e-6)
    alone, _ = recommender.recommend("user 4", k, exclude_seen=False)
    np.testing.assert_array_equal(alone, ids[:1])
    three, scores = recommender.recommend(names, k, allow=[100, 120, 490], exclude=[120])
    named = np.isin(vocab.item, [100, 490])
    item, _ = sorted_all(all_scores(factors)[rows], k, full[rows] | ~named)
    np.testing.assert_array_equal(three, np.where(item < 0, -1, vocab.item[item]))
    assert (scores[:, 2:] == -np.inf).all()
    like, score = recommender.similar([130], 3)
    found = jals.similar(factors, [3], 3)
    np.testing.assert_array_equal(like, vocab.item[found[0]])
    np.testing.assert_array_equal(score, found[1])
    users, _ = recommender.similar(names, USERS - 1, side="user")
    assert [set(each) for each in users] == [set(vocab.user) - {name} for name in names]


def test_newcomers(recommender, parts):
    factors, vocab, objective, _, _ = parts
    who, what, values = ["zoe", "amy", "zoe"], [130, 100, 490], [5.0, 3.0, 1.0]
    table = jals.Ratings.from_arrays([1, 0, 1], [3, 0, 39], np.float32(values), 2, ITEMS)
    rows, bias = jals.fold_in(factors, table, objective)
    new = recommender.fold_in(who, what, np.float32(values))
    assert new.vocab.user.tolist() == ["amy", "zoe"]
    np.testing.assert_array_equal(new.factors.user, rows)
    ids, scores = new.recommend(["zoe"], ITEMS)
    expected = dataclasses.replace(factors, user=rows, user_bias=bias)
    seen = np.isin(np.arange(ITEMS), [3, 39])
    np.testing.assert_allclose(scores, sorted_all(all_scores(expected)[1:], ITEMS, seen)[1], rtol=1e-5)
    assert set(ids[0].tolist()) == set(vocab.item[~seen].tolist()) | {-1}
    items = recommender.fold_in("new", ["user 2", "user 5"], side="item")
    assert items.recommend(["user 1"], 1)[0].tolist() == [["new"]]
    assert items.recommend(["user 2"], 1)[0].tolist() == [[""]]


ENTRIES = np.array([3, 40, 31, 2, 30, 29, 45, 20])  # half of their sum, 200, is reached by the three of most entries
KINDS_OF = {
    "als_wr": (jals.als_wr(0.1, bias=True, center=True), 30),
    "explicit": (jals.explicit(0.1), 30),
    "ials": (jals.ials(0.1), 0),
    "hu_koren": (jals.hu_koren(0.1), 0),
    "wals": (jals.wals(0.1), 0),
    "unknown": (None, 0),
}


@pytest.mark.parametrize("kind", KINDS_OF)
@pytest.mark.parametrize("divided", [1, 10])
def test_ratings_are_predicted_from_entries_enough(kind, divided):
    """30, or on small tables as many as leave half of the entries; sums over all pairs need no such bar."""
    objective, least = KINDS_OF[kind]
    entries = -(-ENTRIES // divided)
    least = min(least, sorted(entries)[-3])
    item = np.repeat(np.arange(8), entries)
    user = np.concatenate([np.arange(count) for count in entries]) + 1  # user 0 has seen nothing
    ratings = jals.Ratings.from_arrays(user, item, np.ones(len(item)), 50, 8, weight=np.ones(len(item)))
    factors = some_factors(bias=objective is None or objective.bias, users=50, items=8)
    one = jals.Recommender(factors, None, objective, ratings)
    every, _ = one.recommend(0, 8)
    found, score = one.recommend(0, 8, min_entries=None)
    expected = [each for each in every[0] if entries[each] >= least]
    assert found[0].tolist() == expected + [-1] * (8 - len(expected)) and (score[0, len(expected) :] == -np.inf).all()
    assert one.recommend(0, 8, allow=np.arange(8), min_entries=None)[0].tolist() == every.tolist()
    some = one.recommend(0, 8, allow=[0, 1, 4], min_entries=4)[0][0]
    assert set(some.tolist()) == {each for each in (0, 1, 4) if entries[each] >= 4} | {-1}
    masked = ratings.weight * (item != 1)
    lighter = jals.Recommender(factors, None, objective, dataclasses.replace(ratings, weight=masked))
    assert 1 not in lighter.recommend(0, 8, min_entries=1)[0]


def test_new_users_are_offered_what_was_fitted_to_enough(parts):
    """The entries that count are those of the table, not the newcomer's own, wherever the object has been."""
    factors, vocab, objective, seen, _ = parts
    one = jals.Recommender(factors, vocab, objective, seen)
    new = one.fold_in("zoe", [130, 100], [5.0, 3.0])
    entries = np.bincount(seen.item, minlength=ITEMS)
    for each in (new, pickle.loads(pickle.dumps(new)), copy.copy(new), new._replace(data_hash="x")):
        ids, _ = each.recommend("zoe", ITEMS, min_entries=3)
        assert set(ids[0].tolist()) == set(vocab.item[entries >= 3].tolist()) - {130, 100} | {-1}
    assert (new._replace(seen=None).entries is None) and one.fold_in("n", ["user 2"], side="item").entries == [1]


def test_it_travels_and_shows_little(parts):
    one = jals.Recommender(*parts[:4])
    for other in (pickle.loads(pickle.dumps(one)), copy.copy(one), one._replace(data_hash="x")):
        assert isinstance(other, jals.Recommender) and len(other.seen) == len(one.seen)
        np.testing.assert_array_equal(other.recommend(["user 2"])[0], one.recommend(["user 2"])[0])
    assert isinstance(one, jals.Saved) and repr(one).startswith("Recommender(factors=Factors(user float32[7, 3]")


def test_rows_are_ids_without_a_vocabulary(parts):
    factors, _, objective, seen, full = parts
    plain = jals.Recommender(factors, None, objective, seen)
    found, _ = plain.recommend(2, 4)
    np.testing.assert_array_equal(found, sorted_all(all_scores(factors)[[2]], 4, full[[2]])[0])
    assert plain.fold_in(7, [1, 2]).recommend(7, 2)[0].shape == (1, 2)
    for ids, words in ((USERS, "user 7 is not there: the factors have 7 users"), ("user 2", "no vocabulary")):
        with pytest.raises(jals.DataError, match=words):
            plain.recommend(ids)


def test_what_cannot_be_meant_is_refused(parts):
    factors, vocab, _, seen, _ = parts
    one = jals.Recommender(*parts[:4])
    for error, call, words in (
        (jals.DataError, lambda: one.recommend(["usr 2"]), 'Did you mean "user 2"?'),
        (jals.DataError, lambda: one.similar([131]), "The nearest known id is 130"),
        (jals.DataError, lambda: one.fold_in("zoe", [131]), "item id 131 is not in the vocabulary"),
        (jals.ArgumentError, lambda: one.recommend(["user 2"], 41), "k is 41, but the factors have 40 items"),
        (jals.ArgumentError, lambda: one.recommend(["user 2"], allow=[]), "allow names no item"),
        (jals.ArgumentError, lambda: jals.Recommender(factors).recommend(0), "no seen entries to leave out"),
        (jals.ArgumentError, lambda: jals.Recommender(factors).fold_in(0, [1]), "no objective"),
        (jals.ArgumentError, lambda: one.recommend(["user 2"], min_entries=-1), "min_entries is -1, but must be"),
        (jals.ArgumentError, lambda: one.recommend(["user 2"], min_entries=True), "min_entries is True, but must"),
        (
            jals.ArgumentError,
            lambda: jals.Recommender(factors).recommend(0, exclude_seen=False, min_entries=2),
            "min_entries is 2, but it is not known how many entries items have",
        ),
        (jals.ArgumentError, lambda: jals.Recommender(factors, seen), "vocab is of type Ratings"),
        (jals.ArgumentError, lambda: jals.Recommender(some_factors(), vocab), "7 user ids, but the factors have 23"),
        (jals.ArgumentError, lambda: jals.Recommender(some_factors(), seen=seen), "seen has 7 users"),
    ):
        with pytest.raises(error, match=words):
            call()


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("bias", [False, True])
def test_plain_indexes_find_the_same(side, bias):
    rng = np.random.default_rng(8)
    factors = some_factors(bias=bias)
    noise = [None if part is None else part + rng.normal(size=part.shape) for part in vars(factors).values()]
    factors = jals.Factors(*noise)
    order = np.argsort(-all_scores(factors, side), axis=1)
    index, query = index_vectors(factors, "dot", side)
    np.testing.assert_array_equal(np.argsort(-query @ index.T, axis=1), order)
    index, query = index_vectors(factors, "l2", side)
    away = np.linalg.norm(index[None] - query[:, None], axis=-1)
    np.testing.assert_array_equal(np.argsort(away, axis=1), order)
    np.testing.assert_allclose(np.linalg.norm(index, axis=1), np.linalg.norm(index, axis=1)[0])

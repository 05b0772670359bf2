"""`top_k` and `similar` against a plain sort of all scores."""

import re
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals

USERS, ITEMS = 23, 210


def some_factors(dtype=np.float64, bias=True, users=USERS, items=ITEMS):
    """Whole numbers: every sum is exact in any order, and many scores are equal."""
    rng = np.random.default_rng(0)
    shapes = ((users, 3), (items, 3), (users,), (items,), ()) if bias else ((users, 3), (items, 3))
    return jals.Factors(*(jnp.asarray(rng.integers(-2, 3, shape), dtype) for shape in shapes))


def seen_of(users=USERS, items=ITEMS, weighted=False):
    rng = np.random.default_rng(1)
    full = rng.random((users, items)) < np.linspace(0, 0.9, users)[:, None]
    user, item = rng.permutation(np.argwhere(full)).T
    weight = rng.integers(0, 2, len(user)).astype(float) if weighted else None
    ratings = jals.Ratings.from_arrays(user, item, np.ones(len(user)), users, items, weight=weight)
    if weight is not None:
        full[user[weight == 0], item[weight == 0]] = False
    return ratings, full


def sorted_all(scores, k, closed=False):
    """By plain sorting; where too few are left -1 and -inf."""
    scores = np.where(closed, -np.inf, scores)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found = np.take_along_axis(scores, order, axis=1)
    return np.where(found == -np.inf, -1, order), found


def all_scores(factors, side="user"):
    users, items = np.arange(len(factors.user)), np.arange(len(factors.item))
    scores = np.asarray(jals.predict(factors, users[:, None], items))
    return scores if side == "user" else scores.T


def assert_found(found, expected):
    item, score = found
    assert item.dtype == np.int32 and item.shape == score.shape
    np.testing.assert_array_equal(item, expected[0])
    np.testing.assert_allclose(score, expected[1], rtol=1e-12)


@pytest.fixture(params=["native", "xla"])
def batches(request):
    """By the kernel; by XLA in batches of 4 queries, and few pairs left out at a time."""
    if request.param == "native":
        if not jals.native.available():
            pytest.skip("the kernel is not built")
        yield
        return
    jax.clear_caches()
    with (
        mock.patch.object(jals.native, "available", return_value=False),
        mock.patch.multiple("jals.recommend.selection", _MOST_QUERIES=4, _CLOSED_AT_ONCE=7),
    ):
        yield
    jax.clear_caches()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("side", ["user", "item"])
def test_the_best_are_those_of_a_sort(dtype, bias, side):
    factors = some_factors(dtype, bias)
    ids = np.array([3, 0, 22, 3])
    for k in (1, 5):
        found = jals.top_k(factors, ids, k, side=side)
        assert found[1].dtype == dtype
        assert_found(found, sorted_all(all_scores(factors, side)[ids], k))


@pytest.mark.parametrize("k", [4, ITEMS])
def test_what_is_seen_is_left_out(batches, k):
    factors = some_factors()
    seen, full = seen_of(weighted=True)
    users = np.random.default_rng(2).permutation(USERS)
    expected = sorted_all(all_scores(factors)[users], k, full[users])
    assert_found(jals.top_k(factors, users, k, exclude=seen), expected)
    assert_found(jals.top_k(factors, users, k, exclude=full[users]), expected)
    if k < USERS:
        of_items = jals.top_k(factors, np.arange(9), k, exclude=seen, side="item")
        assert_found(of_items, sorted_all(all_scores(factors, "item")[:9], k, full.T[:9]))


def test_forms_of_exclude_and_allow(batches):
    factors, (seen, full) = some_factors(), seen_of()
    ids, users = np.array([7, 200, 3, 7, 100, 101]), np.arange(USERS)
    named, scores = np.isin(np.arange(ITEMS), ids), all_scores(factors)
    for exclude in (ids, ids.tolist(), jnp.asarray(ids), named):
        assert_found(jals.top_k(factors, users, 8, exclude=exclude), sorted_all(scores, 8, named))
    for allow in (ids, ids.tolist(), named, np.tile(named, (USERS, 1))):
        assert_found(jals.top_k(factors, users, 8, allow=allow), sorted_all(scores, 8, ~named))
        assert_found(jals.top_k(factors, users, 8, seen, allow), sorted_all(scores, 8, full | ~named))
        assert_found(jals.top_k(factors, users, 8, [7], allow), sorted_all(scores, 8, ~named | (np.arange(ITEMS) == 7)))
        assert_found(jals.top_k(factors, users, 8, ~full, allow), sorted_all(scores, 8, ~full | ~named))
    assert_found(jals.top_k(factors, users, 8, exclude=[]), sorted_all(scores, 8))
    item, score = jals.top_k(factors, users, 8, exclude=np.arange(ITEMS))
    assert (np.asarray(item) == -1).all() and (np.asarray(score) == -np.inf).all()


def test_it_traces(batches):
    factors, (seen, full) = some_factors(), seen_of()
    users, ids = np.arange(USERS), np.array([5, 6])
    expected = sorted_all(all_scores(factors), 6, full)
    assert_found(jax.jit(lambda f, u: jals.top_k(f, u, 6, exclude=seen))(factors, users), expected)
    assert_found(jax.jit(lambda f, u, mask: jals.top_k(f, u, 6, exclude=mask))(factors, users, full), expected)
    each = jax.vmap(lambda user: jals.top_k(factors, user, 6, exclude=seen))(users)
    assert_found([part[:, 0] for part in each], expected)
    several = jax.tree.map(lambda leaf: jnp.stack([leaf, -leaf]), factors)
    both = jax.vmap(lambda f, ids: jals.top_k(f, users, 6, exclude=ids), (0, None))(several, ids)
    for at, sign in enumerate((1, -1)):
        scores = all_scores(jax.tree.map(lambda leaf, sign=sign: sign * leaf, factors))
        closed = np.isin(np.arange(ITEMS), ids)
        assert_found([part[at] for part in both], sorted_all(scores, 6, closed))


def test_scores_differentiate_as_predictions(batches):
    rng = np.random.default_rng(3)
    factors = jax.tree.map(lambda leaf: leaf + rng.normal(size=leaf.shape), some_factors())
    users, seen = np.arange(USERS), seen_of()[0]
    item, _ = jals.top_k(factors, users, 6, exclude=seen)
    found = jax.grad(lambda f: jnp.sum(jnp.sin(jals.top_k(f, users, 6, exclude=seen)[1])))(factors)
    expected = jax.grad(lambda f: jnp.sum(jnp.sin(jals.predict(f, users[:, None], item))))(factors)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-9, atol=1e-12), found, expected)
    cosine = lambda table: jals.similar(jals.Factors(table, table), [3, 9], 4)  # noqa: E731
    row, dot = cosine(factors.item)[0], jax.jvp(lambda table: cosine(table)[1], (factors.item,), (factors.item**2,))[1]

    def plain(step):
        table = np.asarray(factors.item + step * factors.item**2)
        table = table / np.linalg.norm(table, axis=1, keepdims=True)
        return np.sum(table[[3, 9]][:, None] * table[np.asarray(row)], axis=-1)

    np.testing.assert_allclose(dot, (plain(1e-6) - plain(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-8)


def test_an_item_without_a_number_is_none():
    factors = some_factors()
    factors = jals.Factors(factors.user, factors.item.at[4].set(jnp.nan).at[6].set(jnp.inf))
    item, score = (np.asarray(part) for part in jals.top_k(factors, np.arange(USERS), ITEMS))
    assert not (item == 4).any() and not np.isnan(score).any()


@pytest.mark.parametrize("measure", ["cosine", "dot"])
@pytest.mark.parametrize("side", ["user", "item"])
def test_similar_rows(batches, measure, side):
    factors = some_factors(bias=False)
    table = np.asarray(getattr(factors, side)).copy()
    table[5] = 0
    factors = jals.Factors(**{"user": factors.user, "item": factors.item, side: jnp.asarray(table)})
    rows = np.array([0, 5, 19])
    scores = table @ table.T
    if measure == "cosine":
        length = np.linalg.norm(table, axis=1)
        scores = scores / np.where(length > 0, length, 1)[:, None] / np.where(length > 0, length, 1)
    found, score = jals.similar(factors, rows, 6, side, measure)
    np.fill_diagonal(scores, -np.inf)
    expected = sorted_all(scores.round(12)[rows], 6)
    np.testing.assert_allclose(score, expected[1], atol=1e-9)
    assert not (np.asarray(found) == rows[:, None]).any()
    np.testing.assert_allclose(np.take_along_axis(scores[rows], np.asarray(found), 1), score, atol=1e-9)
    assert len(set(np.asarray(found)[0].tolist())) == 6
    if measure == "dot":
        np.testing.assert_array_equal(found, expected[0])
    for row, each in zip(rows, np.asarray(found), strict=True):  # alone: that one pair is closed is known to XLA
        np.testing.assert_array_equal(jals.similar(factors, row, 6, side, measure)[0], each[None])
    every = jals.similar(factors, rows, len(table) - 1, side, measure)[0]
    assert all(set(each) == set(range(len(table))) - {row} for each, row in zip(every.tolist(), rows, strict=True))


REFUSED = {
    "k is 0": (lambda f: jals.top_k(f, [0], 0), "k is 0, but must be a whole number >= 1"),
    "k is no number": (lambda f: jals.top_k(f, [0], 2.0), "k is 2.0, but must be a whole number"),
    "k": (lambda f: jals.top_k(f, [0], 211), "k is 211, but the factors have 210 items: ask for at most 210"),
    "users": (lambda f: jals.top_k(f, [0], 24, side="item"), "k is 24, but the factors have 23 users"),
    "user": (lambda f: jals.top_k(f, [0, 23], 1), "user id 23 is out of range: the factors have 23 users"),
    "no user": (lambda f: jals.top_k(f, np.zeros(0, int), 1), r"have shape \(0,\), but must be \(n,\), with one id"),
    "table": (lambda f: jals.top_k(f, [[0]], 1), r"have shape \(1, 1\)"),
    "side": (lambda f: jals.top_k(f, [0], 1, side="users"), 'Did you mean "user"?'),
    "empty allow": (lambda f: jals.top_k(f, [0], 1, allow=[]), "allow names no item"),
    "unknown": (lambda f: jals.top_k(f, [0], 1, exclude=[1, 210]), r"exclude\[1\] is 210, but the factors have 210"),
    "mask": (lambda f: jals.top_k(f, [0], 1, exclude=np.ones((2, 210), bool)), r"must be of \(1, 210\)"),
    "floats": (lambda f: jals.top_k(f, [0], 1, allow=[0.5]), "allow is float64 of shape .* must be item ids"),
    "ragged": (lambda f: jals.top_k(f, [0], 1, exclude=[[1], [2, 3]]), "exclude is of type list, but must be Ratings"),
    "other table": (lambda f: jals.top_k(f, [0], 1, seen_of(23, 99)[0]), "exclude has 23 users and 99 items, but"),
    "measure": (lambda f: jals.similar(f, [0], 1, measure="cos"), "measure is 'cos'"),
    "others": (lambda f: jals.similar(f, [0], 23, "user"), "k is 23, but each of 23 users has 22 others"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_meant_is_refused(what):
    call, message = REFUSED[what]
    with pytest.raises(jals.ArgumentError, match=message):
        call(some_factors())


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_lowers_for_accelerators(platform):
    factors, seen = some_factors(np.float32), seen_of()[0]
    leaves, tree = jax.tree.flatten(factors)

    def best(*leaves):
        return jals.top_k(jax.tree.unflatten(tree, leaves), np.arange(USERS), 3, exclude=seen)

    module = jax.export.export(jax.jit(best), platforms=[platform])(*leaves).mlir_module()
    assert "jals" not in " ".join(re.findall(r"custom_call @([\w.]+)", module))


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def kernel_isa(request):
    if not jals.native.available():
        pytest.skip("the kernel is not built")
    library = jals.native._load()[0]
    best = library.jals_isa()
    if not library.jals_use_isa(request.param.encode()):
        pytest.skip(f"needs a machine with {request.param}")
    yield
    library.jals_use_isa(best)


def test_every_instruction_set_selects_the_same(kernel_isa):
    """Products of small whole numbers are exact, and many are equal; a few queries, and many more than go together."""
    rng = np.random.default_rng(9)
    items, rank, k = 500, 5, 7
    for dtype, queries in ((np.float32, 19), (np.float32, 300), (np.float64, 211)):
        query, table = (rng.integers(-3, 4, (rows, rank)).astype(dtype) for rows in (queries, items))
        table[[5, 400]] = np.nan
        offset, mask = rng.integers(0, 9, items).astype(dtype), rng.random((queries, items)) < 0.2
        offset[3] = -np.inf
        closed = np.sort(rng.permutation(items)[:310]).astype(np.int32)
        start, stop = np.full(queries, 4, np.int32), np.arange(4, 4 + queries, dtype=np.int32)
        is_closed = mask.copy()
        for row in range(queries):
            is_closed[row, closed[4 : stop[row]]] = True
        found = jals.native.largest(*map(jnp.asarray, (query, table)), k, offset, mask, start, stop, closed)
        scores = np.nan_to_num(query @ table.T, nan=-np.inf) + offset
        assert_found(found, sorted_all(scores, k, is_closed))

"""The vectors for other search engines, in one that someone else wrote."""

import jax.numpy as jnp
import numpy as np
import pytest

import jals

usearch = pytest.importorskip("usearch.index", reason="needs usearch, of the extra test")
USERS, ITEMS, K = 40, 900, 10


@pytest.fixture(scope="module", params=[True, False], ids=["bias", "plain"])
def factors(request):
    rng = np.random.default_rng(3)
    shapes = ((USERS, 6), (ITEMS, 6), (USERS,), (ITEMS,), ()) if request.param else ((USERS, 6), (ITEMS, 6))
    return jals.Factors(*(jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes))


def filled(vectors, metric):
    engine = usearch.Index(ndim=vectors.shape[1], metric=metric, dtype="f32", expansion_add=200, expansion_search=200)
    engine.add(np.arange(len(vectors)), vectors, threads=1)  # as the index depends on the order
    return engine


def test_its_inner_products_are_the_scores(factors):
    """Searched one by one, every item of the catalogue's ten best comes back, with its score less mean + b_u."""
    vectors, query = jals.recommend.index_vectors(factors)
    found = filled(vectors, "ip").search(query, K, exact=True)
    item, score = jals.top_k(factors, np.arange(USERS), K)
    np.testing.assert_array_equal(found.keys, item)
    own = 0 if factors.user_bias is None else np.asarray(factors.user_bias + factors.mean)[:, None]
    np.testing.assert_allclose(1 - found.distances + own, score, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("space", "metric"), [("dot", "ip"), ("l2", "l2sq")])
def test_its_graph_finds_nearly_all_of_the_best(factors, space, metric):
    vectors, query = jals.recommend.index_vectors(factors, space)
    found = filled(vectors, metric).search(query, K).keys
    item, _ = jals.top_k(factors, np.arange(USERS), K)
    recall = np.mean([len(np.intersect1d(*pair)) / K for pair in zip(found, item, strict=True)])
    assert recall > 0.95

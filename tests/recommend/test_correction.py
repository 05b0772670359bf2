"""Scores times a power of their items' counts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.recommend import corrected
from tests.recommend.test_folding import ratings_of, some_factors
from tests.support import tables

TABLE = tables.table("empty_rows", weighted=True)
RATINGS = ratings_of(TABLE)
FACTORS = some_factors(TABLE, tables.setting("ials", TABLE))
N = np.bincount(TABLE.item[TABLE.weight > 0], minlength=TABLE.num_items)


def test_scores_are_multiplied_by_the_power():
    expected = np.asarray(FACTORS.user @ FACTORS.item.T) * np.maximum(N, 1.0) ** -0.4
    assert N.min() < 1, "an item without entries is to count as one with one"
    for counts in (N, RATINGS, jals.Problem.build(RATINGS)):
        made = corrected(FACTORS, counts, -0.4)
        np.testing.assert_allclose(made.user @ made.item.T, expected, rtol=1e-12)
    single = jax.tree.map(lambda leaf: leaf.astype(np.float32), FACTORS)
    assert corrected(single, RATINGS, 0.5).item.dtype == np.float32


def test_its_derivative_is_that_of_differences():
    def total(power):
        return jnp.sum(jnp.sin(corrected(FACTORS, N, power).item))

    difference = (total(0.3 + 1e-6) - total(0.3 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.jit(jax.grad(total))(0.3), difference, rtol=1e-7)


def test_what_has_offsets_or_does_not_fit_is_refused():
    biased = some_factors(TABLE, tables.setting("explicit+bias", TABLE))
    for call, words in (
        (lambda: corrected(biased, N, 0.1), "factors.user_bias is part of the score"),
        (lambda: corrected(FACTORS, N[1:], 0.1), r"counts has shape \(8,\)"),
        (lambda: corrected(FACTORS, N, [0.1, 0.2]), r"item_power has shape \(2,\)"),
        (lambda: corrected(FACTORS, N, "much"), "item_power"),
    ):
        with pytest.raises(jals.ArgumentError, match=words):
            call()

"""Rows drawn one by one are those of the table that jax draws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jals.solvers.noise import normal_rows

ROWS = jnp.array([3, 0, 49, 7, 50], jnp.int32)  # the last is out of range


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rank", [1, 5, 16])
@pytest.mark.parametrize(
    "key",
    [jax.random.key(3), jax.random.PRNGKey(3), jax.random.key(3, impl="rbg")],
    ids=["threefry", "raw", "rbg"],
)
def test_rows_are_those_of_the_whole_table(key, rank, dtype):
    whole = jax.random.normal(key, (50, rank), dtype)
    found = jax.jit(normal_rows, static_argnums=(2, 3))(key, ROWS, (50, rank), dtype)
    assert found.dtype == dtype and np.array_equal(found[:-1], whole[ROWS[:-1]]) and not found[-1].any()


def test_places_beyond_two_words_of_16_bits():
    """A row whose numbers stand beyond 2^32 in the table has others than the row with the same lower word."""
    key, rank = jax.random.key(1), 2**15
    rows = jnp.array([5, 2**17 + 5], jnp.int32)  # 2^17 rows of 2^15 numbers are 2^32
    low, high = normal_rows(key, rows, (2**18, rank), np.float32)
    assert np.isfinite(high).all() and not np.array_equal(low, high)
    assert np.array_equal(low, jax.random.normal(key, (6, rank), np.float32)[5])

"""Tests are stricter than use: x64 is on, so a table's dtype decides what is computed in, and ALS may not mix dtypes."""

import jax
import pytest

jax.config.update("jax_enable_x64", True)


@pytest.fixture
def strict_dtypes():
    """Mixing dtypes is an error (optax itself mixes them, so this is not for `Gradient`)."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def fresh_caches():
    """Compiled programs are let go after the test: each holds memory maps, and a process may have only so many."""
    yield
    jax.clear_caches()

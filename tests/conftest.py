"""Tests are stricter than use: x64 is on, a table's dtype decides what is computed in, and ALS may not mix dtypes."""

import os

# The suite compiles thousands of small programs and runs each for a moment: LLVM need not try hard.
FASTER_COMPILES = " --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + FASTER_COMPILES

import jax  # noqa: E402 - XLA reads its flags when it starts
import pytest  # noqa: E402

jax.config.update("jax_enable_x64", True)


@pytest.fixture(autouse=True)
def x64():
    """On for every test, whatever a command line under test has set for its own run."""
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

"""Tests are stricter than use: x64 is on, a table's dtype decides what is computed in, and ALS may not mix dtypes."""

import os
import subprocess
import sys

# The suite compiles thousands of small programs and runs each for a moment: LLVM need not try hard, and XLA's former
# emitters take half the time of today's. `make test-long` compiles as users do.
FASTER_COMPILES = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1",
)


def known(flags: str) -> bool:
    """Whether this jaxlib knows these flags: one that does not ends the process."""
    start = [sys.executable, "-c", "import jax; jax.devices()"]
    return subprocess.run(start, env=os.environ | {"XLA_FLAGS": flags}, capture_output=True).returncode == 0


if "PYTEST_XDIST_WORKER" not in os.environ and os.environ.get("JALS_XLA") != "default":  # workers inherit them
    os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *filter(known, FASTER_COMPILES)])

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

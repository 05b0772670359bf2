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
from jax.experimental.compilation_cache import compilation_cache  # noqa: E402

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
def own_cache(monkeypatch, tmp_path):
    """What `jals.enable_cache` sets is as before after the test, and its usual folder one that is let go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = ("min_compile_time_secs", "min_entry_size_bytes")
    names = ["enable_compilation_cache", "compilation_cache_dir", *(f"persistent_cache_{name}" for name in kept)]
    before = {f"jax_{name}": getattr(jax.config, f"jax_{name}") for name in names}
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


@pytest.fixture
def fresh_caches():
    """Compiled programs are let go after the test: each holds memory maps, and a process may have only so many."""
    yield
    jax.clear_caches()

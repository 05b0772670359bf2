"""Programs that an earlier process compiled."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

import jals
from tests.support import ROOT

# A first program before the cache is enabled, which settles for jax whether there is one.
FIT = """
import jax, jax.monitoring, sys
told = {"cache_hits": 0, "cache_misses": 0}
def count(event, **_):
    name = event.rpartition("/")[2]
    told[name] = told.get(name, 0) + 1
jax.monitoring.register_event_listener(count)
(jax.numpy.arange(3) + 1).block_until_ready()

import jals
folder = jals.enable_cache()
ratings = jals.Ratings.from_arrays([0, 0, 1, 2], [0, 1, 1, 0], [1.0, 2.0, 3.0, 4.0])
problem, objective = jals.Problem.build(ratings), jals.explicit(reg=0.1)
result = jals.fit(jals.ALS(rank=2), problem, objective, sweeps=3)
assert jals.certify(result.factors, problem, objective).holds()
print(folder, told["cache_hits"], told["cache_misses"], result.history.loss[-1].hex())
"""


def fit_in_a_process(home: Path) -> list[str]:
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"XDG_CACHE_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", FIT], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_a_second_process_compiles_nothing(tmp_path):
    folder, hits, misses, loss = fit_in_a_process(tmp_path)
    assert Path(folder).parent == tmp_path / "jals"
    assert (int(hits), int(misses) > 5) == (0, True)
    assert list(Path(folder).iterdir())
    again, hits_again, misses_again, loss_again = fit_in_a_process(tmp_path)
    assert (again, int(misses_again), loss_again) == (folder, 0, loss)
    assert int(hits_again) == int(misses)


@pytest.mark.usefixtures("own_cache")
def test_a_folder_that_jax_has_been_told_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "told"))
    assert jals.enable_cache() == tmp_path / "told"
    assert jals.enable_cache(tmp_path / "given") == tmp_path / "given"
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "given")


@pytest.mark.usefixtures("own_cache")
def test_what_cannot_be_a_folder_changes_nothing(tmp_path):
    (tmp_path / "file").write_text("")
    before = jax.config.jax_compilation_cache_dir
    with pytest.raises(jals.StorageError, match="file/in cannot keep compiled programs"):
        jals.enable_cache(tmp_path / "file/in")
    with pytest.raises(jals.StorageError, match="file cannot keep compiled programs"):
        jals.enable_cache(tmp_path / "file")
    with pytest.raises(jals.ArgumentError, match="path is of type int"):
        jals.enable_cache(3)
    assert jax.config.jax_compilation_cache_dir == before

"""On eight devices: checkpoints that are written in the background, and restored on as many devices, or on others."""

import dataclasses
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jals
from jals.app.run import checkpoint
from jals.files.runs.folder import UNFINISHED
from tests.support import spread, tables

SOLVER = jals.ALS(tables.RANK, init_scale=1.0)
OBJECTIVE = jals.als_wr(0.1, bias=True, center=True)


def fitted(devices: int, sweeps: int, init=None) -> jals.Result:
    return jals.fit(SOLVER, spread.problem(devices), OBJECTIVE, sweeps=sweeps, init=init)


def saved(place: Path, *results: jals.Result, keep: int = 1) -> dict[str, str]:
    kept = checkpoint.Checkpoints(place, "key", keep)
    for result in results:
        kept.begin(result)
        while not kept.is_written():
            time.sleep(0.01)
        assert kept.end() is result
        kept.prune()
    kept.close()
    return kept.files


def restored(place: Path, files: dict[str, str], devices: int = 8, solver=SOLVER):
    return checkpoint.restore(place, "key", files, solver, spread.problem(devices), OBJECTIVE)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """(the folder, its files, a result after two sweeps, one after four)."""
    place, two = tmp_path_factory.mktemp("checkpoints"), fitted(8, 2)
    return place, saved(place, two), two, fitted(8, 4, init=two)


def test_on_the_same_devices_it_goes_on_to_the_bit(written):
    place, files, two, four = written
    found, damaged = restored(place, files)
    assert not damaged and found.done == 2 and found.history.loss == two.history.loss
    for ours, theirs in zip(jax.tree.leaves(found.state), jax.tree.leaves(two.state), strict=True):
        assert ours.sharding.is_equivalent_to(theirs.sharding, ours.ndim)
    again = fitted(8, 4, init=found)
    assert again.history.loss == four.history.loss
    jax.tree.map(np.testing.assert_array_equal, again.state, four.state)


@pytest.mark.parametrize("devices", [2, 4])
def test_on_other_devices_it_goes_on_to_rounding(written, devices):
    place, files, _, four = written
    found, _ = restored(place, files, devices)
    assert {len(leaf.devices()) for leaf in jax.tree.leaves(found.state)} == {devices}
    again = fitted(devices, 4, init=found)
    again, four = (jax.tree.map(np.asarray, each.factors.gathered()) for each in (again, four))
    assert tables.largest_difference(again, four) < 1e-12


def test_a_changed_byte_is_found_and_the_one_before_taken(tmp_path):
    two = fitted(8, 2)
    three = fitted(8, 3, init=two)
    files = saved(tmp_path, two, three, keep=2)
    assert {checkpoint.step_of(name) for name in files} == {2, 3}
    of_three = [tmp_path / name for name in files if checkpoint.step_of(name) == 3]
    last = max(of_three, key=lambda path: path.stat().st_size)
    content = last.read_bytes()
    for damaged in (content[:-7], content[:50] + bytes([content[50] ^ 4]) + content[51:], None):
        last.unlink() if damaged is None else last.write_bytes(damaged)
        found, lost = restored(tmp_path, files)
        assert lost == [3] and found.done == 2
    files = {name: digest for name, digest in files.items() if checkpoint.step_of(name) == 3}
    with pytest.raises(jals.StorageError, match="is damaged"):
        restored(tmp_path, files)


def test_the_latest_are_kept_and_the_best(tmp_path):
    results = [fitted(8, 1)]
    for sweeps in (2, 3, 4):
        results.append(fitted(8, sweeps, init=results[-1]))
    worse = dataclasses.replace(results[-1].history, loss=[*results[-1].history.loss[:-1], 1e9])
    rose = dataclasses.replace(results[-1], history=worse)
    files = saved(tmp_path, *results[:-1], rose, keep=1)
    assert {checkpoint.step_of(name) for name in files} == {3, 4}
    assert {path.name for path in (tmp_path / UNFINISHED).iterdir()} == {"3", "4"}


def test_one_of_another_rank_or_fit_is_refused_in_words(written):
    place, files, _, _ = written
    with pytest.raises(jals.StorageError, match="cannot be read"):
        restored(place, files, solver=dataclasses.replace(SOLVER, rank=tables.RANK + 1))
    with pytest.raises(jals.StorageError, match="it is of another fit"):
        checkpoint.restore(place, "other", files, SOLVER, spread.problem(8), OBJECTIVE)


def test_a_folder_that_takes_nothing_is_named_and_what_was_there_stays(tmp_path, monkeypatch):
    """As on a full disk, or one that may only be read."""
    files = saved(tmp_path, two := fitted(8, 2))
    kept = checkpoint.Checkpoints(tmp_path, "key", 1, files)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.ocp.CheckpointManager, "save", full)
        with pytest.raises(jals.StorageError, match="No space left on device"):
            kept.begin(fitted(8, 3, init=two))
    assert kept.files == files and restored(tmp_path, files)[0].done == 2

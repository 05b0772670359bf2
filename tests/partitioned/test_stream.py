"""A table that stays on the disk is fitted as in memory, and whatever needs it in memory says so."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import jals
from tests.partitioned.support import ratings

pytest.importorskip("duckdb", reason='partitioning needs the extra "partition"')
pytest.importorskip("polars")
posix = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and limits are POSIX's")

OBJECTIVES = {
    "biased": jals.als_wr(0.05, bias=True, center=True),
    "implicit": jals.ials(0.1, 0.2),
    "prior": jals.ials(0.1, 0.2, prior_item=np.ones(4)),
    "confidence": jals.hu_koren(0.1, 2.0, epsilon=0.5),
    "by weights": dataclasses.replace(jals.als_wr(0.1), count="weights"),
    "powers": jals.wals(0.1, 0.3, weight_power_item=-0.5, unobserved_power_user=0.3),
    "by row": jals.als_wr(
        reg_user=np.linspace(0.05, 0.2, 93),
        reg_item=0.1,
        prior_user=np.linspace(-1, 1, 93 * 4).reshape(93, 4),
        bias=True,
    ),
}


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """(the folder, its problem in memory)."""
    out = tmp_path_factory.mktemp("stream") / "table"
    jals.partition(ratings(), out, 3)
    return out, jals.Problem.open(out)


def opened(folder, **how) -> object:
    return jals.Problem.open(folder, stream=True, **how)


def same_fit(streamed: jals.Result, expected: jals.Result) -> None:
    assert streamed.history.sweep == expected.history.sweep
    for name in ("loss", "validation", "passes"):
        have, want = getattr(streamed.history, name), getattr(expected.history, name)
        np.testing.assert_allclose(have, want, rtol=1e-10, err_msg=name)
    have, want = jax.tree.leaves(streamed.factors), jax.tree.leaves(expected.factors)
    assert len(have) == len(want)
    for one, other in zip(have, want, strict=True):
        assert one.dtype == other.dtype == np.float64
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["native", "xla"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_fit_is_that_in_memory(table, name, backend):
    if backend == "native" and not jals.native.status().available:
        pytest.skip("no kernel here")
    folder, problem = table
    solver = jals.ALS(4, backend=backend, first="item" if name == "implicit" else "user")
    fits = [jals.fit(solver, each, OBJECTIVES[name], sweeps=2) for each in (opened(folder), problem)]
    same_fit(*fits)


@pytest.mark.parametrize("how", [{"linsolve": "lu"}, {"linsolve": "cg"}, {"linsolve": "subspace", "block": 3}])
def test_every_linsolve(table, how):
    folder, problem = table
    solver = jals.ALS(4, **how)
    same_fit(*(jals.fit(solver, each, jals.als_wr(0.1, bias=True), sweeps=2) for each in (opened(folder), problem)))


def test_values_that_are_no_codes_and_no_weights(tmp_path):
    """Nor are they ordered, and a shard of four is empty."""
    rng = np.random.default_rng(1)
    user, item = np.divmod(rng.permutation(3 * 40)[:80], 40)
    given = jals.Ratings.from_arrays(user, item, rng.normal(size=80), 3, 40)
    manifest = jals.partition(given, tmp_path / "t", 4)
    assert 0 in manifest.user.entries
    problems = opened(tmp_path / "t"), jals.Problem.build(given)
    same_fit(*(jals.fit(jals.ALS(3), each, jals.explicit(0.1), sweeps=2) for each in problems))


def test_rows_in_many_pieces(tmp_path):
    """A row of 1,500 entries is cut, in one shard of several; all shards have arrays of the same shapes."""
    rng = np.random.default_rng(2)
    user = np.r_[np.zeros(1500, int), rng.integers(1, 60, 2000)]
    item = np.r_[np.arange(1500), rng.integers(0, 1500, 2000)]
    pairs = np.unique(user * 1500 + item)
    value = rng.integers(1, 6, len(pairs)).astype(float)
    given = jals.Ratings.from_arrays(pairs // 1500, pairs % 1500, value, 60, 1500)
    jals.partition(given, tmp_path / "t", 4)
    problem = opened(tmp_path / "t")
    for side in ("user", "item"):
        shapes = [{name: each.shape for name, each in problem.shard(side, n).arrays.items()} for n in range(4)]
        assert all(each == shapes[0] for each in shapes)
    assert any("piece_row" in name for name in problem.shard("user", 0).arrays)
    solver, objective = jals.ALS(3), jals.als_wr(0.1)
    same_fit(*(jals.fit(solver, each, objective, sweeps=2) for each in (problem, jals.Problem.build(given))))


def test_a_fit_has_all_that_fits_have(table):
    """Validation, patience, callbacks, tol, init by factors and by an earlier result."""
    folder, problem = table
    held_out, seen = ratings(entries=500, seed=9), []
    rules = {"validation": held_out, "patience": 2, "loss_every": 2, "callbacks": [lambda now: seen.append(now.sweep)]}
    objective, solver = jals.als_wr(0.05, center=True), jals.ALS(4)
    fits = [jals.fit(solver, each, objective, sweeps=8, **rules) for each in (opened(folder), problem)]
    same_fit(*fits)
    assert fits[0].reason == fits[1].reason and fits[0].sweep == fits[1].sweep and seen[0] == 0
    half = jals.fit(solver, opened(folder), objective, sweeps=2)
    on = [jals.fit(solver, opened(folder), objective, sweeps=4, init=start) for start in (half, half.factors)]
    same_fit(on[0], jals.fit(solver, problem, objective, sweeps=4))
    assert on[1].history.loss[0] == pytest.approx(half.history.loss[-1], rel=1e-12)
    settled = [jals.fit(solver, each, objective, sweeps=50, tol=1e-2) for each in (opened(folder), problem)]
    assert settled[0].reason == "tol"
    same_fit(*settled)


def test_a_fit_that_breaks_down_names_the_row(table):
    folder, problem = table
    objective = jals.explicit(reg_user=np.r_[np.ones(20), 0, np.ones(72)], reg_item=1.0)
    told = []
    for each in (opened(folder), problem):
        with pytest.raises(jals.FitError) as error:
            jals.fit(jals.ALS(60), each, objective, sweeps=2)
        told.append((str(error.value), error.value.sweep, error.value.side, error.value.row))
    assert told[0] == told[1] and told[0][1:] == (1, "user", 20)


def test_an_interruption_keeps_the_last_sweep(table, monkeypatch):
    """Ctrl-C within a sweep, when part of the rows are new."""
    from jals.fitting import streaming

    folder, problem = table
    solve, calls = streaming._solve, []

    def interrupted(*arguments, **how):
        calls.append(1)
        if len(calls) == 2 + 2 * 6 + 4:  # compiled; two sweeps; and one shard of the other side's
            raise KeyboardInterrupt
        return solve(*arguments, **how)

    monkeypatch.setattr(streaming, "_solve", interrupted)
    objective, solver = jals.als_wr(0.05), jals.ALS(4)
    with pytest.raises(jals.Interrupted) as stopped:
        jals.fit(solver, opened(folder), objective, sweeps=5)
    monkeypatch.undo()
    assert stopped.value.result.done == 2
    on = jals.fit(solver, opened(folder), objective, sweeps=3, init=stopped.value.result)
    same_fit(on, jals.fit(solver, problem, objective, sweeps=3))


# ---- the files ----

SCRIPT = """
import os, signal, sys
import jax
jax.config.update("jax_enable_x64", True)
import jals
from jals.partitioned import slabs
moment, calls = int(sys.argv[2]), 0
replace = os.replace
def killed(*paths):
    global calls
    calls += 1
    if calls == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths)
slabs.os.replace = killed
jals.Problem.open(sys.argv[1], stream=True)
"""


@posix
@pytest.mark.parametrize("moment", [1, 4])
def test_a_killed_process_leaves_whole_shards_and_the_same_call_goes_on(table, tmp_path, moment):
    """Killed when a file is written, and not yet renamed: the table's first one, and a shard's."""
    copy = shutil.copytree(table[0], tmp_path / "t", ignore=shutil.ignore_patterns("slabs"))
    process = subprocess.run([sys.executable, "-c", SCRIPT, str(copy), str(moment)], check=False, timeout=120)
    assert process.returncode == -signal.SIGKILL
    found = {path.name: path.stat().st_ino for path in copy.glob("slabs/*/*.slabs")}
    assert len(found) == moment - 1 and len(list(copy.glob("slabs/*/.*"))) == 1
    told = []
    problem = opened(copy, progress=lambda *said: told.append(said))
    assert told.count(("survey", 3, 3)) == (moment == 1)
    assert ("lay out", 7 - max(moment - 1, 1), 7 - max(moment - 1, 1)) in told
    now = {path.name: path.stat().st_ino for path in problem.folder.iterdir()}
    assert found.items() <= now.items() and len(now) == 7, "a file that was whole was made again, or one is left over"
    same_fit(*(jals.fit(jals.ALS(4), each, jals.als_wr(0.1), sweeps=1) for each in (problem, table[1])))


def test_two_processes_do_not_lay_out_one_table_at_once(table, tmp_path):
    fcntl = pytest.importorskip("fcntl", reason="Windows, where nothing is locked")
    folder = opened(table[0], slabs=tmp_path / "slabs").folder
    lost = next(folder.glob("item-*.slabs"))
    lost.unlink()
    handle = os.open(folder, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(jals.StorageError, match="is being made by another process"):
        opened(table[0], slabs=tmp_path / "slabs")
    os.close(handle)
    opened(table[0], slabs=tmp_path / "slabs")
    assert lost.exists()


def test_a_file_that_is_damaged_or_missing_is_named(table, tmp_path):
    copy = shutil.copytree(table[0], tmp_path / "t", ignore=shutil.ignore_patterns("slabs"))
    path = opened(copy).folder / "item-0001.slabs"
    content = bytearray(path.read_bytes())
    content[-100] ^= 1
    path.write_bytes(content)
    with pytest.raises(jals.StorageError, match=r"item-0001\.slabs is damaged. Remove it"):
        opened(copy)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(jals.StorageError, match=r"item-0001\.slabs is damaged. Remove it"):
        opened(copy, verify=False).shard("item", 1)
    problem = opened(copy, verify=False)
    path.unlink()
    with pytest.raises(jals.StorageError, match=r"item-0001\.slabs is missing"):
        jals.fit(jals.ALS(4), problem, jals.als_wr(0.1), sweeps=1)
    opened(copy)  # makes it again
    assert path.exists()


@pytest.mark.parametrize("change", ["row", "other", "value", "order"])
def test_sides_that_differ_are_refused(tmp_path, change):
    """The item side's files are of another table: of other degrees, other pairs, other values, or the same ones
    elsewhere."""
    copy = tmp_path / "t"
    given = ratings(weighted=False)
    jals.partition(given, copy, 3)
    import polars

    (path,) = copy.glob("side=item/shard=0002/*.parquet")
    frame = polars.read_parquet(path)
    changed = {
        "row": {"row": frame["row"].max() - frame["row"]},
        "other": {"other": frame["other"].max() - frame["other"]},
        "value": {"value": frame["value"] * 2},
        "order": {"value": frame["value"].reverse()},
    }
    frame.with_columns(**changed[change]).write_parquet(path)
    with pytest.raises(jals.DataError, match="the item side does not hold the entries of the user side"):
        _without_hashes(copy, opened)


def _without_hashes(folder: Path, then):
    import json

    manifest = json.loads((folder / "manifest.json").read_text())
    for side in ("user", "item"):
        manifest[side]["files"] = None
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.warns(UserWarning, match="no SHA-256"):
        return then(folder)


def test_what_is_laid_out_lies_where_it_is_wanted(table, tmp_path):
    problem = opened(table[0], slabs=tmp_path / "here")
    assert problem.folder.parent == tmp_path / "here"
    assert problem.vocab is None and (problem.num_users, problem.num_items) == (93, 71)


# ---- what is refused ----


def test_what_needs_the_whole_table_is_refused(table):
    problem, objective = opened(table[0]), jals.als_wr(0.1)
    solver = jals.ALS(4)
    result = jals.fit(solver, problem, objective, sweeps=1)
    factors, key = result.factors, jax.random.key(0)
    for call in (
        lambda: jals.run(solver, result.state, problem, objective),
        lambda: jals.loss(factors, problem, objective),
        lambda: jals.certify(factors, problem, objective),
        lambda: solver.init(key, problem, objective),
        lambda: solver.sweep(result.state, problem, objective),
        lambda: jals.fold_in(factors, problem, objective),
        lambda: jals.explain(factors, problem, objective, 1, 1),
    ):
        with pytest.raises(jals.ArgumentError, match="open it without stream=True"):
            call()
    for solver, more in (
        (jals.Gradient(4), {}),
        (jals.ALS(4, rounding="bfloat16"), {}),
        (jals.ALS(4, storage="bfloat16"), {}),
        (jals.ALS(4), {"metric": "ndcg@10", "validation": ratings(entries=50)}),
    ):
        with pytest.raises(jals.ArgumentError, match="open it without stream=True"):
            jals.fit(solver, problem, objective, sweeps=1, **more)


def test_arguments_are_checked(table):
    for how, said in (
        ({"memory": "lots"}, "memory is 'lots', but must be a size"),
        ({"memory": 0}, "memory is 0"),
        ({"layout": "padded"}, 'must be "bucketed" with stream=True'),
    ):
        with pytest.raises(jals.ArgumentError, match=said):
            opened(table[0], **how)
    with pytest.raises(jals.ArgumentError, match="memory is for stream=True"):
        jals.Problem.open(table[0], memory="1GB")
    assert opened(table[0], memory="1.5 GiB").memory == 3 << 29


def test_too_little_memory_is_refused_before_any_work(table):
    with pytest.raises(jals.ArgumentError, match=r"memory is 50 MB, but this fit needs [\d,]+ \(the process has"):
        jals.fit(jals.ALS(4), opened(table[0], memory="50MB"), jals.als_wr(0.1), sweeps=1)
    with pytest.raises(jals.ArgumentError, match=r"lower the rank, 2000"):
        jals.fit(jals.ALS(2000), opened(table[0], memory="50MB"), jals.als_wr(0.1), sweeps=1)
    jals.fit(jals.ALS(4), opened(table[0], memory="100GB"), jals.als_wr(0.1), sweeps=1)


LIMITED = """
import resource, sys
import jax
jax.config.update("jax_enable_x64", True)
import jals
small, table, bound, what = sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4]
def fitted(path):
    return jals.fit(jals.ALS(8), jals.Problem.open(path, stream=True), jals.als_wr(0.1), sweeps=2)
fitted(small)
jals.Problem.open(small)
with open("/proc/self/status") as status:
    (data,) = (int(line.split()[1]) * 1024 for line in status if line.startswith("VmData:"))
resource.setrlimit(resource.RLIMIT_DATA, (data + bound, resource.RLIM_INFINITY))
if what == "lay out":
    sys.exit(not jals.Problem.open(table, stream=True))
print(fitted(table).history.loss[-1].hex(), flush=True)
jals.fit(jals.ALS(8), jals.Problem.open(table), jals.als_wr(0.1), sweeps=2)
print("in memory")
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory of its own on Linux")
def test_a_table_of_four_times_the_memory(tmp_path):
    """Laid out and fitted by processes that may not hold a quarter of it, and cannot open it in memory."""
    bound, rng = 96 << 20, np.random.default_rng(0)
    jals.partition(ratings(), tmp_path / "small", 2)
    pairs = np.flatnonzero(rng.random(20_000 * 2_000) < 0.14)
    weight, value = rng.random(len(pairs)), rng.normal(size=len(pairs))
    given = jals.Ratings.from_arrays(pairs // 2000, pairs % 2000, value, 20_000, 2_000, weight=weight)
    jals.partition(given, tmp_path / "table", 32)
    problem = jals.Problem.build(given).arrange()
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(problem)) > 4 * bound
    arguments = [sys.executable, "-c", LIMITED, str(tmp_path / "small"), str(tmp_path / "table"), str(bound)]
    subprocess.run([*arguments, "lay out"], check=True, timeout=500)
    process = subprocess.run([*arguments, "fit"], capture_output=True, text=True, check=False, timeout=500)
    assert process.returncode != 0, "the bound is too wide to say anything"
    assert process.stdout, process.stderr
    (loss,) = process.stdout.split()
    expected = jals.fit(jals.ALS(8), problem, jals.als_wr(0.1), sweeps=2).history.loss[-1]
    assert float.fromhex(loss) == pytest.approx(expected, rel=1e-10)

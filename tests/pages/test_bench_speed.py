"""The benchmark's arithmetic, its table, and that it runs, keeps what it has found and draws it. No seconds."""

import importlib
import json
import sys

import numpy as np
import pytest

import jals
from jals import native
from tests.support import ROOT, needs

needs("cli")
pytestmark = pytest.mark.newest


@pytest.fixture(scope="module")
def study():
    folder = str(ROOT / "experiments")
    sys.path.insert(0, folder)
    yield importlib.import_module("bench_speed")
    sys.path.remove(folder)


# ---- the table and the floor ----


def test_the_floor_counts_what_a_sweep_has_to_do(study):
    table = study.sp.csr_matrix(np.array([[1, 2, 0, 0], [0, 3, 0, 4], [0, 0, 0, 0]], np.float32))
    rank, operations, moved = 3, 0, 0
    for side in (table, table.T.tocsr()):
        for count in np.diff(side.indptr):
            if count:
                gram = count * rank * (rank + 1) / 2 * 2  # a product and a sum for each element of the triangle
                operations += gram + rank**3 / 3 + 2 * rank**2
        moved += side.nnz * (4 + 4 + 4) + 4 * rank * sum(side.shape)
    shape = study.shape_of(table)
    rates = {"sgemm": 7.0, "copy": 1e9, "gather": 2.0}
    busy = study.floor(shape, rank, rates)
    assert busy["floor"] == busy["operations"] == pytest.approx(operations / 7)
    assert busy["gathers"] == 2 * table.nnz / 2
    starved = study.floor(shape, rank, rates | {"sgemm": 1e12, "copy": 5.0})
    assert starved["floor"] == starved["bytes"] == pytest.approx(moved / 5)


def test_the_made_table_is_skewed_like_a_real_one(study):
    table = study.made_table(0.02)
    assert table.shape == (round(138_493 * 0.02), round(26_744 * 0.02**0.5))
    assert 0.6 * 25e6 * 0.02 < table.nnz <= 25e6 * 0.02
    assert table.has_canonical_format
    assert set(table.data.tolist()) == set(np.arange(0.5, 5.5, 0.5))
    users, items = np.diff(table.indptr), np.sort(np.diff(table.tocsc().indptr))
    assert users.min() >= 10  # 20 draws, of which some met
    assert users.max() > 5 * np.median(users) and np.mean(users) > 1.3 * np.median(users)
    assert items[-len(items) // 10 :].sum() > 0.4 * table.nnz
    again, other = study.made_table(0.001), study.made_table(0.001, seed=1)
    assert (again != study.made_table(0.001)).nnz == 0 and (again != other).nnz > 0


def test_fewer_users_are_rows_of_the_table(study):
    table = study.made_table(0.002)
    fewer = study.worker.fewer_users(table, 4)
    assert fewer.shape == (-(-table.shape[0] // 4), table.shape[1])
    whole = {tuple(row) for row in table.toarray()}
    assert all(tuple(row) in whole for row in fewer.toarray())


# ---- measuring, without a clock ----


def case(study, calls, name, setup, sweep, compiles=False):
    def fit(sweeps):
        calls.append((name, sweeps))
        return {"seconds": setup + sweep * sweeps, "digest": f"{name} {sweeps}"}

    return study.measure.Case(fit, compiles)


def test_a_sweep_is_the_difference_of_two_fits_and_solvers_take_turns(study):
    calls = []
    cases = {
        "quick": case(study, calls, "quick", setup=3, sweep=1, compiles=True),
        "slow": case(study, calls, "slow", setup=0, sweep=20),
    }
    taken, left_out = study.measure.in_turn(cases, repeats=3, budget=45)
    assert not left_out
    quick, slow = taken
    assert quick.median == 1 and quick.seconds == [1, 1, 1] and quick.fits == (2, 6)
    assert slow.median == 20 and slow.seconds == [20] and slow.fits == (1, 2)  # 60 s each: one, and the short form
    assert calls[:5] == [("quick", 0), ("quick", 1), ("quick", 2), ("slow", 1), ("slow", 2)]
    both = {"a": case(study, calls, "a", 0, 1), "b": case(study, calls, "b", 0, 2)}
    calls.clear()
    study.measure.in_turn(both, repeats=2, budget=100)
    assert [name for name, _ in calls[4:]] == list("aabbaabb")


def test_what_cannot_be_measured_is_said(study, capsys):
    def fit(sweeps):
        raise study.Unavailable("not installed")

    cases = {"jals native": case(study, [], "n", 0, 2), "x": study.measure.Case(fit, False)}
    found = study.measure.rows(*study.measure.in_turn(cases, 1, 100))
    assert found["left_out"] == {"x": "not installed"}
    assert [(row["solver"], row["ratio"]) for row in found["rows"]] == [("jals native", 1)]
    assert "left out: not installed" in capsys.readouterr().out


def test_the_exponent(study):
    assert study.measure.exponent([1, 4, 16], [2, 2 * 4**0.7, 2 * 16**0.7]) == pytest.approx(0.7)
    assert np.isnan(study.measure.exponent([1, 4], [0.1, -0.1]))


# ---- keeping ----


def test_sections_are_kept_at_once_and_replaced_alone(study, tmp_path, monkeypatch):
    told = {"peers": {"rows": [], "figure": 1.0}, "xla": {"rows": [], "figure": float("nan")}}

    def interrupted(bench):
        raise KeyboardInterrupt

    monkeypatch.setattr(study.picture, "draw", lambda found, path: None)
    monkeypatch.setattr(study, "SECTIONS", {name: lambda bench, name=name: dict(told[name]) for name in told})
    path = tmp_path / "bench_speed.json"
    arguments = ["--scale", "0.001", "--out", str(tmp_path)]

    def run(*more):
        code = study.main([*arguments, *more])
        return code, json.loads(path.read_text(encoding="utf-8"))["sections"]

    code, kept = run()
    assert code == 0 and kept["peers"]["figure"] == 1 and kept["xla"]["figure"] is None
    told["peers"]["figure"], told["xla"]["figure"] = 2.0, 2.0
    _, kept = run("--only", "peers")
    assert kept["peers"]["figure"] == 2 and kept["xla"]["figure"] is None
    monkeypatch.setitem(study.SECTIONS, "xla", interrupted)
    told["peers"]["figure"] = 3.0
    code, kept = run("--only", "peers", "xla")
    assert code == 130 and kept["peers"]["figure"] == 3 and kept["xla"]["figure"] is None
    _, kept = run("--only", "peers", "--rank", "8")
    assert list(kept) == ["peers"]  # figures at another rank do not mix with these


# ---- a small run, in processes of its own ----


def test_a_small_run(study, tmp_path, capsys):
    name = "jals native" if native.status().available else "jals XLA"
    some = ["--solvers", name, "lenskit"]
    only = ["--only", "peers", "ranks", "threads"]
    small = ["--scale", "0.001", "--rank", "4", "--ranks", "4", "8", "--repeats", "1", "--budget", "5"]
    assert study.main([*small, *some, *only, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bench_speed.json").read_text(encoding="utf-8"))
    assert found["table"]["users"] == 138 and found["table"]["entries"] > 5_000
    assert {"processor", "cores"} <= set(found["machine"])
    assert found["versions"]["jals"]["jax"] and found["solvers"]["lenskit"]["objective"]
    peers, (rank8,) = found["sections"]["peers"], found["sections"]["ranks"]["ranks"]
    for level, rank in ((peers, 4), (rank8, 8)):
        assert level["rank"] == level["floor"]["rank"] == rank
        assert level["floor"]["floor"] > 0
        assert [row["solver"] for row in level["rows"]] == [name]
        assert "not installed" in level["left_out"]["lenskit"]
        assert all(len(row["seconds"]) == 1 for row in level["rows"])
    assert found["sections"]["threads"]["compared"][name]["same_bits"]
    from matplotlib.image import imread

    shown = imread(tmp_path / "bench_speed.png")
    assert min(shown.shape[:2]) > 300 and shown[..., :3].std() > 0.01
    assert "left out" in capsys.readouterr().out


def test_a_whole_job_and_what_surrounds_it(study, tmp_path):
    """The figures of the job are real ones: its RMSE is that of a fit made here."""
    table = study.made_table(0.001)
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(table, name))
    (tmp_path / "shape.json").write_text(json.dumps(table.shape), encoding="utf-8")
    paths = study.held_out_parts(tmp_path)
    train, test = (jals.Ratings.from_scipy(study.sp.load_npz(paths[name])) for name in ("train", "test"))
    assert len(train) + len(test) == table.nnz and 0.05 < len(test) / table.nnz < 0.15

    solver = study.SOLVERS["jals XLA"]
    request = paths | {"rank": 3, "sweeps": 2, "options": solver.options}
    command = [sys.executable, str(study.measure.WORKER), "whole", "jals", "1", json.dumps(request)]
    env = study.measure.environment("jals", 1, 1)
    told = study.measure.once(command, env, 100)
    factors = jals.fit(jals.ALS(3, backend="xla"), jals.Problem.build(train), jals.als_wr(0.05), 2).factors
    rmse = jals.metrics.rmse(jals.predict(factors, test.user, test.item), test.value)
    assert told["rmse"] == pytest.approx(float(rmse), rel=1e-4)
    assert 5e7 < told["memory"] < 5e9
    with pytest.raises(study.Unavailable, match="not done after 0 s"):
        study.measure.once(command, env, 0.01)

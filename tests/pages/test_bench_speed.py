"""The benchmark's arithmetic, its table, and that it runs, keeps what it has found and draws it. No seconds."""

import importlib
import json
import re
import shutil
import sys

import numpy as np
import pytest

import jals
from jals import native
from tests.support import ROOT, needs, script

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
        "short": case(study, calls, "short", setup=0, sweep=4),
        "slow": case(study, calls, "slow", setup=0, sweep=20),
    }
    taken, left_out = study.measure.in_turn(cases, repeats=3, budget=45)
    assert not left_out
    quick, short, slow = taken
    assert quick.seconds == [1, 1, 1] and quick.fits == study.measure.LONG
    assert short.seconds == [4, 4, 4] and short.fits == study.measure.SHORT  # three of the longer take 60 s
    assert slow.seconds == [20] and slow.fits == study.measure.SHORT  # 60 s each: the first pair is all there is
    assert calls[:3] == [("quick", 0), ("quick", 1), ("quick", 2)]
    assert calls.count(("slow", 1)) == calls.count(("slow", 2)) == 1


def test_every_other_round_goes_backwards(study):
    """So that a drift of the machine favours neither: were the order the same, the second would always be later."""
    calls = []
    both = {"a": case(study, calls, "a", 0, 1), "b": case(study, calls, "b", 0, 2)}
    study.measure.in_turn(both, repeats=3, budget=100)
    assert [name for name, _ in calls[4::2]] == list("abbaab")


def test_what_cannot_be_measured_is_said(study, capsys):
    def fit(sweeps):
        raise study.Unavailable("not installed")

    cases = {"jals native": case(study, [], "n", 0, 2), "x": study.measure.Case(fit, False)}
    found = study.measure.rows(*study.measure.in_turn(cases, 1, 100))
    assert found["left_out"] == {"x": "not installed"}
    assert [(row["solver"], row["ratio"]["median"]) for row in found["rows"]] == [("jals native", 1)]
    assert "left out: not installed" in capsys.readouterr().out


# ---- what the seconds say ----


def test_the_spread_of_a_row(study):
    assert study.rules.spread([3.0, 1.0, 2.0, 10.0]) == {"median": 2.5, "low": 1.0, "high": 10.0, "n": 4}


def test_ratios_are_of_the_same_round(study):
    """A minute in which the machine is half as fast moves both, and no ratio."""
    plain, slow = np.array([1.0, 1.1, 2.0, 1.9, 1.0, 1.05]), 1.07
    found = study.rules.paired(list(plain * slow), list(plain))
    assert found["told"] == "more" and found["n"] == 6
    assert found["low"] == pytest.approx(slow) == found["high"] == found["median"]
    assert study.rules.paired([2.0, 3.0], [1.0])["n"] == 1  # a round that one of them lacks
    assert study.rules.paired([2.0, -1e-3, 4.0], [1.0, 1.0, 2.0])["n"] == 2


@pytest.mark.parametrize(
    ("ratios", "told"),
    [
        ([0.8, 0.9, 0.85, 0.9], "few"),
        ([0.88, 0.9, 1.02, 0.91, 0.9], "alike"),
        ([1.01, 1.1, 1.2, 1.05, 1.02], "more"),
        ([0.9, 0.8, 0.99, 0.95, 0.97], "less"),
    ],
)
def test_what_pairs_tell(study, ratios, told):
    assert study.rules.paired(ratios, [1.0] * len(ratios))["told"] == told


def test_an_exponent_where_the_points_support_one(study):
    sizes = [1, 4, 16]
    found = study.rules.exponent(sizes, [2 * size**0.7 for size in sizes])
    assert found["exponent"] == pytest.approx(0.7) and found["off"] == pytest.approx(0, abs=1e-9) and not found["why"]
    assert study.rules.exponent(sizes, [1, 4.2, 16])["exponent"] is not None


@pytest.mark.parametrize(
    ("sizes", "seconds", "why"),
    [
        ([1, 16], [1, 16], "2 sizes of 3"),
        ([1, 2, 4], [1, 2, 4], "sizes span 4 times, not 10"),
        ([1, 4, 16], [1, 8, 16], "a point is .* % off the line"),
        ([1, 4, 16], [0.1, -0.1, 1], "below"),
    ],
)
def test_no_exponent_without_support(study, sizes, seconds, why):
    found = study.rules.exponent(sizes, seconds)
    assert found["exponent"] is None and re.search(why, found["why"])


def level(rank, **seconds):
    rows = [{"solver": name.replace("_", " "), "seconds": each, "fits": [1, 4]} for name, each in seconds.items()]
    return {"rank": rank, "floor": {"floor": 0.5}, "rows": rows, "left_out": {}}


def record(study, peers, *others):
    solvers = {name: {"objective": each.objective, "way": each.way} for name, each in study.SOLVERS.items()}
    return {
        "table": {"entries": 10**6},
        "threads": 2,
        "rank": peers["rank"],
        "solvers": solvers,
        "sections": {"peers": peers, "ranks": {"ranks": list(others)}},
    }


def test_the_headline_is_the_fastest_of_the_others_that_solve_alike(study):
    five = [1.0] * 5
    found = record(
        study,
        level(64, jals_native=five, irspack_Cholesky=[2.0] * 5, cmfrec_Cholesky=[8.0] * 5, irspack_CG=[0.1] * 5),
        level(16, jals_native=five, irspack_Cholesky=[4.0] * 5),
        level(256, jals_native=five),
    )
    study.rules.derive(found, study.REFERENCE)
    said = "jals' exact sweep takes 0.25 to 0.5 of the fastest other library's time at ranks 16 to 64"
    assert found["headlines"] == {"exact": said, "cg": "", "subspace": ""}
    found["sections"]["peers"]["rows"][1]["seconds"] = [0.9, 1.1, 1.0, 1.0, 0.8]
    study.rules.derive(found, study.REFERENCE)
    assert found["headlines"]["exact"].endswith("at ranks 16 to 64 (at 64 no difference can be told from noise)")


def test_the_record_follows_from_its_seconds(study):
    """What is kept beside the seconds is what the rules make of them today."""
    path = study.HERE / "results" / "bench_speed.json"
    kept = json.loads(path.read_text(encoding="utf-8"))
    again = json.loads(json.dumps(kept))
    for every in study.rules.levels(again):
        for row in every["rows"]:
            row["median"], row["ratio"] = None, None
    study.rules.derive(again, study.REFERENCE)
    flat = study.tidy(again)
    assert flat["headlines"] == kept["headlines"] and flat["sections"].keys() == kept["sections"].keys()
    for one, other in zip(study.rules.levels(flat), study.rules.levels(kept), strict=True):
        for row, known in zip(one["rows"], other["rows"], strict=True):
            assert row["median"] == pytest.approx(known["median"], rel=1e-5)
            assert row["ratio"]["told"] == known["ratio"]["told"]


def test_the_page_on_speed_has_the_memory_of_the_record(study):
    kept = json.loads((study.HERE / "results" / "bench_speed.json").read_text(encoding="utf-8"))
    peak = {row["solver"]: f"{row['peaks']['median']:.2f}" for row in kept["sections"]["whole"]["rows"]}
    said = "peaked at {jals native} GB, where irspack took {irspack Cholesky} and cmfrec {cmfrec CG}".format(**peak)
    assert said in " ".join((ROOT / "docs" / "performance.md").read_text(encoding="utf-8").split())


def test_the_page_says_what_pairs_tell(study, tmp_path, monkeypatch):
    """A variant that does more and came out faster is not called cheaper, and its cost is said where there is one."""
    collect = script("experiments", "collect.py")
    shutil.copytree(collect.RESULTS, tmp_path / "results")
    path = tmp_path / "results" / "bench_speed.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    seconds = {"plain": [1.0] * 5, "bias": [0.9, 1.1, 0.9, 0.9, 0.9], "unobserved weight": [1.2] * 5}
    found["sections"]["parts"]["variants"]["rows"] = [
        {"solver": name, "seconds": each, "fits": [1, 4]} for name, each in seconds.items()
    ]
    rows = found["sections"]["whole"]["rows"]
    for row in rows:
        row["objective"], row["rmse"] = study.measure.CENTRED, 0.7 if row["solver"] == "jals native" else 0.71
    study.rules.derive(found, study.REFERENCE)
    path.write_text(json.dumps(found), encoding="utf-8")
    monkeypatch.setattr(collect, "RESULTS", path.parent)
    page = collect.page()
    assert "- bias: no cost can be told from noise: 0.9 times the plain sweep (0.9 to 1.1, 5 pairs)." in page
    assert "- unobserved weight: costs 20 %: 1.2 times the plain sweep (1.2 to 1.2, 5 pairs)." in page
    assert "minimises what jals does here; their RMSEs differ by 0.01" in page
    rows[0]["objective"] = study.measure.EXPLICIT
    path.write_text(json.dumps(found), encoding="utf-8")
    assert "its RMSE is that of another model" in collect.page()


def test_the_picture_has_three_panels_alike(study, tmp_path, monkeypatch):
    found = record(
        study,
        level(64, jals_native=[1.0, 1.1], jals_CG=[0.5], irspack_Cholesky=[2.0], irspack_CG=[1.0], jals_XLA=[9.0]),
        level(16, jals_native=[0.2], jals_subspace=[0.5], **{"irspack_iALS++": [2.0]}),
    )
    study.rules.derive(found, study.REFERENCE)
    from matplotlib.figure import Figure

    kept = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, path, **how: kept.append(figure))
    study.picture.draw(found, tmp_path / "x.png")
    *panels, _ = kept[0].axes
    assert [len(axes.containers) for axes in panels] == [3, 2, 2]
    assert {axes.get_xlim() for axes in panels} == {panels[0].get_xlim()}
    assert {axes.get_ylim() for axes in panels} == {panels[0].get_ylim()}
    assert {axes.get_ylabel() for axes in panels} == {"seconds a sweep"}
    colours = [{bars[0].get_color() for bars in axes.containers} for axes in panels]
    assert len(colours[1]) == 2 and colours[1] == colours[2] == colours[0]  # a library has one colour everywhere
    assert "0.5 of the fastest" in kept[0].get_suptitle().replace("\n", " ")


# ---- keeping ----


def test_sections_are_kept_at_once_and_replaced_alone(study, tmp_path, monkeypatch):
    peers = {"rank": 8, "floor": {"floor": 1.0}, "rows": [], "figure": 1.0}
    told = {"peers": peers, "xla": {"rows": [], "figure": float("nan")}}

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
    small = ["--scale", "0.001", "--rank", "4", "--ranks", "4", "8", "--most", "1", "--budget", "5"]
    assert study.main([*small, *some, *only, "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "bench_speed.json").read_text(encoding="utf-8"))
    assert found["table"]["users"] == 138 and found["table"]["entries"] > 5_000
    assert {"processor", "cores"} <= set(found["machine"])
    assert found["versions"]["jals"]["jax"] and found["solvers"]["lenskit"]["objective"]
    peers, ranks = (found["sections"][section] for section in ("peers", "ranks"))
    assert ranks["entries"] < found["table"]["entries"]
    assert study.rules.levels(found) == ranks["ranks"]  # peers are of another table
    for level, rank in zip((peers, *ranks["ranks"]), (4, 4, 8), strict=True):
        assert level["rank"] == level["floor"]["rank"] == rank
        assert level["floor"]["floor"] > 0
        assert [row["solver"] for row in level["rows"]] == [name]
        assert "not installed" in level["left_out"]["lenskit"]
        assert all(len(row["seconds"]) == row["n"] == 1 for row in level["rows"])
    compared = found["sections"]["threads"]["compared"][name]
    assert compared["same_bits"] and compared["speedup"]["told"] == "few"
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
    more, objective = study.WHOLE[study.REFERENCE]
    assert objective == study.measure.CENTRED == study.WHOLE["cmfrec CG"][1]
    request = paths | {"rank": 3, "sweeps": 2, "options": solver.options | more}
    command = [sys.executable, str(study.measure.WORKER), "whole", "jals", "1", json.dumps(request)]
    env = study.measure.environment("jals", 1, 1)
    told = study.measure.once(command, env, 100)
    factors = jals.fit(jals.ALS(3, backend="xla"), jals.Problem.build(train), jals.als_wr(0.05, center=True), 2).factors
    rmse = jals.metrics.rmse(jals.predict(factors, test.user, test.item), test.value)
    assert told["rmse"] == pytest.approx(float(rmse), rel=1e-4)
    assert 5e7 < told["imported"] < told["memory"] < 5e9
    with pytest.raises(study.Unavailable, match="not done after 0 s"):
        study.measure.once(command, env, 0.01)

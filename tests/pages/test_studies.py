"""The studies' page: what it says comes from the results that were taken in, and those from the runs' records."""

import json

import numpy as np
import pytest

pytest.importorskip("jinja2", reason='studies need the extra "cli"')
pytest.importorskip("matplotlib", reason='studies need the extra "cli"')
pytest.importorskip("pydantic", reason='studies need the extra "cli"')

from jals.app.show.report import gathering, verdict
from tests.support import ROOT, script
from tests.support.records import made_run


@pytest.fixture(scope="module")
def collect():
    return script("experiments", "collect.py")


def test_the_page_says_what_the_results_say(collect):
    assert (collect.HERE / "README.md").read_text(encoding="utf-8") == collect.page()


@pytest.mark.parametrize(
    ("study", "change", "claim"),
    [
        ("missing_not_zero", lambda rows: rows[1]["test_RMSE"].__setitem__(0, 1.0), "nearly everything is 0"),
        ("initialisation", lambda rows: rows[0].__setitem__("stationarity", 1e-9), "exactly zero"),
        ("rank_and_precision", lambda rows: rows[-1]["certificate"].__setitem__("user", 1.0), "exact update passes"),
        ("als_vs_adam_ranking", lambda rows: rows[3]["test_ndcg@10"].__setitem__(0, 1.0), "no better"),
    ],
)
def test_a_claim_that_the_results_no_longer_show_is_not_written(collect, tmp_path, monkeypatch, study, change, claim):
    changed = collect.RESULTS / f"{study}.json"
    for path in collect.RESULTS.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    found = json.loads(changed.read_text("utf-8"))
    change(found["rows"])
    (tmp_path / changed.name).write_text(json.dumps(found), "utf-8")
    monkeypatch.setattr(collect, "RESULTS", tmp_path)
    with pytest.raises(ValueError, match=f"no longer show.*{claim}"):
        collect.page()


def test_means_that_can_be_told_apart(collect):
    assert collect.is_below([1.0, 0.1, 3], [1.3, 0.1, 3]) and collect.is_above([1.3, 0.1, 3], [1.0, 0.1, 3])
    assert collect.is_like([1.0, 0.1, 3], [1.25, 0.1, 3]) and not collect.is_like([1.0, None, 1], [1.25, 0.1, 3])


def test_who_is_better_by_the_whole_interval(collect):
    point = [["solver.*.rank", 8]]
    pairs = [("a", -0.2, 0.1), ("b", -0.1, -0.05), ("c", -0.3, -0.1), ("d", 0.2, 0.3), ("e", -0.1, None)]
    paired = [
        {"name": name, "point": ["t", "s", "o", point], "mean": mean, "high": high} for name, mean, high in pairs
    ]
    other = [{"name": "f", "point": ["t", "s", "o", [["solver.*.rank", 64]]], "mean": -1.0, "high": -0.5}]
    study = collect.Study({"paired": paired + other})
    assert [pair["name"] for pair in study.better(rank=8)] == ["c", "b"]
    assert [pair["name"] for pair in study.better()] == ["f", "c", "b"]


def test_every_study_has_a_config_results_and_a_section(collect):
    """And the other way round: nothing stale lies about."""
    configs = {path.stem for path in (ROOT / "configs").glob("*.toml")}
    # Demos; a study's that a script makes, too; scripts'; three ways to run, not one.
    configs -= {"movielens", "ranking", "published_ials", "gowalla", "ml100k_folds", "tune_methods"}
    scripts = {path.stem for path in collect.HERE.glob("*.py") if "results" in path.read_text(encoding="utf-8")}
    scripts -= {"collect", "ml100k_folds", "bench_gpu"}  # the last has not been run on a GPU yet
    assert {path.stem for path in collect.RESULTS.glob("*.json")} == configs | scripts
    page = (collect.HERE / "README.md").read_text(encoding="utf-8")
    for name in configs:
        assert f"configs/{name}.toml" in page
    for name in scripts:
        assert f"experiments/{name}.py" in page


def test_what_is_taken_from_a_run(collect, tmp_path):
    record = made_run(tmp_path, solvers=("als", "sgd", "adamw"), diverged=(("sgd", 1),))
    taken = collect.taken(tmp_path)
    rows = {row["solver"]: row for row in taken["rows"]}
    fits = [fit for fit in record["fits"] if fit["trial"] is None and fit["error"] is None]
    for solver, row in rows.items():
        own = [fit for fit in fits if fit["solver"] == solver]
        folds = [[fit["metrics"]["test"]["rmse"] for fit in own if fit["fold"] == fold] for fold in (0, 1)]
        means = [np.mean(errors) for errors in folds]
        assert row["test_RMSE"] == pytest.approx([np.mean(means), np.std(means, ddof=1) / 2**0.5, 2], rel=1e-5)
        assert row["broken"] == (2 if solver == "sgd" else 0)
        assert ("excess" in row) == (solver != "adamw")  # its loss is another one
    lowest = {fold: min(min(fit["history"]["loss"]) for fit in fits if fit["fold"] == fold) for fold in (0, 1)}
    excess = [fit["history"]["loss"][-1] / lowest[fit["fold"]] - 1 for fit in fits if fit["solver"] == "als"]
    assert rows["als"]["excess"] == pytest.approx(np.mean(excess), rel=1e-4, abs=1e-6)
    trials = [fit for fit in record["fits"] if fit["trial"] is not None]
    assert (taken["fits"], taken["trials"]) == (len(record["fits"]) - len(trials), len(trials))
    shares = []
    for fold in (0, 1):
        scores = [
            np.inf if fit["error"] else fit["metrics"]["validation"]["rmse"] for fit in trials if fit["fold"] == fold
        ]
        shares.append(np.mean([score <= 1.01 * min(scores) for score in scores]))
    assert rows["sgd"]["trials_near"] == pytest.approx(np.mean(shares))


def test_a_run_is_taken_in(collect, tmp_path):
    record = made_run(tmp_path, grid={"objective.reg": [0.05, 0.1]})
    found = collect.taken(tmp_path)
    trials = [fit for fit in record["fits"] if fit["trial"] is not None]
    assert (found["fits"], found["trials"]) == (len(record["fits"]) - len(trials), len(trials))
    assert found["broken_trials"] == sum(fit["error"] is not None for fit in trials) > 0
    worst = [max(row["certificate"]["user"] for row in found["rows"])]
    worst.append(max(fit["certificate"]["user"] for fit in record["fits"] if fit["certificate"]))
    assert worst[0] == pytest.approx(worst[1], rel=1e-5)
    for name, own in found["own_points"].items():  # of every fold the λ that its validation part is best at
        fits = [fit for fit in record["fits"] if fit["solver"] == name and fit["trial"] is None and not fit["error"]]
        tests, points = [], []
        for fold in (0, 1):
            of = {}
            for fit in (fit for fit in fits if fit["fold"] == fold):
                of.setdefault(fit["point"]["objective.reg"], []).append(fit["metrics"])
            means = {
                reg: [np.mean([each[part]["rmse"] for each in seeds]) for part in ("validation", "test")]
                for reg, seeds in of.items()
            }
            points.append(min(means, key=lambda reg: means[reg][0]))
            tests.append(means[points[-1]][1])
        assert own["test_RMSE"] == pytest.approx([np.mean(tests), np.std(tests, ddof=1) / 2**0.5, 2], rel=1e-5)
        assert [each["reg"] for each in own["taken"]] == points
    first, other = list(found["own_points"].values())[:2]
    assert first["less_first"][0] == 0 != other["less_first"][0]
    said = verdict.of(gathering.read([tmp_path]))
    assert said.headline and found["verdict"]["headline"] == said.headline and found["verdict"]["cost"] == said.cost
    assert {row["solver"] for row in found["rows"] if row["tuned"]} == {"sgd"}

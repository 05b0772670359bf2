"""Runs that are judged by how they rank: what is measured, what it decides, and the baselines beside it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

import jals
from jals.app import config as configs
from jals.app.config import measures
from jals.app.config.schema import Config
from jals.app.run import baselines, session
from jals.app.run.data import folds
from jals.app.show import page
from jals.app.show.report import gathering
from jals.app.show.report import table as report_table
from jals.files.runs import folder
from tests.support.commands import jals_command, write_experiment
from tests.support.records import read_run as recorded

SEGMENTED = ("[objective]", '[problem]\nlayout = "segmented"\n\n[objective]')  # compiles quickest
VALIDATED = ("test_fraction = 0.2", "test_fraction = 0.2\nvalidation_fraction = 0.2")
IMPLICIT = ('"als_wr"\nreg = 0.1\nbias = true\ncenter = true', '"ials"\nreg = 0.1\nunobserved_weight = 0.3')
RANKED = ("sweeps = 3", 'sweeps = 3\nmetric = "ndcg@3"')
MEASURED = '\n[output]\nmetrics = ["recall@2", "auc", "coverage@2"]\n'
BASELINES = '\n[[baseline]]\nkind = "most_popular"\n\n[[baseline]]\nkind = "item_knn"\nname = "knn"\nneighbours = 2\n'


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Drawing takes as long as all else."""
    monkeypatch.setattr(session.Session, "draw", lambda self: (self.place / folder.PAGE).write_text("drawn"))


def experiment(place, *changes, more=""):
    path = write_experiment(place, SEGMENTED, VALIDATED, *changes)
    path.write_text(path.read_text() + more)
    return path


def parts(place):
    table = jals.read_ratings(place / "table.npz")[0]
    train, test = jals.split.random(table, 0.2, 0)
    train, validation = jals.split.random(train, 0.2, 0)
    return train, validation, test


def together(*tables):
    columns = (np.concatenate([getattr(each, name) for each in tables]) for name in ("user", "item", "value"))
    return jals.Ratings.from_arrays(*columns, tables[0].num_users, tables[0].num_items)


def run(path, out, *more):
    done = jals_command("run", path, "--out", out, *more)
    assert done.exit_code == 0, done.output
    return done.output, recorded(out)["fits"]


def test_what_is_measured_is_the_ranking_of_the_factors(tmp_path):
    """Of the validation part beside the training part, of the test part beside both; liked is what is rated 3 or more,
    which makes the explicit preset no mistake."""
    path = experiment(tmp_path, RANKED, more=MEASURED + "relevant = 3.0\n")
    shown, (fit,) = run(path, tmp_path / "run")
    train, validation, test = parts(tmp_path)
    factors = jals.load(tmp_path / "run" / fit["factors"]).factors
    liked = lambda part: jals.Ratings.from_arrays(part.user, part.item, part.value >= 3, part.num_users, part.num_items)  # noqa: E731
    for part, held_out, seen in (("validation", validation, train), ("test", test, together(train, validation))):
        expected = jals.metrics.ranking(factors, liked(held_out), seen, (2, 3), ("ndcg", "recall", "auc", "coverage"))
        for name in ("ndcg@3", "recall@2", "auc", "coverage@2"):
            assert fit["metrics"][part][name] == pytest.approx(expected.mean[name]), (part, name)
    assert fit["history"]["validation"][-1] == fit["metrics"]["validation"]["ndcg@3"]
    assert (fit["metric"], set(fit["metrics"]["train"])) == ("ndcg@3", {"rmse", "mae"})
    kept = fit["ranking"]
    assert kept["users"] == len(expected.user) and kept["left_out"] == expected.left_out
    assert kept["stderr"]["ndcg@3"] == pytest.approx(expected.stderr["ndcg@3"])
    every = jals.metrics.ranking(factors, liked(test), together(train, validation), kept["k"], ("ndcg", "recall"))
    for name in ("ndcg", "recall"):
        np.testing.assert_allclose(kept["curves"][name], [every.mean[f"{name}@{k}"] for k in kept["k"]])
    for of, row, numbers in (
        ("by_activity", every.user, every.per_user["ndcg@3"]),
        ("by_popularity", test.item[every.entry], every.hits[3]),
    ):
        degree = np.bincount(getattr(train, "user" if of == "by_activity" else "item"), minlength=20)[row]
        for each in kept[of]:
            own = numbers[(degree >= each["low"]) & (degree <= each["high"])]
            assert (each["count"], each["mean"]) == (len(own), pytest.approx(own.mean()))
        assert sum(each["count"] for each in kept[of]) == len(row)
    assert "ndcg@3" in shown and "coverage@2" not in shown  # of a table of 80 columns the first three

    output = jals_command("evaluate", tmp_path / "run", "-k", 3, "--metric", "ndcg").output
    assert f"{fit['metrics']['test']['ndcg@3']:.4f}" in output


def test_implicit_feedback_is_ranked_unasked(tmp_path, monkeypatch):
    """Held-out errors say nothing of it; where the table has too few items they stand there with a word of caution."""
    path = experiment(tmp_path, IMPLICIT)
    shown, (fit,) = run(path, tmp_path / "small")  # of 8 items, and the usual lists have 10
    assert fit["metrics"]["test"].keys() == {"rmse", "mae"} and "With ials an error is that of observed pairs" in shown
    assert "the validation RMSE is that of observed pairs alone" in " ".join(shown.split())
    monkeypatch.setattr(measures, "USUAL", ("ndcg@3", "recall@2"))
    shown, (fit,) = run(path, tmp_path / "ranked")
    train, validation, test = parts(tmp_path)
    factors = jals.load(tmp_path / "ranked" / fit["factors"]).factors
    expected = jals.metrics.ranking(factors, test, together(train, validation), (2, 3), ("ndcg", "recall"))
    for name in ("ndcg@3", "recall@2"):
        assert fit["metrics"]["test"][name] == pytest.approx(expected.mean[name])
        assert f"{expected.mean[name]:.4f}" in shown
    assert f"{fit['metrics']['test']['rmse']:.4f}" not in shown and "ndcg@3" in fit["metrics"]["validation"]
    assert "With ials an error" not in shown
    config, found = configs.load(path), folder.read(tmp_path / "ranked")
    assert page._columns(found.fits, config) == [("validation", "ndcg@3"), ("test", "ndcg@3"), ("test", "recall@2")]
    tables = report_table.measures(gathering.read([tmp_path / "ranked"]))
    assert list(tables)[:2] == ["test ndcg@3", "test recall@2"]
    for change in ("output.metrics=[]", 'objective={ preset = "als_wr", reg = 0.1 }'):
        assert configs.load(path, [change]).ranked == []


def test_patience_tuning_and_the_best_fit_go_by_it(tmp_path):
    """The highest wins; with RMSE another would."""
    tune = '\n[tune]\ntrials = 5\nrange = { "objective.reg" = [0.001, 30.0] }\n\n[output]\nrelevant = 3.0\n'
    settings = ("sweeps = 3", 'sweeps = 6\nmetric = "auc"\npatience = 2\nseeds = [0, 1, 2]')
    path = experiment(tmp_path, settings, more=tune)
    _, fits = run(path, tmp_path / "run")
    trials = [fit for fit in fits if fit["trial"] is not None]
    score = lambda fit: fit["metrics"]["validation"]["auc"]  # noqa: E731
    assert set(trials[0]["metrics"]["validation"]) == {"rmse", "mae", "auc"}
    # Whatever is chosen by trial, nothing of the test part is there to choose by.
    assert all(fit["metrics"].keys() == {"train", "validation"} and fit.get("ranking") is None for fit in trials)
    best = max(trials, key=score)
    assert best["metrics"]["validation"]["rmse"] > min(fit["metrics"]["validation"]["rmse"] for fit in trials)
    own = [fit for fit in fits if fit["trial"] is None]
    assert all(fit["tuned"] == best["tuned"] for fit in own)
    for fit in fits:
        assert score(fit) == max(fit["history"]["validation"])
        assert fit["reason"] == "patience" or len(fit["history"]["sweep"]) == 7
    output = " ".join(jals_command("recommend", tmp_path / "run", "--user", 100, "-k", 2).output.split())
    seed = max(own, key=score)["seed"]
    assert f"als seed {seed} " in output and f"highest validation auc, {max(map(score, own)):.4f}, of 3 seeds" in output


def test_what_was_chosen_is_fitted_to_the_validation_part_too(tmp_path):
    """With `refit` the trials are those without it, and the fits that count learn from all that is not the test part:
    the same fit as of a config that sets nothing aside, with the numbers chosen."""
    tune = '\n[tune]\ntrials = 3\n{}range = {{ "objective.reg" = [0.001, 30.0] }}\n' + MEASURED
    settings = ("sweeps = 3", 'sweeps = 3\nmetric = "ndcg@3"\nseeds = [0, 1]')
    both = []
    for name, refit in (("without", ""), ("with", "refit = true\n")):
        (tmp_path / name).mkdir()
        path = experiment(tmp_path / name, IMPLICIT, settings, more=tune.format(refit))
        both.append(run(path, tmp_path / name / "run")[1])
    trials, fits = ([[fit for fit in each if (fit["trial"] is None) == own] for each in both] for own in (False, True))
    assert [fit["metrics"] for fit in trials[0]] == [fit["metrics"] for fit in trials[1]]
    assert fits[0][0]["tuned"] == fits[1][0]["tuned"]
    assert "validation" in fits[0][0]["metrics"] and "validation" not in fits[1][0]["metrics"]
    train, validation, test = parts(tmp_path / "with")
    whole = together(train, validation)
    problem, out = jals.Problem.build(whole), tmp_path / "with" / "run"
    for fit in fits[1]:
        saved = jals.load(out / fit["factors"])
        assert jals.certify(saved.factors, problem, saved.objective).holds()
        assert not jals.certify(saved.factors, jals.Problem.build(train), saved.objective).holds()
        expected = jals.metrics.ranking(saved.factors, test, whole, 3, "ndcg").mean["ndcg@3"]
        assert fit["metrics"]["test"]["ndcg@3"] == pytest.approx(expected)
    assert jals_command("certify", out).exit_code == 0
    assert jals_command("run", path, "--out", out).exit_code == 0  # finished: it fits nothing
    served = jals_command("recommend", out, "--user", 100, "-k", 2).output
    assert "als seed 0 " in served and "the first seed" in served


def test_without_certificates_a_run_says_so_and_makes_them_later(tmp_path, monkeypatch):
    path = experiment(tmp_path, more="\n[output]\ncertificate = false\n")
    made = []
    monkeypatch.setattr(jals, "certify", lambda *args, of=jals.certify, **named: made.append(1) or of(*args, **named))
    shown, (fit,) = run(path, tmp_path / "run")
    assert "not certified" in shown and "certificate passed" not in shown
    assert fit["metrics"]["test"]["rmse"] > 0 and not made
    assert jals_command("run", path, "--out", tmp_path / "run").exit_code == 0  # read again, finished
    done = jals_command("certify", tmp_path / "run")
    assert made and done.exit_code == 0 and "certificate passed" in done.output


def test_a_refit_leaves_nothing_to_stop_by(tmp_path):
    tune = '\n[tune]\ntrials = 3\nrefit = true\nrange = { "objective.reg" = [0.001, 30.0] }\n'
    path = experiment(tmp_path, IMPLICIT, ("sweeps = 3", 'sweeps = 3\nmetric = "ndcg@3"\npatience = 2'), more=tune)
    done = jals_command("run", path, "--out", tmp_path / "run")
    assert done.exit_code == 2 and "tune.refit: leaves no validation part" in done.output


def test_a_refit_does_not_take_a_file_of_its_own_for_training(tmp_path):
    """Its entries would be left out without a word."""
    tune = '\n[tune]\ntrials = 3\nrefit = true\nrange = { "objective.reg" = [0.001, 30.0] }\n'
    given = 'kind = "given"\ntest = { path = "test.npz" }\nvalidation = { path = "valid.npz" }'
    whole = ('kind = "random"\ntest_fraction = 0.2\nvalidation_fraction = 0.2', given)
    path = experiment(tmp_path, IMPLICIT, RANKED, whole, more=tune)
    done = jals_command("config", "check", path)
    assert done.exit_code == 2 and "tune.refit: takes the validation part of the training entries" in done.output


def test_scores_are_corrected_wherever_a_run_ranks(tmp_path):
    """At the ends of the fits and trials, and where the run is served; the factors in the folder are those fitted, of
    an objective with powers of n."""
    powers = "\nweight_power_item = -0.4\nunobserved_power_item = 0.3\n\n[score]\nitem_power = 0.5"
    tuned = '\n[tune]\ntrials = 2\nrange = { "score.item_power" = [-2.0, -1.0] }\n'
    path = experiment(tmp_path, (IMPLICIT[0], IMPLICIT[1] + powers), RANKED, more=tuned)
    shown, fits = run(path, tmp_path / "run")
    (fit,) = (each for each in fits if each["trial"] is None)
    (power,) = fit["tuned"].values()
    assert power in [each["tuned"]["score.item_power"] for each in fits if each["trial"] is not None] and power < -1
    assert "item_power" in shown
    train, validation, test = parts(tmp_path)
    saved = jals.load(tmp_path / "run" / fit["factors"])
    assert float(saved.objective.weight_power_item) == np.float32(-0.4)
    assert jals.certify(saved.factors, jals.Problem.build(train), saved.objective).holds()
    ranked = jals.recommend.corrected(saved.factors, train, power)
    for part, held_out, seen in (("validation", validation, train), ("test", test, together(train, validation))):
        expected = jals.metrics.ranking(ranked, held_out, seen, 3, "ndcg").mean["ndcg@3"]
        assert fit["metrics"][part]["ndcg@3"] == pytest.approx(expected)
        assert fit["metrics"][part]["ndcg@3"] != jals.metrics.ranking(saved.factors, held_out, seen, 3).mean["ndcg@3"]
    output = jals_command("evaluate", tmp_path / "run", "-k", 3, "--metric", "ndcg").output
    assert f"{fit['metrics']['test']['ndcg@3']:.4f}" in output
    items, scores = jals.top_k(ranked, [0], 2, train)
    output = jals_command("recommend", tmp_path / "run", "--user", saved.vocab.user[0], "-k", 2, "--explain").output
    places = [output.index(f"{score:.4f}") for score in np.asarray(scores[0])]
    assert places == sorted(places) and str(saved.vocab.item[items[0, 0]]) in output
    liked = jals_command("recommend", tmp_path / "run", "--items", saved.vocab.item[0], "-k", 1)
    new = jals.Recommender(saved.factors, saved.vocab, saved.objective, train).fold_in(0, saved.vocab.item[:1])
    _, score = jals.top_k(jals.recommend.corrected(new.factors, train, power), [0], 1, [0])
    assert f"{float(score[0, 0]):.4f}" in liked.output
    jals_command("export", tmp_path / "run", tmp_path / "out.npz")
    out = jals.load(tmp_path / "out.npz")
    np.testing.assert_allclose(out.factors.item, ranked.item, rtol=1e-6)
    assert out.objective is None


def test_fits_of_one_program_are_measured_as_alone(tmp_path):
    changes = [IMPLICIT, ("sweeps = 3", 'sweeps = 3\nmetric = "ndcg@3"\nseeds = [0, 1]')]
    path = experiment(tmp_path, *changes)
    found = []
    for timed in ("true", "false"):
        _, fits = run(path, tmp_path / timed, "--set", f"fit.timed={timed}")
        found.append({fit["seed"]: fit for fit in fits})
    for seed, alone in found[0].items():
        shared = found[1][seed]
        np.testing.assert_allclose(shared["history"]["validation"], alone["history"]["validation"], rtol=1e-5)
        assert shared["metrics"]["test"]["ndcg@3"] == pytest.approx(alone["metrics"]["test"]["ndcg@3"], rel=1e-5)


def test_a_stopped_fit_goes_on_by_the_same_metric(tmp_path, monkeypatch):
    path = experiment(tmp_path, IMPLICIT, ("sweeps = 3", 'sweeps = 4\nmetric = "ndcg@3"'))
    _, (whole,) = run(path, tmp_path / "whole")
    measured = []

    def stopping(at, *more):
        measured.append(at.sweep)
        if at.sweep == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(session, "_budget_spent", lambda settings, at: stopping(at) if hasattr(at, "result") else False)
        assert jals_command("run", path, "--out", tmp_path / "run").exit_code == 130
    _, (fit,) = run(path, tmp_path / "run")
    assert measured[-1] == 2 and fit["history"]["validation"] == whole["history"]["validation"]


def test_baselines_are_ranked_beside_the_fits(tmp_path, monkeypatch):
    path = experiment(tmp_path, IMPLICIT, RANKED, more=BASELINES)
    shown, _ = run(path, tmp_path / "run")
    record = json.loads((tmp_path / "run" / folder.RESULT).read_text())
    train, validation, test = parts(tmp_path)
    seen = together(train, validation)
    scores = {
        "most_popular": jals.baselines.most_popular(train).scores,
        "knn": jals.baselines.item_knn(train, neighbours=2).scores,
    }
    assert [each["name"] for each in record["baselines"]] == [*scores]
    for each in record["baselines"]:
        for part, held_out, known in (("validation", validation, train), ("test", test, seen)):
            expected = jals.metrics.ranking(scores[each["name"]], held_out, known, 3, "ndcg").mean["ndcg@3"]
            assert each["metrics"][part]["ndcg@3"] == pytest.approx(expected)
        assert f"{each['metrics']['test']['ndcg@3']:.4f}" in shown
    measured = []
    measure = baselines.measure
    monkeypatch.setattr(baselines, "measure", lambda each, *more: measured.append(each.label) or measure(each, *more))
    path.write_text(path.read_text() + '\n[[baseline]]\nkind = "ease"\nreg = 2.0\n')
    assert "another config" in jals_command("run", path, "--out", tmp_path / "run").output
    output, _ = run(path, tmp_path / "run", "--extend")
    assert measured == ["ease"] and "ease" in output


def test_another_metric_is_another_run(tmp_path):
    path = experiment(tmp_path, IMPLICIT, RANKED, more=MEASURED)
    run(path, tmp_path / "run")
    refused = jals_command("run", path, "--out", tmp_path / "run", "--set", 'output.metrics=["map@3"]')
    assert refused.exit_code == 2 and "output.metrics" in refused.output
    _, fits = run(path, tmp_path / "run", "--extend", "--set", 'output.metrics=["map@3"]')
    assert set(fits[0]["metrics"]["test"]) == {"rmse", "mae", "ndcg@3", "map@3"}
    run(path, tmp_path / "run", "--set", 'output.metrics=["map@3"]', "--set", "output.factors=false")  # no difference


def test_a_descent_follows_a_ranking_that_has_a_derivative(tmp_path):
    """What is descended is a softmax; what is recorded, and told, is the metric of the fits after each best step."""
    tune = '\n[tune]\nmethod = "hypergradient"\nscore = "softmax"\ntrials = 3\n\n[tune.range]\n'
    tune += '"objective.reg_user" = [0.01, 1.0]\n"objective.unobserved_weight" = [0.05, 1.0]\n'
    sides = ("reg = 0.1", "reg_user = 0.1\nreg_item = 0.1")
    path = experiment(tmp_path, IMPLICIT, sides, RANKED, more=tune)
    shown, (trial, fit) = run(path, tmp_path / "run")
    descent, history = trial["descent"], trial["history"]["validation"]
    assert (descent["steps"], len(history)) == (3, 4)
    found = history[descent["best"]]
    assert found == trial["metrics"]["validation"]["ndcg@3"] and f"validation ndcg@3 {found:.4f} at step" in shown
    train, validation, _ = parts(tmp_path)
    made = jals.ials(reg_user=0.1, reg_item=0.1, unobserved_weight=0.05**0.5)
    score = jals.tuning.Softmax()
    box = {"reg_user": (0.01, 1.0), "unobserved_weight": (0.05, 1.0)}
    problem = jals.Problem.build(train, "segmented")
    fits: dict = {"steps": 3, "sweeps": 3, "restart": True}  # a step is a fit as those that it tunes for
    tuned = jals.tune(problem, validation, made, jals.ALS(2), score=score, over=tuple(box), box=box, **fits)
    assert descent["best"] == tuned.step
    for name in box:
        found = [numbers[f"objective.{name}"] for numbers in descent["numbers"]]
        assert found == pytest.approx([numbers[name] for numbers in tuned.history.numbers], rel=1e-4)
        assert fit["tuned"][f"objective.{name}"] == found[tuned.step - 1]

    path.write_text(path.read_text().replace('score = "softmax"\n', ""))
    done = jals_command("config", "check", path)
    assert done.exit_code == 2 and 'is "ndcg@3", which has no derivative' in " ".join(done.output.split())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((RANKED[0], 'metric = "ndcg@99"'), "k is 99, but must be a whole number from 1 to the number of items, 8"),
        ((RANKED[0], 'metric = "ndcg@3"\n[output]\nrelevant = 7.0'), "output.relevant: the validation part cannot be"),
    ],
)
def test_what_does_not_fit_the_table_is_said_before_any_fit(tmp_path, change, words):
    done = jals_command("run", experiment(tmp_path, IMPLICIT, change), "--out", tmp_path / "run")
    assert done.exit_code == 2 and words in " ".join(done.output.split())
    assert not (tmp_path / "run" / folder.RESULT).exists()


def test_the_latest_entries_may_be_the_validation_part(tmp_path):
    """Of each user the last is for the test, the one before for validation."""
    user, item, time = [0, 0, 0, 0, 1, 1, 1, 1], [0, 1, 2, 3, 3, 2, 1, 0], [4, 3, 2, 1, 1, 2, 3, 4]
    np.savez(tmp_path / "table.npz", user=user, item=item, rating=np.ones(8), timestamp=time)
    latest = ('kind = "random"\ntest_fraction = 0.2', 'kind = "leave_last_out"\nvalidation_count = 1')
    path = write_experiment(tmp_path, SEGMENTED, latest, IMPLICIT, RANKED)
    np.savez(tmp_path / "table.npz", user=user, item=item, rating=np.ones(8), timestamp=time)
    _, (fit,) = run(path, tmp_path / "run")
    data = recorded(tmp_path / "run")["data"][0]
    assert (data["train"], data["validation"], data["test"]) == (4, 2, 2)
    train = jals.Ratings.from_arrays([0, 0, 1, 1], [2, 3, 3, 2], np.ones(4), 2, 4)
    factors = jals.load(tmp_path / "run" / fit["factors"]).factors
    held_out = jals.Ratings.from_arrays([0, 1], [1, 1], np.ones(2), 2, 4)
    expected = jals.metrics.ranking(factors, held_out, train, 3, "ndcg").mean["ndcg@3"]
    assert fit["metrics"]["validation"]["ndcg@3"] == expected


def test_by_time_validates_on_the_latest_of_what_is_left(tmp_path):
    rows = {"user": np.arange(10) % 5, "item": np.arange(10), "value": np.ones(10), "time": np.r_[9:4:-1, 0:5]}
    ratings = jals.Ratings.from_arrays(**rows)
    tables = {"data": {"path": "x.csv"}, "objective": {"preset": "ials", "reg": 0.1, "unobserved_weight": 0.1}}
    split = {"kind": "by_time", "test_fraction": 0.2, "validation_fraction": 0.25}
    config = Config.model_validate(tables | {"split": split, "solver": [{"kind": "als", "rank": 2}]})
    (fold,) = folds(config, SimpleNamespace(ratings=ratings))
    assert fold.validation is not None
    times = [sorted(part.time.tolist()) for part in (fold.train, fold.validation, fold.test)]
    assert times == [[0, 1, 2, 3, 4, 5], [6, 7], [8, 9]]


# ---- tables that come split ----

GIVEN = ('kind = "random"\ntest_fraction = 0.2', 'kind = "given"\ntest = { path = "PATH", user = "u", item = "i" }')


def given(place, test=((0, 1, 2), ("b", "c", "a")), candidates=None, split="", **options):
    """A table of texts for the items, and a file of others that it is tested on, with ids that it does not have."""
    arrays = {"user": [0, 0, 1, 2, 2, 9], "item": ["a", "c", "b", "b", "d", "a"], "rating": np.ones(6)}
    path = write_experiment(place, SEGMENTED, IMPLICIT, ("sweeps = 3", "sweeps = 3"), GIVEN)
    np.savez(place / "table.npz", **arrays | options)
    negatives = {} if candidates is None else {"negatives": np.array(candidates)}
    np.savez(place / "test.npz", u=test[0], i=test[1], rating=np.ones(len(test[0])), **negatives)
    text = path.read_text().replace("PATH", str(place / "test.npz"))
    text = text.replace('kind = "given"', f'kind = "given"\n{split}')
    path.write_text(text + '\n[output]\nmetrics = ["ndcg@2"]\n')
    return path


def test_a_table_may_come_split(tmp_path):
    """Its files share their ids; what a user has in the one file is not ranked again."""
    path = given(tmp_path, test=((0, 1, 7), ("b", "e", "a")))
    _, (fit,) = run(path, tmp_path / "run")
    data = recorded(tmp_path / "run")["data"][0]
    assert (data["users"], data["items"], data["train"], data["test"]) == (5, 5, 6, 3)
    saved = jals.load(tmp_path / "run" / fit["factors"])
    assert saved.vocab.user.tolist() == [0, 1, 2, 7, 9] and saved.vocab.item.tolist() == list("abcde")
    rows = lambda user, item: (saved.vocab.user_rows(user), saved.vocab.item_rows(item))  # noqa: E731
    train = jals.Ratings.from_arrays(*rows([0, 0, 1, 2, 2, 9], list("acbbda")), np.ones(6), 5, 5)
    test = jals.Ratings.from_arrays(*rows([0, 1, 7], list("bea")), np.ones(3), 5, 5)
    expected = jals.metrics.ranking(saved.factors, test, train, 2, "ndcg").mean["ndcg@2"]
    assert fit["metrics"]["test"]["ndcg@2"] == pytest.approx(expected)
    assert jals_command("certify", tmp_path / "run").exit_code == 0
    # The same entries in the same order, cut at another place, are other data.
    np.savez(tmp_path / "table.npz", user=[0, 0, 1, 2, 2], item=list("acbbd"), rating=np.ones(5))
    np.savez(tmp_path / "test.npz", u=[9, 0, 1, 7], i=list("abea"), rating=np.ones(4))
    _, fits = run(path, tmp_path / "run", "--extend", "--set", "fit.seeds=[0, 1]", "--set", "fit.timed=true")
    assert [each["seed"] for each in fits] == [0, 1]
    assert (fit["ranking"]["users"], fits[0]["ranking"]["users"]) == (3, 4)  # made again, not taken over


def test_candidates_of_a_file_are_those_that_are_ranked(tmp_path):
    """One user's alone are others than the item itself."""
    path = given(tmp_path, candidates=[["b", "b"], ["c", "c"], ["c", "a"]], split='candidates = "negatives"')
    _, (fit,) = run(path, tmp_path / "run")
    saved = jals.load(tmp_path / "run" / fit["factors"])
    user, item = saved.vocab.user_rows([0, 1, 2]), saved.vocab.item_rows(list("bca"))
    test = jals.Ratings.from_arrays(user, item, np.ones(3), 4, 4)
    train = jals.Ratings.from_arrays([0, 0, 1, 2, 2, 3], saved.vocab.item_rows(list("acbbda")), np.ones(6), 4, 4)
    among = saved.vocab.item_rows([["b", "b"], ["c", "c"], ["c", "a"]])
    expected = jals.metrics.ranking(saved.factors, test, train, 2, "ndcg", candidates=among).mean["ndcg@2"]
    full = jals.metrics.ranking(saved.factors, test, train, 2, "ndcg").mean["ndcg@2"]
    assert fit["metrics"]["test"]["ndcg@2"] == pytest.approx(expected) != pytest.approx(full)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"test": ((0, 1), ("a", "c"))}, "data.path, split.validation and split.test together"),
        ({"test": ((0, 1), (1, 2))}, 'item ids are numbers in split.test, but texts in data: give data.ids = "str"'),
        ({"split": 'candidates = "none"'}, 'has no array "none"'),
        ({"split": 'candidates = "negatives"', "candidates": [["a", "b"]]}, "is of shape (1, 2), but must be (3, c)"),
        ({"split": 'candidates = "negatives"', "candidates": [["x"]] * 3}, "item id 'x' is not in the vocabulary"),
        ({"split": "validation_fraction = 0.2\nvalidation = { path = \"x\" }"}, "stands beside validation"),
        ({"split": "validation = { paht = \"x\" }"}, 'split.validation.paht: is not known. Did you mean "path"?'),
    ],
)
def test_files_that_do_not_fit_together_are_named(tmp_path, options, words):
    done = jals_command("run", given(tmp_path, **options), "--out", tmp_path / "run")
    assert done.exit_code == 2 and words in " ".join(done.output.split()), done.output


def test_columns_of_a_frame_hold_the_rankings(tmp_path):
    run(experiment(tmp_path, IMPLICIT, RANKED), tmp_path / "run")
    frames = jals.experiment.load(tmp_path / "run")
    assert frames.fits["validation_ndcg@3"][0] == frames.sweeps["validation"][-1]

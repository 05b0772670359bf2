"""The report: its statistics by other means than its own, what it says, and a browser that is content with it."""

import base64
import io
import json
import re
import xml.etree.ElementTree
from typing import Any

import numpy as np
import pytest

import jals
from jals.app.show import printing, report
from jals.app.show.page import plots
from jals.app.show.report import figures, gathering, reaching, sensitivity, table, words
from jals.files.runs import folder
from tests.support.pages import HOSTILE, Reader, check_in_browser
from tests.support.records import made_run, write_fits

LONG = "a question with " + "many words " * 20


@pytest.fixture
def undrawn(monkeypatch):
    """Reports with empty figures, for tests that read only: drawing takes most of the time."""
    empty = plots.Picture(b"", b"", b"", 100, 50)
    monkeypatch.setattr(plots, "picture", lambda draw, *arguments, **options: empty)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """Two folds by two seeds, a solver tuned and broken down once, one with a minimiser of its own."""
    place = tmp_path_factory.mktemp("plain")
    return place, made_run(place, diverged=[("sgd", 1)])


def rewritten(place, record, change):
    for fit in record["fits"]:
        change(fit)
    write_fits(place, record["fits"])


def final(record, solver):
    return [fit for fit in record["fits"] if fit["solver"] == solver and fit["trial"] is None]


def markdown(place, *others):
    report.write([place, *others], place / "report")
    return (place / "report" / "report.md").read_text(encoding="utf-8")


def md_table(text, title):
    """The first table below a heading: {row's first cell: {column: cell}}."""
    lines = text.split(f"## {title}")[1].splitlines()
    rows = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
        elif rows:
            break
    return {row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[2:]}


def test_means_are_over_folds_with_seeds_averaged_first(plain):
    place, record = plain
    rows = {row.name: row for row in table.rows(gathering.read([place]))}
    for solver in ("als", "adam"):
        grid = np.full((2, 2), np.nan)
        losses = np.full((2, 2), np.nan)
        for fit in final(record, solver):
            grid[fit["fold"], fit["seed"]] = fit["metrics"]["test"]["rmse"]
            losses[fit["fold"], fit["seed"]] = fit["history"]["loss"][-1]
        for column, numbers in (("test RMSE", grid), ("loss", losses)):
            a, b = numbers.mean(axis=1)
            found = rows[solver].means[column]
            assert found.mean == pytest.approx((a + b) / 2)
            assert found.error == pytest.approx(abs(a - b) / 2)  # of two: spread over sqrt(2), over sqrt(2) again
            assert (found.n, found.fits) == (2, 4)
        assert rows[solver].stationarity == max(fit["certificate"]["stationarity"] for fit in final(record, solver))
    assert (rows["sgd"].broken, len(rows["sgd"].fits)) == (2, 2)
    assert "loss" not in rows["adamw"].means and rows["adamw"].stationarity is None


RANKED = ("ndcg@10", "recall@5", "auc")


def test_the_highest_ranking_is_the_best_be_it_a_baselines(tmp_path, undrawn):
    """Of a single fit the error is that over users."""
    options: Any = {"folds": (None,), "seeds": (0,), "tuned": (), "ranked": RANKED, "baselines": ("popular", "knn")}
    record = made_run(tmp_path, **options)
    record["baselines"][1]["metrics"]["test"]["auc"] = 0.9
    (tmp_path / "result.json").write_text(json.dumps({name: of for name, of in record.items() if name != "fits"}))
    rows = md_table(markdown(tmp_path), "Results")
    fits = {solver: final(record, solver)[0] for solver in ("als", "adam", "sgd", "adamw")}
    scores = {name: fit["metrics"]["test"] for name, fit in fits.items()}
    scores |= {each["name"]: each["metrics"]["test"] for each in record["baselines"]}
    errors = {name: fit["ranking"]["stderr"] for name, fit in fits.items()}
    errors |= {each["name"]: each["ranking"]["stderr"] for each in record["baselines"]}
    assert list(rows) == [*scores] and list(rows["als"])[2:5] == [f"test {name}" for name in RANKED]
    for metric in RANKED:
        best = max(scores, key=lambda name: scores[name][metric])
        for name, row in rows.items():
            said, error = row[f"test {metric}"].replace("*", "").split(" ± ")
            assert float(said) == pytest.approx(scores[name][metric], abs=0.006)
            assert float(error) == pytest.approx(errors[name][metric], abs=0.006)
            assert row[f"test {metric}"].startswith("**") == (name == best)
    assert rows["knn"]["loss"] == rows["knn"]["sweeps"] == "" and rows["als"]["test RMSE"]


def test_baselines_are_means_over_folds(tmp_path):
    record = made_run(tmp_path, ranked=RANKED, baselines=("popular",))
    (row,) = table.baseline_rows(gathering.read([tmp_path]))
    a, b = (each["metrics"]["test"]["auc"] for each in record["baselines"])
    assert row.means["test auc"] == pytest.approx(((a + b) / 2, abs(a - b) / 2, 2, 2))


def test_pairs_are_won_by_the_higher_ranking(tmp_path):
    record = made_run(tmp_path, ranked=RANKED, tuned=(), folds=(None,), seeds=(0, 1, 2, 3))
    found = {each.name: each for each in table.paired(gathering.read([tmp_path]), "ndcg@10")}
    score = lambda fit: fit["metrics"]["test"]["ndcg@10"]  # noqa: E731
    reference = {(fit["fold"], fit["seed"]): score(fit) for fit in final(record, "als")}
    for name, pair in found.items():
        assert pair.wins == sum(score(fit) > reference[fit["fold"], fit["seed"]] for fit in final(record, name))
    assert any(2 * pair.wins != pair.replicates for pair in found.values())


@pytest.mark.parametrize("ranked", [RANKED, ()])
def test_who_is_ahead_at_equal_cost(tmp_path, undrawn, ranked):
    """By loops: the best validation metric that each fit had recorded at a cost that all have spent."""
    record = made_run(tmp_path, solvers=("als", "adam", "sgd"), ranked=ranked, tuned=(), folds=(None,), seeds=(0, 1, 2))
    better, section = (max if ranked else min), markdown(tmp_path).split("## At equal cost")[1].split("\n## ")[0]
    for cost in ("seconds", "passes"):
        fits = {name: final(record, name) for name in ("als", "adam", "sgd")}
        spent = min(float(np.median([fit["history"][cost][-1] for fit in its])) for its in fits.values())
        found = {}
        for name, its in fits.items():
            columns = [(fit["history"][cost], fit["history"]["validation"]) for fit in its]
            bests = [better(y for x, y in zip(*each, strict=True) if 0 < x <= spent) for each in columns]
            found[name] = np.mean(bests)
        table_of = section.split(f"{words.number(spent, 3)} {cost} |")[1]
        for name, mean in found.items():
            last = re.search(rf"\| {name} \|.*\| ([^|]*) \|\n", table_of)
            assert last is not None
            assert float(last[1].replace("*", "").split(" ± ")[0]) == pytest.approx(mean, abs=0.006)
            assert last[1].startswith("**") == (name == better(found, key=found.__getitem__))
        first, second, *_ = sorted(found, key=found.__getitem__, reverse=bool(ranked))
        assert f"{first} has {words.number(found[first], 3)}, {second} {words.number(found[second], 3)}" in section


def test_rankings_are_told_by_length_user_item_and_loss(tmp_path, undrawn):
    record = made_run(tmp_path, solvers=("als", "adam"), ranked=RANKED, tuned=(), baselines=("popular",))
    section = markdown(tmp_path).split("## Rankings")[1].split("\n## ")[0]
    als, baseline = final(record, "als")[0], record["baselines"][0]
    for ranking, name in ((als["ranking"], "als"), (baseline["ranking"], "popular")):
        first, *_, last = ranking["curves"]["ndcg"]
        assert f"{name} {words.number(first, 3)} to {words.number(last, 3)}" in section
        for of in ("by_activity", "by_popularity"):
            ends = (words.number(ranking[of][place]["mean"], 2) for place in (0, -1))
            assert f"{name} {' and '.join(ends)}" in section
    top = int(np.argmax(als["history"]["validation"]))
    assert f"als: highest {words.number(als['history']['validation'][top], 3)} after {top} sweeps" in section


def test_means_are_over_seeds_without_folds(tmp_path):
    record = made_run(tmp_path, folds=(None,), seeds=(3, 4, 5), tuned=())
    (row, *_) = table.rows(gathering.read([tmp_path]))
    errors = [fit["metrics"]["test"]["mae"] for fit in final(record, "als")]
    mean = sum(errors) / 3
    spread = (sum((each - mean) ** 2 for each in errors) / 2) ** 0.5
    assert row.means["test MAE"] == pytest.approx((mean, spread / 3**0.5, 3, 3))


def test_paired_differences(plain):
    place, record = plain
    found = {each.name: each for each in table.paired(gathering.read([place]))}
    assert set(found) == {"adam", "sgd", "adamw"}
    reference = {(fit["fold"], fit["seed"]): fit["metrics"]["test"]["rmse"] for fit in final(record, "als")}
    for solver in found:
        against: dict[int, list[float]] = {0: [], 1: []}
        for fit in final(record, solver):
            if "test" in fit["metrics"]:
                against[fit["fold"]].append(fit["metrics"]["test"]["rmse"] - reference[fit["fold"], fit["seed"]])
        assert [len(each) for each in against.values()] == [1 if solver == "sgd" else 2] * 2
        first, second = (float(np.mean(each)) for each in against.values())
        mean, error = (first + second) / 2, abs(first - second) / 2
        pair = found[solver]
        assert pair[2:6] == pytest.approx((mean, error, mean - 12.7062 * error, mean + 12.7062 * error), rel=1e-5)
        assert (pair.replicates, pair.wins) == (2, (first < 0) + (second < 0))


def test_points_are_paired_by_themselves(tmp_path, undrawn):
    """Another λ is no replicate: on one fold and seed there are no paired differences at all."""
    made_run(tmp_path / "a", tuned=(), folds=(None,), seeds=(0, 1, 2), grid={"objective.reg": [0.1, 0.3]})
    found = table.paired(gathering.read([tmp_path / "a"]))
    assert [(each.name, each.point[-1][0][1], each.replicates) for each in found] == [
        (name, reg, 3) for reg in (0.1, 0.3) for name in ("adam", "sgd", "adamw")
    ]
    assert md_table(markdown(tmp_path / "a"), "Paired differences to als")["adam"]["point"] == "reg 0.3"
    made_run(tmp_path / "b", tuned=(), folds=(None,), seeds=(0,), grid={"objective.reg": [0.1, 0.3]})
    assert "## Paired differences" not in markdown(tmp_path / "b")


def test_reference_is_the_first_als(tmp_path):
    made_run(tmp_path / "late", solvers=("adam", "als"), tuned=())
    made_run(tmp_path / "none", solvers=("sgd", "adam"), tuned=())
    assert gathering.read([tmp_path / "late"]).reference == "als"
    assert gathering.read([tmp_path / "none"]).reference == "sgd"


def costs_by_loops(record, cost, within):
    """{(fold, seed): {solver: cost}}"""
    fits = [fit for fit in record["fits"] if fit["trial"] is None and not fit["own_minimiser"]]
    found = {}
    for fit in fits:
        least = min(min(other["history"]["loss"]) for other in fits if other["fold"] == fit["fold"])
        spent = float("inf")
        for loss, at in zip(fit["history"]["loss"], fit["history"][cost], strict=True):
            if loss <= least * (1 + within) and fit["error"] is None:
                spent = at
                break
        found.setdefault((fit["fold"], fit["seed"]), {})[fit["solver"]] = spent
    return found


@pytest.mark.parametrize("cost", ["seconds", "passes", "operations"])
def test_profile_and_medians(plain, cost):
    place, record = plain
    comparison = gathering.read([place])
    expected = costs_by_loops(record, cost, 0.01)
    profiles = {each.name: each for each in reaching.profiles(comparison, cost)}
    assert set(profiles) == {"als", "adam", "sgd"}
    for name, profile in profiles.items():
        assert profile.problems == 4
        for tau in (1.0, 1.2, 2.0, 5.0, 1e9):
            share = np.mean([each[name] <= tau * (1 + 1e-12) * min(each.values()) for each in expected.values()])
            below = profile.share[profile.ratio <= tau * (1 + 1e-12)]
            assert (below[-1] if len(below) else 0) == pytest.approx(share)
    for within in (0.01, 0.001):
        expected = costs_by_loops(record, cost, within)
        for name, reached in reaching.reached(comparison, cost, within).items():
            spent = np.array([each[name] for each in expected.values()])
            assert reached.never == np.isinf(spent).sum()
            assert reached.median == pytest.approx(np.median(np.where(np.isinf(spent), 1e300, spent)), rel=1e-9) or (
                np.isinf(reached.median) and np.isinf(np.sort(spent)[2])
            )
    assert any(len(profile.share) and 0 < profile.share[0] < 1 for profile in profiles.values())


def test_losses_compare_on_one_objective_data_rank_and_fold_only(tmp_path):
    first = made_run(tmp_path / "a", solvers=("als", "adam"), tuned=())
    made = made_run(tmp_path / "b", solvers=("sgd", "adamw"), tuned=(), objective={"reg": 0.3})
    rewritten(tmp_path / "b", made, lambda fit: fit["history"].update(loss=[1.0] * len(fit["history"]["loss"])))
    same = gathering.read([tmp_path / "a"])
    both = gathering.read([tmp_path / "a", tmp_path / "b"])
    assert len(reaching.lowest(same)) == 2 and len(reaching.lowest(both)) == 4
    assert reaching.lowest(same).items() <= reaching.lowest(both).items()
    for least in reaching.lowest(same).values():
        assert least > 1000
    assert {name for each in reaching.costs(both, "passes", 0.01).values() for name in each} == {"als", "adam"}
    assert {pair.name for pair in table.paired(both)} == {"adam", "sgd", "adamw"}  # errors compare nonetheless
    rewritten(tmp_path / "a", first, lambda fit: fit.update(own_minimiser=fit["solver"] == "adam"))
    assert {fit.name for fit in gathering.read([tmp_path / "a"]).fits if fit.loss is None} == {"adam"}


def test_another_minimiser_and_a_broken_fit_reach_no_loss(tmp_path):
    record = made_run(tmp_path, tuned=(), diverged=[("sgd", 0), ("sgd", 1)])
    before = gathering.read([tmp_path])
    least = reaching.lowest(before)

    def low(fit):
        count = len(fit["history"]["loss"])
        if fit["solver"] == "adamw":
            fit["history"]["loss"] = [1.0] * count
        elif fit["solver"] == "sgd":
            (floor,) = [each for problem, each in least.items() if problem[-1] == fit["fold"]]
            fit["history"]["loss"] = [floor * 1.0001] * count

    rewritten(tmp_path, record, low)
    after = gathering.read([tmp_path])
    assert reaching.lowest(after) == least
    reached = reaching.reached(after, "passes", 0.01)
    assert set(reached) == {"als", "adam", "sgd"}
    assert reached["sgd"] == (np.inf, 4, 0, 4) and reached["als"].never == 0


def test_runs_name_solvers_only_where_they_clash(tmp_path):
    made_run(tmp_path / "a", solvers=("als", "adam"), tuned=())
    made_run(tmp_path / "b", solvers=("als", "sgd"), tuned=())
    made_run(tmp_path / "c", solvers=("als", "momentum"), tuned=(), data="other")
    found = gathering.read([tmp_path / name for name in "abc"])
    assert found.names == ["a/als", "adam", "b/als", "sgd", "als", "momentum"]
    assert gathering.read([tmp_path / "a", tmp_path / "a"]).names == ["als", "adam"]


def test_axes_of_one_solver_are_its_variants(tmp_path):
    record = made_run(tmp_path, solvers=("als", "adam"), tuned=(), grid={"solver.adam.batch_size": [32, 64]})
    kept = {}
    for fit in record["fits"]:  # the runner makes a fit once, whatever values axes take that it has nothing to do with
        fit["point"] = fit["point"] if fit["solver"] == "adam" else {}
        kept.setdefault((fit["solver"], fit["fold"], fit["seed"], str(fit["point"])), fit)
    rewritten(tmp_path, record | {"fits": list(kept.values())}, lambda fit: None)
    found = gathering.read([tmp_path])
    assert found.names == ["als", "adam (batch_size 32)", "adam (batch_size 64)"]
    assert [(pair.name, pair.replicates) for pair in table.paired(found)] == [(name, 2) for name in found.names[1:]]


@pytest.mark.usefixtures("undrawn")
def test_markdown_has_the_tables_and_statements(plain, tmp_path):
    place, record = plain
    text = markdown(place)
    results = md_table(text, "Results")
    assert list(results) == ["als", "adam", "sgd", "adamw"]
    for solver in results:
        folds = [
            np.mean(
                [
                    fit["metrics"]["test"]["rmse"]
                    for fit in final(record, solver)
                    if fit["fold"] == fold and fit["metrics"]
                ]
            )
            for fold in (0, 1)
        ]
        shown, error = results[solver]["test RMSE"].replace("*", "").split(" ± ")
        assert float(shown) == pytest.approx(np.mean(folds), abs=1e-4)
        assert float(error) == pytest.approx(abs(folds[0] - folds[1]) / 2, abs=1e-4)
        assert results[solver]["folds"] == "2"
    whole = {name: float(re.sub(r"\*| ±.*", "", row["test RMSE"])) for name, row in results.items() if name != "sgd"}
    bold = [name for name, row in results.items() if row["test RMSE"].startswith("**")]
    assert bold == [min(whole, key=lambda name: whole[name])]
    assert (results["adamw"]["loss"], results["sgd"]["broke down"], results["als"]["broke down"]) == (
        "–†",
        "2 of 4",
        "0 of 4",
    )
    assert "† adamw minimises something else than the objective" in text
    assert "the unit of replication is the fold" in text and "the 2 seeds averaged within each fold first" in text
    assert "The test part is touched once" in text and "index.html" in text
    trouble = text.split("## Fits with trouble")[1].split("\n## ")[0]
    assert trouble.count("| sgd | ") == 2 and "sweep 5: the loss is inf." in trouble
    assert record["command"] in text and "jals run" in text and record["data"][0]["hash"] in text
    assert "memory in GiB 24" in text and "2026-01-02 03:04:05" in text and "same shapes" in text
    assert "solver.sgd.hyper.learning_rate from 10⁻⁵ to 0.1, drawn log-uniform" in text
    assert "learning_rate = " not in text.split("<details>")[0]


@pytest.mark.usefixtures("undrawn")
def test_seeds_on_one_split_are_said_to_be_that(tmp_path):
    made_run(tmp_path / "run", folds=(None,), seeds=(0, 1, 2), tuned=(), timed=False)
    text = markdown(tmp_path / "run")
    assert "measures the randomness of initialisation" in text
    assert "seeds measure the randomness of initialisation, not that of the data" in text
    assert "seconds" not in md_table(text, "Results")["als"]
    assert "broke down" not in md_table(text, "Results")["als"]
    assert "## Sensitivity" not in text and "## Along the grid" not in text and "## Fits with trouble" not in text


@pytest.mark.usefixtures("undrawn")
def test_fits_that_learned_from_the_validation_part_are_said_to_have_none(tmp_path):
    """What was measured of it is then the trials' metric."""
    record = made_run(tmp_path, solvers=("als", "sgd"), ranked=("ndcg@3",))
    whole = "The last column is the mean of the fits"
    assert whole in markdown(tmp_path) and "learned from the validation part too" not in markdown(tmp_path)

    def refitted(fit):
        if fit["trial"] is None:
            fit["metric"], fit["history"]["validation"] = "rmse", None
            del fit["metrics"]["validation"]

    rewritten(tmp_path, record, refitted)
    text = markdown(tmp_path)
    assert "learned from the validation part too" in text and whole not in text
    assert "highest validation ndcg@3" in text and "highest validation metric" not in text


@pytest.mark.usefixtures("undrawn")
def test_numbers_chosen_at_the_edge_are_flagged(tmp_path):
    record = made_run(tmp_path, solvers=("als", "sgd"))
    assert "⚠" not in markdown(tmp_path)
    rewritten(
        tmp_path,
        record,
        lambda fit: fit["tuned"].update({"hyper.learning_rate": 0.05} if fit["trial"] is None and fit["tuned"] else {}),
    )
    text = markdown(tmp_path)
    assert "⚠ hyper.learning_rate of sgd: chosen from the outermost tenth" in text
    assert "**0.05** ⚠ at the edge" in text


@pytest.mark.parametrize("chosen, edge", [(1e-5, True), (2.4e-5, True), (2.6e-5, False), (0.039, False), (0.041, True)])
def test_edge_is_the_outermost_tenth_of_the_logarithm(chosen, edge):
    assert table.at_edge("objective.reg", chosen, 1e-5, 1e-1) is edge


@pytest.mark.parametrize("chosen, edge", [(-0.6, True), (-0.53, True), (-0.51, False), (0.11, False), (0.13, True)])
@pytest.mark.parametrize("key", ["objective.weight_power_item", "score.item_power"])
def test_edge_of_what_has_either_sign_is_the_outermost_tenth(key, chosen, edge):
    assert table.at_edge(key, chosen, -0.6, 0.2) is edge


@pytest.mark.usefixtures("undrawn")
def test_unfinished_runs_and_failed_certificates_are_told(tmp_path):
    record = made_run(tmp_path, tuned=(), status="interrupted", error="interrupted after 3 sweeps")
    first, second = record["fits"][:2]
    first.update(reason="interrupted", metrics=None, certificate=None)
    second["certificate"].update(passed=False, user=0.3)
    rewritten(tmp_path, record, lambda fit: None)
    text = markdown(tmp_path)
    assert "was interrupted: interrupted after 3 sweeps" in text and "15 fits and trials." in text
    assert "not finished: interrupted" in text
    assert "certificate failed: backward error 0.30, bound 1.0×10⁻⁵" in text


@pytest.mark.usefixtures("undrawn")
def test_unjudged_rows_are_told_by_report_and_terminal(tmp_path):
    """As a record holds them: null where no row could be judged."""
    record = made_run(tmp_path, tuned=())
    nulls = dict.fromkeys(("item", "last_updated", "stationarity"))
    record["fits"][0]["certificate"].update(nulls, passed=False, unjudged=1200)
    rewritten(tmp_path, record, lambda fit: None)
    text = markdown(tmp_path)
    assert "1,200 backward errors that the dtype cannot judge" in text and "certificate failed" not in text
    said = io.StringIO()
    rich = pytest.importorskip("rich.console")
    printing.print_certificates(rich.Console(file=said, width=200), folder.read(tmp_path).fits[:1])
    assert "NOT JUDGED: als/0 (1,200 rows). Unjudged rows hold a NaN" in said.getvalue()
    assert "FAILED" not in said.getvalue() and "passed" not in said.getvalue()


@pytest.mark.usefixtures("undrawn")
def test_reports_of_next_to_nothing(tmp_path):
    made_run(tmp_path / "none", seeds=(), tuned=(), status="running")
    assert "has not ended" in markdown(tmp_path / "none")
    record = made_run(tmp_path / "bare", solvers=("als",), folds=(None,), seeds=(0,), tuned=(), timed=False)
    rewritten(tmp_path / "bare", record, lambda fit: fit.update(history={"sweep": [0, 1]}, metrics={}))
    assert "One fit for each row" in markdown(tmp_path / "bare")
    record = made_run(tmp_path / "broken", solvers=("sgd",), seeds=(1,), tuned=(), diverged=[("sgd", 1)])
    assert "2 of 2" in markdown(tmp_path / "broken")
    with pytest.raises(jals.StorageError, match="not the folder of a"):
        report.write([tmp_path / "nowhere"], tmp_path / "out")
    (tmp_path / "file").write_text("")
    with pytest.raises(jals.StorageError, match="cannot be made"):
        report.write([tmp_path / "bare"], tmp_path / "file" / "out")


@pytest.mark.usefixtures("undrawn")
def test_hostile_texts_are_escaped(tmp_path):
    record = made_run(tmp_path, diverged=[("sgd", 1)], data=HOSTILE)
    record["config"]["question"] = f"{HOSTILE} | **x** `y`\n# z"
    (tmp_path / "result.json").write_text(json.dumps({key: value for key, value in record.items() if key != "fits"}))
    rewritten(tmp_path, record, lambda fit: fit["error"] and fit["error"].update(message=f"{HOSTILE} | a"))
    text = markdown(tmp_path)
    reader = Reader((tmp_path / "report" / "index.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in reader.elements} & {"script", "img"} <= {"img"}
    assert all(not name.startswith("on") for _, attributes in reader.elements for name in attributes)
    assert f"{HOSTILE} | a" in reader.text
    for line in text.split("~~~~~~")[::2]:
        assert not re.search(r"(?<!\\)<(?!/?details|/?summary)", line)
    assert all(
        line.count("|") - line.count("\\|") == 6
        for line in text.splitlines()
        if line.startswith("| sgd | ") and "a |" in line
    )


def test_same_records_same_bytes(tmp_path):
    made_run(tmp_path / "run", solvers=("adam",), folds=(None,), tuned=("adam",), timed=False)
    pages = []
    for out in ("a", "b"):
        page = report.write([tmp_path / "run"], tmp_path / out)
        assert page == tmp_path / out / "index.html"
        pages.append([file.read_bytes() for file in sorted((tmp_path / out).iterdir())])
    assert pages[0] == pages[1] and len(pages[0]) == 2


def test_sections_that_say_nothing_are_absent(tmp_path, undrawn):
    """One fit has no rival, no pair, no profile and no spread; one table is no set of problems, whatever its seeds."""
    made_run(tmp_path / "one", solvers=("als",), folds=(None,), seeds=(0,), tuned=())
    heads = re.findall("^## (.*)$", markdown(tmp_path / "one"), re.MULTILINE)
    assert heads == ["Results", "Loss and validation by cost", "How it was run"]
    assert "Bold" not in (tmp_path / "one" / "report" / "report.md").read_text(encoding="utf-8")
    made_run(tmp_path / "seeds", folds=(None,), seeds=(0, 1, 2), tuned=())
    assert "Performance profile" not in markdown(tmp_path / "seeds")
    made_run(tmp_path / "folds", tuned=())
    assert "Performance profile" in markdown(tmp_path / "folds")
    record = made_run(tmp_path / "bare", folds=(None,), tuned=())
    rewritten(tmp_path / "bare", record, lambda fit: fit["history"].update(validation=None))
    text = markdown(tmp_path / "bare")
    assert "## Loss by cost" in text and "## At equal cost" not in text and "To the best validation" not in text


def test_panels_that_are_compared_have_the_same_axes():
    small, large = (
        [("loss", [figures.Curve("als", 0, [(x, y)], (x, y), [])])]
        for x, y in ((np.array([1.0, 2]), np.array([1.0, 0.9])), (np.array([3.0, 900]), np.array([1e3, 1e-3])))
    )
    first, second = (figures.curves(each, "passes", [small, large]).axes[0] for each in (small, large))
    assert first.get_xlim() == second.get_xlim() and first.get_ylim() == second.get_ylim()
    assert first.get_yscale() == second.get_yscale() == "log"
    rates, losses = np.array([1e-3, 1e-2]), [np.array([1.0, 2.0]), np.array([50.0, np.nan])]
    alike = {"loss": np.concatenate(losses)}
    tried = (figures.Trials(rates, {"loss": each}, [], None, alike=alike) for each in losses)
    first, second = (figures.trials(each, 0, "rate").axes[0] for each in tried)
    assert first.get_ylim() == pytest.approx(second.get_ylim()) and first.get_ylim()[1] > 50


def test_a_look_means_a_solver_or_a_value_never_both(tmp_path, monkeypatch):
    """Lines of one solver at values of a second axis do not look as the solver does."""
    made_run(tmp_path, solvers=("als",), tuned=(), grid={"objective.reg": [0.1, 0.2], "solver.*.rank": [4, 8]})
    seen = []
    monkeypatch.setattr(sensitivity, "pictured", lambda *given: seen.append(given[4]))
    list(sensitivity.axes(gathering.read([tmp_path])))
    places = {dots.place for panels in seen for _, shown in panels for dots in shown}
    assert len(places) == 2 and 0 not in places


def test_twelve_solvers_look_different_without_colour():
    looks = [figures.look(place) for place in range(12)]
    assert len({look["marker"] for look in looks}) == 12
    assert len({(look["color"], look["mfc"], str(look["ls"])) for look in looks}) == 12


def test_profile_is_drawn_as_steps():
    lines = [("als", 0, np.array([1.0, 1.0, 2.0]), np.array([0.25, 0.5, 0.75])), ("sgd", 1, np.zeros(0), np.zeros(0))]
    axes: Any = figures.profile(lines, "passes").axes[0]
    als, sgd = axes.lines
    assert als.get_drawstyle() == "steps-post"
    np.testing.assert_allclose(np.array(als.get_xydata())[:2], [[1, 0.5], [2, 0.75]])
    assert als.get_ydata()[-1] == 0.75 and not np.any(sgd.get_ydata())


def test_trials_that_broke_down_are_crosses_and_the_choice_a_line():
    tried = figures.Trials(np.array([1e-3, 1e-2, 1e-1]), {"loss": np.array([2.0, 1.0, np.nan])}, [1e-2], (1e-4, 1.0))
    axes: Any = figures.trials(tried, 0, "rate").axes[0]
    good, crosses, chosen = axes.lines
    assert good.get_xdata().tolist() == [1e-3, 1e-2]
    assert (crosses.get_xdata().tolist(), crosses.get_marker()) == ([1e-1], "x")
    assert crosses.get_ydata()[0] > 0.9  # of the panel's height
    assert (chosen.get_gid(), chosen.get_xdata()[0]) == ("chosen", 1e-2)
    assert axes.get_xscale() == "log" and axes.get_xlim()[0] < 1e-4 and axes.get_xlim()[1] > 1


def test_long_lines_are_thinned():
    x = np.arange(1.0, 5001)
    curve = figures.Curve("als", 0, [(x, 1 / x)], (x, 1 / x), [])
    figure: Any = figures.curves([("loss", [curve])], "passes")
    (line,) = figure.axes[0].lines
    assert len(line.get_xdata()) <= figures.POINTS
    assert (line.get_xdata()[0], line.get_xdata()[-1]) == (1, 5000)


@pytest.mark.parametrize(
    "number, text",
    [
        *((None, "–"), (0, "0"), (12, "12"), (0.90753, "0.9075"), (0.02, "0.02000"), (12.5, "12.50")),
        *((34567.8, "34,568"), (2.123e-7, "2.12×10⁻⁷"), (-1.5, "−1.500"), (float("inf"), "∞"), (3e10, "3.00×10¹⁰")),
    ],
)
def test_numbers_in_words(number, text):
    assert words.number(number) == text


def test_chosen_numbers_have_no_zeros_at_their_end():
    assert [words.brief(number) for number in (0.02, 1e-5, 2.5e-6, 30, 1200)] == [
        "0.02",
        "10⁻⁵",
        "2.5×10⁻⁶",
        "30",
        "1,200",
    ]


@pytest.fixture(scope="module")
def written(plain, tmp_path_factory):
    """Folders of drawn reports: of one run, of two with a long question, and of 500 fits."""
    place = tmp_path_factory.mktemp("reports")
    report.write([plain[0]], place / "plain")
    several = {"tuned": (), "folds": (None,), "seeds": (0, 1, 2), "timed": False}
    grid = {"solver.*.rank": [4, 8]}
    made_run(place / "a", **several, grid=grid)
    record = made_run(place / "b", **several, grid=grid, solvers=("als", "sgd", "momentum"))
    record["config"]["question"] = LONG
    (place / "b" / "result.json").write_text(json.dumps({key: of for key, of in record.items() if key != "fits"}))
    report.write([place / "a", place / "b"], place / "several")
    made_run(
        place / "c",
        solvers=("als", "adam", "sgd", "momentum", "adamw"),
        folds=tuple(range(5)),
        grid={"objective.reg": [0.05, 0.1, 0.2, 0.3, 0.5], "problem.layout": ["bucketed", "padded"]},
        tuned=("adam", "sgd"),
        sweeps=120,
        diverged=[("sgd", 1)],
    )
    report.write([place / "c"], place / "many")
    return place


def test_five_hundred_fits_stay_readable(written):
    page = written / "many" / "index.html"
    assert page.stat().st_size < 5e6
    text = page.read_text(encoding="utf-8")
    reader = Reader(text)
    assert "500 fits and 800 tuning trials" in reader.text
    open_tables = Reader(re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)).tables
    assert all(len(rows) <= words.LONG + 1 for rows in open_tables)
    assert max(map(len, reader.tables)) > words.LONG + 1
    assert "All points: 50 rows" in reader.text
    assert "Only the first of 10 points is drawn" in reader.text


def test_page_is_one_file_with_captions_in_words(written):
    for name in ("plain", "several", "many"):
        assert sorted(file.name for file in (written / name).iterdir()) == ["index.html", "report.md"]
        reader = Reader((written / name / "index.html").read_text(encoding="utf-8"))
        for tag, attributes in reader.elements:
            for key in ("src", "srcset", "href"):
                assert re.match(r"data:|#", attributes.get(key, "#")), (tag, attributes)
        pictures = [attributes for tag, attributes in reader.elements if tag == "img"]
        assert len(pictures) >= 6 and all(re.search(r"\d", each["alt"]) for each in pictures)
        places = {attributes["id"] for _, attributes in reader.elements if "id" in attributes}
        links = {at["href"][1:] for tag, at in reader.elements if tag == "a"}
        assert links == places
        markdown = (written / name / "report.md").read_text(encoding="utf-8")
        for each in pictures:
            assert words.escaped(each["alt"]) in markdown
        (first, *_) = [each["src"].partition("base64,")[2] for each in pictures]
        assert xml.etree.ElementTree.fromstring(base64.b64decode(first)).tag.endswith("svg")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1280])
@pytest.mark.parametrize("name", ["plain", "several", "many"])
def test_browser_is_content(browser, written, name, width, scheme):
    check_in_browser(browser, written / name / "index.html", width, scheme, least=6)

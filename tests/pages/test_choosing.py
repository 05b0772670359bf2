"""What the page on choosing says follows from the studies' records: its numbers are theirs, and its advice what they
show. A study that is made again and shows something else fails here."""

import json
import re

import numpy as np
import pytest

from tests.support import ROOT

PAGE = " ".join((ROOT / "docs" / "choosing.md").read_text(encoding="utf-8").split())


def study(name):
    return json.loads((ROOT / "experiments" / "results" / f"{name}.json").read_text(encoding="utf-8"))


def rows(name, **point):
    """Of a study's rows those at a point, by solver."""
    return {row["solver"]: row for row in study(name)["rows"] if point.items() <= row["point"].items()}


def said(text):
    assert text in PAGE, text


def test_missing_pairs_are_not_zeros():
    skipped, zeros = (rows("missing_not_zero", missing=how)["als"]["test_RMSE"][0] for how in ("skipped", "zeros"))
    said(f"test RMSE {zeros:.2f} in place of {skipped:.2f}")


def test_a_rank_of_16_is_nearly_all_of_it():
    errors = {rank: rows("rank_and_precision", rank=rank, dtype="float32")["als"]["test_RMSE"] for rank in (4, 16, 64)}
    gains = errors[4][0] - errors[16][0], errors[16][0] - errors[64][0]
    assert min(gains) > 0 and gains[1] < 0.3 * gains[0]
    exact = rows("rank_and_precision", rank=64, dtype="float64")["als"]["test_RMSE"]
    assert abs(exact[0] - errors[64][0]) < 3 * np.hypot(exact[1], errors[64][1])  # float64 predicts no better


@pytest.mark.parametrize("name", ["als_vs_gradient", "als_vs_gradient_ml100k", "als_vs_gradient_ml1m"])
def test_als_is_first_by_passes(name):
    found = study(name)["rows"]
    for point in {json.dumps(row["point"]) for row in found}:
        near = [row for row in found if json.dumps(row["point"]) == point and row.get("near_passes")]
        spent = {row["solver"]: row["near_passes"] for row in near}
        assert min(spent, key=lambda each: spent[each]) == "als" and 12 <= spent["als"] <= 20  # 6 to 10 sweeps
    said("within 1 % of the lowest loss after 6 to 10")


def test_als_is_first_by_seconds_too():
    adam, xla = [], []
    for name in ("als_vs_gradient", "als_vs_gradient_ml100k", "als_vs_gradient_ml1m"):
        for point in {json.dumps(row["point"]) for row in study(name)["rows"]}:
            at = rows(name, **json.loads(point))
            spent = {solver: row["near_seconds"] for solver, row in at.items() if row.get("near_seconds")}
            assert min(spent, key=lambda each: spent[each]) in ("als", "als_cg")
            adam += [spent[each] / spent["als"] for each in ("adam", "adam_cosine") if each in spent]
            xla.append(spent["als_xla"] / spent["als"])
            assert spent["als_xla"] > min(spent[each] for each in ("adam", "adam_cosine"))
    said(f"takes {min(adam):.1f} to {max(adam):.1f} times the seconds of exact ALS")
    said(f"solved by XLA it takes {min(xla):.0f} to {max(xla):.0f} times as long")


def test_with_a_lambda_of_its_own_nobody_predicts_better():
    own = study("als_vs_gradient_own_lambda")["own_points"]
    assert all(each["less_first"][0] > -2 * each["less_first"][1] for name, each in own.items() if name != "als")


def test_where_rankings_count_als_is_first_and_adam_ends_no_better():
    for cost in study("als_vs_adam_ranking")["equal_cost"].values():
        at_first = {name: found[0][0] or 0.0 for name, found in cost["solvers"].items()}
        exact = max(found for name, found in at_first.items() if name.startswith("als"))
        assert exact > max(found for name, found in at_first.items() if name.startswith("adam"))
    test = {name: row["test_ndcg@10"] for name, row in rows("als_vs_adam_ranking").items()}
    assert all(test[name][0] < test["als"][0] + 2 * test["als"][1] for name in ("adam", "adam_minibatch"))


def test_which_solver_converges():
    reached: dict = {}
    for fit in study("convergence")["fits"]:
        reached.setdefault((fit["table"], fit["rank"]), {})[fit["solver"]] = fit["reached"]["1e-06"]
    for solver, after in (("AndersonALS", " (["), ("NewtonCG", ",")):
        gains = [each["ALS"] / each[solver] for each in reached.values()]
        said(f"{min(gains):.1f} to {max(gains):.1f} times fewer passes than ALS{after}")


def test_from_which_rank_on_steps_are_faster():
    for each in study("large_ranks")["ranks"]:
        near = {way: each["near"].get(f"jals {way}") for way in ("exact", "CG", "subspace")}
        exact, cg, subspace = ("left out" if near[way] is None else f"{near[way] / near['CG']:.2f}" for way in near)
        said(f"| {each['rank']:,} | {exact} | {cg.removesuffix('.00')} | {subspace} |")


def test_how_lambda_is_chosen():
    ways = study("tune_folds")["table"]
    share = ways["descent"]["passes"] / ways["grid"]["passes"]
    said(f"in {100 * share:.0f} % of the grid's passes")
    assert abs(ways["descent"]["held_out_against_grid"][0]) < 2 * ways["descent"]["held_out_against_grid"][1]
    said(f"goes below it by {-ways['descent with nu']['held_out_against_grid'][0]:.4f}")
    less, error = ways["descent with nu"]["test_against_grid"]
    said(f"lowers the test RMSE by {-less:.4f} ± {error:.4f}")
    for rank in study("leave_one_out")["ranks"]:
        assert all(less > 2 * error for way, (less, error, _) in rank["less_validation"].items() if way != "best")
    for table in study("descent_ranking").values():
        best = {way: np.mean([each[way]["curve"][1][-1] for each in table["searches"]]) for way in table["searches"][0]}
        assert best["both"] > max(best.values()) - 1e-4


def test_neither_convention_is_better_everywhere():
    alone, times_n = (rows("lambda_convention", preset=name)["als"]["test_RMSE"] for name in ("explicit", "als_wr"))
    assert alone[0] < times_n[0]
    said(f"test RMSE {alone[0]:.4f} ± {alone[1]:.4f} against {times_n[0]:.4f} ± {times_n[1]:.4f}")


def test_what_is_compared_with_popularity_and_split_by_time():
    by_time = study("movietweetings_by_time")
    popular = next(each for each in by_time["baselines"] if each["solver"] == "most_popular")
    assert all(row["test_ndcg@10"][0] < popular["test_ndcg@10"][0] for row in by_time["rows"])
    random = rows("ml1m_tuned")["als"]["test_ndcg@10"][0]
    assert random < 0.4531  # as published, and above on the page of the study


def test_every_study_that_is_named_has_its_section():
    text = (ROOT / "docs" / "choosing.md").read_text(encoding="utf-8")
    page = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"\[`(\w+)`\]\[", text))
    assert len(named) > 10 and named <= set(re.findall(r"^## `(\w+)`", page, re.M))

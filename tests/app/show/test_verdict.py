"""The verdict of a report: each outcome has its own words, and they follow from the records alone."""

import io
from typing import Any

import numpy as np
import pytest

from jals.app.show import printing
from jals.app.show.console import Console
from jals.app.show.report import gathering, overview, reaching, replicates, verdict
from jals.files.runs import folder
from tests.support.records import made_run, write_fits

SEEDS = {"folds": (None,), "seeds": (0, 1, 2), "tuned": ("adam",), "solvers": ("als", "adam")}
EVEN = (0.0, 0.001, -0.001)


def run(place, errors: dict[str, Any], change=lambda fit: None, metric="rmse", **options):
    """A run of these solvers whose test metric is, seed by seed (or fold by fold), what `errors` says."""
    record = made_run(place, **(SEEDS | {"solvers": tuple(errors)} | options))
    for fit in record["fits"]:
        if fit["trial"] is None and fit["metrics"]:
            at = fit["seed"] if fit["fold"] is None else fit["fold"]
            fit["metrics"]["test"][metric] = errors[fit["solver"]][at]
        change(fit)
    write_fits(place, record["fits"])
    return verdict.of(gathering.read([place]))


def share(percent):
    """As the words have it, with a space at which no line is broken."""
    return f"{percent}\N{NO-BREAK SPACE}%"


def around(mean, spread=EVEN):
    return [mean + each for each in spread]


def test_a_win_and_its_numbers(tmp_path):
    found = run(tmp_path, {"als": [0.90, 0.91, 0.92], "adam": [0.93, 0.942, 0.948]})
    against = np.array([0.90, 0.91, 0.92]) - [0.93, 0.942, 0.948]
    mean, error = against.mean(), against.std(ddof=1) / 3**0.5
    assert (found.kind, found.winner, found.rival, found.replicates, found.unit) == ("win", "als", "adam", 3, "seed")
    assert (found.difference, found.error) == pytest.approx((mean, error))
    assert (found.low, found.high) == pytest.approx((mean - 4.302653 * error, mean + 4.302653 * error))
    assert found.headline.startswith(f"als has the lower test RMSE, 0.9100: 0.0300 below adam's 0.9400 ({share(95)}")
    assert "paired over 3 seeds" in found.headline and "on one split" in found.detail


def test_swapped_records_swap_the_verdict(tmp_path):
    numbers = [0.90, 0.91, 0.92], [0.93, 0.942, 0.948]
    one = run(tmp_path / "a", dict(zip(("als", "adam"), numbers, strict=True)))
    other = run(tmp_path / "b", dict(zip(("als", "adam"), numbers[::-1], strict=True)))
    assert (one.winner, other.winner) == ("als", "adam") and one.kind == other.kind == "win"
    assert (one.difference, one.low, one.high) == pytest.approx((other.difference, other.low, other.high))
    swapped = one.headline.replace("als", "x").replace("adam", "als").replace("x", "adam")
    assert swapped == other.headline


def test_higher_is_better_of_rankings(tmp_path):
    options = {"ranked": ("ndcg@10",), "metric": "ndcg@10"}
    found = run(tmp_path, {"als": around(0.3), "adam": around(0.2, (0, 0.002, 0.001))}, **options)
    assert (found.kind, found.winner, found.measure) == ("win", "als", "test ndcg@10")
    assert found.difference == pytest.approx(0.099) and found.low > 0
    assert "als has the higher test ndcg@10" in found.headline and "above adam" in found.headline


def test_a_tie_names_what_is_not_ruled_out(tmp_path):
    found = run(tmp_path, {"als": [0.90, 0.91, 0.92], "adam": [0.903, 0.909, 0.921]})
    assert (found.kind, found.winner, found.leader) == ("tie", None, "als")
    assert found.low < 0 < found.high
    assert "als and adam cannot be told apart by test RMSE" in found.headline and "not ruled out" in found.headline


def test_what_nobody_would_choose_by_is_a_tie(tmp_path):
    """However certain it is: these differ by the same 10⁻⁵ on every seed."""
    found = run(tmp_path, {"als": around(0.9), "adam": around(0.90001)})
    assert found.kind == "tie" and "alike in test RMSE" in found.headline


def test_the_leader_of_several_is_held_against_all(tmp_path):
    """Intervals hold together: what two alone would settle, three do not."""
    errors = {"als": [0.90, 0.91, 0.92], "adam": [0.908, 0.922, 0.9265]}
    assert run(tmp_path / "two", errors).kind == "win"
    record = {**errors, "sgd": around(0.99, (0, 0.01, 0.02))}
    three = run(tmp_path / "three", record, tuned=("adam", "sgd"))
    assert (three.kind, three.leader) == ("tie", "als") and "sgd is behind by more than chance" in three.headline
    assert [each.name for each in three.standings if each.together] == ["als", "adam"]
    assert "wide enough for 2 comparisons at once" in three.detail


@pytest.mark.parametrize("tuned", [(), ("sgd",)])
def test_a_rival_that_nobody_tuned_is_not_beaten(tmp_path, tuned):
    found = run(tmp_path, {"sgd": around(0.9), "adam": around(0.95)}, tuned=tuned)
    assert (found.kind, found.winner, found.rival) == ("untuned rival", "sgd", "adam")
    assert "This is no win over adam" in found.headline and "learning_rate 0.1 was not tuned" in found.headline


def test_a_winner_need_not_be_tuned(tmp_path):
    assert run(tmp_path, {"sgd": around(0.95), "adam": around(0.9)}, tuned=("sgd",)).kind == "win"


@pytest.mark.parametrize("axis, kind", [("solver.adam.hyper.learning_rate", "win"), ("objective.reg", "untuned rival")])
def test_a_number_on_the_grid_is_not_one_that_nobody_tried(tmp_path, axis, kind):
    """Each value of adam's rate is a contestant of its own; another λ does nothing for it."""

    def own(fit):
        fit["point"] = {} if fit["solver"] == "als" and axis.startswith("solver.adam") else fit["point"]

    found = run(tmp_path, {"als": around(0.9), "adam": around(0.95)}, own, tuned=(), grid={axis: [0.1, 0.2]})
    assert {each.kind for each in found.parts or (found,)} == {kind}


def test_a_rival_at_the_edge_of_its_range_is_not_beaten(tmp_path):
    def edge(fit):
        if fit["trial"] is None and fit["tuned"]:
            fit["tuned"] = {"hyper.learning_rate": 0.09}

    found = run(tmp_path, {"als": around(0.9), "adam": around(0.95)}, edge)
    assert found.kind == "untuned rival" and "edge of its range" in found.headline
    found = run(tmp_path, {"als": around(0.95), "adam": around(0.9)}, edge)
    assert (found.kind, found.winner) == ("win", "adam")


def test_a_leader_at_the_edge_is_named_where_it_ties(tmp_path):
    def edge(fit):
        if fit["trial"] is None and fit["tuned"]:
            fit["tuned"] = {"hyper.learning_rate": 0.09}

    found = run(tmp_path, {"als": [0.903, 0.909, 0.921], "adam": [0.90, 0.91, 0.92]}, edge)
    assert (found.kind, found.leader) == ("tie", "adam")
    assert "adam's learning_rate was chosen at the edge" in found.detail


def test_fair_rivals_are_told_from_untuned_ones(tmp_path):
    errors = {"als": around(0.9), "adam": around(0.95), "sgd": around(0.99)}
    found = run(tmp_path, errors)
    assert found.kind == "untuned rival"
    assert "better than adam by more than chance; no win over sgd" in found.headline


def test_one_fit_each_settles_nothing(tmp_path):
    found = run(tmp_path, {"als": [0.9], "adam": [0.95]}, seeds=(0,))
    assert (found.kind, found.winner, found.leader, found.error) == ("no replicates", None, "als", None)
    assert found.difference == pytest.approx(-0.05) and found.low is None
    assert "one fit each" in found.headline and "interval" not in found.text


def test_one_fit_is_compared_with_nothing(tmp_path):
    found = run(tmp_path / "fit", {"als": [0.9]}, seeds=(0,), tuned=())
    assert (found.kind, found.winner, found.difference) == ("one fit", None, None)
    assert found.headline.startswith("One fit, and nothing to compare it with: als has test RMSE 0.9000.")
    found = run(tmp_path / "seeds", {"als": around(0.9)}, tuned=())
    assert found.kind == "one fit" and "the mean of 3 seeds" in found.headline


def test_fits_that_broke_down_do_not_win(tmp_path):
    """Not even with the lowest error where they came through."""
    errors = {"als": around(0.9), "adam": around(0.95), "sgd": around(0.1)}
    found = run(tmp_path / "some", errors, diverged=[("sgd", 1)], tuned=("adam", "sgd"))
    assert (found.kind, found.winner) == ("win", "als") and "broke down: sgd (1 of 3)" in found.detail
    two = {"als": around(0.9), "sgd": around(0.1)}
    found = run(tmp_path / "alone", two, diverged=[("sgd", 1)], tuned=("sgd",))
    assert (found.kind, found.winner) == ("broke down", "als") and "sgd in 1 of 3 fits" in found.headline
    every = [(name, seed) for name in two for seed in range(3)]
    found = run(tmp_path / "all", two, diverged=every, tuned=("sgd",))
    assert (found.kind, found.winner) == ("broke down", None) and "every contestant broke down" in found.headline


def test_folds_are_the_replicates_and_are_said_to_overlap(tmp_path):
    """Each fold's error is the same for its two seeds: two replicates, not four."""
    found = run(tmp_path, {"als": [0.90, 0.92], "adam": [0.93, 0.96]}, folds=(0, 1), seeds=(0, 1))
    assert (found.replicates, found.unit) == (2, "fold") and found.error == pytest.approx(0.005)
    assert "their training parts overlap" in found.detail and "seeds of a fold averaged" in found.detail


def test_only_what_all_have_is_compared(tmp_path):
    """A run that was stopped: adam lacks the seed on which als is worst."""
    errors = {"als": [0.90, 0.91, 2.0], "adam": [0.94, 0.96]}
    record = made_run(tmp_path, **SEEDS)
    fits = [fit for fit in record["fits"] if (fit["solver"], fit["seed"], fit["trial"]) != ("adam", 2, None)]
    for fit in fits:
        if fit["trial"] is None:
            fit["metrics"]["test"]["rmse"] = errors[fit["solver"]][fit["seed"]]
    write_fits(tmp_path, fits)
    found = verdict.of(gathering.read([tmp_path]))
    assert (found.leader, found.replicates) == ("als", 2) and found.difference == pytest.approx(-0.045)


def test_every_point_has_its_verdict(tmp_path):
    """Points are not replicates: als wins at one λ and adam at the other."""
    record = made_run(tmp_path, **SEEDS, grid={"objective.reg": [0.1, 0.3]})
    for fit in record["fits"]:
        if fit["trial"] is None:
            ahead = (fit["solver"] == "als") == (fit["point"]["objective.reg"] == 0.1)
            fit["metrics"]["test"]["rmse"] = (0.9 if ahead else 0.95) + EVEN[fit["seed"]]
    write_fits(tmp_path, record["fits"])
    found = verdict.of(gathering.read([tmp_path]))
    assert (found.kind, found.winner) == ("several", None)
    assert [(each.at, each.kind, each.winner, each.replicates) for each in found.parts] == [
        ("reg 0.1", "win", "als", 3),
        ("reg 0.3", "win", "adam", 3),
    ]
    assert all(f"{each.at[1:]}: {each.headline}" in found.headline for each in found.parts)


def test_many_points_are_counted(tmp_path):
    record = made_run(tmp_path, **SEEDS, grid={"objective.reg": [0.1, 0.2, 0.3, 0.4, 0.5]})
    for fit in record["fits"]:
        if fit["trial"] is None:
            worse = (fit["solver"] == "adam") == (fit["point"]["objective.reg"] < 0.45)
            fit["metrics"]["test"]["rmse"] = (0.95 if worse else 0.9) + EVEN[fit["seed"]]
    write_fits(tmp_path, record["fits"])
    headline = verdict.of(gathering.read([tmp_path])).headline
    assert headline.startswith("At 4 of 5 points (reg 0.1, reg 0.2, reg 0.3 and reg 0.4) als has the better test RMSE")
    assert "at 1 of 5 points (reg 0.5) adam" in headline


def test_at_all_points_alike(tmp_path):
    points = {"objective.reg": [0.1, 0.2, 0.3, 0.4, 0.5]}
    errors = {"als": around(0.9), "adam": around(0.95), "sgd": around(0.1)}
    found = run(tmp_path, errors, diverged=[("sgd", 1)], tuned=("adam", "sgd"), grid=points)
    assert (found.winner, found.headline[:40]) == ("als", "At all 5 points als has the better test ")
    assert found.detail.count("broke down: sgd (1 of 3)") == 1


def test_points_of_one_solver_are_its_contestants(tmp_path):
    record = made_run(tmp_path, **(SEEDS | {"solvers": ("als",), "tuned": ()}), grid={"objective.reg": [0.1, 0.2, 0.3]})
    for fit in record["fits"]:
        fit["metrics"]["test"]["rmse"] = 0.9 + 10 * (fit["point"]["objective.reg"] - 0.2) ** 2 + EVEN[fit["seed"]]
    write_fits(tmp_path, record["fits"])
    found = verdict.of(gathering.read([tmp_path]))
    assert (found.kind, found.winner) == ("win", "reg 0.2") and len(found.standings) == 3


def test_a_baseline_that_is_better_is_named(tmp_path):
    options: dict[str, Any] = {"ranked": ("auc",), "metric": "auc", "baselines": ("popular",), "tuned": ("adam",)}
    found = run(tmp_path / "low", {"als": around(0.01), "adam": around(0.005)}, **options)
    assert "The best baseline, popular, has" in found.detail and "better than every solver" in found.detail
    found = run(tmp_path / "high", {"als": around(0.9), "adam": around(0.8)}, **options)
    assert "better than every solver" not in found.detail


def test_conditions_say_what_was_tuned_and_what_was_not(tmp_path):
    errors = {"als": around(0.9), "adam": around(0.95), "sgd": around(0.99)}
    said = run(tmp_path, errors, sweeps=12).conditions
    assert "learning_rate of adam by 8 trials on the validation part" in said
    assert "not tuned: learning_rate 0.1 of sgd and the numbers of the objective" in said
    for condition in ("rank 8", "budget 12 sweeps a fit", "100,004 entries", "split random"):
        assert condition in said


def test_who_comes_close_first_is_told_by_passes_and_seconds(tmp_path):
    def paced(fit):
        fast = fit["solver"] == "als"
        count = len(fit["history"]["sweep"])
        fit["history"]["loss"] = [100 * (1 + 4 * (0.1 if fast else 0.5) ** at) for at in range(count)]

    found = run(tmp_path, {"als": around(0.9), "adam": around(0.95)}, paced)
    first = f"als is the first within {share(1)} of the lowest loss that any of them reached: in 9 passes (adam 18)"
    assert found.cost.startswith(first)
    assert "of the best RMSE on the validation part" in found.detail and "Above the lowest loss" in found.detail


def test_no_fit_yet(tmp_path):
    made_run(tmp_path, seeds=(), tuned=(), status="running")
    assert verdict.of(gathering.read([tmp_path])).kind == "nothing"


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 101])
@pytest.mark.parametrize("share", [0.5, 0.95, 0.9975])
def test_students_quantiles(freedom, share):
    stats = pytest.importorskip("scipy.stats")
    assert replicates.student(share, freedom) == pytest.approx(stats.t.ppf((1 + share) / 2, freedom), rel=1e-9)


def drawn(place):
    """The panels of the picture: [(label of the axis, {contestant: (x, low, high, note)})]."""
    comparison, panels = gathering.read([place]), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(overview, "pictured", lambda name, alt, caption, draw, shown: panels.extend(shown) or caption)
        caption = overview.overview(comparison, verdict.of(comparison))
    return caption, [(panel.xlabel, {row.label: row[2:] for row in panel.rows}) for panel in panels]


def test_the_picture_holds_the_numbers_of_the_verdict(tmp_path):
    errors = {"als": [0.90, 0.91, 0.92], "adam": [0.93, 0.942, 0.948], "sgd": around(0.99)}
    found = run(tmp_path, errors, tuned=("adam", "sgd"))
    caption, ((label, rows), (_, costs)) = drawn(tmp_path)
    assert list(rows) == ["als", "adam", "sgd"] and list(costs) == ["als", "adam", "sgd"]
    assert "test RMSE" in label and "lower is better" in label and "test RMSE minus that of als" in caption
    assert rows["als"][0] == 0
    assert rows["adam"][:3] == pytest.approx((-found.difference, -found.high, -found.low))


def test_who_broke_down_or_never_came_is_drawn_as_such(tmp_path):
    errors = {"als": around(0.9), "adam": around(0.95), "sgd": around(0.1)}
    run(tmp_path, errors, diverged=[("sgd", 1)], tuned=("adam", "sgd"))
    _, ((_, rows), (_, costs)) = drawn(tmp_path)
    assert np.isnan(rows["sgd"][0]) and rows["sgd"][3] == "broke down, 1 of 3" and costs["sgd"][3] == "never"


def test_one_far_away_does_not_squeeze_the_others(tmp_path):
    bars = [overview.Bar(str(x), 0, x, x - 0.001, x + 0.001, "") for x in (0.0, 0.01, 0.02, 50.0)]
    axes: Any = overview.standings([overview.Panel("", "", bars, True)]).axes[0]
    assert axes.get_xlim()[1] < 0.1 and [line.get_marker() for line in axes.lines].count(">") == 1


def test_there_is_no_picture_of_one_contestant(tmp_path):
    run(tmp_path, {"als": [0.9]}, seeds=(0,), tuned=())
    assert drawn(tmp_path) == (None, [])


@pytest.mark.parametrize("below, own", [(True, False), (False, True)])
def test_the_goal_is_a_solved_minimum_where_it_is_below_every_curve(tmp_path, below, own):
    """One that some contestant went below belongs to another basin: there the contestant's own curve is the goal."""
    record = made_run(tmp_path, **SEEDS)
    least = min(min(fit["history"]["loss"]) for fit in record["fits"] if fit["trial"] is None)
    solved = {"solver": "AndersonALS", "loss": least * (0.99 if below else 1.01), "stationarity": 1e-7, "reached": True}
    key = next(fit["key"] for fit in record["fits"] if fit["trial"] is None)
    made_run(tmp_path, **SEEDS, references=[solved | {"fit": key, "sweeps": 50, "passes": 100, "seconds": 1.0}])
    comparison = gathering.read([tmp_path])
    assert list(reaching.lowest(comparison).values()) == [solved["loss"] if below else least]
    assert bool(reaching.unreferenced(comparison)) is own
    assert ("the lowest loss that any of them reached" in verdict.of(comparison).text) is own


def test_costs_to_an_error_are_those_of_the_curves(tmp_path):
    """By loops: the first record whose validation metric is within 1 % of the best that either solver had."""
    record = made_run(tmp_path, **SEEDS)
    fits = [fit for fit in record["fits"] if fit["trial"] is None]
    goal = 1.01 * min(min(fit["history"]["validation"]) for fit in fits)
    found = reaching.reached(gathering.read([tmp_path]), "passes", 0.01, "validation")
    for name in ("als", "adam"):
        columns = [(fit["history"]["passes"], fit["history"]["validation"]) for fit in fits if fit["solver"] == name]
        spent = [next(x for x, y in zip(*each, strict=True) if y <= goal) for each in columns]
        assert found[name].median == np.median(spent)


def test_the_terminal_ends_with_the_headline(tmp_path):
    found = run(tmp_path / "two", {"als": around(0.9), "adam": around(0.95)})
    assert printed(tmp_path / "two").endswith(found.headline + "\n")
    one = run(tmp_path / "one", {"als": around(0.9)})
    assert one.kind == "one fit" and one.headline not in printed(tmp_path / "one")


def printed(place):
    console = Console(file=io.StringIO(), width=80)
    printing.print_results(console, place, folder.read(place, factors=False))
    return console.file.getvalue()

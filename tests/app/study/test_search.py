"""Where the trials of a tuning come from: spread evenly over the logarithm, the same for a seed, the best chosen."""

import itertools
import math

import numpy as np
import pytest

from jals.app.config.schema import TuneConfig
from jals.app.config.trials import points_of_range, uneven_grid
from jals.app.study.search import Search, expected_trials
from jals.files.runs.record import Failure, FitRecord, HistoryRecord

RANGES = {"solver.sgd.hyper.learning_rate": [1e-4, 1.0], "solver.sgd.hyper.momentum": [0.5, 0.99]}


def search(ranges=RANGES, share=None, **changes) -> Search:
    return Search(TuneConfig(**{"trials": 8, "range": RANGES} | changes), ranges, share)


def ended(numbers: dict, score: float, **changes) -> FitRecord:
    """A line of the record, as far as a search reads it."""
    broken = {"error": Failure(sweep=1, message="broke down"), "metrics": {}, "sweeps": 1}
    whole = {"error": None, "metrics": {"validation": {"rmse": score}}, "sweeps": 15}
    short = {key.removeprefix("solver.sgd."): number for key, number in numbers.items()}
    return FitRecord.model_construct(**{"tuned": short} | (broken if math.isinf(score) else whole) | changes)


@pytest.mark.parametrize("trials", [2, 8, 31])
def test_one_trial_in_each_part_of_a_range(trials):
    tried = search(trials=trials).ask()
    assert len(tried) == trials
    for key, (low, high) in RANGES.items():
        share = [math.log(numbers[key] / low) / math.log(high / low) for numbers in tried]
        assert sorted(math.floor(trials * each) for each in share) == list(range(trials))


def test_ranges_are_drawn_apart_from_one_another():
    """Over many trials, ranks in one range tell nothing of those in the other."""
    tried = search(trials=400).ask()
    one, other = (np.argsort(np.argsort([numbers[key] for numbers in tried])) for key in RANGES)
    assert abs(np.corrcoef(one, other)[0, 1]) < 4 / np.sqrt(400)


def test_same_seed_same_trials():
    assert search(seed=3).ask() == search(seed=3).ask() != search(seed=4).ask()


def test_asked_once_and_lowest_score_is_best():
    made = search()
    tried = made.ask()
    assert len(tried) == 8
    made.tell(list(map(ended, tried, [5.0, math.inf, 2.0, 3.0, 2.0, math.inf, 9.0, 4.0])))
    assert made.ask() == []
    assert made.chosen() == tried[2]


def test_lowest_loss_where_that_is_the_metric():
    made = search(metric="loss", trials=2)
    first, second = made.ask()
    losses = [HistoryRecord(sweep=[0, 1], loss=[9.0, last]) for last in (5.0, 4.0)]
    made.tell([ended(first, 1.0, history=losses[0]), ended(second, 2.0, history=losses[1])])
    assert made.chosen() == second


def test_of_trials_that_all_broke_down_the_longest_is_chosen():
    made = search(trials=3)
    tried = made.ask()
    made.tell([ended(numbers, math.inf, sweeps=sweeps) for numbers, sweeps in zip(tried, (2, 7, 7), strict=True)])
    assert made.chosen() == tried[1]


@pytest.mark.parametrize("method", ["random", "grid", "hypergradient"])
def test_nothing_to_tune_is_nothing_to_try(method):
    made = Search(TuneConfig.model_construct(method=method, trials=8, range={}), {})
    assert made.ask() == [] and made.chosen() == {}


# ---- other methods ----


@pytest.mark.parametrize(("trials", "points"), [(4, 2), (9, 3), (25, 5)])
def test_a_grid_is_every_combination_of_log_spaced_points_with_both_ends(trials, points):
    made = search(trials=trials, method="grid")
    tried = made.ask()
    axes = [sorted({numbers[key] for numbers in tried}) for key in RANGES]
    for axis, (low, high) in zip(axes, RANGES.values(), strict=True):
        assert (axis[0], axis[-1], len(axis)) == (low, high, points)
        np.testing.assert_allclose(np.diff(np.log(axis)), np.log(high / low) / (points - 1), rtol=1e-12)
    assert {tuple(numbers.values()) for numbers in tried} == set(itertools.product(*axes))
    assert len(tried) == trials and made.ask() == []


def test_how_many_points_a_range_of_a_grid_has():
    powers = {(each**ranges, ranges): each for each in range(2, 45) for ranges in range(1, 7)}
    for trials, ranges in itertools.product(range(2, 2000), range(1, 7)):
        assert points_of_range(trials, ranges) == powers.get((trials, ranges), trials if ranges == 1 else 0)


def test_the_next_sizes_of_a_grid_that_does_not_come_out_even():
    assert "take 9 (3 each) or 16 (4 each)." in uneven_grid(15, 2, "als")
    assert "take 27 (3 each) or 64 (4 each)." in uneven_grid(63, 3, "als")
    assert "points: take 8 (2 each)." in uneven_grid(7, 3, "als")


def test_a_descent_starts_in_the_geometric_middle_and_its_best_step_is_chosen():
    ranges = {"objective.reg_user": [0.01, 1.0], "objective.reg_item": [0.1, 40.0]}
    made = Search(TuneConfig(method="hypergradient", trials=8, range=ranges), ranges)
    (start,) = made.ask()
    assert start == pytest.approx({"objective.reg_user": 0.1, "objective.reg_item": 2.0})
    end = {"objective.reg_user": 0.3, "objective.reg_item": 0.7}
    made.tell([ended(end, 0.9)])
    assert made.ask() == []
    assert made.chosen() == end


def test_powers_of_either_sign_are_drawn_and_spread_evenly():
    ranges = {"objective.weight_power_item": [-0.6, 0.2], "objective.reg": [0.01, 1.0]}
    grid = expected_trials(TuneConfig(method="grid", trials=9, range=ranges), ranges)
    assert sorted({each["objective.weight_power_item"] for each in grid}) == pytest.approx([-0.6, -0.2, 0.2])
    assert sorted({each["objective.reg"] for each in grid}) == pytest.approx([0.01, 0.1, 1.0])
    ranges = {"objective.weight_power_item": [-0.6, 0.2], "objective.reg_user": [0.01, 1.0]}
    (start,) = expected_trials(TuneConfig(method="hypergradient", trials=9, range=ranges), ranges)
    assert start == pytest.approx({"objective.weight_power_item": -0.2, "objective.reg_user": 0.1})
    drawn = [each["objective.weight_power_item"] for each in search(ranges, trials=16, range=ranges).ask()]
    parts = (np.sort(drawn) + 0.6) / 0.8 * 16  # one in each of 16 equal parts
    np.testing.assert_array_equal(np.floor(parts), np.arange(16))


# ---- integers ----


def whole(trials, ranges, **changes) -> list[dict]:
    return Search(TuneConfig(**{"trials": trials, "range": ranges} | changes), ranges).ask()


RANK = "solver.als.rank"


def test_integers_are_drawn_log_uniform_with_both_ends():
    """Each integer has the part of the logarithm from half below it to half above, so a hypercube of many trials has
    each as often as that part is wide."""
    many = expected_trials(
        TuneConfig(trials=4000, range={RANK: [2, 5]}), {RANK: [2, 5], "solver.als.init_scale": [0.1, 1.0]}
    )
    counts = np.bincount([numbers[RANK] for numbers in many])
    assert all(type(numbers[RANK]) is int for numbers in many)
    np.testing.assert_allclose(
        counts[2:], 4000 * np.diff(np.log([1.5, 2.5, 3.5, 4.5, 5.5])) / np.log(5.5 / 1.5), atol=1
    )


@pytest.mark.parametrize("method", ["random", "grid"])
def test_integers_that_repeat_are_tried_once(method):
    tried = whole(16, {RANK: [4, 6]}, method=method)
    assert sorted(numbers[RANK] for numbers in tried) == [4, 5, 6]
    pairs = whole(16, {RANK: [4, 6], "solver.als.cg_steps": [1, 2]}, method=method)
    assert len({tuple(numbers.values()) for numbers in pairs}) == len(pairs) <= 6


def test_optuna_draws_integers():
    pytest.importorskip("optuna", reason='needs the extra "optuna"')
    ranges = {RANK: [2, 4]}
    made = Search(TuneConfig(trials=12, sampler="optuna", range=ranges), ranges)
    tried = []
    while asked := made.ask():
        tried += asked
        made.tell([ended(asked[0], float(asked[0][RANK]))])
    assert len(tried) == 12 and {type(numbers[RANK]) for numbers in tried} == {int}
    assert {numbers[RANK] for numbers in tried} == {2, 3, 4}
    assert made.chosen() == {RANK: 2}


# ---- a budget of seconds ----


def took(numbers: dict, seconds: float) -> FitRecord:
    return ended(numbers, 1.0, history=HistoryRecord(sweep=[0, 1], seconds=[0.0, seconds]))


@pytest.mark.parametrize(
    ("share", "seconds", "begun"),
    [(1.0, [0.4] * 8, 3), (1.0, [0.5] * 8, 2), (1e-9, [5.0] * 8, 1), (100.0, [1.0] * 8, 8), (1.0, [0.0] * 8, 8)],
)
def test_no_trial_is_begun_once_the_share_is_spent(share, seconds, begun):
    made, whole = search(seconds=share, share=share), search().ask()
    tried = []
    while asked := made.ask():
        tried += asked
        made.tell([took(numbers, seconds[len(tried) - 1]) for numbers in asked])
    assert tried == whole[:begun]  # those that there would be without a budget, one at a time
    assert made.ask() == []


def test_a_trial_that_broke_down_before_its_first_record_took_nothing():
    made = search(seconds=1.0, share=1.0)
    (first,) = made.ask()
    made.tell([ended(first, math.inf, history=HistoryRecord(sweep=[]))])
    assert len(made.ask()) == 1


def sampled(made: Search, told: int | None = None) -> list[dict]:
    """The trials of a sampler that learns from a score with its minimum at a rate of 0.01; the first `told` only."""
    tried = []
    while (asked := made.ask()) and len(tried) != told:
        (numbers,) = asked
        tried.append(numbers)
        rate = numbers["solver.sgd.hyper.learning_rate"]
        made.tell([ended(numbers, math.inf if rate > 0.5 else abs(math.log(rate / 0.01)))])
    return tried


def test_optuna_asks_one_at_a_time_within_the_ranges():
    pytest.importorskip("optuna", reason='needs the extra "optuna"')
    tried = sampled(search(sampler="optuna", trials=25))
    assert len(tried) == 25
    for key, (low, high) in RANGES.items():
        assert all(low <= numbers[key] <= high for numbers in tried)
    rates = [abs(math.log(numbers["solver.sgd.hyper.learning_rate"] / 0.01)) for numbers in tried]
    assert np.median(rates[15:]) < np.median(rates[:10])  # it learns: the first 10 are at random


def test_optuna_tries_the_same_again_for_the_same_seed_and_scores():
    """So a run that was stopped goes on: it asks again for the trials that it has, and tells their scores."""
    pytest.importorskip("optuna", reason='needs the extra "optuna"')
    whole = sampled(search(sampler="optuna", trials=14, seed=5))
    resumed = search(sampler="optuna", trials=14, seed=5)
    assert sampled(resumed) == whole != sampled(search(sampler="optuna", trials=14, seed=6))
    assert resumed.chosen() == min(whole, key=lambda each: abs(math.log(each[next(iter(RANGES))] / 0.01)))


def test_optuna_that_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ImportError, match=r'pip install "jals\[optuna\]"'):
        search(sampler="optuna")

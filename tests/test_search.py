"""Where the trials of a tuning come from: spread evenly over the logarithm, the same for a seed, the best chosen."""

import math

import numpy as np
import pytest

pytest.importorskip("pydantic", reason='configs need the extra "cli"')

from jals.app.schema import Tune
from jals.app.search import Search

RANGES = {"solver.sgd.hyper.learning_rate": [1e-4, 1.0], "solver.sgd.hyper.momentum": [0.5, 0.99]}


def search(ranges=RANGES, **changes) -> Search:
    return Search(Tune(**{"trials": 8, "range": RANGES} | changes), ranges)


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
    assert len(made.ask()) == 8
    made.tell([5.0, math.inf, 2.0, 3.0, 2.0, math.inf, 9.0, 4.0])
    assert made.ask() == []
    assert made.best() == 2


def test_nothing_to_tune_is_nothing_to_try():
    assert search(ranges={}).ask() == []


def sampled(made: Search, told: int | None = None) -> list[dict]:
    """The trials of a sampler that learns from a score with its minimum at a rate of 0.01; the first `told` only."""
    tried = []
    while (asked := made.ask()) and len(tried) != told:
        (numbers,) = asked
        tried.append(numbers)
        rate = numbers["solver.sgd.hyper.learning_rate"]
        made.tell([math.inf if rate > 0.5 else abs(math.log(rate / 0.01))])
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
    assert whole[resumed.best()] == min(whole, key=lambda each: abs(math.log(each[next(iter(RANGES))] / 0.01)))


def test_optuna_that_is_missing_names_its_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "optuna", None)
    with pytest.raises(ImportError, match=r'pip install "jals\[optuna\]"'):
        search(sampler="optuna")

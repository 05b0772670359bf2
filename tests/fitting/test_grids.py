"""`fit_grid`: each fit is `fit`'s own, whatever the groups; what it says of the loops; arrays; what it refuses."""

import collections
from typing import Any

import jax
import numpy as np
import pytest

import jals
from jals.fitting import grids
from jals.fitting.grids import at_once, even_sizes, fit_grid, quicker_loop
from jals.fitting.many import fit_bytes
from tests.support.fits import HELD_OUT, KEYS, PROBLEM, SGD, SOLVER, TRAIN, alone, als_wr, assert_same_fit, make_ratings

pytestmark = pytest.mark.newest

OBJECTIVES = [als_wr(reg) for reg in (0.3, 0.1, 0.03)]
MASKS = np.stack([jals.split.fold_numbers(TRAIN, 2) != fold for fold in range(2)]) * 1.5


def grid(objectives: Any = OBJECTIVES, keys: Any = KEYS[:2], solver: Any = SOLVER, **arguments: Any) -> grids.Grid:
    arguments = {"sweeps": 3} | arguments
    return fit_grid(solver, PROBLEM, objectives, keys, **arguments)


# ---- the same as fit ----


@pytest.mark.parametrize(("dtype", "solver"), [(np.float32, SOLVER), (np.float64, SOLVER), (np.float64, SGD)])
def test_one_after_another_gives_the_bits_of_fit(dtype, solver):
    problem = jals.Problem.build(make_ratings(dtype), "segmented")
    arguments: Any = {"sweeps": 3, "validation": make_ratings(dtype, seed=1)}
    found = fit_grid(solver, problem, OBJECTIVES, KEYS[:2], loop="map", **arguments)
    for row, objective in enumerate(OBJECTIVES):
        for column, key in enumerate(KEYS[:2]):
            assert_same_fit(found.results[row][column], jals.fit(solver, problem, objective, key=key, **arguments))
    assert len(set(found.loss.ravel())) == 6


def test_all_at_once_gives_their_numbers():
    found = grid(loop="vmap", tol=0.01, sweeps=9)
    stops = set()
    for row, objective in enumerate(OBJECTIVES):
        for column, key in enumerate(KEYS[:2]):
            expected = jals.fit(SOLVER, PROBLEM, objective, 9, key, tol=0.01)
            assert_same_fit(found.results[row][column], expected, rtol=1e-9)
            stops.add(expected.done)
    assert len(stops) > 1


def test_a_column_may_be_a_fold():
    validation = [HELD_OUT, None]
    found = grid(weights=MASKS, validation=validation)
    for row, objective in enumerate(OBJECTIVES):
        for column, key in enumerate(KEYS[:2]):
            problem = PROBLEM.with_values(PROBLEM.value, MASKS[column])
            expected = jals.fit(SOLVER, problem, objective, 3, key, validation=validation[column])
            assert_same_fit(found.results[row][column], expected, rtol=1e-12)
    assert np.isfinite(found.validation[:, 0]).all()
    assert np.isnan(found.validation[:, 1]).all()


@pytest.mark.parametrize("loop", ["map", "vmap"])
def test_a_ranking_metric_is_measured_of_each_fit_and_its_highest_chosen(loop):
    found = grid(weights=MASKS, validation=HELD_OUT, metric="ndcg@3", loop=loop)
    for row, objective in enumerate(OBJECTIVES):
        for column, key in enumerate(KEYS[:2]):
            problem = PROBLEM.with_values(PROBLEM.value, MASKS[column])
            expected = jals.fit(SOLVER, problem, objective, 3, key, validation=HELD_OUT, metric="ndcg@3")
            assert_same_fit(found.results[row][column], expected, rtol=1e-9)
            assert found.results[row][column].metric == "ndcg@3"
    assert found.validation[found.best()] == found.validation.max() > found.validation.min()


def test_keys_come_as_a_list_an_array_or_one():
    keys = jax.random.split(KEYS[0], 2)
    by_list, by_array, by_one = (grid(keys=each, sweeps=1) for each in (list(keys), keys, keys[1]))
    np.testing.assert_array_equal(by_list.loss, by_array.loss)
    np.testing.assert_array_equal(by_list.loss[:, 1:], by_one.loss)
    assert by_one.loss.shape == (3, 1)


# ---- groups ----


@pytest.mark.parametrize("folds", [False, True])
def test_groups_of_what_memory_holds_give_the_same_fits(folds):
    arguments: Any = {"weights": MASKS} if folds else {}
    each = fit_bytes(SOLVER, PROBLEM, OBJECTIVES[0], folds=2 if folds else 1)
    seen: list[Any] = []
    arguments |= {"loop": "map", "validation": HELD_OUT}
    whole, cut = grid(**arguments), grid(memory_bytes=4 * each, callbacks=[seen.append], **arguments)
    for row, other in zip(whole.results, cut.results, strict=True):
        for one, two in zip(row, other, strict=True):
            assert_same_fit(one, two)
    under_way = [[[at is not None for at in row] for row in record] for record in seen]
    first, second = [[True, True], [True, False], [False, False]], [[False, False], [False, True], [True, True]]
    assert under_way == [first] * 4 + [second] * 4
    assert [seen[2][1][0].sweep, seen[7][2][1].sweep] == [2, 3]
    assert seen[7][2][1].loss == cut.loss[2, 1]


def test_a_group_of_some_columns_has_their_folds():
    masks = np.stack([MASKS[0], MASKS[1], np.ones(len(TRAIN))])
    each = fit_bytes(SOLVER, PROBLEM, OBJECTIVES[0], folds=3)
    cut = grid(OBJECTIVES[:1], KEYS[:3], weights=masks, memory_bytes=2 * each, loop="map")
    for column, key in enumerate(KEYS[:3]):
        expected = jals.fit(SOLVER, PROBLEM.with_values(PROBLEM.value, masks[column]), OBJECTIVES[0], 3, key)
        assert_same_fit(cut.results[0][column], expected, rtol=1e-12)


def test_a_room_too_small_for_one_holds_one():
    assert grid(memory_bytes=1, sweeps=1).loss.shape == (3, 2)
    assert (at_once(10, 9), at_once(10, 39), at_once(10**30)) == (1, 3, 1)
    assert at_once(1000) * 1000 == pytest.approx(grids.memory_bytes() / 4, abs=1000)


@pytest.mark.parametrize("most", [1, 2, 3, 7, 64])
def test_groups_are_even(most):
    for fits in range(1, 20):
        sizes = even_sizes(fits, most)
        assert sum(sizes) == fits
        assert max(sizes) <= most
        assert max(sizes) - min(sizes) <= 1
        assert (len(sizes) - 1) * most < fits  # one group fewer could not hold them


def test_true_stops_those_under_way():
    found = grid(sweeps=5, callbacks=[lambda seen: seen[0][0].sweep == 2])
    assert [outcome.reason for row in found.results for outcome in row] == ["callback"] * 6  # type: ignore[union-attr]
    assert (found.sweeps == 2).all()


def test_an_interrupt_carries_the_grid_so_far():
    """The first of three groups has ended, the second is under way."""

    def interrupt(seen):
        if seen[1][0] is not None and seen[1][0].sweep == 2:
            raise KeyboardInterrupt

    room = 2 * fit_bytes(SOLVER, PROBLEM, OBJECTIVES[0])
    message = "after 2 of 3 sweeps, with 2 of 2 fits under way; 2 more were not begun"
    with pytest.raises(jals.Interrupted, match=message) as error:
        grid(memory_bytes=room, loop="map", callbacks=[interrupt])
    found = error.value.result
    for result, key in zip(found.results[0], KEYS, strict=False):
        assert_same_fit(result, jals.fit(SOLVER, PROBLEM, OBJECTIVES[0], 3, key))
    assert [result.reason for result in found.results[1]] == ["interrupted"] * 2
    assert found.results[2] == [None, None]
    assert (found.sweeps.tolist(), found.passes.tolist()) == ([[3, 3], [2, 2], [0, 0]], [[6, 6], [4, 4], [0, 0]])
    assert np.isfinite(found.loss).tolist() == [[True] * 2, [True] * 2, [False] * 2]
    assert repr(found) == "Grid(3 x 2 fits, 0 broke down)"


def test_an_interrupt_between_groups_or_while_measuring_loses_no_fit(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    ended = grid(loop="map", sweeps=1)
    made = iter([ended.results[0]])
    monkeypatch.setattr(grids, "fit_many", lambda *_, **__: next(made, None) or interrupt())
    room = 2 * fit_bytes(SOLVER, PROBLEM, OBJECTIVES[0])
    with pytest.raises(jals.Interrupted, match="interrupted; 4 more were not begun") as error:
        grid(loop="map", sweeps=1, memory_bytes=room)
    assert error.value.result.results == [ended.results[0], [None] * 2, [None] * 2]
    monkeypatch.setattr(grids, "quicker_loop", interrupt)
    with pytest.raises(jals.Interrupted, match="interrupted; 6 more were not begun") as error:
        grid(loop="measure")
    assert (error.value.result.results, error.value.result.loop) == ([[None] * 2] * 3, "measure")
    assert "before a loop was chosen" in error.value.result.why


# ---- which loop ----


@pytest.mark.parametrize(("speeds", "quicker"), [((1, 3), "map"), ((3, 1), "vmap")])
def test_the_quicker_loop_is_measured_without_compilation(monkeypatch, speeds, quicker):
    clock, made = [0.0], []
    monkeypatch.setattr(grids.time, "perf_counter", lambda: clock[0])
    takes = dict(zip(("map", "vmap"), speeds, strict=True))

    def trial(loop):
        clock[0] += takes[loop] + (0 if loop in made else 100 / takes[loop])
        made.append(loop)

    choice = quicker_loop(trial, 5, np.inf)
    assert (choice.loop, choice.seconds) == (quicker, takes)
    assert choice.why == f"measured on 5 fits: map {speeds[0]} s, vmap {speeds[1]} s"


def test_what_is_not_worth_it_is_not_measured():
    usual = "map" if jax.devices()[0].platform == "cpu" else "vmap"
    for fits, work in ((5, 1e9), (1, np.inf)):
        choice = quicker_loop(lambda _: pytest.fail("measured"), fits, work)
        assert (choice.loop, choice.seconds) == (usual, {})
        assert "too little work" in choice.why
    found = grid()
    assert (found.loop, found.seconds) == (usual, {})


def test_a_grid_says_which_loop_was_faster():
    found = grid(loop="measure", validation=HELD_OUT, memory_bytes=10**9)
    assert set(found.seconds) == {"map", "vmap"}
    assert found.loop == min(found.seconds, key=lambda loop: found.seconds[loop])
    assert found.why.startswith("measured on 6 fits: map ")
    assert_same_fit(
        found.results[2][1],
        jals.fit(SOLVER, PROBLEM, OBJECTIVES[2], 3, KEYS[1], validation=HELD_OUT),
        rtol=1e-9,
    )
    assert (grid(loop="vmap").loop, grid(loop="vmap").why) == ("vmap", "as asked for")


# ---- what it tells ----


def test_arrays_tell_of_every_end_and_a_breakdown_is_one_of_them():
    user, item = (index.ravel() for index in np.indices((5, 5)))
    ratings = jals.Ratings.from_arrays(user, item, np.random.default_rng(0).normal(size=25))
    keep = (user != 2) | (item == 1)  # user 2 has a single entry: with reg 0 there is no unique row
    problem = jals.Problem.build(ratings).with_values(ratings.value, keep)
    objectives = [jals.explicit(reg) for reg in (1.0, 0.0, 0.1)]
    found = fit_grid(jals.ALS(2), problem, objectives, KEYS[:2], sweeps=4, validation=ratings)
    for column, key in enumerate(KEYS[:2]):
        expected = alone(lambda key=key: jals.fit(jals.ALS(2), problem, objectives[1], 4, key, validation=ratings))
        assert isinstance(expected, jals.FitError)
        assert_same_fit(found.results[1][column], expected)
    assert np.isnan(found.loss[1]).all()
    assert np.isnan(found.validation[1]).all()
    for row in (0, 2):
        last = [outcome.result if isinstance(outcome, jals.FitError) else outcome for outcome in found.results[row]]
        for name in ("loss", "validation", "passes"):
            assert getattr(found, name)[row].tolist() == [getattr(each.history, name)[-1] for each in last]
    assert found.sweeps.tolist() == [[4, 4], [0, 0], [4, 4]]
    assert found.passes.tolist() == [[8, 8], [0, 0], [8, 8]]
    row, column = found.best()
    others = [number for place, number in np.ndenumerate(found.validation) if place != (row, column)]
    assert all(found.validation[row, column] <= number or np.isnan(number) for number in others)
    assert repr(found) == "Grid(3 x 2 fits, 2 broke down)"


def test_among_seeds_of_one_objective_the_loss_chooses():
    found = grid([als_wr(0.05)], KEYS)
    assert len(set(found.loss[0])) == len(KEYS)
    assert found.best() == (0, found.loss[0].tolist().index(min(found.loss[0])))


def test_best_refuses_to_choose_by_nothing():
    with pytest.raises(jals.ArgumentError, match="losses of different objectives do not compare"):
        grid(sweeps=1).best()
    with pytest.raises(jals.ArgumentError, match="nothing to choose by"):
        grid([als_wr(0.1)], sweeps=1, loss_every=0).best()
    zero = jals.Problem.build(TRAIN)
    failed = fit_grid(jals.ALS(20), zero, [jals.explicit(0.0)] * 2, KEYS[0], sweeps=1, validation=HELD_OUT)
    with pytest.raises(jals.ArgumentError, match="every fit broke down, the first with: sweep 1: user 0 has no unique"):
        failed.best()


# ---- compiling ----

COMPILED = collections.Counter()


def _count(event, duration_secs, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED[about["fun_name"]] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def test_numbers_never_compile_again():
    jax.clear_caches()
    for turn, (first, scale) in enumerate(((0.5, 0.1), (1, 0.2), (np.float32(0.3), 1))):
        COMPILED.clear()
        solver = jals.ALS(3, init_scale=scale)
        keys = [jax.random.key(turn), jax.random.key(turn + 9)]
        rest: Any = {"sweeps": turn + 1, "tol": 0.01 * turn, "loss_every": 1 + turn, "weights": MASKS + turn}
        grid([als_wr(first), als_wr(0.1)], keys, solver, **rest)
        assert COMPILED["jit(_advance_many)"] == (turn == 0)
        assert not COMPILED["jit(advance)"]
    assert not COMPILED


# ---- refusing ----

SMALL = jals.Ratings.from_arrays([0], [0], [1.0])
REFUSED = {
    "objectives": ({"objectives": als_wr(0.1)}, "objectives is of type Objective, but must be a list"),
    "no objective": ({"objectives": []}, "objectives is empty"),
    "objective": ({"objectives": [als_wr(0.1), 0.1]}, r"objectives\[1\]: objective is of type float"),
    "reg": ({"objectives": [als_wr(0.1), als_wr(-1)]}, r"objectives\[1\]: reg_user is -1, but must be a finite"),
    "preset": ({"objectives": [jals.ials(1, 1), jals.hu_koren(1)]}, r"objectives\[1\] cannot share a program"),
    "keys": ({"keys": None}, "keys is of type NoneType, but must be a list"),
    "no key": ({"keys": jax.random.split(KEYS[0], 0)}, "keys is empty"),
    "key": ({"keys": [KEYS[0], 3]}, r"keys\[1\]: key is of type int: make one with"),
    "solver": ({"solver": jals.ALS}, "solver is .*, but must be a solver such as"),
    "sweeps": ({"sweeps": -1}, "^sweeps is -1"),
    "tol": ({"tol": 0.1, "loss_every": 0}, "^tol is 0.1 with loss_every=0"),
    "loop": ({"loop": "mpa"}, 'loop is \'mpa\', but must be one of "auto", "measure", "map", "vmap".*mean "map"'),
    "room": ({"memory_bytes": 0}, "memory_bytes is 0, but must be a number > 0"),
    "callbacks": ({"callbacks": 3}, "^callbacks is of type int"),
    "validation": ({"validation": [HELD_OUT, SMALL]}, r"keys\[1\]: validation is 1 x 1, the problem 14 x 11"),
    "validations": ({"validation": [HELD_OUT]}, "validation has 1, keys has 2: a list has one for each key"),
    "weights": ({"weights": MASKS[:1]}, r"weights are of shape \(1, \d+\) and float64, but must be numbers of shape"),
    "text": ({"weights": MASKS.astype(str)}, r"weights are of shape \(2, \d+\) and <U\d+, but must be numbers"),
    "negative": ({"weights": MASKS * [[1], [-1]]}, r"keys\[1\]: weight of entry \d+ is -1\.5, but must be finite"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_before_any_work(case, monkeypatch):
    monkeypatch.setattr(grids, "fit_many", lambda *_, **__: pytest.fail("it began"))
    arguments, message = REFUSED[case]
    with pytest.raises((jals.ArgumentError, jals.DataError), match=message):
        grid(**arguments)


def test_a_value_that_an_objective_cannot_use_is_refused_in_its_column():
    doubted = PROBLEM.with_values(np.where(np.arange(len(TRAIN)) == 3, -2.0, 2.0))
    masks = np.ones((2, len(TRAIN)))
    masks[:, 3] = [0, 1]
    with pytest.raises(jals.DataError, match=r"objectives\[0\]: value of entry 3 is -2\.0, a confidence"):
        fit_grid(SOLVER, doubted, [jals.hu_koren(0.1)], KEYS[:2], sweeps=1)
    with pytest.raises(jals.DataError, match=r"keys\[1\]: objectives\[0\]: value of entry 3 is -2\.0, a confidence"):
        fit_grid(SOLVER, doubted, [jals.hu_koren(0.1)], KEYS[:2], sweeps=1, weights=masks)
    fit_grid(SOLVER, doubted, [jals.hu_koren(0.1)], KEYS[:2], sweeps=1, weights=masks[[0, 0]])

"""`regularisation_path`: the same as a chain of `fit`; what breaks down on the way; warm starts against cold ones."""

import collections
from typing import Any

import jax
import numpy as np
import pytest

import jals
from jals.fitting import paths, validation
from jals.fitting.paths import regularisation_path
from jals.fitting.single import History
from tests.support.fits import HELD_OUT, ITEMS, OBJECTIVE, PROBLEM, SGD, SOLVER, TRAIN, USERS, alone, als_wr

pytestmark = pytest.mark.newest

REGS = (0.3, 0.1, 0.03, 0.01)
OBJECTIVES = [als_wr(reg) for reg in REGS]
KEY = jax.random.key(3)


def path(objectives: Any = OBJECTIVES, solver: Any = SOLVER, problem: Any = PROBLEM, **arguments: Any) -> paths.Path:
    return regularisation_path(solver, problem, objectives, **{"key": KEY, "sweeps": 20, "tol": 1e-3} | arguments)


def chain(objectives, solver: Any = SOLVER, problem=PROBLEM, sweeps=20, tol: float | None = 1e-3, **arguments):
    """The same by hand."""
    ends, factors = [], None
    for objective in objectives:
        fit = lambda objective=objective, init=factors: jals.fit(  # noqa: E731
            solver, problem, objective, sweeps, KEY, tol, init, **arguments
        )
        ends.append(alone(fit))
        factors = factors if isinstance(ends[-1], jals.FitError) else ends[-1].factors
    return ends


def assert_same_ends(ends, others):
    for one, two in zip(ends, others, strict=True):
        assert type(one) is type(two)
        if isinstance(one, jals.FitError):
            assert str(one) == str(two)
            one, two = one.result, two.result
        assert (one.reason, one.sweep, one.history.passes) == (two.reason, two.sweep, two.history.passes)
        assert (one.history.loss, one.history.sweep) == (two.history.loss, two.history.sweep)
        np.testing.assert_array_equal(one.history.validation, two.history.validation)
        jax.tree.map(np.testing.assert_array_equal, one.factors, two.factors)


# ---- the same as fit, one after another ----


@pytest.mark.parametrize(("solver", "tol"), [(SOLVER, 1e-3), (SOLVER, None), (SGD, 1e-3)])
def test_a_path_is_a_chain_of_fits(solver, tol):
    found = path(solver=solver, tol=tol, validation=HELD_OUT)
    assert_same_ends(found.results, chain(OBJECTIVES, solver, tol=tol, validation=HELD_OUT))
    for before, after, objective in zip(found.results, found.results[1:], OBJECTIVES[1:], strict=False):
        assert isinstance(before, jals.Result)
        assert isinstance(after, jals.Result)
        assert after.history.loss[0] == float(jals.loss(before.factors, PROBLEM, objective))
        assert after.history.validation[0] == before.history.validation[-1]
    assert found.comparison is None


def test_a_path_may_go_from_the_last_to_the_first():
    found = path(order="reversed")
    assert_same_ends(found.results, chain(OBJECTIVES[::-1])[::-1])


def test_arrays_tell_of_every_end():
    found = path(validation=HELD_OUT)
    for name, of in (("loss", "loss"), ("validation", "validation"), ("sweeps", "sweep"), ("passes", "passes")):
        last = [getattr(end.history, of)[-1] for end in found.results if isinstance(end, jals.Result)]
        assert getattr(found, name).tolist() == last
    assert (found.passes == 2 * found.sweeps).all()
    assert found.validation[found.best()] == min(found.validation)
    assert repr(found) == "Path(4 fits, 0 broke down)"
    with pytest.raises(jals.ArgumentError, match="losses of different objectives do not compare"):
        path().best()


# ---- breaking down ----

ALONE = (TRAIN.user != 2) | (np.cumsum(TRAIN.user == 2) == 1)  # user 2 has a single entry: none is enough without reg
SINGULAR = PROBLEM.with_values(PROBLEM.value, ALONE)


def test_a_path_goes_on_from_the_last_good_factors():
    objectives = [jals.explicit(reg) for reg in (1.0, 0.0, 0.0, 0.3)]
    found = path(objectives, problem=SINGULAR, validation=HELD_OUT)
    assert [type(end) for end in found.results] == [jals.Result, jals.FitError, jals.FitError, jals.Result]
    assert_same_ends(found.results, chain(objectives, problem=SINGULAR, validation=HELD_OUT))
    first, second, _, last = found.results
    assert isinstance(first, jals.Result)
    assert isinstance(second, jals.FitError)
    assert isinstance(last, jals.Result)
    assert (second.side, second.row, second.__traceback__) == ("user", 2, None)
    assert last.history.validation[0] == first.history.validation[-1]
    assert np.isnan(found.loss[1:3]).all()
    assert found.best() in (0, 3)


def test_the_factors_of_a_diverging_fit_start_nothing():
    objectives = [als_wr(reg) for reg in (0.1, 1e3, 0.03)]
    found = path(objectives, SGD, sweeps=500, tol=None)
    assert_same_ends(found.results, chain(objectives, SGD, sweeps=500, tol=None))
    _, diverged, last = found.results
    assert isinstance(diverged, jals.FitError)
    assert isinstance(last, jals.Result)
    assert diverged.result.done > 1
    assert last.history.loss[0] < 1e4


def test_a_path_may_be_judged_by_a_ranking_metric():
    found = path(validation=HELD_OUT, metric="ndcg@3")
    assert_same_ends(found.results, chain(OBJECTIVES, validation=HELD_OUT, metric="ndcg@3"))
    assert found.best() == int(np.argmax(found.validation)) != int(np.argmin(found.validation))


def test_a_path_that_begins_with_a_breakdown_starts_cold_after_it():
    objectives = [jals.explicit(reg) for reg in (0.0, 1.0)]
    found = path(objectives, problem=SINGULAR, compare=True)
    assert_same_ends(found.results[1:], chain(objectives[1:], problem=SINGULAR))
    assert found.comparison is not None
    assert_same_ends(found.comparison.cold, found.results)
    assert np.isnan(found.comparison.passes["warm"]).tolist() == [True, False]
    assert "left out: objectives 0, which broke down" in found.comparison.why


def test_an_interrupt_carries_what_there_was(monkeypatch):
    calls, rmse = [], validation.validation_rmse

    def interrupted(factors, ratings):
        calls.append(1)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return rmse(factors, ratings)

    monkeypatch.setattr(validation, "validation_rmse", interrupted)
    with pytest.raises(jals.Interrupted, match=r"objectives\[1\]: interrupted after 1 of 2 sweeps") as error:
        path(sweeps=2, tol=None, validation=HELD_OUT)
    monkeypatch.undo()
    first, second = error.value.result
    assert_same_ends([first], chain(OBJECTIVES[:1], sweeps=2, tol=None, validation=HELD_OUT))
    assert (second.reason, second.done) == ("interrupted", 1)


# ---- warm against cold ----


def test_a_path_is_compared_with_cold_starts():
    found = path(compare=True, validation=HELD_OUT, sweeps=200)
    told = found.comparison
    assert told is not None
    assert_same_ends(
        told.cold, [jals.fit(SOLVER, PROBLEM, each, 200, KEY, 1e-3, None, HELD_OUT) for each in OBJECTIVES]
    )
    assert told.cold[0] is found.results[0]  # the first of a path starts cold
    assert_same_ends(found.results, path(validation=HELD_OUT, sweeps=200).results)
    for row, pair in enumerate(zip(found.results, told.cold, strict=True)):
        histories = [end.history for end in pair if isinstance(end, jals.Result)]
        ends = [history.loss[-1] for history in histories]
        for name, history in zip(("warm", "cold"), histories, strict=True):
            if max(ends) > 1.01 * min(ends):
                assert np.isnan(told.passes[name][row])
                continue
            reached = next(at for at, loss in enumerate(history.loss) if loss <= 1.001 * max(ends))
            assert told.passes[name][row] == history.passes[reached]
            assert told.seconds[name][row] == history.seconds[reached]
    totals = {name: np.nansum(passes) for name, passes in told.passes.items()}
    assert totals["warm"] != totals["cold"]
    assert told.faster == min(totals, key=lambda name: totals[name])
    assert f"{told.faster} starts were faster" in told.why
    assert f"warm starts {totals['warm']:.0f} passes" in told.why


def ended(losses, passes=2, seconds=0.5):
    """A fit with these losses, after so many passes and seconds a sweep."""
    count = range(len(losses))
    history = History(list(count), losses, [at * seconds for at in count], [at * passes for at in count], losses)
    return jals.Result(None, None, history, 0.0, True, "tol", len(losses) - 1)  # type: ignore[arg-type]


def test_costs_are_those_of_coming_to_the_same_loss():
    warm = [ended([9.0, 4.033, 4.02, 4.0]), ended([3.0, 2.0]), ended([8.0, 7.0, 6.5, 6.0])]
    cold = [ended([20.0, 9.0, 4.03]), ended([9.0, 2.05]), ended([9.0, 5.99])]
    told = paths._compared(warm, cold, 0.001)
    # 4.03 to a thousandth is 4.03403, which 4.033 is below; 2.0 and 2.05 are more than 1 % apart
    np.testing.assert_array_equal(told.passes["warm"], [2, np.nan, 6])
    np.testing.assert_array_equal(told.passes["cold"], [4, np.nan, 2])
    np.testing.assert_array_equal(told.seconds["warm"], [0.5, np.nan, 1.5])
    assert told.faster == "cold"
    assert told.why == (
        "cold starts were faster, to the same losses: warm starts 8 passes and 2 s, cold starts 6 passes and 1.5 s; "
        "left out: objectives 1, which broke down or ended more than 1 % apart"
    )
    assert paths._compared(warm[:1], cold[:1], 0.001).faster == "warm"
    as_quick, quicker = ([ended([20.0, 4.03], seconds=seconds)] for seconds in (0.5, 0.1))
    assert paths._compared(warm[:1], as_quick, 0.001).faster == "warm"
    assert paths._compared(warm[:1], quicker, 0.001).faster == "cold"  # as many passes in less time
    assert paths._compared(warm[1:2], cold[1:2], 0.001).faster == "neither"


def test_a_start_at_the_saddle_is_not_called_fast():
    """Under a huge lambda the factors shrink to 0, from where the next fit gets nowhere: it stops at once."""
    with pytest.warns(UserWarning, match="all factors have shrunk to 0"):
        found = path([jals.explicit(reg) for reg in (1e5, 0.5)], compare=True, sweeps=200)
    told = found.comparison
    assert told is not None
    assert found.sweeps[1] < told.cold[1].done  # type: ignore[union-attr]
    assert found.loss[1] > 2 * told.cold[1].history.loss[-1]  # type: ignore[union-attr]
    assert np.isnan(told.passes["warm"][1])
    assert "left out: objectives 1" in told.why


# ---- compiling ----

COMPILED = collections.Counter()


def _count(event, duration_secs, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED[about["fun_name"]] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def test_numbers_and_lengths_never_compile_again():
    jax.clear_caches()
    COMPILED.clear()
    key = jax.random.key(8)
    path(compare=True)
    assert (COMPILED["jit(advance)"], COMPILED["jit(_loss)"]) == (1, 1)
    COMPILED.clear()
    path([als_wr(reg) for reg in (1, 0.5, np.float32(0.2), 0.1, 0.05)], sweeps=7, tol=1e-2, key=key)
    path(OBJECTIVES[:2], sweeps=3, tol=None, order="reversed", solver=jals.ALS(3, init_scale=0.3))
    assert not COMPILED


# ---- refusing ----

REFUSED = {
    "objectives": ({"objectives": OBJECTIVE}, "objectives is of type Objective, but must be a list"),
    "no objective": ({"objectives": []}, "objectives is empty"),
    "objective": ({"objectives": [OBJECTIVE, 0.1]}, r"objectives\[1\]: objective is of type float"),
    "reg": ({"objectives": [als_wr(0.1), als_wr(-1)]}, r"objectives\[1\]: reg_user is -1, but must be a finite"),
    "form": ({"objectives": [OBJECTIVE, jals.als_wr(0.1)]}, r"objectives\[1\] cannot share a program .*bias is False"),
    "value": ({"objectives": [jals.hu_koren(0.1)], "problem": PROBLEM.with_values(-2 - TRAIN.value**2)}, "value of"),
    "nan": ({"problem": PROBLEM.with_values(np.full(len(TRAIN), np.nan))}, "value of entry 0 is nan"),
    "key": ({"key": 1}, "key is of type int: make one with"),
    "solver": ({"solver": jals.ALS}, "solver is .*, but must be a solver such as"),
    "problem": ({"problem": TRAIN}, "problem is of type Ratings"),
    "sweeps": ({"sweeps": 1.5}, "sweeps is 1.5"),
    "tol": ({"tol": -1}, "tol is -1"),
    "order": ({"order": "reverse"}, 'order is \'reverse\', but must be one of "given", "reversed".*mean "reversed"'),
    "validation": (
        {"validation": jals.Ratings.from_arrays([0], [0], [1.0])},
        f"validation is 1 x 1, the problem {USERS} x {ITEMS}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused_before_any_work(case, monkeypatch):
    monkeypatch.setattr(paths, "fit", lambda *_, **__: pytest.fail("it began"))
    arguments, message = REFUSED[case]
    with pytest.raises((jals.ArgumentError, jals.DataError), match=message):
        path(**arguments)

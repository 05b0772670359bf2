"""`fit_many`: every fit of a grid equals `fit`'s own, whatever its neighbours do; one program; what it refuses."""

import collections
import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jals
from jals.fitting import many
from jals.fitting.many import fit_bytes, fit_many
from jals.solvers import costs
from tests.support.fits import (
    HELD_OUT,
    ITEMS,
    KEYS,
    PROBLEM,
    SGD,
    SOLVER,
    TRAIN,
    USERS,
    Scripted,
    alone,
    als_wr,
    assert_same_fit,
    make_ratings,
)

MASKS = np.stack([jals.split.fold_numbers(TRAIN, 3) != fold for fold in range(3)]) * 1.5


def sgd(learning_rate):
    return dataclasses.replace(SGD, hyper={"learning_rate": learning_rate})


ZEROS = jals.Problem.build(dataclasses.replace(TRAIN, value=np.zeros(len(TRAIN))))
NOTHING = jals.explicit(0.0, center=True)


# ---- the same as fit ----

ROWS = {"reg_user": np.linspace(0.1, 0.4, USERS), "reg_item": 0.2, "prior_item": np.ones((ITEMS, 3))}
GRIDS = {
    "als": ([SOLVER] * 4, [als_wr(0.05), als_wr(0.3)] * 2),
    "cg, other scales": ([jals.ALS(3, "cg", init_scale=scale) for scale in (0.1, 0.5)] * 2, [als_wr(0.05)] * 4),
    "implicit, by row": (
        [jals.ALS(3, "lu")] * 4,
        [jals.ials(unobserved_weight=a0, **ROWS | {"prior_item": a0 * ROWS["prior_item"]}) for a0 in (0.1, 0.2)] * 2,
    ),
    "adam, batches": (
        [jals.Gradient(3, optax.adam, {"learning_rate": rate}, batch_size=16) for rate in (0.01, 0.1)] * 2,
        [als_wr(0.05), als_wr(0.05), als_wr(0.3), als_wr(0.3)],
    ),
    "lbfgs": ([jals.Gradient(3, optax.lbfgs, {"memory_size": 3})] * 4, [jals.explicit(reg) for reg in (0.1, 1)] * 2),
}
WHICH = [0, 2, 1, 0]


CASES = [(kind, True, "map") for kind in GRIDS] + [("als", False, "map"), ("als", False, "vmap")]
CASES += [(kind, True, "vmap") for kind in ("implicit, by row", "adam, batches")]


@pytest.mark.parametrize(("kind", "folds", "loop"), CASES)
def test_each_fit_of_a_grid_is_that_of_fit(kind, folds, loop):
    solvers, objectives = GRIDS[kind]
    arguments: Any = {"sweeps": 4, "validation": HELD_OUT}
    group = fit_many(
        solvers, PROBLEM, objectives, keys=KEYS, weights=(MASKS, WHICH) if folds else None, loop=loop, **arguments
    )
    for at, result in enumerate(group):
        problem = PROBLEM.with_values(PROBLEM.value, MASKS[WHICH[at]]) if folds else PROBLEM
        expected = jals.fit(solvers[at], problem, objectives[at], key=KEYS[at], **arguments)
        assert len(set(expected.history.loss)) == len(set(expected.history.validation)) == 5  # finite, and no two alike
        assert_same_fit(result, expected, rtol=1e-9)
    assert len({str(result.history.loss) for result in group if not isinstance(result, jals.FitError)}) == 4


def test_a_loop_in_single_precision_gives_the_same_bits():
    problem = jals.Problem.build(make_ratings(np.float32), "segmented")
    objectives = [als_wr(0.05), als_wr(0.3)]
    group = fit_many(SOLVER, problem, objectives, sweeps=3)
    for result, objective in zip(group, objectives, strict=True):
        assert_same_fit(result, jals.fit(SOLVER, problem, objective, sweeps=3))
        assert isinstance(result, jals.Result)
        assert {leaf.dtype for leaf in jax.tree.leaves(result.state)} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("arguments", "sweeps"),
    [
        ({"loss_every": 2}, [0, 2, 4, 5]),
        ({"loss_every": 9}, [0, 5]),
        ({"loss_every": 0}, [0, 5]),
        ({"loss_every": 0, "validation": HELD_OUT}, [0, 1, 2, 3, 4, 5]),
        ({"sweeps": 0}, [0]),
    ],
)
def test_records_are_those_of_fit(arguments, sweeps):
    arguments = {"sweeps": 5} | arguments
    group = fit_many(SOLVER, PROBLEM, als_wr(0.1), keys=KEYS[:2], **arguments)
    for result, key in zip(group, KEYS, strict=False):
        assert isinstance(result, jals.Result)
        assert result.history.sweep == sweeps
        assert_same_fit(result, jals.fit(SOLVER, PROBLEM, als_wr(0.1), key=key, **arguments), rtol=1e-12)


def test_validation_ratings_of_each_fit():
    validation = [HELD_OUT, None]
    group = fit_many(SOLVER, PROBLEM, als_wr(0.1), sweeps=2, validation=validation)
    for result, held_out in zip(group, validation, strict=True):
        expected = jals.fit(SOLVER, PROBLEM, als_wr(0.1), sweeps=2, validation=held_out)
        assert np.isnan(expected.history.validation).all() == (held_out is None)
        assert_same_fit(result, expected, rtol=1e-12)


def test_the_group_shares_its_compile_seconds():
    one, two = (result.compile_seconds for result in successes(fit_many(SOLVER, PROBLEM, als_wr(0.1), 1, KEYS[:2])))
    assert one == two > 0


def successes(group) -> list[jals.Result]:
    assert all(isinstance(each, jals.Result) for each in group)
    return group


def test_keys_come_as_a_list_an_array_or_one():
    keys = jax.random.split(KEYS[0], 2)
    by_list, by_array = (successes(fit_many(SOLVER, PROBLEM, als_wr(0.1), 1, each)) for each in (list(keys), keys))
    for one, two in zip(by_list, by_array, strict=True):
        np.testing.assert_array_equal(one.factors.user, two.factors.user)
    assert not np.array_equal(by_list[0].factors.user, by_list[1].factors.user)
    first, second = successes(fit_many(SOLVER, PROBLEM, [als_wr(0.1)] * 2, 1))
    np.testing.assert_array_equal(first.factors.user, second.factors.user)
    np.testing.assert_array_equal(first.factors.user, jals.fit(SOLVER, PROBLEM, als_wr(0.1), 1).factors.user)


# ---- stopping and failing, each for itself ----

PATHS = {  # the mean at sweeps 0 ... 6, and the sweep that fails
    "tol at 2": ([10, 8, 7.5, 6, 5.8, 5.79, 5.5], 99),
    "tol at 4": ([10, 8, 6, 5, 4.9, 4.8, 4.7], 99),
    "never": ([64, 32, 16, 8, 4, 2, 1], 99),
    "row": ([64, 32, 16, 8, 4, 2, 1], 3),
    "row at once": ([9, 8, 7, 6, 5, 4, 3], 1),
    "loss": ([64, 32, 16, 1e200, 4, 2, 1], 99),
    "factors": ([64, 32, 16, np.inf, 4, 2, 1], 99),
    "first loss": ([1e200, 32, 16, 8, 4, 2, 1], 99),
}


@pytest.mark.parametrize("loop", many.LOOPS)
@pytest.mark.parametrize("loss_every", [1, 4])
def test_each_stops_and_fails_for_itself(loss_every, loop):
    solvers = [Scripted(np.array(path, float), fails) for path, fails in PATHS.values()]
    arguments: Any = {"sweeps": 6, "tol": 0.2, "loss_every": loss_every}
    group = fit_many(solvers, ZEROS, NOTHING, loop=loop, **arguments)
    for result, solver in zip(group, solvers, strict=True):
        assert_same_fit(result, alone(lambda solver=solver: jals.fit(solver, ZEROS, NOTHING, **arguments)))
    if loss_every == 1:
        stops = [each.sweep if isinstance(each, jals.FitError) else (each.reason, each.sweep) for each in group]
        assert stops == [("tol", 2), ("tol", 4), ("sweeps", 6), 3, 1, 3, 3, 0]


@pytest.mark.parametrize("loss_every", [0, 1])
def test_a_diverging_neighbour_leaves_the_others_alone(loss_every):
    rates = [1e-3, 1e6, 2e-3]
    arguments: Any = {"sweeps": 60, "loss_every": loss_every}
    group = fit_many([sgd(rate) for rate in rates], PROBLEM, als_wr(0.05), **arguments)
    assert [type(each) for each in group] == [jals.Result, jals.FitError, jals.Result]
    for result, rate in zip(group, rates, strict=True):
        expected = alone(lambda rate=rate: jals.fit(sgd(rate), PROBLEM, als_wr(0.05), **arguments))
        assert_same_fit(result, expected, rtol=1e-9)
    error = group[1]
    assert isinstance(error, jals.FitError)
    assert error.__traceback__ is None  # its frames would hold on to the states of all
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(error.result.factors))


def test_a_singular_row_of_one_fold_and_one_reg():
    user, item = (index.ravel() for index in np.indices((5, 5)))
    table = jals.Problem.build(jals.Ratings.from_arrays(user, item, np.random.default_rng(0).normal(size=25)))
    weights = (np.stack([np.ones(25), (user != 2) | (item == 1)]), [0, 1, 1])  # in fold 1 user 2 has a single entry
    objectives = [jals.explicit(reg) for reg in (0.0, 0.0, 0.1)]
    group = fit_many(jals.ALS(2), table, objectives, sweeps=2, weights=weights)
    assert [type(each) for each in group] == [jals.Result, jals.FitError, jals.Result]
    for result, objective, fold in zip(group, objectives, weights[1], strict=True):
        problem = table.with_values(table.value, weights[0][fold])
        expected = alone(lambda problem=problem, objective=objective: jals.fit(jals.ALS(2), problem, objective, 2))
        assert_same_fit(result, expected, rtol=1e-9)
    assert isinstance(group[1], jals.FitError)
    assert (group[1].side, group[1].row, group[1].sweep) == ("user", 2, 1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Counted(Scripted):
    """Tells of every sweep that it really makes."""

    name: Any = 0

    def sweep(self, state, problem, objective, loss=False):
        jax.debug.callback(SWEEPS.append, self.name, ordered=False)
        return super().sweep(state, problem, objective, loss)


SWEEPS: list[Any] = []


def test_what_has_stopped_is_swept_no_more():
    SWEEPS.clear()
    paths = [PATHS[name][0] for name in ("tol at 2", "tol at 4", "never")]
    solvers = [Counted(np.array(path, float), name=name) for name, path in enumerate(paths)]
    fit_many(solvers, ZEROS, NOTHING, sweeps=6, tol=0.2)
    jax.effects_barrier()
    assert collections.Counter(map(int, SWEEPS)) == {0: 2, 1: 4, 2: 6}


# ---- callbacks ----


def test_callbacks_see_every_fit_that_goes_on():
    seen: list[list[Any]] = []
    solvers = [Scripted(np.array(PATHS[name][0], float), PATHS[name][1]) for name in ("tol at 2", "row", "never")]
    group = fit_many(solvers, ZEROS, NOTHING, sweeps=6, tol=0.2, callbacks=[seen.append, lambda _: 1])
    assert [[at and at.sweep for at in row] for row in seen] == [
        [0, 0, 0],
        [1, 1, 1],
        [2, 2, 2],
        [None, None, 3],
        [None, None, 4],
        [None, None, 5],
        [None, None, 6],
    ]
    at = seen[2][1]
    assert (at.sweeps, at.passes, at.loss, at.result.reason) == (6, 10, len(TRAIN) * 16.0**2, "running")
    assert at.state.factors.mean == at.result.factors.mean == 16
    assert at.result.history.sweep == [0, 1, 2]
    assert successes([group[2]])[0].reason == "sweeps"


def test_a_callback_stops_all_with_true_alone():
    calls = []
    stop = [lambda at: at[0].sweep == 2, calls.append]
    group = fit_many(SOLVER, PROBLEM, als_wr(0.1), sweeps=5, keys=KEYS[:2], callbacks=stop)
    assert len(calls) == 3  # the other is called to the last
    for result, key in zip(group, KEYS, strict=False):
        expected = jals.fit(SOLVER, PROBLEM, als_wr(0.1), sweeps=5, key=key, callbacks=[lambda at: at.sweep == 2])
        assert expected.reason == "callback"
        assert_same_fit(result, expected, rtol=1e-12)


def test_what_a_callback_holds_goes_on_with_fit():
    seen: list[list[Any]] = []
    group = fit_many(sgd(1e-3), PROBLEM, als_wr(0.1), sweeps=4, keys=KEYS[:2], callbacks=[seen.append])
    for result, at in zip(successes(group), seen[2], strict=True):
        continued = jals.fit(sgd(1e-3), PROBLEM, als_wr(0.1), sweeps=4, init=at.result)
        assert continued.history.sweep == [0, 1, 2, 3, 4]
        np.testing.assert_allclose(continued.factors.user, result.factors.user, rtol=1e-12)


def test_an_interrupt_carries_each_as_it_is():
    """One has settled, one has broken down, and one, under way, can be gone on with."""

    def interrupt(at):
        if at[2].sweep == 3:
            raise KeyboardInterrupt

    solvers = [Scripted(np.array(PATHS[name][0], float), PATHS[name][1]) for name in ("tol at 2", "row", "never")]
    arguments: Any = {"sweeps": 6, "tol": 0.2}
    message = "interrupted after 3 of 6 sweeps, with 1 of 3 fits under way"
    with pytest.raises(jals.Interrupted, match=message) as error:
        fit_many(solvers, ZEROS, NOTHING, callbacks=[interrupt], **arguments)
    whole = [alone(lambda solver=solver: jals.fit(solver, ZEROS, NOTHING, **arguments)) for solver in solvers]
    for result, expected in zip(error.value.result[:2], whole[:2], strict=True):
        assert_same_fit(result, expected)
    left = error.value.result[2]
    assert (left.reason, left.converged, left.sweep, left.done) == ("interrupted", False, 3, 3)
    assert left.factors.mean == left.state.factors.mean == PATHS["never"][0][3]
    continued = jals.fit(solvers[2], ZEROS, NOTHING, init=left, **arguments)
    assert (continued.reason, continued.history.loss) == ("sweeps", whole[2].history.loss)


def test_an_interrupt_while_compiling_carries_the_starts(monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(many, "_advance_many", interrupt)
    with pytest.raises(jals.Interrupted, match="after 0 of 1 sweeps, with 2 of 2 fits under way") as error:
        fit_many(SOLVER, PROBLEM, als_wr(0.1), sweeps=1, keys=KEYS[:2])
    for result, key in zip(error.value.result, KEYS, strict=False):
        assert (result.reason, result.history.sweep) == ("interrupted", [])
        np.testing.assert_array_equal(result.factors.user, SOLVER.init(key, PROBLEM, als_wr(0.1)).factors.user)


# ---- compiling ----

COMPILED = collections.Counter()


def _count(event, duration_secs, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED[about["fun_name"]] += 1


jax.monitoring.register_event_duration_secs_listener(_count)


def test_numbers_never_compile_again():
    jax.clear_caches()
    COMPILED.clear()
    for turn, (reg, scale, seed) in enumerate(itertools.product((0.05, 1, np.float32(0.2)), (0.1, 2), (0, 7))):
        solvers = [jals.ALS(3, init_scale=scale), jals.ALS(3)]
        keys = [jax.random.key(seed), jax.random.key(seed + 1)]
        weights = (MASKS[[turn % 3, 0]], [turn % 2, 1])
        rest: Any = {"sweeps": turn % 4, "tol": 0.01 * turn, "loss_every": 1 + turn % 3}
        fit_many(solvers, PROBLEM, [als_wr(reg), als_wr(0.1)], keys=keys, weights=weights, **rest)
        programs = {name: times for name, times in COMPILED.items() if "_many" in name or "advance" in name}
        assert programs == {"jit(_advance_many)": 1}
        assert not COMPILED["jit(_loss)"]
        if turn == 1:
            COMPILED.clear()
            COMPILED.update(programs)
        elif turn > 1:
            assert programs == COMPILED  # nothing at all


# ---- memory ----


def test_bytes_of_a_fit():
    problem, objective = PROBLEM.arrange(), als_wr(0.1)
    numbers = 4  # init_scale; reg of the users, of the items, power
    size = costs.Size(USERS, ITEMS, len(TRAIN))
    for solver, more in ((SOLVER, 0), (SGD, 1), (jals.NewtonCG(3), 2)):
        state = sum(leaf.nbytes for leaf in jax.tree.leaves(solver.init(KEYS[0], problem, objective)))
        held = costs.held_bytes(solver, size, np.float64)  # what a run foresees of a fit alone
        assert held > 1.9 * state  # one before a sweep and one after it
        assert fit_bytes(solver, problem, objective) == held + state + 8 * (numbers + more)
    scripted, zeros = Scripted(np.ones(7)), ZEROS.arrange()  # which does not say what it holds
    state = sum(leaf.nbytes for leaf in jax.tree.leaves(scripted.init(KEYS[0], zeros, NOTHING)))
    assert fit_bytes(scripted, zeros, NOTHING) == 3 * state + 8 * sum(
        np.size(leaf) for leaf in jax.tree.leaves((scripted, NOTHING))
    )
    slots = [leaf for side in (problem.user_slots, problem.item_slots) for leaf in (*side.weight, side.count)]
    fold = sum(leaf.nbytes for leaf in (problem.weight, *slots))
    alone, folded = (fit_bytes(SOLVER, PROBLEM, objective, folds=folds) for folds in (1, 5))
    assert folded - alone == fold
    assert fit_bytes(SOLVER, PROBLEM, objective, loop="vmap") > alone


def test_a_fold_costs_its_weights_alone():
    folds = many._fold_slots(PROBLEM, jnp.asarray(MASKS))
    arranged = PROBLEM.arrange()
    sides = (arranged.user_slots, arranged.item_slots)
    weights = [arranged.weight, *(leaf for side in sides for leaf in (*side.weight, side.count))]
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(folds)) == len(MASKS) * sum(leaf.nbytes for leaf in weights)


# ---- refusing ----

REFUSED = {
    "no list": ({}, "nothing says how many fits there are: give solvers, objectives or keys as a list"),
    "lengths": ({"objectives": [als_wr(0.1)] * 3, "keys": KEYS}, "objectives has 3, keys has 4: a list"),
    "empty": ({"solvers": []}, "solvers has 0: .* there is one fit at least"),
    "rank": (
        {"solvers": [SOLVER, SOLVER, jals.ALS(4)]},
        r"solvers\[2\] cannot share a program with solvers\[0\]: rank is 4, not 3\. Call fit_many once for each kind",
    ),
    "linsolve": ({"solvers": [SOLVER, jals.ALS(3, "lu")]}, r"solvers\[1\] .*: linsolve is 'lu', not 'cholesky'"),
    "solver": ({"solvers": [SOLVER, SGD]}, r"solvers\[1\] .*: it is of type Gradient, not ALS"),
    "optimizer": (
        {"solvers": [SGD, dataclasses.replace(SGD, optimizer=optax.adam)]},
        r"solvers\[1\] .*: optimizer is <function adam .*, not <function sgd",
    ),
    "hyper": (
        {"solvers": [sgd(0.1), dataclasses.replace(SGD, hyper={"learning_rate": 0.1, "nesterov": True})]},
        r"solvers\[1\] .*: hyper is .*'nesterov': True}, not {'learning_rate': 0.1}",
    ),
    "center": ({"objectives": [jals.explicit(1), jals.explicit(1, center=True)]}, r"objectives\[1\].* center is True"),
    "feedback": ({"objectives": [jals.ials(1, 1), jals.hu_koren(1)]}, r"objectives\[1\] .*: "),
    "reg by row": (
        {"objectives": [jals.explicit(0.1), jals.explicit(reg_user=np.ones(USERS), reg_item=0.1)]},
        r"objectives\[1\] .*: reg_user is of shape \(14,\), not 0\.1",
    ),
    "kinds of keys": ({"keys": [KEYS[0], jax.random.key(0, impl="rbg")]}, "keys are of several kinds"),
    "key": ({"keys": [KEYS[0], 1]}, "fit 1: key is of type int: make one with"),
    "negative reg": ({"objectives": [als_wr(0.1), als_wr(-1)]}, "fit 1: reg_user is -1, but must be a finite number"),
    "objective": ({"objectives": [als_wr(0.1), 0.1]}, "fit 1: objective is of type float"),
    "sweeps": ({"keys": KEYS, "sweeps": -1}, "^sweeps is -1, but must be a whole number"),
    "tol": ({"keys": KEYS, "tol": 0.1, "loss_every": 0}, "^tol is 0.1 with loss_every=0"),
    "validation": (
        {"validation": [HELD_OUT, jals.Ratings.from_arrays([0], [0], [1.0])]},
        "fit 1: validation is 1 x 1, the problem 14 x 11",
    ),
    "problem": ({"keys": KEYS, "problem": TRAIN}, "problem is of type Ratings"),
    "callbacks": ({"keys": KEYS, "callbacks": 3}, "^callbacks is of type int"),
    "loop": ({"keys": KEYS, "loop": "scan"}, "loop is 'scan', but must be one of"),
    "weights": ({"weights": MASKS}, r"weights must be a pair \(masks, which\)"),
    "masks": ({"weights": (MASKS[:, 1:], [0, 1])}, r"masks are of shape \(3, \d+\) and float64, but must be numbers"),
    "which": ({"weights": (MASKS, [0, 3])}, "which is 3 for fit 1, but must be a row of masks, < 3"),
    "which of floats": ({"weights": (MASKS, [0.0, 1.0])}, r"which is 0\.0 for fit 0"),
    "which and keys": ({"weights": (MASKS, [0, 1]), "keys": KEYS}, "keys has 4, which has 2"),
    "negative weight": ({"weights": (-MASKS, [0, 1])}, r"fit 0: weight of entry \d+ is -1\.5, but must be finite"),
    "empty fold": ({"weights": (MASKS * np.array([[1], [0], [1]]), [0, 1])}, "fit 1: every entry has weight 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_meant_is_refused(case):
    arguments, message = REFUSED[case]
    arguments: Any = {"solvers": SOLVER, "problem": PROBLEM, "objectives": als_wr(0.1)} | arguments
    with pytest.raises((jals.ArgumentError, jals.DataError), match=message):
        fit_many(**arguments)


def test_a_value_of_zero_is_refused_in_the_fold_that_has_it():
    doubted = PROBLEM.with_values(np.where(np.arange(len(TRAIN)) == 3, -2.0, 2.0))
    masks = np.ones((2, len(TRAIN)))
    masks[0, 3] = 0  # a missing entry
    fit_many(SOLVER, doubted, [jals.hu_koren(0.1)], sweeps=1, weights=(masks, [0]))
    with pytest.raises(jals.DataError, match=r"fit 1: value of entry 3 is -2\.0, a confidence"):
        fit_many(SOLVER, doubted, jals.hu_koren(0.1), sweeps=1, weights=(masks, [0, 1]))

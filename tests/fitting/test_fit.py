"""`fit`: where it stops, what it records, how it fails, what it refuses, and how often it compiles."""

import collections
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jals
from tests.support.fits import (
    HELD_OUT,
    ITEMS,
    OBJECTIVE,
    PROBLEM,
    SGD,
    SOLVER,
    TRAIN,
    USERS,
    Scripted,
    make_ratings,
    plain,
)


def fit(solver: Any = SOLVER, problem: Any = PROBLEM, objective: Any = OBJECTIVE, **arguments: Any):
    return jals.fit(solver, problem, objective, **arguments)


def walk(path, fails=99, **arguments):
    """A fit whose mean takes these values, at sweeps 0, 1, 2 ..."""
    zeros = dataclasses.replace(TRAIN, value=np.zeros(len(TRAIN)))
    nothing = {"problem": jals.Problem.build(zeros), "objective": jals.explicit(0.0, center=True)}
    return fit(Scripted(np.array(path, float), fails), **({"sweeps": len(path) - 1} | nothing | arguments))


def watched(**arguments):
    """The result, and what a callback saw at every record."""
    seen = []
    return fit(callbacks=[seen.append], **arguments), seen


def assert_same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(np.testing.assert_array_equal, one, two)


# ---- records ----


@pytest.mark.parametrize("solver", [SOLVER, SGD], ids=["als", "sgd"])
def test_history_holds_the_losses_of_the_factors(solver):
    result, seen = watched(solver=solver, sweeps=4, validation=HELD_OUT)
    history = result.history
    assert history.sweep == [0, 1, 2, 3, 4]
    losses = [float(jals.loss(at.state.factors, PROBLEM, OBJECTIVE)) for at in seen]
    np.testing.assert_allclose(history.loss, losses, rtol=1e-13)  # ALS knows its loss from its rows' systems
    predicted = [jals.predict(at.state.factors, HELD_OUT.user, HELD_OUT.item) for at in seen]
    assert history.validation == [float(jals.metrics.rmse(p, HELD_OUT.value)) for p in predicted]
    assert history.passes == [0, 2, 4, 6, 8]
    assert history.seconds[0] == 0
    assert (np.diff(history.seconds) > 0).all()
    assert (np.diff(history.loss) < 0).all()
    for name in ("sweep", "loss", "seconds", "passes", "validation"):
        assert [getattr(at, name) for at in seen] == getattr(history, name)
    assert {at.sweeps for at in seen} == {4}
    assert (result.sweep, result.reason, result.converged) == (4, "sweeps", False)
    assert_same(result.factors, seen[-1].state.factors)
    assert_same(result.state.factors, result.factors)


@pytest.mark.parametrize("metric", ["ndcg@3", "auc"])
def test_history_holds_a_ranking_metric_of_the_factors(metric):
    weight = np.arange(len(TRAIN)) % 3 > 0  # entries of weight 0 are missing, and so their items are ranked
    problem = PROBLEM.with_values(TRAIN.value, weight.astype(float))
    result, seen = watched(problem=problem, sweeps=3, validation=HELD_OUT, metric=metric)
    name, k = ("ndcg", 3) if metric == "ndcg@3" else ("auc", 1)
    measure = lambda factors, known: jals.metrics.ranking(factors, HELD_OUT, known, k, name).mean[metric]  # noqa: E731
    assert result.history.validation == [measure(at.state.factors, TRAIN.select(weight)) for at in seen]
    assert result.history.validation != [measure(at.state.factors, TRAIN) for at in seen]
    assert result.metric == metric and f"validation {metric} " in repr(result)


def test_history_without_validation_holds_nan():
    assert np.isnan(fit(sweeps=1).history.validation).all()


@pytest.mark.parametrize(
    ("arguments", "sweeps"),
    [
        ({"loss_every": 1}, [0, 1, 2, 3, 4, 5]),
        ({"loss_every": 2}, [0, 2, 4, 5]),
        ({"loss_every": 9}, [0, 5]),
        ({"loss_every": 0}, [0, 5]),
        ({"loss_every": 0, "validation": HELD_OUT}, [0, 1, 2, 3, 4, 5]),
        ({"loss_every": 0, "callbacks": [lambda _: None]}, [0, 1, 2, 3, 4, 5]),
        ({"loss_every": 3, "validation": HELD_OUT}, [0, 3, 5]),
    ],
)
def test_loss_every_sets_the_records_and_changes_nothing_else(arguments, sweeps):
    result, every = fit(sweeps=5, **arguments), fit(sweeps=5)
    assert result.history.sweep == sweeps
    expected = np.array(every.history.loss)[sweeps] if arguments["loss_every"] else np.full(len(sweeps), np.nan)
    np.testing.assert_array_equal(result.history.loss, expected)
    assert result.history.passes == [2 * sweep for sweep in sweeps]
    assert_same(result.factors, every.factors)


def test_no_sweeps_return_the_initial_factors():
    result = fit(sweeps=0, key=jax.random.key(5))
    expected = SOLVER.init(jax.random.key(5), PROBLEM, OBJECTIVE).factors
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-14), result.factors, expected)
    assert (result.history.sweep, result.reason, result.sweep) == ([0], "sweeps", 0)
    assert not np.any(result.factors.user[-1]), "a user without entries starts at 0"
    assert not np.any(result.factors.item[-1])
    assert np.all(result.factors.user[:-1] != 0)


def test_same_key_same_bits():
    default, zero = fit(sweeps=3).factors, fit(sweeps=3, key=jax.random.key(0)).factors
    assert_same(default, zero)
    assert not np.array_equal(zero.user, fit(sweeps=3, key=jax.random.key(1)).factors.user)


def test_factors_take_the_dtype_of_the_values(strict_dtypes):
    assert {leaf.dtype for leaf in jax.tree.leaves(START)} == {np.dtype(np.float64)}
    single = fit(problem=jals.Problem.build(make_ratings(np.float32)), sweeps=1).factors
    assert {leaf.dtype for leaf in jax.tree.leaves(single)} == {np.dtype(np.float32)}


# ---- stopping ----


@pytest.mark.parametrize(
    ("tol", "loss_every", "stop"),
    [(0.2, 1, 2), (0.1, 1, 4), (0.01, 1, 5), (0.2, 2, 6), (0.41, 2, 4), (0.7, 4, 4), (0, 1, 7), (None, 1, 8)],
)
def test_tol_stops_at_the_first_small_decrease(tol, loss_every, stop):
    path = [10, 8, 7.5, 6, 5.8, 5.79, 5.5, 5.5, 1]  # losses fall by .36, .12, .36, .07, .003, .10, 0, .97
    result = walk(path, tol=tol, loss_every=loss_every)
    expected = (8, "sweeps", False) if tol is None else (stop, "tol", True)
    assert (result.sweep, result.reason, result.converged) == expected
    assert result.history.sweep == list(range(0, stop + 1, loss_every))
    np.testing.assert_allclose(result.history.loss, len(TRAIN) * np.square(path)[: stop + 1 : loss_every], rtol=1e-12)


HELD_OUT_ZEROS = dataclasses.replace(HELD_OUT, value=np.zeros(len(HELD_OUT)))


@pytest.mark.parametrize(
    ("patience", "loss_every", "best", "stop"),
    [
        (1, 1, 1, 2),
        (2, 1, 1, 3),
        (2, 0, 1, 3),
        (3, 1, 7, 10),
        (9, 1, 7, 12),
        (1, 2, 4, 6),
        (3, 2, 8, 12),
        (2, 4, 8, 12),
    ],
)
def test_patience_returns_the_best_factors(patience, loss_every, best, stop):
    path = [9, 7, 8, 7.5, -3, 4, 3.5, 2, 2, 2.5, 2.1, 6, 2]
    result = walk(path, patience=patience, loss_every=loss_every, validation=HELD_OUT_ZEROS)
    reason = "sweeps" if stop == 12 else "patience"
    assert (result.sweep, result.reason, result.converged) == (best, reason, False)
    assert (result.factors.mean, result.state.factors.mean) == (path[best], path[stop])
    np.testing.assert_allclose(result.history.validation, np.abs(path)[: stop + 1 : loss_every or 1], rtol=1e-12)


def test_patience_takes_the_highest_ranking_metric():
    arguments: dict[str, Any] = {"validation": HELD_OUT, "metric": "ndcg@3"}
    result = fit(sweeps=9, patience=9, **arguments)
    column = result.history.validation
    assert len(set(column)) > 2
    assert result.sweep == np.argmax(column)
    assert column[result.best()] == max(column)
    half = fit(sweeps=4, patience=9, **arguments)
    assert fit(sweeps=9, patience=9, init=half, **arguments).history.validation == column
    assert fit(sweeps=5, init=half).metric == "ndcg@3"  # its history is of that


@pytest.mark.parametrize("stop_at", [0, 2])
def test_a_callback_stops_with_true_alone(stop_at):
    calls = []
    others = [lambda _: 1, lambda _: "go on", lambda at: calls.append(at.sweep)]
    result = fit(sweeps=6, callbacks=[lambda at: at.sweep == stop_at, *others])
    assert (result.sweep, result.reason, result.converged) == (stop_at, "callback", False)
    assert calls == result.history.sweep == list(range(stop_at + 1))
    assert fit(sweeps=3, callbacks=others).reason == "sweeps"


def test_errors_of_callbacks_pass_through():
    with pytest.raises(ZeroDivisionError):
        fit(sweeps=3, callbacks=[lambda at: 1 // (2 - at.sweep)])


# ---- continuing ----


def test_init_continues_to_the_bit():
    half = fit(sweeps=5)
    whole, continued = fit(sweeps=10), fit(sweeps=5, init=half.factors)
    assert_same(continued.factors, whole.factors)
    assert continued.history.loss[1:] == whole.history.loss[6:]
    np.testing.assert_allclose(continued.history.loss[0], whole.history.loss[5], rtol=1e-13)


def test_init_keeps_its_mean_and_takes_numpy():
    start = dataclasses.replace(fit(sweeps=1).factors, mean=np.float32(2.5))
    result = fit(sweeps=2, init=jax.tree.map(np.asarray, start))
    assert (result.factors.mean, result.factors.mean.dtype) == (2.5, np.float64)


ADAM = jals.Gradient(rank=3, optimizer=optax.adam, hyper={"learning_rate": 0.05}, batch_size=16)


@pytest.mark.parametrize("solver", [SOLVER, ADAM], ids=["cholesky", "adam, batches"])
@pytest.mark.parametrize("patience", [None, 2])
def test_a_result_continues_as_if_it_had_not_stopped(solver, patience):
    """Factors, history and stop, with the optimizer's moments and the shuffle of its batches."""
    whole = fit(solver=solver, sweeps=10, validation=HELD_OUT, patience=patience)
    for stop_at in (0, 2):
        with pytest.raises(jals.Interrupted) as error:
            fit(solver=solver, sweeps=10, validation=HELD_OUT, patience=patience, callbacks=[interrupt_at(stop_at)])
        seen = []
        result = error.value.result
        assert (result.done, result.reason) == (stop_at, "interrupted")
        arguments = {"init": result, "validation": HELD_OUT, "patience": patience, "callbacks": [seen.append]}
        continued = fit(solver=solver, sweeps=10, key=jax.random.key(7), **arguments)
        assert_same(continued.factors, whole.factors)
        assert_same(*(jax.tree.map(plain, state) for state in (continued.state, whole.state)))
        assert (continued.sweep, continued.reason) == (whole.sweep, whole.reason)
        for column in ("sweep", "loss", "passes", "validation"):
            assert getattr(continued.history, column) == getattr(whole.history, column)
        assert (np.diff(continued.history.seconds) > 0).all()
        assert [at.sweep for at in seen] == whole.history.sweep[stop_at + 1 :]  # the others were shown before
        assert all(at.result.reason == "running" for at in seen)


def test_a_result_that_is_done_continues_to_more_sweeps():
    done = fit(sweeps=3)
    assert_same(fit(sweeps=3, init=done).factors, done.factors)
    further = fit(sweeps=5, init=done)
    assert (further.history.sweep, further.history.loss) == ([0, 1, 2, 3, 4, 5], fit(sweeps=5).history.loss)
    assert_same(done.history.sweep, [0, 1, 2, 3])


def test_a_result_without_patience_starts_patience_from_its_last_sweep():
    earlier = walk([6, 4, 5], validation=HELD_OUT_ZEROS)
    result = walk([6, 4, 5, 7, 3, 8, 9], validation=HELD_OUT_ZEROS, patience=2, init=earlier)
    assert (result.sweep, result.done, result.reason) == (4, 6, "patience")


def test_the_result_of_another_solver_is_refused():
    with pytest.raises(jals.ArgumentError, match=r"another solver or dtype: give its factors, init\.factors"):
        fit(solver=SGD, init=fit(sweeps=1))


# ---- failing ----


def interrupt_at(sweep):
    def interrupt(progress):
        if progress.sweep == sweep:
            raise KeyboardInterrupt

    return interrupt


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize(("linsolve", "rank", "bias"), [("cholesky", 2, False), ("lu", 1, True)])
def test_too_few_entries_without_regularisation(side, linsolve, rank, bias):
    """All is observed, but row 2 of one side has a single entry of weight > 0."""
    user, item = (index.ravel() for index in np.indices((4, 4)))
    problem = jals.Problem.build(jals.Ratings.from_arrays(user, item, np.random.default_rng(0).normal(size=16)))
    row, other = (user, item) if side == "user" else (item, user)
    arguments = (jals.ALS(rank, linsolve), problem.with_values(problem.value, (row != 2) | (other == 1)))
    arguments += (jals.explicit(0.0, bias=bias),)
    with pytest.raises(jals.FitError, match=rf"sweep 1: {side} 2 has no unique solution.* Give a larger reg") as error:
        jals.fit(*arguments, sweeps=3)
    assert (error.value.sweep, error.value.side, error.value.row) == (1, side, 2)
    result = error.value.result
    assert (result.reason, result.sweep, result.history.sweep) == ("failed", 0, [0])
    assert_same(result.factors, jals.fit(*arguments, sweeps=0).factors)


def test_a_singular_gram_without_regularisation():
    start = jals.Factors(jnp.zeros((USERS, 2)), jnp.ones((ITEMS, 1)) * jnp.array([1.0, 2.0]))
    with pytest.raises(jals.FitError, match="user 0 has no unique solution"):
        fit(solver=jals.ALS(2), objective=jals.explicit(0.0), init=start)


@pytest.mark.parametrize(
    ("loss_every", "message"), [(1, "the loss is inf"), (3, "the loss is inf"), (0, "the factors stopped being finite")]
)
def test_a_diverging_gradient_keeps_the_last_good_factors(loss_every, message):
    wild = dataclasses.replace(SGD, hyper={"learning_rate": 1e6})
    with pytest.raises(jals.FitError, match=rf"sweep \d+: {message}.* lower the learning rate") as error:
        fit(solver=wild, sweeps=200, loss_every=loss_every)
    result = error.value.result
    assert (error.value.side, error.value.row) == (None, None)
    assert result.sweep < error.value.sweep < 200
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.factors))
    if loss_every:
        assert np.isfinite(result.history.loss).all()
        assert result.history.sweep[-1] == result.sweep == error.value.sweep - loss_every


@pytest.mark.parametrize(("loss_every", "recorded"), [(1, [0, 1, 2]), (2, [0, 2]), (0, [0, 2]), (9, [0, 2])])
def test_a_failure_between_records_is_found_in_its_sweep(loss_every, recorded):
    with pytest.raises(jals.FitError, match="sweep 3: item 7 has no unique") as error:
        walk([6, 5, 4, 3, 2, 1], fails=3, loss_every=loss_every)
    result = error.value.result
    assert (error.value.sweep, error.value.side, error.value.row, result.sweep) == (3, "item", 7, 2)
    assert (result.history.sweep, result.history.passes) == (recorded, [5 * sweep for sweep in recorded])
    assert (result.factors.mean, result.state.memory) == (4, 2)


def test_a_failure_returns_the_best_factors_under_patience():
    with pytest.raises(jals.FitError, match="sweep 4") as error:
        walk([6, 4, 5, 7, 1, 1], fails=4, patience=5, validation=HELD_OUT_ZEROS)
    result = error.value.result
    assert (result.sweep, result.factors.mean, result.state.factors.mean) == (1, 4, 7)


@pytest.mark.parametrize("at", [0, 2])
def test_an_interrupt_carries_the_last_sweep(at):
    with pytest.raises(jals.Interrupted, match=f"interrupted after {at} of 6 sweeps") as error:
        fit(sweeps=6, callbacks=[interrupt_at(at)])
    result = error.value.result
    assert (result.sweep, result.reason, result.history.sweep) == (at, "interrupted", list(range(at + 1)))
    assert_same(result.factors, fit(sweeps=at).factors)


def test_a_rank_from_numpy_is_a_rank():
    assert_same(fit(solver=jals.ALS(np.int64(3)), sweeps=1).factors, fit(sweeps=1).factors)


# ---- refusing ----

START = fit(sweeps=0).factors
DOUBTED = PROBLEM.with_values(np.where(np.arange(len(TRAIN)) == 3, -1.5, 1 + abs(TRAIN.value)))
ITEM_WEIGHTS = np.where(np.arange(PROBLEM.num_items) == TRAIN.item[3], 0.5, 1.0)
BAD_ARGUMENTS = {
    "rank 0": (lambda: jals.ALS(0), "rank is 0, but must be a whole number >= 1"),
    "rank True": (lambda: jals.ALS(True), "rank is True, but"),
    "rank 2.0": (lambda: jals.ALS(2.0), r"rank is 2\.0, but"),  # pyright: ignore[reportArgumentType]
    "gradient rank": (lambda: jals.Gradient(-1), "rank is -1, but"),
    "linsolve": (
        lambda: jals.ALS(3, linsolve="choleski"),
        r"linsolve is 'choleski', .* \"subspace\"\. Did you mean \"cholesky\"\?",
    ),
    "cg_steps": (lambda: jals.ALS(3, cg_steps=0), "cg_steps is 0, but must be a whole number >= 1"),
    "batch_size": (lambda: jals.Gradient(3, batch_size=0), "batch_size is 0, but"),
    "made optimizer": (
        lambda: jals.Gradient(3, optimizer=optax.adam(1e-2)),  # pyright: ignore[reportArgumentType]
        r"optimizer is GradientTransformation.* pass optimizer=optax\.adam, hyper=.* rather than optax\.adam\(1e-2\)",
    ),
    "negative reg": (lambda: fit(objective=jals.als_wr(-0.1)), r"reg_user is -0\.1, but must be a finite number >= 0"),
    "nan reg": (lambda: fit(objective=jals.explicit(np.nan)), "reg_user is nan, but"),
    "infinite reg": (lambda: fit(objective=jals.explicit(np.inf)), "reg_user is inf, but"),
    "negative reg_bias": (lambda: fit(objective=jals.als_wr(0.1, reg_bias=-1, bias=True)), "reg_bias is -1, but"),
    "negative reg_power": (lambda: fit(objective=jals.als_wr(0.1, reg_power=-1)), "reg_power is -1, but"),
    "negative alpha": (lambda: fit(objective=jals.hu_koren(0.1, -1)), "alpha is -1, but"),
    "epsilon of 0": (
        lambda: fit(objective=jals.hu_koren(0.1, epsilon=0)),
        r"epsilon is 0, but must be a finite number > 0\.",
    ),
    "no epsilon": (
        lambda: fit(objective=dataclasses.replace(jals.hu_koren(0.1, epsilon=1.0), epsilon=None)),
        "epsilon is None, but must be a number",
    ),
    "negative row": (
        lambda: fit(objective=jals.als_wr(reg_user=0.1, reg_item=np.where(np.arange(ITEMS) == 4, -1.0, 1.0))),
        r"reg_item is -1\.0 in row 4, but must be a finite number >= 0",
    ),
    "reg of wrong length": (
        lambda: fit(objective=jals.als_wr(reg_user=np.ones(5), reg_item=0.1)),
        r"reg_user has shape \(5,\), but must be one number, or one for each user",
    ),
    "reg_bias by row": (lambda: fit(objective=jals.als_wr(0.1, reg_bias=np.ones(5))), r"reg_bias has shape \(5,\)"),
    "prior of wrong shape": (
        lambda: fit(objective=jals.als_wr(0.1, prior_item=np.ones(2))),
        r"prior_item has shape \(2,\), but must be \(rank,\) or \(num_items, rank\)",
    ),
    "reg twice": (lambda: jals.als_wr(0.1, reg_user=0.1), "give either reg, or both reg_user and reg_item"),
    "no reg": (lambda: jals.explicit(), "give either reg"),
    "reg_bias_user": (
        lambda: fit(objective=jals.als_wr(0.1, reg_bias_user=np.ones(1), bias=True)),
        r"reg_bias_user has shape \(1,\), but must be one number, or one for each user",
    ),
    "negative reg_bias_item": (
        lambda: fit(objective=jals.als_wr(0.1, reg_bias_item=-1, bias=True)),
        "reg_bias_item is -1, but",
    ),
    "one unobserved_user": (
        lambda: fit(objective=jals.wals(0.1, unobserved_user=0.5)),
        r"unobserved_user has shape \(\), but must be \(num_users,\), one number for each user",
    ),
    "negative unobserved_item": (
        lambda: fit(objective=jals.ials(0.1, unobserved_item=-ITEM_WEIGHTS)),
        r"unobserved_item is -1\.0 in row 0, but must be",
    ),
    "pairs without a0": (
        lambda: fit(objective=dataclasses.replace(jals.explicit(0.1), unobserved_item=ITEM_WEIGHTS)),
        "unobserved_item weighs the pairs of a sum over all pairs, but unobserved_weight is None",
    ),
    "count": (lambda: fit(objective=jals.als_wr(0.1, count="weight")), 'count is .*Did you mean "weights"'),
    "first": (lambda: jals.ALS(3, first="items"), 'first is .*Did you mean "item"'),
    "one side's reg": (lambda: jals.ials(reg_item=0.1), "give either reg"),
    "hu_koren bias": (
        lambda: jals.hu_koren(0.1, bias=True),
        r"hu_koren sums over all pairs of user and item and cannot take bias=True: .*use explicit or als_wr",
    ),
    "ials both": (lambda: jals.ials(0.1, bias=True, center=True), "ials .* cannot take bias=True and center=True"),
    "sweeps -1": (lambda: fit(sweeps=-1), "sweeps is -1, but must be a whole number >= 0"),
    "sweeps 2.5": (lambda: fit(sweeps=2.5), r"sweeps is 2\.5, but"),
    "sweeps True": (lambda: fit(sweeps=True), "sweeps is True, but"),
    "loss_every": (lambda: fit(loss_every=-1), "loss_every is -1, but must be a whole number >= 0"),
    "patience 0": (lambda: fit(patience=0, validation=HELD_OUT), "patience is 0, but must be a whole number >= 1"),
    "metric alone": (lambda: fit(metric="auc"), "metric needs validation ratings"),
    "metric": (lambda: fit(validation=HELD_OUT, metric="ndgc@3"), 'Did you mean "ndcg"'),
    "metric without k": (lambda: fit(validation=HELD_OUT, metric="ndcg"), "metric is 'ndcg', but must be"),
    "metric with k": (lambda: fit(validation=HELD_OUT, metric="auc@3"), "metric is 'auc@3', but must be"),
    "metric k": (lambda: fit(validation=HELD_OUT, metric="ndcg@99"), "k is 99, but must be a whole number from 1"),
    "metric of another": (
        lambda: fit(
            validation=HELD_OUT, metric="auc", init=fit(sweeps=1, validation=HELD_OUT), sweeps=2
        ),
        'the history of init holds "rmse", the metric is "auc"',
    ),
    "patience alone": (lambda: fit(patience=2), "patience needs validation ratings"),
    "tol < 0": (lambda: fit(tol=-1e-3), r"tol is -0\.001 with loss_every=1, but must be >= 0"),
    "tol nan": (lambda: fit(tol=np.nan), "tol is nan"),
    "tol without loss": (lambda: fit(tol=0.1, loss_every=0), r"tol is 0\.1 with loss_every=0, .* needs loss_every"),
    "validation": (
        lambda: fit(validation=jals.Ratings.from_arrays([0], [0], [1.0])),
        "validation is 1 x 1, the problem 14 x 11: split one table, or give both the same num_users and num_items",
    ),
    "init of other rank": (
        lambda: fit(solver=jals.ALS(4), init=START),
        r"init\.user is of shape \(14, 3\), but this problem, objective and rank need it of shape \(14, 4\)",
    ),
    "init without bias": (
        lambda: fit(init=dataclasses.replace(START, item_bias=None)),
        r"init\.item_bias is absent, but .* of shape \(11,\)",
    ),
    "init with mean": (
        lambda: fit(init=START, objective=jals.als_wr(0.1, bias=True)),
        r"init\.mean is of shape \(\), but .* need it absent",
    ),
    "init nan": (lambda: fit(init=dataclasses.replace(START, mean=np.nan)), "init holds numbers that are not finite"),
    "ratings as problem": (lambda: fit(problem=TRAIN), r"problem is of type Ratings: .*Problem\.build\(ratings\)"),
    "number as objective": (lambda: fit(objective=0.1), r"objective is of type float: .*jals\.als_wr"),
    "values": (lambda: PROBLEM.with_values(np.ones(3)), r"values has shape \(3,\), but the table has \d+ entries"),
    "weight": (lambda: PROBLEM.with_values(PROBLEM.value, np.ones(3)), r"weight has shape \(3,\)"),
}


@pytest.mark.parametrize("case", BAD_ARGUMENTS)
def test_bad_arguments_are_refused(case):
    call, message = BAD_ARGUMENTS[case]
    with pytest.raises(jals.ArgumentError, match=message):
        call()


def test_hu_koren_refuses_a_negative_confidence():
    with pytest.raises(jals.DataError, match=r"entry 3 is -1\.5, a confidence .* of -0\.5, but hu_koren needs"):
        fit(problem=DOUBTED, objective=jals.hu_koren(0.1))
    fit(problem=DOUBTED, objective=jals.hu_koren(0.1, alpha=2 / 3))  # rounding does not make 0 negative
    masked = DOUBTED.with_values(DOUBTED.value, weight=np.arange(len(TRAIN)) != 3)
    jals.hu_koren(0.1).check(masked, rank=3)  # an entry of weight 0 is missing


def test_hu_koren_takes_an_observed_pair_of_value_zero():
    """Confidence 1, preference 1: with values of 0 alone, each entry adds 1 - 2 s to the sum of s^2 over all pairs."""
    zeros = PROBLEM.with_values(np.zeros(len(TRAIN)))
    factors = fit(problem=zeros, objective=jals.hu_koren(0.1, 1.0), sweeps=2).factors
    ones = zeros.with_values(np.ones(len(TRAIN)))
    like = fit(problem=ones, objective=jals.hu_koren(0.1, 1.0), sweeps=2).factors
    observed = float(jals.predict(factors, TRAIN.user, TRAIN.item).mean())
    assert 0 < observed < float(jals.predict(like, TRAIN.user, TRAIN.item).mean())


@pytest.mark.parametrize(
    "made, match",
    [
        (lambda: jals.hu_koren(0.1, epsilon=1.5), r"of -inf, .* needs alpha log\(1 \+ r / epsilon\) >= -1 and r >"),
        (lambda: jals.hu_koren(0.1, 0.5, weight_item=8 * ITEM_WEIGHTS), r"entry 3 has .* weighs -2\.0 in"),
        (lambda: jals.hu_koren(0.1, 0.5, unobserved_power_item=9.0), r"entry \d+ has value -1\.5 .* powers of n have"),
        (lambda: jals.hu_koren(0.1, 0.5, unobserved_item=ITEM_WEIGHTS), r"entry 3 has value -1\.5 .* weighs -0\.25 in"),
    ],
)
def test_what_else_hu_koren_refuses_of_a_value(made, match):
    with pytest.raises(jals.DataError, match=match):
        fit(problem=DOUBTED, objective=made())


@pytest.mark.parametrize(
    "arguments",
    [
        {"solver": jals.ALS},
        {"objective": "als_wr"},
        {"key": 0},
        {"init": (1, 2)},
        {"validation": np.eye(3)},
        {"callbacks": print},
        {"tol": "0.1"},
    ],
    ids=lambda arguments: next(iter(arguments)),
)
def test_arguments_of_another_kind_are_refused(arguments):
    with pytest.raises(jals.ArgumentError, match=next(iter(arguments))):
        fit(sweeps=1, **arguments)


# ---- compiling ----

COMPILED = collections.Counter()


def _count(event, duration_secs, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        for program in ("advance", "_loss", "_run"):
            COMPILED[program] += program in about["fun_name"]


jax.monitoring.register_event_duration_secs_listener(_count)


@pytest.fixture
def compiled():
    """How often each program was compiled in this test."""
    jax.clear_caches()
    COMPILED.clear()
    return COMPILED


def reg(number):
    return {"objective": jals.als_wr(number, bias=True, center=True)}


def adam(learning_rate):
    return {"solver": jals.Gradient(3, optimizer=optax.adam, hyper={"learning_rate": learning_rate})}


MASKS = [PROBLEM.with_values(TRAIN.value, jals.split.fold_numbers(TRAIN, 3) != fold) for fold in range(3)]
VARIED = {
    "als": [
        *(reg(spelling) for spelling in (0.05, np.float64(0.05), np.float32(0.05), jnp.float32(0.05))),
        *(reg(number) for number in (1, 0.1, 0.2, 0.3, 0.4)),
        *({"problem": fold} for fold in MASKS),
        *({"solver": jals.ALS(3, init_scale=scale)} for scale in (np.float32(0.2), 1)),
        *({"key": jax.random.key(seed)} for seed in range(3)),
        *({"sweeps": sweeps} for sweeps in (0, 1, 4)),
        *({"loss_every": records} for records in (0, 2, 3)),
        *({"init": START}, {"init": jax.tree.map(np.asarray, START)}, {"tol": 0.1}),
    ],
    "adam": [adam(1e-2), adam(1e-3), adam(1), adam(jnp.float32(0.1))],
    # optax starts its state with weakly typed numbers: the first sweep must not make a second program of it
    "lbfgs": [{"solver": jals.Gradient(3, optimizer=optax.lbfgs, hyper={"memory_size": 2})}],
}


@pytest.mark.parametrize("kind", VARIED)
def test_numbers_never_compile_again(compiled, kind):
    for arguments in VARIED[kind]:
        fit(**({"sweeps": 3} | arguments))
        assert compiled == {"advance": 1, "_loss": 1, "_run": 0}, arguments


@pytest.mark.filterwarnings("ignore:all factors have shrunk to 0")
def test_numpy_integers_never_compile_again(compiled):
    for sweeps in (3, np.int64(4), np.int32(5)):
        walk(range(9), sweeps=sweeps, loss_every=0)
    assert compiled["advance"] == 1


def test_run_compiles_once_for_all_numbers():
    COMPILED.clear()
    state = SOLVER.init(jax.random.key(0), PROBLEM, OBJECTIVE)
    for number, problem in zip((0.05, np.float32(0.1), jnp.float64(0.2)), MASKS, strict=True):
        jals.run(SOLVER, state, problem, **reg(number), sweeps=4, loss=True)
    after, infos = jals.run(SOLVER, state, PROBLEM, OBJECTIVE, sweeps=4, loss=True)
    assert COMPILED["_run"] == 1

    result = fit(sweeps=4)
    assert infos.finite.all()
    assert infos.loss is not None
    np.testing.assert_allclose(infos.loss, result.history.loss[1:], rtol=1e-12)
    jax.tree.map(lambda one, two: np.testing.assert_allclose(one, two, rtol=1e-8), after.factors, result.factors)

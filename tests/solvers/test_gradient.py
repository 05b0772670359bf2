"""The gradient baseline: the same loss, faster; unbiased batches; honest counts."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jals
from jals.solvers.gradient import batch_loss, epoch_batches, layout_loss, shuffled
from tests.support import tables


def place(preset: str, layout: str = "bucketed, cut small", data: str = "together"):
    table = tables.table(data, weighted=True)
    problem = tables.problem(table, layout).arrange()
    objective = tables.objective(tables.setting(preset, table)).cast(float)
    factors = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective).factors
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: leaf + jnp.asarray(rng.normal(size=leaf.shape)), factors), problem, objective


@functools.partial(jax.jit, static_argnums=0)
def to_second_order(function, factors, problem, objective):
    """Value, gradient, slope and Hessian-vector product in one direction, in the factors."""
    along = jax.tree.map(lambda leaf: leaf[::-1] if leaf.ndim else leaf, factors)
    both = jax.value_and_grad(lambda factors: function(factors, problem, objective))
    return jax.jvp(both, (factors,), (along,))


@pytest.mark.parametrize("preset", tables.PRESETS)
def test_layout_loss_is_the_loss(preset):
    """To second order, by plain autodiff of `jals.loss`. Layouts and presets do not meet: cut rows see every preset."""
    factors, problem, objective = place(preset, data="skewed")
    expected = jax.tree.leaves(to_second_order(jals.loss, factors, problem, objective))
    table = tables.table("skewed", weighted=True)
    for layout in tables.LAYOUTS if preset in tables.BROAD else ("bucketed, cut small",):
        found = to_second_order(layout_loss, factors, tables.problem(table, layout), objective)
        for ours, theirs in zip(jax.tree.leaves(found), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-12 * max(1.0, float(jnp.abs(theirs).max())))


@pytest.mark.parametrize("preset", ["als_wr+all", "hu_koren", "ials"])
def test_batches_average_to_the_loss(preset):
    """The mean over an epoch's batches of the gradients is the gradient of the loss, short last batch included."""
    factors, problem, objective = place(preset)
    batches = epoch_batches(jax.random.key(1), problem.num_entries, 50)
    assert problem.num_entries % 50 and len(batches) == -(-problem.num_entries // 50)
    np.testing.assert_array_equal(np.sort(batches.ravel())[: problem.num_entries], np.arange(problem.num_entries))
    gradient = jax.jit(jax.grad(lambda f, batch: batch_loss(f, problem, objective, batch, len(batches))))
    mean = jax.tree.map(lambda *leaves: sum(leaves) / len(batches), *[gradient(factors, batch) for batch in batches])
    whole = jax.jit(jax.grad(jals.loss))(factors, problem, objective)
    assert tables.largest_difference(mean, whole) < 1e-10 * tables.largest_difference(whole, zeros(whole))
    one = gradient(factors, batches[0])
    assert tables.largest_difference(one, whole) > 1e-3, "a batch alone is no more than an estimate"


@pytest.mark.parametrize("count", [1, 2, 4096, 4097, 5000, 70 * 70, 70 * 71 + 1])
def test_a_shuffle_holds_every_place_once(count):
    order = shuffled(jax.random.key(3), count)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    many = jax.vmap(shuffled, in_axes=(0, None))(jax.random.split(jax.random.key(3), 3), count)
    np.testing.assert_array_equal(np.sort(many, axis=1), np.tile(np.arange(count), (3, 1)))
    assert count < 3 or (many[0] != many[1]).any()


def test_a_shuffle_is_as_drawn_at_random():
    """Of a count that no sort is taken for: what comes first, what comes together, and how a batch is composed."""
    count, batch, draws = 5000, 500, 400
    orders = np.array(jax.vmap(shuffled, in_axes=(0, None))(jax.random.split(jax.random.key(0), draws), count))
    sixths = np.bincount(orders[:, :batch].ravel() * 6 // count, minlength=6) / (draws * batch / 6)
    assert np.abs(sixths - 1).max() < 5 * np.sqrt(6 / (draws * batch))
    for marked in (orders < count // 2, orders % 2 == 0, orders % 71 < 35):  # halves, neighbours, columns of the grid
        share = marked[0].mean()
        found = marked[:, :batch].sum(axis=1)
        variance = batch * share * (1 - share) * (count - batch) / (count - 1)  # hypergeometric
        assert abs(found.mean() - batch * share) < 5 * np.sqrt(variance / draws)
        assert abs(found.var(ddof=1) / variance - 1) < 5 * np.sqrt(2 / draws)
    steps = np.diff(orders.astype(int), axis=1)
    assert abs((steps == 1).mean() * count - 1) < 5 / np.sqrt(draws)  # one pair of neighbours in a row, on average
    assert abs(np.corrcoef(orders[:, :-1].ravel(), orders[:, 1:].ravel())[0, 1]) < 5 / np.sqrt(draws * count)


@pytest.mark.parametrize(
    "optimizer, hyper, batch_size",
    [
        (optax.sgd, {"learning_rate": 3e-3}, None),
        (optax.sgd, {"learning_rate": 3e-3, "momentum": 0.9, "nesterov": True}, None),
        (optax.adam, {"learning_rate": 0.05}, None),
        (optax.adam, {"learning_rate": 0.03}, 40),
        (optax.adamw, {"learning_rate": optax.exponential_decay(0.1, 10, 0.9), "weight_decay": 1e-4}, None),
        (optax.lbfgs, {"memory_size": 5}, None),
    ],
)
def test_optimizers_start_where_als_starts_and_descend(optimizer, hyper, batch_size):
    table = tables.table("empty_rows", weighted=False)
    problem, objective = tables.problem(table, "bucketed"), jals.als_wr(0.1, bias=True, center=True)
    solver = jals.Gradient(tables.RANK, optimizer, hyper, batch_size)
    key = jax.random.key(5)
    start = solver.init(key, problem, objective).factors
    jax.tree.map(np.testing.assert_array_equal, start, jals.ALS(tables.RANK).init(key, problem, objective).factors)
    result = jals.fit(solver, problem, objective, sweeps=40, key=key, loss_every=40)
    assert result.history.loss[-1] < 0.8 * result.history.loss[0]
    np.testing.assert_allclose(result.history.loss[-1], jals.loss(result.factors, problem, objective), rtol=1e-12)
    np.testing.assert_array_equal(result.factors.user[0], np.zeros(tables.RANK))
    assert result.factors.mean == start.mean


def test_lbfgs_comes_as_low_as_als():
    table = tables.table("random", weighted=False)
    problem, objective = tables.problem(table, "bucketed"), jals.als_wr(0.2, bias=True, center=True)
    als = jals.fit(jals.ALS(2), problem, objective, sweeps=300, loss_every=300)
    lbfgs = jals.fit(jals.Gradient(2, optax.lbfgs, {}), problem, objective, sweeps=200, loss_every=200)
    np.testing.assert_allclose(lbfgs.history.loss[-1], als.history.loss[-1], rtol=1e-6)
    assert float(jals.certify(lbfgs.factors, problem, objective).stationarity) < 1e-6


def test_passes_are_counted(monkeypatch):
    """Two a gradient; a line search's evaluations too, compared with a count of the calls it makes."""
    table = tables.table("random", weighted=False)
    problem, objective = tables.problem(table, "bucketed"), jals.als_wr(0.1)
    adam = jals.fit(jals.Gradient(2), problem, objective, sweeps=7)
    assert adam.history.passes == [2 * k for k in range(8)]
    minibatch = jals.fit(jals.Gradient(2, batch_size=10), problem, objective, sweeps=3)
    assert minibatch.history.passes[-1] == 6

    calls = []
    counted = jax.custom_jvp(layout_loss)

    @counted.defjvp
    def rule(primals, tangents):
        jax.debug.callback(lambda: calls.append(1))
        return jax.jvp(layout_loss, primals, tangents)

    monkeypatch.setattr("jals.solvers.gradient.layout_loss", counted)
    jax.clear_caches()
    solver = jals.Gradient(2, optax.lbfgs, {"memory_size": 3})
    state, passes = solver.init(jax.random.key(0), problem, objective), 0
    for _ in range(8):
        state, info = solver.sweep(state, problem, objective)
        passes += int(info.passes)
    jax.effects_barrier()
    jax.clear_caches()
    assert passes == 2 * len(calls) > 16


def test_hyper_parameters_are_traced_and_the_rest_static():
    solver = jals.Gradient(3, optax.adam, {"learning_rate": 1, "b1": 0.8, "nesterov": True}, batch_size=10)
    assert len(jax.tree.leaves(solver)) == 3  # learning_rate, b1 and init_scale
    again = jax.tree.unflatten(jax.tree.structure(solver), jax.tree.leaves(solver))
    assert again == solver and jax.tree.structure(again) == jax.tree.structure(solver)
    assert dataclasses.replace(solver, rank=4).rank == 4


def needs_a(*, a, b=1.0):
    return optax.sgd(a * b)


@pytest.mark.parametrize(
    "optimizer, hyper, message",
    [
        (optax.adam, {"lr": 0.1}, r"hyper has 'lr', but adam takes learning_rate, .* Did you mean \"learning_rate\""),
        (optax.adam, {"learning_rat": 0.1}, r"hyper has 'learning_rat', .* Did you mean \"learning_rate\"\?"),
        (optax.adam, {"learning_rate": 0.1, "banana": 1}, r"hyper has 'banana', but adam takes .*, nesterov\.(?! Did)"),
        (optax.adam, {1: 0.1}, "hyper has 1, but adam takes"),
        (needs_a, {"b": 1.0}, r"needs_a needs a: give hyper=\{'a': \.\.\.\}"),
        (optax.sgd, {}, "sgd needs learning_rate"),
        (optax.adam, {"learning_rate": "x"}, r"hyper\['learning_rate'\] must be one number, or a schedule, not 'x'"),
        (optax.adam, {"learning_rate": 0.1, "b1": [0.9]}, r"hyper\['b1'\] must be one number, or a schedule\."),
        (optax.adam, {"learning_rate": np.ones(3)}, "must be one number, or a schedule"),
        (optax.lbfgs, {"memory_size": 0}, "lbfgs refuses hyper: memory_size must be >= 1"),
        (dict, {}, "optimizer dict makes dict, not an optax optimizer"),
    ],
)
def test_hyper_that_does_not_fit_the_optimizer_is_refused(optimizer, hyper, message):
    """At `fit` and at `init`; not before, since jax makes solvers of placeholders."""
    problem, objective = tables.problem(tables.table("random", weighted=False), "bucketed"), jals.als_wr(0.1)
    solver = jals.Gradient(2, optimizer, hyper)
    with pytest.raises(jals.ArgumentError, match=message):
        jals.fit(solver, problem, objective, sweeps=1)
    with pytest.raises(jals.ArgumentError, match=message):
        solver.init(jax.random.key(0), problem, objective)


@pytest.mark.parametrize(
    "optimizer, hyper",
    [
        (functools.partial(optax.adam, b1=0.5), {"learning_rate": 0.1}),
        (functools.partial(optax.adam, 0.1), {}),
        (optax.inject_hyperparams(optax.adam), {"learning_rate": 0.1}),
        (lambda **hyper: optax.adam(**hyper), {"learning_rate": 0.1}),
        (optax.sgd, {"learning_rate": optax.constant_schedule(0.1), "momentum": None}),
        (optax.sgd, {"learning_rate": jnp.float32(0.1)}),
    ],
)
def test_other_spellings_of_an_optimizer_are_taken(optimizer, hyper):
    problem, objective = tables.problem(tables.table("random", weighted=False), "bucketed"), jals.als_wr(0.1)
    state = jals.Gradient(2, optimizer, hyper).init(jax.random.key(0), problem, objective)
    assert state.factors.rank == 2


@pytest.mark.parametrize("optimizer", [optax.adam(0.1), "adam", None])
def test_an_optimizer_must_be_a_function(optimizer):
    with pytest.raises(jals.ArgumentError, match=r"but must be a function that makes one: pass optimizer=optax\.adam"):
        jals.Gradient(2, optimizer)


def zeros(tree):
    return jax.tree.map(jnp.zeros_like, tree)

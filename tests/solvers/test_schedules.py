"""Schedules by name: the same steps as optax's own schedule, with its numbers traced."""

import collections
import functools
import inspect
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jals
from jals.solvers.schedules import scheduled
from tests.support import tables

# Every schedule, with two sets of real numbers that share the whole ones: (schedule, whole, real, other real).
SCHEDULES = [
    (optax.constant_schedule, {}, {"value": 0.03}, {"value": 0.01}),
    (
        optax.linear_schedule,
        {"transition_steps": 20, "transition_begin": 3},
        {"init_value": 0.05, "end_value": 0.01},
        {"init_value": 0.02, "end_value": 0.04},
    ),
    (
        optax.polynomial_schedule,
        {"transition_steps": 20},
        {"init_value": 0.05, "end_value": 0.01, "power": 2.0},
        {"init_value": 0.02, "end_value": 0.0, "power": 0.5},
    ),
    (
        optax.cosine_decay_schedule,
        {"decay_steps": 20},
        {"init_value": 0.05, "alpha": 0.1},
        {"init_value": 0.02, "alpha": 0},
    ),
    (
        optax.exponential_decay,
        {"transition_steps": 4, "transition_begin": 2},
        {"init_value": 0.05, "decay_rate": 0.7, "end_value": 0.01},
        {"init_value": 0.01, "decay_rate": 1.5, "end_value": 0.04},
    ),
    (
        optax.exponential_decay,
        {"transition_steps": 4, "transition_begin": -2, "staircase": True},
        {"init_value": 0.05, "decay_rate": 0.7},
        {"init_value": 0.02, "decay_rate": 0.0},
    ),
    (
        optax.warmup_constant_schedule,
        {"warmup_steps": 5},
        {"init_value": 0.0, "peak_value": 0.03},
        {"init_value": 0.05, "peak_value": 0.01},
    ),
    (
        optax.warmup_cosine_decay_schedule,
        {"warmup_steps": 5, "decay_steps": 20},
        {"init_value": 0.0, "peak_value": 0.05, "end_value": 0.01, "exponent": 2.0},
        {"init_value": 0.03, "peak_value": 0.0, "end_value": 0.01, "exponent": 1.0},
    ),
    (
        optax.warmup_exponential_decay_schedule,
        {"warmup_steps": 5, "transition_steps": 4},
        {"init_value": 0.0, "peak_value": 0.05, "decay_rate": 0.8},
        {"init_value": 0.03, "peak_value": 0.05, "decay_rate": 0.5},
    ),
    (optax.linear_onecycle_schedule, {"transition_steps": 20}, {"peak_value": 0.05}, {"peak_value": 0.02}),
    (
        optax.cosine_onecycle_schedule,
        {"transition_steps": 20, "pct_start": 0.4, "div_factor": 10},
        {"peak_value": 0.05},
        {"peak_value": 0.02},
    ),
]
SWEEPS = 25  # the last ones are beyond the end of every schedule
COMPILED = collections.Counter()


def _count(event, duration_secs, **about):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED["_run"] += "_run" in about["fun_name"]


jax.monitoring.register_event_duration_secs_listener(_count)


@functools.cache
def place():
    table = tables.table("random", weighted=False)
    return tables.problem(table, "segmented"), jals.als_wr(0.1)


def losses(optimizer, hyper, sweeps=SWEEPS, batch_size=None):
    """After each sweep."""
    problem, objective = place()
    solver = jals.Gradient(2, optimizer, hyper, batch_size)
    state = solver.init(jax.random.key(0), problem, objective)
    return jnp.asarray(jals.run(solver, state, problem, objective, sweeps=sweeps, loss=True)[1].loss)


def prefixed(numbers):
    return {f"schedule_{name}": number for name, number in numbers.items()}


def adam_by_table(*, rates):
    return optax.adam(lambda step: rates[step])


@pytest.mark.parametrize("schedule, whole, real, other", SCHEDULES, ids=lambda part: getattr(part, "__name__", ""))
def test_same_steps_as_by_the_schedule_and_new_numbers_compile_nothing(schedule, whole, real, other):
    adam = scheduled(optax.adam, schedule)
    for number, numbers in enumerate((real, other)):
        COMPILED.clear()
        found = losses(adam, prefixed(whole | numbers))
        assert COMPILED["_run"] == 1 - number
        rate = schedule(**whole, **numbers)
        rates = jnp.stack([jnp.asarray(rate(step), float) for step in range(SWEEPS)])
        expected = losses(adam_by_table, {"rates": rates})  # one program for all
        np.testing.assert_allclose(found, expected, rtol=1e-7)  # optax divides counts in float32


@pytest.mark.parametrize("batch_size", [None, 20])
def test_a_step_is_a_sweep_in_full_batch_and_a_minibatch_otherwise(batch_size):
    numbers = {"init_value": 0.1, "decay_steps": 8}
    found = losses(scheduled(optax.adam, optax.cosine_decay_schedule), prefixed(numbers) | {"b1": 0.8}, 10, batch_size)
    whole = {"learning_rate": optax.cosine_decay_schedule(**numbers), "b1": 0.8}
    np.testing.assert_allclose(found, losses(optax.adam, whole, 10, batch_size), rtol=1e-12)
    batches = 1 if batch_size is None else -(-place()[0].num_entries // batch_size)
    ends = -(-8 // batches)  # the sweep within which the rate falls to 0
    assert 1 < ends < 10 and found[ends - 1] != found[ends - 2]
    np.testing.assert_array_equal(found[ends:], found[ends - 1])


def test_numbers_of_a_schedule_are_differentiated():
    adam = scheduled(optax.adam, optax.warmup_exponential_decay_schedule)
    numbers = {"init_value": 0.01, "peak_value": 0.05, "decay_rate": 0.8}
    whole = {"warmup_steps": 2, "transition_steps": 2}

    @jax.jit
    def last(numbers):
        return losses(adam, prefixed(whole | numbers) | {"eps_root": 1e-8}, 5)[-1]

    slopes = jax.grad(last)({name: jnp.asarray(number) for name, number in numbers.items()})
    for name, slope in slopes.items():
        up, down = (last(numbers | {name: numbers[name] + step}) for step in (1e-6, -1e-6))
        np.testing.assert_allclose(slope, (up - down) / 2e-6, rtol=1e-5)


def test_one_object_for_the_same_functions_with_name_and_signature():
    adam = scheduled(optax.adam, optax.cosine_decay_schedule)
    assert adam is scheduled(optax.adam, optax.cosine_decay_schedule)
    assert adam != scheduled(optax.sgd, optax.cosine_decay_schedule)
    assert pickle.loads(pickle.dumps(adam)) == adam
    assert adam.__name__ == "adam with cosine_decay_schedule"
    parameters = inspect.signature(adam).parameters
    theirs = [f"schedule_{name}" for name in inspect.signature(optax.cosine_decay_schedule).parameters]
    own = [name for name in inspect.signature(optax.adam).parameters if name != "learning_rate"]
    assert list(parameters) == theirs + own


def test_real_numbers_are_traced_and_whole_ones_static():
    cosine = scheduled(optax.adam, optax.cosine_decay_schedule)
    solver = jals.Gradient(2, cosine, {"schedule_init_value": 1, "schedule_decay_steps": np.int64(5), "b1": 0.5})
    assert len(jax.tree.leaves(solver)) == 3  # init_value, whole as it is, b1 and init_scale
    cycle = scheduled(optax.adam, optax.linear_onecycle_schedule)
    hyper = {"schedule_transition_steps": 9, "schedule_peak_value": 0.1, "schedule_pct_start": 0.2}
    assert len(jax.tree.leaves(jals.Gradient(2, cycle, hyper))) == 2


def square_root(scale, steps=10):
    """A schedule of one's own."""
    return lambda step: scale / jnp.sqrt(1 + step / steps)


def test_functions_of_ones_own():
    mine = scheduled(lambda learning_rate, **more: optax.adam(learning_rate, **more), square_root)
    found = losses(mine, {"schedule_scale": 0.05, "schedule_steps": 4, "b1": 0.8}, 5)
    whole = {"learning_rate": square_root(0.05, 4), "b1": 0.8}
    np.testing.assert_allclose(found, losses(optax.adam, whole, 5), rtol=1e-7)


@pytest.mark.parametrize(
    "hyper, message",
    [
        ({"decay_steps": 1, "ini_value": 1.0}, r"'schedule_ini_value', but .* Did you mean \"schedule_init_value\"\?"),
        ({"init_value": 0.1}, "adam with cosine_decay_schedule needs schedule_decay_steps: give"),
        ({"init_value": "x", "decay_steps": 5}, r"hyper\['schedule_init_value'\] must be one number"),
        ({"init_value": np.ones(2), "decay_steps": 5}, r"hyper\['schedule_init_value'\] must be one number"),
        ({"init_value": jnp.sin, "decay_steps": 5}, "refuses hyper: schedule_init_value must be one number"),
        ({"init_value": 0.1, "decay_steps": 5.0}, "refuses hyper: schedule_decay_steps must be a whole number"),
        ({"init_value": 0.1, "decay_steps": "x"}, "refuses hyper: schedule_decay_steps must be one number"),
        ({"init_value": 0.1, "decay_steps": 0}, "refuses hyper: The cosine_decay_schedule requires positive"),
    ],
)
def test_numbers_that_do_not_fit_are_refused(hyper, message):
    problem, objective = place()
    solver = jals.Gradient(2, scheduled(optax.adam, optax.cosine_decay_schedule), prefixed(hyper))
    with pytest.raises(jals.ArgumentError, match=message):
        jals.fit(solver, problem, objective, sweeps=1)


def test_learning_rate_itself_is_refused():
    solver = jals.Gradient(2, scheduled(optax.adam, optax.cosine_decay_schedule))  # hyper as it is without one
    with pytest.raises(jals.ArgumentError, match=r"hyper has 'learning_rate', but adam with cosine_decay_schedule ta"):
        solver.init(jax.random.key(0), *place())


def constant(value):
    return value


@pytest.mark.parametrize(
    "optimizer, schedule, message",
    [
        (optax.adam(0.1), optax.linear_schedule, "optimizer is GradientTransform.*, but must be a function such as"),
        (optax.adam, "cosine", "schedule is str, but must be a function such as optax.cosine_decay_schedule"),
        (optax.polyak_sgd, optax.linear_schedule, "polyak_sgd takes no learning_rate that a schedule could give"),
        (optax.adam, optax.constant_schedule(0.1), "schedule is made already"),
        (optax.adam, optax.join_schedules([optax.constant_schedule(0.1)], []), "schedule is made already"),
        (optax.adam, optax.sgdr_schedule, r"give the schedule itself, .*optax\.sgdr_schedule\(\.\.\.\)"),
        (optax.adam, optax.piecewise_constant_schedule, "piecewise_constant_schedule is made of more than numbers"),
        (optax.adam, dict, "dict does not say which arguments it takes"),
    ],
)
def test_what_is_no_optimizer_or_schedule_is_refused(optimizer, schedule, message):
    with pytest.raises(jals.ArgumentError, match=message):
        scheduled(optimizer, schedule)


def test_a_schedule_must_be_a_function_of_the_step():
    solver = jals.Gradient(2, scheduled(optax.adam, constant), {"schedule_value": 0.1})
    with pytest.raises(jals.ArgumentError, match=r"constant makes .*, not a function of the step"):
        solver.init(jax.random.key(0), *place())

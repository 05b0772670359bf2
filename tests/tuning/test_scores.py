"""Tuning for rankings: the derivative through the sweeps, what is learned beside it, weights by row, and refusals."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jals
from jals.metrics import HeldOut, HeldOutRanking, softmax_loss
from jals.tuning import ByDegree, Groups, PerRow, SmoothNDCG, Softmax, checks, tune
from jals.tuning import step as one_step

pytestmark = pytest.mark.newest

USERS, ITEMS = 20, 12
SOLVER = jals.ALS(2, init_scale=1.0)
OBJECTIVE = jals.ials(0.02, 0.3, 0.7)


def parts(users=USERS, items=ITEMS):
    """(train, validation) of what users picked by two tastes, popular items more often."""
    rng = np.random.default_rng(0)
    score = rng.normal(size=(users, 2)) @ rng.normal(size=(2, items)) + np.linspace(-1, 1.5, items)
    picked = score + rng.logistic(size=score.shape) > 0.3
    picked[:, 0] = picked[0] = True
    user, item = np.nonzero(picked)
    held_out = (rng.random(len(user)) < 0.3) & (item > 0) & (user > 0)
    table = jals.Ratings.from_arrays(user, item, np.ones(len(user)), users, items)
    return table.select(~held_out), table.select(held_out)


TRAIN, VALIDATION = parts()
PROBLEM = jals.Problem.build(TRAIN, "padded")  # the quickest to compile


@pytest.fixture(scope="module", autouse=True)
def caches():
    yield
    jax.clear_caches()


POWER = ByDegree()


def planned(score, made=OBJECTIVE, weights=POWER):
    problem = PROBLEM.arrange()
    held_out, ranked = HeldOut.of(VALIDATION, float), score.prepare(VALIDATION, problem)
    given = (SOLVER, problem, made.cast(float), checks.One(), None, held_out, {}, jax.random.key(0))
    return one_step.Plan(*given, weights, score, ranked), SOLVER.init(jax.random.key(1), problem, made).factors


def by_hand(plan, parameters, factors):
    """The score by public pieces, of two sweeps."""
    problem, made = one_step.build_objective(plan, parameters)
    state, _ = jals.run(SOLVER, SOLVER.init(plan.key, problem, made, factors), problem, made, sweeps=2)
    score = plan.score.value(parameters.get("score", {}), state.factors, plan.ranked, None)
    rows = [each["row"] for each in parameters.values() if isinstance(each, dict) and "row" in each]
    return score + sum(0.05 * jnp.mean(row**2) for row in rows)


def check_differences(plan, parameters, factors, gradient):
    flat, shaped = ravel_pytree(parameters)
    score = jax.jit(lambda flat: by_hand(plan, shaped(flat), factors))
    moves = np.eye(len(flat)) * 1e-5
    difference = np.array([(score(flat + move) - score(flat - move)) / 2e-5 for move in moves])
    assert min(np.abs(difference)) > 1e-7  # not a comparison of zeros
    np.testing.assert_allclose(ravel_pytree(gradient)[0], difference, rtol=1e-5, atol=1e-9)


WEIGHED = ("weight_user", "weight_item", "unobserved_user", "unobserved_item")


@pytest.mark.parametrize("score", [None, SmoothNDCG(0.3)])
def test_a_step_of_restarts_is_a_fit_of_its_own(score):
    """From the first factors again, so its derivative is that of the whole fit: by differences."""
    tuned = tune(PROBLEM, VALIDATION, OBJECTIVE, SOLVER, score=score, steps=4, sweeps=3, restart=True, over="reg_user")
    fresh = jals.fit(SOLVER, PROBLEM, tuned.objective, sweeps=3)
    for ours, theirs in zip(*map(jax.tree.leaves, (tuned.factors, fresh.factors)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert tuned.passes == 4 * 3 * 2 * 3  # steps, sweeps, passes of one, and with a tangent

    def steps(reg, count):
        started = dataclasses.replace(OBJECTIVE, reg_user=reg)
        settings: dict[str, Any] = {"score": score, "steps": count, "sweeps": 3, "restart": True, "over": "reg_user"}
        return tune(PROBLEM, VALIDATION, started, SOLVER, optax.sgd, {"learning_rate": 1.0}, **settings).history

    first, second = (numbers["reg_user"] for numbers in steps(OBJECTIVE.reg_user, 2).numbers)
    ratio = second / first
    up, down = (steps(OBJECTIVE.reg_user * np.exp(step), 1).score[0] for step in (1e-4, -1e-4))
    assert -np.log(ratio) == pytest.approx((up - down) / 2e-4, rel=1e-5)


@pytest.mark.parametrize("score", [Softmax(0.3, 0.1, ("temperature", "item_power")), SmoothNDCG(0.5)])
def test_the_derivative_is_that_of_the_sweeps(score):
    """In lambda, nu, alpha_0, temperature, popularity's power and every weight of a row, by forward and by reverse
    mode, from weights that are not alike."""
    rng = np.random.default_rng(3)
    made = dataclasses.replace(OBJECTIVE, unobserved_user=rng.uniform(0.5, 2, USERS))
    plan, factors = planned(score, made, PerRow(0.05))
    parameters = one_step.first_parameters(plan, ("reg_user", "reg_item", "reg_power", "unobserved_weight", *WEIGHED))
    flat, shaped = ravel_pytree(parameters)
    parameters = shaped(flat + 0.1 * rng.normal(size=flat.shape))
    look = functools.partial(one_step.through_sweeps, plan, parameters, factors, True, 2)
    forward, reverse = look("forward"), look("reverse")
    found = ravel_pytree(forward.gradient)[0]
    np.testing.assert_allclose(ravel_pytree(reverse.gradient)[0], found, rtol=1e-8, atol=1e-12)
    assert float(forward.score) == pytest.approx(float(by_hand(plan, parameters, factors)), rel=1e-12)
    assert float(forward.score) == pytest.approx(float(reverse.score), rel=1e-12)
    check_differences(plan, parameters, factors, forward.gradient)


def test_tangents_do_not_go_through_the_ranking():
    """There is a table of scores in the program of four numbers and a temperature, and none for each of the five."""
    plan, factors = planned(Softmax(0.3))
    parameters = one_step.first_parameters(plan, ("reg_user", "reg_item", "reg_power", "unobserved_weight"))
    look = functools.partial(one_step.through_sweeps, sweeps=2, direction="forward")
    text = str(jax.make_jaxpr(look)(plan, parameters, factors, True))
    users = plan.ranked.user.shape[1]
    shapes = {tuple(map(int, found.split(","))) for found in re.findall(r"f64\[([0-9,]+)\]", text)}
    assert (users, ITEMS) in shapes
    assert not {shape for shape in shapes if sorted(shape) == sorted((5, users, ITEMS))}


def test_what_is_descended_is_told():
    score = Softmax(0.3, learn=("temperature", "item_power"))
    result = tune(PROBLEM, VALIDATION, OBJECTIVE, SOLVER, score=score, steps=4, start_sweeps=2)
    numbers = result.history.numbers
    assert list(numbers[0]) == ["reg_user", "reg_item", "reg_power", "unobserved_weight", "temperature", "item_power"]
    assert numbers[0]["temperature"] == pytest.approx(0.3) and numbers[0]["item_power"] == 0
    assert numbers[1]["temperature"] != pytest.approx(0.3) and numbers[1]["item_power"] != 0
    best = result.step - 1
    assert result.history.score[best] == min(result.history.score) < result.history.score[0]
    # By what is served: scores that are corrected for popularity.
    served = jals.recommend.corrected(result.factors, PROBLEM, result.score.item_power)
    at = softmax_loss(served, HeldOutRanking.of(VALIDATION, TRAIN, float), result.score.temperature)
    assert float(at) == pytest.approx(result.history.score[best], rel=1e-12)
    assert float(result.score.temperature) == pytest.approx(numbers[best]["temperature"], rel=1e-12)
    assert float(result.score.item_power) == numbers[best]["item_power"]
    # The error stays the error.
    predicted = jals.predict(result.factors, VALIDATION.user, VALIDATION.item)
    assert result.history.rmse[best] == pytest.approx(float(jals.metrics.rmse(predicted, np.ones(len(VALIDATION)))))
    assert f"held-out softmax loss {min(result.history.score):.4f}" in repr(result)


def test_the_temperature_alone_and_none_of_it():
    fixed = tune(PROBLEM, VALIDATION, OBJECTIVE, SOLVER, score=Softmax(0.3, learn=()), steps=2, over="reg_user")
    assert list(fixed.history.numbers[0]) == ["reg_user"] and "score" not in fixed.parameters
    alone = tune(PROBLEM, VALIDATION, OBJECTIVE, SOLVER, score=Softmax(0.3), steps=2, over=())
    assert list(alone.history.numbers[1]) == ["temperature"] and alone.history.numbers[1]["temperature"] != 0.3
    assert float(alone.objective.reg_user) == 0.02


def test_steps_and_numbers_compile_nothing():
    def once(temperature, steps):
        tune(PROBLEM, VALIDATION, OBJECTIVE, SOLVER, score=Softmax(temperature), steps=steps, start_sweeps=2)

    once(0.3, 2)
    before = one_step.through_sweeps._cache_size()
    once(0.1, 3)
    assert one_step.through_sweeps._cache_size() == before


@pytest.mark.slow
def test_the_adjoint_derivative_of_a_ranking():
    """Many sweeps from a stationary point lead to its derivative."""
    plan, factors = planned(Softmax(0.3, learn=("temperature", "item_power")))
    parameters = one_step.first_parameters(plan, ("reg_user", "unobserved_weight"))
    here = one_step.at_stationary_point(plan, parameters, factors, 5)
    unrolled = one_step.through_sweeps(plan, parameters, here.factors, True, 400, "forward")
    assert float(here.score) == pytest.approx(float(unrolled.score), rel=1e-4)
    assert float(here.error) == pytest.approx(float(unrolled.error), rel=1e-4)
    for one, other in zip(*map(jax.tree.leaves, (here.gradient, unrolled.gradient)), strict=True):
        assert abs(float(one)) > 1e-6 and float(one) == pytest.approx(float(other), rel=1e-3)


# ---- weights by row ----


@pytest.mark.parametrize("name", WEIGHED)
@pytest.mark.parametrize(
    "weights", [POWER, ByDegree(2), Groups(np.arange(USERS) % 3, np.arange(ITEMS) % 3), PerRow()]
)
def test_weights_keep_their_mean_and_follow_their_rule(weights, name):
    """From weights that are given: what is multiplied to them."""
    side, rows = name[-4:], {"user": USERS, "item": ITEMS}[name[-4:]]
    given, count = np.linspace(1.0, 3.0, rows), np.bincount(getattr(TRAIN, name[-4:]), minlength=rows)
    plan, _ = planned(Softmax(), dataclasses.replace(OBJECTIVE, **{name: given}), weights)
    parameters = one_step.first_parameters(plan, (name,))
    np.testing.assert_allclose(getattr(one_step.build_objective(plan, parameters)[1], name), given, rtol=1e-12)
    flat, shaped = ravel_pytree(parameters[name])
    flat += np.random.default_rng(0).normal(size=flat.shape)
    made = one_step.build_objective(plan, {name: shaped(flat)})[1]
    found = np.asarray(getattr(made, name))
    share = np.ones(rows) if name.startswith("unobserved") else count
    assert found @ share == pytest.approx(given @ share, rel=1e-12)
    logs = np.log(count)
    z = (logs - logs.mean()) / logs.std()
    expected = {
        "ByDegree": lambda: sum(slope * z ** (place + 1) for place, slope in enumerate(flat)),
        "Groups": lambda: np.asarray(flat)[getattr(weights, side)],
        "PerRow": lambda: float(shaped(flat)["power"]) * z + np.asarray(shaped(flat)["row"]),
    }[type(weights).__name__]()
    ratio = np.log(found / given)
    np.testing.assert_allclose(ratio - ratio.mean(), expected - expected.mean(), rtol=1e-10, atol=1e-12)
    power = np.polyfit(logs, np.log(found), 1)[0]
    assert float(one_step.numbers_of(plan, made, (name,))[name]) == pytest.approx(power, rel=1e-9)


def test_weights_of_pairs_are_descended():
    settings: dict[str, Any] = {"over": ("unobserved_item",), "score": Softmax(0.3), "steps": 3, "start_sweeps": 2}
    result = tune(PROBLEM, VALIDATION, OBJECTIVE, SOLVER, **settings)
    told = [numbers["unobserved_item"] for numbers in result.history.numbers]
    assert told[0] == 0 and result.step > 1 and result.history.score[-1] < result.history.score[0]
    weight = np.asarray(result.objective.unobserved_item)
    assert weight.mean() == pytest.approx(1, rel=1e-12)
    power = np.log(np.bincount(TRAIN.item, minlength=ITEMS)) * told[result.step - 1]
    np.testing.assert_allclose(np.log(weight / weight[0]), power - power[0], rtol=1e-9, atol=1e-12)


# ---- refusals ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"score": "softmax"}, r"score is 'softmax'.*jals.tuning.Softmax\(\)"),
        ({"score": Softmax(0.0)}, "Softmax.temperature is 0.0"),
        ({"score": Softmax(np.nan)}, "Softmax.temperature is nan"),
        ({"score": Softmax(item_power=np.inf)}, "Softmax.item_power is inf"),
        ({"score": Softmax(learn=("temprature",))}, 'Did you mean "temperature"'),
        ({"score": Softmax(learn="temperature")}, "must be a tuple of names"),
        ({"score": SmoothNDCG(learn=("temperature",))}, 'must be one of "item_power"'),
        ({"score": Softmax(users=0)}, "users is 0"),
        ({"score": Softmax(seed=-1)}, "Softmax.seed is -1"),
        ({"score": Softmax(learn=()), "over": ()}, "nothing is to be tuned"),
        ({"weights": ByDegree()}, "over names none of them: weight_user, .*unobserved_item"),
        ({"weights": "one", "over": "unobserved_item"}, "must say how weights vary"),
        ({"weights": checks.One(), "over": "unobserved_item"}, "must say how weights vary"),
        ({"weights": Groups(user=np.zeros(USERS, int)), "over": "unobserved_item"}, "no groups of items"),
        ({"over": "unobserved_item", "objective": jals.als_wr(0.1)}, "no sum over all pairs"),
        ({"over": "unobserved_itm"}, 'Did you mean "unobserved_item"'),
        ({"over": "unobserved_item", "box": {"unobserved_item": (1, 2)}}, "weights by row are none"),
    ],
)
def test_refused(change, message):
    arguments: dict[str, Any] = {"train": TRAIN, "validation": VALIDATION, "objective": OBJECTIVE, "solver": SOLVER}
    with pytest.raises(jals.ArgumentError, match=message):
        tune(**arguments | change, optimizer=optax.adam)

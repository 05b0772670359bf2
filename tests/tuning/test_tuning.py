"""Tuning by descent: the derivative is that of the sweeps made, it goes down, and invalid arguments are refused."""

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import jals
from jals.tuning import ByDegree, Groups, Learned, PerRow, checks, tune
from jals.tuning import step as one_step

pytestmark = pytest.mark.newest

RANK = 3
SOLVER = jals.ALS(RANK, init_scale=1.0)
KINDS = {
    "one": "one",
    "groups": Groups(user=np.arange(40) % 3),
    "degree 1": ByDegree(),
    "degree 2": ByDegree(2),
    "per row": PerRow(0.05),
}


@pytest.fixture(scope="module", autouse=True)
def caches():
    """Most tests share their programs, which are let go at the end."""
    yield
    jax.clear_caches()


def parts(noise=0.5, users=40, items=30, dtype: Any = np.float64, shape=(None, None)):
    """(train, validation) of a table made by two factors and noise; activity differs from row to row, and every row
    has training entries."""
    rng = np.random.default_rng(0)
    score = rng.normal(size=(users, 2)) @ rng.normal(size=(2, items))
    observed = rng.random((users, items)) < np.linspace(0.2, 0.9, users)[:, None]
    observed[:, 0] = observed[0] = True
    user, item = np.nonzero(observed)
    value = 3 + score[user, item] + noise * rng.normal(size=len(user))
    held_out = (rng.random(len(user)) < 0.3) & (item > 0) & (user > 0)
    table = jals.Ratings.from_arrays(user, item, value.astype(dtype), shape[0] or users, shape[1] or items)
    return table.select(~held_out), table.select(held_out)


TRAIN, VALIDATION = parts()
PROBLEM = jals.Problem.build(TRAIN, "padded")  # the quickest to compile


def objective(reg=0.1, **numbers):
    return jals.als_wr(reg, bias=True, center=True, **numbers)


def held_out_rmse(made, problem, validation, factors=None, sweeps=2, solver=SOLVER):
    """By the public pieces, from the same start."""
    state = solver.init(jax.random.key(0), problem, made, factors)
    state, _ = jals.run(solver, state, problem, made, sweeps=sweeps)
    factors = state.factors
    return jals.metrics.rmse(jals.predict(factors, validation.user, validation.item), validation.value), factors


def gradient_of(plan, parameters, factors, direction):
    return one_step.through_sweeps(plan, parameters, factors, True, 2, direction)


def planned(made, family=None, learned=None, validation=VALIDATION):
    problem = PROBLEM.arrange()
    family = checks.check_rule("one" if family is None else family, problem)
    held_out = one_step.HeldOut.of(validation, np.float64)
    plan = one_step.Plan(SOLVER, problem, made.cast(float), family, learned, held_out, {}, jax.random.key(0))
    factors = SOLVER.init(jax.random.key(1), problem, made).factors
    return plan, factors


@pytest.mark.parametrize("kind", ["groups", "degree 2", "per row"])  # the others are parts of these
def test_the_derivative_is_that_of_the_sweeps(kind):
    """Against central differences in every parameter, by forward and by reverse mode."""
    by_row = np.linspace(0.1, 0.3, PROBLEM.num_users)
    powers = {"weight_power_user": -0.3, "weight_power_item": 0.2}
    plan, factors = planned(objective(reg_bias=0.2, reg_bias_user=by_row, **powers), KINDS[kind])
    names = ("reg_user", "reg_item", "reg_bias", "reg_bias_user", "reg_power", *powers)
    parameters = one_step.first_parameters(plan, names)
    np.testing.assert_allclose(one_step.build_objective(plan, parameters)[1].reg_bias_user, by_row, rtol=1e-12)
    flat, shaped = ravel_pytree(parameters)
    flat += 0.1 * np.random.default_rng(0).normal(size=flat.shape)
    forward, reverse = (gradient_of(plan, shaped(flat), factors, way) for way in ("forward", "reverse"))
    found = ravel_pytree(forward.gradient)[0]
    np.testing.assert_allclose(ravel_pytree(reverse.gradient)[0], found, rtol=1e-9, atol=1e-13)
    assert int(forward.passes) == 2 * 2 * 3
    assert int(reverse.passes) == 2 * 2 * 4

    score = jax.jit(lambda flat: _score(plan, shaped(flat), factors))
    assert float(score(flat)) == pytest.approx(float(forward.score), rel=1e-12)
    step = 1e-5
    moves = np.eye(len(flat)) * step
    difference = [(score(flat + move) - score(flat - move)) / (2 * step) for move in moves]
    assert min(np.abs(difference)) > 0
    np.testing.assert_allclose(found, difference, rtol=1e-6, atol=1e-9)


def _score(plan, parameters, factors):
    problem, made = one_step.build_objective(plan, parameters)
    state, _ = jals.run(SOLVER, SOLVER.init(plan.key, problem, made, factors), problem, made, sweeps=2)
    left = jals.predict(state.factors, VALIDATION.user, VALIDATION.item) - VALIDATION.value
    error = jnp.mean(left**2)
    for name in ("reg_user", "reg_item"):
        if isinstance(parameters[name], dict):
            error += 0.05 * jnp.mean(parameters[name]["row"] ** 2)
    return error


@pytest.mark.parametrize("preset", ["hu_koren", "ials"])
def test_the_derivative_with_implicit_feedback(preset):
    positive = dataclasses.replace(TRAIN, value=np.abs(TRAIN.value) + 0.1)
    held_out = dataclasses.replace(VALIDATION, weight=np.random.default_rng(0).uniform(0, 2, len(VALIDATION)))
    powers = {} if preset == "hu_koren" else {"unobserved_power_user": 0.1, "unobserved_power_item": -0.2}
    made = jals.hu_koren(0.3, alpha=2.0, epsilon=0.8) if preset == "hu_koren" else jals.ials(0.3, 0.2, 0.7, **powers)
    result = tune(positive, held_out, made, SOLVER, optax.sgd, {"learning_rate": 0.0}, steps=1, start_sweeps=1)
    names = {"hu_koren": {"alpha", "epsilon"}, "ials": {"reg_power", *powers}}[preset]
    names |= {"reg_user", "reg_item", "unobserved_weight"}
    assert result.history.numbers[0].keys() == names
    predicted = jals.predict(result.factors, held_out.user, held_out.item)
    expected = float(np.sum(held_out.weight * (predicted - 1) ** 2) / held_out.weight.sum())
    assert result.history.rmse[0] ** 2 == pytest.approx(expected, rel=1e-12)
    problem = jals.Problem.build(positive, "padded").arrange()
    chunks = one_step.HeldOut.of(held_out, float)
    plan = one_step.Plan(SOLVER, problem, made.cast(float), checks.One(), None, chunks, {}, jax.random.key(0))
    parameters = one_step.first_parameters(plan, tuple(sorted(names)))
    look = functools.partial(gradient_of, plan, factors=result.factors, direction="forward")
    found = look(parameters).gradient
    for name in names:
        up, down = ({**parameters, name: parameters[name] + step} for step in (1e-5, -1e-5))
        difference = (float(look(up).score) - float(look(down).score)) / 2e-5
        np.testing.assert_allclose(found[name], difference, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("kind, start", [("one", 0.01), *((kind, 0.5) for kind in ("one", "degree 1", "per row"))])
def test_descent_reaches_the_valley(kind, start):
    """From a lambda far too small or too large, to the error of the best of a fine grid."""
    rate = {"learning_rate": 0.4}
    result = tune(PROBLEM, VALIDATION, objective(start), SOLVER, hyper=rate, reg=KINDS[kind], steps=40)
    least = least_error()
    assert result.history.rmse[0] > 1.1 * least
    assert min(result.history.rmse) < 1.02 * least
    assert result.reason == "steps" and len(result.history.step) == 40
    assert result.history.score[result.step - 1] == min(result.history.score)
    # What is better is not the factors alone: a fresh fit with these numbers is better than one with the first.
    assert fresh_error(result.objective) < 0.9 * fresh_error(objective(start))


@functools.cache
def least_error():
    """The least RMSE of converged fits with one lambda."""
    many = [objective(reg) for reg in np.geomspace(0.01, 0.5, 12)]
    fits: Any = jals.fit_many(SOLVER, PROBLEM, many, 30, loss_every=0)
    return min(float(jals.metrics.rmse(jals.predict(fit.factors, *ids()), VALIDATION.value)) for fit in fits)


def fresh_error(made):
    factors = jals.fit(SOLVER, PROBLEM, made, sweeps=30, loss_every=0).factors
    return float(jals.metrics.rmse(jals.predict(factors, *ids()), VALIDATION.value))


def ids():
    return VALIDATION.user, VALIDATION.item


def test_what_is_tuned_is_what_is_said():
    result = tune(PROBLEM, VALIDATION, objective(), SOLVER, over=("reg_item",), steps=2, start_sweeps=3, sweeps=4)
    assert float(result.objective.reg_user) == pytest.approx(0.1) and float(result.objective.reg_power) == 1
    assert list(result.history.numbers[0]) == ["reg_item"]
    assert result.history.numbers[0]["reg_item"] == pytest.approx(0.1)
    assert result.history.numbers[1]["reg_item"] != pytest.approx(0.1)
    assert result.history.passes == [2 * 3 + 4 * 6, 2 * 3 + 2 * 4 * 6] and result.passes == result.history.passes[-1]
    assert "reg_item" in repr(result) and f"{result.history.rmse[result.step - 1]:.4f}" in repr(result)
    # The first step by hand: three sweeps to start with, four more from there.
    _, factors = held_out_rmse(objective(), PROBLEM, VALIDATION, sweeps=3)
    rmse, _ = held_out_rmse(objective(), PROBLEM, VALIDATION, factors, sweeps=4)
    assert result.history.rmse[0] == pytest.approx(float(rmse), rel=1e-12)


def test_lambdas_given_a_row_keep_their_ratios():
    rows = np.geomspace(0.05, 0.5, TRAIN.num_users)
    result = tune(PROBLEM, VALIDATION, jals.als_wr(reg_user=rows, reg_item=0.1), SOLVER, steps=3)
    np.testing.assert_allclose(result.objective.reg_user / result.objective.reg_user[0], rows / rows[0], rtol=1e-12)
    assert result.objective.reg_user[0] != pytest.approx(rows[0])


def test_nu_turns_about_the_mean_of_log_n():
    """lambda n^nu stays where it is in rows of the mean log n, so that nu alone says how counts matter."""
    plan, _ = planned(objective())
    parameters = one_step.first_parameters(plan, ("reg_user", "reg_item", "reg_power"))
    _, moved = one_step.build_objective(plan, {**parameters, "reg_power": jnp.array(0.4)})
    for side in ("user", "item"):
        logs = np.log(np.bincount(getattr(TRAIN, side)))
        before, after = np.log(0.1) + logs, np.log(getattr(moved, f"reg_{side}")) + 0.4 * logs
        assert before.mean() == pytest.approx(after.mean(), rel=1e-12)


def test_by_degree_follows_its_formula():
    """Rows without entries take the value of n = 1."""
    train, _ = parts(shape=(42, 30))
    problem = jals.Problem.build(train)
    count = jnp.asarray(np.bincount(train.user, minlength=42), float)
    assert list(count[40:]) == [0, 0]
    logs = np.log(np.maximum(count, 1))
    z = (logs - logs[:40].mean()) / logs[:40].std()
    found = ByDegree(2).logs(jnp.array([-2.0, 0.3, 0.1]), "user", count)
    np.testing.assert_allclose(found, -2 + 0.3 * z + 0.1 * z**2, rtol=1e-12)
    assert problem.num_users == 42


def test_groups_share_a_number():
    groups = np.arange(40) % 3
    result = tune(PROBLEM, VALIDATION, objective(), SOLVER, reg=Groups(user=groups), steps=3)
    rows = np.asarray(result.objective.reg_user)
    assert result.objective.reg_item.shape == () and len(set(rows)) == 3
    assert all(len(set(rows[groups == group])) == 1 for group in range(3))


def test_shrinkage_holds_rows_together():
    spread = {}
    for shrinkage in (0.0, 100.0):
        result = tune(PROBLEM, VALIDATION, objective(), SOLVER, reg=PerRow(shrinkage), steps=6)
        spread[shrinkage] = np.std(np.log(result.objective.reg_user))
        # The score is the held-out error and the penalty.
        penalty = sum(shrinkage * np.mean(result.parameters[name]["row"] ** 2) for name in ("reg_user", "reg_item"))
        at = result.step - 1
        assert result.history.score[at] == pytest.approx(result.history.rmse[at] ** 2 + float(penalty), rel=1e-9)
    assert spread[0.0] > 0.01 and spread[100.0] < spread[0.0] / 2


# ---- numbers of one's own ----


def prior_of_features(parameters, problem, objective):
    return problem, dataclasses.replace(objective, prior_user=jnp.tanh(parameters["features"] @ parameters["weights"]))


def weighted_entries(parameters, problem, objective):
    weight = jax.nn.softplus(parameters)[problem.user % 2]
    return problem.with_values(problem.value, weight), objective


def test_prior_means_of_a_network_help_rows_without_entries():
    """Users 0 to 9 have no training entries; features tell what they like."""
    rng = np.random.default_rng(0)
    features, item_factors = rng.normal(size=(40, 2)), rng.normal(size=(20, 2))
    user, item = (axis.ravel() for axis in np.mgrid[:40, :20])
    tastes = features @ [[1, 0.5], [-0.5, 1]]
    table = jals.Ratings.from_arrays(user, item, np.sum(tastes[user] * item_factors[item], axis=1))
    train, validation = table.select(user >= 10), table.select(user < 10)
    weights = 0.1 * rng.normal(size=(2, RANK))
    learned = Learned({"features": features, "weights": weights}, prior_of_features)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rate = {"learning_rate": 0.1}
        result = tune(train, validation, jals.explicit(1.0), SOLVER, hyper=rate, learned=learned, over=(), steps=30)
    assert result.unseen == len(validation)
    assert min(result.history.rmse) < 0.6 * result.history.rmse[0]
    assert result.objective.prior_user.shape == (40, RANK) and float(result.objective.reg_user) == 1
    assert result.parameters.keys() == {"learned"} and result.history.numbers[0] == {}


def test_weights_of_entries_are_learned():
    """Every second user's values are noise; the descent finds that they deserve less weight. The mean follows."""
    rng = np.random.default_rng(0)
    train, validation = (
        dataclasses.replace(part, value=np.where(part.user % 2, rng.normal(size=len(part)) * 3, part.value))
        for part in parts()
    )
    validation = validation.select(validation.user % 2 == 0)
    learned = Learned(np.zeros(2), weighted_entries)
    result = tune(train, validation, objective(), SOLVER, learned=learned, over=(), steps=15)
    even, odd = jax.nn.softplus(result.parameters["learned"])
    assert odd < 0.8 * even
    assert min(result.history.rmse) < result.history.rmse[0]
    weight = np.where(train.user % 2, odd, even)
    np.testing.assert_allclose(result.problem.weight, weight, rtol=1e-12)
    assert result.factors.mean == pytest.approx(np.average(train.value, weights=weight), rel=1e-9)


def halved(parameters, problem, objective) -> Any:
    return objective


# ---- the loop ----


def test_steps_compile_nothing_and_neither_do_numbers():
    def once(steps, start, rate):
        box = {"reg_user": (1e-3, rate)}
        tune(PROBLEM, VALIDATION, objective(start), SOLVER, hyper={"learning_rate": rate}, box=box, steps=steps)

    once(2, 0.1, 0.2)
    names = ("through_sweeps", "apply_update", "build_objective_jit", "numbers_of")
    programs: list[Any] = [getattr(one_step, name) for name in names]
    before = [program._cache_size() for program in programs]
    with jax.log_compiles(), warnings.catch_warnings():
        once(5, 0.3, 0.7)
    assert [program._cache_size() for program in programs] == before


def test_a_box_is_kept():
    """Also where nu moves, which shifts what is descended in: here into a corner of too small and too large lambdas."""
    box = {"reg_user": (0.03, 0.04), "reg_item": (0.5, 0.6), "reg_power": (0.5, 0.9)}
    result = tune(PROBLEM, VALIDATION, objective(), SOLVER, hyper={"learning_rate": 0.5}, box=box, steps=8)
    for name, (low, high) in box.items():
        numbers = [told[name] for told in result.history.numbers]
        assert low * (1 - 1e-12) <= min(numbers) and max(numbers) <= high * (1 + 1e-12)
    assert min(told["reg_item"] for told in result.history.numbers) == pytest.approx(0.5)


def test_nu_stays_at_zero_or_above():
    uphill = {"learning_rate": -1e3}  # nu = 1 is too little here: the other way is down to the wall
    result = tune(PROBLEM, VALIDATION, objective(), SOLVER, optax.sgd, uphill, over="reg_power", steps=2)
    assert [numbers["reg_power"] for numbers in result.history.numbers] == [1, 0]


def test_callbacks_and_patience():
    seen = []

    def stop(progress):
        seen.append(progress)
        return progress.step == 3

    result = tune(PROBLEM, VALIDATION, objective(), SOLVER, steps=9, callbacks=[stop])
    assert result.reason == "callback" and [each.step for each in seen] == [1, 2, 3]
    assert seen[-1].steps == 9 and seen[-1].result.history == result.history and seen[0].result.reason == "running"
    # Too long steps: the error never gets better again.
    result = tune(PROBLEM, VALIDATION, objective(), SOLVER, optax.sgd, {"learning_rate": -30.0}, steps=9, patience=2)
    assert result.reason == "patience" and len(result.history.step) == result.step + 2 < 9


def test_going_on_from_factors():
    first = tune(PROBLEM, VALIDATION, objective(), SOLVER, steps=1)
    then = tune(PROBLEM, VALIDATION, first.objective, SOLVER, steps=1, init=first)
    assert then.history.passes == [2 * 6]
    assert then.history.rmse[0] == pytest.approx(
        float(held_out_rmse(first.objective, PROBLEM, VALIDATION, first.factors)[0]), rel=1e-12
    )


def test_ctrl_c_hands_over_what_there_is():
    def press(progress):
        if progress.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(jals.Interrupted, match="after 2 of 5 steps") as caught:
        tune(PROBLEM, VALIDATION, objective(), SOLVER, steps=5, callbacks=[press])
    result = caught.value.result
    assert result.reason == "interrupted" and result.history.step == [1, 2] and result.step in (1, 2)


def test_a_step_that_breaks_down_names_itself():
    with pytest.raises(jals.FitError, match=r"step 2: the held-out error is (nan|inf)") as caught:
        tune(PROBLEM, VALIDATION, objective(), SOLVER, optax.sgd, {"learning_rate": 1e3}, over="reg_power", steps=5)
    assert caught.value.sweep == 2 and caught.value.result.history.step == [1]
    assert caught.value.result.reason == "failed" and np.isfinite(caught.value.result.factors.user).all()
    adam = jals.Gradient(RANK, optax.adam, {"learning_rate": 1e-2})  # no eps_root: see jals.Gradient
    train, validation = parts(shape=(42, 30))  # two users without entries, whose second moments stay 0
    with pytest.raises(jals.FitError, match=r"derivative is not finite.*eps_root"):
        tune(train, validation, objective(), adam, steps=2, reg=PerRow(), direction="reverse")


def test_a_gradient_method_can_be_tuned():
    solver = jals.Gradient(RANK, optax.adam, {"learning_rate": 0.05, "eps_root": 1e-8}, init_scale=1.0)
    still, tuned = (
        tune(PROBLEM, VALIDATION, objective(0.4), solver, hyper={"learning_rate": rate}, sweeps=5, start_sweeps=40)
        for rate in (0.0, 0.2)
    )
    assert tuned.history.rmse[-1] < 0.95 * still.history.rmse[-1]


def test_the_adjoint_derivative_descends_too():
    result = tune(PROBLEM, VALIDATION, objective(1.0), SOLVER, method="adjoint", steps=4)
    assert min(result.history.rmse) < 0.98 * result.history.rmse[0]
    # At a stationary point many sweeps lead to the same derivative.
    plan, factors = planned(objective())
    parameters = one_step.first_parameters(plan, ("reg_user", "reg_item", "reg_power"))
    here = one_step.at_stationary_point(plan, parameters, factors, 5)
    unrolled = one_step.through_sweeps(plan, parameters, here.factors, True, 400, "forward")
    for name, slope in here.gradient.items():
        assert float(slope) == pytest.approx(float(unrolled.gradient[name]), rel=2e-3)


def test_float32():
    train, validation = parts(dtype=np.float32)
    result = tune(train, validation, objective(), SOLVER, steps=3, reg=PerRow())
    assert {leaf.dtype for leaf in jax.tree.leaves((result.factors, result.objective, result.parameters))} == {
        np.dtype(np.float32)
    }


# ---- refusals ----


def test_unseen_rows_are_counted():
    train, validation = TRAIN.select(TRAIN.user != 5), VALIDATION
    lost = int((validation.user == 5).sum())
    with pytest.warns(UserWarning, match=f"{lost} of {len(validation)} validation entries") as told:
        result = tune(train, validation, objective(), SOLVER, steps=1)
    assert result.unseen == lost > 0 and len(told) == 1
    with pytest.raises(jals.ArgumentError, match="every validation entry is of a user or an item without"):
        tune(train, validation.select(validation.user == 5), objective(), SOLVER)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"over": ("rank",)}, "'rank'.*size or a form.*grid"),
        ({"over": ("bias",)}, "'bias'.*size or a form.*grid"),
        ({"over": ("reg_usr",)}, 'Did you mean "reg_user"'),
        ({"over": ("prior_user",)}, "Learned"),
        ({"over": ("weight_power_user",)}, "has none: it has reg_user, reg_item, reg_power"),
        ({"over": ("alpha",)}, "has none: it has reg_user, reg_item, reg_power"),
        ({"over": ()}, "nothing is to be tuned"),
        ({"objective": jals.als_wr(0.0)}, "reg_user is 0, and tune descends its logarithm"),
        ({"objective": jals.als_wr(reg_user=np.r_[np.ones(39), 0], reg_item=1.0)}, "reg_user is 0 in row 39"),
        ({"reg": "groups"}, "how lambda varies"),
        ({"reg": Groups(user=np.arange(3))}, "the group of every user"),
        ({"reg": PerRow(-1.0)}, "shrinkage is -1.0"),
        ({"box": {"reg_usr": (1, 2)}}, 'Did you mean "reg_user"'),
        ({"box": {"reg_user": (2, 1)}}, r"box\['reg_user'\] is \(2, 1\)"),
        ({"box": {"reg_user": (0, 1)}}, "low > 0"),
        ({"box": {"reg_user": (1, 2)}, "reg": ByDegree()}, "bounds one number"),
        ({"steps": 0}, "steps is 0"),
        ({"steps": -1}, "steps is -1"),
        ({"sweeps": 0}, "sweeps is 0"),
        ({"sweeps": 1.5}, "sweeps is 1.5"),
        ({"patience": 0}, "patience is 0"),
        ({"method": "adjont"}, 'Did you mean "adjoint"'),
        ({"direction": "backward"}, "direction is 'backward'"),
        ({"optimizer": optax.adam(0.1)}, "must be a function that makes one"),
        ({"optimizer": optax.lbfgs, "hyper": {}}, "has a line search"),
        ({"hyper": {"lr": 0.1}}, 'Did you mean "learning_rate"'),
        ({"train": 3}, "Problem"),
        ({"validation": np.zeros(3)}, "validation is of type ndarray"),
        ({"validation": jals.Ratings.from_arrays([0, 50], [0, 1], [1.0, 2.0])}, "validation entry 1 is 50.*40 users"),
        ({"validation": jals.Ratings.from_arrays([0], [1], [1.0], weight=[0.0])}, "validation entry has weight 0"),
        ({"learned": {"a": 1}}, "jals.tuning.Learned"),
        ({"learned": Learned({"a": 1}, prior_of_features)}, r"learned.parameters\['a'\] is 1"),
        ({"learned": Learned(np.ones(2), halved)}, "must return"),
        ({"reg": PerRow(), "direction": "reverse", "solver": jals.Gradient(RANK, optax.lbfgs, {})}, "in reverse"),
    ],
)
def test_refused(change, message):
    arguments = {"train": TRAIN, "validation": VALIDATION, "objective": objective(), "solver": SOLVER} | change
    with pytest.raises(jals.ArgumentError, match=message):
        tune(**arguments)


def test_forward_mode_over_too_many_parameters():
    train, validation = parts(users=1200, items=20)
    with pytest.raises(jals.ArgumentError, match=r'tangent.*1,223 parameters.*GiB.*"reverse"'):
        tune(train, validation, objective(), SOLVER, reg=PerRow(), direction="forward")

"""Closed-form leave-one-out against rows solved again, in plain NumPy, without the entry."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.diagnostics.leverage import leave_one_out
from jals.model.counts import POWERS
from tests.support import tables
from tests.support.reference import confidence, entry_weight, pair_weight, row_reg

STEP = 1e-5
SIDES = ("user", "item")

pytestmark = [pytest.mark.usefixtures("fresh_caches"), pytest.mark.newest]


def start(problem, objective):
    """Factors whose biases are not 0: the other side's are held."""
    factors = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective).factors
    if not objective.bias:
        return factors
    rng = np.random.default_rng(5)
    biases = {f"{side}_bias": rng.normal(size=len(getattr(factors, side))) for side in SIDES}
    return dataclasses.replace(factors, **{name: jnp.asarray(bias, factors.dtype) for name, bias in biases.items()})


def system(table, setting, side, row, without, factors):
    """(A, b) of a row with its lambda as it is, but without one of its entries (None: with all)."""
    ids, other_ids = (table.user, table.item) if side == "user" else (table.item, table.user)
    X, Y, bu, bi, mean = tables.arrays(factors)
    others, other_bias, prior = (Y, bi, setting.prior_user) if side == "user" else (X, bu, setting.prior_item)
    reg, reg_bias = row_reg(table, setting, side, row)
    A = np.diag([reg] * tables.RANK + [reg_bias] * setting.bias)
    b = A @ np.concatenate([np.zeros(tables.RANK) if prior is None else prior[row], np.zeros(int(setting.bias))])
    for other, y in enumerate(others):
        pair = (row, other) if side == "user" else (other, row)
        A[: tables.RANK, : tables.RANK] += pair_weight(table, setting, *pair) * np.outer(y, y)
    for e in range(len(ids)):
        if ids[e] != row or e == without:
            continue
        z = np.concatenate([others[other_ids[e]], np.ones(int(setting.bias))])
        r, v, held = table.value[e], table.weight[e], mean + other_bias[other_ids[e]]
        v *= entry_weight(table, setting, table.user[e], table.item[e])
        if setting.preset in ("explicit", "als_wr", "wals"):
            w, p = v, v * (r - held)
        elif setting.preset == "hu_koren":
            w, p = v * (confidence(setting, r) - 1), v * confidence(setting, r)
        else:
            w, p = v, v
        A += w * np.outer(z, z)
        b += p * z
    return A, b


def by_hand(table, setting, side, factors):
    """(leverage, leave-one-out prediction, residual, unknowns) of every entry: a row solved for each."""
    ids, other_ids = (table.user, table.item) if side == "user" else (table.item, table.user)
    X, Y, bu, bi, mean = tables.arrays(factors)
    others, other_bias = (Y, bi) if side == "user" else (X, bu)
    found = []
    for e in range(len(ids)):
        z = np.concatenate([others[other_ids[e]], np.ones(int(setting.bias))])
        A, b = system(table, setting, side, ids[e], e, factors)
        whole, _ = system(table, setting, side, ids[e], None, factors)
        w = table.weight[e] * (confidence(setting, table.value[e]) - 1 if setting.preset == "hu_koren" else 1.0)
        w *= entry_weight(table, setting, table.user[e], table.item[e])
        if whole.any():
            x, leverage = np.linalg.solve(A, b), w * z @ np.linalg.solve(whole, z)
        else:  # no entry of weight > 0 and no lambda: the row is its prior mean
            prior, leverage = setting.prior_user if side == "user" else setting.prior_item, 0.0
            x = np.zeros(len(z)) if prior is None else np.concatenate([prior[ids[e]], np.zeros(int(setting.bias))])
        found.append((leverage, mean + other_bias[other_ids[e]] + z @ x, x))
    leverage, prediction, x = (np.array(column) for column in zip(*found, strict=True))
    return leverage, prediction, target_of(table, setting) - prediction, x


def target_of(table, setting):
    return table.value if setting.preset in ("explicit", "als_wr") else np.ones(len(table.user))


@pytest.mark.parametrize("preset", [*tables.BROAD, "ials"])
def test_rows_solved_again_without_the_entry(preset):
    broad = preset in tables.BROAD
    table = tables.table("together" if broad else "empty_rows", weighted=True)
    setting = tables.setting(preset, table)
    objective = tables.objective(setting)
    factors = start(tables.problem(table, "bucketed"), objective)
    unknowns = []
    for side in SIDES:
        *expected, x = by_hand(table, setting, side, factors)
        unknowns.append(x)
        mean = np.sum(table.weight * expected[2] ** 2) / np.sum(table.weight)
        for layout in tables.LAYOUTS if broad and side == "user" else ("bucketed, cut small",):
            found = leave_one_out(factors, tables.problem(table, layout), objective, side)
            for ours, theirs in zip(found[:3], expected, strict=True):
                np.testing.assert_allclose(np.asarray(ours), theirs, rtol=1e-10, atol=1e-10)
            assert (np.asarray(found.leverage)[table.weight == 0] == 0).all()
            np.testing.assert_allclose(found.mean_squared_error, mean, rtol=1e-10)
    if not broad:
        return
    x, y = (each[:, : tables.RANK] for each in unknowns)
    predicted = (x * y).sum(axis=1) + sum(each[:, tables.RANK :].sum(axis=1) for each in unknowns)
    predicted += 0 if factors.mean is None else float(factors.mean)
    found = leave_one_out(factors, tables.problem(table, "bucketed, cut small"), objective, "both")
    np.testing.assert_allclose(found.prediction, predicted, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(found.residual, target_of(table, setting) - predicted, rtol=1e-10, atol=1e-10)
    assert found.leverage is None


@pytest.mark.parametrize("preset, side", [("explicit+bias", "user"), ("hu_koren+all", "item")])
def test_an_entry_left_out_is_what_an_entry_of_weight_0_is_to_als(preset, side):
    """Where neither lambda nor weights depend on n: the half-sweep of ALS itself with one weight set to 0."""
    table = tables.table("random", weighted=False)
    setting = dataclasses.replace(tables.setting(preset, table), reg_power=0.0, **dict.fromkeys(POWERS))
    problem, objective = tables.problem(table, "bucketed"), tables.objective(setting).cast(float)
    factors, solver = start(problem, objective), jals.ALS(tables.RANK)

    @jax.jit
    def without(entry):
        less = problem.with_values(problem.value, weight=problem.weight.at[entry].set(0.0))
        updated, _ = solver.update(factors, less, objective, side)
        return jals.predict(updated, problem.user[entry], problem.item[entry])

    predicted = [without(entry) for entry in range(problem.num_entries)]
    found = leave_one_out(factors, problem, objective, side)
    np.testing.assert_allclose(found.prediction, predicted, rtol=1e-10, atol=1e-10)


def test_the_rows_of_the_side_itself_are_not_used():
    table = tables.table("random", weighted=True)
    problem, objective = tables.problem(table, "bucketed"), tables.objective(tables.setting("als_wr+all", table))
    factors = start(problem, objective)
    spoilt = dataclasses.replace(factors, item=factors.item * jnp.nan, item_bias=factors.item_bias * jnp.nan)
    found, same = (leave_one_out(each, problem, objective, "item") for each in (factors, spoilt))
    assert tables.largest_difference(found, same) == 0


@pytest.mark.parametrize("preset, side", list(zip(tables.BROAD, SIDES, strict=True)))
@pytest.mark.usefixtures("strict_dtypes")
def test_float32(preset, side):
    table = tables.table("skewed", weighted=True)
    setting = tables.setting(preset, table)
    objective = tables.objective(setting)
    problem = tables.problem(table, "bucketed, cut small", np.float32)
    factors = start(problem, objective)
    found = leave_one_out(factors, problem, objective, side)
    for ours, theirs in zip(found[:3], by_hand(table, setting, side, factors)[:3], strict=True):
        assert np.asarray(ours).dtype == np.float32
        np.testing.assert_allclose(np.asarray(ours), theirs, rtol=3e-3, atol=1e-4)


# ---- no answer ----


def few(entries_of_users: Any, dtype: Any, others: int = 9):
    """(problem, factors): users with these numbers of entries, item factors in general position."""
    user = np.repeat(np.arange(len(entries_of_users)), entries_of_users)
    item = np.concatenate([np.arange(n) for n in entries_of_users])
    rng = np.random.default_rng(3)
    value = rng.normal(size=len(user)).astype(dtype)
    problem = jals.Problem.build(jals.Ratings.from_arrays(user, item, value, len(entries_of_users), others))
    return problem, start(problem, jals.explicit(1.0))


@pytest.mark.parametrize("reg, reg_bias, dtype", [(0, None, np.float32), (0, 0.3, np.float64), (0.3, 0, np.float32)])
def test_nan_where_a_row_has_no_solution_without_the_entry(reg, reg_bias, dtype):
    """A row needs an entry for each unknown that has no lambda: with one less it has many solutions."""
    bias = reg_bias is not None
    free = (tables.RANK if reg == 0 else 0) + (bias and reg_bias == 0)
    counts = np.array([free + 1, free, max(free - 1, 0), 9, 0])
    problem, factors = few(counts, dtype=dtype)
    # Without bias the row of as many entries as unknowns has A = 1: nothing is left of 1 - h, to the bit.
    factors = dataclasses.replace(factors, item=factors.item.at[: tables.RANK].set(jnp.eye(tables.RANK, dtype=dtype)))
    objective = jals.explicit(reg, reg_bias=reg_bias, bias=bias)
    if bias:
        biases = {f"{side}_bias": jnp.zeros(len(getattr(factors, side)), dtype) for side in SIDES}
        factors = dataclasses.replace(factors, **biases)

    def of_those_answered(numbers):
        found = leave_one_out(numbers[0], problem, numbers[1])
        return jnp.sum(jnp.where(jnp.isnan(found.residual), 0.0, found.residual) ** 2), found

    numbers = factors, objective.cast(dtype)
    gradient, found = jax.jit(jax.grad(of_those_answered, has_aux=True))(numbers)
    of_row = np.repeat(counts, counts)
    assert (np.isnan(found.residual) == (of_row <= free)).all()
    assert (np.isnan(found.prediction) == (of_row <= free)).all()
    assert (np.isnan(found.leverage) == (of_row < free)).all()
    np.testing.assert_allclose(found.leverage[of_row == free], 1, rtol=1e-3)
    assert np.isnan(found.mean_squared_error)

    # Rows without an answer must not spoil the others' derivatives.
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert np.any(gradient[0].item)


def test_nan_where_rounding_cannot_tell_a_row_from_one_without_a_solution():
    """More entries than unknowns, but all of them alike but one: without that one, the row is singular."""
    problem, factors = few([tables.RANK + 3], dtype=np.float32)
    rng = np.random.default_rng(0)
    flat = rng.normal(size=(9, tables.RANK)).astype(np.float32)
    flat[1:, 0] = flat[1:, 1] * 2
    factors = dataclasses.replace(factors, item=jnp.asarray(flat))
    found = leave_one_out(factors, problem, jals.explicit(0.0))
    assert np.isnan(found.residual).tolist() == [True] + [False] * (tables.RANK + 2)
    np.testing.assert_allclose(found.leverage[0], 1, rtol=1e-3)


# ---- derivatives, jit, vmap ----


@functools.cache
def numbers_of(preset, layout):
    """(function of all numbers, the numbers)"""
    table = tables.table("empty_rows", weighted=False)
    problem = tables.problem(table, layout)
    objective = tables.objective(tables.setting(preset, table)).cast(float)
    rng = np.random.default_rng(2)
    mix = [rng.normal(size=len(table.user)) for _ in range(2)]

    def function(numbers, side):
        now = problem.with_values(numbers["values"], weight=numbers["weight"])
        found = leave_one_out(numbers["factors"], now, numbers["objective"], side)
        error = found.mean_squared_error + jnp.sin(mix[1] @ found.prediction)
        return error if found.leverage is None else error + mix[0] @ found.leverage

    weight = rng.uniform(0.5, 2.0, len(table.user))
    factors = start(problem, objective)
    numbers = {"factors": factors, "objective": objective, "values": table.value, "weight": weight}
    return function, jax.tree.map(lambda leaf: np.asarray(leaf, float), numbers)


@pytest.mark.parametrize(
    "preset, layout, side", [("als_wr+all", "bucketed, cut small", "user"), ("hu_koren+all", "bucketed", "both")]
)
def test_derivatives(preset, layout, side):
    function, numbers = numbers_of(preset, layout)
    leaves, shape = jax.tree.flatten(numbers)

    @jax.jit
    def everything(numbers, direction):
        return jax.jvp(jax.value_and_grad(lambda numbers: function(numbers, side)), (numbers,), (direction,))

    for seed, name in enumerate(numbers):
        rng = np.random.default_rng(seed)
        move = [np.asarray(rng.normal(size=leaf.shape) * (0.1 + np.abs(leaf))) for leaf in leaves]
        direction = jax.tree.unflatten(shape, move)
        direction = {key: jax.tree.map(lambda leaf, on=key == name: leaf * on, direction[key]) for key in numbers}
        at = {step: jax.tree.map(lambda leaf, d: leaf + step * d, numbers, direction) for step in (STEP, -STEP)}  # noqa: B023
        (_, gradient), (slope, curvature) = everything(numbers, direction)
        up, down = (everything(at[step], direction)[0] for step in (STEP, -STEP))
        difference, bend = jax.tree.map(lambda a, b: (np.asarray(a) - b) / (2 * STEP), up, down)
        pairs = zip(jax.tree.leaves(gradient), jax.tree.leaves(direction), strict=True)
        dot = sum(np.vdot(g, d) for g, d in pairs)
        assert abs(difference) > 1e-6, "a direction that changes nothing tests nothing"
        np.testing.assert_allclose(slope, difference, rtol=1e-6)
        np.testing.assert_allclose(dot, slope, rtol=1e-9)
        for ours, theirs in zip(jax.tree.leaves(curvature), jax.tree.leaves(bend), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * (1 + np.abs(theirs).max()))


def test_vmap_equals_one_by_one_and_no_number_compiles_anything_again():
    function, numbers = numbers_of("als_wr+all", "bucketed")
    traces = []

    def gradient(numbers):
        traces.append(1)
        return jax.value_and_grad(lambda numbers: function(numbers, "user"))(numbers)

    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf * 1.5, leaf * 0.7]), numbers)
    single = jax.jit(gradient)
    each = [single(jax.tree.map(lambda leaf, k=k: leaf[k], many)) for k in range(3)]
    assert len(traces) == 1
    together = jax.jit(jax.vmap(gradient))(many)
    assert tables.largest_difference(together, jax.tree.map(lambda *leaves: np.stack(leaves), *each)) < 1e-8


def test_refusals():
    table = tables.table("random", weighted=False)
    problem = tables.problem(table, "bucketed")
    factors = start(problem, jals.explicit(0.1))
    with pytest.raises(jals.ArgumentError, match=r"side is 'users'.*Did you mean \"user\""):
        leave_one_out(factors, problem, jals.explicit(0.1), "users")
    with pytest.raises(jals.ArgumentError, match=r"factors\.user_bias is absent"):
        leave_one_out(factors, problem, jals.explicit(0.1, bias=True))
    with pytest.raises(jals.ArgumentError, match="reg_user is -1"):
        leave_one_out(factors, problem, jals.explicit(-1.0))

"""Rows of newcomers against the same mathematics in plain loops, and a table that grows."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from tests.support import reference, tables


def ratings_of(table, dtype=np.float64):
    columns = (table.value.astype(dtype), table.num_users, table.num_items, table.weight.astype(dtype))
    return jals.Ratings.from_arrays(table.user, table.item, *columns)


def some_factors(table, setting, dtype=np.float64):
    rng = np.random.default_rng(5)
    m, n = table.num_users, table.num_items
    biases = (rng.normal(size=m), rng.normal(size=n)) if setting.bias else (None, None)
    parts = (rng.normal(size=(m, tables.RANK)), rng.normal(size=(n, tables.RANK)), *biases)
    mean = 3.2 if setting.center else None
    return jax.tree.map(lambda part: jnp.asarray(part, dtype), jals.Factors(*parts, mean))


OF_ALL = [pytest.param(each, marks=() if each in tables.BROAD else pytest.mark.slow) for each in tables.PRESETS]


@pytest.fixture(scope="module", params=OF_ALL)
def case(request):
    table = tables.table("together", weighted=True)
    setting = tables.setting(request.param, table)
    return table, setting, tables.objective(setting), some_factors(table, setting)


@pytest.mark.parametrize("side", ["user", "item"])
def test_new_rows_are_those_of_half_a_sweep(case, side):
    table, setting, objective, factors = case
    objective = objective.resolved(jals.Problem.build(ratings_of(table)))
    # the rows of this side are not looked at
    given = dataclasses.replace(factors, **{side: getattr(factors, side)[:1] * jnp.nan})
    if setting.bias:
        given = dataclasses.replace(given, **{f"{side}_bias": jnp.full(1, jnp.nan)})
    rows, bias = jals.fold_in(given, ratings_of(table), objective, side)
    expected, expected_bias = reference.half_sweep(table, setting, side, *tables.arrays(factors))
    np.testing.assert_allclose(rows, expected, rtol=1e-9, atol=1e-10)
    assert (bias is None) == (not setting.bias)
    if bias is not None:
        np.testing.assert_allclose(bias, expected_bias, rtol=1e-9, atol=1e-10)


def test_in_float32_and_under_jit():
    table = tables.table("random", weighted=False)
    setting = tables.setting("als_wr+bias", table)
    factors, objective = some_factors(table, setting, np.float32), tables.objective(setting)
    ratings = ratings_of(table)  # of float64: the factors' dtype is the results'
    rows, bias = jals.fold_in(factors, ratings, objective)
    assert rows.dtype == bias.dtype == np.float32
    problem = jals.Problem.build(ratings)
    traced = jax.jit(jals.fold_in)(factors, problem, objective)
    assert tables.largest_difference((rows, bias), traced) < 1e-5


def test_derivatives_are_those_of_differences():
    """In factors, numbers of the objective, values and weights."""
    table = tables.table("random", weighted=False)
    setting = tables.setting("als_wr+all", table)
    factors, objective = some_factors(table, setting), tables.objective(setting).cast(np.float64)
    problem = jals.Problem.build(ratings_of(table))

    def total(numbers):
        factors, objective, value, weight = numbers
        objective = objective.resolved(problem)
        rows, bias = jals.fold_in(factors, problem.with_values(value, weight), objective)
        return jnp.sum(jnp.sin(rows)) + jnp.sum(bias**2)

    at = (factors, objective, problem.value, problem.weight)
    gradient = jax.grad(total)(at)
    rng = np.random.default_rng(6)
    way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape)), at)
    ahead, back = (total(jax.tree.map(lambda a, b, h=h: a + h * b, at, way)) for h in (1e-5, -1e-5))
    slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True))
    assert float(slope) == pytest.approx(float(ahead - back) / 2e-5, rel=1e-6)


def test_who_has_nothing_is_the_prior_mean():
    table = tables.table("random", False)
    factors = some_factors(table, tables.setting("explicit+bias", table))
    ratings = jals.Ratings.from_arrays([1, 1], [0, 3], [4.0, 2.0], 3, 9, weight=[1.0, 0.0])
    prior = np.arange(4.0)
    rows, bias = jals.fold_in(factors, ratings, jals.als_wr(0.1, prior_user=prior, bias=True, center=True))
    np.testing.assert_array_equal(rows[jnp.array([0, 2])], np.tile(prior, (2, 1)))
    np.testing.assert_array_equal(bias[jnp.array([0, 2])], 0)
    nobody = dataclasses.replace(ratings, weight=np.zeros(2))
    rows, _ = jals.fold_in(factors, nobody, jals.als_wr(0.1, prior_user=prior, bias=True, center=True))
    np.testing.assert_array_equal(rows, np.tile(prior, (3, 1)))


def test_what_does_not_fit_is_refused():
    table = tables.table("random", False)
    factors = some_factors(table, tables.setting("explicit", table))
    ratings = jals.Ratings.from_arrays([0], [3], [4.0], 2, 9)
    for call, words in (
        (lambda: jals.fold_in(factors, jals.Ratings.from_arrays([0], [3], [4.0]), jals.explicit(1)), "num_items=9"),
        (lambda: jals.fold_in(factors, ratings, jals.explicit(1), "item"), "2 users, but the factors 12"),
        (lambda: jals.fold_in(factors, ratings, jals.explicit(1, bias=True)), "factors.user_bias is absent"),
        (lambda: jals.fold_in(factors, ratings, jals.explicit(0)), "user 0 of the ratings has no unique solution"),
        (lambda: jals.fold_in(factors, ratings, jals.explicit(reg_user=np.ones(12), reg_item=1)), "reg_user"),
        (lambda: jals.fold_in(factors, "ratings.csv", jals.explicit(1)), "problem is of type str"),
        (lambda: jals.fold_in(factors, ratings, jals.explicit(1, weight_power_item=1)), "weight_power_item weighs"),
        (lambda: jals.append(factors, jals.Problem.build(ratings), ratings, jals.explicit(1)), "factors.user has 12"),
    ):
        with pytest.raises(jals.ArgumentError, match=words):
            call()
    with pytest.raises(jals.DataError, match="value of entry 0"):
        jals.fold_in(factors, jals.Ratings.from_arrays([0], [3], [-4.0], 2, 9), jals.hu_koren(1, 1))


def test_newcomers_weigh_what_rows_of_the_table_do():
    """Users of the table, folded in by its objective in arrays, are those of half a sweep over it; in one with powers,
    as if the few of them were all. By outside ids they come out so without further ado."""
    table = tables.table("skewed", weighted=True)
    setting = tables.setting("hu_koren+all", table)
    setting.prior_user = setting.unobserved_user = None
    setting.reg_user, setting.reg_item = 0.3, 0.3
    factors, ratings = some_factors(table, setting), ratings_of(table)
    problem, objective = jals.Problem.build(ratings), tables.objective(setting)
    swept, _ = jals.ALS(tables.RANK).update(factors, problem, objective, "user")
    some = ratings.select(ratings.user < 4)
    few = dataclasses.replace(some, num_users=4)
    n = np.bincount(few.user[few.weight > 0], minlength=4)
    rows, _ = jals.fold_in(factors, few, objective.resolved(problem, n))
    np.testing.assert_allclose(rows, swept.user[:4], rtol=1e-10)
    recommender = jals.Recommender(factors, None, objective, ratings)
    made = recommender.fold_in(some.user, some.item, some.value, some.weight)
    np.testing.assert_allclose(made.factors.user, swept.user[np.unique(some.user)], rtol=1e-10)
    unseen = jals.Recommender(factors, None, objective)
    with pytest.raises(jals.ArgumentError, match=r"weight_power_user weighs by how many entries .* seen=train"):
        unseen.fold_in(some.user, some.item)


def test_a_table_grows(case):
    """Touched rows are solved from all of their entries, users first; the others stay to the bit."""
    table, setting, objective, factors = case
    first = (table.user < table.num_users - 2) & (table.item < table.num_items - 1)
    first &= np.arange(len(table.user)) % 9 > 0
    new = np.flatnonzero(~first)[::3]  # some of the rest: rows without entries stay among the new ones
    whole = np.concatenate([np.flatnonzero(first), new])
    columns = {name: getattr(table, name)[whole] for name in ("user", "item", "value", "weight")}
    larger = dataclasses.replace(table, **columns)
    m, n = table.num_users - 2, table.num_items - 1
    old = dataclasses.replace(table, **{name: column[first] for name, column in vars(table).items() if np.ndim(column)})
    old.num_users, old.num_items = m, n
    cut = jals.Factors(factors.user[:m], factors.item[:n], None, None, factors.mean)
    if setting.bias:
        cut = dataclasses.replace(cut, user_bias=factors.user_bias[:m], item_bias=factors.item_bias[:n])
    added = dataclasses.replace(larger, **{name: column[first.sum() :] for name, column in columns.items()})
    appended = jals.append(cut, jals.Problem.build(ratings_of(old)), ratings_of(added), objective)

    X, Y, bu, bi, mean = (np.array(part) for part in tables.arrays(factors))
    for rows, bias, prior, start in ((X, bu, setting.prior_user, m), (Y, bi, setting.prior_item, n)):
        rows[start:] = 0 if prior is None else prior[start:]
        bias[start:] = 0
    touched = {side: np.unique(getattr(added, side)) for side in ("user", "item")}
    for side, rows, bias in (("user", X, bu), ("item", Y, bi)):
        solved, solved_bias = reference.half_sweep(larger, setting, side, X, Y, bu, bi, mean)
        rows[touched[side]], bias[touched[side]] = solved[touched[side]], solved_bias[touched[side]]
        np.testing.assert_array_equal(getattr(appended, f"touched_{side}"), touched[side])
    found = tables.arrays(appended.factors)
    for one, two in zip(found[:4], (X, Y, bu, bi), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-8, atol=1e-9)
    assert (len(touched["user"]), len(touched["item"])) < (table.num_users, table.num_items)
    for name, column in columns.items():
        np.testing.assert_array_equal(getattr(appended.problem, name), column)
    assert repr(appended).startswith("Appended(Problem(")


def test_what_is_there_is_not_appended():
    ratings = jals.Ratings.from_arrays([0, 1], [0, 1], [4.0, 3.0])
    factors = jals.Factors(jnp.ones((2, 1)), jnp.ones((2, 1)))
    again = jals.Ratings.from_arrays([1, 2], [1, 0], [4.0, 3.0])
    with pytest.raises(jals.DataError, match="cannot be one table: 1 duplicate entries; the first: user 1, item 1"):
        jals.append(factors, jals.Problem.build(ratings), again, jals.explicit(1.0))
    with pytest.raises(jals.ArgumentError, match="outside of jit"):
        jax.jit(lambda f: jals.append(f, jals.Problem.build(ratings), again, jals.explicit(1.0)))(factors)

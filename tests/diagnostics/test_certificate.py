"""A certificate that cannot fail proves nothing: each part of the normal equations is broken on purpose."""

import collections
import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import normal
from jals.diagnostics import certificate
from tests.support import reference, tables

VIEW = normal.view


@functools.cache
def fit(dtype):
    table = tables.table("together", weighted=True)
    problem = tables.problem(table, "bucketed", dtype).arrange()
    objective = jals.als_wr(0.3, bias=True, center=True).cast(dtype)
    solver = jals.ALS(tables.RANK, init_scale=1.0)
    return jals.fit(solver, problem, objective, sweeps=3, loss_every=0).factors, problem, objective


@pytest.fixture(params=[np.float32, np.float64])
def fitted(request):
    return fit(request.param)


def wrong_reg(*args, **kwargs):
    """lambda instead of lambda n."""
    view = VIEW(*args, **kwargs)
    return view._replace(reg=view.reg / jnp.maximum(view.slots.count, 1)[:, None])


def wrong_mask(*args, **kwargs):
    """Entries of weight 0 count as observed."""
    view = VIEW(*args, **kwargs)
    buckets = zip(view.slots.weight, view.layout.buckets, strict=True)
    weight = tuple(jnp.where(w == 0, (b.entry < view.layout.num_entries).astype(w.dtype), w) for w, b in buckets)
    return view._replace(slots=view.slots._replace(weight=weight))


def wrong_padding(*args, **kwargs):
    """Padding slots weigh 1e-2."""
    view = VIEW(*args, **kwargs)
    return view._replace(slots=view.slots._replace(weight=tuple(w + 1e-2 * (w == 0) for w in view.slots.weight)))


def wrong_offset(*args, **kwargs):
    """The mean is forgotten."""
    return VIEW(*args, **kwargs)._replace(mean=None)


@pytest.fixture
def compile_again():
    """What is compiled of `certify` knows nothing of a function put in another's place."""
    certificate._certify.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]
    yield
    certificate._certify.clear_cache()  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.usefixtures("compile_again")
@pytest.mark.parametrize(
    "broken, dtype",
    [(wrong_reg, np.float32), (wrong_mask, np.float64), (wrong_padding, np.float32), (wrong_offset, np.float64)],
)
def test_fails_when_the_equations_are_broken(monkeypatch, broken, dtype):
    fitted = fit(dtype)
    monkeypatch.setattr(normal, "view", broken)
    found = jals.certify(*fitted)
    assert not found.holds()
    assert float(found.user.max()) > 1e-3 and float(found.item.max()) > 1e-3


def test_fails_when_one_saved_row_moves(fitted):
    factors, problem, objective = fitted
    assert jals.certify(factors, problem, objective).holds()
    moved = dataclasses.replace(factors, item=factors.item.at[7].add(1e-2))
    found = jals.certify(moved, problem, objective)
    assert not found.holds()
    assert found.holds(last_updated=False), "fresh updates do not look at the rows they replace"
    wrong = np.flatnonzero(np.asarray(found.last_updated) > found.bound)
    np.testing.assert_array_equal(wrong, [7])


def test_fails_for_another_objective_and_for_nan(fitted):
    factors, problem, objective = fitted
    other = dataclasses.replace(objective, reg_power=jnp.zeros_like(objective.reg_power))
    assert float(jals.certify(factors, problem, other).last_updated.max()) > 1e-2
    nan = dataclasses.replace(factors, item=factors.item.at[0, 0].set(jnp.nan))
    assert not jals.certify(nan, problem, objective).holds()


def test_stationarity_falls_as_a_fit_converges():
    table = tables.table("random", weighted=True)
    problem, objective = tables.problem(table, "bucketed"), jals.als_wr(0.3, bias=True, center=True)
    fits = [jals.fit(jals.ALS(2), problem, objective, sweeps=sweeps, loss_every=0) for sweeps in (1, 30, 1000)]
    stationarity = [float(jals.certify(fit.factors, problem, objective).stationarity) for fit in fits]
    assert stationarity[0] > 1e-3 > stationarity[1] > stationarity[2]
    assert stationarity[2] < 1e-12


def test_a_value_that_mean_and_biases_explain_keeps_its_certificate():
    """One entry an item, and a target that is all but gone once mean and bias are taken off, in float32."""
    rng = np.random.default_rng(0)
    items = 400
    value = (3.5 + 1e-4 * rng.normal(size=items)).astype(np.float32)
    ratings = jals.Ratings.from_arrays(rng.integers(0, 5, items), np.arange(items), value)
    problem, objective = jals.Problem.build(ratings), jals.als_wr(0.1, bias=True, center=True)
    with pytest.warns(UserWarning, match="but for the mean and the biases 0"):
        factors = jals.fit(jals.ALS(8), problem, objective, sweeps=5, loss_every=0).factors
    assert jals.certify(factors, problem, objective).holds()


# ---- the whole range of the dtype ----


@functools.cache
def solved_and_moved(preset):
    """(table, setting, users, item rows solved for, and 1 % off)"""
    table = tables.table("random", weighted=False)
    setting = tables.setting(preset, table)
    rng = np.random.default_rng(0)
    X, Y = (rng.normal(size=(rows, tables.RANK)) for rows in (table.num_users, table.num_items))
    Y, _ = reference.half_sweep(table, setting, "item", X, Y, np.zeros(len(X)), np.zeros(len(Y)), 0.0)
    return table, setting, X, Y, Y * (1 + 0.01 * rng.choice([-1, 1], Y.shape))


def errors_at(preset, dtype, a, b):
    """The errors of users, items and items as given (solved for, then 1 % off), with the users times 2^a and the items
    times 2^b. Values and lambda follow, so that every number of the problem is that of the first times a power of two.
    (Where the target is 1, b is the values' alone, and the items undo what the users are multiplied by.)"""
    table, setting, X, *Ys = solved_and_moved(preset)
    grown = {"value": table.value * 2.0 ** (a + b)}
    if preset == "hu_koren":
        grown["value"], setting = table.value * 2.0**b, dataclasses.replace(setting, alpha=setting.alpha / 2.0**b)
        b = -a
    regs = {"reg_user": setting.reg_user * 4.0**b, "reg_item": setting.reg_item * 4.0**a}
    problem = tables.problem(dataclasses.replace(table, **grown), "bucketed", dtype)
    objective = tables.objective(dataclasses.replace(setting, **regs))
    found = []
    for Y in Ys:
        factors = jals.Factors(jnp.asarray(X * 2.0**a, dtype), jnp.asarray(Y * 2.0**b, dtype))
        certificate = jals.certify(factors, problem, objective, jals.ALS(tables.RANK, backend="xla"))
        found.append([np.asarray(each) for each in (certificate.user, certificate.item, certificate.last_updated)])
    return np.concatenate(found[0]), np.concatenate(found[1]), certificate


@pytest.mark.parametrize("dtype, preset", [(np.float32, "als_wr"), (np.float64, "als_wr"), (np.float32, "hu_koren")])
def test_over_the_range_of_the_dtype_rows_are_judged_rightly_or_not_at_all(dtype, preset):
    *ordinary, certificate = errors_at(preset, dtype, 0, 0)
    items = certificate.item.size
    assert ordinary[0].max() <= certificate.bound < ordinary[1][-items:].min()
    room = int(-0.7 * np.finfo(dtype).minexp)
    places = [place * room // 6 for place in (-4, -2, -1, 0, 1, 2, 4)]  # values and lambda are still normal numbers
    judged = collections.Counter()
    for a, b in itertools.product(places, places):
        *errors, certificate = errors_at(preset, dtype, a, b)
        for then, now in zip(ordinary, errors, strict=True):
            told = ~np.isnan(now)
            np.testing.assert_array_equal(now[told], then[told], err_msg=f"2^{a}, 2^{b}")
            assert told.all() or max(2 * abs(a) + abs(b), abs(a) + 2 * abs(b)) > room, (a, b)
            judged.update(told.tolist())
        assert not certificate.holds(), "of rows 1 % off"
        assert sum(certificate.unjudged.values()) == np.isnan(errors[1]).sum()
    assert judged[True] > judged[False] / 2 > 0


@pytest.mark.parametrize("place", [-100, -50, 50, 90])
def test_biases_of_another_magnitude_than_the_factors(place):
    """Fresh updates are never refused, and certified where there is room; no row that is wrong is ever certified."""
    factors, problem, objective = fit(np.float32)
    grown = problem.with_values(problem.value * 2.0**place, problem.weight)
    offsets = {name: getattr(factors, name) * 2.0**place for name in ("user_bias", "item_bias", "mean")}
    offsets["item_bias"] += 2.0**place
    certificate = jals.certify(dataclasses.replace(factors, **offsets), grown, objective)
    for errors in (certificate.user, certificate.item):
        assert not bool((errors > certificate.bound).any())
    assert certificate.holds(last_updated=False) or abs(place) > 50
    pulled = np.asarray(problem.item_slots.count) > 0
    assert not (np.asarray(certificate.last_updated) <= certificate.bound)[pulled].any()


def test_rows_that_nothing_pulls_are_proved_and_rows_that_underflow_are_not():
    table = tables.table("random", weighted=False)
    zeros, faint = (dataclasses.replace(table, value=table.value * by) for by in (0, 1e-30))
    solver, objective = jals.ALS(tables.RANK), jals.explicit(0.1)
    random = solver.init(jax.random.key(0), tables.problem(table, "bucketed", np.float32), objective).factors
    still = jals.Factors(0 * random.user, 0 * random.item)
    for factors, values in ((random, zeros), (still, table), (still, zeros)):
        certificate = jals.certify(factors, tables.problem(values, "bucketed", np.float32), objective)
        assert certificate.holds(last_updated=False) and not any(certificate.unjudged.values())
        assert certificate.holds() == (factors is still)
    certificate = jals.certify(
        dataclasses.replace(still, user=random.user * 1e-20), tables.problem(faint, "bucketed", np.float32), objective
    )
    assert certificate.unjudged == {"user": 0, "item": table.num_items, "last_updated": table.num_items}
    assert not certificate.holds() and np.isnan(certificate.last_updated).all()
    said = str(certificate)
    assert f"items ({table.num_items}) none and {table.num_items} unjudged" in said and "scale the values" in said


def test_a_row_without_entries_is_held_to_its_prior_mean():
    """Its lambda is what pulls, however small: the error is that of lambda x = lambda m."""
    table = tables.table("empty_rows", weighted=False)
    problem, prior = tables.problem(table, "bucketed", np.float32), np.ones(tables.RANK)
    weight = np.where(table.item == 0, 0.0, 1.0)
    problem = problem.with_values(problem.value, jnp.asarray(weight, np.float32))  # item 0 has entries of weight 0 only
    objective = jals.explicit(1e-3, prior_user=prior, prior_item=prior)
    factors = jals.fit(jals.ALS(tables.RANK), problem, objective, sweeps=1, loss_every=0).factors
    assert jals.certify(factors, problem, objective).holds()
    moved = dataclasses.replace(factors, item=factors.item.at[jnp.array([0, 3])].set(2.0))
    errors = np.asarray(jals.certify(moved, problem, objective).last_updated)
    np.testing.assert_allclose(errors[[0, 3]], [1 / 5, 1 / 5], rtol=1e-5)


def test_refuses_factors_that_do_not_fit(fitted):
    factors, problem, _ = fitted
    with pytest.raises(jals.ArgumentError, match=r"factors.user_bias is of shape .*, but .* need it absent"):
        jals.certify(factors, problem, jals.als_wr(0.1))

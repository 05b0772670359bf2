"""A certificate that cannot fail proves nothing: each part of the normal equations is broken on purpose."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import certificate, normal
from tests import tables

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
    factors = jals.fit(jals.ALS(8), problem, objective, sweeps=5, loss_every=0).factors
    assert jals.certify(factors, problem, objective).holds()


def test_refuses_factors_that_do_not_fit(fitted):
    factors, problem, _ = fitted
    with pytest.raises(jals.ArgumentError, match=r"factors.user_bias is of shape .*, but .* need it absent"):
        jals.certify(factors, problem, jals.als_wr(0.1))

"""What an entry adds to the loss is declared once: all who read the declaration find the same, and what it says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.model.feedback import KINDS, coefficients, entry_of, feature
from jals.tuning.checks import check_names
from jals.tuning.rules import One
from tests.support import tables

ALPHA, EPSILON = 2.5, 0.7
OBJECTIVES = {
    "rating": jals.explicit(0.1),
    "confidence": jals.hu_koren(0.1, ALPHA),
    "log_confidence": jals.hu_koren(0.1, ALPHA, epsilon=EPSILON),
    "event": jals.ials(0.1),
}
FORMULAS = {
    "rating": lambda r, v: (v, r, 0 * v),
    "confidence": lambda r, v: (v * ALPHA * r, 1 + 0 * v, v),
    "log_confidence": lambda r, v: (v * ALPHA * (np.log(EPSILON + r) - np.log(EPSILON)), 1 + 0 * v, v),
    "event": lambda r, v: (v, 1 + 0 * v, 0 * v),
}

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("kind", KINDS)
def test_entries_and_the_numbers_for_the_kernel_are_the_formulas(kind):
    """Written out here once more; the kernel makes w = v (w0 + w1 f), t = t0 + t1 f, q = v q0 of its numbers."""
    rng = np.random.default_rng(0)
    r, v = rng.uniform(0.1, 9, 20), rng.choice([0.0, 0.5, 2.0], 20)
    objective, value, weight = OBJECTIVES[kind].cast(float), jnp.asarray(r), jnp.asarray(v)
    assert objective.feedback == kind
    w0, w1, t0, t1, q0 = np.asarray(coefficients(objective, float))
    f = np.asarray(feature(objective, value, weight))
    by_kernel = v * (w0 + w1 * f), t0 + t1 * f, v * q0
    for ours, kernel, expected in zip(entry_of(objective, value, weight), by_kernel, FORMULAS[kind](r, v), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-13)
        np.testing.assert_allclose(np.broadcast_to(kernel, r.shape), expected, rtol=1e-13)


def test_what_is_declared_as_0_or_1_is_not_computed():
    value, weight = jnp.full(3, 4.0), jnp.full(3, 0.5)
    for kind, objective in OBJECTIVES.items():
        entry = objective.cast(float).entry(value, weight)
        assert (feature(objective, value, weight) is value) == (kind != "log_confidence")
        assert (entry.w is weight) == (kind in ("rating", "event"))
        assert (entry.t is value) == (kind == "rating")
        assert (entry.q is weight) == (kind in ("confidence", "log_confidence"))


@pytest.mark.parametrize("solve", ["cholesky", "native"])
def test_a_missing_entry_may_have_any_value(solve):
    """Of weight 0 with a value that has no logarithm, it changes neither the rows nor a derivative."""
    table = tables.table("random", weighted=True)
    assert (table.weight == 0).any()
    problem, solver = tables.problem(table, "segmented"), tables.als(solve, init_scale=1.0)
    objective = OBJECTIVES["log_confidence"].cast(float)
    start = solver.init(jax.random.key(0), problem, objective).factors

    @jax.jit
    def looked(value):
        def lost(value):
            now = problem.with_values(value)
            factors, _ = solver.update(start, now, objective, "user")
            return jals.loss(factors, now, objective)

        return jax.value_and_grad(lost)(value)

    expected = looked(jnp.asarray(table.value))
    found = looked(jnp.where(problem.weight > 0, problem.value, -5.0))
    assert np.isfinite(expected[0]) and np.isfinite(expected[1]).all()
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("epsilon, judged", [(1e20, False), (1e-19, True)])
def test_a_logarithm_that_underflows_proves_nothing(epsilon, judged):
    """alpha r / epsilon is 0.01 in truth, but r / epsilon is no number of float32: the weights come out as 0."""
    table = tables.table("random", weighted=False)
    table = dataclasses.replace(table, value=np.full(len(table.value), 1e-20))
    problem = tables.problem(table, "segmented", np.float32)
    objective = jals.hu_koren(0.3, 1e38 if epsilon == 1e20 else 0.1, epsilon=epsilon).cast(np.float32)
    solver = tables.als("cholesky", init_scale=1.0)
    factors = solver.init(jax.random.key(0), problem, objective).factors
    certificate = jals.certify(factors, problem, objective, solver)
    assert np.isnan(certificate.user).all() == np.isnan(certificate.item).all() == (not judged)
    assert not judged or certificate.holds(last_updated=False)


def test_tune_descends_in_epsilon_where_there_is_one():
    for kind, names in (("confidence", ("alpha",)), ("log_confidence", ("alpha", "epsilon"))):
        found = check_names(None, OBJECTIVES[kind].cast(float), One(), None, False)
        assert set(found) == {"reg_user", "reg_item", "unobserved_weight", *names}


@pytest.mark.parametrize("small, judged", [(1e-22, False), (1e-12, True)])
def test_weights_of_rows_that_underflow_together_prove_nothing(small, judged):
    """g h of 1e-44 is 0 in float32 though neither is: rows of 0 then solve what is left, and that is not said of them
    to be exact."""
    ratings = jals.Ratings.from_arrays([0, 0, 1], [0, 1, 1], np.array([1.0, 2.0, 3.0], np.float32))
    problem, weights = jals.Problem.build(ratings), np.full(2, small)
    objective = jals.explicit(1.0, weight_user=weights, weight_item=weights)
    factors = jals.Factors(jnp.zeros((2, 1), jnp.float32), jnp.ones((2, 1), jnp.float32))
    errors = jals.certify(factors, problem, objective).user
    assert bool(jnp.isfinite(errors).all()) == judged, errors


# ---- how much lambda there is in all ----


@pytest.mark.parametrize("bias", [False, True])
def test_the_total_of_lambda_stays_whatever_its_spread(bias):
    """Of both sides together; one number for all regs, and their differences stay."""
    rng = np.random.default_rng(3)
    pairs = rng.permutation(12 * 7)[:40]
    ratings = jals.Ratings.from_arrays(pairs // 7, pairs % 7, np.ones(40), 13, 7)
    problem = jals.Problem.build(ratings)
    options = {"reg_user": rng.random(13), "reg_item": 0.3, "reg_power": 0.4}
    made = jals.als_wr(**options, bias=True, reg_bias=0.2) if bias else jals.ials(**options, unobserved_weight=0.1)
    mass = 0 if bias else 0.1
    base = np.concatenate([np.bincount(ratings.user, minlength=13) + 7 * mass, np.bincount(ratings.item) + 13 * mass])
    sums = {power: np.sum(np.where(base > 0, base**power, 0)) for power in (0.4, 1.0)}
    kept = made.with_total_reg(problem, 1.0)
    for name in ("reg_user", "reg_item", *(["reg_bias"] if bias else [])):
        np.testing.assert_allclose(getattr(kept, name), getattr(made, name) * sums[1.0] / sums[0.4], rtol=1e-12)
    assert kept.reg_power == 0.4 and (kept.reg_bias is None) == (not bias)

    def user_reg(power):
        moved = dataclasses.replace(made, reg_power=power)
        return moved.with_total_reg(problem, 1.0).reg_item

    step = (user_reg(0.4 + 1e-5) - user_reg(0.4 - 1e-5)) / 2e-5
    np.testing.assert_allclose(jax.jit(jax.grad(user_reg))(0.4), step, rtol=1e-6)
    np.testing.assert_allclose(jax.vmap(user_reg)(jnp.array([0.4, 1.0])), [user_reg(0.4), 0.3], rtol=1e-12)

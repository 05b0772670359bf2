"""What every layout, linsolve and preset must do, on every kind of data."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from tests import reference, tables

FLOATS = (np.float32, np.float64)

pytestmark = pytest.mark.usefixtures("strict_dtypes")


# Every layout with the first solver and every solver with the first layout: how rows are walked and how one is solved
# do not meet, and each case compiles for 15 s.
CERTIFIED = [(layout, tables.EXACT[0]) for layout in tables.LAYOUTS] + [
    (tables.LAYOUTS[0], linsolve) for linsolve in tables.EXACT[1:]
]


@pytest.mark.usefixtures("fresh_caches")
@pytest.mark.parametrize(("layout", "linsolve"), CERTIFIED)
@pytest.mark.parametrize("dtype", FLOATS)
def test_certificate(dtype, layout, linsolve):
    """Two sweeps, then every fresh update and the items as given zero the gradient of the loss to rounding. The table
    holds every kind of data as a block, so that each preset compiles once a layout instead of once a kind."""
    solver = jals.ALS(tables.RANK, linsolve, init_scale=1.0)

    @jax.jit
    def certified(problem, objective):
        state = solver.init(jax.random.key(0), problem, objective)
        state, infos = jals.run(solver, state, problem, objective, sweeps=2)
        return infos, jals.certify(state.factors, problem, objective, solver)

    for weighted, preset in itertools.product((False, True), tables.PRESETS):
        table = tables.table("together", weighted)
        problem = tables.problem(table, layout, dtype)
        infos, certificate = certified(problem, tables.objective(tables.setting(preset, table)).cast(dtype))
        assert bool(infos.finite.all()) and int(infos.bad_row.max()) == -1
        assert certificate.bound == (1e-5 if dtype == np.float32 else 1e-13)
        for errors in (certificate.user, certificate.item, certificate.last_updated):
            assert errors.dtype == dtype
            assert float(errors.max()) <= certificate.bound, (preset, weighted)
        assert certificate.holds()


@pytest.mark.usefixtures("fresh_caches")
@pytest.mark.parametrize("data", ["skewed", "empty_rows"])
@pytest.mark.parametrize("preset", tables.PRESETS)
def test_agrees_with_the_reference(preset, data):
    """Loss and two sweeps equal the NumPy loops, in every layout and by every linsolve (CG given enough steps)."""
    table = tables.table(data, weighted=True)
    setting = tables.setting(preset, table)
    objective = tables.objective(setting)
    first = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), tables.problem(table, "padded"), objective)
    X, Y, bu, bi, mean = tables.arrays(first.factors)
    for _ in range(2):
        X, bu = reference.half_sweep(table, setting, "user", X, Y, bu, bi, mean)
        Y, bi = reference.half_sweep(table, setting, "item", X, Y, bu, bi, mean)
    loss = reference.loss(table, setting, X, Y, bu, bi, mean)
    for layout, linsolve in [*((each, "cholesky") for each in tables.LAYOUTS), ("bucketed", "lu"), ("segmented", "cg")]:
        solver = jals.ALS(tables.RANK, linsolve, cg_steps=3 * tables.RANK, init_scale=1.0)
        state, infos = jals.run(solver, first, tables.problem(table, layout), objective, sweeps=2, loss=True)
        atol = 1e-6 if linsolve == "cg" else 1e-10
        for ours, theirs in zip(tables.arrays(state.factors), (X, Y, bu, bi, mean), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol)
        np.testing.assert_allclose(float(infos.loss[-1]), loss, rtol=1e-10)


def test_mean_is_the_weighted_mean_of_the_values():
    table = tables.table("random", weighted=True)
    problem = tables.problem(table, "bucketed")
    state = jals.ALS(2).init(jax.random.key(0), problem, jals.als_wr(0.1, center=True))
    np.testing.assert_allclose(state.factors.mean, np.average(table.value, weights=table.weight), rtol=1e-14)


@pytest.mark.parametrize("layout", tables.LAYOUTS)
@pytest.mark.parametrize("preset", ["als_wr+all", "ials"])
def test_loss_falls_at_every_half_sweep(preset, layout):
    table = tables.table("skewed", weighted=True)
    problem, objective = tables.problem(table, layout), tables.objective(tables.setting(preset, table))
    solver = jals.ALS(tables.RANK, init_scale=1.0)
    objective = objective.cast(problem.dtype)
    factors = solver.init(jax.random.key(0), problem, objective).factors
    before = float(jals.loss(factors, problem, objective))
    first = before
    for _ in range(4):
        for side in ("user", "item"):
            factors, _ = solver.update(factors, problem, objective, side)
            after = float(jals.loss(factors, problem, objective))
            assert after <= before * (1 + 1e-14)
            before = after
    assert before < 0.9 * first


@pytest.mark.parametrize("linsolve", (*tables.EXACT, "cg"))
def test_state_keeps_its_kind_and_runs_repeat_to_the_bit(linsolve):
    table = tables.table("skewed", weighted=True)
    problem = tables.problem(table, "bucketed, cut small", np.float32)
    objective = tables.objective(tables.setting("als_wr+all", table))
    solver = jals.ALS(tables.RANK, linsolve)
    state = solver.init(jax.random.key(3), problem, objective)
    once, _ = solver.sweep(state, problem, objective)
    kind = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), once) == kind
    runs = [jals.run(solver, state, problem, objective, sweeps=3)[0] for _ in range(2)]
    jax.tree.map(np.testing.assert_array_equal, *runs)


def test_empty_rows_equal_their_prior_mean_and_predict_the_mean():
    table = tables.table("empty_rows", weighted=False)
    setting = tables.setting("als_wr+all", table)
    problem, objective = tables.problem(table, "bucketed"), tables.objective(setting)
    for solver in (jals.ALS(tables.RANK), jals.ALS(tables.RANK, "cg"), jals.Gradient(tables.RANK)):
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            factors = jals.fit(solver, problem, objective, sweeps=3).factors
        for row in (0, 5):
            np.testing.assert_array_equal(factors.user[row], setting.prior_user[row])
            assert factors.user_bias[row] == 0
    plain = jals.als_wr(0.1, bias=True, center=True)
    factors = jals.fit(jals.ALS(tables.RANK), problem, plain, sweeps=3).factors
    np.testing.assert_allclose(jals.predict(factors, [0], [3]), factors.mean, rtol=1e-15)
    np.testing.assert_allclose(jals.predict(factors, [0], [1]), factors.mean + factors.item_bias[1], rtol=1e-15)


def test_weights_of_zero_are_missing_entries():
    """A fold as a weight mask gives the factors of the table without its entries."""
    table = tables.table("random", weighted=False)
    kept = np.random.default_rng(0).random(len(table.user)) < 0.6
    columns = {name: getattr(table, name)[kept] for name in ("user", "item", "value", "weight")}
    fewer = dataclasses.replace(table, **columns)
    objective, solver = jals.als_wr(0.1, bias=True, center=True), jals.ALS(tables.RANK, init_scale=1.0)
    whole = tables.problem(table, "bucketed")
    masked = whole.with_values(table.value, weight=kept.astype(float))
    results = [jals.fit(solver, p, objective, sweeps=4).factors for p in (masked, tables.problem(fewer, "bucketed"))]
    assert tables.largest_difference(*results) < 1e-12


def test_loss_is_unchanged_by_a_rotation():
    table = tables.table("random", weighted=True)
    problem, objective = tables.problem(table, "bucketed"), jals.als_wr(0.1, bias=True, center=True)
    factors = jals.fit(jals.ALS(tables.RANK), problem, objective, sweeps=2).factors
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(tables.RANK, tables.RANK)))
    turned = dataclasses.replace(factors, user=factors.user @ turn, item=factors.item @ turn)
    np.testing.assert_allclose(
        jals.loss(turned, problem, objective), jals.loss(factors, problem, objective), rtol=1e-13
    )


@pytest.mark.parametrize("reg, expected", [(0.0, (-8.333333, 6.0)), (1.5, (-0.1155556, 3.28))])
def test_spark_normal_equations(reg, expected):
    """Spark's ALSSuite: rows of A are item factors, b the ratings; lambda 1.5 is on the diagonal once."""
    problem = jals.Problem.build(jals.Ratings.from_arrays([0, 0, 0], [0, 1, 2], np.array([4.0, 9.0, 16.0])))
    factors = jals.Factors(jnp.zeros((1, 2)), jnp.array([[1.0, 2.0], [1.0, 3.0], [1.0, 4.0]]))
    for linsolve in tables.EXACT:
        updated, good = jals.ALS(2, linsolve).update(factors, problem, jals.explicit(reg).cast(float), "user")
        assert good.all()
        np.testing.assert_allclose(updated.user[0], expected, rtol=1e-6)


def test_qmf_implicit_row():
    """QMF's WALSEngineTest: one user with both of two items, whose three factors are all .1; alpha = lambda = 1."""
    problem = jals.Problem.build(jals.Ratings.from_arrays([0, 0], [0, 1], np.array([1.0, 1.0]), num_users=3))
    factors = jals.Factors(jnp.zeros((3, 3)), jnp.full((2, 3), 0.1))
    updated, _ = jals.ALS(3).update(factors, problem, jals.hu_koren(1.0, alpha=1.0).cast(float), "user")
    np.testing.assert_allclose(updated.user[0], 0.35714, atol=1e-5)
    np.testing.assert_allclose(updated.user[1:], 0, atol=1e-12)

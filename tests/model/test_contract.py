"""What every layout, linsolve and preset must do, on every kind of data. (What every solver must: test_solvers.py.)"""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.rows import backward_error
from tests.support import reference, tables

FLOATS = (np.float32, np.float64)

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@functools.partial(jax.jit, static_argnames="side")
def update(solver, factors, problem, objective, side):
    return solver.update(factors, problem, objective, side)


# Every layout with the first solver, and every solver with the first layout: how rows are walked and how one is solved
# do not meet. Each dtype meets every preset once, by XLA or by the kernel; the rest, those of all terms: a preset takes
# 3 s.
CERTIFIED = [
    (np.float32, ("bucketed", "padded"), "cholesky", tables.PRESETS),
    (np.float64, ("segmented",), "cholesky", tables.BROAD),
    (np.float64, ("bucketed, cut small",), "cholesky", tables.BROAD),
    (np.float64, ("bucketed", "padded"), "cholesky", tables.BROAD),
    (np.float32, ("segmented",), "cholesky", tables.BROAD),
    (np.float32, ("bucketed, cut small",), "cholesky", tables.BROAD),
    (np.float32, ("bucketed",), "lu", tables.BROAD),
    (np.float64, ("bucketed",), "lu", tables.BROAD),
    (np.float32, ("bucketed", "padded"), "native", tables.BROAD),
    (np.float64, ("segmented",), "native", tables.PRESETS),
    (np.float64, ("bucketed, cut small",), "native", tables.BROAD),
    (np.float64, ("bucketed", "padded"), "native", tables.BROAD),
    (np.float32, ("segmented",), "native", tables.BROAD),
    (np.float32, ("bucketed, cut small",), "native", tables.BROAD),
]


def test_every_layout_solver_and_dtype_is_certified():
    cases = [(dtype, layout, linsolve) for dtype, layouts, linsolve, _ in CERTIFIED for layout in layouts]
    pairs = {(layout, solve) for layout in tables.LAYOUTS for solve in ("cholesky", "native")} | {("bucketed", "lu")}
    assert set(cases) == {(dtype, *pair) for dtype in FLOATS for pair in pairs}


@pytest.mark.usefixtures("fresh_caches")
@pytest.mark.parametrize(
    "dtype, layouts, linsolve, presets",
    CERTIFIED,
    ids=lambda part: part.__name__ if isinstance(part, type) else part if isinstance(part, str) else part[0],
)
def test_certificate(dtype, layouts, linsolve, presets):
    """Two sweeps, then every fresh update and the items as given zero the gradient of the loss to rounding. The table
    holds every kind of data as a block, so that each preset compiles once a layout instead of once a kind."""
    solver = tables.als(linsolve, init_scale=1.0)

    @jax.jit
    def certified(problem, objective):
        state = solver.init(jax.random.key(0), problem, objective)
        state, infos = jals.run(solver, state, problem, objective, sweeps=2)
        return infos, jals.certify(state.factors, problem, objective, solver)

    for preset, layout in itertools.product(presets, layouts):
        for table in (tables.table("together", weighted) for weighted in (False, True)):
            objective = tables.objective(tables.setting(preset, table)).cast(dtype)
            infos, certificate = certified(tables.problem(table, layout, dtype), objective)
            assert bool(infos.finite.all()) and int(infos.bad_row.max()) == -1
            assert certificate.bound == (1e-5 if dtype == np.float32 else 1e-13)
            for errors in (certificate.user, certificate.item, certificate.last_updated):
                assert errors.dtype == dtype
                assert float(errors.max()) <= certificate.bound, (preset, layout)
            assert certificate.holds()


@functools.cache
def two_sweeps_by_loops(preset):
    """(start, factors and mean, loss) of the NumPy loops on the table of every kind of data."""
    table = tables.table("together", weighted=True)
    setting = tables.setting(preset, table)
    solver, problem = jals.ALS(tables.RANK, init_scale=1.0), tables.problem(table, "segmented")
    start = solver.init(jax.random.key(0), problem, tables.objective(setting))
    X, Y, bu, bi, mean = tables.arrays(start.factors)
    for _ in range(2):
        X, bu = reference.half_sweep(table, setting, "user", X, Y, bu, bi, mean)
        Y, bi = reference.half_sweep(table, setting, "item", X, Y, bu, bi, mean)
    return start, (X, Y, bu, bi, mean), reference.loss(table, setting, X, Y, bu, bi, mean)


@pytest.mark.usefixtures("fresh_caches")
@pytest.mark.parametrize(
    "layouts, linsolve, presets",
    [
        (("bucketed", "padded"), "cholesky", tables.PRESETS),
        (("segmented",), "cg", ("explicit", *tables.BROAD, "hu_koren+log")),
        (("segmented",), "cholesky", tables.BROAD),
        (("bucketed, cut small",), "cholesky", tables.BROAD),
        (("bucketed",), "lu", (*tables.BROAD, "hu_koren+log")),
        (tables.LAYOUTS, "native", tables.PRESETS),
    ],
    ids=lambda part: part if isinstance(part, str) else part[0],
)
def test_agrees_with_the_reference(layouts, linsolve, presets):
    """Loss and two sweeps equal the NumPy loops (CG given enough steps). That a layout solves what the loss asks for is
    the certificate's to say, for every preset."""
    table = tables.table("together", weighted=True)
    solver = tables.als(linsolve, cg_steps=3 * tables.RANK, init_scale=1.0)
    atol = 1e-6 if linsolve == "cg" else 1e-10
    for preset, layout in itertools.product(presets, layouts):
        start, expected, loss = two_sweeps_by_loops(preset)
        objective = tables.objective(tables.setting(preset, table))
        state, infos = jals.run(solver, start, tables.problem(table, layout), objective, sweeps=2, loss=True)
        for ours, theirs in zip(tables.arrays(state.factors), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=atol, err_msg=preset)
        np.testing.assert_allclose(float(infos.loss[-1]), loss, rtol=1e-10)


@pytest.mark.parametrize("solve", ["cholesky", "native"])
def test_loss_of_a_sweep_is_rounded_as_the_ill_conditioned_rows_are(solve):
    """Weights of 1e15 beside a lambda of 0.3: |A|_F |x|^2 is far above the loss at 0, and bounds what is lost."""
    table = tables.table("random", weighted=False)
    objective = tables.objective(tables.setting("hu_koren", table)).cast(float)
    problem = tables.problem(dataclasses.replace(table, value=table.value * 1e15), "bucketed").arrange()
    solver = tables.als(solve)
    start = solver.init(jax.random.key(0), problem, objective)
    state, infos = jals.run(solver, start, problem, objective, sweeps=3, loss=True)
    loss = float(jals.loss(state.factors, problem, objective))
    at_zero = float(jnp.sum(objective.alpha * problem.value))
    sizes = backward_error.sizes(state.factors, problem, objective, "item")
    of_rows = float(jnp.sum(sizes.matrix * jnp.sum(state.factors.item**2, axis=-1)))
    assert of_rows > 5 * at_zero
    assert abs(float(infos.loss[-1]) - loss) <= np.finfo(float).eps * (at_zero + of_rows) < 1e-11 * loss


def test_mean_is_the_weighted_mean_of_the_values():
    table = tables.table("random", weighted=True)
    problem = tables.problem(table, "bucketed")
    state = jals.ALS(2).init(jax.random.key(0), problem, jals.als_wr(0.1, center=True))
    np.testing.assert_allclose(state.factors.mean, np.average(table.value, weights=table.weight), rtol=1e-14)


@pytest.mark.parametrize("preset", tables.BROAD)
def test_loss_falls_at_every_half_sweep(preset):
    table = tables.table("skewed", weighted=True)
    problem, objective = tables.problem(table, "segmented"), tables.objective(tables.setting(preset, table))
    solver = jals.ALS(tables.RANK, init_scale=1.0)
    objective = objective.cast(problem.dtype)
    factors = solver.init(jax.random.key(0), problem, objective).factors
    before = float(jals.loss(factors, problem, objective))
    first = before
    for _ in range(4):
        for side in ("user", "item"):
            factors, _ = update(solver, factors, problem, objective, side)
            after = float(jals.loss(factors, problem, objective))
            assert after <= before * (1 + 1e-14)
            before = after
    assert before < 0.9 * first


@pytest.mark.parametrize("rounding", ["bfloat16", "float16"])
def test_rounding_rounds_each_half_sweep(rounding):
    """What a sweep gives is the rounded rows of an exact half-sweep from the rounded other side, to the bit."""
    table = tables.table("skewed", weighted=True)
    problem = tables.problem(table, "segmented", np.float32)
    objective = tables.objective(tables.setting("als_wr+bias", table)).cast(np.float32)
    exact, solver = jals.ALS(tables.RANK), jals.ALS(tables.RANK, rounding=rounding)
    assert exact.exact and not solver.exact
    start = solver.init(jax.random.key(0), problem, objective)
    jax.tree.map(np.testing.assert_array_equal, start, exact.init(jax.random.key(0), problem, objective))

    by_hand = start.factors
    for side in ("user", "item"):
        solved, _ = update(exact, by_hand, problem, objective, side)
        near = {part: np.asarray(getattr(solved, part)).astype(rounding) for part in (side, f"{side}_bias")}
        by_hand = dataclasses.replace(by_hand, **{part: jnp.asarray(each, np.float32) for part, each in near.items()})
    once, info = solver.sweep(start, problem, objective)
    jax.tree.map(np.testing.assert_array_equal, once.factors, by_hand)
    assert once.factors.dtype == np.float32 and info.finite and int(info.passes) == 2
    assert once.factors.mean == start.factors.mean

    after, _ = jals.run(solver, once, problem, objective, sweeps=9)
    certificate = jals.certify(after.factors, problem, objective, solver)
    assert certificate.holds(last_updated=False)
    eps = float(jnp.finfo(rounding).eps)
    assert eps / 50 < float(certificate.last_updated.max()) < eps


def test_derivatives_pass_the_rounding():
    """They are the exact sweep's at the rounded numbers, and not rounded themselves: forward and reverse agree."""
    table = tables.table("random", weighted=False)
    problem, objective = tables.problem(table, "segmented"), jals.als_wr(0.1).cast(float)
    start = jals.ALS(2, init_scale=1.0).init(jax.random.key(0), problem, objective)

    def error(reg, rounding):
        solver = jals.ALS(2, rounding=rounding)
        state, _ = solver.sweep(start, problem, jals.als_wr(reg).cast(float))
        return jnp.mean(jals.predict(state.factors, np.arange(9), np.arange(9)))

    slopes = {}
    for rounding in (None, "bfloat16"):
        slope = jax.jit(jax.grad(functools.partial(error, rounding=rounding)))
        forward = jax.jit(lambda reg, rounding=rounding: jax.jvp(lambda reg: error(reg, rounding), (reg,), (1.0,))[1])
        slopes[rounding] = float(slope(0.3))
        np.testing.assert_allclose(forward(0.3), slopes[rounding], rtol=1e-12)
    np.testing.assert_allclose(slopes["bfloat16"], slopes[None], rtol=0.1)
    assert slopes["bfloat16"] != slopes[None]


@pytest.mark.parametrize("rounding", ["bfloat", jnp.bfloat16, 16, True])
def test_unknown_rounding_is_refused(rounding):
    hint = r" Did you mean \"bfloat16\"\?" if rounding == "bfloat" else ""
    with pytest.raises(jals.ArgumentError, match=r'rounding is .*, but must be one of "bfloat16", "float16"\.' + hint):
        jals.ALS(2, rounding=rounding)


def test_a_pair_without_entries_is_predicted_by_the_mean_and_what_is_known():
    table = tables.table("empty_rows", weighted=False)
    problem, objective = tables.problem(table, "bucketed"), jals.als_wr(0.1, bias=True, center=True)
    factors = jals.fit(jals.ALS(tables.RANK), problem, objective, sweeps=3, loss_every=0).factors
    np.testing.assert_allclose(jals.predict(factors, [0], [3]), factors.mean, rtol=1e-15)
    np.testing.assert_allclose(jals.predict(factors, [0], [1]), factors.mean + factors.item_bias[1], rtol=1e-15)


def test_weights_of_zero_are_missing_entries():
    """A fold as a weight mask gives the factors of the table without its entries."""
    table = tables.table("random", weighted=False)
    kept = np.random.default_rng(0).random(len(table.user)) < 0.6
    columns = {name: getattr(table, name)[kept] for name in ("user", "item", "value", "weight")}
    fewer = dataclasses.replace(table, **columns)
    powers = {"weight_power_user": -0.4, "weight_power_item": 0.3}  # of n, which is that of the fold
    objective, solver = jals.als_wr(0.1, bias=True, center=True, **powers), jals.ALS(tables.RANK, init_scale=1.0)
    whole = tables.problem(table, "bucketed")
    masked = whole.with_values(table.value, weight=kept.astype(float))
    problems = masked, tables.problem(fewer, "bucketed")
    results = [jals.fit(solver, each, objective, sweeps=4, loss_every=0).factors for each in problems]
    assert tables.largest_difference(*results) < 1e-12


def test_loss_is_unchanged_by_a_rotation():
    table = tables.table("random", weighted=True)
    problem, objective = tables.problem(table, "bucketed"), jals.als_wr(0.1, bias=True, center=True)
    factors = jals.fit(jals.ALS(tables.RANK), problem, objective, sweeps=2, loss_every=0).factors
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
        updated, good = update(tables.als(linsolve, rank=2), factors, problem, jals.explicit(reg).cast(float), "user")
        assert good.all()
        np.testing.assert_allclose(updated.user[0], expected, rtol=1e-6)


def test_qmf_implicit_row():
    """QMF's WALSEngineTest: one user with both of two items, whose three factors are all .1; alpha = lambda = 1."""
    problem = jals.Problem.build(jals.Ratings.from_arrays([0, 0], [0, 1], np.array([1.0, 1.0]), num_users=3))
    factors = jals.Factors(jnp.zeros((3, 3)), jnp.full((2, 3), 0.1))
    updated, _ = update(jals.ALS(3), factors, problem, jals.hu_koren(1.0, alpha=1.0).cast(float), "user")
    np.testing.assert_allclose(updated.user[0], 0.35714, atol=1e-5)
    np.testing.assert_allclose(updated.user[1:], 0, atol=1e-12)

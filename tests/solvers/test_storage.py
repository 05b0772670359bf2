"""Factors held in bfloat16 between sweeps, `ALS(storage="bfloat16")`: half the memory, the numbers of `rounding`."""

import dataclasses
import functools
import importlib.util
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import normal
from tests.support import tables

SOLVES = ("cholesky", "native", "cg", "subspace")
STEPS = ({"linsolve": "cg", "cg_steps": 2}, {"linsolve": "subspace", "block": 3})
KEY = jax.random.key(0)

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@functools.cache
def given(preset: str, data: str = "skewed") -> tuple[jals.Problem, jals.Objective]:
    table = tables.table(data, weighted=True)
    problem = tables.problem(table, "bucketed, cut small", np.float32).arrange()
    return problem, tables.objective(tables.setting(preset, table)).cast(np.float32)


def stored(solve: str = "cholesky", **more: Any) -> jals.ALS:
    return tables.als(solve, storage="bfloat16", init_scale=1.0, **more)


def assert_same(one: Any, two: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, one, two)


# ---- what a state is, and its numbers ----


@pytest.mark.parametrize("preset", ["als_wr+bias", "ials"])
def test_states_are_held_in_it_and_the_mean_is_not(preset):
    problem, objective = given(preset)
    start = stored().init(KEY, problem, objective)
    state, info = stored().sweep(start, problem, objective, loss=True)
    for factors in (start.factors, state.factors):
        for part, array in vars(factors).items():
            assert array is None or array.dtype == (np.float32 if part == "mean" else jnp.bfloat16)
    whole = jals.ALS(tables.RANK, init_scale=1.0).init(KEY, problem, objective).factors
    pairs = zip(jax.tree.leaves(start.factors), jax.tree.leaves(whole), strict=True)
    assert all(each.nbytes * 2 == other.nbytes for each, other in pairs if other.ndim)
    assert_same(start.factors, stored().init(KEY, problem, objective, whole).factors)  # and given ones become so
    assert info.loss == jals.loss(state.factors, problem, objective) and info.loss.dtype == np.float32


@pytest.mark.parametrize("solve", SOLVES)
@pytest.mark.parametrize("preset", tables.BROAD)
def test_the_numbers_are_those_of_rounding_to_the_bit(preset, solve):
    problem, objective = given(preset)
    solver, rounded = stored(solve), tables.als(solve, rounding="bfloat16")
    start = solver.init(KEY, problem, objective)
    wide = rounded.init(KEY, problem, objective, start.factors)
    state, infos = jals.run(solver, start, problem, objective, sweeps=3, loss=True)
    expected, same = jals.run(rounded, wide, problem, objective, sweeps=3, loss=True)
    assert_same(jax.tree.map(lambda leaf: leaf.astype(jnp.float32), state), expected)
    np.testing.assert_allclose(infos.loss, same.loss, rtol=1e-6)


def test_the_certificate_shows_what_storing_costs():
    problem, objective = given("als_wr+all")
    solver = stored()
    assert not (solver.exact or solver.monotone or solver.loss_with_sweep) and jals.ALS(2).exact
    state, _ = jals.run(solver, solver.init(KEY, problem, objective), problem, objective, sweeps=9)
    certificate = jals.certify(state.factors, problem, objective, solver)
    assert certificate.holds(last_updated=False) and certificate.user.dtype == np.float32
    eps = float(jnp.finfo(jnp.bfloat16).eps)
    assert eps / 50 < float(certificate.last_updated.max()) < eps


@pytest.mark.parametrize("linsolve", [{}, *STEPS], ids=["cholesky", "cg", "subspace"])
@pytest.mark.parametrize("preset", tables.BROAD)
def test_kernel_and_xla_agree_before_they_round(preset, linsolve):
    """At a rank that fills no vector; random ranks: rows/fuzz.cpp."""
    tables.als("native")  # or skip
    problem, objective = given(preset, "together")
    objective = dataclasses.replace(objective, prior_user=None, prior_item=None)
    ours, theirs = (jals.ALS(13, storage="bfloat16", backend=each, **linsolve) for each in ("native", "xla"))
    start = ours.init(KEY, problem, objective)
    one, two = (
        jax.jit(functools.partial(each.half_sweep, side="user", value=True))(start.factors, problem, objective)[1]
        for each in (ours, theirs)
    )
    assert one.rows.dtype == np.float32
    np.testing.assert_allclose(one.rows, two.rows, rtol=0, atol=2e-5 * float(jnp.abs(two.rows).max()))
    np.testing.assert_allclose(one.value, two.value, rtol=2e-4, atol=2e-4)


def test_updates_and_folding_in_read_them_in_float32():
    problem, objective = given("als_wr+bias")
    start = stored().init(KEY, problem, objective)
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), start.factors)
    updated, good = stored().update(start.factors, problem, objective, "user")
    assert_same(updated, jals.ALS(tables.RANK, backend="xla").update(wide, problem, objective, "user")[0])
    assert good.all() and {leaf.dtype for leaf in jax.tree.leaves(updated)} == {np.dtype(np.float32)}
    table = tables.table("skewed", weighted=True)
    values, weights = table.value.astype(np.float32), table.weight.astype(np.float32)
    ratings = jals.Ratings.from_arrays(table.user, table.item, values, weight=weights)
    rows, _ = jals.fold_in(start.factors, ratings, objective)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(rows, updated.user, atol=1e-5)
    user, item = np.arange(9), np.arange(9)
    assert_same(jals.predict(start.factors, user, item), jals.predict(wide, user, item))
    assert_same(jals.top_k(start.factors, user, 3), jals.top_k(wide, user, 3))


# ---- memory ----


WAYS = {
    "cholesky": {"backend": "xla"},
    "native": {"backend": "native"},
    "cg": {"linsolve": "cg", "backend": "xla"},
    "native cg": {"linsolve": "cg", "backend": "native"},
    "native subspace": {"linsolve": "subspace", "backend": "native"},
}


@pytest.mark.usefixtures("fresh_caches")
@pytest.mark.parametrize("preset", ["explicit", "ials"])
@pytest.mark.parametrize("way", WAYS)
def test_no_float32_copy_of_the_other_side_is_made(way, preset):
    """A half-sweep's temporaries take less than one would."""
    if "native" in way:
        tables.als("native")  # or skip
    users, items, rank = 30, 30_000, 64
    user, item, ones = np.repeat(np.arange(users), 4), np.arange(4 * users) * 7, np.ones(4 * users)
    table = tables.Table(user, item, ones, ones, users, items)
    problem = tables.problem(table, "bucketed, cut small", np.float32).arrange()  # slabs to loop over
    objective = {"explicit": jals.explicit(0.1), "ials": jals.ials(0.1, 0.2)}[preset].cast(np.float32)
    solver = jals.ALS(rank, storage="bfloat16", **WAYS[way])

    def temporaries(read):
        half = jax.jit(lambda factors, problem: solver.half_sweep(read(factors), problem, objective, "user")[1].rows)
        return half.lower(factors, problem).compile().memory_analysis().temp_size_in_bytes

    factors, copy = jax.eval_shape(solver.init, KEY, problem, objective).factors, 4 * items * rank
    assert temporaries(lambda factors: factors) < 0.9 * copy
    # What is measured sees one: here the factors are widened first.
    assert temporaries(lambda factors: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), factors)) >= copy


# ---- derivatives ----


def forward(function: Any) -> Any:
    return lambda at: jax.jvp(function, (at,), (jnp.ones_like(at),))[1]


WHICH = {"reverse": jax.grad, "forward": forward, "second": lambda of: forward(jax.grad(of))}


@pytest.mark.usefixtures("fresh_caches")
@pytest.mark.parametrize("solve, last", [("cholesky", "second"), ("native", "reverse"), ("cg", "forward")])
def test_derivatives_are_those_of_rounding_to_eight_bits(solve, last):
    """Of a mean square of predictions in a lambda, after two sweeps."""
    table = tables.table("random", weighted=False)
    problem = tables.problem(table, "segmented", np.float32).arrange()
    start = stored(solve).init(KEY, problem, jals.explicit(0.3))
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), start)

    def error(solver, start, reg):
        state, _ = jals.run(solver, start, problem, jals.explicit(reg).cast(np.float32), sweeps=2)
        return jnp.mean(jals.predict(state.factors, np.arange(9), np.arange(9)) ** 2)

    rounded = tables.als(solve, rounding="bfloat16", init_scale=1.0)
    errors = [functools.partial(error, *each) for each in ((stored(solve), start), (rounded, wide))]
    for name in list(WHICH)[: list(WHICH).index(last) + 1]:
        found, expected = (float(jax.jit(WHICH[name](of))(jnp.float32(0.3))) for of in errors)
        assert found == pytest.approx(expected, rel=0.03) and found != expected, name


@pytest.mark.parametrize("backend", ["xla", "auto"])
def test_cotangents_are_added_up_in_float32(backend):
    """Of one item with 3,000 raters: in bfloat16 a sum would stop at 256 of them."""
    users = 3000
    ratings = jals.Ratings.from_arrays(np.arange(users), np.zeros(users, int), np.ones(users, np.float32), users, 2)
    problem = jals.Problem.build(ratings).arrange()
    factors = jals.Factors(jnp.zeros((users, 1), jnp.bfloat16), jnp.ones((2, 1), jnp.bfloat16))
    objective = jals.explicit(1.0).cast(np.float32)

    def total(item):
        here = normal.view(dataclasses.replace(factors, item=item), problem, objective, "user")
        return jals.rowsolve.solve(here, backend=backend).rows.sum()

    # x = y / (y^2 + 1) has the derivative 0 at y = 1, and 0.12 at y = 2.
    found = jax.jit(jax.grad(total))(2 * factors.item)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, float)[:, 0], [-0.12 * users, 0], rtol=0.01)


# ---- fits ----


def fitted(solver: jals.ALS, **more: Any) -> jals.Result:
    problem, objective = given("als_wr+bias")
    table = tables.table("skewed", weighted=False)
    held_out = jals.Ratings.from_arrays(
        table.user[:20], table.item[:20], table.value[:20].astype(np.float32), table.num_users, table.num_items
    )
    return jals.fit(solver, problem, objective, validation=held_out, **more)


@pytest.fixture
def loose_dtypes():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.usefixtures("loose_dtypes")
def test_a_fit_goes_on_from_its_result_and_its_file(tmp_path):
    whole, half = fitted(stored(), sweeps=4), fitted(stored(), sweeps=2)
    again = fitted(stored(), sweeps=4, init=half)
    assert_same((again.factors, again.state), (whole.factors, whole.state))
    assert again.history.loss == whole.history.loss and np.isfinite(whole.history.validation).all()
    assert whole.factors.dtype == fitted(stored(), sweeps=2, init=half).factors.dtype == jnp.bfloat16
    rounded = fitted(tables.als("cholesky", rounding="bfloat16"), sweeps=4, init=fitted(stored(), sweeps=0).factors)
    np.testing.assert_allclose(whole.history.loss, rounded.history.loss, rtol=1e-6)
    np.testing.assert_allclose(whole.history.validation, rounded.history.validation, rtol=1e-6)

    for suffix in ["npz"] + ["safetensors"] * (importlib.util.find_spec("safetensors") is not None):
        path = tmp_path / f"factors.{suffix}"
        jals.save(path, whole.factors)
        saved = jals.load(path).factors
        assert saved.dtype == np.float32
        assert_same(saved, rounded.factors)
        problem, objective = given("als_wr+bias")
        assert_same(stored().init(KEY, problem, objective, saved).factors, whole.factors)


@pytest.mark.usefixtures("loose_dtypes")
@pytest.mark.parametrize("loop", ["map", "vmap"])
def test_many_fits_are_those_of_fit(loop):
    problem, _ = given("als_wr+bias")
    objectives = [jals.als_wr(reg, bias=True) for reg in (0.1, 0.3)]
    results = jals.fit_many(stored(), problem, objectives, sweeps=3, loop=loop)
    for result, objective in zip(results, objectives, strict=True):
        alone = jals.fit(stored(), problem, objective, sweeps=3)
        assert result.factors.dtype == jnp.bfloat16
        np.testing.assert_allclose(result.history.loss, alone.history.loss, rtol=1e-4)


# ---- what is refused ----


def test_what_does_not_go_with_it_is_refused():
    problem, objective = given("als_wr+bias")
    wide = tables.problem(tables.table("skewed", weighted=True), "segmented")
    start = stored().init(KEY, problem, objective)
    plain = jals.ALS(tables.RANK).init(KEY, problem, objective)
    computes = "computes in float32, but the problem is float64: take problem.astype"
    for call, said in (
        (lambda: stored().init(KEY, wide, objective), computes),
        (lambda: stored().sweep(start, wide, objective), computes),
        (lambda: stored().sweep(plain, problem, objective), r"state\.factors\.user is float32, but .* needs bfloat16"),
        (lambda: jals.run(jals.ALS(4), start, problem, objective), r"state\.factors\.user is bfloat16, but a sweep"),
        (lambda: jals.ALS(2, storage="bfloat61"), r'must be one of "bfloat16"\. Did you mean "bfloat16"\?'),
        (lambda: jals.ALS(2, storage="float16"), "storage is 'float16', but must be one of"),
        (lambda: jals.ALS(2, storage="bfloat16", rounding="float16"), "rounding and storage are both given"),
    ):
        with pytest.raises(jals.ArgumentError, match=said):
            call()

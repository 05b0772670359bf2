"""Accelerated ALS: the minima of ALS with never a higher loss, in far fewer passes."""

import dataclasses
import functools
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.solvers.anderson import AndersonALS, _solve
from tests.support import tables

pytestmark = [pytest.mark.usefixtures("fresh_caches"), pytest.mark.newest]


def hard(dtype: Any = np.float64):
    """A table and a small lambda with which plain ALS crawls."""
    dataset, _ = jals.datasets.synthetic(60, 40, rank=3, density=0.25, noise=0.3, seed=0, bias=True, dtype=dtype)
    return jals.Problem.build(dataset.ratings), jals.als_wr(0.02, bias=True, center=True).cast(dtype)


def losses(solver, problem, objective, sweeps, key=0):
    """(state, passes, losses) of a run."""
    state = solver.init(jax.random.key(key), problem, objective)
    state, infos = jals.run(solver, state, problem, objective, sweeps=sweeps, loss=True)
    assert bool(infos.finite.all()) and int(infos.bad_row.max()) == -1
    return state, np.asarray(infos.passes), np.asarray(infos.loss)


@pytest.mark.usefixtures("strict_dtypes")
def test_every_sweep_is_certified_and_never_raises_the_loss():
    """Over more sweeps, and rows of more kinds, than what every solver is asked for."""
    table = tables.table("together", weighted=True)
    problem = tables.problem(table, "bucketed, cut small")
    objective = tables.objective(tables.setting("hu_koren+all", table))
    solver = AndersonALS(tables.RANK, memory=3, linsolve="lu", init_scale=1.0)
    state, passes, found = losses(solver, problem, objective, 10)
    assert set(passes) <= {2, 4}
    assert (np.diff(found) <= 20 * np.finfo(float).eps * found[1:]).all()
    assert jals.certify(state.factors, problem, objective).holds()
    np.testing.assert_allclose(state.memory.loss, found[-1], rtol=20 * np.finfo(float).eps)


@pytest.mark.parametrize("layout", ["bucketed, cut small"])
@pytest.mark.parametrize("preset", ["als_wr+all", "ials"])
def test_the_loss_of_the_half_sweep_is_the_loss(layout, preset):
    """Also where rows without entries are far from the prior mean that the sweep takes them to."""
    table = tables.table("together", weighted=True)
    problem, objective = tables.problem(table, layout), tables.objective(tables.setting(preset, table))
    solver = AndersonALS(tables.RANK)
    start = solver.init(jax.random.key(0), problem, objective).factors
    start = dataclasses.replace(start, item=start.item + 1)
    state, _ = solver.sweep(solver.init(jax.random.key(0), problem, objective, start), problem, objective)
    np.testing.assert_allclose(state.memory.loss, jals.loss(state.factors, problem, objective), rtol=1e-13)


def test_the_first_sweep_is_one_of_als():
    problem, objective = hard()
    plain, ours = (
        solver.sweep(solver.init(jax.random.key(0), problem, objective), problem, objective)
        for solver in (jals.ALS(3), AndersonALS(3))
    )
    assert tables.largest_difference(plain[0].factors, ours[0].factors) < 1e-13
    assert int(ours[1].passes) == 2


def test_arrives_where_als_does_in_a_fraction_of_the_passes():
    problem, objective = hard()

    @functools.partial(jax.jit, static_argnames="sweeps")
    def ahead(solver, state, sweeps):
        state, infos = jals.run(solver, state, problem, objective, sweeps=sweeps)
        return state, infos.passes.sum(), jals.certify(state.factors, problem, objective).stationarity

    passes, ends = {}, {}
    for solver in (jals.ALS(3), AndersonALS(3)):
        state, count, stationarity = solver.init(jax.random.key(0), problem, objective), 0, 1.0
        while stationarity > 1e-9:
            state, more, stationarity = ahead(solver, state, 10)
            count += int(more)
            assert count < 20_000
        passes[type(solver)], ends[type(solver)] = count, float(jals.loss(state.factors, problem, objective))
    assert passes[AndersonALS] < passes[jals.ALS] / 4
    np.testing.assert_allclose(ends[AndersonALS], ends[jals.ALS], rtol=1e-10)


@pytest.mark.parametrize("finite", [True, False])
def test_a_step_that_raises_the_loss_gives_way_to_a_plain_sweep(finite):
    problem, objective = hard()
    solver = AndersonALS(3, memory=4)
    state, _, _ = losses(solver, problem, objective, 6)
    astray = jnp.full_like(state.memory.starts, 1.0 if finite else jnp.inf) * jnp.arange(4)[:, None, None]
    after, info = solver.sweep(state._replace(memory=state.memory._replace(starts=astray)), problem, objective)
    plain, _ = jals.ALS(3).sweep(jals.State(state.factors), problem, objective)
    assert int(info.passes) == 4
    assert tables.largest_difference(after.factors, plain.factors) < 1e-13
    assert int(after.memory.known) == 1 and float(after.memory.pace) <= float(state.memory.pace) / 2 + 1
    assert float(after.memory.loss) < float(state.memory.loss)
    further, info = solver.sweep(after, problem, objective)
    assert info.finite and float(further.memory.loss) < float(after.memory.loss)


def test_a_rotated_start_makes_the_same_predictions():
    problem, objective = hard()
    solver = AndersonALS(3)
    start = solver.init(jax.random.key(0), problem, objective).factors
    turn, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))
    turned = dataclasses.replace(start, user=start.user @ turn, item=start.item @ turn)
    users, items = np.indices((problem.num_users, problem.num_items))
    states = [solver.init(jax.random.key(0), problem, objective, each) for each in (start, turned)]
    ends = [jals.run(solver, state, problem, objective, sweeps=9)[0].factors for state in states]
    assert tables.largest_difference(*(jals.predict(end, users, items) for end in ends)) < 1e-8


def test_float32_stays_at_the_minimum():
    """Long after rounding has the last word, nothing breaks down and the loss stays where it is."""
    problem, objective = hard(np.float32)
    state, passes, found = losses(AndersonALS(3), problem, objective, 200)
    eps = np.finfo(np.float32).eps
    assert (np.diff(found) <= 20 * eps * found[1:]).all()
    assert found[-1] <= found[60] * (1 + 20 * eps) and (passes == 4).any()
    problem, objective = hard(np.float64)
    there = jax.tree.map(lambda leaf: leaf.astype(float), state.factors)
    further, _ = jals.run(jals.ALS(3), jals.State(there), problem, objective, sweeps=300)
    least, here = (float(jals.loss(factors, problem, objective)) for factors in (further.factors, there))
    assert 0 <= here - least < 1e-5 * least


def test_fit_stops_when_the_loss_settles():
    problem, objective = hard()
    solver = AndersonALS(3)
    whole = jals.fit(solver, problem, objective, sweeps=500, tol=1e-9)
    assert whole.converged and whole.reason == "tol" and whole.done < 500
    plain = jals.fit(jals.ALS(3), problem, objective, sweeps=500, tol=1e-9)
    assert whole.history.loss[-1] < plain.history.loss[-1] and whole.history.passes[-1] < plain.history.passes[-1]


def test_vmap_equals_one_by_one_also_where_steps_are_turned_down():
    problem, _ = hard()
    solver = AndersonALS(3)

    @jax.jit
    def ended(reg):
        objective = jals.als_wr(reg, bias=True, center=True)
        state = solver.init(jax.random.key(0), problem, objective)
        state, infos = jals.run(solver, state, problem, objective, sweeps=12, loss=True)
        return infos.loss, infos.passes

    regs = jnp.array([0.02, 0.1, 0.4])
    each = [ended(reg) for reg in regs]
    found, passes = jax.jit(jax.vmap(ended))(regs)
    np.testing.assert_array_equal(passes, [one[1] for one in each])
    np.testing.assert_allclose(found, [one[0] for one in each], rtol=1e-9)
    passes = np.asarray(passes)
    assert (passes == 4).any() and not (passes == passes[0]).all()


def test_small_systems_are_solved_without_lapack():
    rng = np.random.default_rng(0)
    root, rhs = rng.normal(size=(5, 4, 4)), rng.normal(size=(5, 4))
    matrix = root @ root.transpose(0, 2, 1) + 0.1 * np.eye(4)
    solve = jax.jit(jax.vmap(_solve))
    np.testing.assert_allclose(solve(matrix, rhs), np.linalg.solve(matrix, rhs[..., None])[..., 0], rtol=1e-10)
    assert "custom_call" not in solve.lower(matrix, rhs).as_text()


@pytest.mark.parametrize("platform, known", [("cuda", r"cusolver_\w+|cu_\w+"), ("tpu", "Cholesky")])
def test_accelerators_get_no_cpu_call(monkeypatch, platform, known):
    """Without the CUDA kernel, which is not for other processes."""
    monkeypatch.setattr(jals.native, "missing", lambda: {"cpu": jals.native.status().reason, "cuda": "not built."})
    problem, objective = hard(np.float32)
    solver = AndersonALS(3, memory=2)
    leaves, tree = jax.tree.flatten((solver.init(jax.random.key(0), problem, objective), problem, objective))
    sweep = jax.jit(lambda *leaves: jax.tree.leaves(solver.sweep(*jax.tree.unflatten(tree, leaves))[0]))
    module = jax.export.export(sweep, platforms=[platform])(*leaves).mlir_module()
    calls = set(re.findall(r"custom_call @([\w.]+)", module))
    assert all(re.fullmatch(known, call) for call in calls), calls


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"rank": 0}, "rank is 0, but must be a whole number >= 1"),
        ({"memory": 0}, "memory is 0, but must be a whole number >= 1"),
        ({"memory": 2.5}, "memory is 2.5, but"),
        ({"linsolve": "cg"}, 'linsolve is \'cg\', but must be one of "cholesky", "lu"'),
        ({"linsolve": "cholesk"}, 'Did you mean "cholesky"'),
    ],
)
def test_what_it_cannot_be(arguments, said):
    with pytest.raises(jals.ArgumentError, match=re.escape(said)):
        AndersonALS(**{"rank": 3, **arguments})

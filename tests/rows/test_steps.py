"""Steps towards the rows' solutions: by both backends the steps that a loop over dense systems makes."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import normal
from jals.rows import steps
from tests.support import tables

BLOCKS = (1, 3, 99)
PRESETS = ("als_wr+all", "hu_koren+all", "hu_koren+log", "ials")


@pytest.fixture(params=["xla", "native"])
def backend(request):
    if request.param == "native" and not jals.native.status().available:
        pytest.skip(jals.native.status().reason)
    return request.param


def viewed(preset: str, dtype: Any = float, layout: str = "bucketed, cut small", rank: int = 6):
    """(the users' view, where they start, factors, problem, objective)"""
    table = tables.table("together", weighted=True)
    problem = tables.problem(table, layout, dtype).arrange()
    setting = dataclasses.replace(tables.setting(preset, table), prior_user=None, prior_item=None)
    objective = tables.objective(setting).cast(dtype)
    if "all" in preset:
        prior = np.random.default_rng(1).normal(size=rank)
        objective = dataclasses.replace(objective, prior_user=jnp.asarray(prior, dtype))
    factors = jals.ALS(rank, init_scale=1.0).init(jax.random.key(1), problem, objective).factors
    return normal.view(factors, problem, objective, "user"), factors.joint("user"), factors, problem, objective


def dense_cg(matrix: np.ndarray, rhs: np.ndarray, x: np.ndarray, count: int) -> np.ndarray:
    scale, residual = 1 / np.diagonal(matrix), rhs - matrix @ x
    direction = scale * residual
    for _ in range(count):
        size, moved = residual @ (scale * residual), matrix @ direction
        if not size > 0:
            break
        length = size / (direction @ moved)
        x, residual = x + length * direction, residual - length * moved
        direction = scale * residual + (residual @ (scale * residual) / size) * direction
    return x


def dense_blocks(matrix: np.ndarray, rhs: np.ndarray, x: np.ndarray, size: int) -> np.ndarray:
    x = x.copy()
    for first in range(0, len(x), size):
        block = slice(first, first + size)
        x[block] += np.linalg.solve(matrix[block, block], (rhs - matrix @ x)[block])
    return x


@pytest.mark.parametrize("preset", PRESETS)
def test_they_are_the_steps_of_a_loop_over_dense_systems(preset, backend):
    view, start, *_ = viewed(preset)
    matrix, rhs = (np.asarray(each) for each in normal.systems(view))
    began = np.where(np.asarray(view.empty)[:, None], view.prior, start)
    ways = [(steps.solve_cg, dense_cg, size) for size in (1, 2)]
    ways += [(steps.solve_subspace, dense_blocks, size) for size in BLOCKS]
    for solve, dense, size in ways:
        solved = solve(view, start, size, ("value",), backend)
        expected = np.stack([dense(*row, size) for row in zip(matrix, rhs, began, strict=True)])
        np.testing.assert_allclose(solved.joint(), expected, rtol=0, atol=1e-10 * np.abs(expected).max())
        np.testing.assert_allclose(solved.value, normal.row_losses(view, solved.joint()), rtol=1e-9, atol=1e-9)
        assert solved.good.all()


def test_a_block_of_all_columns_is_the_solution(backend):
    for preset in PRESETS:
        *_, factors, problem, objective = viewed(preset)
        near, exact = jals.ALS(6, linsolve="subspace", block=7, backend=backend), jals.ALS(6, backend="xla")
        for side in ("user", "item"):
            ours, theirs = (solver.update(factors, problem, objective, side)[0] for solver in (near, exact))
            assert tables.largest_difference(dataclasses.astuple(ours), dataclasses.astuple(theirs)) < 1e-10


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("how", [{"linsolve": "cg", "cg_steps": 2}, {"linsolve": "subspace", "block": 5}])
def test_the_kernel_agrees_with_xla(how, dtype):
    """On long rows too, whose sums are made in chunks, for ranks that fill vectors and others, and under vmap."""
    tables.als("native")
    rng = np.random.default_rng(0)
    user, item = np.repeat(np.arange(40), 90), rng.integers(0, 3000, 3600)
    user[:2500] = 0
    item[:2500] = rng.permutation(3000)[:2500]
    user, item = np.unique(np.stack([user, item]), axis=1)
    ratings = jals.Ratings.from_arrays(user, item, rng.random(len(user)).astype(dtype) + 1, 40, 3000)
    problem = jals.Problem.build(ratings)
    for rank, objective in ((16, jals.hu_koren(0.5, alpha=2.0)), (37, jals.als_wr(0.1, bias=True, center=True))):
        ends = []
        for backend in ("xla", "native"):
            solver = jals.ALS(rank, backend=backend, **how)
            start = solver.init(jax.random.key(0), problem, objective)
            state, infos = jals.run(solver, start, problem, objective, 2, loss=True)
            ends.append(jals.predict(state.factors, user, item))
            np.testing.assert_allclose(infos.loss[-1], jals.loss(state.factors, problem, objective), rtol=1e-5)
        # Each step of conjugate gradients is made of quotients of what rounding has touched.
        bound = (1000 if how["linsolve"] == "cg" else 200) * np.finfo(dtype).eps
        np.testing.assert_allclose(*ends, rtol=0, atol=bound * np.abs(ends[0]).max())

    def of_reg(reg, backend):
        solver = jals.ALS(3, backend=backend, **how)
        objective = jals.ials(reg, 0.1)
        return solver.sweep(solver.init(jax.random.key(0), problem, objective), problem, objective)[0].factors.item

    regs = jnp.asarray([0.01, 0.1], dtype)
    both = [jax.jit(jax.vmap(functools.partial(of_reg, backend=backend)))(regs) for backend in ("xla", "native")]
    np.testing.assert_allclose(*both, rtol=0, atol=200 * np.finfo(dtype).eps)


def test_a_row_whose_entries_cannot_be_read_has_no_solution(backend):
    """NaN values reach the row that they are of, and no other."""
    *_, factors, problem, objective = viewed("als_wr+all")
    at = int(np.flatnonzero(np.asarray(problem.weight) > 0)[0])
    row = int(problem.user[at])
    spoilt = problem.with_values(problem.value.at[at].set(jnp.nan)).arrange()
    for how in ({"linsolve": "cg"}, {"linsolve": "subspace", "block": 2}):
        solver = jals.ALS(6, backend=backend, **how)
        right, wrong = (solver.update(factors, each, objective, "user") for each in (problem, spoilt))
        assert not wrong[1][row] and np.isnan(wrong[0].user[row]).all()
        others = np.arange(problem.num_users) != row
        np.testing.assert_array_equal(wrong[0].user[others], right[0].user[others])


def test_subspace_sweeps_reach_the_loss_of_exact_ones():
    table = tables.table("together", weighted=True)
    problem, objective = tables.problem(table, "bucketed"), jals.ials(0.1, 0.2)
    losses = []
    for solver in (jals.ALS(6), jals.ALS(6, linsolve="subspace", block=2), jals.ALS(6, linsolve="cg", cg_steps=2)):
        result = jals.fit(solver, problem, objective, sweeps=60)
        assert (np.diff(result.history.loss) <= 1e-12 * result.history.loss[0]).all()
        losses.append(result.history.loss[-1])
    np.testing.assert_allclose(losses[1:], losses[0], rtol=1e-5)

"""The row solve beyond ALS's own use: other priors, matrix precisions, and the Cholesky factor it hands back."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals import native, normal, rowsolve
from jals.rows import curvature
from tests.support import tables


@pytest.fixture
def setting():
    table = tables.table("empty_rows", weighted=True)
    return table, tables.problem(table, "bucketed, cut small").arrange()


def systems(table, factors, objective, precision, prior):
    """(A, b) of every user row by NumPy, for a matrix precision of the factors."""
    rank, bias = factors.rank, objective.bias
    Y, bi = np.asarray(factors.item), np.asarray(factors.item_bias) if bias else np.zeros(table.num_items)
    for u in range(table.num_users):
        mine = table.user == u
        A = np.zeros((rank + bias, rank + bias))
        A[:rank, :rank] = precision[u]
        if bias:
            A[rank, rank] = objective.reg_bias
        b = A @ np.concatenate([prior[u], np.zeros(int(bias))])
        for i, r, v in zip(table.item[mine], table.value[mine], table.weight[mine], strict=True):
            z = np.concatenate([Y[i], np.ones(int(bias))])
            A += v * np.outer(z, z)
            b += v * (r - bi[i]) * z
        if objective.unobserved_weight is not None:
            A += float(objective.unobserved_weight) * Y.T @ Y
        yield A, b


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("per_row", [False, True])
def test_matrix_precision_prior_and_factor(setting, per_row, bias):
    table, problem = setting
    rng = np.random.default_rng(0)
    objective = jals.explicit(0.3, reg_bias=0.5, bias=bias)
    factors = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective).factors
    root = rng.normal(size=((table.num_users,) if per_row else ()) + (tables.RANK, tables.RANK))
    precision = root @ np.swapaxes(root, -1, -2) + np.eye(tables.RANK)
    prior = rng.normal(size=(table.num_users, tables.RANK))
    view = normal.view(factors, problem, objective.cast(float), "user", precision, prior)
    plain, solved = rowsolve.solve(view), rowsolve.solve(view, want=("cholesky",))
    every = np.broadcast_to(precision, (table.num_users, tables.RANK, tables.RANK))
    for u, (A, b) in enumerate(systems(table, factors, objective, every, prior)):
        x = np.linalg.solve(A, b)
        for result in (plain, solved):
            np.testing.assert_allclose(result.rows[u], x[: tables.RANK], atol=1e-10)
            if bias:
                np.testing.assert_allclose(result.bias[u], x[-1], atol=1e-10)
        lower = np.tril(solved.cholesky[u])
        np.testing.assert_allclose(lower @ lower.T, A, atol=1e-10)
    assert solved.good.all()


def test_factor_of_empty_rows_and_of_the_sum_over_all_pairs(setting):
    table, problem = setting
    objective = jals.ials(0.3, unobserved_weight=0.2).cast(float)
    factors = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective).factors
    solved = rowsolve.solve(normal.view(factors, problem, objective, "user"), want=("cholesky",))
    lower = np.tril(solved.cholesky[0])  # user 0 has no entries
    reg = 0.3 * 0.2 * table.num_items
    expected = 0.2 * np.asarray(factors.item).T @ np.asarray(factors.item) + reg * np.eye(tables.RANK)
    np.testing.assert_allclose(lower @ lower.T, expected, atol=1e-12)


@pytest.mark.parametrize("solve", ["cholesky", "native"])
def test_a_row_whose_pairs_weigh_nothing_is_its_prior_mean(setting, solve):
    """User 0 has no entries: with a_u = 0 nothing is left of its system, without a lambda too."""
    table, problem = setting
    prior = np.random.default_rng(0).normal(size=(table.num_users, tables.RANK))
    weights = np.where(np.arange(table.num_users) == 0, 0.0, 1.0)
    for reg in (0.0, 0.3):
        objective = jals.wals(reg, 0.2, reg_power=1.0, unobserved_user=weights, prior_user=prior)
        solver = tables.als(solve, init_scale=1.0)
        factors = solver.init(jax.random.key(0), problem, objective).factors
        factors, good = solver.update(factors, problem, objective, "user")
        assert good.all()
        np.testing.assert_array_equal(factors.user[0], prior[0])
        assert np.abs(factors.user[5] - prior[5]).max() > 1e-3  # no entries either, but its pairs count


def test_scalar_and_row_precision_take_the_place_of_lambda(setting):
    table, problem = setting
    factors = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, jals.explicit(1.0)).factors
    reg = np.random.default_rng(0).uniform(0.1, 1, table.num_users)
    by_rows = rowsolve.solve(normal.view(factors, problem, jals.explicit(9.0).cast(float), "user", precision=reg))
    objective = jals.explicit(reg_user=reg, reg_item=1.0).cast(float)
    expected = rowsolve.solve(normal.view(factors, problem, objective, "user"))
    np.testing.assert_allclose(by_rows.rows, expected.rows, rtol=1e-14)


def test_the_factor_can_be_differentiated(setting):
    _, problem = setting
    factors = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, jals.explicit(1.0)).factors

    def log_determinant(reg):
        view = normal.view(factors, problem, jals.explicit(reg).cast(float), "item")
        solved = rowsolve.solve(view, want=("cholesky",))
        return jnp.sum(jnp.log(jnp.diagonal(solved.cholesky, axis1=-2, axis2=-1)) * solved.good[:, None])

    difference = (log_determinant(0.5 + 1e-6) - log_determinant(0.5 - 1e-6)) / 2e-6
    np.testing.assert_allclose(jax.grad(log_determinant)(0.5), difference, rtol=1e-7)


def test_whatever_solves_rows_exactly_calls_the_kernel(setting):
    if not native.status().available:
        pytest.skip(native.status().reason)
    _, problem = setting
    problem, objective = problem.arrange(), jals.als_wr(0.3, bias=True).cast(float)
    buckets = {"user": problem.user_side.buckets, "item": problem.item_side.buckets}
    factors = jals.ALS(tables.RANK).init(jax.random.key(0), problem, objective).factors

    def calls(function, *arguments):
        return jax.jit(function).lower(*arguments).as_text().count("jals_solve_rows")

    def sweep(solver):
        state = solver.init(jax.random.key(0), problem, objective)
        return calls(lambda state: solver.sweep(state, problem, objective), state)

    assert sweep(jals.ALS(tables.RANK)) == 2
    assert sweep(jals.AndersonALS(tables.RANK)) == 2
    assert sweep(jals.NewtonCG(tables.RANK)) == 3  # the users before and after the step, and the items' matrices
    assert calls(lambda factors: curvature.point(factors, problem, objective)[:-1], factors) == 2  # of the adjoint
    for side in buckets:
        walked = sum(bucket.width > 0 for bucket in buckets[side])
        assert calls(functools.partial(jals.leave_one_out, side=side), factors, problem, objective) == walked


@pytest.mark.parametrize("linsolve, want, says", [("lu", "inverse", 'alone returns, not "lu"'), ("lu", "loss", "loss")])
def test_what_cannot_be_wanted_is_refused(setting, linsolve, want, says):
    _, problem = setting
    objective = jals.explicit(1.0).cast(float)
    factors = jals.ALS(tables.RANK).init(jax.random.key(0), problem, objective).factors
    with pytest.raises(jals.ArgumentError, match=says):
        rowsolve.solve(normal.view(factors, problem, objective, "user"), linsolve, want=(want,))


@pytest.mark.parametrize("backend", ["xla", "native"])
def test_the_inverse_and_a_start_are_those_of_the_systems(setting, backend):
    """With all that a row's system may hold, and derivatives of all that is returned against differences."""
    table, problem = setting
    tables.als("native" if backend == "native" else "cholesky")  # skips where it is not built
    rng = np.random.default_rng(1)
    objective = jals.explicit(0.3, bias=True, center=True, reg_bias=0.7).cast(float)
    state = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective)
    held = dataclasses.replace(state.factors, item_bias=jnp.asarray(rng.normal(size=table.num_items)))
    root = rng.normal(size=(table.num_users, tables.RANK, tables.RANK))
    prior = jnp.asarray(rng.normal(size=(table.num_users, tables.RANK)))
    start = jnp.asarray(rng.normal(size=(table.num_users, tables.RANK + 1)))
    precision = jnp.asarray(root @ np.swapaxes(root, 1, 2))

    def viewed(items):
        factors = dataclasses.replace(held, item=items)
        return normal.view(factors, problem, objective, "user", precision, prior)

    def solved(items, want=("value", "inverse", "norms"), start=start):
        return rowsolve.solve(viewed(items), backend=backend, want=want, start=start)

    view, found = viewed(held.item), solved(held.item)
    matrix, rhs = normal.systems(view)
    assert found.good.all()
    np.testing.assert_allclose(found.inverse @ matrix - np.eye(tables.RANK + 1), 0, atol=1e-9)
    np.testing.assert_allclose(jnp.einsum("rij,rj->ri", matrix, found.joint()), rhs, atol=1e-9)
    np.testing.assert_allclose(found.value, normal.row_losses(view, found.joint()), rtol=1e-10, atol=1e-12)
    sizes = np.linalg.norm(matrix, axis=(1, 2)), np.linalg.norm(rhs, axis=1)
    np.testing.assert_allclose(found.norms, np.stack(sizes, axis=1), rtol=1e-12)
    np.testing.assert_allclose(solved(held.item, start=None).value, found.value, rtol=1e-9, atol=1e-12)

    along = jnp.asarray(rng.normal(size=held.item.shape))
    for want in (("value",), ("inverse",), ("cholesky", "norms")):
        kept = lambda step, want=want: solved(held.item + step * along, want)._replace(good=None)  # noqa: E731
        _, dot = jax.jvp(kept, (0.0,), (1.0,))
        differences = jax.tree.map(lambda up, down: (up - down) / 2e-6, kept(1e-6), kept(-1e-6))
        for ours, theirs in zip(jax.tree.leaves(dot), jax.tree.leaves(differences), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("linsolve", tables.EXACT)
@pytest.mark.parametrize(
    "entries, rank, bad",
    [
        ([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0)], 2, 2),  # fewer entries than unknowns
        ([(0, 0), (0, 1), (1, 0), (1, 1), (2, 2), (2, 3)], 2, 2),  # enough, but items 2 and 3 are parallel
    ],
)
def test_without_reg_a_row_with_no_unique_solution_is_named(linsolve, entries, rank, bad):
    user, item = np.array(entries).T
    problem = jals.Problem.build(jals.Ratings.from_arrays(user, item, np.ones(len(user)), 4, 4))
    Y = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 3.0], [2.0, 6.0]])
    factors = jals.Factors(jnp.zeros((4, rank)), Y)
    objective = jals.explicit(0.0).cast(float)
    updated, good = tables.als(linsolve, rank).update(factors, problem, objective, "user")
    np.testing.assert_array_equal(good, [True, True, False, True])
    assert np.isnan(updated.user[bad]).all() and np.isfinite(np.delete(updated.user, bad, axis=0)).all()
    np.testing.assert_array_equal(updated.user[3], 0)  # no entries: not a failure
    _, info = tables.als(linsolve, rank).sweep(jals.State(factors), problem, objective)
    assert int(info.bad_row) == bad and int(info.bad_side) == 0 and not info.finite
    regularised, good = tables.als(linsolve, rank).update(factors, problem, jals.explicit(1e-3).cast(float), "user")
    assert good.all() and np.isfinite(regularised.user).all()


def test_conjugate_gradients_approach_the_exact_rows_step_by_step(setting):
    _, problem = setting
    objective = jals.als_wr(0.3, bias=True, center=True)
    start = jals.ALS(tables.RANK, init_scale=1.0).init(jax.random.key(0), problem, objective).factors
    exact, _ = jals.ALS(tables.RANK).update(start, problem, objective.cast(float), "user")
    errors = []
    for steps in (1, 2, 3, 10):
        near, good = jals.ALS(tables.RANK, "cg", steps).update(start, problem, objective.cast(float), "user")
        assert good.all()
        errors.append(tables.largest_difference(dataclasses.astuple(near), dataclasses.astuple(exact)))
    assert errors[0] > errors[1] > errors[2] > errors[3] and errors[3] < 1e-9

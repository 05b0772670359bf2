"""jvp, grad, jvp of grad and vmap of a whole run, in every number it has, against central differences in float64.

The table has empty rows and weights of many sizes; what is differentiated is a prediction error, which no rotation of
the factors changes. Weights are > 0, where their derivatives hold.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jals
from tests.support import solvers, tables

STEP = 1e-6  # at 1e-5 the differences of Adam are off by their own third derivatives
MORE = {
    "lu": functools.partial(tables.als, "lu", init_scale=1.0),
    "adam": lambda: jals.Gradient(tables.RANK, optax.adam, {"learning_rate": 0.05, "eps_root": 1e-6}, init_scale=1.0),
}
SOLVERS = solvers.MAKE | MORE
CASES = [
    ("lu", "bucketed", "als_wr+all"),
    ("cg", "bucketed", "als_wr+all"),
    ("subspace", "bucketed, cut small", "hu_koren+all"),
    ("adam", "bucketed", "als_wr+all"),
    ("minibatch", "bucketed", "als_wr+all"),
    ("anderson", "segmented", "als_wr+all"),
    ("damped", "segmented", "als_wr+all"),
    ("cholesky", "segmented", "als_wr+bias"),
    ("cholesky", "bucketed, cut small", "als_wr+all"),
    ("cholesky", "padded", "hu_koren+all"),
    ("cholesky", "bucketed", "wals"),
    ("native", "bucketed, cut small", "als_wr+all"),
    ("native", "padded", "hu_koren+log"),
]

pytestmark = [pytest.mark.usefixtures("fresh_caches"), pytest.mark.newest]


def test_every_solver_that_has_derivatives_is_a_case():
    cases = {name for name, *_ in CASES if name not in MORE}
    assert cases == {name for name in solvers.MAKE if solvers.said(name).differentiable}


def held_out_error(solver: str, layout: str, preset: str):
    """(a function of every number of a run, those numbers)"""
    table = tables.table("empty_rows", weighted=False)
    rng = np.random.default_rng(2)
    problem = tables.problem(table, layout)
    objective = tables.objective(tables.setting(preset, table)).cast(float)
    user, item = rng.integers(0, table.num_users, 30), rng.integers(0, table.num_items, 30)
    target = rng.normal(size=30) + 3

    def error(numbers):
        now = problem.with_values(numbers["values"], weight=numbers["weight"])
        state = numbers["solver"].init(jax.random.key(0), now, numbers["objective"])
        state, _ = jals.run(numbers["solver"], state, now, numbers["objective"], sweeps=3)
        return jnp.mean((jals.predict(state.factors, user, item) - target) ** 2)

    weight = rng.uniform(0.5, 2.0, len(table.user))
    numbers = {"solver": SOLVERS[solver](), "objective": objective, "values": table.value, "weight": weight}
    return error, jax.tree.map(lambda leaf: np.asarray(leaf, float), numbers)  # in NumPy nothing small is compiled


def along(numbers, name: str, seed: int):
    """A random direction that moves one part of the numbers only."""
    rng = np.random.default_rng(seed)
    still = jax.tree.map(np.zeros_like, numbers)
    move = jax.tree.map(lambda leaf: np.asarray(rng.normal(size=leaf.shape) * (0.1 + np.abs(leaf))), numbers[name])
    return {**still, name: move}


def central(function, numbers, direction):
    def at(step):
        return function(jax.tree.map(lambda leaf, d: leaf + step * d, numbers, direction))

    return jax.tree.map(lambda up, down: (np.asarray(up) - down) / (2 * STEP), at(STEP), at(-STEP))


@pytest.mark.parametrize("solver, layout, preset", CASES)
def test_derivatives_of_a_run(solver, layout, preset):
    error, numbers = held_out_error(solver, layout, preset)

    @jax.jit  # one program for all: most of the time of a case is compiling
    def everything(numbers, direction):
        return jax.jvp(jax.value_and_grad(error), (numbers,), (direction,))

    for seed, name in enumerate(numbers):
        direction = along(numbers, name, seed)
        (_, exact), (slope, curvature) = everything(numbers, direction)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(exact))
        dot = sum(np.vdot(g, d) for g, d in zip(jax.tree.leaves(exact), jax.tree.leaves(direction), strict=True))
        difference, bend = central(functools.partial(everything, direction=direction), numbers, direction)[0]
        assert abs(difference) > 1e-8, "a direction that changes nothing tests nothing"
        np.testing.assert_allclose(dot, difference, rtol=2e-6, atol=1e-9)
        np.testing.assert_allclose(slope, dot, rtol=1e-9)
        for ours, theirs in zip(jax.tree.leaves(curvature), jax.tree.leaves(bend), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6 * (1 + np.abs(theirs).max()))


@pytest.mark.parametrize("solver", ["cholesky", "native"])
def test_vmap_of_a_derivative_equals_one_by_one(solver):
    """And of the run, in every number that it has; over lambda alone, every solver is in solvers/test_solvers.py."""
    error, numbers = held_out_error(solver, "bucketed, cut small", "als_wr+all")
    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf * 1.5, leaf * 0.7]), numbers)
    function = jax.value_and_grad(error)
    single = jax.jit(function)
    each = [single(jax.tree.map(lambda leaf, k=k: leaf[k], many)) for k in range(3)]
    values, gradients = jax.jit(jax.vmap(function))(many)
    one_by_one = jax.tree.map(lambda *leaves: np.stack(leaves), *each)
    np.testing.assert_allclose(values, one_by_one[0], rtol=1e-9)
    assert tables.largest_difference(gradients, one_by_one[1]) < 1e-8


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_every_number_of_the_loss_has_a_finite_gradient_with_empty_rows(power):
    table = tables.table("empty_rows", weighted=True)
    problem = tables.problem(table, "bucketed")
    factors = jals.ALS(tables.RANK).init(jax.random.key(0), problem, jals.als_wr(0.1)).factors
    for objective in (
        jals.als_wr(0.1, reg_power=power),
        jals.ials(0.1, unobserved_weight=0.0, reg_power=power),
        jals.ials(0.1, unobserved_weight=0.3, reg_power=power),
        jals.ials(0.1, unobserved_weight=0.3, reg_power=power, unobserved_user=np.zeros(table.num_users)),
    ):
        gradients = jax.jit(jax.grad(jals.loss, argnums=(0, 2)))(factors, problem, objective.cast(float))
        assert all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(gradients))

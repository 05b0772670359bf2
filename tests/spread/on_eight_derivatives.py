"""On eight devices: derivatives through a sweep, forward, reverse and of second order, equal those of one."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from tests.support import spread, tables

pytestmark = pytest.mark.usefixtures("fresh_caches")

WAYS = [(1, "all_gather", False), (2, "all_gather", True), (4, ("routed", 2), False), (8, "ring", True)]


def of_second_order(problem, objective, backend, arguments, tangents):
    """(gradient, derivative along the tangents, that of the gradient) of a loss of held-out pairs after a sweep."""
    pairs, solver = spread.pairs(), jals.ALS(tables.RANK, init_scale=1.0, backend=backend)

    def held_out(values, weight, scale):
        here = problem.with_values(values, weight)
        scaled = dataclasses.replace(
            objective, reg_user=objective.reg_user * scale, reg_item=objective.reg_item / scale
        )
        state = solver.init(jax.random.key(0), here, scaled)
        state, info = solver.sweep(state, here, scaled, loss=True)
        return jnp.sum((jals.predict(state.factors, *pairs) - 0.3) ** 2) + info.loss

    def derived(arguments, tangents):
        forward = jax.jvp(held_out, arguments, tangents)
        return forward, jax.jvp(jax.grad(held_out, (0, 1, 2)), arguments, tangents)

    return jax.jit(derived)(arguments, tangents)


@pytest.fixture(scope="module")
def of_one_device():
    _, _, value, weight = spread.problem().columns()
    arguments = value, weight, jnp.ones(())
    rng = np.random.default_rng(0)
    tangents = tuple(jnp.asarray(rng.normal(size=each.shape)) for each in arguments)
    objective = spread.objective("als_wr+all")
    found = of_second_order(spread.problem(), objective, "auto", arguments, tangents)
    assert all(jnp.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))
    return objective, arguments, tangents, found


@pytest.mark.parametrize("devices, exchange, giants", WAYS)
def test_derivatives_are_those_of_one_device(of_one_device, devices, exchange, giants):
    objective, arguments, tangents, known = of_one_device
    problem = spread.problem(devices, exchange, giants)
    found = of_second_order(problem, objective, "auto", arguments, tangents)
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(known), strict=True):
        assert float(jnp.abs(ours - theirs).max() / jnp.abs(theirs).max()) < 1e-11

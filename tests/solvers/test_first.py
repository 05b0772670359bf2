"""A sweep of ALS that solves for the items first."""

import jax
import numpy as np
import pytest

import jals
from tests.support import reference, tables

pytestmark = pytest.mark.usefixtures("strict_dtypes")


@pytest.mark.parametrize("preset", tables.BROAD)
def test_items_first_is_the_other_order(preset):
    """By the loops: items, then users. The loss that the sweep tells, and what a certificate looks at, follow."""
    table = tables.table("empty_rows", weighted=True)
    setting, problem = tables.setting(preset, table), tables.problem(table, "bucketed")
    objective, solver = tables.objective(setting), jals.ALS(tables.RANK, init_scale=1.0, first="item")
    state = solver.init(jax.random.key(0), problem, objective)
    X, Y, bu, bi, mean = tables.arrays(state.factors)
    for _ in range(2):
        Y, bi = reference.half_sweep(table, setting, "item", X, Y, bu, bi, mean)
        X, bu = reference.half_sweep(table, setting, "user", X, Y, bu, bi, mean)
    state, infos = jals.run(solver, state, problem, objective, sweeps=2, loss=True)
    for ours, theirs in zip(tables.arrays(state.factors), (X, Y, bu, bi, mean), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-10)
    expected = reference.loss(table, setting, X, Y, bu, bi, mean)
    np.testing.assert_allclose(float(infos.loss[-1]), expected, rtol=1e-10)

    certificate = jals.certify(state.factors, problem, objective, solver)
    assert certificate.last == "user" and certificate.last_updated.shape == (table.num_users,)
    assert certificate.holds() and f"users as given ({table.num_users})" in str(certificate)
    of_items = jals.certify(state.factors, problem, objective)
    assert of_items.last == "item" and not of_items.holds() and of_items.holds(last_updated=False)


def test_a_failed_row_is_of_its_own_side():
    """Item 3 has no unique solution, with lambda 0 and fewer entries than unknowns."""
    table = tables.table("random", weighted=False)
    setting = tables.setting("explicit", table)
    setting.reg_item = np.where(np.arange(table.num_items) == 3, 0.0, 0.3)
    keep = (table.item != 3) | (np.cumsum(table.item == 3) < 2)
    table = reference.Table(*(column[keep] for column in (table.user, table.item, table.value, table.weight)), 12, 9)
    problem, solver = tables.problem(table, "segmented"), jals.ALS(tables.RANK, init_scale=1.0, first="item")
    with pytest.raises(jals.FitError, match="item 3 has no unique"):
        jals.fit(solver, problem, tables.objective(setting), sweeps=1)

"""The config tables of the solvers beyond ALS and Gradient: what they build, refuse and cost."""

import numpy as np
import pydantic
import pytest

import jals
from jals.app.config import solvers
from jals.solvers import costs
from jals.solvers.anderson import AndersonALS
from jals.solvers.costs import Size
from jals.solvers.newton import NewtonCG
from jals.solvers.protocol import traits

TABLE = pydantic.TypeAdapter(solvers.AnySolver)
SIZE = Size(users=5, items=4, entries=10)  # 9 rows


@pytest.mark.parametrize(
    "table, solver",
    [
        ({"kind": "anderson"}, AndersonALS(3)),
        ({"kind": "anderson", "memory": 5, "linsolve": "lu", "init_scale": 0.5}, AndersonALS(3, 5, "lu", 0.5)),
        ({"kind": "newton"}, NewtonCG(3)),
        ({"kind": "newton", "cg_steps": 7, "cg_tol": 0.1, "init_scale": 0.5}, NewtonCG(3, 7, 0.1, 0.5)),
    ],
)
def test_a_table_builds_its_solver(table, solver):
    made = TABLE.validate_python({"rank": 3, "name": "mine", **table})
    assert made.label == "mine" and made.build() == solver and not made.own_minimiser
    assert TABLE.validate_python({"rank": 3, **table}).label == table["kind"]


@pytest.mark.parametrize(
    "table, key",
    [
        ({"kind": "anderson", "memory": 0}, "memory"),
        ({"kind": "anderson", "memory": 2.0}, "memory"),
        ({"kind": "anderson", "linsolve": "cg"}, "linsolve"),
        ({"kind": "anderson", "cg_steps": 3}, "cg_steps"),
        ({"kind": "newton", "cg_steps": 0}, "cg_steps"),
        ({"kind": "newton", "cg_tol": 1.0}, "cg_tol"),
        ({"kind": "newton", "linsolve": "lu"}, "linsolve"),
    ],
)
def test_what_a_table_cannot_say(table, key):
    with pytest.raises(pydantic.ValidationError) as refused:
        TABLE.validate_python({"rank": 3, **table})
    assert [error["loc"] for error in refused.value.errors()] == [(table["kind"], key)]


@pytest.mark.parametrize(
    "solver, objective, each",  # operations of a sweep of `passes`, by hand
    [
        # two passes: ALS's 360 + 243, 4 * 3 * 10 for the loss; 4 * 3 numbers in 2 * 2 * 3 + 12 operations each, 2^3
        (AndersonALS(3, memory=2), jals.als_wr(0.1), {2: 603 + 120 + 288 + 8, 4: 2 * 723 + 288 + 8}),
        # and 4 * 9 a row for the sum over all pairs
        (AndersonALS(3, memory=2), jals.hu_koren(0.1, alpha=1.0), {2: 603 + 324 + 120 + 288 + 8}),
        # three half-sweeps, 9 inverses of 2 * 27; every other pass 4 * 3 * 10 for the entries and 9 * 9 for the rows
        (NewtonCG(3), jals.als_wr(0.1), {6: 904.5 + 486 + 3 * 201, 8: 904.5 + 486 + 5 * 201}),
    ],
)
def test_operations_are_those_counted_by_hand(solver, objective, each):
    assert solver.passes_per_sweep is None
    for passes, expected in each.items():
        counted = solver.operations(objective, SIZE, np.array([0, 1, 5]), np.array([0, passes, 5 * passes]))
        assert counted.tolist() == pytest.approx([0, expected, 5 * expected])


def test_what_is_remembered_takes_memory():
    solvers = (jals.ALS(3), AndersonALS(3, 1), AndersonALS(3, 6))
    plain, few, many = (costs.held_bytes(traits(solver), SIZE, "float64") for solver in solvers)
    assert plain < few and many - few == 2 * 2 * 5 * (4 * 4) * 8  # both of a state: five more changes of two tables
    assert costs.held_bytes(traits(NewtonCG(3)), SIZE, "float64") > 9 * 4**2 * 8

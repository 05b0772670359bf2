"""On eight devices: what a compiled sweep sends is what the choice of an exchange reckons with; layouts without numbers
of entries."""

import dataclasses

import jax
import numpy as np
import pytest

import jals
from jals.model.exchange import Needs
from jals.model.places import SIDES
from jals.model.sources import OfRatings
from jals.planning.work import work
from tests.support import spread, tables


def needs(devices, groups):
    """Of users' rows and of items', without giants."""
    source = OfRatings(spread.ratings(), spread.SHARDS)
    each = spread.SHARDS // devices // groups
    for side in SIDES:
        places = source.places.count(SIDES[side == "user"])
        parts = ([source.shard(side, part * each + at).other for at in range(each)] for part in range(devices * groups))
        yield Needs.find(map(np.concatenate, parts), devices, groups, places).amounts


@pytest.mark.parametrize("way, groups", [("all_gather", 1), ("routed", 1), ("routed", 5), ("ring", 1), ("ring", 5)])
def test_a_compiled_sweep_sends_what_is_reckoned_with(way, groups):
    problem = spread.problem(8, (way, groups), giants=False)
    solver, objective = jals.ALS(tables.RANK), jals.explicit(0.1)
    state = solver.init(jax.random.key(0), problem, objective)
    step = jax.jit(lambda state, problem: solver.sweep(state, problem, objective)[0])
    kind = {"all_gather": "all-gather", "routed": "all-to-all", "ring": "collective-permute"}[way]
    compiled = step.lower(state, problem).compile().as_text()
    with spread.small(giants=False):
        rows = sum(each.sent_rows(way) for each in needs(8, groups))
    assert work(compiled).sent[kind] == pytest.approx(rows * tables.RANK * 8)


def test_layouts_without_numbers_of_entries_give_the_same():
    """As tables in files have them: lengths of pieces in place of entries."""
    objective, solver = spread.objective("als_wr"), jals.ALS(tables.RANK, init_scale=1.0)
    numbered = spread.problem(8, ("routed", 5))

    def without(side):
        buckets = tuple(each.without_numbers(side.num_entries) for each in side.buckets)
        giants = dataclasses.replace(side.giants, bucket=side.giants.bucket.without_numbers(side.num_entries))
        return dataclasses.replace(side, buckets=buckets, giants=giants)

    sides = {f"{name}_side": without(getattr(numbered, f"{name}_side")) for name in SIDES}
    given = dataclasses.replace(numbered, **sides, ordered=False)
    state = solver.init(jax.random.key(0), numbered, objective)
    ours, theirs = (solver.sweep(state, each, objective, loss=True) for each in (given, numbered))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert np.array_equal(one, other)
    assert np.array_equal(given.mean_value(), numbered.mean_value())
    first, *rest = given.user_slots.value
    wrong = dataclasses.replace(given, user_slots=given.user_slots._replace(value=(first * np.nan, *rest)))
    with pytest.raises(jals.DataError, match="value of an entry is nan"):
        wrong.check_numbers()

"""Contributions against plain linear algebra, for every preset."""

import jax
import numpy as np
import pytest

import jals
from tests.recommend.test_folding import ratings_of, some_factors
from tests.support import reference, tables


@pytest.mark.parametrize("preset", tables.PRESETS)
def test_contributions_add_up(preset):
    table = tables.table("together", weighted=True)
    setting = tables.setting(preset, table)
    objective, factors = tables.objective(setting), some_factors(table, setting)
    problem = jals.Problem.build(ratings_of(table))
    X, Y, bu, bi, mean = tables.arrays(factors)
    solved, solved_bias = reference.half_sweep(table, setting, "user", X, Y, bu, bi, mean)
    rated = np.bincount(table.user[table.weight > 0], minlength=table.num_users)
    for user in (int(np.argmax(rated)), int(np.argmin(rated)), 3):
        for item in (0, table.num_items - 1):
            why = jals.explain(factors, problem, objective, user, item)
            own = np.sort(table.item[(table.user == user) & (table.weight > 0)])
            np.testing.assert_array_equal(np.sort(why.item), own)
            assert (np.diff(np.abs(why.contribution)) <= 0).all()
            afresh = mean + bi[item] + solved[user] @ Y[item] + solved_bias[user]
            assert why.score == pytest.approx(afresh, abs=1e-10)
            assert why.stale == pytest.approx(float(jals.predict(factors, user, item)) - afresh, abs=1e-10)
    # what an entry adds is what its value does: a unit more of the value, w z' A^-1 z_e more of the score
    if setting.preset in ("explicit", "als_wr"):
        user = int(np.argmax(rated))
        entry = int(np.flatnonzero((table.user == user) & (table.weight > 0))[0])
        held = mean + bi[table.item[entry]]
        without = np.where(np.arange(len(table.value)) == entry, held, table.value)
        at = lambda value: jals.explain(factors, problem.with_values(value), objective, user, 2)  # noqa: E731
        why = at(table.value)
        added = dict(zip(why.item.tolist(), why.contribution, strict=True))[int(table.item[entry])]
        assert added == pytest.approx(why.score - at(without).score, abs=1e-10) and abs(added) > 1e-3


def test_it_shows_little():
    table = tables.table("random", weighted=False)
    setting = tables.setting("hu_koren", table)
    problem = jals.Problem.build(ratings_of(table))
    user = int(np.argmax(np.bincount(table.user)))
    why = jals.explain(some_factors(table, setting), problem, tables.objective(setting), user, 0)
    first = f"{why.contribution[0]:+.4g} by item {why.item[0]}, "
    assert repr(why).startswith(f"Explanation(score {why.score:.4g}: {first}")
    assert f"{len(why.item) - 5} more, offset 0, stale" in repr(why) and len(repr(why)) < 200


def test_what_cannot_be_explained_is_refused():
    table = tables.table("random", weighted=False)
    setting = tables.setting("explicit", table)
    factors, problem = some_factors(table, setting), jals.Problem.build(ratings_of(table))
    objective = jals.explicit(1.0)
    for call, words in (
        (lambda: jals.explain(factors, problem, objective, 12, 0), "user id 12 is out of range"),
        (lambda: jals.explain(factors, problem, objective, 0, [1, 2]), r"item has shape \(2,\), but must be one id"),
        (lambda: jax.jit(lambda f: jals.explain(f, problem, objective, 0, 1))(factors), "outside of jit"),
        (lambda: jax.vmap(lambda u: jals.explain(factors, problem, objective, u, 1))(np.arange(2)), "user is traced"),
    ):
        with pytest.raises(jals.ArgumentError, match=words):
            call()
    lonely = jals.Problem.build(jals.Ratings.from_arrays([0, 1], [0, 1], [1.0, 2.0], 12, 9))
    with pytest.raises(jals.ArgumentError, match="row of user 1 has no unique solution"):
        jals.explain(factors, lonely, jals.explicit(0.0), 1, 0)

"""What an interpreter shows of an object: its kind and the numbers that matter, in a line, and no array's elements."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.datasets import Dataset
from tests.support import tables


@functools.cache
def fitted():
    table = tables.table("together", weighted=False)
    problem = tables.problem(table, "bucketed, cut small")
    ratings = jals.Ratings.from_arrays(table.user, table.item, table.value, table.num_users, table.num_items)
    objective = jals.als_wr(0.1, bias=True, center=True)
    result = jals.fit(jals.ALS(3), problem, objective, sweeps=2, validation=ratings)
    return table, problem, objective, result, ratings


def shown():
    """{kind: (object, what its line must say)}"""
    table, problem, objective, result, ratings = fitted()
    users, items = f"{table.num_users:,} users", f"{table.num_items:,} items"
    factors, history = result.factors, result.history
    rows = f"user float64[{table.num_users}, 3]"
    certificate = jals.certify(factors, problem, objective)
    vocab = jals.Vocabulary(np.arange(table.num_users), np.array([f"film {i}" for i in range(table.num_items)]))
    return {
        "Factors": (factors, [rows, f"item_bias float64[{table.num_items}]", f"mean {float(factors.mean):.6g}"]),
        "Result": (result, ["2 sweeps, sweeps", f"loss {history.loss[-1]:.6g}", f"{history.validation[-1]:.6g}", rows]),
        "Certificate": (certificate, ["holds: user", f"{float(certificate.item.max()):.1e}", "bound 1e-13"]),
        "Vocabulary": (vocab, [f"{users} (int64)", f"{items} (text)"]),
        "Dataset": (Dataset(ratings, vocab, None), [f"{users} x {items}", "(text)", "no titles"]),
        "Side": (problem.user_side, [f"{table.num_users:,} rows", f"{len(table.user):,} entries", "widths"]),
        "Bucket": (problem.item_side.buckets[0], ["slots"]),
    }


@pytest.mark.parametrize("kind", ["Factors", "Result", "Certificate", "Vocabulary", "Dataset", "Side", "Bucket"])
def test_a_line_says_what_matters(kind):
    thing, wanted = shown()[kind]
    line = repr(thing)
    assert line.startswith(f"{kind}(") and "\n" not in line and len(line) <= 400
    assert not [part for part in wanted if part not in line], line


def test_of_what_is_traced_shapes_are_shown():
    _, problem, objective, result, _ = fitted()
    lines = []

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(None, 0))
    def look(factors, scale):
        factors = jax.tree.map(lambda leaf: leaf * scale, factors)
        certificate = jals.certify(factors, problem, objective)
        lines.extend([repr(factors), repr(certificate), str(certificate)])
        return certificate.stationarity

    look(result.factors, jnp.ones(2))
    assert lines[0].startswith("Factors(user float64[") and "mean float64[]" in lines[0]
    assert lines[1] == lines[2] and lines[1].startswith("Certificate(user float64[")


def test_placeholders_of_jax_can_be_shown():
    *_, result, _ = fitted()
    _, structure = jax.tree.flatten(result.factors)
    assert repr(jax.tree.unflatten(structure, [None] * structure.num_leaves)) == "Factors()"
    marked = jax.tree.unflatten(structure, ["*"] * structure.num_leaves)
    assert repr(marked).startswith("Factors(user '*'")


def test_a_certificate_that_does_not_hold_says_so():
    _, problem, objective, result, _ = fitted()
    worse = jals.Factors(**{**vars(result.factors), "item": result.factors.item * 1.1})
    assert repr(jals.certify(worse, problem, objective)).startswith("Certificate(holds of updates: ")
    _, problem, objective, _, _ = fitted()
    nan = jals.Factors(**{**vars(result.factors), "user": result.factors.user * jnp.nan})
    assert repr(jals.certify(nan, problem, objective)).startswith("Certificate(does not hold: ")

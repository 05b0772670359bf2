"""Objectives by other libraries' arguments, against numbers of the libraries themselves (tests/fixtures/presets)."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest

import jals
from tests.support import ROOT

FIXTURES = ROOT / "tests/fixtures/presets"
# What float64 and float32 leave of the libraries' own rounding; implicit keeps confidences in float32.
AGREE = {"implicit": 1e-12, "cmfrec": 1e-12, "irspack": 2e-5, "buffalo": 2e-5, "spark": 2e-5, "lenskit": 2e-5}


@functools.cache
def fixture(library):
    return json.loads((FIXTURES / f"{library}.json").read_text("utf-8"))


def cases():
    return [(library, number) for library in AGREE for number in range(len(fixture(library)["cases"]))]


@functools.partial(jax.jit, static_argnames="side")
def update(factors, problem, objective, side):
    return jals.ALS(2, backend="xla").update(factors, problem, objective, side)[0]


def factors_of(part):
    return jals.Factors(**{name: jax.numpy.asarray(numbers) for name, numbers in part.items()})


@pytest.mark.parametrize("library, number", cases())
def test_an_exact_sweep_of_the_library_is_one_of_jals(library, number):
    shape, case = fixture(library), fixture(library)["cases"][number]
    columns = {name: np.array(column) for name, column in case["table"].items()}
    ratings = jals.Ratings.from_arrays(**columns, num_users=shape["users"], num_items=shape["items"])
    made = jals.presets.translate(library, ratings, **case["arguments"])
    problem, objective = jals.Problem.build(made.ratings), made.objective.cast(float)
    assert made.first == case["sides"][0] or len(case["sides"]) == 1
    factors, after = factors_of(case["before"]), factors_of(case["after"])
    if objective.center:
        start = jals.ALS(2).init(jax.random.key(0), problem, objective)
        np.testing.assert_allclose(start.factors.mean, after.mean, rtol=1e-14)
    for side in case["sides"]:
        solved, theirs = (each.joint(side) for each in (update(factors, problem, objective, side), after))
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(solved, theirs, rtol=0, atol=AGREE[library] * scale, err_msg=side)
        factors = dataclasses.replace(factors, **{side: getattr(after, side)})
        factors = dataclasses.replace(factors, **{f"{side}_bias": getattr(after, f"{side}_bias")})

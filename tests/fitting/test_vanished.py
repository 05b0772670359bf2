"""Factors that have all shrunk to 0 are told, once, and nothing else is."""

import dataclasses
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jals
from jals.fitting.vanished import warn_if_vanished

rng = np.random.default_rng(0)
USER, ITEM = np.nonzero(rng.random((12, 9)) < 0.6)
RATINGS = jals.Ratings.from_arrays(USER, ITEM, rng.integers(1, 6, len(USER)).astype(float))
PROBLEM = jals.Problem.build(RATINGS, "segmented")
SOLVER = jals.ALS(2)


MAKES = {"als_wr": lambda reg: jals.als_wr(reg, bias=True, center=True), "ials": lambda reg: jals.ials(reg, 0.1)}


@pytest.mark.parametrize("preset", MAKES)
def test_a_fit_whose_factors_are_0_says_so(preset):
    make = MAKES[preset]
    with pytest.warns(UserWarning, match=r"shrunk to 0.*lower reg.*init_scale") as told:
        jals.fit(SOLVER, PROBLEM, make(1e4), sweeps=4)
    assert len(told) == 1 and told[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jals.fit(SOLVER, PROBLEM, make(0.01), sweeps=4)
        jals.fit(SOLVER, PROBLEM, make(1e4), sweeps=0)


def test_tuning_says_so_once():
    train, validation = jals.split.random(RATINGS, 0.2)
    settings: dict[str, Any] = {"steps": 1, "start_sweeps": 2, "over": "reg_user"}
    with pytest.warns(UserWarning, match="shrunk to 0") as told:
        jals.tune(train, validation, jals.als_wr(1e4), SOLVER, **settings)
    assert len(told) == 1 and told[0].filename == __file__


def test_what_is_small_by_right_is_not_told():
    """Small values, values that are all 0, and prior means that hold the rows elsewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zeros = jals.Factors(jnp.zeros((12, 2)), jnp.zeros((9, 2)))
        none = dataclasses.replace(PROBLEM, value=jnp.zeros_like(PROBLEM.value))
        warn_if_vanished(zeros, none, jals.als_wr(0.1))
        warn_if_vanished(zeros, PROBLEM, jals.als_wr(0.1, prior_user=np.ones(2)))
        small = jals.Factors(jnp.full((12, 2), 1e-6), jnp.full((9, 2), 1e-6))
        warn_if_vanished(small, dataclasses.replace(PROBLEM, value=1e-9 * PROBLEM.value), jals.als_wr(0.1))
    with pytest.warns(UserWarning, match="shrunk to 0"):
        warn_if_vanished(small, PROBLEM, jals.als_wr(0.1))

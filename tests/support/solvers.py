"""The table of solvers: a new one adds a row, how to make it, and inherits solvers/test_solvers.py and the derivatives
of derivatives/test_derivatives.py. What else there is to know of it, it says itself (`jals.protocol.traits`)."""

import functools
from collections.abc import Callable
from typing import Any

import optax

import jals
from jals.solvers.protocol import Traits, traits
from tests.support import tables
from tests.support.damped import DampedALS

RANK = tables.RANK
SOLVES = ("cholesky", "native", "cg", "subspace")
MAKE: dict[str, Callable[[], Any]] = {
    **{solve: functools.partial(tables.als, solve, init_scale=1.0) for solve in SOLVES},
    "anderson": lambda: jals.AndersonALS(RANK, memory=2, init_scale=1.0),
    "newton": lambda: jals.NewtonCG(RANK, cg_steps=9, init_scale=1.0),
    "minibatch": lambda: jals.Gradient(RANK, optax.sgd, {"learning_rate": 1e-3, "momentum": 0.9}, 20, 1.0),
    "lbfgs": lambda: jals.Gradient(RANK, optax.lbfgs, {"memory_size": 2}, init_scale=1.0),
    "damped": lambda: DampedALS(RANK, init_scale=1.0),
}


def said(name: str) -> Traits:
    """What a row says of itself; asked before any test, so not of a kernel that is not built."""
    return traits(jals.ALS(RANK) if name == "native" else MAKE[name]())

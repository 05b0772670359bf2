"""A small table with a held-out part, the fits that tests of `fit` and its kin make on it, and how two are compared."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jals
from jals.solvers.protocol import sweep_info

USERS, ITEMS = 14, 11  # the last of each has no entries


def make_ratings(dtype: Any = np.float64, seed=0):
    rng = np.random.default_rng(seed)
    user, item = np.nonzero(rng.random((USERS - 1, ITEMS - 1)) < 0.7)
    value = 3 + rng.normal(size=len(user)) + rng.normal(size=USERS)[user]
    return jals.Ratings.from_arrays(user, item, value.astype(dtype), num_users=USERS, num_items=ITEMS)


TRAIN, HELD_OUT = jals.split.random(make_ratings(), 0.2)
PROBLEM = jals.Problem.build(TRAIN)
OBJECTIVE = jals.als_wr(0.05, bias=True, center=True)
SOLVER = jals.ALS(rank=3)
SGD = jals.Gradient(rank=3, optimizer=optax.sgd, hyper={"learning_rate": 1e-3})
KEYS = [jax.random.key(seed) for seed in range(4)]


def als_wr(reg):
    return jals.als_wr(reg, bias=True, center=True)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Scripted:
    """A solver whose factors are 0 but for the mean, which walks along `path`; from sweep `fails` on item 7 is bad.

    On a table of zeros the loss is entries * mean^2, and the validation error |mean|.
    """

    path: Any
    fails: Any = 99
    rank: int = dataclasses.field(default=1, metadata={"static": True})

    def init(self, key, problem, objective, factors=None):
        factors = jals.Factors(jnp.zeros((USERS, 1)), jnp.zeros((ITEMS, 1)), mean=self.path[0])
        return jals.State(factors, jnp.zeros((), jnp.int32))

    def sweep(self, state, problem, objective, loss=False):
        sweep = state.memory + 1
        factors = dataclasses.replace(state.factors, mean=self.path[sweep])
        good = (jnp.arange(ITEMS) != 7) | (sweep < self.fails)
        return jals.State(factors, sweep), sweep_info(factors, jnp.ones(USERS, bool), good, 5, None)


def plain(leaf):
    """A leaf that NumPy can compare: keys as their numbers."""
    return jax.random.key_data(leaf) if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf


def alone(call):
    """What `fit` makes of it: its result, or its error."""
    try:
        return call()
    except jals.FitError as error:
        return error


def assert_same_fit(one: Any, two: Any, rtol: float = 0.0):
    """One member of a group, and what `fit` made: all but the seconds."""
    assert type(one) is type(two)
    if isinstance(one, jals.FitError):
        assert str(one) == str(two)
        assert (one.sweep, one.side, one.row) == (two.sweep, two.side, two.row)
        one, two = one.result, two.result
    assert (one.reason, one.converged, one.sweep, one.done) == (two.reason, two.converged, two.sweep, two.done)
    assert (one.history.sweep, one.history.passes) == (two.history.sweep, two.history.passes)
    np.testing.assert_allclose(one.history.loss, two.history.loss, rtol=rtol)
    np.testing.assert_allclose(one.history.validation, two.history.validation, rtol=rtol)
    assert len(one.history.seconds) == len(one.history.sweep)
    assert np.isnan(one.history.seconds).all()
    for mine, other in ((one.factors, two.factors), (one.state, two.state)):
        assert jax.tree.structure(mine) == jax.tree.structure(other)
        for left, right in zip(jax.tree.leaves(mine), jax.tree.leaves(other), strict=True):
            assert (left.shape, left.dtype) == (right.shape, right.dtype)
            np.testing.assert_allclose(plain(left), plain(right), rtol=rtol, atol=rtol)

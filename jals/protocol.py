"""What every solver shares: two verbs, `init` and `sweep`, the state between sweeps, and where a fit starts.

    state = solver.init(key, problem, objective)                        # pure, jittable
    state, info = solver.sweep(state, problem, objective, loss=False)   # the same tree, shapes and dtypes come back
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .devices import alike
from .errors import ArgumentError, is_traced
from .factors import Factors
from .forks import check_jax
from .objectives import Objective, entry_counts
from .problem import Problem


class State(NamedTuple):
    """A solver's state between sweeps: the factors, and what else the solver carries (None for ALS)."""

    factors: Factors
    memory: Any = None


class Info(NamedTuple):
    """What a sweep says about itself, a scalar each.

    Attributes:
        finite: bool, every factor is finite.
        bad_row: int32, the first row without a unique solution, -1 for none. Its factors are NaN.
        bad_side: int32, the side of `bad_row`: 0 for users, 1 for items, -1 for none.
        passes: int32, how many times the sweep went through the entries.
        loss: L after the sweep where asked for, else None. Not counted in `passes`.
    """

    finite: jax.Array
    bad_row: jax.Array
    bad_side: jax.Array
    passes: jax.Array
    loss: jax.Array | None


def sweep_info(factors: Factors, good_users: Any, good_items: Any, passes: Any, loss: jax.Array | None) -> Info:
    """The `Info` of a sweep that ended with these factors, from the rows that went well, `(rows,)` a side."""
    bad_user, bad_item = ~good_users.all(), ~good_items.all()
    row = jnp.where(bad_user, jnp.argmin(good_users), jnp.where(bad_item, jnp.argmin(good_items), -1))
    side = jnp.where(bad_user, 0, jnp.where(bad_item, 1, -1))
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(factors)]).all()
    return Info(finite, row.astype(jnp.int32), side.astype(jnp.int32), jnp.asarray(passes, jnp.int32), loss)


@functools.partial(jax.jit, static_argnames=("rank",))
def initial_factors(key: jax.Array, rank: int, scale: Any, problem: Problem, objective: Objective) -> Factors:
    """Where every solver starts for this key: rows normal around their prior mean with standard deviation
    scale / sqrt(rank), biases 0, and `mean` the weighted mean of the values where the objective centres.

    Rows without entries start at their prior mean.
    """
    objective = objective.cast(problem.dtype)
    keys = jax.random.split(key)
    counts = entry_counts(problem)
    rows = {}
    for side, key, count in zip(("user", "item"), keys, counts, strict=True):
        noise = jax.random.normal(key, (len(count), rank), problem.dtype) * (scale / rank**0.5)
        prior = getattr(objective, f"prior_{side}")
        rows[side] = jnp.where((count > 0)[:, None], noise, 0.0) + (0.0 if prior is None else prior)
    biases = {f"{side}_bias": jnp.zeros_like(count) for side, count in zip(rows, counts, strict=True)}
    return Factors(**rows, **(biases if objective.bias else {}), mean=mean_value(problem) if objective.center else None)


def mean_value(problem: Problem) -> jax.Array:
    """The weighted mean of the values, `()`."""
    return jnp.sum(problem.weight * problem.value) / jnp.sum(problem.weight)


def check_rank(rank: Any) -> None:
    check_whole("rank", rank, 1)


def check_whole(name: str, value: Any, least: int) -> None:
    """Raises ArgumentError unless a static size is a whole number >= least."""
    if is_traced(value):
        raise ArgumentError(f"{name} is traced, but it is a size, part of the program: it cannot be differentiated.")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(f"{name} is {value!r}, but must be a whole number >= {least}.")


def start_from(factors: Factors | None, key: jax.Array, solver: Any, problem: Problem, objective: Objective) -> Factors:
    """The given factors, or a solver's initial ones."""
    check_jax()
    if factors is not None:
        return factors
    return initial_factors(key, solver.rank, solver.init_scale, problem, objective)


def check_factors(name: str, factors: Factors, problem: Problem, objective: Objective, rank: int) -> None:
    """Raises ArgumentError unless the factors have the shapes that this problem, objective and rank need."""
    expected = {
        "user": (problem.num_users, rank),
        "item": (problem.num_items, rank),
        "user_bias": (problem.num_users,) if objective.bias else None,
        "item_bias": (problem.num_items,) if objective.bias else None,
        "mean": () if objective.center else None,
    }
    for part, shape in expected.items():
        given = getattr(factors, part)
        if (None if given is None else jnp.shape(given)) != shape:
            have = "absent" if given is None else f"of shape {jnp.shape(given)}"
            need = "absent" if shape is None else f"of shape {shape}"
            raise ArgumentError(f"{name}.{part} is {have}, but this problem, objective and rank need it {need}.")


def prepared(solver: Any, state: State, problem: Problem, objective: Objective) -> tuple[Any, ...]:
    """What a program of sweeps works on: every number in the dtype of the factors and, under `jax.shard_map`, differing
    by device where any of them does, as the state after a sweep will."""
    dtype = state.factors.dtype
    return alike(cast(solver, dtype), state, problem, objective.cast(dtype))


def cast(tree: Any, dtype: Any) -> Any:
    """Every number of a solver, or of factors, as an array of one dtype, so that all spellings of a number share one
    compilation."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), tree)

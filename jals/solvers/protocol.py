"""What every solver shares: two verbs, `init` and `sweep`, the state between sweeps, and where a fit starts.

    state = solver.init(key, problem, objective)                        # pure, jittable
    state, info = solver.sweep(state, problem, objective, loss=False)   # the same tree, shapes and dtypes come back

It is a frozen dataclass, registered as a pytree, with a static `rank`; `init_scale` where `start_from` makes its start.
Besides it may say of itself what `Traits` lists; one whose half-sweeps `certify` can judge has `update`, as `ALS`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..devices import match_varying, memory_bytes
from ..errors import ArgumentError, check_choice, is_traced
from ..forks import check_jax
from ..model import objectives
from ..model.factors import Factors, as_arrays, common_float
from ..model.objectives import Objective, entry_counts
from ..model.places import SIDES
from ..model.problem import Problem
from ..model.sharded import Sharded
from ..model.streamed import REFUSAL, Streamed
from ..reals import FLOATS, MOST, as_floats, float_dtype, reals
from .noise import normal_rows


class State(NamedTuple):
    """A solver's state between sweeps: the factors, and what else the solver carries (None for ALS)."""

    factors: Factors
    memory: Any = None

    def __repr__(self) -> str:
        """The factors, and how many arrays are carried beside them."""
        carried = len(jax.tree.leaves(self.memory))
        return f"State({self.factors!r}{f', memory of {carried} arrays' if carried else ''})"


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


def _unknown(objective: Objective, size: Any, sweeps: Any, passes: Any) -> Any:
    return (sweeps + passes) * math.nan


class Traits(NamedTuple):
    """What a solver says of itself, by attributes of these names; the defaults hold of one that does not say.

    Attributes:
        first: which side a sweep solves first, "user" or "item": a certificate looks at the other as given.
        storage: "bfloat16" where the rows and biases of a state are held in it, and computed with in float32; None:
            all of a state is of the dtype that it is computed in.
        exact: whether a half-sweep ends at the minimum: a certificate then asks it of the rows updated last.
        monotone: whether no sweep raises the loss.
        differentiable: whether a sweep has derivatives, forward and reverse. (Of one that does not say it is tried.)
        loss_with_sweep: whether a sweep knows the loss without a pass of its own.
        passes_per_sweep: passes over the entries a sweep makes; None for one whose sweeps take as many as they need.
        operations: (objective, `costs.Size`, sweeps, passes) -> estimated operations of so many; NaN: not known.
        numbers: `costs.Size` -> about how many numbers a fit holds; NaN: not known.
    """

    first: str = "user"
    storage: str | None = None
    exact: bool = False
    monotone: bool = False
    differentiable: bool = True
    loss_with_sweep: bool = False
    passes_per_sweep: int | None = None
    operations: Callable[..., Any] = _unknown
    numbers: Callable[..., Any] = lambda size: math.nan


def traits(solver: Any) -> Traits:
    """What a solver says of itself, and the defaults of what it does not."""
    return Traits(**{name: getattr(solver, name) for name in Traits._fields if hasattr(solver, name)})


def sweep_info(
    factors: Factors,
    good_users: Any,
    good_items: Any,
    passes: Any,
    loss: jax.Array | None,
    first: str = "user",
    problem: Problem | None = None,
) -> Info:
    """The `Info` of a sweep that ended with these factors, from the rows that went well, `(rows,)` a side, of this
    problem. It names a row of the side that was solved `first`, where there is one: that spoils the other side's."""
    row = side = jnp.full((), -1, jnp.int32)
    sides = [(good_users, 0), (good_items, 1)]
    for good, number in sides[::-1] if first == "user" else sides:
        fine = good.all()
        bad = jnp.argmin(good).astype(jnp.int32)
        bad = problem.rows[number][bad] if isinstance(problem, Sharded) else bad
        row, side = jnp.where(fine, row, bad), jnp.where(fine, side, number)
    finite = jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(factors)]).all()
    return Info(finite, row, side, jnp.asarray(passes, jnp.int32), loss)


@functools.partial(jax.jit, static_argnames=("rank",))
def initial_factors(key: jax.Array, rank: int, scale: Any, problem: Problem, objective: Objective) -> Factors:
    """Where every solver starts for this key: rows normal around their prior mean with standard deviation
    scale / sqrt(rank), biases 0, and `mean` the weighted mean of the values where the objective centres.

    Rows without entries start at their prior mean.
    """
    objective = objective.cast(problem.dtype)
    keys = jax.random.split(key)
    arranged = [slots.count for slots in (problem.user_slots, problem.item_slots) if slots is not None]
    counts = arranged or entry_counts(problem)  # what is arranged has been counted
    rows = {}
    for side, key, count in zip(("user", "item"), keys, counts, strict=True):
        noise = _noise(key, rank, problem, side) * (scale / rank**0.5)
        prior = getattr(objective, f"prior_{side}")
        rows[side] = jnp.where((count > 0)[:, None], noise, 0.0) + (0.0 if prior is None else prior)
    biases = {f"{side}_bias": jnp.zeros_like(count) for side, count in zip(rows, counts, strict=True)}
    mean, places = mean_value(problem) if objective.center else None, getattr(problem, "places", None)
    return Factors(**rows, **(biases if objective.bias else {}), mean=mean, places=places)


def _noise(key: jax.Array, rank: int, problem: Problem, side: str) -> jax.Array:
    """Normal numbers `(rows, rank)`, which depend on key, rank and row alone, wherever the rows lie."""
    shape = getattr(problem, f"num_{side}s"), rank
    if isinstance(problem, Sharded):
        return normal_rows(key, problem.rows[SIDES.index(side)], shape, problem.dtype)
    return jax.random.normal(key, shape, problem.dtype)


def mean_value(problem: Problem) -> jax.Array:
    """The weighted mean of the values, `()`."""
    if isinstance(problem, Sharded):
        return problem.mean_value()
    if problem.given_weight is not None:
        return jnp.sum(problem.given_weight * problem.value) / jnp.sum(problem.given_weight)
    # XLA would multiply by the inverse of a constant, and the mean of equal values would not be that value.
    count = jax.lax.optimization_barrier(jnp.asarray(problem.num_entries, problem.dtype))
    return jnp.sum(problem.value) / count


# ---- sizes ----

MOST_RANK = 2**15


def check_rank(rank: Any) -> None:
    check_whole("rank", rank, 1, MOST_RANK)


def check_whole(name: str, value: Any, least: int, most: int = MOST) -> None:
    """Raises ArgumentError unless a static size is a whole number from `least` to `most`."""
    if is_traced(value):
        raise ArgumentError(f"{name} is traced, but it is a size, part of the program: it cannot be differentiated.")
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise ArgumentError(f"{name} is {value!r}, but must be a whole number >= {least}.")
    if value > most:
        raise ArgumentError(f"{name} is {_short(int(value))}, but must be at most {most:,}.")


def _short(value: int) -> str:
    return f"{value:,}" if value < 10**18 else "10^18 or more"


def check_room(problem: Problem, rank: int) -> None:
    """Raises ArgumentError where factors of this rank are larger than the memory of a machine for each device."""
    numbers = (problem.num_users + problem.num_items) * rank + rank**2
    need, have = numbers * problem.dtype.itemsize, memory_bytes() * max(1, jax.device_count())
    if need > have:
        raise ArgumentError(
            f"rank is {rank:,}, but then factors of {problem.num_users:,} users and {problem.num_items:,} items take "
            f"{need / 2**30:,.0f} GiB, and this machine has {have / 2**30:,.0f}: lower the rank."
        )


def smaller(solver: Any, problem: Problem) -> list[str]:
    """What makes the work of a solver on a problem take less memory; see `devices.told_exhausted`."""
    sides = (problem.user_side, problem.item_side)
    slots = max(sum(bucket.other.size for bucket in side.buckets) for side in sides)
    ways = [f"lower the rank ({solver.rank:,})"]
    if problem.dtype == np.float64:
        ways.append("take float32 (problem.astype)")
    if getattr(solver, "backend", "auto") == "xla":
        ways.append('take backend="auto", whose kernels hold a few rows at a time')
    if slots > 2 * problem.num_entries:
        padded = f"{slots:,} slots for {problem.num_entries:,} entries"
        ways.append(f'build the problem with layout="bucketed" (this one has {padded})')
    if jax.device_count() > 1 and all(side.mesh is None for side in sides):
        ways.append("spread the rows over the devices (Problem.build(..., devices=))")
    return ways


# ---- arguments ----


def check_kind(name: str, value: Any, kind: Any, how: str) -> None:
    """Raises ArgumentError unless an argument is of the right type, saying how to make one."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{name} is of type {type(value).__name__}: {how}.")


def check_problem(problem: Any, objective: Any) -> None:
    check_jax()
    if isinstance(problem, Streamed):
        raise ArgumentError(f"problem {REFUSAL}")
    check_kind("problem", problem, Problem, "make one with Problem.build(ratings)")
    check_kind("objective", objective, Objective, "make one by a preset such as jals.als_wr(0.05)")


def check_solver(solver: Any) -> None:
    if isinstance(solver, type) or not (hasattr(solver, "init") and hasattr(solver, "sweep")):
        raise ArgumentError(f"solver is {solver!r}, but must be a solver such as jals.ALS(rank=32).")
    if jax.tree_util.all_leaves([solver]):
        raise ArgumentError(
            f"solver is of type {type(solver).__name__}, no pytree: put @jax.tree_util.register_dataclass over "
            'its @dataclasses.dataclass(frozen=True), and give its rank metadata={"static": True}.'
        )
    scale = getattr(solver, "init_scale", None)
    if scale is not None and reals("init_scale", scale).ndim:
        raise ArgumentError(f"init_scale is {scale!r}, but must be one number.")


def checked_inputs(
    factors: Any,
    problem: Any,
    objective: Any,
    *,
    rank: int | None = None,
    name: str = "factors",
    lead: str = "factors",
    storage: str | None = None,
) -> tuple[Any, Problem, Objective]:
    """The check of every public call's arguments: types, shapes and kinds of numbers; all are cast to one dtype. Only
    what is static is checked: under `jit` it costs nothing at run time, and no traced number is concretised.

    Args:
        factors: None where there are none yet.
        rank: the solver's; None: that of the factors.
        lead: whose dtype it is to be. "factors": theirs, float32 or float64 (the wider one where they differ); the
            problem's where they are of another (bfloat16, float16, whole numbers). "problem": the problem's. "state":
            the factors', which all must have, float32 or float64, as a state comes back as it went in.
        storage: see `Traits`; of a state. Its rows and biases stay in that format, all else is float32.

    Raises:
        ArgumentError: naming what does not fit, and the cure.
    """
    check_problem(problem, objective)
    problem.check_shapes()
    dtype = problem.dtype
    if factors is not None:
        factors = as_arrays(name, factors)
        if lead != "state":
            factors = _brought(factors, problem)
        rank = int(factors.rank if rank is None else rank)
        check_factors(name, factors, problem, objective, rank)
        if storage is not None:
            _check_stored(name, factors, problem, storage)
            objective.check_shapes(problem, rank)
            return factors, problem, objective.cast(dtype).placed(problem)
        if lead == "state":
            _check_one_dtype(name, factors)
        if lead != "problem":
            dtype = common_float(factors, problem.dtype)
        factors = cast(factors, dtype, name)
    assert rank is not None
    objective.check_shapes(problem, rank)
    return factors, problem.astype(dtype), objective.cast(dtype).placed(problem)


def _brought(factors: Factors, problem: Problem) -> Factors:
    """The factors where the problem has its rows: on its devices, by its places."""
    if isinstance(problem, Sharded):
        return problem.brought(factors.placed(problem.places))
    if factors.places is None or any(map(is_traced, jax.tree.leaves(factors))):
        return factors.gathered()
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf)), factors.gathered())


def _check_one_dtype(name: str, factors: Factors) -> None:
    for part, array in factors.parts().items():
        if (float_dtype(array) not in FLOATS or float_dtype(array) != float_dtype(factors.user)):
            raise ArgumentError(
                f"{name}.{part} is {array.dtype}, but a sweep needs float32 or float64 throughout: bring all to one, "
                "jax.tree.map(lambda leaf: leaf.astype(jnp.float32), factors), or start by fit(..., init=factors)."
            )


def _check_stored(name: str, factors: Factors, problem: Problem, storage: str) -> None:
    check_storage(problem, storage)
    for part, array in factors.parts().items():
        need = np.dtype(np.float32 if part == "mean" else storage)
        if array.dtype != need:
            raise ArgumentError(
                f"{name}.{part} is {array.dtype}, but with storage={storage!r} a sweep needs {need}: make the state by "
                "solver.init(key, problem, objective, factors), or start by fit(..., init=factors)."
            )


def check_storage(problem: Problem, storage: str) -> None:
    """Raises ArgumentError for a problem whose numbers a solver with such a `storage` would not compute in."""
    if problem.dtype != np.float32:
        raise ArgumentError(
            f"storage is {storage!r}, which computes in float32, but the problem is {problem.dtype}: take "
            f"problem.astype(jnp.float32), or rounding={storage!r}, which computes in the problem's dtype."
        )


def check_factors(name: str, factors: Factors, problem: Problem, objective: Objective, rank: int) -> None:
    """Raises ArgumentError unless the factors have the shapes that this problem, objective and rank need."""
    places = getattr(problem, "places", None)
    if factors.places != places:
        where = ["on one device", "spread over several"]
        here, needed = where[factors.places is not None], where[places is not None]
        raise ArgumentError(f"{name} are {here}, but the problem is {needed} or its places are others: start by init.")
    users, items = problem.user_side.num_rows, problem.item_side.num_rows
    expected = {
        "user": (users, rank),
        "item": (items, rank),
        "user_bias": (users,) if objective.bias else None,
        "item_bias": (items,) if objective.bias else None,
        "mean": () if objective.center else None,
    }
    for part, shape in expected.items():
        given = getattr(factors, part)
        if (None if given is None else np.shape(given)) != shape:
            have = "absent" if given is None else f"of shape {np.shape(given)}"
            need = "absent" if shape is None else f"of shape {shape}"
            raise ArgumentError(f"{name}.{part} is {have}, but this problem, objective and rank need it {need}.")


def start_from(factors: Any, key: Any, solver: Any, problem: Any, objective: Any) -> tuple[Factors, Problem, Objective]:
    """(the factors before a solver's first sweep, the problem and the objective it starts on), all of the problem's
    dtype: the given factors, or initial ones."""
    given, problem, objective = checked_inputs(factors, problem, objective, rank=solver.rank, lead="problem")
    if given is None:
        check_solver(solver)
        check_room(problem, solver.rank)
        check_key(key)
        scale = as_floats("init_scale", solver.init_scale, problem.dtype)
        given = initial_factors(key, solver.rank, scale, problem, objective)
    return given, problem, objective


def check_key(key: Any) -> None:
    if not isinstance(key, (jax.Array, np.ndarray)):
        raise ArgumentError(f"key is of type {type(key).__name__}: make one with jax.random.key(0).")


def entering(solver: Any, state: Any, problem: Any, objective: Any) -> tuple[Any, Any, Problem, Objective]:
    """(solver, state, problem, objective) of one dtype, the state's (but see `Traits.storage`), as a sweep takes them;
    and, under `jax.shard_map`, differing by device where any of them does, as the state after a sweep will. See
    `checked_inputs`."""
    if not isinstance(getattr(state, "factors", None), Factors):
        kind = type(state).__name__
        raise ArgumentError(f"state is of type {kind}: give one that solver.init or a sweep has returned.")
    rank, name = getattr(solver, "rank", None), "state.factors"
    factors, problem, objective = checked_inputs(
        state.factors, problem, objective, rank=rank, name=name, lead="state", storage=traits(solver).storage
    )
    if isinstance(state, State):
        state = state._replace(factors=factors)
    return match_varying(cast(solver, problem.dtype, "solver"), state, problem, objective)


def check_memory(solver: Any, state: State, problem: Problem, objective: Objective) -> None:
    """Raises ArgumentError unless a state has what this solver keeps beside the factors. For traced code: it traces
    `init`."""
    key = getattr(state.memory, "key", None)
    key = jax.random.key(0) if key is None else key
    like = jax.eval_shape(lambda factors: solver.init(key, problem, objective, factors).memory, state.factors)
    forms = (jax.tree.map(lambda leaf: (jnp.shape(leaf), leaf.dtype), tree) for tree in (state.memory, like))
    if len({str(form) for form in forms}) > 1:
        raise ArgumentError(
            f"state.memory is not what {type(solver).__name__} keeps for this problem: give a state that this solver's "
            "init, or a sweep of it, has returned."
        )


def check_side(side: Any) -> None:
    check_choice("side", side, ("user", "item"))


def cast(tree: Any, dtype: Any, name: str = "solver") -> Any:
    """Every number of a solver, or of factors, as an array of one dtype, so that all spellings of a number share one
    compilation. A solver's arrays of whole numbers and random keys stay what they are.

    Raises:
        ArgumentError: for what is no real number.
    """

    def one(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, jax.Array) and leaf.dtype == dtype and not leaf.weak_type:
            return leaf
        if isinstance(leaf, jax.Array) and name == "solver" and not jnp.issubdtype(leaf.dtype, np.inexact):
            return leaf
        return as_floats(f"{name}{jax.tree_util.keystr(path)}", leaf, dtype)

    return jax.tree_util.tree_map_with_path(one, tree)


# ---- the loss ----


def loss(factors: Factors, problem: Problem, objective: Objective) -> jax.Array:
    """L at these factors, `()`: exactly the sum at the top of `jals.model.objectives`, constants included.

    Evaluated entry by entry in the order of the ratings, without the layouts, so that it can serve as a check of
    them. One pass over the entries; differentiable, jittable and vmappable in everything that is a float.

    Args:
        factors: float32 or float64, which everything is computed in; of another kind of number (bfloat16, whole ones,
            lists) they are read in the problem's dtype.

    Returns: L; NaN where a user or item of the problem is out of range.

    Raises:
        ArgumentError: where factors, problem and objective do not fit together.
    """
    return objectives.loss(*checked_inputs(factors, problem, objective))

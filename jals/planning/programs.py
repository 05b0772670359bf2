"""What is planned: programs of a fit, over a table of which only the sizes are known, all rows of a side being of the
same length. See `compiling.Program`."""

from typing import Any

import jax
import numpy as np

from ..errors import ArgumentError
from ..model.conventions import explicit
from ..model.factors import Factors
from ..model.layouts import Bucket, Side, choose_widths, sizes_of
from ..model.problem import Problem
from ..model.slots import Slots
from ..reals import FLOATS
from ..recommend.top import top_k
from ..solvers.als import ALS
from ..solvers.gradient import Gradient
from ..solvers.protocol import State
from .compiling import Job, Program

USERS, K = 4096, 10  # of `best_items`


def als_sweep(job: Job, mesh: Any) -> tuple[Any, dict[str, Any]]:
    """`ALS.sweep` by Cholesky."""
    problem, factors, reg = _fit(job, mesh)

    def sweep(problem: Problem, factors: Factors, reg: Any) -> Factors:
        return ALS(job.rank).sweep(State(factors), problem, explicit(reg))[0].factors

    return sweep, {"problem": problem, "factors": factors, "reg": reg}


def gradient_sweep(job: Job, mesh: Any) -> tuple[Any, dict[str, Any]]:
    """`Gradient.sweep`: one step of Adam."""
    problem, factors, reg = _fit(job, mesh)
    solver = Gradient(job.rank)
    state = jax.eval_shape(lambda *given: solver.init(jax.random.key(0), *given), problem, explicit(reg), factors)
    everywhere = reg.sharding
    state = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=everywhere), state)

    def sweep(problem: Problem, state: State, reg: Any) -> State:
        return solver.sweep(state, problem, explicit(reg))[0]

    return sweep, {"problem": problem, "state": state, "reg": reg}


def best_items(job: Job, mesh: Any) -> tuple[Any, dict[str, Any]]:
    """`top_k`: the ten best of all items for each of 4,096 users."""
    factors = _factors(job, mesh)
    users = _array(mesh, (USERS,), np.int32)
    return lambda factors, user: top_k(factors, user, K), {"factors": factors, "users": users}


PROGRAMS: dict[str, Program] = {"als": als_sweep, "gradient": gradient_sweep, "top_k": best_items}


def _array(mesh: Any, shape: tuple[int, ...], dtype: Any, spread: bool = False) -> Any:
    spec = jax.sharding.PartitionSpec(*mesh.axis_names) if spread else jax.sharding.PartitionSpec()
    return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(mesh, spec))


def _factors(job: Job, mesh: Any) -> Factors:
    return Factors(*(_array(mesh, (rows, job.rank), np.dtype(job.precision)) for rows in (job.users, job.items)))


def _fit(job: Job, mesh: Any) -> tuple[Problem, Factors, Any]:
    """(problem, factors, lambda). The layouts' slabs are spread over the devices, each of which holds the columns and
    the factors (`Problem.shard`)."""
    dtype = np.dtype(job.precision)
    if dtype not in FLOATS:
        raise ArgumentError(f"a sweep keeps factors in float32 or float64, not in {job.precision}.")

    def side(rows: int) -> tuple[Side, Slots]:
        sizes = sizes_of(job.platform)
        width, _, pieces = (int(each[0]) for each in choose_widths(np.array([-(-job.entries // rows)]), "bucketed", 1))
        in_slab = int(np.clip(sizes.slots // (width * pieces), 1, sizes.rows))
        slabs = -(-rows // (in_slab * mesh.size)) * mesh.size
        shape = slabs, in_slab * pieces, width
        row, slots = _array(mesh, (slabs, in_slab), np.int32, True), _array(mesh, shape, np.int32, True)
        piece_row = _array(mesh, shape[:2], np.int32, True) if pieces > 1 else None
        step = max(each for each in range(1, shape[1] + 1) if not shape[1] % each and each * width <= sizes.slots)
        bucket = Bucket(row, slots, slots, piece_row, step)
        numbers = (_array(mesh, shape, dtype, True),)
        weight = numbers if job.weighted else None
        layout = Side((bucket,), rows, job.entries, mesh=mesh if mesh.size > 1 else None)
        return layout, Slots(numbers, weight, _array(mesh, (rows,), dtype))

    columns = [_array(mesh, (job.entries,), each) for each in (np.int32, np.int32, dtype)]
    weight = _array(mesh, (job.entries,), dtype) if job.weighted else None
    (user_side, user_slots), (item_side, item_slots) = side(job.users), side(job.items)
    sides = user_side, item_side, user_slots, item_slots
    problem = Problem(columns[0], columns[1], columns[2], weight, *sides, job.users, job.items)
    return problem, _factors(job, mesh), _array(mesh, (), dtype)

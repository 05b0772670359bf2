"""What is planned: programs of a fit, over a table of which only the sizes are known (`tables`), on one device as
`Problem.build` lays it out, on several spread over them. See `compiling.Program`."""

from typing import Any

import jax
import numpy as np

from ..errors import ArgumentError
from ..model.conventions import explicit
from ..model.factors import Factors
from ..model.places import SIDES
from ..model.problem import Problem
from ..reals import FLOATS
from ..recommend.top import top_k
from ..solvers.als import ALS
from ..solvers.gradient import Gradient
from ..solvers.protocol import State
from .compiling import Job, Program
from .tables import Table

USERS, K = 4096, 10  # of `best_items`


def als_sweep(job: Job, mesh: Any) -> tuple[Any, dict[str, Any]]:
    """`ALS.sweep` by Cholesky."""
    storage = "bfloat16" if job.precision == "bfloat16" else None
    problem, factors, reg = _fit(job, mesh, storage)

    def sweep(problem: Problem, factors: Factors, reg: Any) -> Factors:
        return ALS(job.rank, storage=storage).sweep(State(factors), problem, explicit(reg))[0].factors

    return sweep, {"problem": problem, "factors": factors, "reg": reg}


def gradient_sweep(job: Job, mesh: Any) -> tuple[Any, dict[str, Any]]:
    """`Gradient.sweep`: one step of Adam."""
    problem, factors, reg = _fit(job, mesh)
    solver = Gradient(job.rank)
    state = jax.eval_shape(lambda *given: solver.init(jax.random.key(0), *given), problem, explicit(reg), factors)
    table = Table(job, mesh)
    state = jax.tree.map(lambda leaf: table.array(leaf.shape, leaf.dtype, spread=table.spread and leaf.ndim > 0), state)

    def sweep(problem: Problem, state: State, reg: Any) -> State:
        return solver.sweep(state, problem, explicit(reg))[0]

    return sweep, {"problem": problem, "state": state, "reg": reg}


def best_items(job: Job, mesh: Any) -> tuple[Any, dict[str, Any]]:
    """`top_k`: the ten best of all items for each of 4,096 users."""
    table = Table(job, mesh)
    rows = ((count, job.rank) for count in table.rows.values())
    factors = Factors(*(table.array(shape, np.dtype(job.precision), spread=False) for shape in rows))
    users = table.array((USERS,), np.int32, spread=False)
    return lambda factors, user: top_k(factors, user, K), {"factors": factors, "users": users}


FITS = (als_sweep, gradient_sweep)
PROGRAMS: dict[str, Program] = {"als": als_sweep, "gradient": gradient_sweep, "top_k": best_items}


def _fit(job: Job, mesh: Any, storage: str | None = None) -> tuple[Problem, Factors, Any]:
    """(problem, factors, lambda); `storage` is that of `ALS`, which is computed with in float32."""
    if storage is None and np.dtype(job.precision) not in FLOATS:
        raise ArgumentError(f"a sweep of Gradient keeps factors in float32 or float64, not in {job.precision}.")
    table = Table(job, mesh)
    kept = np.dtype(job.precision)
    rows = [table.array((table.count(side), job.rank), kept, table.spread) for side in SIDES]
    return table.problem(), Factors(*rows, places=table.places), table.array((), table.dtype, spread=False)

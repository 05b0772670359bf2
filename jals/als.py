"""Alternating least squares."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import normal, rowsolve
from .errors import ArgumentError, check_choice
from .factors import Factors
from .objectives import Objective, loss
from .problem import Problem
from .protocol import Info, State, cast, check_rank, start_from, sweep_info


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ALS:
    """Alternating least squares: a sweep solves every user's row with the items held, then every item's row with the
    users held, each the exact minimiser of the loss (with biases: of row and bias jointly).

    Attributes:
        rank: columns of X and Y; static.
        linsolve: static. "cholesky"; "lu" (`jnp.linalg.solve`'s algorithm); "cg", a few conjugate gradient steps from
            the current row, matrix-free and inexact.
        cg_steps: how many; static, used by "cg" only.
        init_scale: the initial factors are normal with standard deviation init_scale / sqrt(rank).
        rounding: static. None, or "bfloat16" or "float16": each half-sweep rounds the rows and biases it has solved
            for to the nearest number of that format. They keep their dtype and are solved for in it: the numbers of a
            fit that stores its factors in the format and computes in the dtype, with nothing stored smaller here. The
            start and the mean are not rounded; numbers under float16's least normal one, 6e-5, become 0, over its
            largest, 65,504, infinite. Derivatives pass the rounding as if it were not there.
    """

    rank: int = dataclasses.field(metadata={"static": True})
    linsolve: str = dataclasses.field(default="cholesky", metadata={"static": True})
    cg_steps: int = dataclasses.field(default=3, metadata={"static": True})
    init_scale: Any = 0.1
    rounding: str | None = dataclasses.field(default=None, metadata={"static": True})

    def __post_init__(self):
        check_rank(self.rank)
        check_choice("linsolve", self.linsolve, rowsolve.LINSOLVES)
        if isinstance(self.cg_steps, bool) or not isinstance(self.cg_steps, (int, np.integer)) or self.cg_steps < 1:
            raise ArgumentError(f"cg_steps is {self.cg_steps!r}, but must be a whole number >= 1.")
        if self.rounding is not None:
            check_choice("rounding", self.rounding, ("bfloat16", "float16"))

    @property
    def exact(self) -> bool:
        """Whether a half-sweep ends at the minimum (what `certify` may ask of it)."""
        return self.linsolve != "cg" and self.rounding is None

    def init(
        self, key: jax.Array, problem: Problem, objective: Objective, factors: Factors | None = None
    ) -> State:
        """The state before the first sweep: from given factors, or from `initial_factors`. Pure and jittable."""
        return State(start_from(factors, key, self, problem, objective))

    def sweep(self, state: State, problem: Problem, objective: Objective, loss: bool = False) -> tuple[State, Info]:
        """One sweep: users, then items. Pure, jittable, differentiable forward and reverse in every float; two passes
        over the entries for exact linsolves, 2 (2 + 2 cg_steps) for "cg".

        Args:
            state: from `init` or an earlier sweep; the same tree, shapes and dtypes come back.
            loss: whether `info.loss` is to hold L after the sweep (one more pass).
        """
        dtype = state.factors.dtype
        return _sweep(cast(self, dtype), state, problem, objective.cast(dtype), loss)

    def update(self, factors: Factors, problem: Problem, objective: Objective, side: str) -> tuple[Factors, jax.Array]:
        """Half a sweep before any rounding: (factors with one side's rows solved for, good `(rows,)`)."""
        view = normal.view(factors, problem, objective, side)
        if self.linsolve == "cg":
            solved = rowsolve.solve_cg(view, factors.joint(side), self.cg_steps)
        else:
            solved = rowsolve.solve(view, self.linsolve)
        return dataclasses.replace(factors, **{side: solved.rows, f"{side}_bias": solved.bias}), solved.good


@functools.partial(jax.jit, static_argnames=("with_loss",))
def _sweep(solver: ALS, state: State, problem: Problem, objective: Objective, with_loss: bool) -> tuple[State, Info]:
    factors, good = state.factors, {}
    for side in ("user", "item"):
        factors, good[side] = solver.update(factors, problem, objective, side)
        factors = _rounded(factors, side, solver.rounding)
    after = loss(factors, problem, objective) if with_loss else None
    passes = 2 * (2 + 2 * solver.cg_steps) if solver.linsolve == "cg" else 2
    return State(factors), sweep_info(factors, good["user"], good["item"], passes, after)


def _rounded(factors: Factors, side: str, rounding: str | None) -> Factors:
    """The factors with one side's numbers at the nearest ones of a format."""
    if rounding is None:
        return factors
    form = jnp.finfo(rounding)

    def nearest(numbers: jax.Array) -> jax.Array:
        # XLA may drop a cast to the format and back, but not this. The difference of two near numbers is exact, so the
        # sum is the rounded number to the bit; without it derivatives would be rounded too.
        rounded = jax.lax.reduce_precision(numbers, form.nexp, form.nmant)
        return numbers + jax.lax.stop_gradient(rounded - numbers)

    return dataclasses.replace(
        factors, **{part: jax.tree.map(nearest, getattr(factors, part)) for part in (side, f"{side}_bias")}
    )

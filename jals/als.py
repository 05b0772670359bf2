"""Alternating least squares."""

import dataclasses
import functools
from typing import Any

import jax
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
    """

    rank: int = dataclasses.field(metadata={"static": True})
    linsolve: str = dataclasses.field(default="cholesky", metadata={"static": True})
    cg_steps: int = dataclasses.field(default=3, metadata={"static": True})
    init_scale: Any = 0.1

    def __post_init__(self):
        check_rank(self.rank)
        check_choice("linsolve", self.linsolve, rowsolve.LINSOLVES)
        if isinstance(self.cg_steps, bool) or not isinstance(self.cg_steps, (int, np.integer)) or self.cg_steps < 1:
            raise ArgumentError(f"cg_steps is {self.cg_steps!r}, but must be a whole number >= 1.")

    @property
    def exact(self) -> bool:
        """Whether a half-sweep ends at the minimum (what `certify` may ask of it)."""
        return self.linsolve != "cg"

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
        """Half a sweep: (factors with one side's rows solved for, good `(rows,)`)."""
        view = normal.view(factors, problem, objective, side)
        if self.exact:
            solved = rowsolve.solve(view, self.linsolve)
        else:
            solved = rowsolve.solve_cg(view, factors.joint(side), self.cg_steps)
        return dataclasses.replace(factors, **{side: solved.rows, f"{side}_bias": solved.bias}), solved.good


@functools.partial(jax.jit, static_argnames=("with_loss",))
def _sweep(solver: ALS, state: State, problem: Problem, objective: Objective, with_loss: bool) -> tuple[State, Info]:
    factors, good_users = solver.update(state.factors, problem, objective, "user")
    factors, good_items = solver.update(factors, problem, objective, "item")
    after = loss(factors, problem, objective) if with_loss else None
    passes = 2 if solver.exact else 2 * (2 + 2 * solver.cg_steps)
    return State(factors), sweep_info(factors, good_users, good_items, passes, after)

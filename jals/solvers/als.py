"""Alternating least squares."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..errors import ArgumentError, check_choice
from ..model.factors import Factors
from ..model.objectives import Objective, by_rows, loss, row_sizes, side_penalty
from ..model.problem import Problem
from ..rows import normal, rowsolve, steps
from ..rows.backends import BACKENDS
from ..rows.rowsolve import EXACT
from ..rows.steps import STEPPING
from . import costs
from .protocol import (
    Info,
    State,
    check_memory,
    check_rank,
    check_side,
    check_whole,
    checked_inputs,
    entering,
    start_from,
    sweep_info,
)

LINSOLVES = (*EXACT, *STEPPING)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ALS:
    """Alternating least squares: a sweep solves every user's row with the items held, then every item's row with the
    users held (or the other way round, see `first`), each the exact minimiser of the loss (with biases: of row and bias
    jointly).

    Attributes:
        rank: columns of X and Y; static.
        linsolve: static. "cholesky"; "lu" (`jnp.linalg.solve`'s algorithm); "cg", a few conjugate gradient steps from
            the current row, matrix-free and inexact; "subspace", each block of columns in turn at its minimum with the
            others held (iALS++), inexact unless one block holds them all. Solving costs rank^3 a row: above a rank of
            128 or so the last two take less time to the same loss, of which docs/performance.md has measurements.
        cg_steps: how many; static, used by "cg" only.
        block: columns of a block; static, used by "subspace" only.
        first: static. The side that a sweep solves first: "user", or "item" as cmfrec does.
        init_scale: the initial factors are normal with standard deviation init_scale / sqrt(rank). The first half-sweep
            solves for one side whatever the scale, and where lambda suits the table a fit ends where it ends from any.
            Raise it to 1 where lambda is so strong that the factors end near 0, a saddle which a small start is slow to
            leave. With lambda near 0, surplus columns shrink slowly from any scale: start with fewer, by `init`.
        rounding: static. None, or "bfloat16" or "float16": each half-sweep rounds the rows and biases it has solved
            for to the nearest number of that format. They keep their dtype and are solved for in it: the numbers of a
            fit that stores its factors in the format and computes in the dtype, with nothing stored smaller here. The
            start and the mean are not rounded; numbers under float16's least normal one, 6e-5, become 0, over its
            largest, 65,504, infinite. Derivatives pass the rounding as if it were not there.
        backend: static. What solves the rows: "xla"; "native", the kernels of `jals.native`, for all but LU in C++ on
            CPUs and for Cholesky in CUDA on GPUs; "auto", the kernel of the platform that the program is compiled for
            where it is built, else XLA. Their results agree up to rounding, and so do their derivatives.
    """

    rank: int = dataclasses.field(metadata={"static": True})
    linsolve: str = dataclasses.field(default="cholesky", metadata={"static": True})
    cg_steps: int = dataclasses.field(default=3, metadata={"static": True})
    init_scale: Any = 0.1
    rounding: str | None = dataclasses.field(default=None, metadata={"static": True})
    backend: str = dataclasses.field(default="auto", metadata={"static": True})
    first: str = dataclasses.field(default="user", metadata={"static": True})
    block: int = dataclasses.field(default=64, metadata={"static": True})

    def __post_init__(self):
        check_rank(self.rank)
        check_choice("linsolve", self.linsolve, LINSOLVES)
        check_whole("cg_steps", self.cg_steps, 1)
        check_whole("block", self.block, 1)
        if self.rounding is not None:
            check_choice("rounding", self.rounding, ("bfloat16", "float16"))
        check_choice("backend", self.backend, BACKENDS)
        check_choice("first", self.first, ("user", "item"))
        if self.backend == "native" and self.linsolve == "lu":
            raise ArgumentError('backend "native" has no linsolve "lu": leave it out, or take "cholesky".')

    @property
    def exact(self) -> bool:
        """Whether a half-sweep ends at the minimum (what `certify` may ask of it)."""
        return self.linsolve not in STEPPING and self.rounding is None

    @property
    def monotone(self) -> bool:
        """Whether no sweep raises the loss."""
        return self.rounding is None

    @property
    def loss_with_sweep(self) -> bool:
        """Whether a sweep knows the loss without a pass of its own."""
        return self.rounding is None

    @property
    def differentiable(self) -> bool:
        """Whether a sweep has derivatives, forward and reverse."""
        return True

    @property
    def passes_per_sweep(self) -> int | None:
        """Passes over the entries a sweep makes; None for a solver whose sweeps take as many as they need."""
        # steps read an entry's row for its score, and again for the row's sum; a block's once more, as its score moves
        return {"cg": 2 * (2 + 2 * self.cg_steps), "subspace": 6}.get(self.linsolve, 2)

    def operations(self, objective: Objective, size: costs.Size, sweeps: Any, passes: Any) -> Any:
        """Estimated operations of so many sweeps and passes (see `costs`): arrays of one shape, or numbers."""
        of = costs.terms(self.rank, objective, size)
        if self.linsolve == "cg":
            return passes * (of.one_pass + of.all_pairs / 2)
        if self.linsolve == "subspace":
            return sweeps * of.subspace_sweep(self.block)
        return sweeps * of.exact_sweep(self.linsolve)

    def numbers(self, size: costs.Size) -> int:
        """About how many numbers a fit holds: its state before and after a sweep, and what a sweep makes on the way
        beside one side's systems."""
        return 2 * size.rows * (self.rank + 1)

    def init(self, key: jax.Array, problem: Problem, objective: Objective, factors: Factors | None = None) -> State:
        """The state before the first sweep, in the problem's dtype: from given factors, or from `initial_factors`. Pure
        and jittable.

        Raises:
            ArgumentError: where problem, objective and rank, or the factors, do not fit together.
        """
        return State(start_from(factors, key, self, problem, objective)[0])

    def sweep(self, state: State, problem: Problem, objective: Objective, loss: bool = False) -> tuple[State, Info]:
        """One sweep: one side, then the other. Pure, jittable, differentiable forward and reverse in every float; two
        passes over the entries for exact linsolves, 2 (2 + 2 cg_steps) for "cg", 6 for "subspace".

        Args:
            state: from `init` or an earlier sweep; the same tree, shapes and dtypes come back. A problem of another
                dtype is worked on in the state's (`Problem.astype`).
            loss: whether `info.loss` is to hold L after the sweep. It comes from the systems of the half-sweep just
                done, c - 2 b'x + x'A x a row, without a pass of its own (with `rounding` by a pass): the same number
                as `jals.loss` up to rounding, that of sum w t^2 + sum over the last side's rows of |A|_F |x|^2. The
                second sum is far above the first where large weights meet a small lambda (`hu_koren` with
                alpha * value of 1e6 and more): matrices are then ill-conditioned, and x'A x is a sum of terms that
                cancel. Where that matters, take `jals.loss`.

        Raises:
            ArgumentError: where state, problem, objective and rank do not fit together.
        """
        solver, state, problem, objective = entering(self, state, problem, objective)
        return _sweep(solver, state, problem.arrange(), objective, loss)

    def update(self, factors: Factors, problem: Problem, objective: Objective, side: str) -> tuple[Factors, jax.Array]:
        """Half a sweep before any rounding: (factors with one side's rows solved for, good `(rows,)`). `side` is "user"
        or "item"; factors, dtypes and errors as for `sweep`."""
        check_side(side)
        factors, problem, objective = checked_inputs(factors, problem, objective, rank=self.rank, lead="state")
        factors, solved = self.half_sweep(factors, problem, objective, side)
        return factors, solved.good

    def half_sweep(
        self, factors: Factors, problem: Problem, objective: Objective, side: str, value: bool = False, gram: Any = None
    ) -> tuple[Factors, rowsolve.Solved]:
        """`update` without its checks, of an arranged problem: (factors, `rowsolve.Solved`), with the rows' `value` if
        so asked; `gram`: `view.pairs_gram`, where it is known already."""
        here, want = normal.view(factors, problem, objective, side, gram=gram), ("value",) if value else ()
        if self.linsolve == "cg":
            solved = steps.solve_cg(here, factors.joint(side), self.cg_steps, want, self.backend)
        elif self.linsolve == "subspace":
            solved = steps.solve_subspace(here, factors.joint(side), self.block, want, self.backend)
        else:
            solved = rowsolve.solve(here, self.linsolve, self.backend, want)
        return dataclasses.replace(factors, **{side: solved.rows, f"{side}_bias": solved.bias}), solved


@functools.partial(jax.jit, static_argnames=("with_loss",))
def _sweep(solver: ALS, state: State, problem: Problem, objective: Objective, with_loss: bool) -> tuple[State, Info]:
    check_memory(solver, state, problem, objective)
    first, last = ("user", "item") if solver.first == "user" else ("item", "user")
    factors, before = solver.half_sweep(state.factors, problem, objective, first)
    factors = _rounded(factors, first, solver.rounding)
    of_rows = with_loss and solver.rounding is None
    factors, solved = solver.half_sweep(factors, problem, objective, last, value=of_rows)
    factors = _rounded(factors, last, solver.rounding)
    after = None
    if of_rows:
        n = row_sizes(problem, objective)[first == "item"]
        after = solved.value.sum() + side_penalty(factors, first, n, by_rows(problem, objective))
    elif with_loss:
        after = loss(factors, problem, objective)
    users, items = (before, solved) if first == "user" else (solved, before)
    info = sweep_info(factors, users.good, items.good, solver.passes_per_sweep, after, solver.first, problem)
    return State(factors), info


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

"""Alternating least squares, accelerated by what its last sweeps did."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..devices import match_varying
from ..errors import check_choice
from ..model.factors import Factors
from ..model.objectives import Objective, by_rows, loss, row_sizes, side_penalty
from ..model.problem import Problem
from ..rows import normal, rowsolve
from . import costs
from .als import ALS
from .protocol import Info, State, check_memory, check_rank, check_whole, entering, start_from, sweep_info

MOST_MEMORY = 2**15  # its square is the size of a system that each sweep solves
_HIGHEST = jax.lax.Precision.HIGHEST


class AndersonMemory(NamedTuple):
    """What `AndersonALS` carries beside the factors; k = rank + 1 where there are biases, else rank.

    Attributes:
        start: `(items, k)`, the item rows and biases that the last sweep started from.
        starts: `(memory, items, k)`, how `start` changed from one sweep to the next, the newest last.
        moves: `(memory, items, k)`, how a sweep's move, its end minus its start, changed.
        known: int32, how many of these changes are known. -1: there was no sweep yet.
        pace: grows by one a sweep, and is halved where a step is rejected.
        loss: L of the factors; infinite before the first sweep.
    """

    start: jax.Array
    starts: jax.Array
    moves: jax.Array
    known: jax.Array
    pace: jax.Array
    loss: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AndersonALS:
    """ALS that extrapolates from its last sweeps before each new one: the same minima in far fewer sweeps.

    A sweep of ALS maps the item rows (biases included) to new ones, Y to G(Y); a minimum is a fixed point of G. The
    next sweep starts from G(Y) + step. The solver remembers how Y and the move G(Y) - Y changed in the last `memory`
    sweeps, and takes one of two steps:

    - Anderson's: the combination of the remembered changes after which the next move would be least, if G were linear.
      Rows count by their number of entries, as in the Hessian.
    - Nesterov's: on in the direction from the end of the sweep before to the end of this one, by a share that grows
      from sweep to sweep. It is taken where the loss does not look convex (a move grew along a remembered change, or
      Anderson's step points against the move), since Anderson's step would lead back to a saddle there.

    The loss never rises: where L after the sweep is above L before (or is not finite), the factors are those of a plain
    sweep from where the last one ended, and all changes but the newest are forgotten. A sweep ends with the items
    solved for the users at hand, as in ALS, so that `certify` holds with `last_updated`. Users always come first in
    a sweep.

    A rotation of all factors changes neither L nor what this solver does, so the rows of successive sweeps need no
    aligning: a sweep of rotated rows gives the rotated result, and a step has the same coefficients in all columns.

    Attributes:
        rank: columns of X and Y; static.
        memory: how many changes are remembered, each 2 k numbers an item; static.
        linsolve: "cholesky" or "lu", as for `ALS`; static.
        init_scale: the initial factors are normal with standard deviation init_scale / sqrt(rank).

    Sources: Anderson, "Iterative procedures for nonlinear integral equations" (1965); Walker and Ni, "Anderson
    acceleration for fixed-point iterations" (2011); Winlaw, Hynes, Caterini and De Sterck, "Algorithmic acceleration of
    parallel ALS for collaborative filtering" (2015), who accelerate ALS by nonlinear conjugate gradients with line
    searches; Nesterov's step as in O'Donoghue and Candes, "Adaptive restart for accelerated gradient schemes" (2015).
    """

    rank: int = dataclasses.field(metadata={"static": True})
    memory: int = dataclasses.field(default=10, metadata={"static": True})
    linsolve: str = dataclasses.field(default="cholesky", metadata={"static": True})
    init_scale: Any = 0.1

    exact = True  # a half-sweep ends at the minimum
    monotone = True
    differentiable = True
    passes_per_sweep = None  # a rejected step takes two more

    def __post_init__(self):
        check_rank(self.rank)
        check_choice("linsolve", self.linsolve, ("cholesky", "lu"))
        check_whole("memory", self.memory, 1, MOST_MEMORY)

    def operations(self, objective: Objective, size: costs.Size, sweeps: Any, passes: Any) -> Any:
        """As `ALS.operations`: those of exact ALS for every two passes, a pass for the loss, and the step ahead from m
        changes, items k (2 m (m + 1) + 6 m) and m^3 for its system."""
        of, m = costs.terms(self.rank, objective, size), self.memory
        ahead = size.items * of.unknowns * (2 * m * (m + 1) + 6 * m) + m**3
        return passes / 2 * (of.exact_sweep(self.linsolve) + of.one_pass) + sweeps * ahead

    def numbers(self, size: costs.Size) -> int:
        """As `ALS.numbers`, with the changes that it remembers."""
        return 2 * (self.rank + 1) * (size.rows + size.items * (2 * self.memory + 1))

    def init(self, key: jax.Array, problem: Problem, objective: Objective, factors: Factors | None = None) -> State:
        """The state before the first sweep, in the problem's dtype: from given factors, or from `initial_factors`. Pure
        and jittable. Raises as `ALS.init`."""
        factors, _, _ = start_from(factors, key, self, problem, objective)
        items = factors.joint("item")
        starts, moves = (jnp.zeros((self.memory, *items.shape), items.dtype) for _ in range(2))
        pace, infinite = (jnp.asarray(number, items.dtype) for number in (0, jnp.inf))
        # A copy: a program that gives its arguments' memory away cannot give an array away twice.
        return State(factors, AndersonMemory(items.copy(), starts, moves, jnp.asarray(-1, jnp.int32), pace, infinite))

    def sweep(self, state: State, problem: Problem, objective: Objective, loss: bool = False) -> tuple[State, Info]:
        """One sweep: users, then items. Pure, jittable, differentiable forward and reverse in every float: the
        derivatives are those of the step that was taken; whether a step is accepted has none.

        Two passes over the entries, the loss of the safeguard included: the half-sweep of the items sums it up on the
        way. Four where a step is rejected; `info.passes` says so. (A derivative makes one more, for that loss, and
        `vmap` always makes four.)

        Args:
            state: from `init` or an earlier sweep; the same tree, shapes and dtypes come back. A problem of another
                dtype is worked on in the state's.
            loss: whether `info.loss` is to hold L after the sweep (one more pass).

        Raises:
            ArgumentError: where state, problem, objective and rank do not fit together.
        """
        return _sweep(*entering(self, state, problem, objective), loss)


class _Swept(NamedTuple):
    """A sweep of ALS: where it ended, the rows that went well, and L there."""

    factors: Factors
    good_users: jax.Array
    good_items: jax.Array
    loss: jax.Array


@functools.partial(jax.jit, static_argnames=("with_loss",))
def _sweep(
    solver: AndersonALS, state: State, problem: Problem, objective: Objective, with_loss: bool
) -> tuple[State, Info]:
    check_memory(solver, state, problem, objective)
    problem = problem.arrange()
    assert problem.item_slots is not None
    before, memory = state
    end = before.joint("item")
    weight = problem.item_slots.count + by_rows(problem, objective).unobserved_mass("item", problem.num_users)

    ahead = end + _step(memory, end - memory.start, jax.lax.stop_gradient(weight))

    def attempt(so_far, start):
        enough = so_far[0].loss <= memory.loss
        return jax.lax.cond(
            enough, lambda: so_far, lambda: (_als(solver, before, start, problem, objective), start)
        ), enough

    # A loop of two, so that a sweep is compiled once.
    rows = len(before.user), len(before.item)
    nothing = _Swept(before, *(jnp.ones(each, bool) for each in rows), memory.loss * jnp.nan)  # pyright: ignore
    nothing, _ = match_varying(nothing, end)
    (swept, start), spared = jax.lax.scan(attempt, (nothing, end), jnp.stack([ahead, end]))
    lower = spared[1]

    move = swept.factors.joint("item") - start
    kept = jnp.where(lower, memory.known, jnp.minimum(memory.known, 0))
    after = AndersonMemory(
        start,
        jnp.concatenate([memory.starts[1:], (start - memory.start)[None]]),
        jnp.concatenate([memory.moves[1:], (move - (end - memory.start))[None]]),
        jnp.minimum(kept + 1, solver.memory),
        jnp.where(lower, memory.pace, jnp.floor(memory.pace / 2)) + 1,
        swept.loss,
    )
    passes = jnp.where(lower, 2, 4)
    value = loss(swept.factors, problem, objective) if with_loss else None
    info = sweep_info(swept.factors, swept.good_users, swept.good_items, passes, value, problem=problem)
    return State(swept.factors, after), info


def _step(memory: AndersonMemory, move: jax.Array, weight: jax.Array) -> jax.Array:
    """How far ahead of the last sweep's end the next one is to start `(items, k)`; 0 where nothing is known.

    Args:
        move: `(items, k)`, of the last sweep.
        weight: `(items,)`, of the rows in every product.
    """
    size = len(memory.starts)
    known = jnp.arange(size, dtype=jnp.int32) >= size - memory.known

    def dots(a, b):
        return jnp.einsum("aik,i,bik->ab", a, weight, b, precision=_HIGHEST)

    products = dots(jnp.concatenate([memory.moves, move[None]]), memory.moves)
    squares = jnp.diagonal(products)
    known &= squares > 0
    scale = jnp.where(known, 1 / jnp.sqrt(jnp.where(known, squares, 1.0)), 0.0)
    # Of changes that all but depend on each other, what rounding leaves of their difference does not count.
    ridge = jnp.where(known, 1e3 * jnp.finfo(move.dtype).eps, 1.0)
    share = scale * _solve(products[:-1] * scale * scale[:, None] + jnp.diag(ridge), products[-1] * scale)
    anderson = -jnp.einsum("a,aik->ik", share, memory.starts + memory.moves, precision=_HIGHEST)

    nesterov = (memory.pace - 1) / (memory.pace + 2) * (memory.starts[-1] + memory.moves[-1])
    bend = jnp.einsum("aik,i,aik->a", memory.starts, weight, memory.moves, precision=_HIGHEST)
    forward = jnp.einsum("ik,i,ik->", anderson, weight, move, precision=_HIGHEST) > 0
    convex = jnp.where(known, bend < 0, True).all()
    return jnp.where(memory.known < 1, 0.0, jnp.where(forward & convex, anderson, nesterov))


def _solve(matrix: jax.Array, rhs: jax.Array) -> jax.Array:
    """The solution of one small positive definite system, without LAPACK: a batch of its calls can wait for ever on a
    CPU, see `rowsolve`."""

    def eliminate(column, table):
        row = table[column] / table[column, column]
        return (table - table[:, column, None] * row).at[column].set(row)

    return jax.lax.fori_loop(0, len(rhs), eliminate, jnp.concatenate([matrix, rhs[:, None]], axis=1))[:, -1]


def _als(solver: AndersonALS, factors: Factors, items: jax.Array, problem: Problem, objective: Objective) -> _Swept:
    """A sweep of ALS from these item rows and biases `(items, k)`; of `factors` only the mean counts."""
    factors = factors.with_joint("item", items)
    factors, good_users = ALS(solver.rank, solver.linsolve).update(factors, problem, objective, "user")
    here = normal.view(factors, problem, objective, "item")
    solved = rowsolve.solve(here, solver.linsolve, want=("value",), start=items)
    n = row_sizes(problem, objective)[0]
    after = solved.value.sum() + side_penalty(factors, "user", n, by_rows(problem, objective))
    # It only decides whether the step is accepted, which has no derivative.
    return _Swept(factors.with_joint("item", solved.joint()), good_users, solved.good, jax.lax.stop_gradient(after))

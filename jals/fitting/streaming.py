"""Sweeps over a table that stays on the disk: every shard in its turn through one compiled step a side."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..devices import own_bytes
from ..errors import ArgumentError
from ..model.factors import Factors
from ..model.feedback import KINDS
from ..model.layouts import sizes_of
from ..model.objectives import Objective, by_rows, penalty, side_penalty
from ..model.shards import Shard
from ..model.streamed import REFUSAL, Streamed
from ..partitioned.manifest import MOST, SIDES
from ..partitioned.slabs import Arrays
from ..recommend.folding import of_rows
from ..rows import normal
from ..rows.view import Whole, pairs_gram
from ..rows.walk import take
from ..solvers.als import ALS
from ..solvers.protocol import Info, State


class Found(NamedTuple):
    """What a shard's rows tell, `()` each: their part of the loss, the first row without a unique solution (`MOST` for
    none), and whether all their numbers are finite."""

    loss: jax.Array
    bad_row: jax.Array
    finite: jax.Array


class Mapped:
    """A shard's file, and its arrays on the device: on a CPU the file's own pages, and so kept; else copies, made when
    they are asked for."""

    def __init__(self, file: Arrays):
        self.file, self._host, self._kept = file, Shard.of(file.arrays), None

    def arrays(self) -> Shard:
        if self._kept is None and jax.default_backend() == "cpu":
            self._kept = jax.device_put(self._host)
        return self._kept or jax.device_put(self._host)


class Streaming:
    """A fit's work on a table that stays on the disk. The state before a sweep is kept until the sweep has ended, so an
    interruption loses no more than that.

    Raises:
        ArgumentError: for a solver or an objective that needs the whole table at hand; where the memory allowed is too
            little.
    """

    def __init__(self, solver: Any, problem: Streamed, objective: Objective, copies: int = 2):
        if not isinstance(solver, ALS):
            raise ArgumentError(f"solver is {type(solver).__name__}, but the problem {REFUSAL} (For ALS, that is.)")
        for name in ("rounding", "storage"):
            if getattr(solver, name) is not None:
                given = getattr(solver, name)
                raise ArgumentError(f"solver.{name} is {given!r}, but must be None: the problem {REFUSAL}")
        low = float(problem.head.value[0])
        if KINDS[objective.feedback].weighs_by_value and low < 0:
            raise ArgumentError(
                f"the least value is {low}, a confidence that needs a look at each entry, but the problem {REFUSAL}"
            )
        self.solver, self.problem = solver, problem
        self.objective = by_rows(problem.head, objective)
        self.sizes = _sizes(problem, objective)
        self.first, self.last = SIDES if solver.first == "user" else SIDES[::-1]
        self._mapped: dict[tuple[str, int], Mapped] = {}
        self._check_memory(copies)

    def compile(self, state: State) -> None:
        """Solves a shard of each side, which compiles all that a sweep needs."""
        for side in SIDES:
            gram, shard = _gram(state.factors, self.objective, side), self._shard(side, 0)
            jax.block_until_ready(self._solved(state.factors, self._empty(side), shard.arrays(), side, gram))
            shard.file.release()

    def sweeps(self, state: State, count: int) -> tuple[State, Info, int, int, Any]:
        """As `single.advance`."""
        passes = self.solver.passes_per_sweep or 0
        value, info = jnp.zeros((), self.problem.dtype), Info(*(jnp.asarray(-1),) * 4, None)  # pyright: ignore
        for done in range(count):
            after, info = self._sweep(state)
            if not bool(info.finite) or int(info.bad_row) >= 0:
                return state, info, done, done * passes, value
            state, value = after, info.loss
        return state, info, count, count * passes, value

    def loss(self, factors: Factors) -> jax.Array:
        """`jals.loss`, by a pass over one side's shards."""
        part = functools.partial(_entries_loss, scale=self.problem.scale, **self._static(self.last))
        found = self._each(self.last, lambda shard: part(factors, shard, self.objective))
        return sum(found, jnp.zeros((), factors.dtype)) + penalty(factors, self.sizes, self.objective)

    def _sweep(self, state: State) -> tuple[State, Info]:
        factors = state.factors
        for side in (self.first, self.last):
            gram = _gram(factors, self.objective, side)
            into = self._empty(side)

            def one(shard: Shard, factors=factors, side=side, gram=gram) -> Found:
                nonlocal into
                into, found = self._solved(factors, into, shard, side, gram)
                return found

            parts = jax.tree.map(lambda *each: jnp.stack(each), *self._each(side, one))
            bad, finite = parts.bad_row.min(), parts.finite.all()
            factors = dataclasses.replace(factors, **dict(zip((side, f"{side}_bias"), into, strict=True)))
            if int(bad) < MOST or not bool(finite):
                break
        fine = int(bad) >= MOST
        rows = self.sizes[SIDES.index(self.first)]
        value = parts.loss.sum() + side_penalty(factors, self.first, rows, self.objective)
        row, of = (-1, -1) if fine else (int(bad), SIDES.index(side))
        told = Info(*map(jnp.asarray, (finite, row, of, self.solver.passes_per_sweep or 0)), value)  # pyright: ignore
        return State(factors), told

    def _each(self, side: str, work: Callable[[Shard], Any]) -> list[Any]:
        """What `work` gives for every shard. While the device works on one, the next is read; what has been worked on
        is let go."""
        results, last = [], self.problem.shards - 1
        for number in range(self.problem.shards):
            results.append(work(self._shard(side, number).arrays()))
            self._shard(side, min(number + 1, last)).file.ahead()
            if number:
                jax.block_until_ready(results[-2])
                self._shard(side, number - 1).file.release()
        jax.block_until_ready(results[-1])
        self._shard(side, last).file.release()
        return results

    def _shard(self, side: str, number: int) -> "Mapped":
        if (side, number) not in self._mapped:
            self._mapped[side, number] = Mapped(self.problem.shard(side, number))
        return self._mapped[side, number]

    def _solved(self, factors: Factors, into: tuple, shard: Shard, side: str, gram: Any) -> tuple[tuple, Found]:
        value = side == self.last
        scale, static = self.problem.scale, self._static(side)
        return _solve(self.solver, factors, into, shard, self.objective, gram, scale, value=value, **static)

    def _static(self, side: str) -> dict[str, Any]:
        return {"side": side, "steps": self.problem.steps[side]}

    def _empty(self, side: str) -> tuple[jax.Array, jax.Array | None]:
        rows, dtype = getattr(self.problem, f"num_{side}s"), self.problem.dtype
        bias = jnp.zeros(rows, dtype) if self.objective.bias else None
        return jnp.zeros((rows, self.solver.rank), dtype), bias

    def _check_memory(self, copies: int) -> None:
        """Refuses a fit that may need more than is allowed: what the process holds now; `copies` of the factors, and
        what drawing the larger side's takes; what XLA gathers, of each bucket at once; what is made of two shards; and
        what compiling takes."""
        problem, rank, number = self.problem, self.solver.rank, self.problem.dtype.itemsize
        allowed = problem.memory
        if allowed is None:
            return
        rows = problem.num_users, problem.num_items
        tables = (copies * sum(rows) + 3 * max(rows)) * (rank + 1) * number
        shards = 2 * problem.largest_bytes()
        buckets = max(map(len, problem.steps.values()))
        work = 2 * buckets * sizes_of(jax.default_backend()).slots * (rank + 1) * number
        parts = {"the process has": own_bytes(), "factors": tables, "shards": shards, "XLA": work + _COMPILING}
        need = sum(parts.values())
        if need > allowed:
            told = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in parts.items())
            cure = "partition into more shards" if shards > tables else f"lower the rank, {rank}"
            said = f"memory is {allowed / 1e6:,.0f} MB, but this fit needs {need / 1e6:,.0f}"
            raise ArgumentError(f"{said} ({told}): allow more, or {cure}.")


_COMPILING = 100_000_000  # bytes that XLA was seen to hold besides while it compiles a step


def _sizes(problem: Streamed, objective: Objective) -> tuple[jax.Array, jax.Array]:
    """n of either side, as this objective counts it: see `objectives.row_sizes`."""
    if objective.count == "weights":
        return problem.weight_sums
    counts = [getattr(problem.head, f"{side}_slots").count for side in SIDES]
    return counts[0], counts[1]


@functools.partial(jax.jit, static_argnames="side")
def _gram(factors: Factors, objective: Objective, side: str) -> jax.Array | None:
    return pairs_gram(Whole(getattr(factors, SIDES[side == "user"]), None), objective, side)


@functools.partial(jax.jit, static_argnames=("side", "steps", "value"), donate_argnames="into")
def _solve(
    solver: ALS, factors: Factors, into: tuple, shard: Shard, objective: Objective, gram, scale, *, side, steps, value
) -> tuple[tuple[jax.Array, jax.Array | None], Found]:
    """The rows of a shard solved for, and put into the table that is made."""
    own, problem, objective = _part(factors, shard, objective, scale, side, steps)
    own, solved = solver.half_sweep(own, problem, objective, side, value, gram)
    there = shard.rows < len(into[0])
    made = jax.tree.map(
        lambda table, rows: table.at[shard.rows].set(rows, mode="drop", unique_indices=True),
        into,
        (getattr(own, side), getattr(own, f"{side}_bias")),
    )
    joint = own.joint(side)
    finite = (jnp.isfinite(joint).all(axis=1) | ~there).all()
    bad = jnp.where(there & ~solved.good, shard.rows, np.int32(MOST)).min()
    loss = jnp.where(there, solved.value, 0.0).sum() if value else jnp.zeros((), joint.dtype)
    return made, Found(loss, bad, finite)


@functools.partial(jax.jit, static_argnames=("side", "steps"))
def _entries_loss(factors: Factors, shard: Shard, objective: Objective, *, scale, side, steps) -> jax.Array:
    own, problem, objective = _part(factors, shard, objective, scale, side, steps)
    here = normal.view(own, problem, objective, side)
    return normal.entry_loss_and_residuals(here, own.joint(side))[0].sum()


def _part(factors: Factors, shard: Shard, objective: Objective, scale: Any, side: str, steps: tuple[int, ...]) -> Any:
    """(factors, problem, objective) of a shard's rows against all of the other side's."""
    others = len(getattr(factors, SIDES[side == "user"]))
    known = {name: getattr(factors, name) for name in (side, f"{side}_bias")}
    rows = {name: None if each is None else take(each, shard.rows) for name, each in known.items()}
    problem = shard.problem(side, others, steps, scale, factors.dtype)
    return dataclasses.replace(factors, **rows), problem, of_rows(objective, side, shard.rows)

"""Running a solver: `run`, one compiled scan for research code, and `fit`, with stop rules, history and care."""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import metrics
from .errors import ArgumentError, FitError, Interrupted
from .factors import Factors, predict
from .objectives import Objective, loss
from .problem import Problem
from .protocol import Info, State, cast, check_factors
from .ratings import Ratings


@dataclasses.dataclass
class History:
    """One record at the start (sweep 0) and one after every `loss_every` sweeps; parallel lists.

    Attributes:
        sweep: sweeps done.
        loss: L, or nan where no loss was asked for.
        seconds: solver work so far, to the last result on the device; compilation, losses, validation and callbacks
            are not in it.
        passes: passes over the entries by the solver so far.
        validation: RMSE on the validation ratings, or nan without.
    """

    sweep: list[int] = dataclasses.field(default_factory=list)
    loss: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    passes: list[int] = dataclasses.field(default_factory=list)
    validation: list[float] = dataclasses.field(default_factory=list)

    def add(self, sweep: int, loss: float, seconds: float, passes: int, validation: float) -> None:
        self.sweep.append(sweep)
        self.loss.append(loss)
        self.seconds.append(seconds)
        self.passes.append(passes)
        self.validation.append(validation)


@dataclasses.dataclass(frozen=True)
class Progress:
    """What callbacks are called with: the newest record of the history, the sweeps asked for, and the state."""

    sweep: int
    sweeps: int
    loss: float
    seconds: float
    passes: int
    validation: float
    state: State


@dataclasses.dataclass(frozen=True)
class Result:
    """What `fit` returns.

    Attributes:
        factors: of the last sweep, or with `patience` of the sweep with the best validation RMSE.
        state: the solver's state after the last sweep.
        history: see `History`.
        compile_seconds: tracing and compiling the sweep; about 0 where an earlier call compiled it.
        converged: whether the loss settled (`tol`).
        reason: why the fit stopped: "sweeps", "tol", "patience" or "callback"; "failed" and "interrupted" in the
            result that an error carries.
        sweep: the sweep that `factors` are of.
    """

    factors: Factors
    state: State
    history: History
    compile_seconds: float
    converged: bool
    reason: str
    sweep: int


def run(
    solver: Any, state: State, problem: Problem, objective: Objective, sweeps: int = 15, loss: bool = False
) -> tuple[State, Info]:
    """`sweeps` sweeps as one `lax.scan`: pure; jit, vmap, jvp and grad go through it. Nothing is checked on the way.

    Args:
        state: from `solver.init`.
        sweeps: how many; static.
        loss: whether `infos.loss` is to hold the loss after each sweep.

    Returns: (state after the last sweep, infos with a leading axis of `sweeps`).
    """
    dtype = state.factors.dtype
    return _run(cast(solver, dtype), state, problem, objective.cast(dtype), sweeps, loss)


@functools.partial(jax.jit, static_argnames=("sweeps", "loss"))
def _run(solver, state, problem, objective, sweeps, loss):
    problem = problem.arrange()
    return jax.lax.scan(lambda state, _: solver.sweep(state, problem, objective, loss), state, length=sweeps)


def fit(
    solver: Any,
    problem: Problem,
    objective: Objective,
    sweeps: int = 15,
    key: jax.Array | None = None,
    tol: float | None = None,
    init: Factors | None = None,
    validation: Ratings | None = None,
    patience: int | None = None,
    loss_every: int = 1,
    callbacks: Iterable[Callable[[Progress], Any]] = (),
) -> Result:
    """Fits factors, looking at the loss on the way.

    Args:
        solver: `ALS`, `Gradient`, or anything with their `init` and `sweep`.
        problem, objective: what to minimise.
        sweeps: at most so many.
        key: for the initial factors (default `jax.random.key(0)`). Same key, same machine: same result to the bit.
        tol: stop once |loss before - loss now| <= tol * loss before, from one record to the next. None: never.
        init: factors to continue from (their mean is kept), instead of initial ones.
        validation: held-out ratings whose RMSE goes into the history.
        patience: stop after so many records without a better validation RMSE, and return the best factors.
        loss_every: sweeps between records; 0 for none: no loss, a record a sweep only if validation or callbacks need
            one.
        callbacks: each is called with a `Progress` at every record; returning True stops the fit.

    Numbers (in solver and objective), seeds and `sweeps` never compile anything again.

    Raises:
        ArgumentError, DataError: for arguments that cannot be meant, before any work.
        FitError: when a sweep has a row without a unique solution, or factors or loss stop being finite. It names
            sweep and row and carries the result up to the sweep before.
        Interrupted: on Ctrl-C, with the result up to the last sweep.
    """
    _check(solver, problem, objective, sweeps, key, tol, init, validation, patience, loss_every, callbacks)
    callbacks, sweeps, loss_every = tuple(callbacks), int(sweeps), int(loss_every)
    objective, solver, problem = objective.cast(problem.dtype), cast(solver, problem.dtype), problem.arrange()
    if init is not None:
        check_factors("init", init, problem, objective, solver.rank)
        init = cast(init, problem.dtype)
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(init)):
            raise ArgumentError("init holds numbers that are not finite.")
    state = _init(solver, jax.random.key(0) if key is None else key, problem, objective, init)
    stride = loss_every or (1 if validation is not None or callbacks else max(sweeps, 1))

    started = time.perf_counter()
    jax.block_until_ready(_advance(solver, state, problem, objective, 0))  # no sweep at all: this compiles
    compile_seconds = time.perf_counter() - started

    history, best = History(), None
    done, seconds, passes = 0, 0.0, 0

    def result(reason: str) -> Result:
        _, sweep, factors = best or (0.0, done, state.factors)
        return Result(factors, state, history, compile_seconds, reason == "tol", reason, sweep)

    def failed(what: str, sweep: int, side: str | None = None, row: int | None = None) -> FitError:
        return FitError(f"sweep {sweep}: {what}", sweep=sweep, side=side, row=row, result=result("failed"))

    try:
        after, count = state, 0
        while True:
            value = float(loss(after.factors, problem, objective)) if loss_every else np.nan
            if loss_every and not np.isfinite(value):
                how = "Gradient methods: lower the learning rate." if count else "Look at init_scale, or at init."
                raise failed(f"the loss is {value}. {how}", done + count)
            state, done = after, done + count
            error = np.nan if validation is None else _rmse(state.factors, validation)
            history.add(done, value, seconds, passes, error)
            if patience is not None and (best is None or error < best[0]):
                best, best_record = (error, done, state.factors), len(history.sweep)
            progress = Progress(done, sweeps, value, seconds, passes, error, state)
            answers = [callback(progress) for callback in callbacks]  # each is called, whatever another says
            if any(answer is True for answer in answers):
                return result("callback")
            if tol is not None and done and abs(history.loss[-2] - value) <= tol * abs(history.loss[-2]):
                return result("tol")
            if patience is not None and len(history.sweep) - best_record >= patience:
                return result("patience")
            if done >= sweeps:
                return result("sweeps")
            started = time.perf_counter()
            after, info, count, more = _advance(solver, state, problem, objective, min(stride, sweeps - done))
            jax.block_until_ready(after)
            seconds, passes = seconds + time.perf_counter() - started, passes + int(more)
            if int(count) < min(stride, sweeps - done):
                state, done = after, done + int(count)
                raise _breakdown(failed, info, done + 1)
            count = int(count)
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted after {done} of {sweeps} sweeps", result=result("interrupted")) from None


_init = jax.jit(lambda solver, key, problem, objective, factors: solver.init(key, problem, objective, factors))


@jax.jit
def _advance(
    solver: Any, state: State, problem: Problem, objective: Objective, count: int
) -> tuple[State, Info, jax.Array, jax.Array]:
    """(state, info, sweeps, passes) after `count` sweeps, or after the last one that went well: then `info` tells of
    the one that did not. `count` is traced, so that any number of sweeps is one program."""

    def go_on(carry):
        _, info, done, _ = carry
        return (done < count) & _went_well(info)

    def one(carry):
        before, _, done, passes = carry
        after, info = solver.sweep(before, problem, objective)
        well = _went_well(info)
        state = jax.tree.map(lambda new, old: jnp.where(well, new, old), after, before)
        return state, info, done + well.astype(jnp.int32), passes + jnp.where(well, info.passes, 0)

    zero = jnp.zeros((), jnp.int32)
    fine = Info(jnp.array(True), zero - 1, zero - 1, zero, None)
    return jax.lax.while_loop(go_on, one, (state, fine, zero, zero))


def _went_well(info: Info) -> jax.Array:
    return info.finite & (info.bad_row < 0)


def _breakdown(failed: Callable[..., FitError], info: Info, sweep: int) -> FitError:
    if info.bad_row < 0:
        return failed("the factors stopped being finite. Gradient methods: lower the learning rate.", sweep)
    side, row = ("user", "item")[int(info.bad_side)], int(info.bad_row)
    return failed(
        f"{side} {row} has no unique solution: its matrix is singular to working precision. With reg = 0 a row needs "
        "at least as many entries as it has unknowns (rank, and 1 for a bias). Give reg > 0, or lower the rank.",
        sweep,
        side,
        row,
    )


def _rmse(factors: Factors, ratings: Ratings) -> float:
    predicted = predict(factors, ratings.user, ratings.item)
    weight = None if ratings.weight is None else ratings.weight.astype(predicted.dtype)
    return float(metrics.rmse(predicted, ratings.value.astype(predicted.dtype), weight))


def _check(
    solver, problem, objective, sweeps, key, tol, init, validation, patience, loss_every, callbacks
) -> None:
    if isinstance(solver, type) or not (hasattr(solver, "init") and hasattr(solver, "sweep")):
        raise ArgumentError(f"solver is {solver!r}, but must be a solver such as jals.ALS(rank=32).")
    for name, value, kind, how in (
        ("problem", problem, Problem, "make one with Problem.build(ratings)"),
        ("objective", objective, Objective, "make one by a preset such as jals.als_wr(0.05)"),
        ("key", key, jax.Array | None, "make one with jax.random.key(0)"),
        ("tol", tol, int | float | np.number | None, "give a number >= 0"),
        ("init", init, Factors | None, "give the factors of an earlier result"),
        ("validation", validation, Ratings | None, "give one part of a split"),
        ("callbacks", callbacks, Iterable, "give a list of functions"),
    ):
        if not isinstance(value, kind):
            raise ArgumentError(f"{name} is of type {type(value).__name__}: {how}.")
    for name, value, least in (("sweeps", sweeps, 0), ("loss_every", loss_every, 0), ("patience", patience, 1)):
        if value is None and name == "patience":
            continue
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise ArgumentError(f"{name} is {value!r}, but must be a whole number >= {least}.")
    if tol is not None and not (tol >= 0 and loss_every):
        raise ArgumentError(f"tol is {tol!r} with loss_every={loss_every}, but must be >= 0 and needs loss_every >= 1.")
    if patience is not None and validation is None:
        raise ArgumentError("patience needs validation ratings to watch.")
    problem.check()
    objective.check(problem, solver.rank)
    if validation is not None and (validation.num_users, validation.num_items) != (
        problem.num_users,
        problem.num_items,
    ):
        raise ArgumentError(
            f"validation is {validation.num_users} x {validation.num_items}, the problem {problem.num_users} x "
            f"{problem.num_items}: split one table, or give both the same num_users and num_items."
        )

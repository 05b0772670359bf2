"""Running a solver: `run`, one compiled scan for research code, and `fit`, with checks, stop rules and history."""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .. import clock
from ..data.ratings import Ratings
from ..devices import told_exhausted
from ..errors import ArgumentError, FitError
from ..html import Table, from_to, shown
from ..metrics import RMSE, as_error, spelt
from ..model.factors import Factors
from ..model.objectives import Objective, loss
from ..model.places import SIDES
from ..model.problem import Problem
from ..model.streamed import REFUSAL, Streamed
from ..solvers.protocol import (
    Info,
    State,
    cast,
    check_key,
    check_kind,
    check_problem,
    check_room,
    check_solver,
    check_whole,
    checked_inputs,
    entering,
    smaller,
    traits,
)
from .loop import RUNNING, Columns, StopRules, fit_error, run_single
from .streaming import Streaming
from .validation import check_metric, measure_of
from .vanished import vanished, warn_if_vanished

# Why a fit stopped, for readers.
REASONS = {
    "sweeps": "as many as were asked for",
    "tol": "the loss settled (tol)",
    "patience": "validation was no longer better (patience)",
    "callback": "a callback stopped it",
    "failed": "it broke down",
    "interrupted": "it was interrupted",
    RUNNING: "under way",
}


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known after a number of sweeps; the attributes are those of `History`."""

    sweep: int
    loss: float
    seconds: float
    passes: int
    validation: float


@dataclasses.dataclass(frozen=True, repr=False)
class History(Columns):
    """One record at the start (sweep 0) and one after every `loss_every` sweeps; parallel lists.

    Attributes:
        sweep: sweeps done.
        loss: L, or nan where no loss was asked for.
        seconds: solver work so far, to the last result on the device; compilation, losses, validation and callbacks
            are not in it.
        passes: passes over the entries by the solver so far.
        validation: the metric on the validation ratings, RMSE unless `fit` was asked for another; nan without.
    """

    sweep: list[int] = dataclasses.field(default_factory=list)
    loss: list[float] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    passes: list[int] = dataclasses.field(default_factory=list)
    validation: list[float] = dataclasses.field(default_factory=list)

    record: ClassVar = Record


@dataclasses.dataclass(frozen=True)
class Progress(Record):
    """What callbacks are called with: the newest record, the sweeps asked for, the state, and the result so far
    (`reason` "running"), from which `fit(..., init=result)` would go on."""

    sweeps: int
    state: State
    result: "Result"


@dataclasses.dataclass(frozen=True, repr=False)
class Result:
    """What `fit` returns.

    Attributes:
        factors: of the last sweep, or with `patience` of the sweep with the best validation metric.
        state: the solver's state after the last sweep.
        history: see `History`.
        compile_seconds: tracing and compiling the sweep; about 0 where an earlier call compiled it.
        converged: whether the loss settled (`tol`).
        reason: why the fit stopped: "sweeps", "tol", "patience" or "callback"; "failed" and "interrupted" in the
            result that an error carries, "running" in the one that callbacks see.
        sweep: the sweep that `factors` are of.
        done: the sweep that `state` is of.
        metric: what `history.validation` holds: "rmse", or "ndcg@10" and the like.
    """

    factors: Factors
    state: State
    history: History
    compile_seconds: float
    converged: bool
    reason: str
    sweep: int
    metric: str = dataclasses.field(default=RMSE, kw_only=True)

    def __repr__(self) -> str:
        """How it ended, and the numbers of the record that `factors` are of."""
        said = [f"{self.done} sweeps, {self.reason}"]
        if self.sweep in self.history.sweep:
            at = self.best()
            said[0] += f", factors of sweep {self.sweep}" if self.sweep != self.done else ""
            validated = f"validation {spelt(self.metric)}"
            for name, what in (("loss", "loss"), ("validation", validated)):
                number = getattr(self.history, name)[at]
                said += [f"{what} {number:.6g}"] if np.isfinite(number) else []
            said.append(f"{self.history.seconds[-1]:.3g} s and {self.compile_seconds:.3g} s of compiling")
        return f"Result({', '.join(said)}: {self.factors!r})"

    @shown
    def _repr_html_(self) -> Table:
        """What `repr` says, with what it was at the start."""
        rows = [("ended", f"after {self.done:,} sweeps: {REASONS.get(self.reason, self.reason)}")]
        if self.sweep in self.history.sweep:
            at, names = self.best(), {"loss": "loss", "validation": f"validation {spelt(self.metric)}"}
            ends = {names[name]: getattr(self.history, name) for name in names}
            rows += [(name, from_to(column[0], column[at])) for name, column in ends.items() if np.isfinite(column[at])]
            rows.append(("seconds", f"{self.history.seconds[-1]:.3g}, and {self.compile_seconds:.3g} of compiling"))
        users, items = (self.factors.num_rows(side) for side in SIDES)
        size = f"{users:,} users, {items:,} items, rank {self.factors.rank:,}"
        rows.append(("factors", f"of sweep {self.sweep:,}: {size}"))
        return Table("result of a fit", rows)

    def plot(self, across: str = "sweep", *, ax: Any = None) -> Any:
        """Loss and validation along the way: `jals.plot.history`."""
        from .. import plot

        return plot.history(self, across, ax=ax)

    @property
    def done(self) -> int:
        return self.history.sweep[-1] if self.history.sweep else 0

    def best(self) -> int:
        """The place in the history of the record that `factors` are of."""
        return self.history.sweep.index(self.sweep)

    def with_reason(self, reason: str) -> "Result":
        return dataclasses.replace(self, reason=reason, converged=reason == "tol")


def run(
    solver: Any, state: State, problem: Problem, objective: Objective, sweeps: int = 15, loss: bool = False
) -> tuple[State, Info]:
    """`sweeps` sweeps as one `lax.scan`: pure; jit, vmap, jvp and grad go through it, as does `jax.shard_map` with
    numbers of its own on each device (line searches of optax only with check_vma=False). Nothing is checked on the way.

    Args:
        state: from `solver.init`. It keeps its dtype: a problem of another one is worked on in the state's.
        sweeps: how many; static.
        loss: whether `infos.loss` is to hold the loss after each sweep.

    Returns: (state after the last sweep, infos with a leading axis of `sweeps`).

    Raises:
        ArgumentError: where state, problem, objective and rank do not fit together by shape or dtype.
    """
    check_solver(solver)
    check_whole("sweeps", sweeps, 0)
    return _run(*entering(solver, state, problem, objective), sweeps, loss)


@functools.partial(jax.jit, static_argnames=("sweeps", "loss"))
def _run(solver, state, problem, objective, sweeps, loss):
    problem = problem.arrange()
    return jax.lax.scan(lambda state, _: solver.sweep(state, problem, objective, loss), state, length=sweeps)


def fit(
    solver: Any,
    problem: Problem | Streamed,
    objective: Objective,
    sweeps: int = 15,
    key: jax.Array | None = None,
    tol: float | None = None,
    init: Factors | Result | None = None,
    validation: Ratings | None = None,
    patience: int | None = None,
    loss_every: int = 1,
    callbacks: Iterable[Callable[[Progress], Any]] = (),
    metric: str = RMSE,
    progress: bool | str = False,
) -> Result:
    """Fits factors, looking at the loss on the way.

    Args:
        solver: `ALS`, `Gradient`, or anything with their `init` and `sweep`.
        problem, objective: what to minimise. What `Problem.open(stream=True)` returns is for `ALS` without `rounding`
            and `storage`, and for the metric "rmse".
        sweeps: at most so many.
        key: for the initial factors (default `jax.random.key(0)`). Same key, same machine: same result to the bit.
        tol: stop once |loss before - loss now| <= tol * loss before, from one record to the next. None: never.
        init: factors to start from (their mean is kept), instead of initial ones; or an earlier result, also one that
            an `Interrupted` carries, to go on from: with its solver state, history and best factors, to the last bit as
            if it had not stopped. `sweeps` then counts from its first sweep.
        validation: held-out ratings whose RMSE, or other `metric`, goes into the history.
        patience: stop after so many records without a better validation metric, and return the best factors.
        loss_every: sweeps between records; 0 for none: no loss, a record a sweep only if validation or callbacks need
            one.
        callbacks: each is called with a `Progress` at every record; returning True stops the fit.
        metric: what is measured of the validation ratings: "rmse", the lower the better, or a key of
            `jals.metrics.ranking` such as "ndcg@10" or "auc", the higher the better. The items of the problem's entries
            (of weight > 0) are not ranked for their users.
        progress: whether to show sweeps, loss, validation metric and the time left while it runs: in a notebook and, by
            rich, in a terminal as a bar, elsewhere (a log) as a line a minute on stderr. Without rich (the extra `cli`)
            a terminal gets lines, too. A text is the name to show it by. It asks for a record a sweep as a callback
            does.

    Numbers (in solver and objective), seeds and `sweeps` never compile anything again.

    Warns where all factors have shrunk to 0 at the end: reg is too large, and no sweep leads away from there.

    Raises:
        ArgumentError, DataError: for invalid arguments, before any work.
        FitError: when a sweep has a row without a unique solution, or factors or loss stop being finite. It names
            sweep and row and carries the result up to the sweep before.
        Interrupted: on Ctrl-C, with the result up to the last record.
        OutOfMemory: where XLA has too little of it: what was needed, what there is, what to do; with the result up to
            the last record, reason "failed", or None.
    """
    asked = StopRules(sweeps, tol=tol, patience=patience, loss_every=loss_every, callbacks=callbacks, progress=progress)
    asked = asked.checked()
    streamed = problem if isinstance(problem, Streamed) else None
    known = problem.head if isinstance(problem, Streamed) else problem
    check_start(solver, known, objective, key=key, init=init, validation=validation)
    check_metric(metric, [validation])
    if patience is not None and validation is None:
        raise ArgumentError("patience needs validation ratings to watch.")
    if validation is not None:
        _check_history(init, metric)
    known = known.checked() if streamed is None else known
    objective.check(known, solver.rank)
    objective, solver = objective.cast(known.dtype).placed(known), cast(solver, known.dtype)
    if streamed is None:
        work: Any = _InMemory(solver, known, objective)
    else:
        if metric != RMSE:
            raise ArgumentError(f'metric is "{metric}", which looks at all entries, but the problem {REFUSAL}')
        work = Streaming(solver, streamed, objective, copies=2 if patience is None else 3)
    key = jax.random.key(0) if key is None else key
    measure = measure_of(metric, validation, known)
    watched = validation is not None or asked.watched

    def compiled(now: Result) -> Result:
        started = clock.seconds()
        work.compile(now.state)
        return dataclasses.replace(now, compile_seconds=clock.seconds() - started)

    def look(now: Result, after: State, count: int, seconds: float, passes: int, value: Any = None) -> Result:
        if asked.loss_every and value is None:
            value = work.loss(after.factors)
        value = float(value) if asked.loss_every else None
        return extend_result(now, after, value, measure(after.factors), count, seconds, passes, patience)

    def step(now: Result) -> Result:
        if not now.history.records:
            return look(now, now.state, 0, 0.0, 0)
        wanted = asked.until_record(now.done, watched)
        started = clock.seconds()
        after, info, count, passes, value = work.sweeps(now.state, wanted)
        jax.block_until_ready(after)
        seconds = clock.seconds() - started
        if int(count):
            now = look(now, after, int(count), seconds, int(passes), value)
        if int(count) < wanted:
            raise breakdown(now, info)
        return now

    alive = False

    def begun() -> Result:
        nonlocal alive
        start = starting_result(solver, key, known, objective, init, patience, metric)
        alive = not vanished(start.factors, known, objective)
        return start

    if isinstance(problem, Problem):
        cures = smaller(solver, problem)
    else:
        cures = [f"lower the rank ({solver.rank:,})", "partition the table into more shards"]
    memory = functools.partial(told_exhausted, "the fit", cures, problem)
    result = run_single(begun, asked, step, lambda now: as_progress(now, asked.most), [compiled], memory)
    if result.done and alive:
        warn_if_vanished(result.factors, known, objective)
    return result


class _InMemory(NamedTuple):
    """What a fit does to its state, of a problem in memory; see `streaming.Streaming`."""

    solver: Any
    problem: Problem
    objective: Objective

    def compile(self, state: State) -> None:
        jax.block_until_ready(self.sweeps(state, 0))  # no sweep at all

    def sweeps(self, state: State, count: int) -> tuple[State, Info, Any, Any, Any]:
        return advance(self.solver, state, self.problem, self.objective, count)

    def loss(self, factors: Factors) -> jax.Array:
        return loss(factors, self.problem, self.objective)


# ---- parts of a round, here and in `many` ----


def starting_result(
    solver, key, problem, objective, init: Factors | Result | None, patience: int | None = None, metric: str = RMSE
) -> Result:
    """The result before any sweep of this call, under way; raises ArgumentError for an `init` that does not fit."""
    factors = init.state.factors if isinstance(init, Result) else init
    if factors is not None:
        factors, _, _ = checked_inputs(factors, problem, objective, rank=solver.rank, name="init", lead="problem")
        if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(factors)):
            raise ArgumentError("init holds numbers that are not finite.")
    state = initial_state(solver, key, problem, objective, factors)
    fresh = Result(state.factors, state, History(), 0.0, False, RUNNING, 0, metric=metric)
    if not (isinstance(init, Result) and init.history.sweep):
        return fresh
    kinds, needed = (jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), tree) for tree in (init.state, state))
    if kinds != needed:
        raise ArgumentError("init is the result of another solver or dtype: give its factors, init.factors, instead.")
    if patience is not None:
        return dataclasses.replace(init, compile_seconds=0.0).with_reason(RUNNING)
    known = init.metric if np.isfinite(init.history.validation).any() else metric
    return dataclasses.replace(
        fresh, state=init.state, factors=init.state.factors, history=init.history, sweep=init.done, metric=known
    )


def as_progress(now: Result, sweeps: int) -> Progress:
    """What callbacks see of a result, of so many sweeps asked for."""
    return Progress(**vars(now.history.last()), sweeps=sweeps, state=now.state, result=now)


def extend_result(
    now: Result, after: State, value: float | None, error: float, count, seconds, passes, patience
) -> Result:
    """The result with `count` more sweeps and a record of them; a loss of None was not asked for."""
    if value is not None and not np.isfinite(value):
        large = "Where values are as large as that, scale them down; else look at init_scale, or at init."
        how = "Gradient methods: lower the learning rate." if now.done + count else large
        raise fit_error(now, now.done + count, f"the loss is {value}. {how}")
    record = Record(now.done + count, np.nan if value is None else value, seconds, passes, error)
    if now.history.records:
        last = now.history.last()
        record = dataclasses.replace(record, seconds=last.seconds + seconds, passes=last.passes + passes)
    history = now.history.with_record(record)
    if patience is not None and now.history.records:
        newest, best = (as_error(now.metric, each) for each in (error, now.history.validation[now.best()]))
        if newest >= best:
            return dataclasses.replace(now, state=after, history=history)
    return dataclasses.replace(now, state=after, history=history, factors=after.factors, sweep=record.sweep)


@jax.jit
def initial_state(solver: Any, key: jax.Array, problem: Problem, objective: Objective, factors: Any) -> State:
    """`solver.init` as a program."""
    return solver.init(key, problem, objective, factors)


@jax.jit
def advance(
    solver: Any, state: State, problem: Problem, objective: Objective, count: int
) -> tuple[State, Info, jax.Array, jax.Array, jax.Array | None]:
    """(state, info, sweeps, passes, loss) after `count` sweeps, or after the last one that went well: then `info` tells
    of the one that did not. `count` is traced, so that any number of sweeps is one program. The loss is the state's
    where the last sweep computed it: None for a solver that would need a pass for it, meaningless after no sweep."""
    with_loss = traits(solver).loss_with_sweep

    def go_on(carry):
        _, info, done, *_ = carry
        return (done < count) & _went_well(info)

    def one(carry):
        before, _, done, passes, value = carry
        after, info = solver.sweep(before, problem, objective, with_loss)
        well = _went_well(info)
        state, value = jax.tree.map(lambda new, old: jnp.where(well, new, old), (after, info.loss), (before, value))
        passes += jnp.where(well, info.passes, 0)
        return state, info._replace(loss=None), done + well.astype(jnp.int32), passes, value

    zero = jnp.zeros((), jnp.int32)
    fine = Info(jnp.array(True), zero - 1, zero - 1, zero, None)
    value = jnp.zeros((), state.factors.dtype) if with_loss else None
    return jax.lax.while_loop(go_on, one, (state, fine, zero, zero, value))


def _went_well(info: Info) -> jax.Array:
    return info.finite & (info.bad_row < 0)


def breakdown(now: Result, info: Info) -> FitError:
    """The error of the sweep after these, which said this of itself."""
    if info.bad_row < 0:
        what = "the factors stopped being finite. Gradient methods: lower the learning rate."
        return fit_error(now, now.done + 1, what)
    side, row = ("user", "item")[int(info.bad_side)], int(info.bad_row)
    what = (
        f"{side} {row} has no unique solution: its matrix is singular to working precision, as its reg is 0, or too "
        "small beside the weights of its entries, and these are fewer than its unknowns (rank, and 1 for a bias), or "
        "alike. Give a larger reg, or lower the rank."
    )
    return fit_error(now, now.done + 1, what, side=side, row=row)


def _check_history(init: Any, metric: str) -> None:
    """Refuses to go on with a history that holds another metric."""
    if isinstance(init, Result) and init.metric != metric and np.isfinite(init.history.validation).any():
        raise ArgumentError(
            f'the history of init holds "{init.metric}", the metric is "{metric}": ask for the same, or start from '
            "init.factors."
        )


def check_start(solver: Any, problem: Any, objective: Any, *, key=None, init: Any = None, validation=None) -> None:
    """Refuses what a fit cannot start from, by kind, size and range; the table and the objective's numbers check
    themselves, and `StopRules` how long it goes on."""
    check_solver(solver)
    check_problem(problem, objective)
    problem.check_shapes()
    check_room(problem, solver.rank)
    if key is not None:
        check_key(key)
    check_kind("init", init, Factors | Result | None, "give an earlier result, or its factors")
    check_kind("validation", validation, Ratings | None, "give one part of a split")
    shape = problem.num_users, problem.num_items
    if validation is not None and (validation.num_users, validation.num_items) != shape:
        raise ArgumentError(
            f"validation is {validation.num_users} x {validation.num_items}, the problem {problem.num_users} x "
            f"{problem.num_items}: split one table, or give both the same num_users and num_items."
        )

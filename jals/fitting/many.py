"""A grid of fits as one compiled program: `fit_many`."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..devices import told_exhausted
from ..errors import ArgumentError, FitError, check_choice
from ..forks import check_jax
from ..metrics import RMSE
from ..model.factors import CHUNK
from ..model.layouts import Bucket
from ..model.objectives import Objective, loss
from ..model.problem import Problem
from ..solvers import costs
from ..solvers.protocol import State, cast, check_problem, check_solver, checked_inputs, smaller, traits
from . import single
from .loop import RUNNING, StopRules, name_errors, run_rounds
from .single import History, Progress, Result
from .validation import Measure, check_metric, measures_of

LOOPS = ("map", "vmap")


def fit_many(
    solvers: Any,
    problem: Problem,
    objectives: Objective | Sequence[Objective],
    sweeps: int = 15,
    keys: jax.Array | Sequence[jax.Array] | None = None,
    weights: tuple[Any, Any] | None = None,
    tol: float | None = None,
    validation: Ratings | Sequence[Ratings | None] | None = None,
    loss_every: int = 1,
    callbacks: Iterable[Callable[[list[Progress | None]], Any]] = (),
    loop: str = "map",
    metric: str = RMSE,
    progress: bool | str = False,
) -> list[Result | FitError]:
    """Many fits on one table in one compiled program: a grid of numbers, seeds and folds.

    Each is what `fit` would make of it: the same start, stop rules, records and errors, and the same numbers up to
    rounding. A fit that has stopped costs nothing more (with "vmap", once all have).

    Args:
        solvers, objectives: one for all fits, or a list with one a fit. They may differ in numbers only: rank,
            linsolve or preset are part of the program.
        problem: the table of all.
        keys: for the initial factors: one for all (default `jax.random.key(0)`), or a list or array of them.
        weights: None, or (masks, which): weights `(folds, entries)` in the order of the ratings, which take the place
            of the problem's, and integers `(fits,)`, which of them is each fit's own. So a fold of a cross-validation
            needs no problem of its own.
        validation: held-out ratings for all fits, or a list with those, or None, of each.
        sweeps, tol, loss_every: as for `fit`, the same for all. With loss_every=0 there is a record a sweep as soon as
            one fit has validation ratings, or there are callbacks.
        callbacks: each is called at every record with a list: the `Progress` of each fit, None for one that has
            stopped. Returning True stops all.
        loop: "map", one fit after another, right on a CPU; "vmap", all at once, right on an accelerator while the
            table is small. Static.
        metric: what is measured of the validation ratings, as for `fit`; a ranking metric takes a pass over all scores
            for each fit at every record, on the host's side of the program.
        progress: show it, as `fit` does; a text is the name to show it by.

    What comes as a list says how many fits there are. Numbers, seeds and `sweeps` never compile anything again.

    Memory: the factors and optimizer states of all fits up to three times (before a round of sweeps, after it, and
    those handed back), each fold's weights in the order of the layouts (the values once for all), and with "vmap" the
    weights and temporaries of every fit at once. `fit_bytes` estimates it, so that a caller can cut a grid in groups.

    Returns: a list, for each fit its `Result`, or the `FitError` that `fit` would have raised. `history.seconds` is
        nan: the seconds of single fits in one program are unknown. `compile_seconds` is the group's, the same in each.

    Raises:
        ArgumentError, DataError: for invalid arguments, before any work.
        Interrupted: on Ctrl-C, with `result` the list so far: fits that had ended as they ended, the others up to the
            last record (`reason` "interrupted"), each of which `fit(..., init=result)` goes on from.
        OutOfMemory: as from `fit`; `result` is such a list too, those under way with `reason` "failed".
    """
    check_jax()
    asked = StopRules(sweeps, tol=tol, loss_every=loss_every, callbacks=callbacks, progress=progress).checked()
    columns, masks = _columns(solvers, objectives, keys, validation, weights)
    solvers, objectives, keys, validation, which = columns.values()
    _check(problem, columns, masks, loop)
    check_metric(metric, validation)
    measures = measures_of(metric, validation, problem, masks, which)
    with_loss = bool(asked.loss_every)
    watched = asked.watched or any(held_out is not None for held_out in validation)
    problem, fold, folds = problem.checked(), None, None
    if masks is not None:
        fold, folds = jnp.asarray(which, jnp.int32), _fold_slots(problem, jnp.asarray(masks, problem.dtype))
    solver, objective = (_stack(things, problem.dtype) for things in (solvers, objectives))
    group = _Group(solver, objective, fold, problem, folds)

    def start() -> list:
        states = _started(solvers, keys, problem, objectives, masks, which)
        begun = states.factors, states, History(), 0.0, False, RUNNING, 0
        return [_Member(*begun, at, metric=metric) for at in range(len(keys))]

    def compiled(now: list) -> list:
        started, nothing = time.perf_counter(), np.zeros(len(now), np.int32)
        jax.block_until_ready(_advance_many(group, now[0].state, nothing, False, with_loss, loop))  # no sweep at all
        seconds = time.perf_counter() - started
        return [dataclasses.replace(each, compile_seconds=seconds) for each in now]

    def step(now: list) -> list:
        first = next(each for each in now if isinstance(each, _Member))
        start = not first.history.records  # the first round makes no sweep, but a record
        wanted = 0 if start else asked.until_record(first.done, watched)
        counts = np.array([wanted if isinstance(each, _Member) else 0 for each in now], np.int32)
        states, *told = _advance_many(group, first.state, counts, start, with_loss, loop)
        told = jax.device_get(told)
        return [
            _after(each, states, told, wanted, start, measures[each.at]) if isinstance(each, _Member) else each
            for each in now
        ]

    def seen(now: list) -> list[Progress | None]:
        own = [each.with_reason(RUNNING) if isinstance(each, _Member) else None for each in now]
        return [each and single.as_progress(each, asked.most) for each in own]

    apart = ["give fewer fits at once"] + ['take loop="map"'] * (loop == "vmap")
    cures = [*apart, *smaller(solvers[0], problem)]
    memory = functools.partial(told_exhausted, "fit_many", cures, problem)
    return run_rounds(start, asked, step, seen, [compiled], memory)


def fit_bytes(solver: Any, problem: Problem, objective: Objective, folds: int = 1, loop: str = "map") -> int:
    """About how many bytes on the device one more fit of `fit_many` needs, to cut a grid into groups by.

    What any fit holds (`jals.solvers.costs.held_bytes`; of a solver that does not say, its state twice), its state once
    more as it is handed back, and the numbers of solver and objective; with `folds` > 1 also the weights of a fold, as
    if each fit brought its own; with loop="vmap" also what one side's rows are solved in, or the loss gathers.
    """
    check_choice("loop", loop, LOOPS)
    check_solver(solver)
    _, problem, objective = checked_inputs(None, problem, objective, rank=solver.rank)
    key = jax.random.key(0)
    state = jax.eval_shape(lambda solver: solver.init(key, problem, objective), cast(solver, problem.dtype))
    own = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    size = costs.Size(problem.num_users, problem.num_items, problem.num_entries)
    held = costs.held_bytes(traits(solver), size, problem.dtype)
    held = 2 * own if math.isnan(held) else int(held)
    numbers = sum(np.size(leaf) for leaf in jax.tree.leaves((solver, objective)))
    sides = (problem.user_side, problem.item_side)
    if folds > 1:
        slots = problem.num_entries + sum(bucket.other.size for side in sides for bucket in side.buckets)
        slots += problem.num_users + problem.num_items
        numbers += slots if loop == "map" else 2 * slots
    if loop == "vmap":
        unknowns = solver.rank + objective.bias
        works = [sum(_work(bucket, unknowns) for bucket in side.buckets) for side in sides]
        numbers += max(*works, 2 * min(problem.num_entries, CHUNK) * solver.rank)
    return held + own + numbers * problem.dtype.itemsize


def _work(bucket: Bucket, unknowns: int) -> int:
    """Numbers that a slab is worked on with: its gathered rows and a weighted copy, each row's matrix and its factor.
    XLA holds a slab of every bucket of a side at a time."""
    slots = bucket.width * min(bucket.step, bucket.other.shape[1])
    return 2 * slots * unknowns + 2 * bucket.row.shape[1] * unknowns**2


# ---- the program ----


class _Group(NamedTuple):
    """What a program of many fits works on.

    Attributes:
        solver, objective: with an axis of fits in front of every leaf.
        fold: `(fits,)`, the fold of each; None without.
        folds: (weights in the order of the ratings, weights and counts of the users' slots, those of the items'), with
            an axis of folds in front; None without.
    """

    solver: Any
    objective: Objective
    fold: jax.Array | None
    problem: Problem
    folds: Any

    def each(self, function: Callable, columns: tuple, loop: str = "map") -> Any:
        """`function(solver, problem, objective, *columns)` of every fit."""

        def one(member):
            solver, objective, fold, *columns = member
            return function(solver, self._problem(fold), objective, *columns)

        members = (self.solver, self.objective, self.fold, *columns)
        return jax.lax.map(one, members) if loop == "map" else jax.vmap(one)(members)

    def _problem(self, fold: jax.Array | None) -> Problem:
        problem = self.problem
        if fold is None or problem.user_slots is None or problem.item_slots is None:
            return problem
        weight, user, item = jax.tree.map(lambda leaf: leaf[fold], self.folds)
        user, item = problem.user_slots._replace(**user), problem.item_slots._replace(**item)
        return dataclasses.replace(problem, given_weight=weight, user_slots=user, item_slots=item)


@jax.jit
def _fold_slots(problem: Problem, masks: jax.Array) -> Any:
    """`_Group.folds` for these weights. The values' slots are the same for all folds, and stay the problem's."""

    def arranged(weight):
        slots = problem.with_values(problem.value, weight).arrange()
        return weight, *({"weight": side.weight, "count": side.count} for side in (slots.user_slots, slots.item_slots))

    return jax.lax.map(arranged, masks)


def _started(solvers: list, keys: list, problem: Problem, objectives: list, masks: Any, which: Any) -> State:
    """The states before any sweep, as `fit` starts each: by its program, which compiles in less time than one for all,
    and stacked on the host, where nothing is compiled at all."""
    problems = [problem] if masks is None else [problem.with_values(problem.value, mask) for mask in masks]
    places = [0] * len(keys) if masks is None else which
    states = [
        single.initial_state(cast(solver, problem.dtype), key, problems[at], objective.cast(problem.dtype), None)
        for solver, key, objective, at in zip(solvers, keys, objectives, places, strict=True)
    ]
    return jax.tree.map(_joined, *states)


def _joined(*leaves: jax.Array) -> jax.Array:
    if jnp.issubdtype(leaves[0].dtype, jax.dtypes.prng_key):
        return jax.random.wrap_key_data(_joined(*map(jax.random.key_data, leaves)), impl=jax.random.key_impl(leaves[0]))
    return jnp.asarray(np.stack([np.asarray(leaf) for leaf in leaves]))


@functools.partial(jax.jit, static_argnames=("with_loss", "loop"))
def _advance_many(group: _Group, states: State, counts: Any, start: Any, with_loss: bool, loop: str) -> Any:
    """(states, infos, sweeps, passes, losses) of all fits after `counts` `(fits,)` sweeps of each, see
    `single.advance`; a fit with a count of 0 stays as it is, unless it is the `start`, whose losses are wanted."""

    def one(solver, problem, objective, state, count):
        def work():
            after, info, made, passes, value = single.advance(solver, state, problem, objective, count)
            evaluate = lambda: loss(after.factors, problem, objective)  # noqa: E731
            if with_loss:
                value = evaluate() if value is None else jax.lax.cond(made > 0, lambda: value, evaluate)
            return after, info, made, passes, value if with_loss else None

        def nothing():
            _, *told = jax.eval_shape(work)
            return state, *jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), told)

        return jax.lax.cond((count > 0) | start, work, nothing)

    return group.each(one, (states, counts), loop)


@jax.jit
def _member(states: State, at: int) -> State:
    return jax.tree.map(lambda leaf: leaf[at], states)


# ---- results ----


@dataclasses.dataclass(frozen=True)
class _Member(Result):
    """The result of a fit under way, number `at`, with the states and factors of all."""

    at: int

    def with_reason(self, reason: str) -> Result:
        """The fit's own result, its state taken out of the stack of all."""
        state = _member(self.state, self.at)
        known = self.history, self.compile_seconds, reason == "tol", reason, self.sweep
        return Result(state.factors, state, *known, metric=self.metric)


def _after(now: Any, states: State, told: Any, wanted: int, start: bool, measure: Measure) -> Any:
    """A fit after a round of sweeps, whose results for all fits are `told`, or its error where it broke down."""
    info, count, passes, value = jax.tree.map(lambda leaf: leaf[now.at], told)
    try:
        if count or start:
            error = measure(_member(states, now.at).factors)
            value = None if value is None else float(value)
            now = single.extend_result(now, states, value, error, int(count), np.nan, int(passes), None)
        if count < wanted:
            raise single.breakdown(now, info)
        return now
    except FitError as error:
        return error.with_traceback(None)  # its frames would keep the states of all


# ---- arguments ----


def _columns(solvers, objectives, keys, validation, weights) -> tuple[dict[str, list], Any]:
    """(what each fit is given, by name, and the masks or None)."""
    if keys is None:
        keys = jax.random.key(0)
    if isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key) and keys.ndim:
        keys = list(keys)
    masks, which = None, None
    if weights is not None:
        if not (isinstance(weights, tuple) and len(weights) == 2 and np.ndim(weights[1]) == 1):
            raise ArgumentError("weights must be a pair (masks, which): weights (folds, entries), and each fit's row.")
        masks, which = weights[0], np.asarray(weights[1]).tolist()
    given = {"solvers": solvers, "objectives": objectives, "keys": keys, "validation": validation, "which": which}
    lengths = {name: len(column) for name, column in given.items() if type(column) in (list, tuple)}
    if not lengths:
        raise ArgumentError("nothing says how many fits there are: give solvers, objectives or keys as a list.")
    if len(set(lengths.values())) > 1 or 0 in lengths.values():
        have = ", ".join(f"{name} has {length}" for name, length in lengths.items())
        raise ArgumentError(f"{have}: a list has one for each fit, and there is one fit at least.")
    fits = next(iter(lengths.values()))
    return {name: list(column) if name in lengths else [column] * fits for name, column in given.items()}, masks


def _check(problem, columns, masks, loop) -> None:
    check_choice("loop", loop, LOOPS)
    solvers, objectives, keys, validation, which = columns.values()
    check_problem(problem, objectives[0])
    problem.check_shapes()
    for at, (solver, key, objective, held_out) in enumerate(zip(solvers, keys, objectives, validation, strict=True)):
        with name_errors(f"fit {at}"):
            single.check_start(solver, problem, objective, key=key, validation=held_out)
    check_alike("solvers", solvers)
    check_alike("objectives", objectives)
    if len({(key.shape, key.dtype) for key in keys}) > 1:
        raise ArgumentError("keys are of several kinds: make all with jax.random.key.")
    if masks is not None:
        masks = np.asarray(masks)
        if masks.ndim != 2 or masks.shape[1] != problem.num_entries or masks.dtype.kind not in "biuf":
            need = f"numbers of shape (folds, {problem.num_entries})"
            raise ArgumentError(f"masks are of shape {masks.shape} and {masks.dtype}, but must be {need}.")
        for at, fold in enumerate(which):
            if type(fold) is not int or not 0 <= fold < len(masks):
                raise ArgumentError(f"which is {fold!r} for fit {at}, but must be a row of masks, < {len(masks)}.")
    checked = set()
    for at, (objective, fold) in enumerate(zip(objectives, which, strict=True)):
        if (id(objective), fold) not in checked:
            checked.add((id(objective), fold))
            own = problem if masks is None else problem.with_values(problem.value, masks[fold])
            with name_errors(f"fit {at}"):
                own.check_numbers()
                objective.check(own, solvers[at].rank)


def check_alike(name: str, things: list) -> None:
    """Raises ArgumentError naming the first that cannot share a program with those before it, and why."""
    first = things[0]
    for at, thing in enumerate(things):
        if thing is not first and _form(thing) != _form(first):
            raise ArgumentError(
                f"{name}[{at}] cannot share a program with {name}[0]: {_difference(thing, first)}. "
                "Call fit_many once for each kind."
            )


def _form(thing: Any) -> Any:
    leaves, structure = jax.tree.flatten(thing)
    return structure, [np.shape(leaf) for leaf in leaves]


def _difference(thing: Any, first: Any) -> str:
    if type(thing) is not type(first):
        return f"it is of type {type(thing).__name__}, not {type(first).__name__}"
    for field in [each.name for each in dataclasses.fields(first)] if hasattr(first, "__dataclass_fields__") else ():
        part, other = getattr(thing, field), getattr(first, field)
        if _form(dataclasses.replace(first, **{field: part})) != _form(first):
            part, other = (f"of shape {np.shape(each)}" if np.ndim(each) else repr(each) for each in (part, other))
            return f"{field} is {part}, not {other}"
    return "they are built differently"


def _stack(things: list, dtype: Any) -> Any:
    """One tree of them, with an axis of fits in front of every leaf."""
    join = lambda *leaves: jnp.asarray(np.stack([np.asarray(leaf, dtype) for leaf in leaves]))  # noqa: E731
    return jax.tree.map(join, *things)

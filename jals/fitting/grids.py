"""Objectives times keys in one compiled program: `fit_grid`; and which loop goes through many fits faster."""

import dataclasses
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..devices import memory_bytes
from ..errors import ArgumentError, FitError, Interrupted, check_choice
from ..forks import check_jax
from ..html import Table, from_to, shown, some_of
from ..metrics import RMSE, as_error, spelt
from ..model.objectives import Objective
from ..model.problem import Problem
from ..reals import one_real
from . import many
from .loop import StopRules, name_errors
from .many import fit_bytes, fit_many
from .single import Progress, Result, check_start

LOOPS = ("auto", "measure", *many.LOOPS)
_SHARE = 0.25  # of the machine's memory, which the fits of one program may take
_WORTH_MEASURING = 2e11  # operations: below, the fits take less time than two compilations


class Outcomes:
    """Fits and how they ended: arrays with the axes of `results`, one number a fit."""

    results: Any

    @property
    def loss(self) -> np.ndarray:
        """L at the end; nan for a fit that broke down, or without losses."""
        return self._ends("loss")

    @property
    def validation(self) -> np.ndarray:
        """The metric on the validation ratings at the end; nan for a fit that broke down, or without such ratings."""
        return self._ends("validation")

    @property
    def sweeps(self) -> np.ndarray:
        """Sweeps made; of a fit that broke down the good ones."""
        return self._ends("sweep")

    @property
    def passes(self) -> np.ndarray:
        """Passes over the entries made by the solver; of a fit that broke down those of its good sweeps."""
        return self._ends("passes")

    def _ends(self, name: str) -> np.ndarray:
        is_leaf = lambda outcome: outcome is None  # noqa: E731
        return np.array(jax.tree.map(lambda outcome: last_value(outcome, name), self.results, is_leaf=is_leaf))

    def best_place(self) -> tuple[int, ...]:
        """The place of the fit with the best validation metric; among seeds of one objective without such ratings,
        with the lowest loss."""
        outcomes = jax.tree.leaves(self.results)
        if all(isinstance(outcome, FitError) for outcome in outcomes):
            raise ArgumentError(f"every fit broke down, the first with: {outcomes[0]}")
        by = as_error(next(each.metric for each in outcomes if isinstance(each, Result)), self.validation)
        if np.isnan(by).all() and len(by) == 1:
            by = self.loss
        if np.isnan(by).all():
            what = "there is nothing to choose by: losses of different objectives do not compare."
            raise ArgumentError(f"{what} Give validation ratings.")
        return tuple(map(int, np.unravel_index(np.nanargmin(by), by.shape)))

    def __repr__(self) -> str:
        failed = sum(isinstance(outcome, FitError) for outcome in jax.tree.leaves(self.results))
        size = " x ".join(map(str, self.loss.shape))
        return f"{type(self).__name__}({size} fits, {failed} broke down)"

    @shown
    def _repr_html_(self) -> Table:
        """A line an objective: its fits' sweeps and, where they were validated, how."""
        each = [outcomes if isinstance(outcomes, list) else [outcomes] for outcomes in self.results]
        fitted = [outcome for outcomes in each for outcome in outcomes if isinstance(outcome, Result)]
        validation = np.reshape(self.validation, (len(each), -1))
        known = np.isfinite(validation)
        rows, places = [], some_of(len(each))
        for place in places:
            done = [last_value(outcome, "sweep") for outcome in each[place] if isinstance(outcome, Result)]
            counts = [place, len(each[place]), len(each[place]) - len(done)]
            ranges = [done, *([validation[place, known[place]]] if known.any() else [])]
            rows.append([*counts, *(from_to(min(its), max(its)) if len(its) else "" for its in ranges)])
        head = ["objective", "fits", "without a result", "sweeps"]
        head += [f"validation {spelt(fitted[0].metric)}"] if known.any() else []
        few = [f"{len(places)} of {len(each):,} objectives"] if len(places) < len(each) else []
        best = [f"the best: objective {self.best_place()[0]}"] if known.any() else []
        return Table(type(self).__name__.lower(), rows, head, "; ".join([*few, *best]))


def last_value(outcome: Result | FitError | None, name: str) -> float:
    if not isinstance(outcome, Result) and name in ("loss", "validation"):
        return np.nan
    result = outcome.result if isinstance(outcome, FitError) else outcome
    return getattr(result.history, name)[-1] if result and result.history.sweep else 0


# ---- grids ----


@dataclasses.dataclass(frozen=True, repr=False)
class Grid(Outcomes):
    """What `fit_grid` returns. `loss`, `validation`, `sweeps` and `passes` are arrays `(objectives, keys)`.

    Attributes:
        results: `results[objective][key]`, a `Result`, or the `FitError` of a fit that broke down. In a grid that an
            `Interrupted` carries, those under way have reason "interrupted", and those not begun are None.
        loop: the loop that went through the fits, "map" or "vmap".
        why: why this one.
        seconds: of a sweep of some of the fits by each loop, compilation apart; empty where none was measured.
    """

    results: list[list[Result | FitError]]
    loop: str
    why: str
    seconds: dict[str, float]

    def best(self) -> tuple[int, int]:
        """(objective, key) with the best validation metric; among keys of one objective without validation ratings,
        with the lowest loss. Fits that broke down are left out.

        Raises:
            ArgumentError: where there is nothing to choose by, or every fit broke down.
        """
        objective, key = self.best_place()
        return objective, key


def fit_grid(
    solver: Any,
    problem: Problem,
    objectives: Sequence[Objective],
    keys: jax.Array | Sequence[jax.Array],
    sweeps: int = 15,
    *,
    validation: Ratings | Sequence[Ratings | None] | None = None,
    weights: Any = None,
    tol: float | None = None,
    loss_every: int = 1,
    loop: str = "auto",
    memory_bytes: int | None = None,
    callbacks: Iterable[Callable[[list[list[Progress | None]]], Any]] = (),
    metric: str = RMSE,
    progress: bool = False,
) -> Grid:
    """Every objective with every key, each fitted as `fit` would, in one compiled program: `fit_many`, in as many
    groups as memory asks for.

    Args:
        solver, problem: of all fits.
        objectives: a list; they may differ in numbers only, since the preset and its form are part of the program.
        keys: for the initial factors: a list, an array of them, or one.
        sweeps, tol, loss_every: as for `fit`, the same for all. A fit that has stopped costs nothing more.
        validation: held-out ratings for all fits, or a list with those, or None, of each key.
        weights: None, or `(keys, entries)` in the order of the ratings: for each key the weights that take the place of
            the problem's. So a column of the grid can be a fold of a cross-validation.
        loop: how the program goes through its fits: "map", one after another; "vmap", all at once; "auto", whichever
            makes a sweep in less time, measured where that is worth two compilations, else the device's usual one;
            "measure", measured always. "map" gives the bits of `fit`; "vmap" other roundings, so name the loop where
            two runs must agree to the last bit.
        memory_bytes: what the fits of a group may take (as estimated by `fit_bytes`); default: a quarter of the
            machine's memory. Give it where the device has a memory of its own. A group has one fit at least.
        callbacks: each is called at every record with `seen[objective][key]`, the `Progress` of each fit under way,
            None for all others. Returning True stops those under way.
        metric: what is measured of the validation ratings, as for `fit_many`; `best` goes by it.
        progress: show it, group by group, as `fit` does.

    Numbers, keys and `sweeps` never compile anything again. Groups are equal in size, or differ by one, and each of
    the two sizes is one program. Passes of measuring are not counted in any fit.

    Like `fit` it returns results on the host: it cannot be differentiated, jitted or vmapped. `run` can.

    Raises:
        ArgumentError, DataError: for invalid arguments, before any work.
        Interrupted: on Ctrl-C, with `result` the `Grid` so far.
    """
    check_jax()
    check_choice("loop", loop, LOOPS)
    if memory_bytes is not None and not one_real("memory_bytes", memory_bytes) > 0:
        raise ArgumentError(f"memory_bytes is {memory_bytes!r}, but must be a number > 0, or None.")
    if isinstance(keys, jax.Array) and jnp.issubdtype(keys.dtype, jax.dtypes.prng_key):
        keys = list(jnp.atleast_1d(keys))
    objectives, keys = as_list("objectives", objectives), as_list("keys", keys)
    columns: list[Any] = list(validation) if isinstance(validation, (list, tuple)) else [validation] * len(keys)
    asked = StopRules(sweeps, tol=tol, loss_every=loss_every, callbacks=callbacks).checked()
    check_objectives(solver, problem, objectives)
    _check_columns(solver, problem, objectives, keys, columns, weights)
    problem = problem.checked()
    masks = None if weights is None else jnp.asarray(weights, problem.dtype)
    places = [(row, column) for row in range(len(objectives)) for column in range(len(keys))]

    def fitted(places: list[tuple[int, int]], loop: str, sweeps: int, watchers: Iterable[Callable], label="") -> list:
        own = sorted({column for _, column in places})  # as many in every group of a size
        folds = None if masks is None else (masks[np.array(own)], [own.index(column) for _, column in places])
        return fit_many(
            solver,
            problem,
            [objectives[row] for row, _ in places],
            sweeps=sweeps,
            keys=[keys[column] for _, column in places],
            weights=folds,
            tol=tol,
            validation=[columns[column] for _, column in places],
            loss_every=loss_every,
            callbacks=watchers,
            loop=loop,
            metric=metric,
            progress=label,
        )

    def shown(seen: list, places: list) -> list[list]:
        at = dict(zip(places, seen, strict=True))
        return [[at.get((row, column)) for column in range(len(keys))] for row in range(len(objectives))]

    folds = 1 if masks is None else len(masks)
    most = {loop: at_once(fit_bytes(solver, problem, objectives[0], folds, loop), memory_bytes) for loop in many.LOOPS}
    choice, ends = LoopChoice(loop, "as asked for", {}), []

    def found() -> Grid:
        all_ends: list[Any] = [*ends, *[None] * (len(places) - len(ends))]
        return Grid([all_ends[row * len(keys) :][: len(keys)] for row in range(len(objectives))], *choice)

    try:
        if loop not in many.LOOPS:
            work = 2.0 * len(places) * asked.most * problem.num_entries * solver.rank**2  # that of exact ALS, about
            some, enough = places[: even_sizes(len(places), most["vmap"])[0]], np.inf if loop == "measure" else work
            choice = choice._replace(why="interrupted before a loop was chosen")
            choice = quicker_loop(lambda loop: fitted(some, loop, 1, ()), len(some), enough)
        sizes = even_sizes(len(places), most[choice.loop])
        for number, size in enumerate(sizes, start=1):
            group = places[len(ends) : len(ends) + size]
            watchers = [lambda seen, each=each, group=group: each(shown(seen, group)) for each in asked.callbacks]
            label = f"{size} fit{'s' * (size > 1)}" + f", group {number} of {len(sizes)}" * (len(sizes) > 1)
            ends += fitted(group, choice.loop, asked.most, watchers, label * bool(progress))
    except KeyboardInterrupt as stopped:
        if choice.loop in many.LOOPS and isinstance(stopped, Interrupted):
            ends += stopped.result
        later = f"; {len(places) - len(ends)} more were not begun" if len(ends) < len(places) else ""
        raise Interrupted(f"{str(stopped) or 'interrupted'}{later}", result=found()) from None
    return found()


class LoopChoice(NamedTuple):
    """A loop of `fit_many`, why this one, and the seconds each took where they were measured."""

    loop: str
    why: str
    seconds: dict[str, float]


def quicker_loop(trial: Callable[[str], Any], fits: int, work: float) -> LoopChoice:
    """Which loop takes less time, compilation apart, where that is worth measuring.

    Args:
        trial: makes a sweep of `fits` fits by the loop that it is given.
        work: operations of all the fits that the choice is for, about.
    """
    device = jax.devices()[0].platform
    usual = "map" if device == "cpu" else "vmap"
    if work < _WORTH_MEASURING or fits < 2:
        return LoopChoice(usual, f"the {device}'s usual loop: too little work to measure", {})
    seconds = {}
    for loop in many.LOOPS:
        trial(loop)
        started = time.perf_counter()
        trial(loop)
        seconds[loop] = time.perf_counter() - started
    figures = ", ".join(f"{loop} {took:.3g} s" for loop, took in seconds.items())
    return LoopChoice(min(seconds, key=lambda loop: seconds[loop]), f"measured on {fits} fits: {figures}", seconds)


def at_once(each: int, room: int | None = None) -> int:
    """How many fits of `each` bytes one program may hold, in a room of so many bytes or a quarter of the machine's."""
    return max(1, int((memory_bytes() * _SHARE if room is None else room) // max(each, 1)))


def even_sizes(fits: int, most: int) -> list[int]:
    """As few groups as there can be of at most so many fits, alike in size: a size is a program."""
    groups = -(-fits // most)
    return [fits // groups + (place < fits % groups) for place in range(groups)]


# ---- arguments ----


def as_list(name: str, things: Any) -> list:
    if not isinstance(things, (list, tuple)) or not things:
        have = "empty" if isinstance(things, (list, tuple)) else f"of type {type(things).__name__}"
        raise ArgumentError(f"{name} is {have}, but must be a list with one at least.")
    return list(things)


def check_objectives(solver: Any, problem: Problem, objectives: list, **others: Any) -> None:
    """As `fit` checks each, naming the objective that it refuses; `others` are those of `fitting.check_start`."""
    for at, objective in enumerate(objectives):
        with name_errors(f"objectives[{at}]"):
            check_start(solver, problem, objective, **others)
    many.check_alike("objectives", objectives)


def check_numbers(problem: Problem, objectives: list, rank: int) -> None:
    """Refuses values and weights that no fit, or one of the objectives, can use."""
    problem.check_shapes()
    problem.check_numbers()
    for at, objective in enumerate(objectives):
        with name_errors(f"objectives[{at}]"):
            objective.check(problem, rank)


def _check_columns(solver, problem, objectives, keys, columns, weights) -> None:
    """The keys, and what each brings along."""
    if len(columns) != len(keys):
        raise ArgumentError(f"validation has {len(columns)}, keys has {len(keys)}: a list has one for each key.")
    for at, (key, held_out) in enumerate(zip(keys, columns, strict=True)):
        with name_errors(f"keys[{at}]"):
            check_start(solver, problem, objectives[0], key=key, validation=held_out)
    if weights is None:
        check_numbers(problem, objectives, solver.rank)
        return
    have = np.asarray(weights)
    if have.shape != (len(keys), problem.num_entries) or have.dtype.kind not in "biuf":
        need = f"numbers of shape (keys, entries), ({len(keys)}, {problem.num_entries})"
        raise ArgumentError(f"weights are of shape {have.shape} and {have.dtype}, but must be {need}.")
    for at, weight in enumerate(weights):
        with name_errors(f"keys[{at}]"):
            check_numbers(problem.with_values(problem.value, weight), objectives, solver.rank)

"""A regularisation path: objectives fitted one after another, each from the factors of the one before."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from ..data.ratings import Ratings
from ..errors import FitError, Interrupted, check_choice
from ..metrics import RMSE
from ..model.objectives import Objective
from ..model.problem import Problem
from .grids import Outcomes, as_list, check_numbers, check_objectives, last_value
from .loop import StopRules
from .single import Result, fit

ORDERS = ("given", "reversed")
_STARTS: tuple[str, str] = ("warm", "cold")
_APART = 0.01  # losses that differ by more are of different solutions, or of a fit that has not converged


@dataclasses.dataclass(frozen=True)
class StartComparison:
    """Warm starts against cold ones: what each took, objective by objective, to come to the same loss, the higher one
    of their two ends, to a factor 1 + tol.

    Attributes:
        cold: the same fits, each from the initial factors of the key.
        passes, seconds: of "warm" and "cold", arrays `(objectives,)`: the solver's, without compilation, losses and
            validation. nan where one broke down, or where the ends are more than 1 % apart: those are different
            solutions, and getting to one says nothing about the other.
        faster: "warm" or "cold", which took fewer passes in all, or as many in less time; "neither" where no two ends
            can be compared.
        why: the same in words and figures.
    """

    cold: list[Result | FitError]
    passes: dict[str, np.ndarray]
    seconds: dict[str, np.ndarray]
    faster: str
    why: str


@dataclasses.dataclass(frozen=True, repr=False)
class Path(Outcomes):
    """What `regularisation_path` returns. `loss`, `validation`, `sweeps` and `passes` are arrays `(objectives,)`.

    Attributes:
        results: in the order of the objectives, a `Result` with its whole history, whose first record is that of the
            start, or the `FitError` of a fit that broke down.
        comparison: with cold starts; None where it was not asked for.
    """

    results: list[Result | FitError]
    comparison: StartComparison | None = None

    def best(self) -> int:
        """The objective with the best validation metric. Raises ArgumentError as `Grid.best`."""
        return self.best_place()[0]


def regularisation_path(
    solver: Any,
    problem: Problem,
    objectives: Sequence[Objective],
    key: jax.Array | None = None,
    sweeps: int = 100,
    *,
    tol: float | None = 1e-4,
    validation: Ratings | None = None,
    order: str = "given",
    compare: bool = False,
    metric: str = RMSE,
    progress: bool = False,
) -> Path:
    """Fits objectives one after another, each from the factors of the one before: `fit(..., init=factors)`.

    The first starts from the initial factors of the key. A fit that breaks down is a `FitError` in its place, and the
    next one starts from the last that went well.

    Args:
        objectives: a list, of one preset and form, whose numbers differ little from one to the next. From strong lambda
            to weak is the usual order, and a good one as long as the first leaves factors to start from: under a
            lambda so strong that they shrink to 0 the next start at a saddle, which they leave late, or, by `tol`, not
            at all. `compare` finds such ends: they are higher than those of cold starts.
        key: for the initial factors (default `jax.random.key(0)`).
        sweeps: at most so many for each.
        tol: each stops once a sweep has changed its loss by no more than tol * loss, as in `fit`. Without (None)
            a warm start saves nothing, but its factors are nearer to the end.
        validation: held-out ratings, whose RMSE or other `metric` goes into the histories.
        order: "given", or "reversed": from the last to the first; results are in the order given either way.
        compare: whether to make the same fits from cold starts too, and say which was faster.
        metric: as for `fit`; `best` goes by it.
        progress: show each fit, as `fit` does.

    Numbers, `sweeps` and the number of objectives never compile anything again: it is `fit`'s program for all. Passes
    are the solver's, as everywhere; a loss after each sweep, and one at each start, is one more each.

    Like `fit` it returns results on the host: it cannot be differentiated, jitted or vmapped. `run` can.

    Raises:
        ArgumentError, DataError: for invalid arguments, before any work.
        Interrupted: on Ctrl-C, with `result` the list of what there is by then, in the order of fitting; the last is
            the interrupted fit's.
    """
    objectives = as_list("objectives", objectives)
    check_choice("order", order, ORDERS)
    StopRules(sweeps, tol=tol).checked()
    check_objectives(solver, problem, objectives, key=key, validation=validation)
    check_numbers(problem, objectives, solver.rank)
    problem = problem.checked()
    rows = list(range(len(objectives)))[:: 1 if order == "given" else -1]
    made: list[Result | FitError] = []

    def fitted(row: int, init: Any) -> Result | FitError:
        try:
            label = f"objectives[{row}]" if progress else ""
            given = solver, problem, objectives[row], sweeps, key, tol, init, validation
            outcome = fit(*given, metric=metric, progress=label)
        except FitError as error:
            outcome = error.with_traceback(None)
        except Interrupted as stopped:
            raise Interrupted(f"objectives[{row}]: {stopped}", result=[*made, stopped.result]) from None
        made.append(outcome)
        return outcome

    warm: dict[int, Result | FitError] = {}
    cold: dict[int, Result | FitError] = {}
    factors = None
    for row in rows:
        warm[row] = outcome = fitted(row, factors)
        if factors is None:
            cold[row] = outcome
        if isinstance(outcome, Result):
            factors = outcome.factors
    results = [warm[row] for row in range(len(objectives))]
    if not compare:
        return Path(results)
    cold |= {row: fitted(row, None) for row in rows if row not in cold}
    return Path(results, _compared(results, [cold[row] for row in range(len(objectives))], tol or 0.0))


def _compared(warm: list, cold: list, tol: float) -> StartComparison:
    passes, seconds = (np.full((2, len(warm)), np.nan) for _ in range(2))
    for row, pair in enumerate(zip(warm, cold, strict=True)):
        low, high = sorted(last_value(outcome, "loss") for outcome in pair)
        if high - low <= _APART * low:  # False for nan
            for at, outcome in enumerate(pair):
                passes[at, row], seconds[at, row] = _cost_to((1 + tol) * high, outcome)
    left_out = np.flatnonzero(np.isnan(passes[0]))
    totals = list(zip(np.nansum(passes, axis=1), np.nansum(seconds, axis=1), strict=True))
    if len(left_out) == len(warm):
        faster, why = "neither", "no two ends can be compared"
    else:
        faster = "warm" if totals[0] <= totals[1] else "cold"
        each = zip(_STARTS, totals, strict=True)
        took = [f"{name} starts {count:.0f} passes and {time:.3g} s" for name, (count, time) in each]
        why = f"{faster} starts were faster, to the same losses: {', '.join(took)}"
    if len(left_out):
        why += f"; left out: objectives {', '.join(map(str, left_out))}, which broke down or ended more than 1 % apart"
    return StartComparison(
        cold, dict(zip(_STARTS, passes, strict=True)), dict(zip(_STARTS, seconds, strict=True)), faster, why
    )


def _cost_to(loss: float, result: Result) -> tuple[int, float]:
    """(passes, seconds) at the first record with no higher loss."""
    history = result.history
    at = next(at for at, each in enumerate(history.loss) if each <= loss)
    return history.passes[at], history.seconds[at]

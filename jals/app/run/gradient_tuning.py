"""Tuning by gradient descent (`jals.tune`) in a run: one trial for a study, whose record has every step."""

import math
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax

import jals

from ...errors import FitError, Interrupted
from ...files.runs import record
from ...metrics import is_error
from ..study.plan import DescentPlan, PlannedFit
from . import scores
from .data import SplitTable


class DescentOutcome(NamedTuple):
    """A descent that has ended.

    Attributes:
        result: what a fit would have returned: sweep and passes count those of the descent, the factors are its best.
        error: why it broke down, or None.
        line: what its line of the record says otherwise.
    """

    result: jals.Result
    error: FitError | None
    line: dict[str, Any]


def run_descent(
    table: SplitTable, planned: PlannedFit, descent: DescentPlan, watch: Callable[[Any], None]
) -> DescentOutcome:
    """Runs `jals.tune`. `watch` is that of a fit; each step is shown to it as if it were a sweep. Of a ranking the
    history has the metric of the fits after each step that was the best so far.

    Raises:
        Interrupted: on Ctrl-C. Nothing is kept: the descent starts again, with the same steps.
    """
    box = {key.removeprefix("objective."): (low, high) for key, (low, high) in descent.ranges.items()}

    metric = planned.config.fit.metric
    measured: list[float] = []  # the metric of the fit after each step

    def ranked(factors: jals.Factors) -> float:
        corrected = scores.as_ranked(planned.config, factors, table.folds[planned.fold])
        found = table.rankings(planned.fold).means("validation", corrected, [metric])[metric]
        return math.nan if found is None else found

    def shown(at: jals.tuning.StepProgress) -> None:
        found = at.rmse
        if not is_error(metric):  # of the factors that are kept, those of the best step: the others are not measured
            found = ranked(at.result.factors) if at.result.step == at.step else math.nan
        measured.append(found)
        watch(SimpleNamespace(sweep=at.step, sweeps=at.steps, loss=math.nan, validation=found, seconds=0.0))

    def spent(at: jals.tuning.StepProgress) -> bool:
        return descent.seconds is not None and at.seconds >= descent.seconds

    problem = table.problem(planned.fold)
    validation: Any = table.validation(planned.fold, metric)  # there is one: the config was checked
    error = None
    with warnings.catch_warnings():  # how many are unseen is in the line
        warnings.filterwarnings("ignore", "[0-9,]+ of [0-9,]+ validation entries are of a user or an item without")
        try:
            tuned = jals.tune(
                problem,
                validation,
                planned.config.objective.build(),
                planned.solver.build(),
                score=_score(descent, planned),
                over=tuple(box),
                box=box,
                steps=descent.steps,
                sweeps=descent.each,
                start_sweeps=descent.start,
                restart=descent.score is not None,
                key=jax.random.key(planned.seed),
                direction="forward",
                callbacks=[shown, spent],
            )
        except FitError as broken:
            tuned, error = broken.result, broken
        except Interrupted as stopped:
            raise Interrupted(f"{stopped} of a descent, which begins anew", result=stopped.result) from None
    if not isinstance(tuned, jals.Tuned):  # the fit before the first step
        return DescentOutcome(tuned, error, {"descent": record.DescentRecord(steps=0)})
    if error is not None:
        error.sweep = descent.start + descent.each * error.sweep  # it counts steps
    steps, nothing = tuned.history, [math.nan] * len(tuned.history.step)
    sweeps = [descent.start + descent.each * step for step in steps.step]
    history = jals.History(
        [0, *sweeps], [math.nan, *nothing], [0.0, *steps.seconds], [0, *steps.passes], [math.nan, *measured]
    )
    best, state = history.sweep[tuned.step], jals.State(tuned.factors)
    result = jals.Result(tuned.factors, state, history, tuned.compile_seconds, False, tuned.reason, best)
    numbers = [{f"objective.{name}": each[name] for name in box} for each in steps.numbers]
    about = record.DescentRecord(steps=len(numbers), best=tuned.step, unseen=tuned.unseen, numbers=numbers)
    return DescentOutcome(
        result, error, {"descent": about} | ({"tuned": numbers[tuned.step - 1]} if tuned.step else {})
    )


def _score(descent: DescentPlan, planned: PlannedFit) -> Any:
    """What is descended, of scores that are corrected as those that are ranked."""
    if descent.score is None:
        return None
    kind = {"softmax": jals.tuning.Softmax, "smooth_ndcg": jals.tuning.SmoothNDCG}[descent.score]
    return kind(item_power=planned.config.score.item_power or 0.0)

"""Tuning by descent: `tune` follows the derivative of a held-out error, or of a ranking, in the objective's numbers."""

import dataclasses
import functools
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import clock
from ..data.ratings import Ratings
from ..devices import told_exhausted
from ..errors import AdjointError, FitError, check_choice
from ..fitting import single as fitting
from ..fitting.loop import RUNNING, Columns, StopRules, fit_error, run_single
from ..fitting.vanished import MESSAGE, warn_if_vanished
from ..forks import check_jax
from ..html import Table, brief, from_to, shown
from ..metrics import HeldOut
from ..model.factors import Factors
from ..model.objectives import Objective
from ..model.problem import Problem
from ..solvers.gradient import Gradient
from ..solvers.hyper import check_hyper
from ..solvers.protocol import cast, check_whole, checked_inputs, smaller
from . import checks
from .scores import SquaredError
from .step import (
    Evaluation,
    Learned,
    Plan,
    apply_update,
    at_stationary_point,
    build_objective_jit,
    check_reverse,
    first_parameters,
    numbers_of,
    through_sweeps,
)

DEFAULTS = {"learning_rate": 0.2, "b1": 0.5}  # a step is no more than a factor e^0.2; little momentum, for few steps


@dataclasses.dataclass(frozen=True)
class Step:
    """What is known after a step; the attributes are those of `Steps`."""

    step: int
    rmse: float
    score: float
    passes: int
    seconds: float
    numbers: dict[str, float]


@dataclasses.dataclass(frozen=True, repr=False)
class Steps(Columns):
    """The history of `tune`, one record a step; parallel lists.

    Attributes:
        step: 1, 2, ...
        rmse: the held-out RMSE of the factors after the step's sweeps, by the numbers before its update.
        score: what is descended, plus penalties: the held-out error, rmse squared, unless `score` asked for a ranking.
        passes: over the training entries so far, the derivatives' and the start's included. Held-out evaluations
            read the validation entries only and are not in it.
        seconds: solver work so far, without compilation and callbacks.
        numbers: the objective's numbers by name; of a lambda with one value a row the geometric mean over the rows
            with entries, of weights by row the power of n that they go by: the slope of their logarithm against log n
            over the same rows. Beside them "temperature" and "item_power", where they are learned.
    """

    step: list[int] = dataclasses.field(default_factory=list)
    rmse: list[float] = dataclasses.field(default_factory=list)
    score: list[float] = dataclasses.field(default_factory=list)
    passes: list[int] = dataclasses.field(default_factory=list)
    seconds: list[float] = dataclasses.field(default_factory=list)
    numbers: list[dict[str, float]] = dataclasses.field(default_factory=list)

    record: ClassVar = Step


@dataclasses.dataclass(frozen=True)
class StepProgress(Step):
    """What callbacks are called with: the newest step, the steps asked for, the result so far (reason "running")."""

    steps: int
    result: "Tuned"


@dataclasses.dataclass(frozen=True, repr=False)
class Tuned:
    """What `tune` returns.

    Attributes:
        objective: with the numbers of the best step, that with the least `history.score`.
        problem: the training table, as `Learned.build` made it at that step.
        factors: of that step: warm-started, not those of a fresh fit.
        parameters: what was descended, at that step: {name: parameters of log lambda, or of log weights (see
            `jals.tuning.rules`), or log alpha, log epsilon, log unobserved_weight, reg_power, powers of n}, "score"
            with log temperature and item_power, and "learned". While nu is tuned too, the a in log lambda is that which
            keeps lambda n^nu where log n is at its mean: log lambda + (nu - nu at the start) * mean of log n.
        history: see `Steps`.
        step: the best one, counted from 1; 0 before the first has ended.
        reason: "steps", "patience" or "callback"; "failed" and "interrupted" in the result that an error carries.
        unseen: how many validation entries are of a user or an item without training entries.
        score: what was descended, with the temperature and item_power of that step.
        passes: all of the tuning.
        compile_seconds: tracing and compiling a step.
    """

    objective: Objective
    problem: Problem
    factors: Factors
    parameters: Any
    history: Steps
    step: int
    reason: str
    unseen: int
    score: SquaredError
    passes: int = 0
    compile_seconds: float = 0.0

    @property
    def done(self) -> int:
        """Steps made."""
        return self.history.records

    def best(self) -> int:
        """The place in the history of the best step."""
        return self.step - 1

    def with_reason(self, reason: str) -> "Tuned":
        return dataclasses.replace(self, reason=reason)

    def __repr__(self) -> str:
        if not self.step:
            return f"Tuned(no step, {self.reason})"
        at = self.best()
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in self.history.numbers[at].items())
        ranked = type(self.score) is not SquaredError
        error = f"{self.score.name} {self.history.score[at]:.4f}" if ranked else f"RMSE {self.history.rmse[at]:.4f}"
        done = f"best of {self.done} steps: {self.step}, held-out {error}"
        return f"Tuned({done}, {self.passes:,} passes: {numbers})"

    @shown
    def _repr_html_(self) -> Table:
        rows = [("steps", f"{self.done:,} ({self.reason}), {self.passes:,} passes over the training entries")]
        if self.step:
            at = self.best()
            rows.append(("the best step", f"{self.step:,}"))
            rows.append(("held-out RMSE", from_to(self.history.rmse[0], self.history.rmse[at])))
            if type(self.score) is not SquaredError:
                rows.append((self.score.name, from_to(self.history.score[0], self.history.score[at])))
            rows += [(name, brief(number)) for name, number in self.history.numbers[at].items()]
        unseen = f"{self.unseen:,} validation entries are of users or items without training entries"
        return Table("tuned", rows, note=unseen if self.unseen else "")


def tune(
    train: Problem | Ratings,
    validation: Ratings,
    objective: Objective,
    solver: Any,
    optimizer: Callable[..., Any] = optax.adam,
    hyper: Mapping[str, Any] | None = None,
    *,
    score: Any = None,
    over: Sequence[str] | None = None,
    reg: Any = "one",
    weights: Any = None,
    learned: Learned | None = None,
    box: Mapping[str, tuple[Any, Any]] | None = None,
    steps: int = 20,
    sweeps: int = 2,
    start_sweeps: int = 10,
    restart: bool = False,
    key: jax.Array | None = None,
    init: Factors | fitting.Result | Tuned | None = None,
    method: str = "unrolled",
    direction: str = "auto",
    patience: int | None = None,
    callbacks: Iterable[Callable[[StepProgress], Any]] = (),
    progress: bool = False,
) -> Tuned:
    """Descends the held-out error in the objective's numbers, or a ranking loss.

    A step runs `sweeps` sweeps from the factors of the step before, which count as constants (see `restart`), takes the
    held-out error sum v (s - t)^2 / sum v of the result and its derivative, and moves the numbers against it. s is the
    prediction, t the validation entry's value (1 for implicit feedback: there held-out pairs alone are looked at, which
    a smaller unobserved_weight or a larger alpha always seems to help; give a `score` that looks at the other pairs
    too, or tune lambda alone), v its weight.

    Args:
        train: the training table, or a problem built from it.
        validation: held-out entries of the same users and items. Those of users or items without training entries
            are predicted by prior mean, mean and the other's bias, and say nothing about lambda: a warning counts them.
        objective: where the descent starts. Rather with a lambda too small than too large: where it is so large that
            the factors shrink to 0 they stay there, and no derivative leads away.
        solver: anything with `init` and `sweep` that can be differentiated in the `direction` taken.
        optimizer: a function that makes an optax optimizer, such as `optax.adam`, compared by identity.
        hyper: its arguments; real numbers are traced, see `jals.Gradient`. The default, adam's {"learning_rate": 0.2,
            "b1": 0.5}, and those of `sweeps` and `steps` were chosen on the validation part of one fold of ML-100K at
            rank 32, for descents from lambda five times too small to five times too large.
        score: what to descend in place of the held-out error: `jals.tuning.Softmax(...)` or `SmoothNDCG(...)`,
            how held-out items stand among all that their users have not seen. A step then makes every score once more,
            and four times with their gradient, whatever the number of parameters; `users=` draws some of the users.
        over: which of the objective's numbers: "reg_user", "reg_item", "reg_bias", "reg_bias_user", "reg_bias_item",
            "alpha", "epsilon", "unobserved_weight" (descended in their logarithm; of one a row the mean is descended,
            the ratios stay), "reg_power" (in itself, >= 0), and "weight_power_user", "weight_power_item",
            "unobserved_power_user", "unobserved_power_item" (in themselves, of either sign). None: all of these that
            are there, reg_power where it is > 0 and `reg` is not `ByDegree`, which has its own say about counts.
            Besides "weight_user", "weight_item", "unobserved_user" and "unobserved_item", the weights by row of
            entries and of pairs, in their logarithm; their mean (over entries; over rows) stays what it is.
        reg: how lambda varies over the rows of a side: "one" number (one a row in the objective keep their ratios), or
            `jals.tuning.Groups(user=ids, item=ids)`, `ByDegree(degree=1)`, `PerRow(shrinkage=0.01)`.
        weights: how weights by row vary over the rows of a side: `ByDegree()`, a power of the count (the default),
            `Groups(...)` or `PerRow(...)`.
        learned: numbers of your own, tuned beside those of `over`; see `Learned`.
        box: {name: (low, high)} to keep a number within, for names of `over`, with reg="one".
        steps: at most so many.
        sweeps: a step; static.
        start_sweeps: before the first step, unless there is `init`; none with `restart`.
        restart: whether every step starts from the first factors again (`init`, or those that the key draws), so that
            a step is a whole fit of `sweeps` sweeps and its derivative that of all of it. What is found is then good
            for that fit, `jals.fit(solver, train, tuned.objective, sweeps, key)`, and not for factors that went through
            all steps before: numbers by which the first sweeps go, as the powers of n do with implicit feedback, drift
            away otherwise. Dearer a step: give 5 to 10 sweeps, and a larger learning rate.
        key: for the initial factors (default `jax.random.key(0)`).
        init: factors, or a result with them, to start from.
        method: "unrolled", the derivative of the sweeps that were run; "adjoint", after the sweeps that of the
            stationary point, by `jals.adjoint.hypergradient`, which polishes the factors first.
        direction: of the unrolled derivative. "forward" carries a tangent of all factors for each parameter through
            the sweeps, all in the same traversals: 3 times the passes of the sweeps alone. "reverse" keeps the state
            of every sweep and makes it again: 4 times, whatever the number of parameters. "auto": forward up to 8
            parameters.
        patience: stop after so many steps without a better score.
        callbacks: each is called with a `StepProgress` after every step; returning True stops.
        progress: show steps, held-out error, score and the time left while it runs, as `fit` does.

    Numbers, learning rates and boxes never compile anything again, nor do steps; tables and sizes of another shape do.

    Warns where all factors of the best step are 0, and where validation entries say nothing (see `validation`).

    Raises:
        ArgumentError, DataError: for invalid arguments, before any work.
        FitError: when error or derivative is not finite; `sweep` is the step, `result` the `Tuned` so far.
        Interrupted: on Ctrl-C, with the `Tuned` so far.
        OutOfMemory: as from `fit`, with the `Tuned` so far.
    """
    check_jax()
    problem = Problem.build(train) if isinstance(train, Ratings) else train
    key = jax.random.key(0) if key is None else key
    given = init.factors if isinstance(init, Tuned) else init
    label = "tune" if progress is True else progress
    asked = StopRules(steps, "steps", patience=patience, callbacks=callbacks, progress=label).checked(least=1)
    check_whole("sweeps", sweeps, 1)
    check_whole("start_sweeps", start_sweeps, 0)
    fitting.check_start(solver, problem, objective, key=key, init=given)
    if isinstance(given, Factors):
        checked_inputs(given, problem, objective, rank=solver.rank, name="init", lead="problem")
    check_choice("method", method, ("unrolled", "adjoint"))
    check_choice("direction", direction, ("auto", "forward", "reverse"))
    tuner = Gradient(1, optimizer, DEFAULTS if hyper is None else hyper)  # static function, traced numbers
    check_hyper(tuner.optimizer, tuner.hyper)
    problem = problem.checked()
    objective.check(problem, solver.rank)
    rule, weights_rule = checks.check_rule(reg, problem), checks.check_weights(weights, problem)
    score = checks.check_score(score, problem)
    others = learned is not None or bool(score.start(problem.dtype))
    names = checks.check_names(over, objective, rule, None if weights is None else weights_rule, others)
    limits = checks.check_limits(box, names, rule)
    unseen = checks.count_unseen(validation, problem, learned)
    dtype = problem.dtype
    learned = checks.check_learned(learned, dtype)
    ranked = score.prepare(validation, problem)
    rule, weights_rule, score = jax.tree.map(
        lambda leaf: jnp.asarray(leaf, None if np.ndim(leaf) else dtype), (rule, weights_rule, score)
    )
    solver, objective, limits = cast(solver, dtype), objective.cast(dtype), cast(limits, dtype)
    held_out = HeldOut.of(validation, dtype)
    plan = Plan(solver, problem, objective, rule, learned, held_out, limits, key, weights_rule, score, ranked)
    parameters = first_parameters(plan, names)
    memory = checks.check_optimizer(tuner, parameters)
    made = checks.check_first_build(plan, parameters, solver.rank)
    size = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    direction = checks.choose_direction(direction, size, problem, solver.rank) if method == "unrolled" else ""

    def evaluate(parameters: Any, factors: Factors, go: bool) -> Evaluation:
        if direction:
            return through_sweeps(plan, parameters, factors, go, int(sweeps), direction)
        return at_stationary_point(plan, parameters, factors, int(sweeps))

    factors = fitting.starting_result(solver, key, *made, given).factors  # of the latest step, not the best
    seconds = 0.0

    def first_fit(now: Tuned) -> Tuned:
        nonlocal factors, seconds
        with warnings.catch_warnings():  # the tuning warns at its end
            warnings.filterwarnings("ignore", MESSAGE)
            begun = fitting.fit(solver, *made, sweeps=int(start_sweeps), key=key, loss_every=0)
        factors, seconds = begun.factors, begun.history.seconds[-1]
        return dataclasses.replace(now, factors=factors, passes=begun.history.passes[-1])

    def compiled(now: Tuned) -> Tuned:
        return dataclasses.replace(now, compile_seconds=_compile(evaluate, parameters, factors, solver))

    def step(now: Tuned) -> Tuned:
        nonlocal parameters, factors, memory, seconds
        started = clock.seconds()
        try:
            seen = evaluate(parameters, factors, True)
        except AdjointError as error:
            raise _failed(now, str(error)) from error
        after, memory = apply_update(tuner, plan, parameters, seen.gradient, memory)
        jax.block_until_ready((seen, after))
        seconds += clock.seconds() - started
        now = _longer(now, plan, names, parameters, seen, seconds)
        parameters = after
        factors = factors if restart else seen.factors
        return now

    def told_to_callbacks(now: Tuned) -> StepProgress:
        return StepProgress(**vars(now.history.last()), steps=asked.most, result=now)

    now = Tuned(made[1], made[0], factors, parameters, Steps(), 0, RUNNING, unseen, score)
    begin = [first_fit] * (given is None and start_sweeps > 0 and not restart) + [compiled] * bool(direction)
    told = functools.partial(told_exhausted, "the descent", smaller(solver, problem), problem)
    result = run_single(lambda: now, asked, step, told_to_callbacks, begin, told)
    warn_if_vanished(result.factors, result.problem, result.objective)
    return result


def _compile(evaluate: Callable, parameters: Any, factors: Factors, solver: Any) -> float:
    """Seconds that it took to compile an evaluation."""
    started = clock.seconds()
    try:
        jax.block_until_ready(evaluate(parameters, factors, False))
    except ValueError as error:
        check_reverse(error, solver)
        raise
    return clock.seconds() - started


def _longer(now: Tuned, plan: Plan, names, parameters: Any, seen: Evaluation, seconds: float) -> Tuned:
    """The result with one more step; raises FitError where that was not finite."""
    step, passes = now.done + 1, now.passes + int(seen.passes)
    if not seen.finite:
        error = float(seen.error)
        what = "its derivative is not finite" if np.isfinite(error) else f"the held-out error is {error}"
        how = "Lower the learning rate, or keep the numbers in a box; with adam as the solver give eps_root > 0."
        raise _failed(now, f"{what}. {how}")
    problem, objective = build_objective_jit(plan, parameters)
    numbers = numbers_of(plan, objective, names)
    of_score = plan.score.numbers(parameters.get("score", {}))
    told = {name: float(number) for name, number in ({name: numbers[name] for name in names} | of_score).items()}
    error, score = float(seen.error), float(seen.score)
    history = now.history.with_record(Step(step, error**0.5, score, passes, seconds, told))
    now = dataclasses.replace(now, history=history, passes=passes)
    if score > min(history.score):
        return now
    best = {"objective": objective, "problem": problem, "factors": seen.factors, "parameters": parameters}
    return dataclasses.replace(now, **best, score=plan.score.with_numbers(of_score), step=step)


def _failed(now: Tuned, what: str) -> FitError:
    return fit_error(now, now.done + 1, what, of="step")

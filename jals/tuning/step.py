"""One step of `jals.tune`: parameters, the objective they make, the held-out error it leads to, and its derivative."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ..derivatives.adjoint import stationary_gradient
from ..errors import ArgumentError
from ..metrics import HeldOut, HeldOutRanking, held_out_error
from ..model.counts import POWERS, WEIGHTS
from ..model.factors import Factors
from ..model.objectives import Objective, entry_counts
from ..model.problem import Problem
from ..solvers.gradient import Gradient
from ..solvers.protocol import cast, mean_value, traits
from .rules import ByDegree, One, mean_log
from .scores import SquaredError

REGS = ("reg_user", "reg_item")
BIAS_REGS = ("reg_bias", "reg_bias_user", "reg_bias_item")
LOGS = (*REGS, *BIAS_REGS, "alpha", "epsilon", "unobserved_weight")  # descended in their logarithm
ROW_WEIGHTS = (*WEIGHTS, "unobserved_user", "unobserved_item")  # in their logarithm: what matters is their ratios
PLAIN = ("reg_power", *POWERS)  # descended in themselves
# Passes of sweeps with their derivative, for each pass without, as in `jals.derivatives.solution.passes`: one for the
# derivative of the equations and one to solve them again; in reverse each sweep is made once more.
TRAVERSALS = {"forward": 3, "reverse": 4}


@functools.partial(jax.tree_util.register_dataclass, data_fields=["parameters"], meta_fields=["build", "penalty"])
@dataclasses.dataclass(frozen=True)
class Learned:
    """Numbers of your own to descend in: prior means made by a network, weights of the entries, anything.

    Attributes:
        parameters: a pytree of real arrays, where the descent starts.
        build: `build(parameters, problem, objective) -> (problem, objective)`, pure and traced: what is to be solved.
            Change the objective with `dataclasses.replace(objective, prior_user=...)`, the table with
            `problem.with_values(values, weight)`; hand back unchanged what stays. `objective` comes with the numbers
            that `over` tunes beside these. Static: pass the same function each time, a fresh lambda compiles again.
        penalty: `penalty(parameters) -> number` to add to the held-out error, or None. Static.
    """

    parameters: Any
    build: Callable[[Any, Problem, Objective], tuple[Problem, Objective]]
    penalty: Callable[[Any], Any] | None = None


class Plan(NamedTuple):
    """All that stays as it is from step to step. `limits` holds (low, high) of names that are kept within; `ranked` is
    what the score has prepared of the validation part.

    `parameters` beside it: {name: those of log lambda and of log weights (see `jals.tuning.rules`), log alpha, log
    epsilon, log unobserved_weight, or reg_power and the powers of n that weigh rows themselves}, "score" with those of
    the score, and "learned".
    """

    solver: Any
    problem: Problem
    objective: Objective
    rule: One
    learned: Learned | None
    held_out: HeldOut
    limits: dict[str, tuple[jax.Array, jax.Array]]
    key: jax.Array
    weights: One = ByDegree()
    score: SquaredError = SquaredError()
    ranked: HeldOutRanking | None = None


class Evaluation(NamedTuple):
    """What is descended at some parameters, and its gradient.

    Attributes:
        error: the held-out error, `()`.
        score: the value of the plan's score, plus penalties.
        gradient: of the score, a tree like the parameters.
        factors: those that the error is of.
        passes: how many it took.
        finite: whether score, gradient and factors are finite.
    """

    error: jax.Array
    score: jax.Array
    gradient: Any
    factors: Factors
    passes: Any
    finite: jax.Array


# ---- from parameters to what is solved ----


def first_parameters(plan: Plan, names: tuple[str, ...]) -> dict[str, Any]:
    """The parameters of the objective as given, within the limits. Not traced: the groups are counted."""
    counts, parameters = _counts(plan), {}
    for name in names:
        value = getattr(plan.objective, name)
        if name in REGS:
            side = name.removeprefix("reg_")
            parameters[name] = plan.rule.start(side, jnp.log(value).mean(), counts[side])
        elif name in ROW_WEIGHTS:
            side = _side(name)
            parameters[name] = plan.weights.start_ratios(side, counts[side])
        else:
            parameters[name] = value if name in PLAIN else jnp.log(value).mean()
    if of_score := plan.score.start(plan.problem.dtype):
        parameters["score"] = of_score
    if plan.learned is not None:
        parameters["learned"] = plan.learned.parameters
    return _within(plan, parameters)


def build_objective(plan: Plan, parameters: dict[str, Any]) -> tuple[Problem, Objective]:
    """The problem and the objective that the parameters make."""
    counts, shifts, numbers = _counts(plan), _shifts(plan, parameters), {}
    for name in plan.objective.__dataclass_fields__.keys() & parameters.keys():
        if name in PLAIN:
            numbers[name] = parameters[name]
            continue
        if name in ROW_WEIGHTS:
            numbers[name] = _weights(plan, name, parameters[name], counts[_side(name)])
            continue
        side = name.removeprefix("reg_")
        logs = plan.rule.logs(parameters[name], side, counts[side]) if name in REGS else parameters[name]
        given = jnp.log(getattr(plan.objective, name))
        ratios = given - given.mean()  # of rows that were given a lambda each; 0 for one number
        numbers[name] = jnp.exp(logs + ratios - shifts[name])
    objective = dataclasses.replace(plan.objective, **numbers)
    if plan.learned is None:
        return plan.problem, objective
    problem, objective = plan.learned.build(parameters["learned"], plan.problem, objective)
    return problem.arrange(), objective.cast(plan.problem.dtype)


build_objective_jit = jax.jit(build_objective)


def _side(name: str) -> str:
    return name.rpartition("_")[2]


def _weights(plan: Plan, name: str, parameters: Any, count: jax.Array) -> jax.Array:
    """Weights of rows whose mean is that of those given, 1 where there are none: over entries for those of entries,
    over rows for those of pairs. Else their level would be a second name for unobserved_weight."""
    given = getattr(plan.objective, name)
    given = jnp.ones_like(count) if given is None else given
    share = jnp.ones_like(count) if name not in WEIGHTS else count
    weight = given * jnp.exp(plan.weights.ratios(parameters, _side(name), count))
    return weight * (jnp.sum(share * given) / jnp.sum(share * weight))


def _counts(plan: Plan) -> dict[str, jax.Array]:
    return dict(zip(("user", "item"), entry_counts(plan.problem), strict=True))


def _shifts(plan: Plan, parameters: dict[str, Any]) -> dict[str, Any]:
    """What is taken from each logarithm to make up for a nu that has moved, so that lambda n^nu stays where log n is at
    its mean. Without it nu and log lambda pull at one number, and a descent zigzags in the valley between them."""
    shifts: dict[str, Any] = dict.fromkeys(LOGS, 0.0)
    if "reg_power" not in parameters:
        return shifts
    others = {"user": plan.problem.num_items, "item": plan.problem.num_users}
    moved = parameters["reg_power"] - plan.objective.reg_power
    counts = _counts(plan)
    start = plan.objective.with_counts((counts["user"], counts["item"]))
    for side, count in counts.items():
        shifts[f"reg_{side}"] = moved * mean_log(count, start.unobserved_mass(side, others[side]))
        shifts[f"reg_bias_{side}"] = shifts[f"reg_{side}"]
    shifts["reg_bias"] = (shifts["reg_user"] + shifts["reg_item"]) / 2
    return shifts


def _within(plan: Plan, parameters: dict[str, Any]) -> dict[str, Any]:
    """The nearest parameters whose numbers are within their limits."""
    moved = dict(parameters)
    for name in sorted(plan.limits, key=lambda name: name != "reg_power"):  # nu first, which shifts the others
        low, high = plan.limits[name]
        if name in PLAIN:
            moved[name] = jnp.clip(moved[name], low, high)
        else:
            shift = _shifts(plan, moved)[name]
            moved[name] = jnp.clip(moved[name], jnp.log(low) + shift, jnp.log(high) + shift)
    return moved


@functools.partial(jax.jit, static_argnames="names")
def numbers_of(plan: Plan, objective: Objective, names: tuple[str, ...]) -> dict[str, jax.Array]:
    """The objective's numbers of these names; of a lambda a row the geometric mean over the rows with entries, of
    weights by row the slope of their logarithm against that of n over the same rows: they go like n to that power."""
    counts, told = _counts(plan), {}
    for name in names:
        value = getattr(objective, name)
        if name in ROW_WEIGHTS:
            count = counts[_side(name)]
            here = (count > 0) & (value > 0)
            value, against = (jnp.log(jnp.where(here, each, 1)) for each in (value, count))
            against = jnp.where(here, against - jnp.mean(against, where=here), 0)
            value = jnp.sum(against * value) / jnp.maximum(jnp.sum(against**2), jnp.finfo(value.dtype).tiny)
        elif jnp.ndim(value):
            value = jnp.exp(jnp.mean(jnp.log(value), where=counts[_side(name)] > 0))
        told[name] = value
    return told


# ---- what is descended, and its derivative ----


def _score(plan: Plan, parameters: dict[str, Any], factors: Factors) -> tuple[jax.Array, jax.Array]:
    """(what is descended, the held-out error) of the factors."""
    _, objective = build_objective(plan, parameters)  # for what an entry's target is
    error = lambda: held_out_error(factors, plan.held_out, objective)  # noqa: E731
    score = plan.score.value(parameters.get("score", {}), factors, plan.ranked, error)
    return score + _penalty(plan, parameters), score if plan.ranked is None else jax.lax.stop_gradient(error())


def _penalty(plan: Plan, parameters: dict[str, Any]) -> Any:
    total = sum(plan.rule.penalty(parameters[name]) for name in REGS if name in parameters)
    total += sum(plan.weights.penalty(parameters[name]) for name in ROW_WEIGHTS if name in parameters)
    if plan.learned is not None and plan.learned.penalty is not None:
        total += plan.learned.penalty(parameters["learned"])
    return total


@functools.partial(jax.jit, static_argnames=("sweeps", "direction"))
def through_sweeps(plan: Plan, parameters: Any, factors: Factors, go: Any, sweeps: int, direction: str) -> Evaluation:
    """The evaluation after `sweeps` sweeps from the factors, which are constants; its gradient is that of these sweeps.
    With `go` False no sweep is made: the call only compiles."""

    def swept(parameters):
        problem, objective = build_objective(plan, parameters)
        state = plan.solver.init(plan.key, problem, objective, _centred(plan, factors, problem))
        sweep = lambda state, _: plan.solver.sweep(state, problem, objective)  # noqa: E731
        state, infos = jax.lax.scan(jax.checkpoint(sweep) if direction == "reverse" else sweep, state, length=sweeps)
        return state.factors, (state.factors, infos.passes.sum() * TRAVERSALS[direction])

    def whole(parameters):
        after, told = swept(parameters)
        score, error = _score(plan, parameters, after)
        return score, (error, *told)

    def work():
        if direction == "reverse":
            (score, told), gradient = jax.value_and_grad(whole, has_aux=True)(parameters)
            error, after, passes = told
        else:
            # Tangents go through the sweeps only. The score, which may look at every pair of user and item, has its
            # gradient taken once, in the factors.
            flat, shaped = ravel_pytree(parameters)
            moved, (after, passes) = jax.jacfwd(lambda flat: swept(shaped(flat)), has_aux=True)(flat)
            look = jax.value_and_grad(functools.partial(_score, plan), (0, 1), has_aux=True)
            (score, error), (gradient, slope) = look(parameters, after)
            through = jax.tree.map(_contract, slope, moved)
            gradient = shaped(ravel_pytree(gradient)[0] + sum(jax.tree.leaves(through)))
        return Evaluation(error, score, gradient, after, passes, _finite((score, gradient, after)))

    def nothing():
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(work))

    return jax.lax.cond(go, work, nothing)


def _contract(slope: jax.Array, moved: jax.Array) -> jax.Array:
    """A leaf's slope `(...)` times its tangents `(..., parameters)`."""
    return jnp.tensordot(slope, moved, slope.ndim, precision=jax.lax.Precision.HIGHEST)


def at_stationary_point(plan: Plan, parameters: Any, factors: Factors, sweeps: int) -> Evaluation:
    """The evaluation at the stationary point near the factors after `sweeps` sweeps, as `jals.adjoint.hypergradient`
    finds it."""
    problem, objective = build_objective_jit(plan, parameters)
    factors, passes = _swept(plan, factors, problem, objective, sweeps)
    value_of = lambda factors, _: _score_jit(plan, parameters, factors)[0]  # noqa: E731
    _, by_number, info = stationary_gradient(value_of, factors, problem, objective)
    (score, error), gradient = _pulled_back(plan, parameters, by_number, info.factors)
    total = passes + info.passes + info.polish_passes
    return Evaluation(error, score, gradient, info.factors, total, _finite((score, gradient)))


_score_jit = jax.jit(_score)


@functools.partial(jax.jit, static_argnames="sweeps")
def _swept(plan: Plan, factors: Factors, problem: Problem, objective: Objective, sweeps: int):
    state = plan.solver.init(plan.key, problem, objective, _centred(plan, factors, problem))
    state, infos = jax.lax.scan(lambda state, _: plan.solver.sweep(state, problem, objective), state, length=sweeps)
    return state.factors, infos.passes.sum()


@jax.jit
def _pulled_back(plan: Plan, parameters: Any, by_number: Any, factors: Factors) -> tuple[Any, Any]:
    """((score, held-out error), the score's gradient) from its derivative in the objective, the values and the weights
    by way of the factors."""

    def numbers(parameters):
        problem, objective = build_objective(plan, parameters)
        return objective, problem.value, problem.weight

    _, pull = jax.vjp(numbers, parameters)
    told, slope = jax.value_and_grad(functools.partial(_score, plan), has_aux=True)(parameters, factors)
    return told, jax.tree.map(jnp.add, pull((by_number.objective, by_number.values, by_number.weight))[0], slope)


def _centred(plan: Plan, factors: Factors, problem: Problem) -> Factors:
    """The factors with the mean of this problem's values, which only learned values and weights move."""
    if plan.learned is None or factors.mean is None:
        return factors
    return dataclasses.replace(factors, mean=mean_value(problem))


def _finite(tree: Any) -> jax.Array:
    return jnp.array([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all()


# ---- the descent ----


def first_memory(tuner: Gradient, parameters: Any) -> Any:
    """The optimizer's state before the first step, its numbers as arrays so that the second step compiles nothing."""
    optimizer = cast(tuner, jax.tree.leaves(parameters)[0].dtype).transformation()
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, leaf.dtype), optimizer.init(parameters))


@jax.jit
def apply_update(tuner: Gradient, plan: Plan, parameters: Any, gradient: Any, memory: Any) -> tuple[Any, Any]:
    """(parameters, optimizer's state) after a step against the gradient."""
    updates, memory = cast(tuner, plan.problem.dtype).transformation().update(gradient, memory, parameters)
    moved: Any = optax.apply_updates(parameters, updates)
    return _within(plan, moved), memory


def check_reverse(error: ValueError, solver: Any) -> None:
    """Raises ArgumentError where jax's complaint is that the solver has a loop without a reverse derivative."""
    if not traits(solver).differentiable or "Reverse-mode differentiation" in str(error):
        raise ArgumentError(
            f"{type(solver).__name__} here loops an unknown number of times and cannot be differentiated in reverse: "
            'with few parameters give direction="forward", else another solver such as jals.ALS.'
        ) from None

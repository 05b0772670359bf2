"""One step of `jals.tune`: parameters, the objective they make, the held-out error it leads to, and its derivative."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from ..data.ratings import Ratings
from ..derivatives.adjoint import hypergradient
from ..errors import ArgumentError
from ..metrics import HeldOut, held_out_error
from ..model.counts import POWERS
from ..model.factors import Factors
from ..model.objectives import Objective, entry_counts
from ..model.problem import Problem
from ..solvers.gradient import Gradient
from ..solvers.protocol import cast, mean_value, traits
from .rules import One, mean_log

REGS = ("reg_user", "reg_item")
BIAS_REGS = ("reg_bias", "reg_bias_user", "reg_bias_item")
LOGS = (*REGS, *BIAS_REGS, "alpha", "epsilon", "unobserved_weight")  # descended in their logarithm
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
    """All that stays as it is from step to step. `limits` holds (low, high) of names that are kept within.

    `parameters` beside it: {name: those of log lambda (see `jals.tuning.rules`), log alpha, log epsilon, log
    unobserved_weight, or reg_power and the powers of n that weigh rows themselves}, and "learned".
    """

    solver: Any
    problem: Problem
    objective: Objective
    rule: One
    learned: Learned | None
    held_out: HeldOut
    limits: dict[str, tuple[jax.Array, jax.Array]]
    key: jax.Array


class Evaluation(NamedTuple):
    """The held-out error at some parameters, and its gradient.

    Attributes:
        error: the held-out error, `()`.
        score: error plus penalties.
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
        else:
            parameters[name] = value if name in PLAIN else jnp.log(value).mean()
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
    """The objective's numbers of these names; of a lambda a row the geometric mean over the rows with entries."""
    counts, told = _counts(plan), {}
    for name in names:
        value = getattr(objective, name)
        if jnp.ndim(value):
            value = jnp.exp(jnp.mean(jnp.log(value), where=counts[name.rpartition("_")[2]] > 0))
        told[name] = value
    return told


# ---- held-out error and derivative ----


def _penalty(plan: Plan, parameters: dict[str, Any]) -> Any:
    total = sum(plan.rule.penalty(parameters[name]) for name in REGS if name in parameters)
    if plan.learned is not None and plan.learned.penalty is not None:
        total += plan.learned.penalty(parameters["learned"])
    return total


@functools.partial(jax.jit, static_argnames=("sweeps", "direction"))
def through_sweeps(plan: Plan, parameters: Any, factors: Factors, go: Any, sweeps: int, direction: str) -> Evaluation:
    """The evaluation after `sweeps` sweeps from the factors, which are constants; its gradient is that of these sweeps.
    With `go` False no sweep is made: the call only compiles."""

    def score_of(parameters):
        problem, objective = build_objective(plan, parameters)
        state = plan.solver.init(plan.key, problem, objective, _centred(plan, factors, problem))
        sweep = lambda state, _: plan.solver.sweep(state, problem, objective)  # noqa: E731
        state, infos = jax.lax.scan(jax.checkpoint(sweep) if direction == "reverse" else sweep, state, length=sweeps)
        error = held_out_error(state.factors, plan.held_out, objective)
        passes = infos.passes.sum() * TRAVERSALS[direction]
        return error + _penalty(plan, parameters), (error, state.factors, passes)

    def work():
        if direction == "reverse":
            (score, told), gradient = jax.value_and_grad(score_of, has_aux=True)(parameters)
        else:
            flat, shaped = ravel_pytree(parameters)

            def both(flat):
                score, told = score_of(shaped(flat))
                return score, (score, told)

            gradient, (score, told) = jax.jacfwd(both, has_aux=True)(flat)
            gradient = shaped(gradient)
        error, after, passes = told
        return Evaluation(error, score, gradient, after, passes, _finite((score, gradient, after)))

    def nothing():
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(work))

    return jax.lax.cond(go, work, nothing)


def at_stationary_point(plan: Plan, parameters: Any, factors: Factors, sweeps: int, validation: Ratings) -> Evaluation:
    """The evaluation at the stationary point near the factors after `sweeps` sweeps: `jals.adjoint.hypergradient`."""
    problem, objective = build_objective_jit(plan, parameters)
    factors, passes = _swept(plan, factors, problem, objective, sweeps)
    error, by_number, info = hypergradient(validation, factors, problem, objective)
    score, gradient = _pulled_back(plan, parameters, by_number, error)
    total = passes + info.passes + info.polish_passes
    return Evaluation(jnp.asarray(error), score, gradient, info.factors, total, _finite((score, gradient)))


@functools.partial(jax.jit, static_argnames="sweeps")
def _swept(plan: Plan, factors: Factors, problem: Problem, objective: Objective, sweeps: int):
    state = plan.solver.init(plan.key, problem, objective, _centred(plan, factors, problem))
    state, infos = jax.lax.scan(lambda state, _: plan.solver.sweep(state, problem, objective), state, length=sweeps)
    return state.factors, infos.passes.sum()


@jax.jit
def _pulled_back(plan: Plan, parameters: Any, by_number: Any, error: Any) -> tuple[jax.Array, Any]:
    """(score, its gradient) from the error's derivative in the objective, the values and the weights."""

    def numbers(parameters):
        problem, objective = build_objective(plan, parameters)
        return objective, problem.value, problem.weight

    _, pull = jax.vjp(numbers, parameters)
    penalty, slope = jax.value_and_grad(lambda parameters: error + _penalty(plan, parameters))(parameters)
    return penalty, jax.tree.map(jnp.add, pull((by_number.objective, by_number.values, by_number.weight))[0], slope)


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

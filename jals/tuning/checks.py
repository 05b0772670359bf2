"""Checks of the arguments of `jals.tune`: which numbers it may tune, from what start, within which bounds."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax

from ..data.ratings import Ratings
from ..errors import ArgumentError, did_you_mean
from ..model.counts import WEIGHTS, entry_counts
from ..model.objectives import Objective
from ..model.problem import Problem
from ..solvers.gradient import Gradient
from ..solvers.protocol import cast
from .rules import ByDegree, Groups, One
from .scores import SquaredError
from .step import BIAS_REGS, LOGS, PLAIN, REGS, ROW_WEIGHTS, Learned, Plan, build_objective_jit, first_memory

NUMBERS = (*REGS, *BIAS_REGS, *PLAIN, *(name for name in LOGS if name not in (*REGS, *BIAS_REGS)))
_FORWARD_PAYS = 8  # parameters up to which tangents take less time than reverse mode
_FORWARD_MOST = 1_000  # parameters above which tangents are refused: each is a copy of all factors


def check_rule(reg: Any, problem: Problem) -> One:
    if isinstance(reg, str) and reg == "one":
        return One()
    if not isinstance(reg, One):
        kinds = 'Groups(user=ids, item=ids), ByDegree(degree=1), PerRow(shrinkage=0.01) of jals.tuning, or "one"'
        raise ArgumentError(f"reg is {reg!r}, but must say how lambda varies over the rows: {kinds}.")
    reg.check(problem)
    return reg


def check_weights(weights: Any, problem: Problem) -> One:
    if weights is None:
        return ByDegree()
    if not isinstance(weights, One) or type(weights) is One:
        kinds = "Groups(user=ids, item=ids), ByDegree(degree=1), PerRow(shrinkage=0.01) of jals.tuning"
        raise ArgumentError(f"weights is {weights!r}, but must say how weights vary over the rows: {kinds}.")
    weights.check(problem)
    return weights


def check_score(score: Any, problem: Problem) -> SquaredError:
    if score is None:
        return SquaredError()
    if not isinstance(score, SquaredError):
        kinds = "jals.tuning.Softmax(), SmoothNDCG(), or None for the held-out squared error"
        raise ArgumentError(f"score is {score!r}, but must say what is to be descended: {kinds}.")
    score.check(problem)
    return score


def check_names(over: Any, objective: Objective, rule: One, weights: One | None, others: bool) -> tuple[str, ...]:
    """The objective's numbers to descend in, checked. `weights`: the rule for those by row, where one was given;
    `others`: whether there is anything else to descend in."""
    present = [name for name in NUMBERS if getattr(objective, name) is not None]
    by_row = [name for name in ROW_WEIGHTS if name in WEIGHTS or objective.unobserved_weight is not None]
    if over is None:
        skipped = isinstance(rule, ByDegree) or not np.asarray(objective.reg_power) > 0
        names = [name for name in present if not (name == "reg_power" and skipped)]
    else:
        names = [over] if isinstance(over, str) else list(over)
    for name in names:
        if name in ("prior_user", "prior_item"):
            raise ArgumentError(f"over has {name!r}: prior means are tuned by learned=jals.tuning.Learned(...).")
        if name in by_row:
            side = name.rpartition("_")[2]
            if isinstance(weights, Groups) and getattr(weights, side) is None:
                raise ArgumentError(f"over has {name!r}, but weights has no groups of {side}s: give {side}=ids.")
            continue
        if name in ROW_WEIGHTS:
            raise ArgumentError(f"over has {name!r}, but this objective has no sum over all pairs to weigh.")
        if name not in NUMBERS:
            of_form = getattr(objective, "__dataclass_fields__", {}).keys() | {"rank", "linsolve", "sweeps", "layout"}
            if name in of_form:
                raise ArgumentError(
                    f"over has {name!r}, which is a size or a form without a derivative: compare its values by a grid."
                )
            known = [*present, *by_row]
            hint = did_you_mean(name, known)
            raise ArgumentError(f"over has {name!r}, but this objective has {', '.join(known)}.{hint}")
        if name not in present:
            raise ArgumentError(f"over has {name!r}, but this objective has none: it has {', '.join(present)}.")
        numbers = np.asarray(getattr(objective, name))
        if name in LOGS and (numbers <= 0).any():
            row = f" in row {int(np.argmax(numbers <= 0))}" if numbers.ndim else ""
            raise ArgumentError(
                f"{name} is 0{row}, and tune descends its logarithm, which 0 has none: start it above 0, however "
                f'small, or leave it out by over=("{next((each for each in present if each != name), "")}", ...).'
            )
    if weights is not None and not {*by_row} & {*names}:
        known = ", ".join(by_row)
        raise ArgumentError(f"weights says how weights vary over the rows, but over names none of them: {known}.")
    if not names and not others:
        raise ArgumentError("nothing is to be tuned: name numbers of the objective in over, or give learned.")
    return tuple(name for name in (*NUMBERS, *ROW_WEIGHTS) if name in names)


def check_limits(box: Any, names: tuple[str, ...], rule: One) -> dict[str, tuple[Any, Any]]:
    limits: dict[str, tuple[Any, Any]] = {"reg_power": (0.0, np.inf)} if "reg_power" in names else {}
    for name, pair in (box or {}).items():
        if name not in names:
            hint = did_you_mean(name, names)
            raise ArgumentError(f"box has {name!r}, but what is tuned is {', '.join(names)}.{hint}")
        if name in REGS and type(rule) is not One:
            raise ArgumentError(f'box has {name!r}, but bounds one number: leave it out, or use reg="one".')
        if name in ROW_WEIGHTS:
            raise ArgumentError(f"box has {name!r}, but bounds one number: weights by row are none. Leave it out.")
        low, high = pair if isinstance(pair, Sequence) and len(pair) == 2 else (np.nan, np.nan)
        least = {"reg_power": ">= 0"}.get(name, "<= high" if name in PLAIN else "> 0")
        if not (low <= high and (low > 0 or (name in PLAIN and (low == 0 or name != "reg_power")))):
            raise ArgumentError(f"box[{name!r}] is {pair!r}, but must be a pair (low, high) with low {least}.")
        limits[name] = (low, high)
    return limits


def count_unseen(validation: Any, problem: Problem, learned: Learned | None) -> int:
    """How many validation entries are of a user or item without training entries; raises where none can be used."""
    if not isinstance(validation, Ratings):
        raise ArgumentError(f"validation is of type {type(validation).__name__}: give one part of a split.")
    for side, rows in (("user", problem.num_users), ("item", problem.num_items)):
        ids = getattr(validation, side)
        wrong = (ids < 0) | (ids >= rows)
        if wrong.any():
            at = int(np.argmax(wrong))
            raise ArgumentError(
                f"{side} of validation entry {at} is {ids[at]}, but the training table has {rows:,} {side}s: split one "
                "table, or give both the same num_users and num_items."
            )
    weight = np.ones(len(validation)) if validation.weight is None else validation.weight
    if not (weight > 0).any():
        raise ArgumentError("every validation entry has weight 0: there is no held-out error to descend.")
    users, items = (np.asarray(count) for count in entry_counts(problem))
    cold = ((users[validation.user] == 0) | (items[validation.item] == 0)) & (weight > 0)
    unseen = int(cold.sum())
    if unseen and learned is None:
        if unseen == (weight > 0).sum():
            raise ArgumentError(
                "every validation entry is of a user or an item without training entries: no lambda changes its "
                "prediction. Split the table so that rows keep entries (jals.split.random)."
            )
        warnings.warn(
            f"{unseen:,} of {len(validation):,} validation entries are of a user or an item without training entries: "
            "predicted by prior mean and the other's bias, they say little about lambda.",
            stacklevel=3,
        )
    return unseen


def check_learned(learned: Any, dtype: Any) -> Learned | None:
    if learned is None:
        return None
    if not isinstance(learned, Learned):
        kind = type(learned).__name__
        raise ArgumentError(f"learned is of type {kind}: give jals.tuning.Learned(parameters, build).")
    for path, leaf in jax.tree_util.tree_leaves_with_path(learned.parameters):
        real = isinstance(leaf, (float, np.ndarray, np.floating, jax.Array))
        if not (real and jax.dtypes.issubdtype(np.asarray(leaf).dtype, np.floating)):
            raise ArgumentError(
                f"learned.parameters{jax.tree_util.keystr(path)} is {leaf!r}, which cannot be descended in: real "
                "arrays only. Keep sizes and choices in build."
            )
    return dataclasses.replace(learned, parameters=cast(learned.parameters, dtype))


def check_first_build(plan: Plan, parameters: Any, rank: int) -> tuple[Problem, Objective]:
    """What the first parameters make, checked."""
    if plan.learned is not None:
        made = jax.eval_shape(plan.learned.build, plan.learned.parameters, plan.problem, plan.objective)
        if not (isinstance(made, tuple) and [type(part) for part in made] == [Problem, Objective]):
            raise ArgumentError("learned.build must return (problem, objective), both, changed or not.")
    problem, objective = build_objective_jit(plan, parameters)
    problem.check()
    objective.check(problem, rank)
    return problem, objective


def check_optimizer(tuner: Gradient, parameters: Any) -> Any:
    """The optimizer's state before the first step."""
    memory = first_memory(tuner, parameters)
    if optax.tree.get(memory, "num_linesearch_steps") is not None or _wants_more(tuner, parameters, memory):
        raise ArgumentError(
            "optimizer has a line search, each evaluation of which would make a step's sweeps: use one that needs a "
            "gradient only, such as optax.adam or optax.sgd."
        )
    return memory


def _wants_more(tuner: Gradient, parameters: Any, memory: Any) -> bool:
    """Whether the optimizer's update asks for more than a gradient."""
    try:
        jax.eval_shape(lambda grad, memory: tuner.transformation().update(grad, memory, grad), parameters, memory)
    except TypeError:
        return True
    return False


def choose_direction(direction: str, size: int, problem: Problem, rank: int) -> str:
    if direction == "auto":
        return "forward" if size <= _FORWARD_PAYS else "reverse"
    if direction == "forward" and size > _FORWARD_MOST:
        tangents = size * (problem.num_users + problem.num_items) * rank * problem.dtype.itemsize
        raise ArgumentError(
            f'direction="forward" carries a tangent of all factors for each of {size:,} parameters, '
            f'{tangents / 2**30:,.1f} GiB of them: use direction="reverse" (or "auto"), whose cost does not grow with '
            "the parameters, or fewer parameters (ByDegree, Groups)."
        )
    return direction

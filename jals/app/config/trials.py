"""Checks of a [tune] table: grids with equally many points a range, solvers that can be differentiated; and which of
its ranges go by the logarithm."""

from ...model.counts import POWERS
from ...solvers.protocol import traits
from .solvers import Solver

_SIGNED = (*(f"objective.{name}" for name in POWERS), "score.item_power")


def is_signed(key: str) -> bool:
    """Whether a key's number may have either sign: its range is gone through evenly, others by their logarithm."""
    return key in _SIGNED


def points_of_range(trials: int, ranges: int) -> int:
    """How many points a grid of so many trials has in each of its ranges; 0 where it does not come out even."""
    points = round(trials ** (1 / ranges))
    return points if points > 1 and points**ranges == trials else 0


def uneven_grid(trials: int, ranges: int, solver: str) -> str:
    """What is wrong with the number of trials of a grid that does not come out even."""
    below = int(trials ** (1 / ranges))
    near = " or ".join(f"{points**ranges:,} ({points} each)" for points in (below, below + 1) if points > 1)
    return f"is {trials:,}, but each of the {ranges} ranges of solver {solver} has as many points: take {near}."


def why_no_descent(solver: Solver) -> str | None:
    """Why the sweeps of a solver cannot be differentiated, or None where they can."""
    if traits(solver.build()).differentiable:
        return None
    _, name = solver.method
    how = 'Take "als", or an optimizer without a line search; or method = "random" or "grid" in [tune]'
    return f'is "{name}", whose sweeps are loops of unknown length, which have no derivative. {how}.'

"""What was tuned, what was not, and which contestant that puts at a disadvantage."""

from collections.abc import Iterator
from typing import Any

from . import table
from .competitors import ComparedFit, Comparison, as_text, short
from .words import brief, counted, joined

_STEPS = ("learning_rate", "init_value")  # how long an optimizer's steps are: as given they rarely suit a table
_SHARED = ("objective.", "score.")  # keys of numbers that are no solver's own


def tuning(comparison: Comparison, run: int) -> dict:
    """The [tune] of a run, {} where it has none."""
    return comparison.runs[run].config.get("tune") or {}


def choices(comparison: Comparison) -> dict[tuple, list[float]]:
    """{(solver, point, fold, number): values chosen}, seeds together."""
    found: dict[tuple, dict[float, None]] = {}
    for fit in comparison.fits:
        for key, value in fit.record.tuned.items():
            found.setdefault((fit.name, fit.point, fit.fold, key), {})[value] = None
    return {which: list(values) for which, values in found.items()}


def drawn_from(comparison: Comparison, name: str, key: str) -> tuple[float, float] | None:
    """The range of a tuned number of a solver."""
    fit = next(fit for fit in comparison.fits + comparison.trials if fit.name == name)
    ranges = tuning(comparison, fit.run).get("range", {})
    for whole in (f"solver.{fit.record.solver}.{key}", f"solver.*.{key}", f"solver.{key}", key):
        if whole in ranges:
            low, high = ranges[whole]
            return low, high
    return None


def as_given(comparison: Comparison, fit: ComparedFit) -> dict[str, float]:
    """The numbers of a fit's solver that decide whether it works, and were neither tuned nor an axis of the grid: the
    steps of an optimizer, and the numbers of a solver that is not jals's own."""
    moved = {key.removeprefix(f"solver.{fit.record.solver}.").removeprefix("solver.*.") for key in fit.record.point}
    found = dict(_numbers(comparison.solver(fit)))
    return {key: value for key, value in found.items() if key not in fit.record.tuned and key not in moved}


def _numbers(solver: dict[str, Any]) -> Iterator[tuple[str, float]]:
    def inside(values: dict[str, Any], path: str) -> Iterator[tuple[str, float]]:
        for key, value in values.items():
            if isinstance(value, dict):
                yield from inside(value, f"{path}{key}.")
            elif key in _STEPS and isinstance(value, int | float):
                yield f"{path}{key}", value

    yield from inside(solver.get("hyper") or {}, "hyper.")
    if ":" in solver.get("kind", ""):
        yield from ((key, value) for key, value in solver.items() if isinstance(value, float) and key != "init_scale")


def handicap(comparison: Comparison, fits: list[ComparedFit], winner: list[ComparedFit]) -> str:
    """Why a contestant may have done worse than it can, or "": a number of its own that nobody tuned, one that was
    tuned for the winner only, or one chosen at the edge of its range."""
    given = {key: value for fit in fits for key, value in as_given(comparison, fit).items()}
    if given:
        return f"{_listed(given)} was not tuned"
    own, others = ({key for fit in some for key in fit.record.tuned} for some in (fits, winner))
    only = [short(key) for key in sorted(others - own) if key.startswith(_SHARED)]
    if only:
        return f"{joined(only)} was not tuned, though the leader's was"
    edges = {}
    for fit in fits:
        for key, value in fit.record.tuned.items():
            drawn = drawn_from(comparison, fit.name, key)
            if drawn and table.at_edge(key, value, *drawn):
                edges.setdefault(short(key), f"{brief(value)} of {brief(drawn[0])} to {brief(drawn[1])}")
    chosen = "was chosen at the edge of its range"
    return joined([f"{key} {chosen} ({where}), and the best may lie beyond" for key, where in edges.items()])


def sentence(comparison: Comparison) -> str:
    """What was tuned, by what and with how many trials, and what stood as given."""
    said, given = [], {}
    groups: dict[str, list[ComparedFit]] = {}
    for fit in comparison.fits:
        groups.setdefault(fit.name, []).append(fit)
    for name, fits in groups.items():
        keys = list(dict.fromkeys(short(key) for fit in fits for key in fit.record.tuned))
        if keys:
            said.append((f"{joined(keys)} of {name}", _effort(comparison, name)))
        for key, value in as_given(comparison, fits[0]).items():
            given[f"{short(key)} {as_text(value)} of {name}"] = None
    parts = []
    for effort in dict.fromkeys(effort for _, effort in said):
        parts.append(f"{joined([what for what, each in said if each == effort])} {effort}")
    tuned = f"tuned: {'; '.join(parts)}" if parts else "nothing was tuned"
    moved = {key for fit in comparison.fits for key in (*fit.record.tuned, *fit.record.point)}
    if not any(key.startswith("objective.") and key != "objective.preset" for key in moved):
        given["the numbers of the objective"] = None
    return tuned + (f"; as given, not tuned: {joined(list(given))}" if given else "")


def _effort(comparison: Comparison, name: str) -> str:
    """by 8 trials each on the validation part"""
    trials = [fit for fit in comparison.trials if fit.name == name]
    first = [fit for fit in trials if (fit.point, fit.fold) == (trials[0].point, trials[0].fold)]
    made = sum(fit.record.descent.steps if fit.record.descent else 1 for fit in first)
    if not made:
        return "elsewhere"
    what = "step" if first[0].record.descent else "trial"
    part = tuning(comparison, trials[0].run).get("metric", "validation")
    each = " each" if len(trials) > len(first) else ""
    return f"by {counted(made, what)}{each} on the {'validation part' if part == 'validation' else 'training loss'}"


def _listed(given: dict[str, float]) -> str:
    return joined([f"{short(key)} {as_text(value)}" for key, value in given.items()])

"""The sections of a report: what each has to say, where it has anything to say."""

import collections
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from ....metrics import spelt
from ..page import plots
from ..page.gallery import PageFigure
from . import figures, reaching
from .competitors import COSTS, ComparedFit, Comparison
from .words import (
    Cell,
    Pictures,
    Section,
    Text,
    capital,
    counted,
    joined,
    make_table,
    number,
    share,
)

AXES = {
    "seconds": "seconds of solver work",
    "passes": "passes over the entries",
    "operations": "floating point operations (estimated)",
}
_PANELS = 4  # points with curves of their own
_SPELT = 6  # solvers in a caption
_EXCESS = "(L − L_best) / L_best"


def curves(comparison: Comparison) -> Iterator[Section]:
    costs = _measured(comparison)
    points = comparison.points if len(comparison.points) <= _PANELS else comparison.points[:1]
    blocks = []
    panels = {cost: {point: _panels(comparison, point, cost) for point in points} for cost in costs}
    for point in points:
        shown = [_progress(comparison, point, cost, panels[cost]) for cost in costs]
        shown = [one for one in shown if one]
        if shown:
            title = comparison.title(point)
            blocks += [Text(capital(title), 3)] if len(points) > 1 else []
            blocks.append(Pictures(shown))
    if not blocks:
        return
    words = ["Cost and excess loss are on logarithmic axes; a start at cost 0 lies left of them."]
    if len(comparison.fits) > len({(fit.point, fit.name) for fit in comparison.fits}):
        words[0] += (
            " Thick: the median of a solver's fits at equal cost, one that has stopped keeping its last value; thin: "
            "its single fits, or where they are many the band from the lowest to the highest."
        )
    if any(fit.broken for fit in comparison.fits):
        words[0] += " × is where a fit broke down (a median leaves it out)."
    if len(reaching.lowest(comparison)):
        words.append(f"Excess loss is {_EXCESS}. {_of_best(comparison)}")
    if any(fit.record.history.validation is not None for fit in comparison.fits):
        words.append(
            "What is measured along the way is of the validation part. The test part is touched once, at the end."
        )
    if len(points) < len(comparison.points):
        title = comparison.title(points[0])
        words.append(f"Only the first of {len(comparison.points)} points is drawn: {title}.")
    words += _left_out(comparison)
    yield Section("curves", f"{capital(joined(_measured_along(comparison)))} by cost", [*map(Text, words), *blocks])


def _measured_along(comparison: Comparison) -> list[str]:
    """Of loss and validation, what the fits recorded on their way."""
    found = {"loss": bool(reaching.lowest(comparison))}
    found["validation"] = any(fit.record.history.validation is not None for fit in comparison.fits)
    return [name for name, there in found.items() if there]


def _of_best(comparison: Comparison) -> str:
    """What L_best is."""
    solved = comparison.references
    own = reaching.unreferenced(comparison)
    told = []
    if solved:
        worst = max(each.stationarity for each in solved.values())
        short = sum(not each.reached for each in solved.values())
        told.append(
            "L_best is no contestant's: it is the loss of the minimum that the best fit was on its way to, solved for "
            f"by {joined(sorted({each.solver for each in solved.values()}))} from its factors in float64, to "
            f"stationarity {number(worst, 2)} or less. The loss has other minima: that one is below every curve here."
        )
        some = f"On {short} of {len(solved)} problems"
        told += [f"{some} the sweeps of that solve ended before it was there."] if short else []
    if own:
        some = f"On {len(own)} of {len(reaching.lowest(comparison))} problems L_best" if solved else "L_best"
        told.append(
            f"{some} is the lowest loss that any contestant reached on the same data, objective, rank and fold, not a "
            "minimum: the fit that reached it ends at 0, below the axis, and sets the goal that it is measured by. "
            "`jals report RUN --reference` solves for the minimum."
        )
    return " ".join(told)


def _left_out(comparison: Comparison) -> list[str]:
    left = len(comparison.names) - len(comparison.drawn)
    return [f"Figures show {len(comparison.drawn)} of {len(comparison.names)} solvers and variants."] if left else []


def _measured(comparison: Comparison) -> list[str]:
    return [cost for cost in COSTS if any(fit.column(cost) is not None for fit in comparison.fits)]


def _panels(comparison: Comparison, point: tuple, cost: str) -> figures.Panels:
    """Excess loss above the validation metric, against one cost."""
    least, panels = reaching.lowest(comparison), []
    watched = f"validation {spelt(comparison.watched)}" if comparison.watched else "validation metric"
    for name, label in (("loss", f"excess loss {_EXCESS}"), ("validation", watched)):
        made = []
        for place, solver in enumerate(comparison.drawn):
            fits = [fit for fit in comparison.fits if fit.point == point and fit.name == solver]
            curve = _curve(solver, place, fits, cost, name, least)
            if curve:
                made.append(curve)
        if made:
            panels.append((label, made))
    return panels


def _progress(
    comparison: Comparison, point: tuple, cost: str, panels: dict[tuple, figures.Panels]
) -> PageFigure | None:
    """The panels of a point, with the axes of all points."""
    ends = collections.defaultdict(list)
    for label, shown in panels[point]:
        for curve in shown:
            if curve.singles:
                ends[curve.label].append(f"{label.partition(' (')[0]} {_span([y[-1] for _, y in curve.singles])}")
    if not panels[point]:
        return None
    words = []
    for solver, its in list(ends.items())[:_SPELT]:
        whole = [fit for fit in comparison.fits if fit.point == point and fit.name == solver and not fit.broken]
        spent = [each for fit in whole if (each := fit.cost(cost)) is not None]
        words.append(f"{solver} after {number(float(np.median(spent)), 3)}: {', '.join(its)}")
    if len(ends) > _SPELT:
        words.append(f"the other {len(ends) - _SPELT} in the table of results")
    said = f"Against {AXES[cost]}. Ends, median (lowest to highest): {'; '.join(words) or 'every fit broke down'}."
    title, drawn = comparison.title(point), (panels[point], AXES[cost], list(panels.values()))
    return pictured(f"curves-{cost}", f"{title}. {said}" if title else said, said, figures.curves, *drawn)


def _curve(label: str, place: int, fits: list[ComparedFit], cost: str, name: str, least: dict) -> figures.Curve | None:
    singles, broken = [], []
    for fit in fits:
        x, y = fit.column(cost), fit.column(name)
        if x is None or y is None or (name == "loss" and not (fit.comparable and fit.problem in least)):
            continue
        if name == "loss":
            y = (y - least[fit.problem]) / abs(least[fit.problem])
        good = np.isfinite(x) & np.isfinite(y) & (x > 0)
        if good.any():
            (broken if fit.broken else singles).append((x[good], y[good]))
    if not singles and not broken:
        return None
    return figures.Curve(label, place, singles, _middle(singles) if singles else None, broken)


def _middle(lines: list[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The median line, at the median cost of every record."""
    if len(lines) == 1:
        return lines[0]
    longest = max(len(x) for x, _ in lines)
    x = np.array([np.median([own[record] for own, _ in lines if len(own) > record]) for record in range(longest)])
    x = np.unique(np.maximum.accumulate(x))
    return x, np.median([figures.held(x, *line) for line in lines], axis=0)


def profiles(comparison: Comparison) -> Iterator[Section]:
    goals = {
        goal: [cost for cost in _measured(comparison) if reaching.costs(comparison, cost, reaching.NEAR[0], goal)]
        for goal in reaching.GOALS
    }
    if not any(goals.values()):
        return
    near, shown = [share(within) for within in reaching.NEAR], []
    problems = reaching.costs(comparison, goals["loss"][0], reaching.NEAR[0]) if goals["loss"] else {}
    for cost in goals["loss"] if len({which for which, _ in problems}) > 1 else ():  # seeds are no other problems
        found = reaching.profiles(comparison, cost)
        drawn = {each.name: each for each in found if each.name in comparison.drawn}
        lines = [(name, comparison.drawn.index(name), each.ratio, each.share) for name, each in drawn.items()]
        ends = []
        for each in found:
            first = int(np.searchsorted(each.ratio, 1, side="right"))
            ends.append(f"{each.name} cheapest on {first}, there on {len(each.ratio)} of {each.problems}")
        said = f"By {cost}, within {near[0]} of the lowest loss: {'; '.join(ends)}."
        shown.append(pictured(f"profile-{cost}", f"Performance profile. {said}", said, figures.profile, lines, cost))
    blocks: list[Any] = [Pictures(shown)] if shown else []
    for goal, costs in goals.items():
        reached = {
            f"{cost} to {share(within)}": reaching.reached(comparison, cost, within, goal)
            for cost in costs
            for within in reaching.NEAR
        }
        cells = [
            [Cell(name), *(_reached(of.get(name)) for of in reached.values())]
            for name in comparison.names
            if any(name in of for of in reached.values())
        ]
        if cells:
            blocks.append(Text(f"To the {'lowest' if goal == 'loss' else 'best'} {reaching.said(comparison, goal)}", 3))
            blocks.append(make_table(["solver:", *reached], cells, "Costs"))
    words = [
        "A problem is one table, objective, rank, point, fold and seed on which two solvers or more ran"
        + (f"; here are {len(problems)}. " if problems else ". ")
        + "A solver's cost is what it had spent at the first record that is so close to the best; one that broke down "
        "never gets there. The tables have medians over problems, a problem never reached counting as infinite; where "
        "the median is, “never” says on how many."
    ]
    if goals["loss"]:
        words.append("The lowest loss is L_best, as above.")
    if goals["validation"]:
        words.append(
            f"The best {reaching.said(comparison, 'validation')} is the best that any of them recorded on the same "
            "validation part and point: a solver that turns back from it has been there all the same."
        )
    if shown:
        words.append(
            f"The profile (Dolan and Moré, 2002) shows, for each τ, the share of problems on which a solver's cost to "
            f"{near[0]} is at most τ times that of the best solver on that problem: at τ = 1 how often it is the "
            "cheapest, at the right how often it arrives at all."
        )
    yield Section("profile", "Cost to come close to the best", [*map(Text, words), *blocks])


def _reached(of: reaching.Reached | None) -> Cell:
    if of is None:
        return Cell("–")
    never = f"({of.never} of {of.problems})"
    if np.isinf(of.median):
        return Cell("never", never)
    return Cell(number(of.median, 3), f"never {never}" if of.never else "")


def stationarity(comparison: Comparison) -> Iterator[Section]:
    found = collections.defaultdict(list)
    for fit in comparison.fits:
        if fit.stationarity is not None and not fit.broken:
            found[fit.name].append(fit.stationarity)
    lines = [(name, place, np.array(found[name])) for place, name in enumerate(comparison.drawn) if name in found]
    if sum(len(values) for *_, values in lines) < 2:  # the table of results has it
        return
    said = "; ".join(f"{name} {_span(values)} ({counted(len(values), 'fit')})" for name, _, values in lines)
    said = f"Median (lowest to highest) stationarity: {said}."
    words = [
        "Stationarity is half the norm of the loss's gradient, divided by the size of the terms of the normal "
        "equations, at the factors each fit ended with: 0 at a stationary point. It is measured alike for all solvers."
    ]
    shown = pictured("stationarity", f"A dot a fit. {said}", said, figures.stationarity, lines)
    yield Section("stationarity", "How converged the fits are", [*map(Text, words), Pictures([shown])])


def trouble(comparison: Comparison) -> Iterator[Section]:
    """Fits that broke down, certificates that failed, fits that did not end."""
    cells = []
    for fit in comparison.fits + comparison.unfinished:
        proof, error = fit.record.certificate, fit.record.error
        what = []
        if fit in comparison.unfinished:
            what.append(f"not finished: {fit.record.reason}")
        elif fit.broken:
            what.append(error.message if error else fit.record.reason)
        if proof and (worst := proof.refused()) is not None:
            what.append(f"certificate failed: backward error {number(worst, 2)}, bound {number(proof.bound, 2)}")
        if proof and proof.unjudged:
            what.append(f"certificate: {proof.unjudged:,} backward errors that the dtype cannot judge")
        if what:
            sweep = error.sweep if error else fit.record.sweeps
            point, fold = comparison.title(fit.point), "" if fit.fold is None else str(fit.fold)
            cells.append([*map(Cell, (fit.name, point, fold, str(fit.seed), str(sweep), "; ".join(what)))])
    if cells:
        columns = ["solver:", "point:", "fold", "seed", "sweep", "what:"]
        yield Section("trouble", "Fits with trouble", [make_table(columns, cells, "Fits with trouble")])


def _span(values: list[float] | np.ndarray) -> str:
    middle, low, high = np.median(values), np.min(values), np.max(values)
    return number(middle, 3) if low == high else f"{number(middle, 3)} ({number(low, 3)} to {number(high, 3)})"


def pictured(name: str, alt: str, caption: str, draw, *arguments) -> PageFigure:
    """A picture that `draw` makes of its arguments, in a file of this name."""
    return PageFigure(re.sub(r"\W+", "-", name), alt, caption, plots.picture(draw, *arguments, pixels=False))

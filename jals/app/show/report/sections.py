"""The sections of a report: what each has to say, where it has anything to say."""

import collections
import re
from collections.abc import Iterator

import numpy as np

from ....metrics import spelt
from ..page import plots
from ..page.gallery import PageFigure
from . import figures, table
from .competitors import COSTS, ComparedFit, Comparison
from .words import (
    Cell,
    Pictures,
    Section,
    Text,
    counted,
    make_table,
    number,
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
    for point in points:
        shown = [_progress(comparison, point, cost) for cost in costs]
        shown = [one for one in shown if one]
        if shown:
            title = comparison.title(point)
            blocks += [Text(title[:1].upper() + title[1:], 3)] if len(points) > 1 else []
            blocks.append(Pictures(shown))
    if not blocks:
        return
    words = [
        "Cost and excess loss are on logarithmic axes; a start at cost 0 lies left of them. Thick: the median of a "
        "solver's fits at equal cost, one that has stopped keeping its last value; thin: its single fits, or where "
        "they are many the band from the lowest to the highest. × is where a fit broke down (the median leaves it out)."
    ]
    if len(table.lowest(comparison)):
        words.append(
            f"Excess loss is {_EXCESS}, L_best the lowest loss that any fit of the table reached on the same data, "
            "objective, rank and fold. The fit that reached it ends at 0, below the axis."
        )
    if any(fit.record.history.validation is not None for fit in comparison.fits):
        words.append(
            "What is measured along the way is of the validation part. The test part is touched once, at the end."
        )
    if len(points) < len(comparison.points):
        title = comparison.title(points[0])
        words.append(f"Only the first of {len(comparison.points)} points is drawn: {title}.")
    words += _left_out(comparison)
    yield Section("curves", "Loss and validation by cost", [*map(Text, words), *blocks])


def _left_out(comparison: Comparison) -> list[str]:
    left = len(comparison.names) - len(comparison.drawn)
    return [f"Figures show {len(comparison.drawn)} of {len(comparison.names)} solvers and variants."] if left else []


def _measured(comparison: Comparison) -> list[str]:
    return [cost for cost in COSTS if any(fit.column(cost) is not None for fit in comparison.fits)]


def _progress(comparison: Comparison, point: tuple, cost: str) -> PageFigure | None:
    """Excess loss above the validation metric, against one cost."""
    least = table.lowest(comparison)
    panels, ends = [], collections.defaultdict(list)
    watched = f"validation {spelt(comparison.watched)}" if comparison.watched else "validation metric"
    for name, label in (("loss", f"excess loss {_EXCESS}"), ("validation", watched)):
        made = []
        for place, solver in enumerate(comparison.drawn):
            fits = [fit for fit in comparison.fits if fit.point == point and fit.name == solver]
            curve = _curve(solver, place, fits, cost, name, least)
            if curve:
                made.append(curve)
                if curve.singles:
                    ends[solver].append(f"{label.partition(' (')[0]} {_span([y[-1] for _, y in curve.singles])}")
        if made:
            panels.append((label, made))
    if not panels:
        return None
    words = []
    for solver, its in list(ends.items())[:_SPELT]:
        whole = [fit for fit in comparison.fits if fit.point == point and fit.name == solver and not fit.broken]
        spent = [each for fit in whole if (each := fit.cost(cost)) is not None]
        words.append(f"{solver} after {number(float(np.median(spent)), 3)}: {', '.join(its)}")
    if len(ends) > _SPELT:
        words.append(f"the other {len(ends) - _SPELT} in the table of results")
    said = f"Against {AXES[cost]}. Ends, median (lowest to highest): {'; '.join(words) or 'every fit broke down'}."
    title = comparison.title(point)
    return pictured(f"curves-{cost}", f"{title}. {said}" if title else said, said, figures.curves, panels, AXES[cost])


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
    costs = [cost for cost in _measured(comparison) if table.costs(comparison, cost, table.NEAR[0])]
    if not costs:
        return
    near = [f"{100 * within:g} %" for within in table.NEAR]
    shown = []
    for cost in costs:
        found = table.profiles(comparison, cost)
        drawn = {each.name: each for each in found if each.name in comparison.drawn}
        lines = [(name, comparison.drawn.index(name), each.ratio, each.share) for name, each in drawn.items()]
        ends = []
        for each in found:
            first = int(np.searchsorted(each.ratio, 1, side="right"))
            ends.append(f"{each.name} cheapest on {first}, there on {len(each.ratio)} of {each.problems}")
        said = f"By {cost}, within {near[0]} of the lowest loss: {'; '.join(ends)}."
        shown.append(pictured(f"profile-{cost}", f"Performance profile. {said}", said, figures.profile, lines, cost))
    columns, reached = ["solver:"], {}
    for cost in costs:
        for within, words in zip(table.NEAR, near, strict=True):
            column = f"{cost} to {words}"
            columns.append(column)
            reached[column] = table.reached(comparison, cost, within)
    cells = [
        [Cell(name), *(_reached(of.get(name)) for of in reached.values())]
        for name in comparison.names
        if any(name in of for of in reached.values())
    ]
    problems = len(table.costs(comparison, costs[0], table.NEAR[0]))
    words = [
        f"A problem is one table, objective, rank, point, fold and seed on which two solvers or more ran; here are "
        f"{problems}. A solver's cost is what it had spent at the first record whose loss is within {near[0]} of "
        "L_best (above); one that broke down never gets there.",
        "The profile (Dolan and Moré, 2002) shows, for each τ, the share of problems on which a solver's cost is at "
        "most τ times that of the best solver on that problem: at τ = 1 how often it is the cheapest, at the right how "
        "often it arrives at all.",
        f"The table: median cost to {near[0]} and {near[1]}, a problem never reached counting as infinite; where the "
        "median is, “never” says on how many.",
    ]
    yield Section(
        "profile",
        "Cost to come close to the lowest loss",
        [*map(Text, words), Pictures(shown), make_table(columns, cells, "Costs")],
    )


def _reached(of: table.Reached | None) -> Cell:
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
    if not lines:
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

"""The picture of a verdict: how far each contestant is from the leader, how sure that is, and what it needed."""

from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from ....metrics import is_error
from ..page.gallery import PageFigure
from ..page.plots import INK, WIDTH, log
from . import figures, reaching, replicates
from .competitors import Comparison
from .sections import AXES, pictured
from .verdict import Standing, Verdict
from .words import capital, decimals, joined, number, share, with_error

_PANELS, _ROWS = 4, 12  # contests, and contestants in all
_CLIPPED = 6  # times the middle one's distance, beyond which a contestant is an arrow at the edge


class Bar(NamedTuple):
    """A contestant's row: `x` with `low` to `high`, NaN where there is none, and what stands at its right."""

    label: str
    place: int
    x: float
    low: float
    high: float
    note: str


class Panel(NamedTuple):
    """Rows over one axis, which panels with the same label share; `zero` where the leader's line is drawn."""

    title: str
    xlabel: str
    rows: list[Bar]
    zero: bool


def overview(comparison: Comparison, found: Verdict) -> PageFigure | None:
    """None where there is nothing to set beside each other."""
    contests = [each for each in found.parts or (found,) if each.rival is not None][:_PANELS]
    if not contests:
        return None
    most = max(3, _ROWS // len(contests))
    panels, said = [], []
    for each in contests:
        shown = [one for one in each.standings if one.behind is not None or one.name == each.leader][:most]
        shown += [one for one in each.standings if one.broken][: max(0, most - len(shown))]
        way = "lower" if is_error(comparison.metrics[0]) else "higher"
        xlabel = f"{each.measure} minus the leader's ({way} is better)"
        errors = [one.behind.error for one in shown if one.behind is not None]
        places = decimals([one.behind.mean for one in shown if one.behind is not None], errors)
        bars = [_bar(comparison, one, row, places) for row, one in enumerate(shown)]
        panels.append(Panel(each.at, xlabel, bars, True))
        at = f" at {each.at}" if each.at else ""
        distances = joined([f"{row.label} {row.note}" for row in panels[-1].rows if row.label != each.leader])
        said.append(f"{each.measure} minus that of {each.leader}{at}: {distances}.")
    if len(contests) == 1 and (costs := _costs(comparison, contests[0], panels[0])) is not None:
        panels.append(costs)
        needed = joined([f"{row.label} {row.note}" for row in costs.rows])
        said.append(f"{capital(costs.xlabel)}: {needed}.")
    sure = f"Bars: {share(replicates.SURE)} intervals." if contests[0].replicates > 1 else "One fit each: no intervals."
    dropped = len(found.parts) - len(contests)
    rest = [f"The first {len(contests)} of {len(found.parts)} points."] if dropped > 0 and found.parts else []
    caption = " ".join([*said, sure, *rest])
    return pictured("verdict", caption, caption, standings, panels)


def _bar(comparison: Comparison, one: Standing, row: int, places: int | None) -> Bar:
    drawn = comparison.drawn
    place = drawn.index(one.name) if one.name in drawn else len(drawn) + row
    if one.behind is None:
        broke = one.mean is None
        told = f"broke down, {one.broken} of {one.fits}" if broke else number(one.mean)
        return Bar(one.name, place, np.nan if broke else 0.0, np.nan, np.nan, told)
    sign = 1 if is_error(comparison.metrics[0]) else -1
    low, high = sorted((sign * one.behind.low, sign * one.behind.high))
    if not np.isfinite([low, high]).all():
        low = high = np.nan
    mean = sign * one.behind.mean
    return Bar(one.name, place, mean, low, high, with_error(mean, np.nan, places, "+")[0])


def _costs(comparison: Comparison, of: Verdict, above: Panel) -> Panel | None:
    """What each of the rows above needed to come close to the lowest loss, in passes or, where timed, seconds."""
    for goal in reaching.GOALS:
        for cost in ("seconds", "passes"):
            reached = reaching.reached(comparison, cost, reaching.NEAR[0], goal, of.contest) if of.contest else {}
            rows = [row for row in above.rows if row.label in reached]
            if len(rows) > 1 and any(np.isfinite(reached[row.label].median) for row in rows):
                made = []
                for row in rows:
                    median = reached[row.label].median
                    told = number(median, 3) if np.isfinite(median) else "never"
                    made.append(Bar(row.label, row.place, median, np.nan, np.nan, told))
                what = reaching.said(comparison, goal)
                best = "the lowest" if goal == "loss" else "the best"
                return Panel("", f"{AXES[cost]} to within {share(reaching.NEAR[0])} of {best} {what}", made, False)
    return None


def standings(panels: list[Panel]) -> Figure:
    """Panels one above the other, a row a contestant: a dot with its bar, and its number at the right; × where it broke
    down or never came there, an arrow where it lies beyond the axis."""
    heights = [0.62 + 0.27 * len(panel.rows) + 0.2 * bool(panel.title) for panel in panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.1))
    ratios = [len(panel.rows) + 0.4 for panel in panels]
    axes = np.ravel(figure.subplots(len(panels), 1, squeeze=False, height_ratios=ratios))
    limits = _limits([row for panel in panels if panel.zero for row in panel.rows])
    for place, (panel, its) in enumerate(zip(panels, axes, strict=True)):
        right: dict[str, Any] = {"transform": its.get_yaxis_transform(), "clip_on": False}
        for row, bar in enumerate(panel.rows):
            style: dict[str, Any] = figures.look(bar.place) | {"ls": "", "ms": 6}
            if panel.zero and np.isfinite(bar.x) and not limits[0] <= bar.x <= limits[1]:
                edge = 1.0 if bar.x > 0 else 0.0
                its.plot(edge, row, **(style | {"marker": ">" if bar.x > 0 else "<"} | right))
            elif np.isfinite(bar.x):
                ends = [[bar.x - bar.low], [bar.high - bar.x]] if np.isfinite(bar.low) else None
                its.errorbar([bar.x], [row], xerr=ends, elinewidth=1.6, capsize=3, **style)
            else:
                its.plot(1.0, row, **(style | {"marker": "x", "mew": 2} | right))
            its.text(1.04, row, bar.note, transform=right["transform"], va="center", fontsize=9)
        its.set_yticks(range(len(panel.rows)), [bar.label for bar in panel.rows])
        its.set_ylim(len(panel.rows) - 0.5, -0.5)
        its.grid(axis="y", visible=False)
        its.tick_params(axis="y", length=0)
        below = [each.xlabel for each in panels[place + 1 : place + 2]]
        its.set_xlabel("" if below == [panel.xlabel] else panel.xlabel)
        its.set_title(panel.title)
        if panel.zero:
            its.axvline(0, color=INK, lw=1, zorder=0)
            its.set_xlim(*limits)
            its.locator_params(axis="x", nbins=5)
        else:
            known = np.array([bar.x for bar in panel.rows if np.isfinite(bar.x)])
            if known.max() > 3 * known.min() > 0:
                log(its, "x", known)
                its.margins(x=0.08)
            else:
                its.set_xlim(0, 1.08 * known.max())
    figure.align_ylabels()
    return figure


def _limits(rows: list[Bar]) -> tuple[float, float]:
    """Of the axis that all differences share: the middle one's distance decides where it ends at the latest."""
    known = [row for row in rows if np.isfinite(row.x)]
    reach = [max(abs(end) for end in (row.x, row.low, row.high) if np.isfinite(end)) for row in known]
    most = _CLIPPED * float(np.median([each for each in reach if each > 0] or [1e-6]))
    inside = [row for row, each in zip(known, reach, strict=True) if each <= most]
    ends = [end for row in inside for end in (row.x, row.low, row.high) if np.isfinite(end)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    edge = 0.08 * (high - low or 1e-6)
    return low - edge, high + edge

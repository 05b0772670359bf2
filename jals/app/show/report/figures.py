"""The figures of a report, drawn as those of a run's page are. A solver has one colour, dash and marker in all of them:
the markers alone tell twelve apart, without colour."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator

from ..page.plots import FAINT, INK, PAPER, SERIES, WIDTH, above, few_letters, legend, log, tick_label

POINTS = 300  # of a line, at most
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", "*", ">", "p", "h")
_DASHES: Any = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5)), (0, (3, 3)), (0, (4, 1, 1, 1, 1, 1)))
_FLOOR, _GREY = 1000, "#848d97"  # places of baselines, and their colour
_MANY = 150  # dots, from which they are drawn as an image


class Curve(NamedTuple):
    """A solver's progress: every fit's line, their median, and those that broke down.

    Attributes:
        place: the solver's, which decides its look.
        singles: (x, y) of each fit.
        middle: (x, y) of their median.
        broken: (x, y) up to where each broke down.
    """

    label: str
    place: int
    singles: list[tuple[np.ndarray, np.ndarray]]
    middle: tuple[np.ndarray, np.ndarray] | None
    broken: list[tuple[np.ndarray, np.ndarray]]


Panels = list[tuple[str, list[Curve]]]  # (what is measured, its curves)


class Dots(NamedTuple):
    """A solver's (or a value's) numbers: `y` at `x`, with a standard error, or NaN."""

    label: str
    place: int
    x: Any
    y: np.ndarray
    error: np.ndarray


class Trials(NamedTuple):
    """What was tried of one number, and what came of it.

    Attributes:
        x: the number, of every trial.
        y: by what is measured, NaN where the trial broke down.
        chosen: the values chosen.
        range: from where to where it was drawn, or None.
        what: "trial", or of a descent "step".
        plain: those of y that are shares, and go on an axis that is not logarithmic.
        alike: what the figures beside it show of the same measures: their axes are to be the same.
    """

    x: np.ndarray
    y: dict[str, np.ndarray]
    chosen: list[float]
    range: tuple[float, float] | None
    what: str = "trial"
    plain: tuple[str, ...] = ()
    alike: dict[str, np.ndarray] | None = None


def floor(number: int) -> int:
    """The place of the n-th baseline, for its look."""
    return _FLOOR + number


def look(place: int) -> dict[str, Any]:
    """Colour, dashes and marker of the n-th solver, from the seventh on with a hollow marker; of baselines a grey."""
    if place >= _FLOOR:
        at = place - _FLOOR
        return {"color": _GREY, "ls": _DASHES[(at + 1) % len(_DASHES)], "marker": _MARKERS[at], "mfc": PAPER, "ms": 4}
    return {
        "color": SERIES[place % len(SERIES)],
        "ls": _DASHES[place % len(_DASHES)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "mfc": PAPER if place // len(SERIES) % 2 else SERIES[place % len(SERIES)],
        "ms": 5,
    }


def curves(panels: Panels, xlabel: str, alike: Sequence[Panels] = ()) -> Figure:
    """Panels one above the other, axes logarithmic unless numbers span little: the median of a solver's fits with its
    markers, and behind it every fit where they are few, else the band that holds them all. `alike` are the panels of
    all figures that are to have the same axes."""
    figure, axes = _stack(len(panels), 2.5)
    every = [(label, curve) for each in (*alike, panels) for label, shown in each for curve in shown]
    for (ylabel, shown), its in zip(panels, axes, strict=True):
        for curve in shown:
            style = look(curve.place)
            lines = curve.singles if len(curve.singles) > 1 else []
            if len(lines) <= 6 and sum(len(each.singles) for each in shown) <= 40:
                for x, y in lines:
                    its.plot(*_thinned(x, y), color=style["color"], lw=0.6, alpha=0.6)
            elif curve.middle is not None:
                x = curve.middle[0]
                together = np.array([held(x, *line) for line in lines])
                floor = together[together > 0].min(initial=np.inf)  # what is 0 has no place on a log axis
                low, high = (np.maximum(edge, floor) for edge in (together.min(axis=0), together.max(axis=0)))
                its.fill_between(x, low, high, color=style["color"], alpha=0.18, lw=0)
            for x, y in curve.broken[:6]:
                its.plot(*_thinned(x, y), color=style["color"], lw=0.6, alpha=0.6)
                its.plot(x[-1:], y[-1:], "x", color=style["color"], ms=7, mew=2)
            x, y = _thinned(*curve.middle) if curve.middle is not None else ([], [])
            step = max(1, len(x) // 6)
            its.plot(x, y, label=curve.label, markevery=(curve.place % step if len(x) > step else 0, step), **style)
        its.set_ylabel(ylabel)
        lines = [line for label, curve in every if label == ylabel for line in [*curve.singles, *curve.broken]]
        _logs(its, "y", [y for _, y in lines], 1.5)
        _logs(its, "x", [x for x, _ in lines], 3)
        _reach(its, np.concatenate([x for x, _ in lines]), np.concatenate([y for _, y in lines]))
    axes[-1].set_xlabel(xlabel)
    _key(figure, {each.label: each.place for _, shown in panels for each in shown})
    return figure


def profile(lines: list[tuple[str, int, np.ndarray, np.ndarray]], what: str) -> Figure:
    """Steps from the share of problems a solver is best on; markers where it gains."""
    figure, (axes,) = _stack(1, 2.9)
    most = max([2.0, *(ratio[-1] for _, _, ratio, _ in lines if len(ratio))]) * 1.15
    for label, place, ratio, share in lines:
        x, y = np.r_[1, ratio, most], np.r_[0, share, share[-1] if len(share) else 0]
        start = np.searchsorted(ratio, 1, side="right")  # ties for the best are no step
        x, y = x[start:], np.r_[y[start], y[start + 1 :]]
        x[0] = 1
        axes.plot(
            x, y, label=label, drawstyle="steps-post", markevery=max(1, len(x) // 6), clip_on=False, **look(place)
        )
    axes.set(xlabel=f"τ: {what}, as multiple of the best solver's", ylabel="share of problems", xlim=(1, most))
    _logs(axes, "x", [np.array([1, most])], 2.5)
    axes.set_ylim(0, 1.03)
    _key(figure, {label: place for label, place, *_ in lines})
    return figure


def trials(tried: Trials, place: int, xlabel: str) -> Figure:
    """A panel for each measure; what broke down is a cross at the top, what was chosen a vertical line."""
    figure, axes = _stack(len(tried.y), 2.0)
    style: dict[str, Any] = look(place) | {"ls": ""}
    for (ylabel, y), its in zip(tried.y.items(), axes, strict=True):
        good = np.isfinite(y)
        its.plot(tried.x[good], y[good], rasterized=good.sum() > _MANY, **style)
        failed, top = tried.x[~good], {"transform": its.get_xaxis_transform()}
        its.plot(failed, np.full(len(failed), 0.965), "x", color=INK, ms=6, mew=1.4, **top)
        for number in dict.fromkeys(tried.chosen):
            its.axvline(number, color=INK, lw=1.2, ls="--", gid="chosen")
        its.margins(y=0.18)
        its.set_ylabel(ylabel)
        together = np.concatenate([y, (tried.alike or {}).get(ylabel, y)])
        if ylabel not in tried.plain:
            _logs(its, "y", [together], 4)
        _reach(its, np.resize(tried.x, len(together)), together)
    last = axes[-1]
    last.set_xlabel(xlabel)
    low, high = tried.range or (tried.x.min(), tried.x.max())
    if low > 0:
        last.set_xlim(low / (high / low) ** 0.04, high * (high / low) ** 0.04)  # first: all may be at one place
        log(last, "x", np.array([low, high]))
    handles = [Line2D([], [], label=tried.what, **style)]
    if tried.chosen:
        handles.append(Line2D([], [], color=INK, lw=1.2, ls="--", label="chosen"))
    if not all(np.isfinite(y).all() for y in tried.y.values()):
        handles.append(Line2D([], [], color=INK, marker="x", ls="", ms=6, mew=1.4, label="broke down"))
    figure.set_figheight(figure.get_figheight() + 0.19)
    figure.legend(handles=handles, loc="outside upper left", ncols=3)
    return figure


def axis_lines(panels: list[tuple[str, list[Dots]]], xlabel: str) -> Figure:
    """A measure against a number of the grid: a line a solver, bars of one standard error."""
    figure, axes = _stack(len(panels), 2.3)
    values = np.unique(np.concatenate([np.asarray(dots.x, float) for _, shown in panels for dots in shown]))
    on_log = values.min() > 0 and values.max() > 3 * values.min()
    for (ylabel, shown), its in zip(panels, axes, strict=True):
        for order, dots in enumerate(shown):
            aside = 0.012 * (order - (len(shown) - 1) / 2)  # so that bars do not hide each other
            aside *= any(np.isfinite(each.error).any() for each in shown)
            x = np.asarray(dots.x, float)
            x = x * (values[-1] / values[0]) ** aside if on_log else x + (values[-1] - values[0]) * aside
            its.errorbar(x, dots.y, dots.error, label=dots.label, elinewidth=1, capsize=2, **look(dots.place))
        its.set_ylabel(ylabel)
        _logs(its, "y", [dots.y for dots in shown], 4)
        its.margins(y=0.12)
    if on_log:
        axes[-1].set_xscale("log")
    if len(values) <= 8:
        axes[-1].xaxis.set_major_locator(FixedLocator(list(values)))
        axes[-1].xaxis.set_minor_locator(NullLocator())
        axes[-1].xaxis.set_major_formatter(tick_label)
    axes[-1].set_xlabel(xlabel)
    _key(figure, {dots.label: dots.place for _, shown in panels for dots in shown})
    return figure


def binned(lines: list[Dots], bins: list[str], counts: list[int], said: tuple[str, str, str]) -> Figure:
    """Means with bars of one standard error by bin, above how many there are in each; `said` are the labels of the
    axes: of the bins, the means, and what is counted. Dots without an error are hollow."""
    xlabel, ylabel, counted = said
    figure = Figure(figsize=(WIDTH, 3.7))
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
    for order, dots in enumerate(lines):
        at = np.asarray(dots.x) + (order - (len(lines) - 1) / 2) * min(0.16, 0.7 / len(lines))
        style: dict[str, Any] = look(dots.place)
        upper.plot(at, dots.y, color=style["color"], ls=style["ls"], lw=0.8, alpha=0.6)
        sure = np.isfinite(dots.error)
        style |= {"ls": ""}
        upper.errorbar(at[sure], dots.y[sure], dots.error[sure], elinewidth=1, capsize=2, **style)
        upper.plot(at[~sure], dots.y[~sure], **(style | {"mfc": PAPER}))
    lower.bar(np.arange(len(bins)), counts, 0.9, color=FAINT)
    for place, count in enumerate(counts):
        above(lower, place, 0, few_letters(count))
    small = {"fontsize": 7, "rotation": 35, "ha": "right", "rotation_mode": "anchor"} if len(bins) > 6 else {}
    lower.set_xticks(range(len(bins)), bins, **small)
    lower.set(xlabel=xlabel, ylabel=counted.replace(" ", "\n"), yticks=[])
    upper.set_ylabel(ylabel)
    upper.set_ylim(bottom=min(0.0, upper.get_ylim()[0]))
    for axes in (upper, lower):
        axes.grid(axis="x", visible=False)
    _key(figure, {dots.label: dots.place for dots in lines})
    return figure


def against(lines: list[tuple[str, int, np.ndarray, np.ndarray, int]], xlabel: str, ylabel: str) -> Figure:
    """(label, place, x, y, which point is ringed) of each solver: a path of points, x on a log axis where it spans
    much."""
    figure, (axes,) = _stack(1, 3.0)
    for _, place, x, y, top in lines:
        axes.plot(x, y, **(look(place) | {"ms": 3, "lw": 1}))
        axes.plot(x[top], y[top], "o", ms=10, mfc="none", mec=look(place)["color"], mew=1.2)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    _logs(axes, "x", [x for _, _, x, *_ in lines], 3)
    _key(figure, {label: place for label, place, *_ in lines})
    return figure


def axis_dots(panels: list[tuple[str, list[Dots]]], categories: list[str]) -> Figure:
    """The same where an axis holds no numbers: a row for each of its values."""
    figure = Figure(figsize=(WIDTH, (0.75 + 0.32 * len(categories)) * len(panels) + 0.3))
    for number, (xlabel, shown) in enumerate(panels):
        its = figure.add_subplot(len(panels), 1, number + 1)
        for order, dots in enumerate(shown):
            aside = (order - (len(shown) - 1) / 2) * 0.6 / len(shown)
            at = np.array([categories.index(value) for value in dots.x]) + aside
            style: dict[str, Any] = look(dots.place) | {"ls": ""}
            its.errorbar(dots.y, at, xerr=dots.error, label=dots.label, elinewidth=1, capsize=2, **style)
        _rows(its, categories)
        its.set_xlabel(xlabel)
    _key(figure, {dots.label: dots.place for _, shown in panels for dots in shown})
    return figure


def stationarity(lines: list[tuple[str, int, np.ndarray]]) -> Figure:
    """A dot a fit in the row of its solver, on a log axis; exact zeros at the left edge."""
    figure = Figure(figsize=(WIDTH, 0.8 + 0.3 * len(lines)))
    its = figure.subplots()
    many = sum(len(values) for *_, values in lines) > _MANY
    for row, (_, place, values) in enumerate(lines):
        spread = 0.24 * (np.arange(len(values)) * 0.618034 % 1 * 2 - 1) if len(values) > 4 else np.zeros(len(values))
        style = look(place) | {"ls": "", "alpha": 0.75, "ms": 4}
        its.plot(np.where(values > 0, values, np.nan), row + spread, rasterized=many, **style)
        zero = values == 0
        its.plot(
            np.zeros(zero.sum()), (row + spread)[zero], transform=its.get_yaxis_transform(), clip_on=False, **style
        )
    _rows(its, [label for label, *_ in lines])
    spread = np.concatenate([values[values > 0] for *_, values in lines])
    if len(spread) and spread.max() < 2 * spread.min():  # else all labels would be of the last digits
        spread = np.array([spread.min() / 2.5, spread.max() * 2.5])
        its.set_xlim(*spread)
    _logs(its, "x", [spread], 1)
    its.set_xlabel("stationarity (dimensionless)")
    return figure


def held(x: np.ndarray, own: np.ndarray, y: np.ndarray) -> np.ndarray:
    """A line at other places: straight against log x between its points, level beyond them."""
    return np.interp(np.log(x), np.log(own), y)


def _thinned(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `POINTS` of a line, evenly over log x, its ends among them."""
    if len(x) > POINTS:
        kept = np.unique(np.searchsorted(x, np.geomspace(x[0], x[-1], POINTS).clip(x[0], x[-1])))
        x, y = x[kept], y[kept]
    return x, y


def _stack(panels: int, height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height * panels + 0.35))
    return figure, np.ravel(figure.subplots(panels, sharex=True, squeeze=False))


def _rows(axes: Any, labels: list[str]) -> None:
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    for between in range(len(labels) - 1):
        axes.axhline(between + 0.5, color=INK, lw=0.3, alpha=0.4)


def _logs(axes: Any, axis: str, columns: list[np.ndarray], span: float) -> None:
    """A log axis where the numbers span more than that factor."""
    numbers = np.concatenate([np.asarray(column, float) for column in columns]) if columns else np.zeros(0)
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    if len(numbers) and numbers.max() > span * numbers.min():
        log(axes, axis, numbers)
    elif len(numbers) and numbers.max() >= 1000:
        getattr(axes, f"{axis}axis").set_major_formatter(tick_label)


def _reach(axes: Any, x: np.ndarray, y: np.ndarray) -> None:
    """Axes that hold these points too, as far as they have a place on a log axis."""
    there = np.isfinite(x) & np.isfinite(y)
    for column, scale in ((x, axes.get_xscale()), (y, axes.get_yscale())):
        there &= (column > 0) | (scale != "log")
    if there.any():
        axes.update_datalim(np.column_stack([x[there], y[there]]))
        axes.autoscale_view()


def _key(figure: Figure, labels: dict[str, int]) -> None:
    """The legend, also of a solver that the first panel lacks."""
    legend(figure, list(labels), handles=[Line2D([], [], **look(place)) for place in labels.values()])

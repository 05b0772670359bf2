"""The figures themselves, of the numbers that `summaries` makes: each in a new figure, or in axes of the caller's."""

from typing import Any, NamedTuple

import numpy as np

from .item_map import ItemMap
from .style import (
    BLUE,
    RED,
    SERIES,
    WIDTH,
    Figure,
    LogNorm,
    MaxNLocator,
    NullFormatter,
    Patch,
    above,
    colours,
    few_letters,
    is_dark,
    legend,
    log,
    look,
    panels,
    tick_label,
)
from .summaries import FEW, Bands, Curves, ErrorByDegree, Histogram, Line

_LETTERS = 24  # of a name on the map
_LABELS = 14  # names on it, at most
_WIDE, _TALL = 0.019, 0.05  # of a letter, as shares of the map


class Named(NamedTuple):
    """Names of items on the map, and the rows that they are of."""

    rows: np.ndarray
    names: list[str]


def curves(lines: list[Line], xlabel: str, ylabel: str, level: bool = False, axes: Any = None) -> Figure:
    """One line a solver; a log axis where the lines' lengths span more than a factor of 5, or, unless it is `level`,
    the numbers one of 3."""
    (its,) = panels(axes, 1, (WIDTH, 2.9))
    for place, line in enumerate(lines):
        marker = "." if len(line.x) <= 40 else None
        its.plot(line.x, line.y, label=line.label, marker=marker, **look(place))
    its.set(xlabel=xlabel, ylabel=ylabel)
    ends = np.array([line.x[-1] for line in lines], float)
    if ends.min() > 0 and ends.max() > 5 * ends.min():
        log(its, "x", np.concatenate([line.x for line in lines]))
    elif all(line.x.dtype.kind == "i" for line in lines):
        its.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    numbers = np.concatenate([line.y for line in lines])
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) and numbers.min() > 0 and numbers.max() > 3 * numbers.min() and not level:
        log(its, "y", numbers)
    elif len(numbers) and numbers.max() >= 1000:
        its.yaxis.set_major_formatter(tick_label)
    legend(its.figure, [line.label for line in lines], its, inside=axes is not None)
    return its.figure


def stacked(shown: list[Curves], axes: Any = None) -> Figure:
    """Curves one above the other, over one axis across."""
    several = panels(axes, len(shown), (WIDTH, 0.5 + 2.1 * len(shown)), sharex=axes is None)
    for place, (its, each) in enumerate(zip(several, shown, strict=True)):
        curves(*(each if place == len(shown) - 1 else each._replace(xlabel="")), axes=its)
        if (own := its.get_legend()) is not None and (place or axes is None):
            own.remove()
    if axes is None:
        legend(several[0].figure, [line.label for line in shown[0].lines], several[0])
    return several[0].figure


def certificate(sides: list[tuple[str, Histogram]], bound: float, required: bool, axes: Any = None) -> Figure:
    """Histograms of backward errors one above the other: rows at exactly 0 at the left, the bound a dashed line.

    `required` says whether the last histogram is held to the bound.
    """
    several = panels(axes, len(sides), (WIDTH, 1.35 * len(sides) + 0.4), sharex=axes is None)
    edges = sides[0][1].edges
    zero = edges[0] - 0.8
    for place, ((title, histogram), its) in enumerate(zip(sides, several, strict=True)):
        ink, faint, paper = colours(its)
        held = required or place < len(sides) - 1
        over = edges[:-1] > np.log10(bound) - 1e-9
        colour = np.where(over & held, RED, BLUE)
        its.bar(edges[:-1], histogram.counts, np.diff(edges), align="edge", color=colour, edgecolor=paper, lw=0.4)
        its.bar(zero, histogram.zeros, 0.5, color=ink)
        above(its, zero, histogram.zeros, f"{histogram.zeros:,}")
        its.axvline(np.log10(bound), color=RED, ls="--", lw=1.2, gid="bound")
        notes = [] if held else ["not required of this solver"]
        notes += [f"{histogram.not_finite:,} not finite"] if histogram.not_finite else []
        its.set_title(": ".join([title, ", ".join(notes)]) if notes else title)
        its.set_ylabel("rows")
        its.margins(y=0.22)
        its.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        its.yaxis.set_major_formatter(tick_label)
        its.grid(axis="x", visible=False)
        its.axvline(edges[0] - 0.3, color=faint, lw=0.8)
    at, where = (np.log10(bound), 1), ("data", "axes fraction")
    offset: Any = {"xytext": (-3, -3), "textcoords": "offset points", "ha": "right", "va": "top"}
    several[0].annotate(f"bound {bound:.0e}", at, xycoords=where, color=RED, **offset)
    decades = np.arange(np.ceil(edges[0]), np.floor(edges[-1]) + 1, dtype=int)
    step = -(-len(decades) // 7)
    shown = decades[:: max(step, 1)]
    for its in several if axes is not None else several[-1:]:
        its.set_xticks([zero, *shown], ["0", *(f"$10^{{{decade}}}$" for decade in shown)])
    several[-1].set_xlabel("backward error of a row (dimensionless)")
    return several[0].figure


def spectrum(lines: list[tuple[str, np.ndarray]], axes: Any = None) -> Figure:
    """Singular values by their rank in size, on a log axis (a value of exactly 0 has no place there)."""
    (its,) = panels(axes, 1, (WIDTH, 3.0))
    for place, (label, values) in enumerate(lines):
        marker = "." if len(values) <= 64 else None
        its.plot(np.arange(1, len(values) + 1), values, label=label, marker=marker, **look(place))
    together = np.concatenate([values for _, values in lines])
    longest = max(len(values) for _, values in lines)
    its.set(xlim=(0.5, longest + 0.5), xlabel="k", ylabel="k-th singular value of X Yᵀ")
    if together.any():
        log(its, "y", together)
    its.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(its.figure, [label for label, _ in lines], its, inside=axes is not None)
    return its.figure


def residuals(parts: list[tuple[str, Bands]], xlabel: str, axes: Any = None) -> Figure:
    """Boxes of the residuals by value, one a part of the split: quartiles, whiskers from 5 % to 95 %."""
    (its,) = panels(axes, 1, (WIDTH, 3.3))
    ink, _, paper = colours(its)
    width = 0.8 / len(parts)
    for place, (_, bands) in enumerate(parts):
        colour = SERIES[place % len(SERIES)]
        centres = np.arange(len(bands.values)) + (place - (len(parts) - 1) / 2) * width
        low, first, middle, third, high = bands.quantiles.T
        its.vlines(centres, low, high, color=colour, lw=1)
        few = bands.counts < FEW
        its.plot(centres[few], middle[few], "o", color=colour, ms=4, mfc=paper)
        centres, first, middle, third = (each[~few] for each in (centres, first, middle, third))
        its.bar(centres, third - first, width * 0.8, bottom=first, color=colour)
        its.hlines(middle, centres - 0.4 * width, centres + 0.4 * width, color=paper, lw=1.6)
    its.axhline(0, color=ink, lw=0.8)
    bands = parts[0][1]
    if bands.edges is None:
        its.set_xticks(range(len(bands.values)), [f"{value:g}" for value in bands.values])
    else:
        its.set_xticks(np.arange(len(bands.edges)) - 0.5, [f"{edge:.3g}" for edge in bands.edges])
    its.set(xlabel=xlabel, ylabel="residual t − s")
    its.grid(axis="x", visible=False)
    labels = [label for label, _ in parts]
    handles = [Patch(color=SERIES[place % len(SERIES)]) for place in range(len(parts))]
    if axes is None:  # a single part, too, is named
        its.figure.legend(handles, labels, loc="outside upper left", ncols=len(parts))
    else:
        its.legend(handles, labels)
    return its.figure


def error_by_degree(lines: list[tuple[str, ErrorByDegree]], side: str, counted: str, axes: Any = None) -> Figure:
    """RMSE with its interval by training degree, above the number of entries in each bin."""
    own: Any = {"sharex": True, "height_ratios": [3, 1]} if axes is None else {}
    upper, lower = panels(axes, 2, (WIDTH, 3.7), **own)
    _, faint, paper = colours(upper)
    edges, counts = lines[0][1].edges, lines[0][1].counts
    filled = np.flatnonzero(counts)
    bins = np.arange(filled[0], filled[-1] + 1)
    for place, (label, error) in enumerate(lines):
        colour = SERIES[place % len(SERIES)]
        at = bins + 0.5 + (place - (len(lines) - 1) / 2) * min(0.16, 0.7 / len(lines))
        rmse, low, high = (column[bins] for column in (error.rmse, error.low, error.high))
        sure = np.isfinite(low)
        spread = [(rmse - low)[sure], (high - rmse)[sure]]
        upper.errorbar(at[sure], rmse[sure], spread, fmt="o", color=colour, ms=4, lw=1.2, capsize=2, label=label)
        upper.plot(at[~sure], rmse[~sure], "o", color=colour, ms=4, mfc=paper)
        upper.axhline(error.overall, color=colour, ls=":", lw=1)
    lower.bar(bins + 0.5, counts[bins], 0.9, color=faint)
    for place in bins:
        above(lower, place + 0.5, 0, few_letters(int(counts[place])))
    ticks = np.arange(bins[0], bins[-1] + 2)
    for its in (upper, lower) if axes is not None else (lower,):
        its.set_xticks(ticks, [few_letters(int(edge), 0) for edge in edges[ticks]])
        its.set_xlim(*lower.get_xlim())
    xlabel = f"training entries of the {side} (each bin from its left number)"
    lower.set(xlabel=xlabel, ylabel=counted.replace(" ", "\n"), yticks=[])
    upper.set_ylabel("RMSE")
    for its in (upper, lower):
        its.grid(axis="x", visible=False)
    legend(upper.figure, [label for label, _ in lines], upper, inside=axes is not None)
    return upper.figure


def item_map(items: ItemMap, entries: np.ndarray, named: Named, axes: Any = None) -> Figure:
    """A dot an item, those with most entries on top; of those `named` the first that have room."""
    (its,) = panels(axes, 1, (WIDTH, 4.2))
    ink, _, paper = colours(its)
    rows = items.drawn[::-1]
    place, counts = items.place(rows), entries[rows]
    if len(np.unique(counts)) > 1:
        low, high = int(counts.min()), int(counts.max())
        shades: Any = {"norm": LogNorm(low, high), "cmap": "cividis" if is_dark(paper) else "cividis_r"}
        dots = its.scatter(*place.T, c=counts, s=12, lw=0, alpha=0.8, **shades)
        bar = its.figure.colorbar(dots, ax=its, label="entries of the item", shrink=0.8)
        ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1000, 3000, 10**4, 10**5, 10**6) if low <= tick <= high]
        bar.set_ticks(ticks or [low, high], labels=[few_letters(tick) for tick in ticks or [low, high]])
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
    else:
        its.scatter(*place.T, c=BLUE, s=12, lw=0, alpha=0.8)
    its.set(xlabel=f"1st direction: {items.share[0]:.0%} of the variance", xticks=[], yticks=[])
    its.set_ylabel(f"2nd direction: {items.share[1]:.0%}")
    corner, size = place.min(axis=0), np.maximum(np.ptp(place, axis=0), 1e-12)
    taken: list[np.ndarray] = []
    for at, name in zip(items.place(named.rows), named.names, strict=True):
        text = name if len(name) <= _LETTERS else f"{name[: _LETTERS - 1]}…"
        left, low = (at - corner) / size
        leftwards = left > 0.5
        box = np.array([left - _WIDE * len(text) * leftwards, low - _TALL / 2, _WIDE * len(text), _TALL])
        if not name or len(taken) == _LABELS or any(_overlap(box, other) for other in taken):
            continue
        taken.append(box)
        its.plot(*at, "o", ms=4, mfc="none", mec=ink, mew=0.8)
        offset: Any = {"xytext": (-4 if leftwards else 4, 0), "textcoords": "offset points", "va": "center"}
        behind = {"boxstyle": "square,pad=0.1", "fc": paper, "ec": "none", "alpha": 0.8}
        its.annotate(text, at, ha="right" if leftwards else "left", fontsize=7, color=ink, bbox=behind, **offset)
    return its.figure


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two boxes (left, low, wide, tall) do."""
    return bool((one[:2] < other[:2] + other[2:]).all() and (other[:2] < one[:2] + one[2:]).all())

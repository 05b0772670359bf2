"""The figures of a run's page, by matplotlib's object API: nothing global is left changed, no window is opened.

Every figure is one narrow panel or a stack, drawn at the size it is read at: two side by side on a wide screen, one
below the other on a telephone, with letters that stay legible. The same picture always gives the same bytes.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

try:
    import matplotlib
    from matplotlib.colors import LogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter
except ImportError as missing:
    raise ImportError('figures are drawn by the extra "cli": pip install "jals[cli]"') from missing

from ..console import printable
from .summaries import FEW, Bands, Density, ErrorByDegree, Histogram

WIDTH = 4.7  # inches, 451 CSS pixels
INK, FAINT, PAPER = "#24292f", "#d8dde3", "#ffffff"
_BLUE, RED = "#0072b2", "#d55e00"  # Okabe and Ito's colours, which colour-blind readers tell apart
SERIES = (_BLUE, RED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", ":", "-.")
_DARK = {INK: "#e3e7eb", FAINT: "#3b424a", PAPER: "#15191e", _BLUE: "#58a9df", RED: "#f0883e"}
_STYLE: Any = {
    "svg.hashsalt": "jals",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "legend.fontsize": 9,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "savefig.facecolor"), PAPER),
}


class Picture(NamedTuple):
    """One figure as files: the SVG also in colours for a dark page."""

    png: bytes
    svg: bytes
    dark_svg: bytes
    width: int  # CSS pixels
    height: int


class Line(NamedTuple):
    """A line of a plot: its name, and its points."""

    label: str
    x: np.ndarray
    y: np.ndarray


def picture(draw: Callable[..., Figure], *arguments: Any, pixels: bool = True, **options: Any) -> Picture:
    """What a function draws, in jals's style whatever the user's matplotlibrc says; without `pixels` no PNG is made.

    Texts among the arguments are drawn as they are: printable, one line, dollar signs no mathematics.
    """
    with _styled():
        figure = draw(*map(_as_they_are, arguments), **options)
        png, svg = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        if pixels:
            figure.savefig(png, format="png", dpi=200, metadata={"Software": None})
    text = svg.getvalue()
    dark = text
    for light, other in _DARK.items():
        dark = dark.replace(light.encode(), other.encode())
    width, height = (round(96 * inches) for inches in figure.get_size_inches())
    return Picture(png.getvalue(), text, dark, width, height)


def _as_they_are(value: Any) -> Any:
    """The argument with its texts escaped for matplotlib, in nested tuples, lists and dicts too."""
    if isinstance(value, str):
        return printable(value).replace("$", r"\$")
    if isinstance(value, dict):
        return {_as_they_are(key): _as_they_are(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        parts = map(_as_they_are, value)
        return type(value)(*parts) if hasattr(value, "_fields") else type(value)(parts)
    return value


@contextlib.contextmanager
def _styled() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def curves(lines: list[Line], xlabel: str, ylabel: str, level: bool = False) -> Figure:
    """One line a solver; a log axis where the lines' lengths span more than a factor of 5, or, unless it is `level`,
    the numbers one of 3."""
    figure, axes = _panel(2.9)
    for place, line in enumerate(lines):
        marker = "." if len(line.x) <= 40 else None
        axes.plot(line.x, line.y, label=line.label, marker=marker, **_look(place))
    axes.set(xlabel=xlabel, ylabel=ylabel)
    ends = np.array([line.x[-1] for line in lines], float)
    if ends.min() > 0 and ends.max() > 5 * ends.min():
        log(axes, "x", np.concatenate([line.x for line in lines]))
    elif all(line.x.dtype.kind == "i" for line in lines):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    numbers = np.concatenate([line.y for line in lines])
    numbers = numbers[np.isfinite(numbers)]
    if len(numbers) and numbers.min() > 0 and numbers.max() > 3 * numbers.min() and not level:
        log(axes, "y", numbers)
    elif len(numbers) and numbers.max() >= 1000:
        axes.yaxis.set_major_formatter(tick_label)
    legend(figure, [line.label for line in lines])
    return figure


def certificate(sides: list[tuple[str, Histogram]], bound: float, required: bool) -> Figure:
    """Histograms of backward errors one above the other: rows at exactly 0 at the left, the bound a dashed line.

    `required` says whether the last histogram is held to the bound.
    """
    figure = Figure(figsize=(WIDTH, 1.35 * len(sides) + 0.4))
    panels = np.ravel(figure.subplots(len(sides), sharex=True, squeeze=False))
    edges = sides[0][1].edges
    zero = edges[0] - 0.8
    for place, ((title, histogram), axes) in enumerate(zip(sides, panels, strict=True)):
        held = required or place < len(sides) - 1
        over = edges[:-1] > np.log10(bound) - 1e-9
        colours = np.where(over & held, RED, _BLUE)
        axes.bar(edges[:-1], histogram.counts, np.diff(edges), align="edge", color=colours, edgecolor=PAPER, lw=0.4)
        axes.bar(zero, histogram.zeros, 0.5, color=INK)
        above(axes, zero, histogram.zeros, f"{histogram.zeros:,}")
        axes.axvline(np.log10(bound), color=RED, ls="--", lw=1.2, gid="bound")
        notes = [] if held else ["not required of this solver"]
        notes += [f"{histogram.not_finite:,} not finite"] if histogram.not_finite else []
        axes.set_title(": ".join([title, ", ".join(notes)]) if notes else title)
        axes.set_ylabel("rows")
        axes.margins(y=0.22)
        axes.yaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
        axes.yaxis.set_major_formatter(tick_label)
        axes.grid(axis="x", visible=False)
        axes.axvline(edges[0] - 0.3, color=FAINT, lw=0.8)
    at, where = (np.log10(bound), 1), ("data", "axes fraction")
    offset: Any = {"xytext": (-3, -3), "textcoords": "offset points", "ha": "right", "va": "top"}
    panels[0].annotate(f"bound {bound:.0e}", at, xycoords=where, color=RED, **offset)
    decades = np.arange(np.ceil(edges[0]), np.floor(edges[-1]) + 1, dtype=int)
    step = -(-len(decades) // 7)
    shown = decades[:: max(step, 1)]
    panels[-1].set_xticks([zero, *shown], ["0", *(f"$10^{{{decade}}}$" for decade in shown)])
    panels[-1].set_xlabel("backward error of a row (dimensionless)")
    return figure


def spectrum(lines: list[tuple[str, np.ndarray]]) -> Figure:
    """Singular values by their rank in size, on a log axis (a value of exactly 0 has no place there)."""
    figure, axes = _panel(3.0)
    for place, (label, values) in enumerate(lines):
        marker = "." if len(values) <= 64 else None
        axes.plot(np.arange(1, len(values) + 1), values, label=label, marker=marker, **_look(place))
    together = np.concatenate([values for _, values in lines])
    longest = max(len(values) for _, values in lines)
    axes.set(xlim=(0.5, longest + 0.5), xlabel="k", ylabel="k-th singular value of X Yᵀ")
    if together.any():
        log(axes, "y", together)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    legend(figure, [label for label, _ in lines])
    return figure


def residuals(parts: list[tuple[str, Bands]], xlabel: str) -> Figure:
    """Boxes of the residuals by value, one a part of the split: quartiles, whiskers from 5 % to 95 %."""
    figure, axes = _panel(3.3)
    width = 0.8 / len(parts)
    for place, (_, bands) in enumerate(parts):
        colour = SERIES[place]
        centres = np.arange(len(bands.values)) + (place - (len(parts) - 1) / 2) * width
        low, first, middle, third, high = bands.quantiles.T
        axes.vlines(centres, low, high, color=colour, lw=1)
        few = bands.counts < FEW
        axes.plot(centres[few], middle[few], "o", color=colour, ms=4, mfc=PAPER)
        centres, first, middle, third = (each[~few] for each in (centres, first, middle, third))
        axes.bar(centres, third - first, width * 0.8, bottom=first, color=colour)
        axes.hlines(middle, centres - 0.4 * width, centres + 0.4 * width, color=PAPER, lw=1.6)
    axes.axhline(0, color=INK, lw=0.8)
    bands = parts[0][1]
    if bands.edges is None:
        axes.set_xticks(range(len(bands.values)), [f"{value:g}" for value in bands.values])
    else:
        axes.set_xticks(np.arange(len(bands.edges)) - 0.5, [f"{edge:.3g}" for edge in bands.edges])
    axes.set(xlabel=xlabel, ylabel="residual t − s")
    axes.grid(axis="x", visible=False)
    handles = [Patch(color=SERIES[place]) for place in range(len(parts))]
    figure.legend(handles, [label for label, _ in parts], loc="outside upper left", ncols=len(parts))
    return figure


def error_by_degree(lines: list[tuple[str, ErrorByDegree]], side: str, counted: str) -> Figure:
    """RMSE with its interval by training degree, above the number of entries in each bin."""
    figure = Figure(figsize=(WIDTH, 3.7))
    upper, lower = figure.subplots(2, sharex=True, height_ratios=[3, 1])
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
        upper.plot(at[~sure], rmse[~sure], "o", color=colour, ms=4, mfc=PAPER)
        upper.axhline(error.overall, color=colour, ls=":", lw=1)
    lower.bar(bins + 0.5, counts[bins], 0.9, color=FAINT)
    for place in bins:
        above(lower, place + 0.5, 0, few_letters(int(counts[place])))
    ticks = np.arange(bins[0], bins[-1] + 2)
    lower.set_xticks(ticks, [few_letters(int(edge), 0) for edge in edges[ticks]])
    xlabel = f"training entries of the {side} (each bin from its left number)"
    lower.set(xlabel=xlabel, ylabel=counted.replace(" ", "\n"), yticks=[])
    upper.set_ylabel("RMSE")
    for axes in (upper, lower):
        axes.grid(axis="x", visible=False)
    legend(figure, [label for label, _ in lines], upper)
    return figure


def degrees(lines: list[Line]) -> Figure:
    """The share of rows with at least so many entries, on log axes."""
    figure, axes = _panel(3.3)
    for place, line in enumerate(lines):
        axes.step(line.x, line.y, where="pre", label=line.label, **_look(place))
    axes.set(xlabel="entries d of a row", ylabel="share of rows with d entries or more")
    log(axes, "x", np.concatenate([line.x for line in lines]))
    log(axes, "y", np.concatenate([line.y for line in lines]))
    legend(figure, [line.label for line in lines])
    return figure


def density(table: Density) -> Figure:
    """The share of pairs observed as colour; blocks without an entry stay grey."""
    figure, axes = _panel(3.3)
    share = np.ma.masked_equal(table.share, 0)
    low, high = float(share.min()), float(share.max())
    axes.set_facecolor(FAINT)
    image = axes.imshow(
        share,
        norm=LogNorm(low if low < high else high / 10, high),
        cmap="cividis",
        extent=(0, table.num_items, table.num_users, 0),
        aspect="auto",
        interpolation="nearest",
    )
    axes.grid(visible=False)
    axes.set(xlabel="items, the busiest first", ylabel="users, the busiest first")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(5, integer=True))
        axis.set_major_formatter(tick_label)
    bar = figure.colorbar(image, ax=axes, label="share of pairs observed")
    bar.ax.yaxis.set_major_formatter(lambda number, _: f"{100 * number:.3g} %")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return figure


def _panel(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(WIDTH, height))
    return figure, figure.subplots()


def _look(place: int) -> dict[str, Any]:
    """Colour and dashes of the n-th line: together they tell two dozen apart."""
    return {"color": SERIES[place % len(SERIES)], "ls": DASHES[place // len(SERIES) % len(DASHES)]}


def legend(figure: Figure, labels: list[str], axes: Any = None, handles: list[Any] | None = None) -> None:
    """Above the axes, where it covers no data; a single line needs none. The handles are the axes', unless given."""
    if len(labels) > 1:
        columns = max(1, min(len(labels), 44 // (max(map(len, labels)) + 6)))
        own = (axes or figure.axes[0]).get_legend_handles_labels()
        figure.set_figheight(figure.get_figheight() + 0.19 * math.ceil(len(labels) / columns))
        figure.legend(*(own if handles is None else (handles, labels)), loc="outside upper left", ncols=columns)


def log(axes: Any, axis: str, numbers: np.ndarray) -> None:
    """A log axis; where it spans little more than a decade, also 2 and 5 are labelled, in plain digits if few."""
    getattr(axes, f"set_{axis}scale")("log", nonpositive="mask")
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    of = getattr(axes, f"{axis}axis")
    if numbers.max() < 50 * numbers.min():
        of.set_major_locator(LogLocator(subs=(1, 2, 5) if numbers.max() > 5 * numbers.min() else tuple(range(1, 10))))
        short = numbers.min() >= 1e-4 and numbers.max() < 1e7
        of.set_major_formatter(tick_label if short else LogFormatterSciNotation(minor_thresholds=(np.inf, np.inf)))
    else:
        of.set_major_formatter(LogFormatterSciNotation())
    of.set_minor_formatter(NullFormatter())


def above(axes: Any, x: float, y: float, text: str) -> None:
    axes.annotate(text, (x, y), (0, 2), textcoords="offset points", ha="center", fontsize=8)


def tick_label(number: float, _: int) -> str:
    """100,000 and not 1e5: a tick's label."""
    return f"{number:,.6g}"


def few_letters(number: int, digits: int = 1) -> str:
    """999, 1k, 1.2k, 34k, 5.6M: a number in few letters."""
    for unit, size in (("M", 10**6), ("k", 10**3)):
        if number >= size:
            return f"{round(number / size, digits if number < 10 * size else 0):g}{unit}"
    return str(number)

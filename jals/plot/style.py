"""How figures look, by matplotlib's object API: nothing global is left changed, no window is opened.

A figure is one narrow panel or a stack, drawn at the size it is read at: two side by side on a wide screen, one below
the other on a telephone, with letters that stay legible. In axes of the caller's the caller's own style holds.
"""

import contextlib
import io
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

try:
    import matplotlib
    from matplotlib.colors import LogNorm, to_rgb  # noqa: F401 - and what else comes from here, so that one message serves all
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch  # noqa: F401
    from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator, NullFormatter  # noqa: F401
except ImportError as missing:
    raise ImportError('figures are drawn by the extra "plot": pip install "jals[plot]"') from missing

from ..errors import ArgumentError
from ..html import printable

WIDTH = 4.7  # inches, 451 CSS pixels
INK, FAINT, PAPER = "#24292f", "#d8dde3", "#ffffff"
BLUE, RED = "#0072b2", "#d55e00"  # Okabe and Ito's colours, which colour-blind readers tell apart
SERIES = (BLUE, RED, "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
DASHES = ("-", "--", ":", "-.")
DARK = {INK: "#e3e7eb", FAINT: "#3b424a", PAPER: "#15191e", BLUE: "#58a9df", RED: "#f0883e"}
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


class Drawn(Figure):
    """A figure in jals's style whatever the user's matplotlibrc says. A notebook shows it without pyplot."""

    def draw(self, renderer: Any) -> None:
        with styled():
            super().draw(renderer)

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        """The picture, and the size in CSS pixels to show it at."""
        return png(self, 144), dict(zip(("width", "height"), css_pixels(self), strict=True))


def drawn(draw: Callable[..., Figure], *arguments: Any, **options: Any) -> Figure:
    """What a function draws, in jals's style. Texts among the arguments are drawn as they are: printable, one line,
    dollar signs no mathematics."""
    with styled():
        return draw(*map(_as_they_are, arguments), **options)


def drawn_in(axes: Any, draw: Callable[..., Any], *arguments: Any) -> None:
    """The same in axes of the caller's, in their style."""
    draw(*map(_as_they_are, arguments), axes=axes)


def png(figure: Figure, dpi: int = 200) -> bytes:
    pixels = io.BytesIO()
    figure.savefig(pixels, format="png", dpi=dpi, metadata={"Software": None})
    return pixels.getvalue()


def css_pixels(figure: Figure) -> tuple[int, int]:
    width, height = figure.get_size_inches()
    return round(96 * width), round(96 * height)


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
def styled() -> Iterator[None]:
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def panels(axes: Any, count: int, size: tuple[float, float], **options: Any) -> list[Any]:
    """So many axes one above the other: the caller's, or those of a new figure of that size in inches.

    Raises:
        ArgumentError: where the caller's are not so many.
    """
    if axes is None:
        return list(np.ravel(Drawn(figsize=size).subplots(count, squeeze=False, **options)))
    given = list(np.ravel(np.asarray(axes, object)))
    if len(given) != count or not all(hasattr(each, "plot") for each in given):
        need = "one of matplotlib's axes" if count == 1 else f"{count} of matplotlib's axes"
        raise ArgumentError(f"ax is {axes!r}, but must be {need}: plt.subplots({count}) makes them.")
    return given


def colours(axes: Any) -> tuple[str, Any, Any]:
    """(ink, faint, paper) of the style that holds; faint lies between the other two."""
    ink, paper = matplotlib.rcParams["text.color"], axes.get_facecolor()
    if isinstance(axes.figure, Drawn):
        return ink, FAINT, paper
    return ink, tuple(0.2 * np.array(to_rgb(ink)) + 0.8 * np.array(to_rgb(paper))), paper


def is_dark(colour: Any) -> bool:
    return float(np.mean(to_rgb(colour))) < 0.5


def look(place: int) -> dict[str, Any]:
    """Colour and dashes of the n-th line: together they tell two dozen apart."""
    return {"color": SERIES[place % len(SERIES)], "ls": DASHES[place // len(SERIES) % len(DASHES)]}


def legend(
    figure: Any, labels: list[str], axes: Any = None, handles: list[Any] | None = None, inside: bool = False
) -> None:
    """Above the axes, where it covers no data, or `inside` of them; a single line needs none. The handles are the
    axes', unless given."""
    if len(labels) > 1:
        axes = axes or figure.axes[0]
        own = axes.get_legend_handles_labels() if handles is None else (handles, labels)
        if inside:
            axes.legend(*own)
            return
        columns = max(1, min(len(labels), 44 // (max(map(len, labels)) + 6)))
        figure.set_figheight(figure.get_figheight() + 0.19 * math.ceil(len(labels) / columns))
        figure.legend(*own, loc="outside upper left", ncols=columns)


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

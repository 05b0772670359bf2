"""The figures of a run's page: those of `jals.plot`, and two of the table; and what a page keeps of one, its files. The
same picture always gives the same bytes."""

import io
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ....plot.drawing import Line, certificate, curves, error_by_degree, residuals, spectrum  # noqa: F401 - are drawn here
from ....plot.style import (  # noqa: F401 - the report's figures look alike
    DARK,
    FAINT,
    INK,
    PAPER,
    RED,
    SERIES,
    WIDTH,
    Figure,
    LogNorm,
    MaxNLocator,
    NullFormatter,
    above,
    css_pixels,
    drawn,
    few_letters,
    legend,
    log,
    look,
    panels,
    png,
    styled,
    tick_label,
)
from ....plot.summaries import Density


class Picture(NamedTuple):
    """One figure as files: the SVG also in colours for a dark page."""

    png: bytes
    svg: bytes
    dark_svg: bytes
    width: int  # CSS pixels
    height: int


def picture(draw: Callable[..., Figure], *arguments: Any, pixels: bool = True, **options: Any) -> Picture:
    """What a function draws, in jals's style whatever the user's matplotlibrc says; without `pixels` no PNG is made.

    Texts among the arguments are drawn as they are: printable, one line, dollar signs no mathematics.
    """
    with styled():
        figure = drawn(draw, *arguments, **options)
        svg = io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        text = svg.getvalue()
        dark = text
        for light, other in DARK.items():
            dark = dark.replace(light.encode(), other.encode())
        return Picture(png(figure) if pixels else b"", text, dark, *css_pixels(figure))


def degrees(lines: list[Line]) -> Figure:
    """The share of rows with at least so many entries, on log axes."""
    (axes,) = panels(None, 1, (WIDTH, 3.3))
    for place, line in enumerate(lines):
        axes.step(line.x, line.y, where="pre", label=line.label, **look(place))
    axes.set(xlabel="entries d of a row", ylabel="share of rows with d entries or more")
    log(axes, "x", np.concatenate([line.x for line in lines]))
    log(axes, "y", np.concatenate([line.y for line in lines]))
    legend(axes.figure, [line.label for line in lines])
    return axes.figure


def density(table: Density) -> Figure:
    """The share of pairs observed as colour; blocks without an entry stay grey."""
    (axes,) = panels(None, 1, (WIDTH, 3.3))
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
    bar = axes.figure.colorbar(image, ax=axes, label="share of pairs observed")
    bar.ax.yaxis.set_major_formatter(lambda number, _: f"{100 * number:.3g} %")
    bar.ax.yaxis.set_minor_formatter(NullFormatter())
    return axes.figure



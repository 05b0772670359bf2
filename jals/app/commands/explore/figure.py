"""The map as a figure of Plotly: a plain dictionary, so that it can be looked at without a browser."""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np

from ....plot.item_map import ItemMap
from .parts import shown
from .search import Finder

# Seen on white and on black alike; few ratings to many.
COLOURS = [[0, "#8d99ae"], [0.5, "#1f9e89"], [1, "#f0702d"]]
MARKS = (1, 2, 3)  # the traces that change


def drawing(items: ItemMap, finder: Finder, entries: np.ndarray) -> dict:
    """All items drawn, coloured by how many ratings they have, and empty traces for what is marked."""
    rows = items.drawn[::-1]  # those with most ratings lie on top
    place, counts = items.place(rows), entries[rows]
    level = np.log10(np.maximum(counts, 1))
    top = float(level.max()) if len(level) else 1.0
    ticks = [tick for tick in (1, 3, 10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000) if np.log10(tick) <= top]
    bar = {
        "title": {"text": "ratings of the item", "side": "top"},
        "orientation": "h",
        "x": 0.5,
        "xanchor": "center",
        "y": 1.0,
        "yanchor": "bottom",
        "len": 0.7,
        "thickness": 8,
        "outlinewidth": 0,
        "tickvals": np.log10(ticks).tolist(),
        "ticktext": [f"{tick:,}" for tick in ticks],
    }
    dots = {
        "color": level.round(3).tolist(),
        "colorscale": COLOURS,
        "cmin": 0,
        "cmax": max(top, 0.5),
        "size": 5,
        "opacity": 0.6,
        "colorbar": bar,
    }
    everything = points(rows, place, finder, entries) | {"marker": dots, "name": "item", "showlegend": False}
    axes = {"zeroline": False, "showticklabels": False, "gridcolor": "rgba(128,128,128,.2)", "automargin": False}
    return {
        "data": [everything, *marked(items, finder, entries, None, (), ())],
        "layout": {
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 30, "r": 8, "t": 70, "b": 70},
            "font": {"size": 12},
            "hovermode": "closest",
            "dragmode": "pan",
            "legend": {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.08, "yanchor": "top"}
            | {"traceorder": "reversed"},
            "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "#808890", "activecolor": "#808890"},
            "xaxis": axes | {"title": {"text": f"1st direction: {items.share[0]:.0%} of the variance"}},
            "yaxis": axes | {"title": {"text": f"2nd direction: {items.share[1]:.0%}"}},
            "uirevision": "as the visitor left it",
        },
    }


def marked(
    items: ItemMap,
    finder: Finder,
    entries: np.ndarray,
    selected: int | None,
    near: Sequence[int],
    own: Sequence[int],
) -> list[dict]:
    """The traces `MARKS`: a user's items, neighbours, the selected item; also where these are not among those drawn."""
    made = []
    looks: Any = (
        ("rated by the user", own, {"size": 9, "symbol": "diamond-open", "color": "#8a5cd6", "line": {"width": 2}}),
        ("neighbours", near, {"size": 11, "symbol": "circle-open", "color": "#d6246c", "line": {"width": 2}}),
        (
            "selected",
            [] if selected is None else [selected],
            {"size": 15, "symbol": "star", "color": "#d6246c", "line": {"width": 1, "color": "#ffffff"}},
        ),
    )
    for name, rows, look in looks:
        rows = np.asarray(rows, int)
        made.append(points(rows, items.place(rows), finder, entries) | {"name": name, "marker": look})
    return made


def points(rows: np.ndarray, place: np.ndarray, finder: Finder, entries: np.ndarray) -> dict:
    """A trace of items; pointed at, one says its title and how many ratings it has."""
    # Plotly takes some HTML in what it shows: a title is shown as it is.
    said = [f"{html.escape(shown(finder.name(row)))}<br>{entries[row]:,} ratings" for row in rows]
    return {
        "type": "scatter",
        "mode": "markers",
        "x": place[:, 0].round(4).tolist(),
        "y": place[:, 1].round(4).tolist(),
        "text": said,
        "customdata": rows.tolist(),
        "hovertemplate": "%{text}<extra></extra>",
    }

"""Pieces of the page: the lists and their bars."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from dash import dcc, html

from ...show.console import printable
from .answers import Answers, Entries, Recommended
from .search import Finder

SHOWN = 50  # entries of a user at once
NOTHING = -1  # stands in a picklist for no row


def shown(title: str) -> str:
    """A title or id as the page shows it."""
    return printable(title)


def options(finder: Finder, rows: Sequence[int], text: str | None = None, value: int | None = None) -> list[dict]:
    """Rows as what a picklist offers for `text`. What is chosen, `value`, stays among them, or it could not be shown.

    Of what is offered a browser shows what holds the text in its label or in `search`: here all that matched."""
    made = []
    for row in rows if value is None or value in rows else [*rows, value]:
        name, known = shown(finder.name(row)), shown(finder.ids[row])
        label = name if name == known else f"{name} · {known}"
        made.append({"label": label, "value": int(row)} | ({"search": text} if text and row in rows else {}))
    if text and not rows:
        made.append({"label": "nothing has all of these words", "value": NOTHING, "disabled": True, "search": text})
    return made


def neighbours(found: Sequence[tuple[int, float]], finder: Finder, answers: Answers, measure: str) -> list:
    """The items most like the selected one, a line each."""
    if not found:
        return [html.P("Nothing is like it among these items: lower “at least … ratings”, or choose another item.")]
    largest = max(abs(likeness) for _, likeness in found)
    most, digits = (largest, _digits(largest)) if measure == "dot" else (1.0, 2)
    rows = []
    for row, likeness in found:
        rows.append(
            html.Li(
                [
                    _choose("near", row, finder),
                    html.Span(f"{answers.entries[row]:,}", className="count"),
                    _bar(likeness / (most or 1.0), f"{likeness:.{digits}f}"),
                ]
            )
        )
    return [_head("item", "ratings", "cosine" if measure == "cosine" else "dot product"), html.Ol(rows)]


def history(rated: Entries, finder: Finder, answers: Answers) -> list:
    """What someone rated, to be changed or taken away: what was rated here first."""
    if not len(rated.item):
        return [html.P("Nothing is rated yet. Add items above, or choose a user of the data.", className="empty")]
    rows = []
    for place in range(min(SHOWN, len(rated.item))):
        item, value = int(rated.item[place]), float(rated.value[place])
        name = shown(finder.name(item))
        if answers.values_count:
            field: Any = dcc.Input(
                id={"type": "value", "index": item},
                type="number",
                value=value,
                min=answers.low if answers.by_value else None,
                max=answers.high if answers.by_value else None,
                step=answers.step or "any",
                debounce=0.4,
                className="value",
            )
            field = html.Label([html.Span(f"value of {name}", className="unseen"), field])
        else:
            field = html.Span(f"{value:g}", className="value")
        said: Any = {"title": f"take {name} away", "aria-label": f"take {name} away"}
        drop = html.Button("×", id={"type": "drop", "index": item}, className="drop", **said)
        kind = "changed" if rated.changed[place] else ""
        rows.append(html.Li([_choose("own", item, finder), field, drop], className=kind, key=str(item)))
    more = len(rated.item) - len(rows)
    said = [html.P(f"… and {more:,} more, which count too. Search one above to change it.")] if more else []
    return [_head("item", "value", ""), html.Ul(rows), *said]


def recommended(best: Sequence[Recommended], before: Sequence[int], finder: Finder, answers: Answers) -> list:
    """Recommendations with their reasons, and where they stood before the last change.

    Args:
        before: the rows of the list then; none marks nothing.
    """
    largest = max((abs(part) for one in best for _, part in one.reasons), default=0) or 1.0
    digits = _digits(max((abs(one.score) for one in best), default=1.0))
    rows = []
    for place, one in enumerate(best):
        reasons = [
            html.Li(
                [
                    html.Span(shown(finder.name(item)), className="because", title=shown(finder.name(item))),
                    _bar(part / largest, f"{part:+.{digits}f}"),
                ]
            )
            for item, part in one.reasons
        ]
        rest = [f"{one.others:,} more ratings together {one.rest:+.{digits}f}"] if one.others else []
        rest += [f"for anyone {one.offset:.{digits}f}"] if one.offset else []
        if rest:
            reasons.append(html.Li("; ".join(rest), className="rest"))
        title = [_choose("best", one.item, finder), *_moved(place, one.item, before)]
        score = html.Span(f"{one.score:.{digits}f}", className="score")
        count = html.Span(f"{answers.entries[one.item]:,}", className="count")
        line = html.Div([html.Div(title), count, score], className="line")
        rows.append(html.Li([line, html.Ul(reasons, className="reasons")]))
    return [_head("item", "ratings", "score"), html.Ol(rows, className="best")]


def _moved(place: int, item: int, before: Sequence[int]) -> list:
    if not before:
        return []
    if item not in before:
        return [html.Span("new", className="moved up")]
    by = before.index(item) - place
    if not by:
        return []
    return [html.Span(f"{'▲' if by > 0 else '▼'} {abs(by)}", className=f"moved {'up' if by > 0 else 'down'}")]


def _choose(where: str, row: int, finder: Finder) -> Any:
    """A title that selects its item."""
    name = shown(finder.name(row))
    return html.Button(name, id={"type": "choose", "where": where, "index": int(row)}, className="choose", title=name)


def _bar(share: float, number: str) -> Any:
    width = f"{100 * min(1.0, abs(float(np.nan_to_num(share)))):.1f}%"
    filled = html.Span(style={"width": width}, className="fill minus" if share < 0 else "fill")
    return html.Span([html.Span(filled, className="track"), html.Span(number, className="number")], className="bar")


def _digits(largest: float) -> int:
    """After the point: three figures of the largest number, and two digits at least."""
    return max(2, 2 - math.floor(math.log10(largest))) if largest > 0 else 2


def _head(*names: str) -> Any:
    return html.Div([html.Span(name) for name in names], className="head")


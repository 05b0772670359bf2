"""The page: what stands where, and what each action of a visitor changes.

All that a visitor has chosen lies in the browser; a call holds it, and the server keeps nothing of it.
"""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dash import ALL, Dash, Input, Output, Patch, State, ctx, dcc, html, no_update
from flask import Flask

import jals

from ....plot.item_map import ItemMap
from . import figure, parts
from .answers import Answers
from .search import Finder

MARKED = 100  # of a user's items on the map
# What is selected further down is shown further up.
SHOW_SELECTED = """() => {
    const triggered = dash_clientside.callback_context.triggered;
    const section = document.querySelector('section.near');
    if (triggered.length && triggered[0].value && section.getBoundingClientRect().top < 0)
        section.scrollIntoView({behavior: 'smooth'});
    return dash_clientside.no_update;
}"""
ALOUD: Any = {"aria-live": "polite"}  # a screen reader says what changes
NOTHING = {"user": None, "changed": [], "dropped": []}


class Explored(NamedTuple):
    """What the page shows.

    Attributes:
        name: of the run.
        facts: what it is, in a line.
        answers, items, users, plane: what answers, and what finds and places rows.
    """

    name: str
    facts: str
    answers: Answers
    items: Finder
    users: Finder
    plane: ItemMap


def application(explored: Explored) -> Dash:
    """The page as an application of Dash. It asks nothing of any other server."""
    server: Any = Flask(__name__, static_folder=None)  # with no folder of files but the page's own
    app = Dash(
        __name__,
        server=server,
        title=f"jals explore: {parts.shown(explored.name)}",
        update_title="",
        assets_folder=str(Path(__file__).parent / "assets"),
        serve_locally=True,
        meta_tags=[{"name": "color-scheme", "content": "light dark"}],
    )
    app.layout = layout(explored)
    callbacks(app, explored)
    return app


def layout(explored: Explored) -> Any:
    """All that stands on the page at first: the item with most ratings as an example, and nobody's ratings."""
    answers, items, users = explored.answers, explored.items, explored.users
    first = items.find("")
    facts = html.P(explored.facts, className="quiet")
    measure = dcc.RadioItems(
        [{"label": "cosine", "value": "cosine"}, {"label": "dot product", "value": "dot"}],
        "cosine",
        id="measure",
        inline=True,
        className="switch",
    )
    least = dcc.Input(id="least", type="number", min=0, step=1, value=answers.least, debounce=0.4)
    drawn, there = len(explored.plane.drawn), len(items)
    which = f"All {drawn:,} items with ratings" if drawn == np.count_nonzero(answers.entries) else (
        f"The {drawn:,} items with most ratings of {there:,}"
    )
    if answers.values_count:
        liked = f"An item that you add has value {answers.liked:g}; change it in its field."
    else:
        liked = "This model counts that an item was rated, not how: values change nothing."
    return html.Div(
        [
            html.Header(
                [
                    html.H1(["jals explore ", html.Span(parts.shown(explored.name))]),
                    facts,
                    html.Label(["Show items with at least ", least, " ratings"], className="bar-of-entries"),
                ]
            ),
            html.Main(
                [
                    html.Section(
                        [
                            html.H2("What is like this item?"),
                            html.Label("Search by title or id", htmlFor="item"),
                            _picklist("item", items, first, first[0] if first else None, "Type a title or an id"),
                            html.Div([html.Span("Likeness by "), measure], className="switches"),
                            html.Div(id="near"),
                        ],
                        className="near",
                    ),
                    html.Section(
                        [
                            html.H2("Where it lies among all"),
                            html.P(
                                f"{which}. Those near each other have alike factors, as far as two directions can "
                                "show it. Point at one for its title, click to select it.",
                                className="quiet",
                            ),
                            dcc.Graph(
                                id="map",
                                figure=figure.drawing(explored.plane, items, answers.entries),
                                config={
                                    "displayModeBar": True,
                                    "displaylogo": False,
                                    "modeBarButtons": [["zoomIn2d", "zoomOut2d", "resetScale2d"]],
                                    "scrollZoom": True,
                                },
                                responsive=True,
                                className="plane",
                            ),
                        ],
                        className="map",
                    ),
                    html.Section(
                        [
                            html.H2("Someone’s ratings"),
                            html.Label("A user of the data, or nobody yet", htmlFor="user"),
                            _picklist("user", users, users.find(""), None, "Type a user’s id"),
                            html.Label("Add or change an item", htmlFor="add"),
                            _picklist("add", items, first, None, "Type a title or an id"),
                            html.P(liked, className="quiet"),
                            html.Div(
                                [
                                    html.Span(id="count"),
                                    html.Button("Add the selected item", id="take", className="plain"),
                                    html.Button("Undo all changes", id="reset", className="plain"),
                                ],
                                className="switches",
                            ),
                            html.Div(id="history"),
                        ],
                        className="history",
                    ),
                    html.Section(
                        [
                            html.H2("What they may like next, and why"),
                            html.P(
                                "Solved at once from the ratings beside it, the items as they were fitted. Below each: "
                                "the ratings that add most to its score.",
                                className="quiet",
                            ),
                            html.Div(id="best", **ALOUD),
                        ],
                        className="recommended",
                    ),
                ]
            ),
            dcc.Store(id="ratings", data=NOTHING),
            dcc.Store(id="before", data={"user": None, "items": []}),
        ],
        className="page",
    )


def _picklist(name: str, finder: Finder, first: list[int], value: int | None, hint: str) -> Any:
    return dcc.Dropdown(
        id=name,
        options=parts.options(finder, first),
        value=value,
        placeholder=hint,
        clearable=name != "item",
        search_order="original",
        maxHeight=340,
        labels={"no_options_found": "searching …"},  # until the server has answered
    )


def callbacks(app: Dash, explored: Explored) -> None:
    """Ties what a visitor does to what changes."""
    answers, items, users, plane = explored.answers, explored.items, explored.users, explored.plane

    for name, finder in (("item", items), ("user", users), ("add", items)):
        _searches(app, name, finder)

    @app.callback(
        Output("item", "value"),
        Output("item", "options", allow_duplicate=True),
        Input({"type": "choose", "where": ALL, "index": ALL}, "n_clicks"),
        Input("map", "clickData"),
        prevent_initial_call=True,
    )
    def choose(_: Any, clicked: Any) -> Any:
        """Selects the item whose title, or point on the map, was clicked."""
        by = ctx.triggered_id
        if not ctx.triggered or not ctx.triggered[0]["value"]:
            return no_update, no_update
        row = clicked["points"][0].get("customdata") if by == "map" else by["index"]
        return row, parts.options(items, items.find(""), value=row)

    app.clientside_callback(
        SHOW_SELECTED,
        Output("near", "title"),
        Input({"type": "choose", "where": ALL, "index": ALL}, "n_clicks"),
        prevent_initial_call=True,
    )

    @app.callback(
        Output("near", "children"),
        Output("map", "figure"),
        Input("item", "value"),
        Input("measure", "value"),
        Input("least", "value"),
        Input("ratings", "data"),
    )
    def select(item: int | None, measure: str, least: int | None, ratings: dict) -> Any:
        """The neighbours of the selected item, and the marks on the map."""
        found = [] if item is None else answers.near(item, measure, least or 0)
        own = rated_of(answers, ratings).item[:MARKED]
        drawn = Patch()
        for place, trace in zip(
            figure.MARKS,
            figure.marked(plane, items, answers.entries, item, [row for row, _ in found], own.tolist()),
            strict=True,
        ):
            drawn["data"][place] = trace
        return parts.neighbours(found, items, answers, measure), drawn

    @app.callback(
        Output("ratings", "data"),
        Output("add", "value"),
        Input("user", "value"),
        Input("add", "value"),
        Input("take", "n_clicks"),
        Input("reset", "n_clicks"),
        Input({"type": "value", "index": ALL}, "value"),
        Input({"type": "drop", "index": ALL}, "n_clicks"),
        State("item", "value"),
        State("ratings", "data"),
        prevent_initial_call=True,
    )
    def change(user: Any, added: Any, take: Any, reset: Any, values: Any, drops: Any, item: Any, ratings: dict) -> Any:
        """Keeps what was changed."""
        by, value = ctx.triggered_id, ctx.triggered[0]["value"] if ctx.triggered else None
        if by == "user":
            return NOTHING | {"user": value}, no_update
        if by == "reset":
            return NOTHING | {"user": ratings["user"]}, no_update
        if value is None or (by == "take" and item is None):  # a field that is new or empty, a button that is new
            return no_update, no_update
        if by in ("add", "take"):
            row = added if by == "add" else item
            now = held(answers, ratings, row)
            return with_value(ratings, row, answers.liked if now is None else now), None
        row = by["index"]
        if by["type"] == "drop":
            return without(ratings, row), no_update
        if value == held(answers, ratings, row):
            return no_update, no_update
        return with_value(ratings, row, value), no_update

    @app.callback(
        Output("history", "children"),
        Output("count", "children"),
        Output("best", "children"),
        Output("before", "data"),
        Input("ratings", "data"),
        Input("least", "value"),
        State("before", "data"),
    )
    def answer(ratings: dict, least: int | None, before: dict) -> Any:
        """The ratings, and what follows from them."""
        rated = rated_of(answers, ratings)
        whole, changed = len(rated.item), int(rated.changed.sum()) + len(ratings["dropped"])
        count = f"{whole:,} {'item' if whole == 1 else 'items'}" + (f", {changed:,} changed here" if changed else "")
        listed = parts.history(rated, items, answers)
        if not whole:
            empty = html.P("Add an item that you like, or choose a user: the list appears at once.", className="empty")
            return listed, count, empty, {"user": None, "items": []}
        try:
            best = answers.recommended(rated, least or 0)
        except (jals.ArgumentError, jals.DataError) as error:
            return listed, count, html.P(parts.shown(str(error)), className="wrong"), no_update
        if not best:
            return listed, count, html.P("Nothing is left: lower “at least … ratings”.", className="empty"), no_update
        same = ratings["user"] == before["user"] and ctx.triggered_id == "ratings"
        shown = parts.recommended(best, before["items"] if same else (), items, answers)
        return listed, count, shown, {"user": ratings["user"], "items": [one.item for one in best]}


def _searches(app: Dash, name: str, finder: Finder) -> None:
    @app.callback(
        Output(name, "options"), Input(name, "search_value"), Input(name, "value"), prevent_initial_call=True
    )
    def search(text: str | None, value: int | None) -> list[dict]:
        """What a picklist offers for what is typed."""
        return parts.options(finder, finder.find(text), text, value)


# ---- what a visitor has changed: {"user": row | None, "changed": [[item, value], ...], "dropped": [item, ...]} ----


def rated_of(answers: Answers, ratings: dict) -> Any:
    """The entries that these changes lead to."""
    changed = {int(item): float(value) for item, value in ratings["changed"]}
    return answers.rated(ratings["user"], changed, tuple(ratings["dropped"]))


def held(answers: Answers, ratings: dict, item: int) -> float | None:
    """The value of an item now; None where it is not rated."""
    rated = rated_of(answers, ratings)
    at = np.flatnonzero(rated.item == item)
    return float(rated.value[at[0]]) if len(at) else None


def with_value(ratings: dict, item: int, value: float) -> dict:
    """With this value of an item, as the latest change."""
    others = [pair for pair in ratings["changed"] if pair[0] != item]
    return ratings | {
        "changed": [*others, [item, value]],
        "dropped": [one for one in ratings["dropped"] if one != item],
    }


def without(ratings: dict, item: int) -> dict:
    """Without an item, of the data or of these changes."""
    others = [pair for pair in ratings["changed"] if pair[0] != item]
    dropped = [one for one in ratings["dropped"] if one != item]
    return ratings | {"changed": others, "dropped": [*dropped, item]}

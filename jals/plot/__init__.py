"""Figures of fits, by matplotlib (extra `plot`, imported when one is drawn): those that the page of a run shows, too.

Each call returns a `matplotlib.figure.Figure`, which a notebook shows and `figure.savefig("x.svg")` keeps, or with
`ax=` draws into these axes, in their style, and returns them. Nothing of matplotlib's global state is changed and
pyplot is not needed. What is shown may be one thing, or a dict of several by name: `{"ALS": result, "Adam": other}`.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, check_choice
from ..metrics import RMSE
from ..model.factors import Factors
from ..model.objectives import Objective
from . import summaries
from .item_map import ItemMap

_MOST = 1_000  # dots of the map


def loss(results: Any, across: str = "sweep", *, ax: Any = None) -> Any:
    """The loss L of fits along the way. One axes.

    Across: sweeps, seconds of solver work (without compilation, losses and validation), or passes over the entries. Up:
    L, as `jals.loss` defines it, a sum without a unit of its own; a log axis where it changes by more than a factor of
    3, as has the axis across where one fit is more than 5 times as long as another.

    Args:
        results: a `jals.Result` or its `history`, or a dict of these by name. Losses compare where the objective is
            one.
        across: "sweep", "seconds" or "passes".
        ax: axes to draw into.

    Raises:
        ArgumentError: for what has no such history. ImportError: without matplotlib; so everywhere here.
    """
    return _made(_drawing().curves, *_progress(results, "loss", across), ax=ax)


def validation(results: Any, across: str = "sweep", *, ax: Any = None) -> Any:
    """The metric on the validation ratings along the way, as `jals.fit(..., validation=, metric=)` has it. One axes.

    Across: as in `loss`. Up: the metric by its name; RMSE in the unit of the values, ranking metrics from 0 to 1.

    Args and errors: as of `loss`.
    """
    return _made(_drawing().curves, *_progress(results, "validation", across), ax=ax)


def history(results: Any, across: str = "sweep", *, ax: Any = None) -> Any:
    """`loss` above `validation`, of which what was recorded. `result.plot()` is this of one fit.

    Args:
        results, across: as for `loss`.
        ax: as many axes as there are panels.
    """
    panels = [_found(results, name, across) for name in ("loss", "validation")]
    several = [panel for panel in panels if panel is not None]
    if not several:
        raise ArgumentError("neither loss nor validation was recorded: fit with loss_every=1, or validation=.")
    return _made(_drawing().stacked, several, ax=ax)


def certificate(proof: Any, *, required: bool = True, ax: Any = None) -> Any:
    """Histograms of the backward errors of all rows: users', items', and of those updated last as given. Three axes,
    one above the other. `certificate.plot()` is this.

    Across: the backward error, dimensionless, on a log scale with five bins a decade, those of exactly 0 apart at the
    left; the dashed line is the bound. Up: rows. Rows over the bound are red.

    Args:
        proof: a `jals.Certificate`.
        required: whether the last are held to the bound: not those of gradient methods, nor of inexact solves.
        ax: three axes.
    """
    if not callable(getattr(proof, "errors", None)):
        raise ArgumentError(f"proof is of type {type(proof).__name__}: give what jals.certify returns.")
    errors = {name: np.asarray(error) for name, error in proof.errors().items()}
    edges = summaries.error_edges(list(errors.values()), proof.bound)
    sides = [(f"{name} ({len(each):,})", summaries.backward_errors(each, edges)) for name, each in errors.items()]
    return _made(_drawing().certificate, sides, proof.bound, required, ax=ax)


def spectrum(factors: Any, *, ax: Any = None) -> Any:
    """The singular values of X Yᵀ, which do not depend on the gauge of the factors. One axes.

    Across: k, from 1 to the rank. Up: the k-th largest, in the unit of the values, on a log scale.

    Args:
        factors: `jals.Factors`, or a result with `factors`, or a dict of these by name.
        ax: axes to draw into.
    """
    lines = [(name, summaries.spectrum(_factors(each).gathered())) for name, each in _named(factors)]
    return _made(_drawing().spectrum, lines, ax=ax)


def residuals(factors: Any, ratings: Any, objective: Objective, *, ax: Any = None) -> Any:
    """What the model leaves of entries, by their value: where it shrinks towards the mean, the boxes rise from left to
    right. One axes.

    Across: the value, each by itself where at most 12 are distinct, else ten bins with as many entries each. Up: t - s,
    target minus prediction, in the unit of the values (for implicit feedback t is 1). A box from the first to the third
    quartile with the median as a white line, and whiskers from 5 % to 95 %; fewer than ten entries are a hollow dot.

    Args:
        factors: `jals.Factors`, or a result with `factors`.
        ratings: `jals.Ratings`, or a dict by name: `{"train": train, "test": test}`. Of more than a million entries a
            million, drawn with seed 0.
        objective: says what the target is.
        ax: axes to draw into.
    """
    parts = [(name, summaries.scored(_factors(factors), part, objective)) for name, part in _tables(ratings, "ratings")]
    value = np.concatenate([part.value for _, part in parts])
    edges, values = summaries.residual_edges(value), np.unique(value)
    bands = [(name, summaries.residual_bands(part.value, part.residual, values, edges)) for name, part in parts]
    return _made(_drawing().residuals, bands, summaries.value_label(edges), ax=ax)


def error_by_degree(
    factors: Any, train: Ratings, test: Ratings, objective: Objective, side: str = "user", *, ax: Any = None
) -> Any:
    """For whom predictions are good: the error of entries by how many training entries their row has. Two axes.

    Across: training entries of the user or item, in bins that double (or take four times as much, where a row has
    4,096 and more). Up, above: RMSE in the unit of the values with its 95 % interval, hollow below ten entries, and
    dotted that of all entries; below: how many test entries each bin has.

    Args:
        factors: `jals.Factors` or a result with `factors`, or a dict of these by name.
        train: what the factors were fitted to.
        test: held-out entries, of the same users and items.
        objective: says what the target is.
        side: "user" or "item".
        ax: two axes.
    """
    check_choice("side", side, ("user", "item"))
    ((_, train),), ((_, test),) = _tables(train, "train"), _tables(test, "test")
    degree = summaries.degrees(train, side)
    scored = [(name, summaries.scored(_factors(each), test, objective)) for name, each in _named(factors)]
    lines = [(name, summaries.error_by_degree(part, side, degree)) for name, part in scored]
    return _made(_drawing().error_by_degree, lines, side, "test entries", ax=ax)


def item_map(factors: Any, titles: Any = None, train: Ratings | None = None, *, ax: Any = None) -> Any:
    """The items in the plane in which their directions spread most: near by cosine is near here. One axes.

    Across and up: the first two principal components of y / |y|, dimensionless, their share of the variance in the
    label; signs are arbitrary. Colour: entries of the item, on a log scale. The busiest that have room are named.

    Args:
        factors: `jals.Factors`, or a result with `factors`.
        titles: `(num_items,)` names, or None.
        train: the entries to count: the 1,000 items with most are drawn, those with none are not. None: the first
            1,000, in one colour.
        ax: axes to draw into.
    """
    item = np.asarray(_factors(factors).gathered().item)
    entries = np.ones(len(item), int) if train is None else summaries.degrees(_tables(train, "train")[0][1], "item")
    names = [] if titles is None else [str(title) for title in titles]
    for what, many in (("titles", len(names) if titles is not None else len(item)), ("train", len(entries))):
        if many != len(item):
            raise ArgumentError(f"{what} is of {many:,} items, but the factors have {len(item):,}.")
    plane = ItemMap(item, entries, _MOST)
    if not len(plane.drawn):
        raise ArgumentError("no item has entries and factors that are not 0: there is nothing to draw.")
    rows = plane.drawn if names else plane.drawn[:0]
    named = _drawing().Named(rows, [names[row] for row in rows])
    return _made(_drawing().item_map, plane, entries, named, ax=ax)


def _drawing() -> Any:
    from . import drawing

    return drawing


def _made(draw: Callable[..., Any], *arguments: Any, ax: Any) -> Any:
    from . import style

    if ax is None:
        return style.drawn(draw, *arguments)
    style.drawn_in(ax, draw, *arguments)
    return ax


def _named(things: Any) -> list[tuple[str, Any]]:
    """(name, thing) of one without a name, or of a dict of several."""
    if isinstance(things, Mapping):
        if not things:
            raise ArgumentError("there is nothing to draw: the dict is empty.")
        return [(str(name), each) for name, each in things.items()]
    return [("", things)]


def _factors(thing: Any) -> Factors:
    found = getattr(thing, "factors", thing)
    if not isinstance(found, Factors):
        raise ArgumentError(f"factors is of type {type(thing).__name__}: give result.factors, or a result.")
    return found


def _tables(given: Any, what: str) -> list[tuple[str, Ratings]]:
    named = [(name or "entries", each) for name, each in _named(given)]
    for _, each in named:
        if not isinstance(each, Ratings):
            raise ArgumentError(f"{what} is of type {type(each).__name__}, but must be jals.Ratings.")
    return named


def _found(results: Any, name: str, across: str) -> summaries.Curves | None:
    check_choice("across", across, summaries.ACROSS)
    histories, metrics = [], []
    for label, each in _named(results):
        record = getattr(each, "history", each)
        if not all(hasattr(record, column) for column in (name, across)):
            what = f"results is of type {type(each).__name__}"
            raise ArgumentError(f"{what}: give what jals.fit returns, or its history.")
        histories.append((label, vars(record)))
        metrics.append(getattr(each, "metric", RMSE))
    if name == "validation" and len(set(metrics)) > 1:
        raise ArgumentError(f"the results were validated by {', '.join(dict.fromkeys(metrics))}: draw each by itself.")
    return summaries.progress(histories, name, across, metrics[0])


def _progress(results: Any, name: str, across: str) -> summaries.Curves:
    found = _found(results, name, across)
    if found is None:
        how = "loss_every=1" if name == "loss" else "validation=ratings"
        raise ArgumentError(f"no {name} was recorded: fit with {how}.")
    return found

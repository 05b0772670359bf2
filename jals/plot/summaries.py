"""The numbers behind the figures: NumPy on the host, seconds for tens of millions of entries."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..metrics import is_error, spelt
from ..model.factors import Factors, predict
from ..model.objectives import Objective

ACROSS = {"sweep": "sweeps", "seconds": "seconds of solver work", "passes": "passes over the entries"}
SAMPLE = 1_000_000  # entries of a part that are predicted for a figure
_DISTINCT = 12  # up to so many different values have a residual band each
_BINS = 10  # and more are put into so many bins
_BLOCKS = 64  # rows and columns of the density's picture
_POINTS = 300  # of a degree distribution's curve
FEW = 10  # fewer entries have no box and no interval: they are drawn hollow
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Line(NamedTuple):
    """A line of a plot: its name, and its points."""

    label: str
    x: np.ndarray
    y: np.ndarray


class Curves(NamedTuple):
    """Lines of one panel. `level`: the numbers are shares, and go on an axis that is not logarithmic."""

    lines: list[Line]
    xlabel: str
    ylabel: str
    level: bool


class Scored(NamedTuple):
    """Entries of one part of a split with what the model leaves of them.

    Attributes:
        user, item, value, weight: as in `Ratings`, entries of weight 0 left out.
        residual: t - s, float64: t is what the objective fits an entry to (its value, or 1 for implicit feedback).
        total: how many such entries the part has; more than are here where they were sampled.
    """

    user: np.ndarray
    item: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    residual: np.ndarray
    total: int


class Histogram(NamedTuple):
    """Counts of errors in `(edges[k], edges[k + 1]]`, and of those that no logarithm shows. Edges are log10."""

    edges: np.ndarray
    counts: np.ndarray
    zeros: int
    not_finite: int


class Bands(NamedTuple):
    """Residual quantiles by value. `edges` is None where each distinct value has its own band.

    Attributes:
        values: `(bands,)`, the value, or the middle of the bin.
        edges: `(bands + 1,)`, or None.
        quantiles: `(bands, 5)`, at `QUANTILES`; NaN without entries.
        counts: `(bands,)`, entries.
    """

    values: np.ndarray
    edges: np.ndarray | None
    quantiles: np.ndarray
    counts: np.ndarray


class ErrorByDegree(NamedTuple):
    """RMSE of entries by how many training entries their row has: bins 0, 1, 2-3, 4-7, ..., or where a row has
    4,096 and more 0, 1-3, 4-15, ...

    Attributes:
        edges: `(bins + 1,)`, a bin holds the degrees from its edge to below the next.
        rmse, low, high: `(bins,)`, with a 95 % interval from the spread of squared errors (NaN below `FEW` entries).
        counts: `(bins,)`, entries.
        overall: RMSE of all of them.
    """

    edges: np.ndarray
    rmse: np.ndarray
    low: np.ndarray
    high: np.ndarray
    counts: np.ndarray
    overall: float


class Density(NamedTuple):
    """Share of pairs observed, `(blocks, blocks)`, users and items sorted by degree, the busiest first."""

    share: np.ndarray
    num_users: int
    num_items: int


def progress(
    histories: Sequence[tuple[str, Mapping[str, Any]]], name: str, across: str, metric: str
) -> Curves | None:
    """The column "loss" or "validation" of labelled histories against another of their columns, of those that have it;
    None where none has."""
    lines = [
        Line(label, np.array(columns[across]), np.array(columns[name], float))
        for label, columns in histories
        if name in columns and across in columns and np.isfinite(np.array(columns[name], float)).any()
    ]
    ylabel = "loss L" if name == "loss" else f"{spelt(metric)} of validation entries"
    return Curves(lines, ACROSS[across], ylabel, name != "loss" and not is_error(metric)) if lines else None


def observed(ratings: Ratings) -> np.ndarray | slice:
    """Picks the entries of weight > 0; the others count as missing."""
    return slice(None) if ratings.weight is None else ratings.weight > 0


def degrees(ratings: Ratings, side: str) -> np.ndarray:
    """Entries of every row of a side, `(rows,)`."""
    return np.bincount(getattr(ratings, side)[observed(ratings)], minlength=getattr(ratings, f"num_{side}s"))


def scored(factors: Factors, part: Ratings, objective: Objective) -> Scored:
    """The entries of a part, or `SAMPLE` of them drawn with seed 0, predicted."""
    which = np.arange(len(part))[observed(part)]
    total = len(which)
    if total > SAMPLE:
        which = np.sort(np.random.default_rng(0).choice(which, SAMPLE, replace=False, shuffle=False))
    user, item, value = part.user[which], part.item[which], part.value[which]
    weight = np.ones_like(value) if part.weight is None else part.weight[which]
    target = np.asarray(objective.entry(jnp.asarray(value), jnp.asarray(weight)).t, np.float64)
    residual = target - np.asarray(predict(factors, user, item), np.float64)
    return Scored(user, item, value, weight, residual, total)


def backward_errors(errors: np.ndarray, edges: np.ndarray) -> Histogram:
    """How many rows' errors lie between the edges, which `error_edges` made."""
    errors = np.asarray(errors, np.float64)
    finite = np.isfinite(errors)
    positive = errors[finite & (errors > 0)]
    places = np.searchsorted(edges, np.log10(positive), side="left") - 1  # an error at the bound has not passed it
    counts = np.bincount(places, minlength=len(edges) - 1)
    return Histogram(edges, counts, int((errors == 0).sum()), int((~finite).sum()))


def error_edges(errors: list[np.ndarray], bound: float) -> np.ndarray:
    """log10 of bin edges around all positive errors and the bound, which is an edge; five bins a decade."""
    together = np.concatenate([np.ravel(each) for each in errors]).astype(np.float64)
    together = together[np.isfinite(together) & (together > 0)]
    logs = (np.log10(np.append(together, bound)) - np.log10(bound)) * 5
    return np.log10(bound) + np.arange(np.floor(logs.min()) - 1, np.ceil(logs.max()) + 2) / 5


def spectrum(factors: Factors) -> np.ndarray:
    """The singular values of X Yᵀ, largest first, float64 `(min(rank, users, items),)`.

    From the triangles of both factors' QR: X Yᵀ itself, users times items, is never made.
    """
    triangle = functools.partial(np.linalg.qr, mode="r")  # Q is not needed
    users, items = (np.asarray(triangle(np.asarray(rows, np.float64))) for rows in (factors.user, factors.item))
    return np.linalg.svd(users @ items.T, compute_uv=False)


def residual_edges(value: np.ndarray) -> np.ndarray | None:
    """None when few enough values are distinct; else the edges of bins with about equally many entries."""
    if len(np.unique(value)) <= _DISTINCT:
        return None
    return np.unique(np.quantile(value, np.linspace(0, 1, _BINS + 1)))


def value_label(edges: np.ndarray | None) -> str:
    """What the axis of values is called."""
    return "value of the entry" if edges is None else "value (bin edges)"


def residual_bands(value: np.ndarray, residual: np.ndarray, values: np.ndarray, edges: np.ndarray | None) -> Bands:
    """Quantiles of the residuals of each of `values`, or of each bin between the edges (the last one closed)."""
    if edges is None:
        places = np.searchsorted(values, value)
    else:
        places = np.clip(np.searchsorted(edges, value, side="right") - 1, 0, len(edges) - 2)
        values = (edges[1:] + edges[:-1]) / 2
    groups = [residual[places == place] for place in range(len(values))]
    quantiles = [np.quantile(group, QUANTILES) if len(group) else np.full(len(QUANTILES), np.nan) for group in groups]
    return Bands(values, edges, np.array(quantiles), np.array([len(group) for group in groups]))


def error_by_degree(entries: Scored, side: str, degree: np.ndarray) -> ErrorByDegree:
    """RMSE of these entries by the training degree of their user or item."""
    edges = degree_edges(int(degree.max(initial=0)))
    bins = len(edges) - 1
    place = np.searchsorted(edges, degree[getattr(entries, side)], side="right") - 1
    weight, square = entries.weight.astype(np.float64), entries.residual**2
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        total = np.bincount(place, weight, bins)
        mean = np.bincount(place, weight * square, bins) / total
        error = np.sqrt(np.bincount(place, (weight * (square - mean[place])) ** 2, bins)) / total
    error[counts < FEW] = np.nan
    low, high = np.sqrt(np.maximum(mean - 1.96 * error, 0)), np.sqrt(mean + 1.96 * error)
    overall = float(np.sqrt(np.sum(weight * square) / np.sum(weight)))
    return ErrorByDegree(np.array(edges), np.sqrt(mean), low, high, counts, overall)


def degree_edges(most: int) -> list[int]:
    """Edges of bins of degrees up to `most`: 0, 1, 2, 4, 8, ..., or where a row has thousands 0, 1, 4, 16, ..."""
    base = 2 if most < 4096 else 4
    edges = [0, 1]
    while edges[-1] <= most:
        edges.append(base * edges[-1])
    return edges


def at_least(degree: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(d, share of rows with d entries or more) for degrees d that occur; some hundred of them where more do."""
    each, rows = np.unique(degree[degree > 0], return_counts=True)
    share = np.cumsum(rows[::-1])[::-1] / len(degree)
    if len(each) > _POINTS:
        kept = np.unique(np.searchsorted(each, np.geomspace(each[0], each[-1], _POINTS).clip(each[0], each[-1])))
        each, share = each[kept], share[kept]
    return each, share


def density(ratings: Ratings) -> Density:
    """The share of pairs observed in blocks of users and items sorted by degree."""
    which = observed(ratings)
    places, sizes = [], []
    for side in ("user", "item"):
        degree = degrees(ratings, side)
        blocks = min(_BLOCKS, len(degree))
        block = np.empty(len(degree), np.int64)
        block[np.argsort(-degree, kind="stable")] = np.arange(len(degree)) * blocks // len(degree)
        places.append(block[getattr(ratings, side)[which]])
        sizes.append(np.bincount(block))
    count = np.bincount(places[0] * len(sizes[1]) + places[1], minlength=len(sizes[0]) * len(sizes[1]))
    share = count.reshape(len(sizes[0]), len(sizes[1])) / np.outer(*sizes)
    return Density(share, ratings.num_users, ratings.num_items)

"""How a ranking is good: by its length, for which users, of which items; and what a lower loss is worth to it."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from ....files.runs.record import Bin, RankingRecord
from ....metrics import is_error, spelt
from . import figures, reaching
from .competitors import ComparedFit, Comparison
from .sections import pictured
from .words import Pictures, Section, Text, capital, number

_PANELS = 3  # metrics against k
_FEW = 10  # users or entries, below which a bin is no evidence


def ranking(comparison: Comparison) -> Iterator[Section]:
    shown = _shown(comparison)
    if not shown:
        return
    drawn = [_lengths(comparison, shown), *_breakdowns(comparison, shown)]
    drawn += [against] if (against := _against_loss(comparison)) else []
    title = comparison.title(comparison.points[0])
    at = f" of the first point, {title}" if len(comparison.points) > 1 else ""
    several = len({(fit.fold, fit.seed) for fit in comparison.fits}) > 1
    which = ", its first fold and seed" if several else ""
    words = [
        f"The test part as ranked by one fit of each solver{at}{which}; the baselines are grey. Bars are one standard "
        f"error, over users or over entries; bins of fewer than {_FEW} are hollow and have none. Rows are counted by "
        "their training entries.",
    ]
    yield Section("ranking", "Rankings", [*map(Text, words), Pictures(drawn)])


def _shown(comparison: Comparison) -> list[tuple[str, int, RankingRecord]]:
    """(name, place of its look, its ranking) of a fit of each solver at the first point, and of the baselines there."""
    found: list[tuple[str, int, RankingRecord]] = []
    for place, name in enumerate(comparison.drawn):
        fit = _first(comparison, name)
        if fit is not None and fit.record.ranking is not None:
            found.append((name, place, fit.record.ranking))
    first = next((fit for fit in comparison.fits if fit.record.ranking is not None), None)
    if first is not None:
        own = [each for each in comparison.baselines if (each.split, each.fold) == (first.split, first.fold)]
        found += [(each.record.name, figures.floor(at), each.record.ranking) for at, each in enumerate(own)]
    return found


def _first(comparison: Comparison, name: str) -> ComparedFit | None:
    of = (fit for fit in comparison.fits if fit.name == name and fit.point == comparison.points[0] and not fit.broken)
    return next(of, None)


def _lengths(comparison: Comparison, shown: list[tuple[str, int, RankingRecord]]) -> Any:
    """Each metric against k."""
    names = list(dict.fromkeys(name for *_, each in shown for name in each.curves))[:_PANELS]
    panels, said = [], []
    for metric in names:
        made = []
        for label, place, each in shown:
            if metric in each.curves:
                y = np.array(each.curves[metric], float)
                made.append(figures.Dots(label, place, np.array(each.k), y, np.full(len(y), np.nan)))
        panels.append((f"{metric}@k", made))
        ends = [f"{dots.label} {number(dots.y[0], 3)} to {number(dots.y[-1], 3)}" for dots in made]
        said.append(f"{metric}@{made[0].x[0]} to @{made[0].x[-1]}: {', '.join(ends)}")
    caption = f"Against the length k of the list. {'; '.join(said)}."
    return pictured("ranking-by-k", caption, caption, figures.axis_lines, panels, "k, items of the list")


def _breakdowns(comparison: Comparison, shown: list[tuple[str, int, RankingRecord]]) -> Iterator[Any]:
    first, at = comparison.ranked[0], shown[0][2].hits_at
    every = {
        "activity": (spelt(first), "user", "users", lambda each: each.by_activity),
        "popularity": (f"share found in the first {at}", "item", "test entries", lambda each: each.by_popularity),
    }
    for name, (measured, side, counted, of) in every.items():
        bins = sorted({(each.low, each.high) for *_, ranked in shown for each in of(ranked)})
        if not bins:
            continue
        made = [(label, place, _dots(label, place, of(ranked), bins)) for label, place, ranked in shown]
        counts = {(each.low, each.high): each.count for *_, ranked in shown for each in of(ranked)}
        labels = [f"{low:,}" if low == high else f"{low:,}–{high:,}" for low, high in bins]
        said = "; ".join(f"{label} {_ends(dots)}" for label, _, dots in made)
        caption = f"{measured} by the training entries of the {side}, fewest and most: {said}."
        caption = capital(caption) if name == "popularity" else caption
        xlabel = f"training entries of the {side}"
        numbers = [counts[each] for each in bins]
        yield pictured(
            f"ranking-by-{name}",
            caption,
            caption,
            figures.binned,
            [dots for *_, dots in made],
            labels,
            numbers,
            (xlabel, measured, counted),
        )


def _dots(label: str, place: int, found: list[Bin], bins: list[tuple[int, int]]) -> figures.Dots:
    x = np.array([bins.index((each.low, each.high)) for each in found])
    error = [np.nan if each.stderr is None or each.count < _FEW else each.stderr for each in found]
    return figures.Dots(label, place, x, np.array([each.mean for each in found]), np.array(error))


def _ends(dots: figures.Dots) -> str:
    return f"{number(dots.y[0], 2)} and {number(dots.y[-1], 2)}"


def _against_loss(comparison: Comparison) -> Any:
    """The validation metric against the loss, sweep by sweep: where the metric turns before the loss does, a better
    minimum is a worse ranking."""
    metric = comparison.watched
    if metric is None or is_error(metric):
        return None
    least, lines, said = reaching.lowest(comparison), [], []
    for place, name in enumerate(comparison.drawn):
        fit = _first(comparison, name)
        if fit is None or not fit.comparable or fit.problem not in least:
            continue
        loss, measured = fit.column("loss"), fit.column("validation")
        if loss is None or measured is None:
            continue
        good = np.isfinite(loss) & np.isfinite(measured)
        if good.sum() < 2:
            continue
        loss, measured, sweep = loss[good], measured[good], np.array(fit.record.history.sweep)[good]
        top = int(np.argmax(measured))
        lines.append((name, place, loss, measured, top))
        turned = "at its lowest loss" if loss[top] == loss.min() else f"{number(measured[-1], 3)} at the end"
        said.append(f"{name}: highest {number(measured[top], 3)} after {sweep[top]:,} sweeps, {turned}")
    if not lines:
        return None
    caption = f"Validation {metric} against the training loss, a point a record, from right to left; ringed: the "
    caption += f"highest. {'; '.join(said)}."
    return pictured("ranking-by-loss", caption, caption, figures.against, lines, "loss L", f"validation {metric}")

"""The results of a report: the table of all that competes, and paired differences to the reference."""

import math
from collections.abc import Iterator
from typing import Any

from ....metrics import is_error
from . import replicates, table
from .competitors import Comparison
from .words import (
    LONG,
    Cell,
    Folded,
    ReportTable,
    Section,
    Text,
    brief,
    decimals,
    joined,
    make_table,
    number,
    share,
    with_error,
)

_METRICS = 3  # with paired differences


def results(comparison: Comparison) -> Iterator[Section]:
    rows, baselines = table.rows(comparison), table.baseline_rows(comparison)
    if not rows:
        return
    unit = "fold" if comparison.folds else "seed"
    measures = {name: each for name, each in table.measures(comparison).items() if name != "operations"}
    judged = [name for name, each in measures.items() if each.metric is not None or name == "loss"]
    bold = {column: table.best(rows, column, measures[column], baselines) for column in judged}
    titles = {point: comparison.title(point) for point in comparison.points}
    broken = any(row.broken for row in rows)
    worst = any(row.stationarity is not None for row in rows)
    others = _others(comparison)
    places = {}
    for column in bold:
        means = [row.means[column] for row in [*rows, *baselines] if column in row.means]
        places[column] = decimals([mean.mean for mean in means], [mean.error for mean in means])
    cells = []
    for place, row in enumerate(rows):
        n = max((mean.n for mean in row.means.values()), default=0)
        line = [Cell(row.name), Cell(titles[row.point]), Cell(str(n))]
        for column in measures:
            mean = row.means.get(column)
            if mean is None:
                missing = any(column in other.means for other in rows)
                line.append(Cell(("–†" if column == "loss" and row.name in others else "–") if missing else ""))
            elif column in bold:
                line.append(Cell(*with_error(mean.mean, mean.error, places[column]), place in bold[column]))
            else:
                line.append(Cell(number(mean.mean, 3)))
        dash = "–†" if row.name in others else "–"
        line.append(Cell((dash if row.stationarity is None else number(row.stationarity, 2)) if worst else ""))
        line.append(Cell(f"{row.broken} of {row.broken + len(row.fits)}" if broken else ""))
        cells.append(line)
    floor = [
        [
            *map(Cell, (each.name, _of_baseline(comparison, each), str(max(mean.n for mean in each.means.values())))),
            *(_baseline_cell(each, column, places, place in bold.get(column, ())) for column in measures),
            *(Cell(""), Cell("")),
        ]
        for place, each in enumerate(baselines, start=len(rows))
    ]
    columns = ["solver:", "point:", f"{unit}s", *measures, "stationarity", "broke down"]
    whole = make_table(columns, cells + floor, "All points")
    blocks: list = [whole]
    if isinstance(whole, Folded):
        first = [line for row, line in zip(rows, cells, strict=True) if row.point == comparison.points[0]][:LONG]
        blocks = [
            Text(f"At the first point, {titles[rows[0].point]}:"), make_table(columns, first + floor, ""), whole
        ]
    notes = [_replication(comparison, rows, unit)]
    compared = (
        "Bold: the best mean, of an error or a loss the lowest, of a ranking metric the highest, among rows that share "
        "the test part, and for the loss also objective and rank"
        + (", rows with a fit that broke down left aside. " if broken else ". ")
    )
    notes.append(
        (compared if any(bold.values()) else "")
        + "RMSE and MAE are of unclipped predictions on the test part, which no choice was made by; loss is that of "
        "the factors kept, over the training part. Sweeps, passes and seconds are means up to where each fit stopped, "
        "stationarity is the worst of the row's fits."
    )
    if comparison.ranked:
        notes.append(_of_rankings(comparison))
    if baselines:
        names = joined(list(dict.fromkeys(each.name for each in baselines)))
        verb = "is a baseline" if len({each.name for each in baselines}) == 1 else "are baselines"
        notes.append(f"{names} {verb}, without a loss: what a ranking has to beat.")
    if broken:
        notes.append(
            "Fits that broke down are counted, and left out of every mean: a row that has some shows only its good "
            "cases."
        )
    if others:
        notes.append(
            f"† {joined(others)} minimise{'s' if len(others) == 1 else ''} something else than the objective (a weight "
            "decay of its own, or the like): compared by error only, in no loss, stationarity or cost to a loss."
        )
    yield Section("results", "Results", [*blocks, *map(Text, notes)])


def _of_baseline(comparison: Comparison, row: table.BaselineRow) -> str:
    """The data and the split of a baseline, as far as they tell points apart."""
    alike = next((point for point in comparison.points if point[:2] == (row.data, row.split)), None)
    several = len({point[:2] for point in comparison.points}) > 1
    return comparison.title(alike) if several and alike is not None else ""


def _baseline_cell(row: table.BaselineRow, column: str, places: dict, bold: bool) -> Cell:
    of = row.means.get(column)
    return Cell("") if of is None else Cell(*with_error(of.mean, of.error, places[column]), bold)


def _of_rankings(comparison: Comparison) -> str:
    """What the ranking metrics are of."""
    records = [fit.record.ranking for fit in comparison.fits if fit.record.ranking is not None]
    least = {run.config["output"].get("relevant") for run in comparison.runs} - {None}
    counted_as = f" of value {joined([brief(each) for each in sorted(least)])} or more" if least else ""
    users = {each.users for each in records}
    some = f"{min(users):,}" if len(users) == 1 else f"{min(users):,} to {max(users):,}" if users else "the"
    return (
        f"Rankings are exact: each of {some} users' test entries{counted_as}, among all items that are neither in the "
        "training nor in the validation part of that user."
        + _over_users(comparison)
    )


def _over_users(comparison: Comparison) -> str:
    """Whose ± is that of users."""
    if not _replicated(comparison):
        return " ± of a single fit's ranking metric is its standard error over users."
    alone = comparison.baselines and not comparison.folds
    return " ± of a baseline, which has no seed, is its standard error over users." if alone else ""


def _replicated(comparison: Comparison) -> bool:
    return bool(comparison.folds) or len({fit.seed for fit in comparison.fits}) > 1


def _others(comparison: Comparison) -> list[str]:
    other = {fit.name for fit in comparison.fits if not fit.comparable}
    return [name for name in comparison.names if name in other]


def _replication(comparison: Comparison, rows: list[table.Row], unit: str) -> str:
    most = max((mean.n for row in rows for mean in row.means.values()), default=0)
    if most < 2:
        return (
            "One fit for each row: nothing says how much another seed or split would change it, and small differences "
            "may be chance."
        )
    if unit == "fold":
        seeds = len({fit.seed for fit in comparison.fits})
        within = f", the {seeds} seeds averaged within each fold first" if seeds > 1 else ""
        return (
            f"± is the standard error over folds{within}: the unit of replication is the fold. Training parts of folds "
            "overlap, so it is somewhat too small."
        )
    return (
        "± is the standard error over seeds, on one split: it measures the randomness of initialisation (and of "
        "minibatches) only, not that of the data. A new split could change any of these numbers by more."
    )


def differences(comparison: Comparison) -> Iterator[Section]:
    """Of replicates only: of a single pair the table of results says as much."""
    blocks: list[Any] = []
    names = [table.tested(metric) for metric in comparison.metrics[:_METRICS]]
    title = f"Paired differences to {comparison.reference}"
    for metric, name in zip(comparison.metrics, names, strict=False):
        pairs = [each for each in table.paired(comparison, metric) if each.replicates > 1]
        if pairs:
            better = "below" if is_error(metric) else "above"
            blocks += [Text(f"{name} minus that of {comparison.reference}: {better} 0 the solver is better.")]
            blocks.append(_paired(comparison, pairs, title))
    if not blocks:
        return
    unit = "fold" if comparison.folds else "seed"
    notes = [
        f"A row is of one point: a {unit} is a replicate, another point is another question. Both fits of a pair have "
        f"the same {unit}{', and seeds are averaged within each fold first' if comparison.folds else ''}. ± is the "
        f"standard error; by Student's t the interval holds the difference with {share(replicates.SURE)} probability, "
        "of each row by itself."
    ]
    if comparison.folds:
        notes.append("Training parts of folds overlap, so both are somewhat too small.")
    else:
        notes.append(
            "All pairs are on one split: seeds measure the randomness of initialisation, not that of the data, and "
            "the interval says nothing about another split."
        )
    yield Section("differences", title, [*blocks, *map(Text, notes)])


def _paired(comparison: Comparison, pairs: list[table.Paired], title: str) -> ReportTable | Folded:
    places = decimals([each.mean for each in pairs], [each.error for each in pairs])
    cells = []
    for each in pairs:
        low, high = (with_error(end, math.nan, places, "+")[0] for end in (each.low, each.high))
        of = str(each.replicates)
        line = each.name, comparison.title(each.point), with_error(each.mean, each.error, places, "+")
        cells.append([Cell(line[0]), Cell(line[1]), Cell(*line[2]), Cell(f"{low} to {high}"), Cell(of)])
        cells[-1].append(Cell(f"{each.wins} of {of}"))
    unit = "folds" if comparison.folds else "seeds"
    columns = ["solver:", "point:", "difference", f"{share(replicates.SURE)} interval", unit, "better in"]
    return make_table(columns, cells, title)

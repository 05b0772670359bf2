"""How results depend on numbers: those that were tuned, at what cost, and the axes of the grid."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from ....metrics import RMSE, as_error, is_error, spelt
from . import fairness, figures, table
from .competitors import ComparedFit, Comparison, as_text, short
from .sections import pictured
from .words import Cell, Folded, Pictures, Section, Text, brief, counted, joined, make_table, number

_FEW = 8  # figures, from which the others are folded away
_METRICS = 2  # panels beside the loss
_LINES = 6  # values of a second axis that can be lines


class Tried(NamedTuple):
    """A trial, or a step of a descent; None for what was not measured, or where it broke down."""

    tuned: dict[str, float]
    loss: float | None
    validation: float | None


def tuned(comparison: Comparison) -> Iterator[Section]:
    made, edges = [], []
    for name in comparison.drawn:
        trials = [fit for fit in comparison.trials if fit.name == name]
        trials = [fit for fit in trials if fit.point == trials[0].point]
        for key in dict.fromkeys(key for fit in trials for key in fit.record.tuned):
            made.append((name, key, [fit for fit in trials if key in fit.record.tuned]))
    alike: dict[str, np.ndarray] = {}
    for *_, trials in made:
        for label, values in _measured(comparison, trials).items():
            alike[label] = np.concatenate([alike.get(label, values[:0]), values])
    shown = [_tried(comparison, name, key, trials, alike) for name, key, trials in made]
    cells = []
    for (name, point, fold, key), values in fairness.choices(comparison).items():
        drawn = fairness.drawn_from(comparison, name, key)
        for value in values:
            edge = bool(drawn) and table.at_edge(key, value, *drawn)
            edges += [f"{key} of {name}"] if edge else []
            cells.append(
                [
                    *map(Cell, (name, comparison.title(point), "" if fold is None else str(fold), key)),
                    Cell(brief(value), "⚠ at the edge" if edge else "", edge),
                    Cell(f"{brief(drawn[0])} to {brief(drawn[1])}" if drawn else ""),
                ]
            )
    if not cells and not shown:
        return
    words = [
        "Every trial, or step of a descent, by its number (on a log axis, but for powers of either sign): what the "
        "loss and the validation metric became. Dashed: what was chosen. A trial that broke down is a cross at the top."
    ]
    unseen = max((fit.record.descent.unseen for fit in comparison.trials if fit.record.descent), default=0)
    if unseen:
        words.append(
            f"Up to {unseen:,} validation entries are of a user or an item without training entries, on which the "
            "numbers of a descent have next to no influence."
        )
    if len({fit.point for fit in comparison.trials}) > 1:
        words.append("Figures show the trials of each solver's first point; the table has all.")
    if edges:
        words.append(
            f"⚠ {joined(list(dict.fromkeys(edges)))}: chosen from the outermost tenth of the range, so the "
            "best may lie outside it. Widen the range before trusting the comparison."
        )
    blocks: list[Any] = [*map(Text, words)]
    if shown:
        blocks += [Pictures(shown[:_FEW])]
    if len(shown) > _FEW:
        blocks.append(Folded(f"{len(shown) - _FEW} more figures", [Pictures(shown[_FEW:])]))
    columns = ["solver:", "point:", "fold", "number:", "chosen", "range"]
    yield Section(
        "tuned",
        "Sensitivity to tuned numbers",
        [*blocks, *_spent(comparison), Text("Chosen values", 3), make_table(columns, cells, "Chosen values")],
    )


def _spent(comparison: Comparison) -> list[Any]:
    """What the tuning of each solver took, and what it found."""
    groups: dict[tuple, list[ComparedFit]] = {}
    for fit in comparison.trials:
        groups.setdefault((fit.run, fit.name, fit.point, fit.fold), []).append(fit)
    cells = []
    for (run, name, point, fold), trials in groups.items():
        fits = _served(comparison, trials)
        numbers = fits[0].record.tuned if fits else {}
        metric = trials[0].record.metric
        after = [error for fit in fits if (error := fit.metric("validation", metric)) is not None]
        found = [tried.validation for fit in trials for tried in steps(fit) if tried.tuned == numbers]
        known = [each for each in found if each is not None]
        best = min(known, key=lambda each: as_error(metric, each), default=None)
        made = [fit.record.descent.steps for fit in trials if fit.record.descent]
        tune = fairness.tuning(comparison, run)
        tried = sum(made) if made else len(trials)
        most = tune.get("trials", tried)  # fewer where seconds ended it, or integers repeated
        cells.append(
            [
                *map(Cell, (name, comparison.title(point), "" if fold is None else str(fold))),
                Cell(tune.get("method", "random")),
                Cell(counted(tried, "step" if made else "trial") + (f" of {most:,}" if tried < most else "")),
                Cell(number(sum(fit.cost("passes") or 0 for fit in trials))),
                Cell(number(best)),
                Cell(", ".join(f"{short(key)} {brief(value)}" for key, value in numbers.items())),
                Cell(number(float(np.mean(after))) if after else ""),
            ]
        )
    if not cells:
        return []
    columns = ["solver:", "point:", "fold", "method:", "tried", "passes", _validated(comparison), "chosen:"]
    columns.append("of the fits")
    words = (
        "Passes are over the training entries, by all trials or the whole descent, its derivatives included. The "
        f"{_validated(comparison)} is what the chosen numbers had there: in a descent, whose factors start from the "
        "step before, it flatters. "
    )
    if any(row[-1].text for row in cells):
        words += "The last column is the mean of the fits that were then made with them: compare methods by that."
    else:
        words += "The fits that were then made with them learned from the validation part too."
    return [Text("What tuning took", 3), make_table(columns, cells, "What tuning took"), Text(words)]


def _validated(comparison: Comparison) -> str:
    """What the validation part was measured by."""
    return f"validation {spelt(comparison.watched)}" if comparison.watched else "validation metric"


def _served(comparison: Comparison, trials: list[ComparedFit]) -> list[ComparedFit]:
    """The fits that took their numbers from these trials."""
    one = trials[0]
    which = (one.run, one.name, one.fold, one.record.point)
    return [fit for fit in comparison.fits if (fit.run, fit.name, fit.fold, fit.record.point) == which]


def steps(trial: ComparedFit) -> list[Tried]:
    """What a trial tried: one thing, or where it is a descent a step after the other."""
    descent, errors = trial.record.descent, trial.record.history.validation
    if descent and descent.numbers and errors:
        return [Tried(tuned, None, error) for tuned, error in zip(descent.numbers, errors[1:], strict=False)]
    measured = (None, None) if trial.broken else (trial.loss, trial.metric("validation", trial.record.metric))
    return [Tried(trial.record.tuned, *measured)]


def _measured(comparison: Comparison, trials: list[ComparedFit]) -> dict[str, np.ndarray]:
    """What came of the trials, of every step, by measure."""
    made = [tried for fit in trials for tried in steps(fit)]
    y = {
        "final loss L": np.array([tried.loss for tried in made], float),
        _validated(comparison): np.array([tried.validation for tried in made], float),
    }
    return {label: values for label, values in y.items() if np.isfinite(values).any()} or y


def _tried(comparison: Comparison, name: str, key: str, trials: list[ComparedFit], alike: dict) -> Any:
    made = [tried for fit in trials for tried in steps(fit)]
    x, y = np.array([tried.tuned[key] for tried in made], float), _measured(comparison, trials)
    metric = trials[0].record.metric
    point = trials[0].point
    taken = fairness.choices(comparison).items()
    values = [value for which, each in taken if which[:2] + which[3:] == (name, point, key) for value in each]
    what = "step" if trials[0].record.descent else "trial"
    said = f"{name}, {key}: {counted(len(made), what)} from {brief(x.min())} to {brief(x.max())}"
    bad = sum(fit.broken for fit in trials)
    said += f", {bad} broke down" if bad else ""
    for label, each in y.items():
        if np.isfinite(each).any():
            high = label == _validated(comparison) and not is_error(metric)
            place = int(np.nanargmax(each) if high else np.nanargmin(each))
            said += f"; {'highest' if high else 'lowest'} {label} {number(each[place])} at {brief(x[place])}"
    said += f"; chosen {joined([brief(value) for value in dict.fromkeys(values)])}." if values else "; none chosen."
    other = key.startswith("objective.") and any(tried.loss is not None for tried in made)
    said += " Each value is another loss: the lowest says nothing." if other else ""
    drawn = fairness.drawn_from(comparison, name, key)
    if drawn and any(table.at_edge(key, value, *drawn) for value in values):
        said += f" ⚠ At the edge of its range, {brief(drawn[0])} to {brief(drawn[1])}."
    plain = () if is_error(metric) else (_validated(comparison),)
    tried = figures.Trials(x, y, values, drawn, what, plain, alike)
    return pictured(
        f"tuned-{name}-{key}", said, said, figures.trials, tried, comparison.drawn.index(name), f"{key} of {name}"
    )


def axes(comparison: Comparison) -> Iterator[Section]:
    shown, words = [], []
    for axis in dict.fromkeys(axis for fit in comparison.fits for axis in fit.values):
        for lines, said in _lines(comparison, axis):
            shown.append(lines)
            words += [said] if said else []
    if shown:
        words = [
            "Means over folds or seeds with bars of one standard error, as in the table of results. The test part is "
            "shown, not used: a point chosen by it would have to be tested elsewhere.",
            *dict.fromkeys(words),
        ]
        yield Section("grid", "Along the grid", [*map(Text, words), Pictures(shown)])


def _lines(comparison: Comparison, axis: str) -> Iterator[tuple[Any, str]]:
    fits = [fit for fit in comparison.fits if axis in fit.values and not fit.broken]
    fits = [fit for fit in fits if fit.name in comparison.drawn or axis in dict(fit.variant)]
    labels = {fit: fit.solver if axis in dict(fit.variant) else fit.name for fit in fits}
    places = {label: place for place, label in reversed(list(enumerate(comparison.drawn)))}
    places |= {fit.solver: places.get(fit.name, 0) for fit in reversed(fits) if axis in dict(fit.variant)}
    others: dict[str, list] = {}
    for fit in fits:
        for other, value in fit.values.items():
            inside = other in dict(fit.variant) and axis not in dict(fit.variant)
            if other != axis and not inside and value not in others.setdefault(other, []):
                others[other].append(value)
    others = {other: values for other, values in others.items() if len(values) > 1}
    note = ""
    if len(set(labels.values())) == 1 and len(others) == 1 and len(next(iter(others.values()))) <= _LINES:
        ((other, values),) = others.items()
        labels = {fit: f"{short(other)} {as_text(fit.values[other])}" for fit in fits}
        first = len(comparison.drawn)  # a look of their own: those of the solvers mean solvers
        places = {f"{short(other)} {as_text(value)}": first + place for place, value in enumerate(values)}
    elif others:
        fits = [
            fit for fit in fits if all(fit.values.get(other) in (None, values[0]) for other, values in others.items())
        ]
        fixed = joined([f"{short(other)} {as_text(values[0])}" for other, values in others.items()])
        note = f"Against {short(axis)}: the other axes at their first values, {fixed}."
    points = list(dict.fromkeys(fit.values[axis] for fit in fits))
    if len(points) < 2:
        return
    panels: list[tuple[str, list[figures.Dots]]] = []
    captions: dict[str, list[str]] = {}
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in points)
    points = sorted(points) if numeric else points
    columns = table.measures(comparison)
    for measure in (*map(table.tested, comparison.metrics[:_METRICS]), "loss"):
        if measure == "loss" and axis.startswith(("data.", "split.")):
            continue
        made = []
        for label in dict.fromkeys(labels[fit] for fit in fits):
            own = {
                value: [fit for fit in fits if labels[fit] == label and fit.values[axis] == value] for value in points
            }
            means = {value: table.mean(its, columns[measure]) for value, its in own.items()}
            means = {value: mean for value, mean in means.items() if mean}
            if means:
                x = list(means) if numeric else [as_text(value) for value in means]
                numbers = np.array([mean[:2] for mean in means.values()])
                made.append(figures.Dots(label, places[label], x, *numbers.T))
                low = min(means, key=lambda value: columns[measure].as_error(means[value].mean))
                which = "lowest" if is_error(columns[measure].metric or RMSE) else "highest"
                captions.setdefault(label, []).append(f"{which} {measure} {number(means[low].mean)} at {as_text(low)}")
        if made:
            panels.append(("final loss L" if measure == "loss" else measure, made))
    if not panels:
        return
    said = f"Against {axis}. " + "; ".join(f"{label}: {', '.join(each)}" for label, each in captions.items()) + "."
    if axis.startswith("objective.") and len(panels) > 1:
        said += f" Each {short(axis)} is another loss: compare solvers at one of them, not one with the next."
    if numeric:
        yield pictured(f"grid-{axis}", said, said, figures.axis_lines, panels, axis), note
    else:
        yield (
            pictured(f"grid-{axis}", said, said, figures.axis_dots, panels, [as_text(value) for value in points]),
            note,
        )

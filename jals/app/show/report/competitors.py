"""The fits of one or several runs, as a report sees them: who competes, at which setting, on which problem."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ....data.sources import as_path
from ....files.runs import folder, record
from ....metrics import RMSE
from ... import config as configs
from ...config import toml
from ...config.schema import Config

Values = tuple[tuple[str, Any], ...]  # (axis, value) of several axes of a grid
COSTS = ("seconds", "passes", "operations")
MOST = 12  # solvers in a figure


@dataclasses.dataclass(frozen=True, eq=False)
class ComparedFit:
    """A line of a run's record, and its place in the comparison.

    Attributes:
        record: the line of its run.
        solver: its label, with that of its run before it where two runs share it on the same data.
        variant: the values of axes that are this solver's alone.
        setting: the values of all other axes.
        data: the name of its table.
        split: what its test part hangs on: the table's hash and the split, as text.
        stated: the objective of its config and point, as text.
        objective: the same with what was tuned of it: what its loss hangs on besides.
    """

    record: record.FitRecord
    run: int
    solver: str
    variant: Values
    setting: Values
    data: str
    split: str
    stated: str
    objective: str

    @functools.cached_property
    def name(self) -> str:
        """What competes: the solver, or one variant of it."""
        return f"{self.solver} ({spelt(self.variant)})" if self.variant else self.solver

    @functools.cached_property
    def values(self) -> dict[str, Any]:
        """Of all axes that it has a place on."""
        return dict(self.variant + self.setting)

    @property
    def fold(self) -> int | None:
        return self.record.fold

    @property
    def seed(self) -> int:
        return self.record.seed

    @property
    def problem(self) -> tuple:
        """Fits with the same problem minimise one function of the same unknowns, so their losses compare."""
        return self.split, self.objective, self.record.rank, self.fold

    @property
    def instance(self) -> tuple:
        """Two fits with the same differ in the solver only."""
        return self.split, self.fold, self.seed, self.setting

    @property
    def point(self) -> tuple:
        """What distinguishes panels and rows, besides the solver."""
        return self.data, self.split, self.stated, self.setting

    @property
    def comparable(self) -> bool:
        """Whether its loss is the objective's."""
        return not self.record.own_minimiser

    @property
    def broken(self) -> bool:
        return self.record.broken

    @property
    def stationarity(self) -> float | None:
        proof = self.record.certificate
        return proof.stationarity if self.comparable and proof is not None else None

    @functools.cached_property
    def loss(self) -> float | None:
        return self.record.kept_loss() if self.comparable else None

    def metric(self, part: str, name: str) -> float | None:
        return self.record.score(part, name)

    def metric_error(self, name: str) -> float | None:
        """The standard error over users of a ranking metric of the test part."""
        ranking = self.record.ranking
        return None if ranking is None else ranking.stderr.get(name)

    def column(self, name: str) -> np.ndarray | None:
        """A column of the history, NaN where it holds null."""
        found = getattr(self.record.history, name)
        return None if found is None else np.array(found, float)

    def cost(self, name: str) -> float | None:
        """What the whole fit cost, in sweeps, seconds, passes or operations."""
        return self.record.history.last("sweep" if name == "sweeps" else name)


@dataclasses.dataclass(frozen=True, eq=False)
class ComparedBaseline:
    """A baseline on a fold of a table; `data` and `split` as of the fits that it is compared with."""

    record: record.BaselineRecord
    data: str
    split: str

    @property
    def group(self) -> tuple:
        """What it is a mean over folds of."""
        return self.record.name, self.data, self.split

    def metric(self, part: str, name: str) -> float | None:
        return self.record.metrics.get(part, {}).get(name)

    @property
    def fold(self) -> int | None:
        return self.record.fold

    seed = 0  # it has none

    def metric_error(self, name: str) -> float | None:
        return self.record.ranking.stderr.get(name)


@dataclasses.dataclass(frozen=True)
class ComparedRun:
    """A run's folder, what to call it, its record, and its config as tables."""

    place: Path
    name: str
    record: record.RunRecord
    config: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """All there is to compare.

    Attributes:
        fits: those that ended, trials apart.
        trials: those made while numbers were tuned.
        unfinished: those that were stopped, or have not ended.
        baselines: what the rankings have to beat.
    """

    runs: list[ComparedRun]
    fits: list[ComparedFit]
    trials: list[ComparedFit]
    unfinished: list[ComparedFit]
    baselines: list[ComparedBaseline] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def names(self) -> list[str]:
        """All that compete, in the order of the configs."""
        return list(dict.fromkeys(fit.name for fit in sorted(self.fits + self.trials, key=self._order)))

    def _order(self, fit: ComparedFit) -> tuple[int, int]:
        labels = [toml.table_name(solver) for solver in self.runs[fit.run].config["solver"]]
        label = fit.record.solver
        return fit.run, labels.index(label) if label in labels else len(labels)

    @functools.cached_property
    def drawn(self) -> list[str]:
        """Whom figures show: all, or where that is too many the first variant of each solver, at most twelve."""
        if len(self.names) <= MOST:
            return self.names
        first = {fit.solver: fit.name for fit in reversed(self.fits)}
        return [name for name in self.names if name in first.values()][:MOST]

    @functools.cached_property
    def reference(self) -> str | None:
        """Whom the others are compared with: the first ALS solver, else the first."""
        kinds = {fit.name: fit.record.kind for fit in self.fits}
        return next((name for name in self.names if kinds.get(name) == "als"), next(iter(kinds), None))

    @functools.cached_property
    def points(self) -> list[tuple]:
        return list(dict.fromkeys(fit.point for fit in self.fits))

    @functools.cached_property
    def ranked(self) -> list[str]:
        """The ranking metrics that were measured, in the order of the configs."""
        measured = {name for fit in self.fits for name in (fit.record.metrics or {}).get("test", {})}
        asked = dict.fromkeys(metric for each in self._configs for metric in each.ranked)
        return [metric for metric in asked if metric in measured or not measured]

    @functools.cached_property
    def metrics(self) -> list[str]:
        """What errors and rankings are compared by: RMSE where it decided anything and is one of ratings, and the
        ranking metrics."""
        chosen = {each.fit.metric for each in self._configs if each.of_ratings}
        return [RMSE] * (RMSE in chosen or not self.ranked) + self.ranked

    @functools.cached_property
    def _configs(self) -> list[Config]:
        return [configs.config_of_run(run.record, run.place) for run in self.runs]

    @functools.cached_property
    def watched(self) -> str | None:
        """The metric of all validation parts that were looked at; None where they differ."""
        every = self.fits + self.trials + self.unfinished
        seen = [each for each in every if each.record.validated]
        found = {fit.record.metric for fit in seen or every}
        return found.pop() if len(found) == 1 else None

    @functools.cached_property
    def folds(self) -> list[int]:
        return sorted({fit.fold for fit in self.fits if fit.fold is not None})

    def title(self, point: tuple) -> str:
        """A point in words: only what tells it from the others."""
        data, split, objective, setting = point
        parts = []
        if len({each[0] for each in self.points}) > 1 and not any(axis.startswith("data.") for axis, _ in setting):
            parts.append(data)
        if len({each[1] for each in self.points if (each[0], each[3]) == (data, setting)}) > 1:
            parts.append(json.loads(split)[1])
        if len({each[2] for each in self.points if each[:2] + each[3:] == (data, split, setting)}) > 1:
            parts.append(objective)
        return ", ".join([*parts, spelt(setting)] if setting else parts)


def read(places: Iterable[Path]) -> Comparison:
    """The fits of these runs.

    Raises:
        StorageError: when one is not the folder of a run.
    """
    places = list({place.resolve(): place for place in map(as_path, places)}.values())
    found = [folder.read(place) for place in places]
    runs = [
        ComparedRun(place, name, each.run, configs.tables(configs.config_of_run(each.run, place)))
        for place, name, each in zip(places, _names(places), found, strict=True)
    ]
    lines = [each.all for each in found]
    known = [_labels(run, own) for run, own in zip(runs, lines, strict=True)]
    constant, partial = _constant(runs, lines), list(map(_partial, lines))
    fits: list[ComparedFit] = []
    for number, (run, own) in enumerate(zip(runs, lines, strict=True)):
        seen = set()
        for line in own:
            others = known[:number] + known[number + 1 :]
            clash = any((line.solver, _hash(run, line.data)) in other for other in others)
            name = f"{run.name}/{line.solver}" if clash else line.solver
            fit = _fit(run, number, line, name, constant, partial[number])
            # A solver may have been fitted again at each value of an axis that is another solver's.
            which = fit.name, fit.instance, fit.objective, line.trial
            if which not in seen or line.trial is not None:
                fits.append(fit)
            seen.add(which)
    done = [fit for fit in fits if not fit.record.open]
    return Comparison(
        runs,
        [fit for fit in done if fit.record.trial is None],
        [fit for fit in done if fit.record.trial is not None],
        [fit for fit in fits if fit.record.open],
        list({each.record.key: each for run in runs for each in _baselines(run)}.values()),
    )


def _baselines(run: ComparedRun) -> Iterator[ComparedBaseline]:
    for each in run.record.baselines:
        yield ComparedBaseline(each, each.data, _split(run, each.data, each.point))


def spelt(values: Values) -> str:
    """rank 8, reg 0.1"""
    return ", ".join(f"{short(axis)} {as_text(value)}" for axis, value in values)


def short(axis: str) -> str:
    """The end of a key: rank for solver.*.rank, reg for objective.reg, learning_rate for hyper.learning_rate."""
    return axis.rpartition(".")[2]


def as_text(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return "–" if value is None else str(value).lower()
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _fit(
    run: ComparedRun, number: int, line: record.FitRecord, solver: str, constant: dict[str, bool], partial: set[str]
) -> ComparedFit:
    own, shared = {}, {}
    for axis in constant:
        inside = axis in line.point
        value = line.point[axis] if inside else _configured(run.config, line, axis)
        if constant[axis]:
            continue
        if axis in partial:
            own |= {axis: value} if inside else {}
        else:
            shared[axis] = value
    point, tuned = line.point, line.point | line.tuned
    zeros = _changed(run.config, "problem", point).get("missing") == "zeros"  # then the loss is over all pairs
    missing = " missing zeros" if zeros else ""
    return ComparedFit(
        line,
        number,
        solver,
        tuple(own.items()),
        tuple(shared.items()),
        line.data,
        _split(run, line.data, point),
        *(f"{words(_changed(run.config, 'objective', changes))}{missing}" for changes in (point, tuned)),
    )


def _constant(runs: list[ComparedRun], lines: list[list[record.FitRecord]]) -> dict[str, bool]:
    """Each axis of the grids, and whether it has one value only."""
    found: dict[str, set] = {}
    for run, fits in zip(runs, lines, strict=True):
        for axis, values in run.config["grid"].items():
            found.setdefault(axis, set()).update(map(repr, values))
        for fit in fits:
            for axis, value in fit.point.items():
                found.setdefault(axis, set()).add(repr(value))
    for axis, values in found.items():
        for run, fits in zip(runs, lines, strict=True):
            if axis not in run.config["grid"]:
                values.update(repr(_configured(run.config, fit, axis)) for fit in fits[:1])
    return {axis: len(values) < 2 for axis, values in found.items()}


def _configured(config: dict, line: record.FitRecord, axis: str) -> Any:
    """The value of an axis in a run whose grid has it not."""
    keys = axis.split(".")
    table: Any = config
    if keys[0] == "solver":
        table = next((each for each in config.get("solver", []) if toml.table_name(each) == line.solver), {})
        keys = axis.removeprefix(f"solver.{line.solver}.").removeprefix("solver.*.").split(".")
    for key in keys:
        table = table.get(key) if isinstance(table, dict) else None
    return table


def _partial(fits: list[record.FitRecord]) -> set[str]:
    """Axes that belong to some solvers only: those of one by name, and those that others have nothing to do with."""
    inside = [set(fit.point) for fit in fits]
    every, some = set.intersection(*inside) if inside else set(), set.union(*inside, set())
    named = {axis for axis in some if axis.startswith("solver.") and not axis.startswith("solver.*.")}
    return some - every | named


def _changed(config: dict, name: str, changes: dict) -> dict:
    """A table of the config with what a fit has changed of it."""
    its = {key.removeprefix(f"{name}."): value for key, value in changes.items() if key.startswith(f"{name}.")}
    return config.get(name, {}) | its


def words(table: dict) -> str:
    return " ".join(
        as_text(value) if key in ("preset", "kind") else f"{key} {_brief(value)}" for key, value in table.items()
    )


def _brief(value: Any) -> str:
    """Of a table its file."""
    return str(value["path"]) if isinstance(value, dict) else as_text(value)


def _split(run: ComparedRun, data: str, point: dict) -> str:
    return json.dumps([_hash(run, data), words(_changed(run.config, "split", point))])


def _hash(run: ComparedRun, data: str) -> str:
    tables = {table.name: table.hash for table in run.record.data}
    return tables.get(data, data)


def _labels(run: ComparedRun, fits: list[record.FitRecord]) -> set[tuple[str, str]]:
    return {(fit.solver, _hash(run, fit.data)) for fit in fits}


def _names(places: list[Path]) -> list[str]:
    """The folders' names; their whole paths where two are alike."""
    names = [place.resolve().name for place in places]
    return names if len(set(names)) == len(names) else [place.as_posix() for place in places]

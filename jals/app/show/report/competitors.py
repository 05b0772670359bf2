"""The fits of one or several runs, as a report sees them: who competes, at which setting, on which problem."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np

from ....files.runs import record
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
    def contest(self) -> tuple:
        """Fits with the same are compared by error: they have one test part, and one point of the grid."""
        return self.data, self.split, self.setting

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
        references: by problem, the minimum that the fit of the lowest loss was on its way to, where it was solved for.
    """

    runs: list[ComparedRun]
    fits: list[ComparedFit]
    trials: list[ComparedFit]
    unfinished: list[ComparedFit]
    baselines: list[ComparedBaseline] = dataclasses.field(default_factory=list)
    references: dict[tuple, record.ReferenceRecord] = dataclasses.field(default_factory=dict)

    @functools.cached_property
    def names(self) -> list[str]:
        """All that compete, in the order of the configs."""
        return list(dict.fromkeys(fit.name for fit in sorted(self.fits + self.trials, key=self._order)))

    def _order(self, fit: ComparedFit) -> tuple[int, int]:
        labels = [toml.table_name(solver) for solver in self.runs[fit.run].config["solver"]]
        label = fit.record.solver
        return fit.run, labels.index(label) if label in labels else len(labels)

    def solver(self, fit: ComparedFit) -> dict[str, Any]:
        """The [[solver]] of a fit, {} where the config has it not."""
        tables = self.runs[fit.run].config["solver"]
        return next((each for each in tables if toml.table_name(each) == fit.record.solver), {})

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


def words(table: dict) -> str:
    return " ".join(
        as_text(value) if key in ("preset", "kind") else f"{key} {_brief(value)}" for key, value in table.items()
    )


def _brief(value: Any) -> str:
    """Of a table its file."""
    return str(value["path"]) if isinstance(value, dict) else as_text(value)

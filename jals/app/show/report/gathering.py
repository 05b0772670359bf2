"""The comparison that the folders of runs hold: every fit, given its place among the others."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ....data.sources import as_path
from ....files.runs import folder, record
from ... import config as configs
from ...config import toml
from .competitors import ComparedBaseline, ComparedFit, ComparedRun, Comparison, words


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
        _references(runs, done),
    )


def _references(runs: list[ComparedRun], fits: list[ComparedFit]) -> dict[tuple, record.ReferenceRecord]:
    """Of several for one problem, that of the lowest loss."""
    problems = {(fit.run, fit.record.key): fit.problem for fit in fits}
    found: dict[tuple, record.ReferenceRecord] = {}
    for number, run in enumerate(runs):
        for each in run.record.references:
            problem = problems.get((number, each.fit))
            if problem is not None and (problem not in found or each.loss < found[problem].loss):
                found[problem] = each
    return found


def _baselines(run: ComparedRun) -> Iterator[ComparedBaseline]:
    for each in run.record.baselines:
        yield ComparedBaseline(each, each.data, _split(run, each.data, each.point))


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

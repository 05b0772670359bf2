"""The baselines of a config, on each fold of a table: what the rankings of its fits have to beat."""

import hashlib
import json
import time

import jals

from ...files.runs.record import BaselineRecord
from ..config.baselines import Baseline
from ..study.plan import PlannedFit
from .data import SplitTable

_DECIDE = ("data.", "split.")  # the axes of a grid that a baseline depends on


def key(baseline: Baseline, planned: PlannedFit, table: SplitTable, fold: int | None) -> str:
    """A hash of all that decides what a baseline comes to."""
    config = planned.config
    tables = (baseline, config.split, config.output)
    decides = [jals.__version__, *(each.model_dump(mode="json") for each in tables), fold, table.folds[fold].data_hash]
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:32]


def measure(baseline: Baseline, planned: PlannedFit, table: SplitTable, fold: int | None) -> BaselineRecord:
    """Fits a baseline to the training part of a fold, and ranks the others by it."""
    started = time.perf_counter()
    scores = baseline.fit(table.folds[fold].train).scores
    seconds = time.perf_counter() - started
    rankings = table.rankings(fold)
    metrics = {"validation": found} if (found := rankings.means("validation", scores)) else {}
    metrics["test"], ranking = rankings.test(scores)
    assert ranking is not None, "a config with baselines asks for a ranking"
    return BaselineRecord(
        key=key(baseline, planned, table, fold),
        name=baseline.label,
        kind=baseline.kind,
        data=planned.config.data.source or planned.config.data.path or "",
        fold=fold,
        point={axis: value for axis, value in planned.point.items() if axis.startswith(_DECIDE)},
        seconds=seconds,
        metrics=metrics,
        ranking=ranking,
    )

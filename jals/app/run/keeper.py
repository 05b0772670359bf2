"""What is kept of a fit: its line in the record, its factors, and its checkpoint while it is under way."""

import contextlib
import dataclasses
import math
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import jals

from ...errors import FitError, StorageError
from ...files.runs import folder
from ...files.runs.record import Failure, FitRecord, HistoryRecord, Unfinished, finite
from ..config.schema import Config
from ..study.plan import PlannedFit
from . import ranks, scores
from .checkpoint import Checkpoints
from .data import SplitTable
from .lock import FolderLock, Follower
from .signals import defer_stops

_MINUTE = 60.0  # seconds


def factors_name(config: Config, solver: str, fold: int | None, key: str) -> str:
    """The file of a fit's factors in the folder of its run.

    Args:
        config: the whole run's.
        solver: its label.
        key: the fit's.
    """
    if config.grid or len(config.seeds) > 1:
        return f"{folder.FACTORS}/{solver}-{key[:8]}.npz"
    parts = ["factors"]
    if len(config.solver) > 1 or fold is not None:
        parts.append(solver)
    if fold is not None:
        parts.append(str(fold))
    return "-".join(parts) + ".npz"


class Keeper:
    """Writes the fits of a run into its folder. `config` is the whole run's."""

    def __init__(self, held: FolderLock | Follower, config: Config):
        self.held, self.place, self.config = held, held.folder, config

    def finish(
        self, table: SplitTable, planned: PlannedFit, result: jals.Result, error: FitError | None, program: int
    ) -> FitRecord:
        """A fit's line, with metrics and certificate, once its factors are kept."""
        fit = self.record(table, planned, result, error, program)
        config, fold = planned.config, table.folds[planned.fold]
        if planned.trial is not None:
            if error is not None:
                return fit.changed(metrics={})
            return fit.changed(
                metrics=scores.trial_metrics(config, result.factors, fold, table.rankings(planned.fold))
            )
        try:
            self.save_factors(table, planned, result.factors)
        except StorageError as full:
            raise self.rescue_factors(table, planned, result, full) from full
        if error is None:
            metrics, ranking = scores.fit_metrics(config, result.factors, fold, table.rankings(planned.fold))
            fit = fit.changed(metrics=metrics)
            if fit.certified:
                cert = scores.certify_fit(config, result.factors, table.problem(planned.fold))
                fit = fit.changed(certificate=scores.proof_of(cert, planned.solver, fit.sweeps))
            return fit if ranking is None else fit.changed(ranking=ranking)
        return fit

    def record(
        self, table: SplitTable, planned: PlannedFit, result: jals.Result, error: FitError | None, program: int
    ) -> FitRecord:
        """What is known of a fit without looking at its factors."""
        solver, settings = planned.solver, planned.config.fit
        key = planned.key(table.hash)
        history = {name: list(column) for name, column in dataclasses.asdict(result.history).items()}
        counts = (np.asarray(history[name], float) for name in ("sweep", "passes"))
        size, objective = table.size(planned.fold), planned.config.objective.build()
        if planned.descent is None:  # of derivatives there is no estimate
            history["operations"] = planned.traits.operations(objective, size, *counts).tolist()
        if not settings.timed:
            history["seconds"] = [math.nan] * len(history["sweep"])
        reason = result.reason
        if error is not None:
            reason = "diverged" if error.row is None else "singular"
        elif reason == "callback":
            reason = "passes" if over_budget(settings.passes, history["passes"]) else "seconds"
        elif reason == "sweeps" and settings.passes is not None and planned.sweeps() != settings.sweeps:
            reason = "passes"
        kept = planned.trial is None and self.config.output.factors
        columns: dict[str, Any] = {"sweep": history.pop("sweep"), "passes": history.pop("passes")}
        for name, column in history.items():
            if not all(map(math.isnan, column)):
                columns[name] = list(map(finite, column))
        return FitRecord(
            key=key,
            solver=solver.label,
            kind=solver.kind,
            fold=planned.fold,
            seed=planned.seed,
            point=planned.point,
            trial=planned.trial,
            tuned=planned.tuned,
            data=planned.config.data.source or planned.config.data.path,  # pyright: ignore[reportArgumentType]
            rank=solver.rank,
            own_minimiser=solver.own_minimiser,
            factors=factors_name(self.config, solver.label, planned.fold, key) if kept else None,
            reason=reason,
            error=None if error is None else _failure(error),
            sweeps=result.sweep,
            converged=result.converged,
            compile_seconds=result.compile_seconds,
            program=program,
            history=HistoryRecord(**columns),
            certified=self.config.output.certificate,
            metric=settings.metric,
        )

    def save_factors(
        self, table: SplitTable, planned: PlannedFit, factors: jals.Factors, path: Path | None = None
    ) -> None:
        if planned.trial is not None or not (self.config.output.factors or path):
            return
        factors = factors.gathered()  # by all processes, where there are several
        ranks.from_first(lambda: self._write_factors(table, planned, factors, path))

    def _write_factors(
        self, table: SplitTable, planned: PlannedFit, factors: jals.Factors, path: Path | None
    ) -> None:
        key, fold = planned.key(table.hash), table.folds[planned.fold]
        if path is None:
            self.held.check()
            path = self.place / factors_name(self.config, planned.solver.label, planned.fold, key)
            with contextlib.suppress(OSError):  # saving says better what is wrong
                path.parent.mkdir(exist_ok=True)
        jals.save(path, factors, table.data.vocab, planned.config.objective.build(), data_hash=fold.data_hash)

    def rescue_factors(
        self, table: SplitTable, planned: PlannedFit, result: jals.Result, error: StorageError
    ) -> StorageError:
        """The error of a folder that takes no more, once the factors are safe in the system's temporary one."""
        key = planned.key(table.hash)
        name = Path(factors_name(self.config, planned.solver.label, planned.fold, key)).name
        place = ranks.from_first(lambda: Path(tempfile.mkdtemp(prefix="jals-"))) / name
        self.save_factors(table, planned, result.factors, place)
        return StorageError(
            f"{error} The factors are in {place} instead. Make room, and run the same command again, or take another "
            "folder with --out."
        )

    def checkpoints(self, table: SplitTable, planned: PlannedFit, files: dict[str, str] | None = None) -> Checkpoints:
        """Those of a fit; `files`: of the ones that are there already."""
        return Checkpoints(self.place, planned.key(table.hash), self.config.checkpoint.keep, files)

    def note_checkpoint(self, table: SplitTable, planned: PlannedFit, kept: Checkpoints, program: int) -> None:
        """Waits for the checkpoint that was begun, and writes the record of its fit, so that the files agree."""
        with defer_stops():
            ranks.from_first(self.held.check)
            result = kept.end()
            line = self.record(table, planned, result, None, program)
            note = Unfinished.model_validate(line.model_dump() | {"files": kept.files})
            ranks.from_first(lambda: folder.write_unfinished(self.place, note))
            kept.prune()

    def begin_checkpoint(
        self, table: SplitTable, planned: PlannedFit, result: jals.Result, kept: Checkpoints, program: int
    ) -> None:
        """Begins to write a checkpoint, after the one before it. What is not spread over devices is written when it
        returns, the factors too."""
        if result.factors.places is None:
            self.save_checkpoint(table, planned, result, kept, program)
            return
        if kept.pending is not None:
            self.note_checkpoint(table, planned, kept, program)
        kept.begin(result)

    def save_checkpoint(
        self, table: SplitTable, planned: PlannedFit, result: jals.Result, kept: Checkpoints, program: int
    ) -> None:
        """Writes factors, checkpoint and record of a fit whose end is not recorded yet, before it returns."""
        with defer_stops():
            ranks.from_first(self.held.check)
            if kept.pending is not None:
                self.note_checkpoint(table, planned, kept, program)
            self.save_factors(table, planned, result.factors)
            kept.begin(result)
            self.note_checkpoint(table, planned, kept, program)


class Keeping:
    """A callback of a fit: keeps checkpoints as the config says, and ends a run by several processes in all of them.

    Args:
        about: table, planned fit, checkpoints and program.
    """

    def __init__(self, keeper: Keeper, about: tuple, stops: ranks.StopsTogether, console: Any):
        self._keeper, self._stops, self._console = keeper, stops, console
        self._table, self._planned, self._kept, self._program = about
        self._last, self._asked = time.monotonic(), keeper.config.checkpoint
        self._sweep: int | None = None  # of the latest checkpoint; at first, where this session began

    def __call__(self, at: jals.Progress) -> None:
        self._stops.agree()
        self._sweep = at.sweep if self._sweep is None else self._sweep
        keeper, kept = self._keeper, self._kept
        try:
            if kept.pending is not None and kept.is_written():
                keeper.note_checkpoint(self._table, self._planned, kept, self._program)
            if self._is_due(at):
                self._last, self._sweep = time.monotonic(), at.sweep
                keeper.begin_checkpoint(self._table, self._planned, at.result, kept, self._program)
        except StorageError as error:  # no reason to stop: the disk may have room again by the end
            ranks.from_first(keeper.held.check)
            self._console.print(f"{error} The fit goes on.", soft_wrap=True)

    def _is_due(self, at: jals.Progress) -> bool:
        if self._asked.sweeps is not None:
            return at.sweep - (self._sweep or 0) >= self._asked.sweeps
        return ranks.any_of(time.monotonic() - self._last >= _MINUTE * self._asked.minutes)[0]


def over_budget(limit: float | None, column: list) -> bool:
    return limit is not None and bool(column) and column[-1] >= limit


def _failure(error: FitError) -> Failure:
    where: dict[str, Any] = {} if error.row is None else {"side": error.side, "row": error.row}
    return Failure(sweep=error.sweep, message=str(error), **where)

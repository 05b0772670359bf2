"""Runs the experiment of a config; certifies a run again from its files."""

import dataclasses
import datetime
import math
import platform
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np
import optax
from rich.console import Console

import jals

from .. import datasets
from ..errors import ConfigError, FitError, Interrupted, StorageError
from . import checkpoint, folder, report
from . import config as configs
from .experiment import Fold, certificate, judged, label, read_data, work
from .page import Drawn
from .page import write as write_page
from .schema import AnySolver, Config
from .watch import Watch

_KEEP_EVERY = 60.0  # seconds: what a power cut may cost
_UNFINISHED = ("running", "interrupted", "failed")  # why a fit ended, where a later session has to go on


def run(path: Path, out: Path | None, overwrite: bool, console: Console, changes: Sequence[str] = ()) -> int:
    """Fits every solver of a config on every fold; shows and saves the results. A run that was stopped goes on.
    `changes` are those of `config.load`; the folder then gets the config as changed.

    Returns: the exit code: 0; 1 when a fit broke down or a certificate failed; 130 when interrupted. What was fitted
        by then is saved in every case.

    Raises:
        JalsError: when the config, the folder or the data cannot be used; nothing has been fitted then.
    """
    config = configs.load(path, changes)
    if config.tune is not None:
        raise ConfigError(f"{path} has a [tune] table, which is for the script that its first lines name.")
    place = out or Path(config.output.folder or Path("runs", path.stem))
    earlier = None if overwrite else _earlier(place, config)
    if earlier is not None:
        report.found(console, place, earlier)
        if earlier["status"] == "finished" and (place / folder.PAGE).exists():
            report.results(console, earlier["fits"])
            return _verdict(earlier)
    folder.opened(place)
    started = time.perf_counter()
    with report.waiting(console, "reading the data"):
        data = read_data(config)
        data_hash = data.ratings.data_hash()
    if earlier is not None and earlier["data_hash"] != data_hash:
        raise StorageError(
            f"{place} holds an unfinished run on other data than {path} now leads to. Start it again with --overwrite, "
            "or choose another folder with --out."
        )
    report.setting(console, config, data.ratings, place)
    begun = {"fits": [], "wall_seconds": 0.0, "started": datetime.datetime.now().astimezone().isoformat("T", "seconds")}
    record = (earlier or begun) | {
        "status": "running",
        "error": None,
        "versions": _versions(),
        "config": config.model_dump(mode="json", exclude_none=True),
        "data_hash": data_hash,
    }
    session = _Session(place, config, data, record, started - record["wall_seconds"], console)
    if earlier is None:
        text = configs.dump(config) if changes else path.read_bytes()  # first: it may be the one in the folder
        with folder.undisturbed():
            folder.emptied(place)
            folder.write(place / folder.CONFIG, text)
            session.write("running")
    return session.go()


@dataclasses.dataclass
class _Session:
    """A run under way: what it has and what it has to show. `record` is what result.json says, and is written with
    every file that it speaks of, so that the folder agrees with itself whenever the run is stopped."""

    place: Path
    config: Config
    data: datasets.Dataset
    record: dict
    started: float
    console: Console
    drawn: dict[str, Drawn] = dataclasses.field(default_factory=dict)  # each solver on its first fold

    def go(self) -> int:
        stopped = None
        try:
            for fold, problem, solver in work(self.config, self.data.ratings):
                self.fitted(fold, problem, solver)
        except (FitError, KeyboardInterrupt) as error:
            stopped = error
        with folder.undisturbed():
            status = "finished" if stopped is None else "failed" if isinstance(stopped, FitError) else "interrupted"
            self.record["error"] = None if stopped is None else str(stopped) or "interrupted"
            self.write(status)
            report.results(self.console, self.record["fits"])
        if status != "interrupted":  # who presses Ctrl-C wants to leave
            with report.waiting(self.console, "drawing the page"):
                write_page(self.place, self.record, self.data, list(self.drawn.values()))
        report.saved(self.console, self.place, self.record)
        if stopped is not None:
            report.stopped(self.console, stopped, self.record, self.data.vocab)
        return _verdict(self.record)

    def write(self, status: str) -> None:
        self.record |= {"status": status, "wall_seconds": time.perf_counter() - self.started}
        folder.write_record(self.place, self.record)

    def fitted(self, fold: Fold, problem: jals.Problem, solver: AnySolver) -> None:
        """Fits, keeps, proves and shows one solver on one fold, as far as an earlier session has not."""
        name = folder.factors_name(self.config, solver, fold.number)
        fit = next((fit for fit in self.record["fits"] if fit["factors"] == name), None)
        if fit is None or fit["reason"] in _UNFINISHED:
            result, stopped = self.result(fold, problem, solver)
            if not result.history.sweep:  # Ctrl-C while the sweep was being compiled
                raise KeyboardInterrupt
            try:
                fit = self.keep(fold, solver, result)
            except StorageError as error:
                raise self.rescued(name, result, fold, error) from error
            report.progress(self.console, fit)
            if stopped is not None:
                raise stopped
        first = solver.label not in self.drawn
        if "certificate" in fit and not first:
            return
        factors = jals.load(self.place / name).factors
        cert = certificate(self.config, factors, problem, solver)
        if "certificate" not in fit:
            fit["metrics"] = _metrics(self.config.objective.build(), factors, fold)
            fit["certificate"] = judged(cert, solver, fit["sweeps"])
            self.write("running")
        if first:
            required = fit["certificate"]["last_updated_required"]
            parts = (fold.train, fold.validation, fold.test)
            self.drawn[solver.label] = Drawn(label(solver, fold), factors, *parts, cert, required)

    def result(
        self, fold: Fold, problem: jals.Problem, solver: AnySolver
    ) -> tuple[jals.Result, BaseException | None]:
        """(result, None), or (what there was by then, why it stopped)."""
        settings, made, objective = self.config.fit, solver.build(), self.config.objective.build()
        name = folder.factors_name(self.config, solver, fold.number)
        kept = time.monotonic()

        def keep(at: jals.Progress) -> None:
            nonlocal kept
            if time.monotonic() - kept >= _KEEP_EVERY:
                try:
                    self.keep(fold, solver, at.result)
                except StorageError as error:  # no reason to stop: the disk may have room again by the end
                    self.console.print(f"{error} The fit goes on.", soft_wrap=True)
                kept = time.monotonic()

        try:
            with Watch(self.console, label(solver, fold)) as watch:
                result = jals.fit(
                    made,
                    problem,
                    objective,
                    sweeps=settings.sweeps,
                    key=jax.random.key(settings.seed),
                    tol=settings.tol,
                    init=checkpoint.restore(self.place, name, made, problem, objective),
                    validation=fold.validation,
                    patience=settings.patience,
                    loss_every=settings.loss_every,
                    callbacks=[watch, keep],
                )
        except (FitError, Interrupted) as stopped:
            return stopped.result, stopped
        return result, None

    def rescued(self, name: str, result: jals.Result, fold: Fold, error: StorageError) -> StorageError:
        """The error of a folder that takes no more, once the factors are safe in the system's temporary one."""
        place = Path(tempfile.mkdtemp(prefix="jals-")) / name
        self.save(place, result, fold)
        return StorageError(
            f"{error} The factors are in {place} instead. Make room, and run the same command again, or take another "
            "folder with --out."
        )

    def save(self, path: Path, result: jals.Result, fold: Fold) -> None:
        objective = self.config.objective.build()
        jals.save(path, result.factors, self.data.vocab, objective, data_hash=fold.data_hash)

    def keep(self, fold: Fold, solver: AnySolver, result: jals.Result) -> dict:
        """Writes what there is of a fit, so that the files agree with one another; returns its part of the record."""
        name = folder.factors_name(self.config, solver, fold.number)
        fit = {"solver": solver.label, "fold": fold.number, "factors": name} | _history(result)
        with folder.undisturbed():
            self.save(self.place / name, result, fold)
            if result.reason in _UNFINISHED:
                checkpoint.save(self.place, name, result)
            else:
                checkpoint.clear(self.place)
            others = [other for other in self.record["fits"] if other["factors"] != name]
            self.record["fits"] = [*others, fit]
            self.write("running")
        return fit


def certify(place: Path, console: Console) -> int:
    """Computes the certificate of a saved run again, from its config, the data and the saved factors alone.

    Returns: the exit code: 0, or 1 when a certificate fails.

    Raises:
        JalsError: when the files are missing or damaged, or the factors were fitted to other data.
    """
    recorded = {fit["factors"]: fit for fit in folder.record(place)["fits"]}
    if not recorded:
        raise StorageError(f"the run in {place} was stopped before its first fit: there is nothing to certify.")
    config = configs.load(place / folder.CONFIG)
    data = read_data(config)
    fits = []
    for fold, problem, solver in work(config, data.ratings):
        name = folder.factors_name(config, solver, fold.number)
        if name not in recorded:  # the run was stopped before it came to this one
            continue
        saved = jals.load(place / name)
        if saved.data_hash != fold.data_hash:
            raise StorageError(
                f"{place / name} was fitted to other ratings than {place / folder.CONFIG} now leads to: "
                "the data or the split has changed since. Run the experiment again."
            )
        sweeps = recorded[name]["sweeps"]
        proof = judged(certificate(config, saved.factors, problem, solver), solver, sweeps)
        fits.append({"solver": solver.label, "fold": fold.number, "sweeps": sweeps, "certificate": proof})
    if len(fits) < len(recorded):
        raise StorageError(f"{folder.RESULT} and {folder.CONFIG} of {place} disagree on the fits: one was changed.")
    report.certificates(console, fits)
    return 0 if all(fit["certificate"]["passed"] for fit in fits) else 1


def _earlier(place: Path, config: Config) -> dict | None:
    """The record of an earlier run of this very config in the folder, or None where there is no run.

    Raises:
        StorageError: when the folder holds a run of another config, which a new one would overwrite.
    """
    if strange := folder.strangers(place):
        raise StorageError(
            f"{place} is no folder of a run, but holds {', '.join(strange)}: a run would write over it. Choose another "
            "folder with --out, or let it be replaced with --overwrite."
        )
    if not (place / folder.RESULT).exists():
        return None
    earlier = folder.record(place)
    asked = config.model_dump(mode="json", exclude_none=True)
    changed = _differences(earlier["config"], asked)
    if changed:
        listing = "".join(f"\n  {key}: {before} there, {now} here" for key, before, now in changed)
        raise StorageError(
            f"{place} holds a run of another config ({earlier['status']}):{listing}\n"
            "Keep it and choose another folder with --out, or replace it with --overwrite."
        )
    return earlier


def _differences(before: Any, now: Any, key: str = "") -> list[tuple[str, Any, Any]]:
    """(key, before, now) wherever two configs differ; where the output goes is no difference."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [name for name in dict.fromkeys([*before, *now]) if (key, name) != ("", "output")]
        pairs = [(f"{key}.{name}".lstrip("."), before.get(name), now.get(name)) for name in keys]
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = [(f"{key}[{place}]", one, other) for place, (one, other) in enumerate(zip(before, now, strict=True))]
    else:
        return [] if before == now else [(key, before, now)]
    return [difference for name, one, other in pairs for difference in _differences(one, other, name)]


def _verdict(record: dict) -> int:
    if record["status"] != "finished":
        return 1 if record["status"] == "failed" else 130
    return 0 if all(fit["certificate"]["passed"] for fit in record["fits"]) else 1


def _history(result: jals.Result) -> dict:
    history = dataclasses.asdict(result.history)
    return {
        "sweeps": result.sweep,
        "reason": result.reason,
        "converged": result.converged,
        "compile_seconds": result.compile_seconds,
        "history": {name: column for name, column in history.items() if not all(map(math.isnan, column))},
    }


def _metrics(objective: jals.Objective, factors: jals.Factors, fold: Fold) -> dict:
    """RMSE and MAE of every part of the split, unclipped, against the objective's target: the value, or with implicit
    feedback 1."""
    metrics = {}
    for name in ("train", "validation", "test"):
        part = getattr(fold, name)
        if part is not None:
            predicted = jals.predict(factors, part.user, part.item)
            target = objective.entry(part.value, np.ones_like(part.value)).t
            metrics[name] = {
                "rmse": float(jals.metrics.rmse(predicted, target, part.weight)),
                "mae": float(jals.metrics.mae(predicted, target, part.weight)),
            }
    return metrics


def _versions() -> dict:
    return {
        "jals": jals.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "optax": optax.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": jax.devices()[0].device_kind,
    }

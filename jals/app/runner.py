"""Runs the experiment of a config and writes its folder; certifies a folder again from its files.

    result.json     the setting, versions, history, metrics, certificates, seconds
    config.toml     the config, as it was
    factors.npz     what was learnt; of several fits factors-<solver>.npz, of several folds factors-<solver>-<fold>.npz
"""

import dataclasses
import json
import math
import os
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jaxlib
import numpy as np
import optax
from rich.console import Console

import jals

from .. import datasets
from ..errors import ConfigError, FitError, Interrupted, StorageError
from . import config as configs
from . import report
from .schema import AnySolver, Config

RESULT, CONFIG = "result.json", "config.toml"


class Fold(NamedTuple):
    """One split of the data; `number` is None where there is only one."""

    number: int | None
    train: jals.Ratings
    validation: jals.Ratings | None
    test: jals.Ratings


def run(path: Path, out: Path | None, console: Console) -> int:
    """Fits every solver of a config on every fold; shows and saves the results.

    Returns: the exit code: 0; 1 when a fit broke down or a certificate failed; 130 when interrupted. What was fitted
        by then is saved in every case.

    Raises:
        JalsError: when the config, the folder or the data cannot be used; nothing has been fitted then.
    """
    started = time.perf_counter()
    config = configs.load(path)
    if config.tune is not None:
        raise ConfigError(f"{path} has a [tune] table, which is for the script that its first lines name.")
    folder = _opened(out or Path(config.output.folder or Path("runs", path.stem)))
    _write(folder / CONFIG, path.read_bytes())
    data = _data(config)
    report.setting(console, config, data.ratings, folder)

    fits: list[dict] = []
    stopped = None
    for fold, problem, solver in _work(config, data.ratings):
        result, stopped = _fitted(config, fold, problem, solver)
        fit = {"solver": solver.label, "fold": fold.number, "factors": _factors_name(config, solver, fold)}
        fit |= _history(result)
        objective = config.objective.build()
        jals.save(folder / fit["factors"], result.factors, data.vocab, objective, data_hash=fold.train.data_hash())
        if stopped is None:
            fit["metrics"] = _metrics(result.factors, fold)
            fit["certificate"] = _certificate(config, result.factors, problem, solver, fit["sweeps"])
        fits.append(fit)
        report.progress(console, fit)
        record = {
            "status": "finished" if stopped is None else type(stopped).__name__,
            "error": None if stopped is None else str(stopped),
            "versions": _versions(),
            "config": config.model_dump(mode="json", exclude_none=True),
            "data_hash": data.ratings.data_hash(),
            "wall_seconds": time.perf_counter() - started,
            "fits": fits,
        }
        _write(folder / RESULT, json.dumps(_plain(record), indent=1, allow_nan=False).encode())
        if stopped is not None:
            break

    report.results(console, fits)
    report.saved(console, folder / RESULT, [fit["factors"] for fit in fits])
    if stopped is None:
        return 0 if all(fit["certificate"]["passed"] for fit in fits) else 1
    report.stopped(console, stopped, data.vocab)
    return 1 if isinstance(stopped, FitError) else 130


def certify(folder: Path, console: Console) -> int:
    """Computes the certificate of a saved run again, from its config, the data and the saved factors alone.

    Returns: the exit code: 0, or 1 when a certificate fails.

    Raises:
        JalsError: when the files are missing or damaged, or the factors were fitted to other data.
    """
    recorded = _recorded(folder)
    config = configs.load(folder / CONFIG)
    data = _data(config)
    fits = []
    for fold, problem, solver in _work(config, data.ratings):
        name = _factors_name(config, solver, fold)
        if name not in recorded:  # the run was stopped before it came to this one
            continue
        saved = jals.load(folder / name)
        if saved.data_hash != fold.train.data_hash():
            raise StorageError(
                f"{folder / name} was fitted to other ratings than {folder / CONFIG} now leads to: "
                "the data or the split has changed since. Run the experiment again."
            )
        sweeps = recorded[name]
        certificate = _certificate(config, saved.factors, problem, solver, sweeps)
        fits.append({"solver": solver.label, "fold": fold.number, "sweeps": sweeps, "certificate": certificate})
    if len(fits) < len(recorded):
        raise StorageError(f"{folder / RESULT} and {folder / CONFIG} disagree on the fits: one was changed.")
    report.certificates(console, fits)
    return 0 if all(fit["certificate"]["passed"] for fit in fits) else 1


def _data(config: Config) -> datasets.Dataset:
    """The data set in the dtype of the fit: float64 needs jax's switch, which only a program may touch."""
    jax.config.update("jax_enable_x64", config.fit.dtype == "float64")
    source = config.data
    data = datasets.load(source.source) if source.source else datasets.from_npz(source.path or "", source.duplicates)
    ratings = data.ratings
    columns = {"value": ratings.value, "weight": ratings.weight}
    cast = {name: None if column is None else column.astype(config.fit.dtype) for name, column in columns.items()}
    return data._replace(ratings=dataclasses.replace(ratings, **cast))


def _work(config: Config, ratings: jals.Ratings) -> Iterator[tuple[Fold, jals.Problem, AnySolver]]:
    """Every fit of the experiment: solvers within folds, so that a fold's problem is built once."""
    split = config.split
    if split.kind == "random":
        pairs = [(None, jals.split.random(ratings, split.test_fraction, split.seed))]
    else:
        pairs = enumerate(jals.split.kfold(ratings, split.folds, split.seed))
    for number, (train, test) in pairs:
        validation = None
        if split.validation_fraction is not None:
            train, validation = jals.split.random(train, split.validation_fraction, split.seed)
        problem = jals.Problem.build(train, layout=config.problem.layout)
        for solver in config.solver:
            yield Fold(number, train, validation, test), problem, solver


def _factors_name(config: Config, solver: AnySolver, fold: Fold) -> str:
    parts = ["factors"]
    if len(config.solver) > 1 or fold.number is not None:
        parts.append(solver.label)
    if fold.number is not None:
        parts.append(str(fold.number))
    return "-".join(parts) + ".npz"


def _fitted(config: Config, fold: Fold, problem: jals.Problem, solver: AnySolver) -> tuple[Any, BaseException | None]:
    """(result, None), or (what there was by then, why it stopped)."""
    settings = config.fit
    try:
        result = jals.fit(
            solver.build(),
            problem,
            config.objective.build(),
            sweeps=settings.sweeps,
            key=jax.random.key(settings.seed),
            tol=settings.tol,
            validation=fold.validation,
            patience=settings.patience,
            loss_every=settings.loss_every,
        )
    except (FitError, Interrupted) as stopped:
        return stopped.result, stopped
    return result, None


def _history(result: Any) -> dict:
    history = dataclasses.asdict(result.history)
    return {
        "sweeps": result.sweep,
        "reason": result.reason,
        "converged": result.converged,
        "compile_seconds": result.compile_seconds,
        "history": {name: column for name, column in history.items() if not all(map(math.isnan, column))},
    }


def _metrics(factors: jals.Factors, fold: Fold) -> dict:
    """RMSE and MAE of every part of the split, unclipped."""
    metrics = {}
    for name in ("train", "validation", "test"):
        part = getattr(fold, name)
        if part is not None:
            predicted = jals.predict(factors, part.user, part.item)
            metrics[name] = {
                "rmse": float(jals.metrics.rmse(predicted, part.value, part.weight)),
                "mae": float(jals.metrics.mae(predicted, part.value, part.weight)),
            }
    return metrics


def _certificate(config: Config, factors: jals.Factors, problem: jals.Problem, solver: AnySolver, sweeps: int) -> dict:
    """The certificate in numbers, and whether it passes. A fresh update must always meet the bound, so one is made
    exactly where the solver is not; the rows as given must meet it where an exact sweep has just made them."""
    made = solver.build()
    judge = made if isinstance(made, jals.ALS) and made.exact else None
    cert = jals.certify(factors, problem, config.objective.build(), solver=judge)
    fresh = {"user": float(np.max(cert.user)), "item": float(np.max(cert.item))}
    last_updated = float(np.max(cert.last_updated))
    bound, required = float(cert.bound), made.exact and sweeps > 0
    passed = all(worst <= bound for worst in (*fresh.values(), last_updated if required else 0.0))
    return {
        **fresh,
        "last_updated": last_updated,
        "last_updated_required": required,
        "stationarity": float(cert.stationarity),
        "bound": bound,
        "passed": passed,
    }


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


def _opened(folder: Path) -> Path:
    """The folder, made and tried by taking away the last run's result: no folder holds factors of one run beside the
    result of another."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / RESULT, b"")
        (folder / RESULT).unlink()
    except OSError as error:
        raise StorageError(
            f"cannot write to the output folder {folder}: {error.strerror}. Choose another with --out or output.folder."
        ) from error
    return folder


def _recorded(folder: Path) -> dict[str, int]:
    """The factors files that the folder's result lists, and how many sweeps made each."""
    try:
        return {fit["factors"]: int(fit["sweeps"]) for fit in json.loads((folder / RESULT).read_bytes())["fits"]}
    except FileNotFoundError:
        raise StorageError(f"no {folder / RESULT}: {folder} is not the folder of a `jals run`.") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{folder / RESULT} cannot be read: {error!r}.") from error


def _write(path: Path, content: bytes) -> None:
    """All of it or nothing: a reader never meets half a file."""
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(content)
    os.replace(partial, path)


def _plain(value: Any) -> Any:
    """JSON's own types; a number that is not finite becomes null."""
    if isinstance(value, dict):
        return {name: _plain(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return _plain(np.asarray(value).tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value

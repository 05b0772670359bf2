"""Folders of runs that were never made: every number is drawn at random, in the form in which `jals run` writes it."""

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np

from jals.files.runs import folder, record

SOLVERS = {  # how fast the loss falls, and to how far above the best
    "als": ("als", 0.9, 0.0),
    "adam": ("gradient", 0.8, 1e-4),
    "sgd": ("gradient", 0.5, 6e-3),
    "momentum": ("gradient", 0.6, 2e-3),
    "adamw": ("gradient", 0.35, 0.2),
}
OWN = ("adamw",)
_KINDS = {
    "als": {"kind": "als"},
    "gradient": {"kind": "gradient", "optimizer": "sgd", "hyper": {"learning_rate": 0.1}},
}


def made_run(
    place: Path,
    solvers=("als", "adam", "sgd", "adamw"),
    folds: Any = (0, 1),
    seeds=(0, 1),
    grid: dict[str, list] | None = None,
    tuned=("sgd",),
    timed=True,
    diverged=(),
    data="table",
    objective: dict[str, Any] | None = None,
    sweeps=12,
    ranked=(),
    baselines=(),
    **changes: Any,
) -> dict:
    """Writes result.json and fits.jsonl, and returns the record with its fits.

    Args:
        diverged: (solver, seed) of fits that break down at sweep 5.
        ranked: metrics such as "ndcg@10", the first of which decides.
        baselines: names of some.
        changes: of result.json.
    """
    rng = np.random.default_rng(0)
    grid = grid or {}
    config = {
        "question": "Which solver reaches what loss, and when?",
        "data": {"path": f"{data}.csv"},
        "split": {"kind": "random", "test_fraction": 0.1, "validation_fraction": 0.1, "seed": 0},
        "objective": {"preset": "als_wr", "reg": 0.1, "bias": True, "center": True} | (objective or {}),
        "solver": [{"name": name, "rank": 8} | _KINDS[SOLVERS[name][0]] for name in solvers],
        "fit": {"sweeps": sweeps, "seeds": list(seeds) or [0], "timed": timed, "dtype": "float32"},
        "output": {"folder": place.as_posix()},
    }
    if ranked:
        config["fit"]["metric"] = ranked[0]
        config["objective"] = {"preset": "ials", "reg": 0.1, "unobserved_weight": 0.1}
        config["output"]["metrics"] = list(ranked)
        config["baseline"] = [{"kind": "most_popular", "name": name} for name in baselines]
    if folds != (None,):
        config["split"] = {"kind": "kfold", "folds": len(folds), "validation_fraction": 0.1, "seed": 0}
    if grid:
        config["grid"] = grid
    if tuned:
        ranges = {f"solver.{name}.hyper.learning_rate": [1e-5, 1e-1] for name in tuned}
        config["tune"] = {"trials": 8, "seed": 0, "sampler": "random", "metric": "validation", "range": ranges}
    fits = []
    points = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    for point, fold, name in itertools.product(points, folds, solvers):
        one = {"fold": fold, "point": point, "data": data, "sweeps": sweeps, "timed": timed}
        rates = 10 ** rng.uniform(-5, -1, 8) if name in tuned else []
        for trial, rate in enumerate(rates):
            bad = rate > 0.03
            fits.append(_fit(rng, name, 0, trial=trial, tuned={"hyper.learning_rate": rate}, bad=bad, **one))
        chosen = {"hyper.learning_rate": 0.02} if name in tuned else {}
        fits += [_fit(rng, name, seed, tuned=chosen, bad=(name, seed) in diverged, **one) for seed in seeds]
    for fit in fits if ranked else ():
        _rank(rng, fit, ranked)
    record = {
        "status": "finished",
        "error": None,
        "started": "2026-01-02T03:04:05+00:00",
        "wall_seconds": 321.5,
        "versions": {"jals": "0.2.0", "jax": "0.10.2", "numpy": "2.4.6", "python": "3.11.7", "device": "cpu"},
        "hardware": {"device": "cpu", "cores": 2, "memory_gib": 24.0, "system": "Linux x86_64", "processor": "x"},
        "command": f"jals run configs/x.toml --out {place.as_posix()}",
        "config": config,
        "data": [
            {
                "name": data,
                "hash": hashlib.sha256(data.encode()).hexdigest(),
                "users": 671,
                "items": 9066,
                "entries": 100004,
                "train": 81003,
                "validation": 9000,
                "test": 10001,
            }
        ],
        "programs": [
            {
                "solver": name,
                "fits": len(points) * len(folds) * len(seeds),
                "loop": "map",
                "chunks": [4],
                "why": "same shapes",
                "compile_seconds": 3.2,
                "seconds": 10.5,
            }
            for name in solvers
        ],
    } | changes
    if baselines:
        record["baselines"] = [_baseline(rng, name, fold, data, ranked) for name in baselines for fold in folds]
    place.mkdir(parents=True, exist_ok=True)
    (place / "result.json").write_text(json.dumps(record))
    write_fits(place, fits)
    return record | {"fits": fits}


def _rank(rng, fit: dict, ranked) -> None:
    """Turns a fit into one that was judged by rankings."""
    fit["metric"] = ranked[0]
    fit["history"]["validation"] = [round(0.4 - each / 4, 6) for each in fit["history"]["validation"]]
    for part, scores in fit["metrics"].items():
        if part != "train":
            scores.update({name: 0.1 + 0.3 * rng.random() for name in ranked})
    if fit["trial"] is None and fit["metrics"]:
        fit["ranking"] = _ranking(rng, ranked)


def _ranking(rng, ranked) -> dict:
    bins = [(0, 0), (1, 1), (2, 3), (4, 7), (8, 15)]
    made = [
        {"low": low, "high": high, "count": 4 * (at + 1), "mean": rng.random(), "stderr": 0.02}
        for at, (low, high) in enumerate(bins)
    ]
    return {
        "users": 600,
        "left_out": 71,
        "stderr": {name: 0.01 + 0.01 * rng.random() for name in ranked},
        "k": [1, 10, 50],
        "curves": {
            name: np.sort(rng.random(3)).tolist() for name in {each.split("@")[0]: 0 for each in ranked if "@" in each}
        },
        "hits_at": 10,
        "by_activity": made[1:],
        "by_popularity": made,
    }


def _baseline(rng, name, fold, data, ranked) -> dict:
    scores = {part: {metric: 0.1 + 0.3 * rng.random() for metric in ranked} for part in ("validation", "test")}
    made = {"key": f"{name} {fold}", "name": name, "kind": "most_popular", "data": data, "point": {}, "seconds": 0.1}
    return made | {"metrics": scores, "ranking": _ranking(rng, ranked)} | ({} if fold is None else {"fold": fold})


def write_fits(place: Path, fits: list[dict]) -> None:
    """Lines of fits.jsonl, but for one that was stopped."""
    under_way = [fit for fit in fits if fit["reason"] == "interrupted"]
    (place / "fits.jsonl").write_text("".join(json.dumps(fit) + "\n" for fit in fits if fit not in under_way))
    for fit in under_way:
        (place / "unfinished.json").write_text(json.dumps(fit))


def _fit(rng, name, seed, *, fold, point, data, sweeps, timed, tuned, trial=None, bad=False) -> dict:
    kind, speed, above = SOLVERS[name]
    rank, reg = point.get("solver.*.rank", 8), point.get("objective.reg", 0.1)
    if tuned:
        above += 0.002 * abs(np.log10(tuned["hyper.learning_rate"]) + 2.5)
    count = 4 if bad else sweeps - int(rng.integers(0, 4)) * (kind == "als")
    least = 5e4 * (1 + reg) / rank**0.2 * (1 + 0.05 * (fold or 0))
    sweep = np.arange(count + 1)
    excess = (above + 4 * np.exp(-speed * sweep * (1 + 0.4 * rng.random()))) * (1 + 0.02 * rng.random())
    rmse = 0.9 + 0.05 * min(excess[-1], 3) + 0.01 * (fold or 0) + 0.004 * rng.random() + 0.1 * (reg - 0.1) ** 2
    history = {
        "sweep": sweep.tolist(),
        "loss": (least * (1 + excess)).tolist(),
        "passes": (sweep * (3 if kind == "als" else 2)).tolist(),
        "operations": (sweep * 1e9 * (rank if kind == "als" else 1)).tolist(),
        "validation": (0.9 + 0.05 * excess + 0.002 * rng.random(count + 1)).tolist(),
    }
    if timed:
        history["seconds"] = np.r_[0, np.cumsum(0.1 + 0.02 * rng.random(count))].tolist()
    metrics = {part: {"rmse": rmse - off, "mae": 0.78 * rmse} for part, off in (("train", 0.2), ("validation", 0.0))}
    worst = 10 ** rng.uniform(-8, -6)
    return {
        "key": hashlib.sha256(repr((name, seed, fold, point, trial)).encode()).hexdigest()[:12],
        "solver": name,
        "kind": kind,
        "fold": fold,
        "seed": seed,
        "point": point,
        "trial": trial,
        "tuned": tuned,
        "data": data,
        "rank": rank,
        "own_minimiser": name in OWN,
        "factors": None if trial is not None or bad else f"factors/{name}.npz",
        "reason": "diverged" if bad else "sweeps" if count == sweeps else "tol",
        "error": {"sweep": 5, "message": "sweep 5: the loss is inf. Take a lower learning rate."} if bad else None,
        "sweeps": count,
        "converged": count < sweeps,
        "compile_seconds": 3.2,
        "program": 0,
        "history": history,
        "metrics": {}
        if bad
        else metrics
        if trial is not None
        else metrics | {"test": {"rmse": rmse, "mae": 0.8 * rmse}},
        "certificate": None
        if trial is not None or bad
        else {
            "user": worst,
            "item": worst / 2,
            "last_updated": 3 * worst,
            "last_updated_required": kind == "als",
            "stationarity": float(excess[-1] * 1e-3),
            "bound": 1e-5,
            "passed": True,
        },
    }


def read_run(place: Path) -> dict:
    """A run as its files say, once the reader has found nothing wrong with them: with "fits", those that ended and the
    one that is unfinished."""
    folder.read(Path(place))
    found = json.loads((Path(place) / folder.RESULT).read_text())
    fits = {}
    for name in (folder.FITS, folder.NOTE):
        if (Path(place) / name).exists():
            whole = (Path(place) / name).read_text()
            lines = whole.rpartition("\n")[0].splitlines() if name == folder.FITS else [whole]
            for line in map(json.loads, lines):
                fits.setdefault(line["key"], line)
    return found | {"fits": list(fits.values())}


def resealed(place: Path) -> None:
    """Seals what the folder of a finished run holds now, as if it had come out so."""
    folder.seal(Path(place), record.run((Path(place) / folder.RESULT).read_bytes()))

"""For which rows is λ or λ·n the better penalty? The test error of both by the number of a row's training entries.

Reads what `jals run configs/lambda_convention.toml` has left: its factors, and the data and folds of its config.

Command: python experiments/lambda_convention.py [runs/lambda_convention]
Time: 10 s.
Writes: by_degree.json into the run's folder, which experiments/collect.py takes in.
"""

import json
import sys
from pathlib import Path

import numpy as np

import jals

EDGES = {"user": (0, 30, 60, 120, 240), "item": (0, 1, 4, 16, 64)}  # the last bin is open


def main(run: str = "runs/lambda_convention") -> None:
    place = Path(run)
    fits = jals.experiment.load(place).fits
    table = jals.datasets.movielens_latest_small().ratings
    errors: dict[tuple[str, str, int], list[np.ndarray]] = {}  # squared, by (side, preset, bin)
    folds = list(jals.split.kfold(table, 5, 0))  # as the config says
    for fit in fits.filter(fits["trial"].is_null()).iter_rows(named=True):
        train, test = folds[fit["fold"]]
        train, _ = jals.split.random(train, 0.1, 0)
        factors = jals.load(place / fit["factors"]).factors
        square = (np.asarray(jals.predict(factors, test.user, test.item)) - test.value) ** 2
        for side, edges in EDGES.items():
            ids, count = (getattr(part, side) for part in (test, train)), getattr(table, f"num_{side}s")
            of_test, of_train = ids
            place_of = np.searchsorted(edges, np.bincount(of_train, minlength=count)[of_test], side="right") - 1
            for bin in range(len(edges)):
                errors.setdefault((side, fit["objective.preset"], bin), []).append(square[place_of == bin])
    rows = []
    for side, edges in EDGES.items():
        for bin, low in enumerate(edges):
            pooled = {preset: np.concatenate(errors[side, preset, bin]) for preset in ("explicit", "als_wr")}
            high = edges[bin + 1] - 1 if bin + 1 < len(edges) else None
            entries = f"{low} or more" if high is None else str(low) if high == low else f"{low} to {high}"
            rmse = {preset: float(np.sqrt(square.mean())) for preset, square in pooled.items()}
            rows.append({"side": side, "entries": entries, "tests": len(pooled["als_wr"]), **rmse})
            print(f"{side} with {entries} entries: RMSE {rmse['explicit']:.4f} (λ), {rmse['als_wr']:.4f} (λ·n)")
    (place / "by_degree.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

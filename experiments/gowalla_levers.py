"""What does each lever of implicit ALS give on Gowalla, and does the validation part say what the test part says?

Table: Gowalla as LightGCN's paper split it (He et al., SIGIR 2020): 810,128 check-ins to learn from, 217,242 to rank,
every item of the catalogue among the candidates but those that the user has in training. It has no times, so what is
held out to choose by is a fifth of each user's training entries, drawn twice (`jals.split.by_user`, seeds 0 and 1).

Search: one lever after another, each tried at a few values; what has the best mean validation NDCG@20 of both hold-outs
is kept, and the next lever starts from there. The order is that of LEVERS; none is gone back to but lambda and alpha0.
After all choices are made, each stage that was kept is fitted to the whole training part, seeds 0, 1 and 2, and ranked
on the test part: that is the only use of it. Solver: conjugate gradients, 3 steps a row.

Command: JALS_DATA=folder python experiments/gowalla_levers.py    (gowalla_lightgcn.npz in that folder)
Time: an hour on two cores, most of it at rank 2,048; --ranks 256 512 stops there.
Published on this split, from the papers, Recall@20 and NDCG@20: MF by BPR .1627 and .1378, EASE .1765 and .1467,
LightGCN .1830 and .1554, UltraGCN .1862 and .1580.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jals

HERE = Path(__file__).parent
METRICS = ("ndcg@20", "recall@20")
HOLD_OUTS, SEEDS = 2, 3
EDGES = (1, 20, 100, 400)  # check-ins of an item

Setting = dict[str, Any]
START: Setting = {"rank": 128, "sweeps": 5, "reg": 0.0028, "unobserved_weight": 0.033}


def scaled(setting: Setting, **factors: float) -> Setting:
    return {name: float(f"{setting[name] * factor:.3g}") for name, factor in factors.items()}


def around(setting: Setting) -> list[Setting]:
    """Lambda and alpha0 by factors of .7 and 1.4."""
    steps = (0.7, 1.0, 1.4)
    return [scaled(setting, reg=a, unobserved_weight=b) for a in steps for b in steps if (a, b) != (1.0, 1.0)]


def along(name: str, *values: float) -> Any:
    return lambda setting: [{name: value} for value in values if setting.get(name) != value]


LEVERS: dict[str, Any] = {
    "λ and α₀": around,
    "entries by n_i^ρ": along("weight_power_item", -0.15, -0.3, -0.45),
    "entries by n_u^ρ": along("weight_power_user", -0.15, -0.3),
    "pairs by n_u^ρ": along("unobserved_power_user", 0.12, 0.24),
    "pairs by n_i^ρ": along("unobserved_power_item", -0.1, 0.1),
    "λ and α₀ again": around,
    "scores by n_i^β": along("item_power", -0.05, 0.05),
}


def at_rank(rank: int) -> Any:
    return lambda setting: [{"rank": rank}, {"rank": rank} | scaled(setting, reg=1.4)]


class Table(NamedTuple):
    problem: jals.Problem
    known: jals.Ratings
    held_out: jals.Ratings


def tables(path: Path) -> tuple[Table, list[Table]]:
    """(the split that is published, hold-outs of its training part)."""
    file = np.load(path)
    users, items = (int(n) for n in file["shape"])
    train, test = (
        jals.Ratings.from_arrays(user, file[f"{part}_item"], np.ones(len(user), np.float32), users, items)
        for part in ("train", "test")
        for user in (file[f"{part}_user"],)
    )
    cuts = [jals.split.by_user(train, 0.2, seed) for seed in range(HOLD_OUTS)]
    published, *hold_outs = (Table(jals.Problem.build(own), own, out) for own, out in [(train, test), *cuts])
    return published, hold_outs


def measured(table: Table, setting: Setting, seed: int) -> list[float]:
    """NDCG@20 and Recall@20 of one fit."""
    numbers = dict(setting)
    rank, sweeps, power = (numbers.pop(name, 0) for name in ("rank", "sweeps", "item_power"))
    solver = jals.ALS(rank, linsolve="cg")
    fit = jals.fit(solver, table.problem, jals.ials(**numbers), sweeps, key=jax.random.key(seed), loss_every=0)
    factors = jals.recommend.corrected(fit.factors, table.problem, power) if power else fit.factors
    mean = jals.metrics.ranking(factors, table.held_out, table.known, 20, ("ndcg", "recall")).mean
    return [mean[name] for name in METRICS]


def search(hold_outs: list[Table], ranks: list[int]) -> tuple[list[dict[str, Any]], int]:
    """(the stages that were kept, each better on validation than the one before; how many settings were tried)."""

    def validated(setting: Setting) -> list[list[float]]:
        return [measured(table, setting, seed) for seed, table in enumerate(hold_outs)]

    def score(found: list[list[float]]) -> float:
        return float(np.mean(found, axis=0)[0])

    levers = LEVERS | {f"rank {rank}": at_rank(rank) for rank in ranks} | {"sweeps": along("sweeps", 4, 6)}
    kept = {"lever": "start", "setting": START, "validation": validated(START)}
    stages, tried = [kept], 1
    for name, changes in levers.items():
        best = kept
        for change in changes(kept["setting"]):
            setting, began = kept["setting"] | change, time.perf_counter()
            found = validated(setting)
            tried += 1
            took = time.perf_counter() - began
            print(f"{name:18} {change}  NDCG@20 {score(found):.4f} ({took:.0f} s)", flush=True)
            if score(found) > score(best["validation"]):
                best = {"lever": name, "setting": setting, "validation": found}
        if best is not kept:
            kept = best
            stages.append(kept)
    return stages, tried


def test_shares(published: Table) -> list[list[float]]:
    """By how many check-ins an item has in both parts: [from, items, the share of those that are test entries]. A part
    that was drawn at random has the same share everywhere."""
    test, both = published.held_out.item, np.concatenate([published.known.item, published.held_out.item])
    count, total = (np.bincount(each, minlength=published.held_out.num_items) for each in (test, both))
    bins = np.digitize(total, EDGES) - 1
    every = [(low, bins == place) for place, low in enumerate(EDGES)]
    return [[low, int(own.sum()), float(count[own].sum() / total[own].sum())] for low, own in every]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="*", default=[256, 512, 1024, 2048])
    arguments = parser.parse_args()
    published, hold_outs = tables(Path(os.environ["JALS_DATA"]) / "gowalla_lightgcn.npz")
    stages, tried = search(hold_outs, arguments.ranks)
    print("\nstage                validation NDCG@20      test NDCG@20, Recall@20 (± error of 3 seeds)")
    for stage in stages:
        stage["test"] = [measured(published, stage["setting"], seed) for seed in range(SEEDS)]
        held_out = np.mean(stage["validation"], axis=0)[0]
        mean, error = np.mean(stage["test"], axis=0), np.std(stage["test"], axis=0, ddof=1) / SEEDS**0.5
        told = ", ".join(f"{at:.4f} ± {off:.4f}" for at, off in zip(mean, error, strict=True))
        print(f"{stage['lever']:20} {held_out:.4f}                  {told}", flush=True)
        results = {"metrics": METRICS, "tried": tried, "stages": stages, "test_share": test_shares(published)}
        (HERE / "results" / "gowalla_levers.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Does iALS with its published numbers give its published ranking on MovieLens 1M?

Protocol. The split of "Neural collaborative filtering" (He et al., WWW 2017): of each user the last rating is held out
and ranked among 99 items that the user has not rated. Negatives equal to the held-out item (156 in the original files)
are left out, as `jals.metrics.ranking` does with an entry's own item. The numbers are those that Rendle, Krichene,
Zhang and Koren, "Revisiting the performance of iALS on item recommendation benchmarks" (RecSys 2022), give for this
table: lambda .007, unobserved weight .3, nu 1, start .1 / sqrt(rank), 12 sweeps. Nothing is tuned here. Such sampled
candidates compare with published numbers and with little else.

Command: JALS_DATA=folder python experiments/ncf_leave_one_out.py    (ml1m_ncf_loo.npz in that folder)
Time: 2 minutes on two cores.
Published, from there: HR@10 .7318 and NDCG@10 .4531 at rank 128, .7310 and .4521 at 192.
"""

import json
import os
from pathlib import Path

import jax
import numpy as np

import jals

PUBLISHED = {128: (0.7318, 0.4531), 192: (0.7310, 0.4521)}
METRICS = ("hit_rate@10", "ndcg@10")
SEEDS = 3
HERE = Path(__file__).parent


def table(path: Path) -> tuple[jals.Ratings, jals.Ratings, np.ndarray]:
    """(training entries, one held-out entry a user, 99 candidates for each)."""
    file = np.load(path)
    users, items = len(file["test_user"]), len(file["ncf_to_movielens_item"])
    ones = [np.ones(len(file[f"{part}_user"]), np.float32) for part in ("train", "test")]
    train, test = (
        jals.Ratings.from_arrays(
            file[f"{part}_user"].astype(np.int32), file[f"{part}_item"].astype(np.int32), one, users, items
        )
        for part, one in zip(("train", "test"), ones, strict=True)
    )
    return train, test, file["test_neg"].astype(np.int32)


def main() -> None:
    train, test, candidates = table(Path(os.environ["JALS_DATA"]) / "ml1m_ncf_loo.npz")
    problem = jals.Problem.build(train)
    objective = jals.ials(reg=0.007, unobserved_weight=0.3, reg_power=1.0)
    found = []
    print("rank  metric       mean ± error of 3 seeds   published")
    for rank, published in PUBLISHED.items():
        runs = []
        for seed in range(SEEDS):
            result = jals.fit(jals.ALS(rank, init_scale=0.1), problem, objective, sweeps=12, key=jax.random.key(seed))
            names = tuple(name.partition("@")[0] for name in METRICS)
            mean = jals.metrics.ranking(result.factors, test, train, 10, names, candidates).mean
            runs.append([mean[name] for name in METRICS])
        mean, error = np.mean(runs, axis=0), np.std(runs, axis=0, ddof=1) / SEEDS**0.5
        for name, at, off, known in zip(METRICS, mean, error, published, strict=True):
            print(f"{rank:4}  {name:12} {at:.4f} ± {off:.4f}           {known:.4f}", flush=True)
        measured = {name: [at, off, SEEDS] for name, at, off in zip(METRICS, mean, error, strict=True)}
        found.append({"rank": rank, "published": dict(zip(METRICS, published, strict=True)), "measured": measured})
    (HERE / "results" / "ncf_leave_one_out.json").write_text(json.dumps({"ranks": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()

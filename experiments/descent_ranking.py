"""Does descent find as good an iALS for rankings as random search, in how many passes? And which weights does it learn?

Two tables with times: ML-100K, of each user the last five ratings for the test and the three before for validation;
and MovieTweetings, the latest tenth of the whole table for the test, the latest tenth of what is left for validation.
Every rating counts as taken. Eight numbers are tuned: lambda of users and of items, nu, alpha0, and the four powers of
a row's entries that weigh entries and pairs. For each of five seeds, which draw the start of every fit:

- random: numbers drawn from a box (log-uniform, powers and nu uniform), a fit of six sweeps each, 12 passes.
- descent: `jals.tune` from the middle of the same box (of lambda and alpha0 from a quarter of it up, in logarithms, as
  from too much of them no derivative leads away), by a smooth NDCG, every step a fit of six sweeps of its own: with
  the tangents 36 passes.
- both: half of the passes at random, the others a descent from the best of those, with half the learning rate.

All keep the numbers whose fit has the best validation NDCG@20; all passes are counted. With the numbers kept after
--passes, one fit on training and validation part together is ranked on the test part, once: paired by seed. Weights:
after the last descent a second one gives every item a weight of its own in entries and pairs, shrunk towards the power
of its count; what it learned is drawn against that count, and ranked on both parts (of the fit to the training part).

Command: JALS_DATA=folder python experiments/descent_ranking.py    (ml100k and movietweetings_100k, npz, in that folder)
Time: 25 minutes on two cores.
Writes: experiments/results/descent_ranking.json and runs/descent_ranking/descent_ranking.png; with --out FOLDER both
there.
"""

import argparse
import dataclasses
import json
import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jals
from jals.tuning import PerRow, SmoothNDCG, tune

HERE = Path(__file__).parent
SWEEPS, RANK, SEEDS = 6, 32, 5
BOX = {  # in the logarithm but for those of any sign
    "reg": (3e-4, 0.3),
    "unobserved_weight": (1e-3, 0.3),
    "reg_power": (0.3, 1.2),
    "weight_power_user": (-0.8, 0.6),
    "weight_power_item": (-0.8, 0.6),
    "unobserved_power_user": (-0.3, 0.6),
    "unobserved_power_item": (-0.3, 0.6),
}
LOGS = ("reg", "unobserved_weight")
SOLVER = jals.ALS(RANK)


class Table(NamedTuple):
    """`whole` is training and validation part together."""

    train: jals.Ratings
    valid: jals.Ratings
    whole: jals.Ratings
    test: jals.Ratings


def tables(folder: Path) -> dict[str, Table]:
    def read(name: str) -> jals.Ratings:
        file = np.load(folder / f"{name}.npz")
        (_, user), (_, item) = (np.unique(file[side], return_inverse=True) for side in ("user", "item"))
        return jals.Ratings.from_arrays(user, item, np.ones(len(user), np.float32), time=file["timestamp"])

    def cut(ratings: jals.Ratings, last: Any, before: Any) -> Table:
        whole, test = last(ratings)
        train, valid = before(whole)
        return Table(train, valid, whole, test)

    of_each, of_all = jals.split.leave_last_out, lambda ratings: jals.split.by_time(ratings, 0.1)
    small, tweets = read("ml100k"), read("movietweetings_100k")
    return {
        "ML-100K": cut(small, lambda ratings: of_each(ratings, 5), lambda ratings: of_each(ratings, 3)),
        "MovieTweetings": cut(tweets, of_all, of_all),
    }


def objective(problem: jals.Problem, numbers: dict[str, float]) -> jals.Objective:
    """nu spreads lambda, and does not change how much there is of it."""
    reg, nu = numbers["reg"], numbers["reg_power"]
    powers: dict[str, Any] = {name: number for name, number in numbers.items() if "_power_" in name}
    made = jals.ials(reg, numbers["unobserved_weight"], nu, **powers).with_total_reg(problem, 1.0)
    sides: dict[str, Any] = {name: float(getattr(made, name)) for name in ("reg_user", "reg_item")}
    return jals.ials(**sides, unobserved_weight=numbers["unobserved_weight"], reg_power=nu, **powers)


def ndcg(factors: jals.Factors, held_out: jals.Ratings, seen: jals.Ratings) -> float:
    return jals.metrics.ranking(factors, held_out, seen, 20, ("ndcg",)).mean["ndcg@20"]


def fitted(problem: jals.Problem, made: jals.Objective, seed: int) -> jals.Factors:
    return jals.fit(SOLVER, problem, made, SWEEPS, key=jax.random.key(seed), loss_every=0).factors


class Search(NamedTuple):
    """How far a search had come after so many passes, the objective that it kept, and its numbers, if it drew them."""

    passes: list[int]
    best: list[float]
    kept: jals.Objective
    numbers: dict[str, float] | None = None


def at_random(table: Table, problem: jals.Problem, seed: int, passes: int) -> Search:
    rng = np.random.default_rng(seed)
    best, kept, numbers, curve = -1.0, None, None, []
    for _ in range(passes // (2 * SWEEPS)):
        drawn = {
            name: float(np.exp(rng.uniform(*np.log(ends))) if name in LOGS else rng.uniform(*ends))
            for name, ends in BOX.items()
        }
        made = objective(problem, drawn)
        score = ndcg(fitted(problem, made, seed), table.valid, table.train)
        best, kept, numbers = (score, made, drawn) if score > best else (best, kept, numbers)
        curve.append(best)
    assert kept is not None
    return Search([2 * SWEEPS * (n + 1) for n in range(len(curve))], curve, kept, numbers)


def middle() -> dict[str, float]:
    """Where a descent starts that knows nothing."""
    inside = {}
    for name, ends in BOX.items():
        inside[name] = float(np.exp(np.log(ends) @ [0.75, 0.25]) if name in LOGS else np.mean(ends))
    return inside


def by_descent(
    table: Table, problem: jals.Problem, seed: int, passes: int, inside: dict[str, float], rate: float
) -> Search:
    start = objective(problem, inside)
    box = {name: ends for name, ends in BOX.items() if name != "reg"}
    for name in ("reg_user", "reg_item"):
        share = float(getattr(start, name)) / inside["reg"]
        box[name] = (BOX["reg"][0] * share, BOX["reg"][1] * share)
    best, kept, curve = -1.0, start, []

    def step(now: jals.tuning.StepProgress) -> None:
        nonlocal best, kept
        # Only the best step by the smooth NDCG is looked at: its factors are the ones at hand.
        if now.result.step == now.step:
            score = ndcg(now.result.factors, table.valid, table.train)
            best, kept = (score, now.result.objective) if score > best else (best, kept)
        curve.append(best)

    hyper = {"learning_rate": rate, "b1": 0.5}
    how: dict[str, Any] = {"score": SmoothNDCG(), "restart": True, "sweeps": SWEEPS, "hyper": hyper}
    key, steps = jax.random.key(seed), passes // (2 * SWEEPS * 3)
    tuned = tune(problem, table.valid, start, SOLVER, **how, box=box, key=key, steps=steps, callbacks=[step])
    return Search(tuned.history.passes, curve, kept)


def by_both(table: Table, problem: jals.Problem, seed: int, passes: int) -> Search:
    """Half of the passes at random, the others a descent from the best of those."""
    drawn = at_random(table, problem, seed, passes // 2)
    assert drawn.numbers is not None
    after = by_descent(table, problem, seed, passes - drawn.passes[-1], drawn.numbers, 0.1)
    kept = after.kept if after.best[-1] > drawn.best[-1] else drawn.kept
    return Search(
        drawn.passes + [drawn.passes[-1] + each for each in after.passes],
        drawn.best + [max(drawn.best[-1], each) for each in after.best],
        kept,
    )


def learned_weights(table: Table, problem: jals.Problem, start: jals.Objective) -> dict[str, Any]:
    """Of every item its entries and what it weighs, in entries and in pairs, after a descent in weights by row."""
    items = np.ones(problem.num_items, np.float32)
    with_rows = start.resolved(problem)
    given = {name: getattr(with_rows, name) for name in ("weight_item", "unobserved_item")}
    free = {name: items if each is None else each for name, each in given.items()}
    how: dict[str, Any] = {"score": SmoothNDCG(), "restart": True, "sweeps": SWEEPS, "hyper": {"learning_rate": 0.1}}
    by_row: dict[str, Any] = {"over": tuple(free), "weights": PerRow(shrinkage=0.003)}
    tuned = tune(problem, table.valid, dataclasses.replace(with_rows, **free), SOLVER, **how, **by_row, steps=12)
    counts = np.bincount(table.train.item, minlength=problem.num_items)
    learned = {name: [float(f"{each:.4g}") for each in getattr(tuned.objective, name)] for name in free}
    fits = [fitted(problem, each, 0) for each in (start, tuned.objective)]
    scores = {
        "validation": [ndcg(each, table.valid, table.train) for each in fits],
        "test": [ndcg(each, table.test, table.whole) for each in fits],
    }
    return {"entries": counts.tolist(), **scores, **learned}


def draw(found: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.2 * len(found), 8), layout="constrained")
    axes = figure.subplots(2, len(found), squeeze=False)
    for column, (name, of) in zip(axes.T, found.items(), strict=True):
        for label, colour in (("random", "#0077bb"), ("descent", "#cc3311"), ("both", "#222222")):
            for n, each in enumerate(of["searches"]):
                column[0].plot(*each[label]["curve"], color=colour, lw=1.2, alpha=0.8, label=label if n == 0 else None)
        column[0].set(title=name, xlabel="passes over the entries", ylabel="validation NDCG@20, best so far")
        column[0].legend(frameon=False)
        weights = of["weights"]
        entries = np.array(weights["entries"])
        there = entries > 0
        for key, text, colour in (("weight_item", "an entry", "#009988"), ("unobserved_item", "a pair", "#aa3377")):
            style = {"ms": 3, "alpha": 0.5, "color": colour, "label": text}
            column[1].plot(entries[there], np.array(weights[key])[there], ".", **style)
        column[1].set(xscale="log", yscale="log", xlabel="entries of the item", ylabel="learned weight (mean 1)")
        column[1].legend(frameon=False, markerscale=3)
        for each in column:
            each.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--passes", type=int, default=540)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "all factors have shrunk to 0")  # of some that are drawn at random
    warnings.filterwarnings("ignore", "[0-9,]+ of [0-9,]+ validation entries are of a user or an item without")
    found: dict[str, Any] = {}
    for name, table in tables(Path(os.environ["JALS_DATA"])).items():
        problem, whole = jals.Problem.build(table.train), jals.Problem.build(table.whole)
        searches = []
        for seed in range(SEEDS):
            by_slope = by_descent(table, problem, seed, arguments.passes, middle(), 0.2)
            ways = {
                "random": at_random(table, problem, seed, arguments.passes),
                "descent": by_slope,
                "both": by_both(table, problem, seed, arguments.passes),
            }
            row = {}
            for label, search in ways.items():
                test = ndcg(fitted(whole, search.kept, seed), table.test, table.whole)
                row[label] = {"curve": [search.passes, search.best], "test": test}
            searches.append(row)
            told = ", ".join(f"{label} {of['curve'][1][-1]:.4f} (test {of['test']:.4f})" for label, of in row.items())
            print(f"{name}, seed {seed}: {told}", flush=True)
        weights = learned_weights(table, problem, by_slope.kept)
        told = ", ".join("{} NDCG@20 {:.4f} to {:.4f}".format(part, *weights[part]) for part in ("validation", "test"))
        print(f"{name}: weights by item, {told}", flush=True)
        found[name] = {"searches": searches, "weights": weights}
    results = (arguments.out or HERE / "results") / "descent_ranking.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found) + "\n")
    draw(found, (arguments.out or HERE.parent / "runs" / "descent_ranking") / "descent_ranking.png")


if __name__ == "__main__":
    main()

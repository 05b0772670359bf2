"""At equal seconds, does iALS rank better or worse than sampled softmax and BPR, by which most fit the same model?

The model is one, s_ui = x_u . y_i of rank 32; the losses are three, and the way of each is its own:

- iALS (`jals.ials`): squares over all pairs, by exact alternating least squares. Tuned: reg, unobserved_weight.
- sampled softmax and BPR: formulas, papers and training in sampled_losses.py, which holds all that is not jals' loss;
  minibatches and Adam. Tuned: learning rate, penalty, negatives, batch.

Tables: MovieLens 1M, each rating a pair, a fifth of every user's for the test (`jals.split.by_user`, seed 0); Gowalla
as LightGCN's paper split it. Of each user's training entries a tenth is held out for validation (seed 1). Every item
that the user has not in training is a candidate.

Each way gets TRIALS random draws of its numbers, of --seconds each, and the numbers with the best validation NDCG@20 of
2,000 users are kept. With these, fits of the same seconds from other seeds. Seconds are of work alone: compiling,
drawing the start and evaluating are outside. At each of SHARES of the seconds the last factors finished by then are
ranked on the validation part, and the best of all are kept (so each stops early alike), and ranked on the test part:
once a seed. Two ways are called apart where the paired difference of their test NDCG@20 is more than two standard
errors; its variance is that over users, of the means over seeds, and that over seeds, added.

Command: JALS_DATA=folder python experiments/implicit_losses.py [--table ml1m gowalla] [--seconds 5]
    ml1m_explicit.npz and gowalla_lightgcn.npz in that folder; "latest-small" needs no file.
Time: 8 minutes on two cores.
Writes: experiments/results/implicit_losses.json and runs/implicit_losses/implicit_losses.png; with --out FOLDER both
there.
"""

import argparse
import datetime
import functools
import json
import os
import platform
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import sampled_losses
from speed.measure import machine

import jals

HERE = Path(__file__).parent
METRICS = ("ndcg@20", "recall@20")
SHARES = (1 / 16, 1 / 8, 1 / 4, 3 / 8, 1 / 2, 3 / 4, 1)
TRIALS, SEEDS, RANK, WATCHED = 8, 3, 32, 2_000
NEAR = 0.01  # below the best of the same fit, relative

Numbers = dict[str, Any]


class Range(NamedTuple):
    """Drawn log-uniformly."""

    low: float
    high: float

    def at_edge(self, number: float) -> bool:
        """In the outermost tenth, so that the best may lie beyond."""
        place = np.log(number / self.low) / np.log(self.high / self.low)
        return not 0.1 <= place <= 0.9


# A tuple is drawn from evenly: its sizes are static, each compiles a program.
TUNED: dict[str, dict[str, Range | tuple[int, ...]]] = {
    "iALS": {"reg": Range(1e-4, 0.1), "unobserved_weight": Range(0.01, 1.0)},
    "sampled softmax": {
        "learning_rate": Range(0.003, 0.1),
        "penalty": Range(1e-4, 0.1),
        "negatives": (64, 256),
        "batch": (2048, 8192),
    },
    "BPR": {
        "learning_rate": Range(0.003, 0.1),
        "penalty": Range(1e-4, 0.1),
        "negatives": (1, 4),
        "batch": (2048, 8192),
    },
}


class Table(NamedTuple):
    """`watched` is the part of the validation part that curves are of, `whole` all but the test part."""

    train: jals.Ratings
    watched: jals.Ratings
    whole: jals.Ratings
    test: jals.Ratings


def table(name: str) -> Table:
    if name == "gowalla":
        file = np.load(Path(os.environ["JALS_DATA"]) / "gowalla_lightgcn.npz")
        users, items = map(int, file["shape"])
        whole, test = (_taken(file[f"{part}_user"], file[f"{part}_item"], users, items) for part in ("train", "test"))
    else:
        source = jals.datasets.movielens_latest_small() if name == "latest-small" else jals.datasets.load("ml1m")
        rated = source.ratings
        every = _taken(rated.user, rated.item, rated.num_users, rated.num_items)
        whole, test = jals.split.by_user(every, 0.2, seed=0)
    train, valid = jals.split.by_user(whole, 0.1, seed=1)
    users = np.unique(valid.user)
    watched = np.random.default_rng(0).permutation(users)[:WATCHED]
    return Table(train, valid.select(np.isin(valid.user, watched)), whole, test)


def _taken(user: Any, item: Any, users: int, items: int) -> jals.Ratings:
    user, item = (np.asarray(side, np.int32) for side in (user, item))
    return jals.Ratings.from_arrays(user, item, np.ones(len(user), np.float32), users, items)


class Way(NamedTuple):
    """How a fit begins, from (numbers, seed), and a piece of its work, from (state, numbers); states have `factors`."""

    begin: Callable[[Numbers, int], Any]
    advance: Callable[[Any, Numbers], Any]


def ways(train: jals.Ratings, rank: int) -> dict[str, Way]:
    problem, solver = jals.Problem.build(train).arrange(), jals.ALS(rank)
    pairs = sampled_losses.Pairs.of(train)

    def sampled(loss: str) -> Way:
        def advance(state: Any, numbers: Numbers) -> Any:
            return sampled_losses.advance(state, pairs, **numbers, loss=loss)

        return Way(lambda numbers, seed: sampled_losses.start(train, rank, seed), advance)

    ials = Way(
        lambda numbers, seed: solver.init(jax.random.key(seed), problem, jals.ials(**numbers)),
        lambda state, numbers: jals.run(solver, state, problem, jals.ials(**numbers), sweeps=1)[0],
    )
    return {"iALS": ials, "sampled softmax": sampled("sampled_softmax"), "BPR": sampled("bpr")}


class Fit(NamedTuple):
    """The validation NDCG@20 at each of SHARES, null before the first piece of work is done; when that was measured,
    in seconds of work; how many pieces were done; and the best factors."""

    validation: list[float | None]
    seconds: list[float]
    pieces: int
    factors: jals.Factors

    @property
    def best(self) -> float:
        return max((each for each in self.validation if each is not None), default=0.0)

    @property
    def near(self) -> float | None:
        found = zip(self.seconds, self.validation, strict=True)
        return next((at for at, each in found if each is not None and each >= (1 - NEAR) * self.best), None)


def fitted(way: Way, numbers: Numbers, seed: int, seconds: float, score: Callable[[jals.Factors], float]) -> Fit:
    """One fit, watched. A piece of work is begun where it will be done in time, if it takes what the last one took."""
    took = min([_timed(way, way.begin(numbers, seed), numbers)[1] for _ in range(3)][1:])  # the first compiles
    state = jax.block_until_ready(way.begin(numbers, seed))
    kept, best = _copied(state.factors), -1.0
    spent, pieces, measured, validation, at = 0.0, 0, 0, [], []
    for share in SHARES:
        while spent + took <= share * seconds:
            state, took = _timed(way, state, numbers)
            spent, pieces = spent + took, pieces + 1
        if pieces > measured:
            found, measured = score(state.factors), pieces
            kept, best = (_copied(state.factors), found) if found > best else (kept, best)
            validation.append(found)
        else:
            validation.append(validation[-1] if validation else None)
        at.append(spent)
    return Fit(validation, at, pieces, kept)


def _timed(way: Way, state: Any, numbers: Numbers) -> tuple[Any, float]:
    started = time.perf_counter()
    state = jax.block_until_ready(way.advance(state, numbers))
    return state, time.perf_counter() - started


def _copied(factors: jals.Factors) -> jals.Factors:
    """The steps of the gradient methods use their state up."""
    return jax.tree.map(jnp.copy, factors)


def drawn(tuned: dict[str, Range | tuple[int, ...]], rng: np.random.Generator) -> Numbers:
    return {
        name: float(np.exp(rng.uniform(*np.log(of)))) if isinstance(of, Range) else int(rng.choice(of))
        for name, of in tuned.items()
    }


def ranked(factors: Any, held_out: jals.Ratings, seen: jals.Ratings) -> jals.metrics.Ranking:
    return jals.metrics.ranking(factors, held_out, seen, 20, ("ndcg", "recall"))


def compared(name: str, seconds: float, trials: int = TRIALS, seeds: int = SEEDS) -> dict[str, Any]:
    """What the record says of one table."""
    parts = table(name)

    def score(factors: jals.Factors) -> float:
        finite = all(np.isfinite(rows).all() for rows in (factors.user, factors.item))
        return ranked(factors, parts.watched, parts.train).mean[METRICS[0]] if finite else 0.0

    rows: dict[str, Any] = {}
    rankings: dict[str, list[jals.metrics.Ranking]] = {}
    for label, way in ways(parts.train, RANK).items():
        rng, tried = np.random.default_rng(0), []
        for trial in range(trials):
            numbers = drawn(TUNED[label], rng)
            tried.append({"numbers": numbers, "validation": fitted(way, numbers, trial, seconds, score).best})
        chosen = max(tried, key=lambda each: each["validation"])["numbers"]
        fits = [fitted(way, chosen, trials + seed, seconds, score) for seed in range(seeds)]
        rankings[label] = [ranked(fit.factors, parts.test, parts.whole) for fit in fits]
        rows[label] = {
            "numbers": chosen,
            "at_edge": [key for key, of in TUNED[label].items() if isinstance(of, Range) and of.at_edge(chosen[key])],
            "trials": tried,
            "fits": [
                {"validation": fit.validation, "seconds": fit.seconds, "pieces": fit.pieces, "near": fit.near}
                for fit in fits
            ],
            "test": [[each.mean[metric] for metric in METRICS] for each in rankings[label]],
        } | summary(fits)
        told = " ± ".join(f"{number:.4f}" for number in _mean([each[0] for each in rows[label]["test"]]))
        print(f"{name:12} {label:16} test NDCG@20 {told}, {fits[0].pieces} pieces, {chosen}", flush=True)
    popular = ranked(jals.baselines.most_popular(parts.train).scores, parts.test, parts.whole)
    sizes = {"train": len(parts.train), "validation": len(parts.whole) - len(parts.train), "test": len(parts.test)}
    return {
        "users": parts.train.num_users,
        "items": parts.train.num_items,
        "entries": sizes,
        "ways": rows,
        "order": sorted(rows, key=lambda label: -np.mean(rows[label]["test"], axis=0)[0]),
        "less": {one: {two: less(rankings[one], rankings[two]) for two in rows if two != one} for one in rows},
        "most_popular": [popular.mean[metric] for metric in METRICS],
    }


def summary(fits: list[Fit]) -> dict[str, Any]:
    """`so_far`, at each of SHARES the best validation NDCG@20 until then: [mean, standard error, fits], or null where a
    fit had done nothing yet; `to_near`, the median seconds to within NEAR of a fit's own best."""
    best = np.array([np.maximum.accumulate([each or 0.0 for each in fit.validation]) for fit in fits])
    begun = [None not in each for each in zip(*(fit.validation for fit in fits), strict=True)]
    so_far = [[*_mean(list(each)), len(fits)] if there else None for each, there in zip(best.T, begun, strict=True)]
    near = [fit.near for fit in fits if fit.near is not None]
    return {"so_far": so_far, "to_near": float(np.median(near)) if near else None}


def less(one: list[jals.metrics.Ranking], two: list[jals.metrics.Ranking]) -> dict[str, list[float]]:
    """By metric the mean difference, paired by seed and user, and its standard error: over users and over seeds."""
    differences = [first.minus(second) for first, second in zip(one, two, strict=True)]
    found = {}
    for metric in METRICS:
        by_user = np.mean([each.per_user[metric] for each in differences], axis=0)
        of_seeds = _mean([each.mean[metric] for each in differences])
        over_users = np.std(by_user, ddof=1) / len(by_user) ** 0.5
        found[metric] = [of_seeds[0], float(np.hypot(over_users, of_seeds[1]))]
    return found


def _mean(numbers: list[float]) -> list[float]:
    """[mean, standard error]; 0 where there is one."""
    several = len(numbers) > 1
    return [float(np.mean(numbers)), float(np.std(numbers, ddof=1) / len(numbers) ** 0.5) if several else 0.0]


def draw(found: dict[str, Any], path: Path) -> None:
    """Validation NDCG@20 against seconds, a line a seed."""
    from matplotlib.figure import Figure

    tables = found["tables"]
    figure = Figure(figsize=(5.2 * len(tables), 4.2), layout="constrained")
    for axis, (name, of) in zip(figure.subplots(1, len(tables), squeeze=False)[0], tables.items(), strict=True):
        for (label, row), colour in zip(of["ways"].items(), ("#0077bb", "#cc3311", "#222222"), strict=True):
            for n, fit in enumerate(row["fits"]):
                ndcg = [np.nan if each is None else each for each in fit["validation"]]
                axis.plot(fit["seconds"], ndcg, "o-", ms=3, lw=1.2, color=colour, label=label if n == 0 else None)
        axis.set(title=name, xlabel="seconds of work", ylabel="validation NDCG@20", xscale="log")
        axis.legend(frameon=False)
        axis.grid(alpha=0.3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main(*given: str) -> dict[str, Any]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", nargs="+", choices=("latest-small", "ml1m", "gowalla"), default=["ml1m", "gowalla"])
    parser.add_argument("--seconds", type=float, default=5.0, help="of work, a fit and a trial")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args(given or None)
    warnings.filterwarnings("ignore", "all factors have shrunk to 0")  # of some that are drawn at random
    started = time.perf_counter()
    one = functools.partial(compared, seconds=arguments.seconds, trials=arguments.trials, seeds=arguments.seeds)
    versions = {"jals": jals.__version__, "jax": jax.__version__, "optax": optax.__version__}
    found: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "versions": versions | {"numpy": np.__version__, "python": platform.python_version()},
        "hardware": machine(),
        "seconds": arguments.seconds,
        "trials": arguments.trials,
        "seeds": arguments.seeds,
        "rank": RANK,
        "metrics": METRICS,
        "shares": SHARES,
        "watched": WATCHED,
        "tuned": TUNED,
        "tables": {name: one(name) for name in arguments.table},
    }
    found["minutes"] = (time.perf_counter() - started) / 60
    results = (arguments.out or HERE / "results") / "implicit_losses.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    draw(found, (arguments.out or HERE.parent / "runs" / "implicit_losses") / "implicit_losses.png")
    return found


if __name__ == "__main__":
    main()

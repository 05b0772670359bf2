"""How low is the test RMSE of biased ALS-WR on ML-100K when nothing is chosen on the test folds?

Protocol. Five folds of MovieLens 100K, entry for entry those of Surprise's KFold(5, random_state=0). For each, from its
training part alone:

1. The training part is cut into inner folds. A trial (lambda of users, items and biases, the power nu of their counts,
   the scale of the initial factors) scores the mean validation RMSE over inner folds, least over the number of sweeps.
2. Trials come in rounds: the first log-uniform from the ranges of the config, the later ones normal (in the logs) with
   the mean and covariance of the best trials so far. They run at one rank and on some of the inner folds.
3. The best trials then run at every rank and on all inner folds; the least mean RMSE chooses trial, rank and sweeps.
4. One fit on the whole training part with these numbers predicts the test fold: once, unclipped.

Command: JALS_DATA=folder python experiments/ml100k_folds.py [configs/ml100k_folds.toml]
Time: 9 minutes on two cores shared with other work (6 minutes of processor time).
Expect: test RMSE 0.9055 ± 0.0032, MAE 0.7136 ± 0.0028 (standard error over folds); rank 64, 6 or 7 sweeps,
    nu 0.39 to 0.54.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

import jals
from jals import datasets
from jals.app.config import load
from jals.app.config.presets import AlsWr
from jals.app.config.schema import Config
from jals.app.config.splits import KFoldSplit

SEARCH_FOLDS = 2  # inner folds that score a trial of the search; the finalists are scored on all
ROUNDS = 4  # the first draws from the ranges, each later one around the best trials so far
FINALISTS = 5  # the best so far: they steer the next round, and meet every rank at the end
RANKS = (16, 32, 64)  # the search runs at the first, the cheapest
OUT = Path("runs/ml100k_folds/result.json")


class Score(NamedTuple):
    """A trial's best mean validation RMSE, and how it came by it; scores sort by RMSE."""

    rmse: float
    sweeps: int
    rank: int
    trial: dict[str, float]


def model(config: Config, rank: int, trial: dict[str, float]) -> tuple[jals.ALS, jals.Objective]:
    """The solver and the objective of a trial, whose keys are "solver.als.<name>" and "objective.<name>"."""
    numbers = {"solver": {}, "objective": {}}
    for key, number in trial.items():
        table, *_, name = key.split(".")
        numbers[table][name] = number
    fixed = config.objective
    assert isinstance(fixed, AlsWr)
    objective = jals.als_wr(bias=fixed.bias, center=fixed.center, **numbers["objective"])
    return jals.ALS(rank=rank, **numbers["solver"]), objective


@partial(jax.jit, static_argnames="sweeps")
def curve(solver, problem, objective, key, user, item, value, sweeps):
    """RMSE on the given entries after each sweep, `(sweeps,)`."""

    def step(state, _):
        state, _ = solver.sweep(state, problem, objective)
        return state, jals.metrics.rmse(jals.predict(state.factors, user, item), value)

    problem = problem.arrange()
    return jax.lax.scan(step, solver.init(key, problem, objective), length=sweeps)[1]


def scored(
    config: Config, problem: jals.Problem, ratings: jals.Ratings, inner: np.ndarray, folds: int, rank: int, trial: dict
) -> Score:
    """The `Score` of a trial over the first `folds` inner folds; `inner` is -1 at the entries of the test fold."""
    solver, objective = model(config, rank, trial)
    key = jax.random.key(config.fit.seed)
    curves = []
    for fold in range(folds):
        # The training part as weights: one program serves every fold, inner and outer.
        train = problem.with_values(problem.value, weight=(inner >= 0) & (inner != fold))
        held_out = ratings.select(inner == fold)
        entries = held_out.user, held_out.item, held_out.value
        curves.append(curve(solver, train, objective, key, *entries, sweeps=config.fit.sweeps))
    mean = np.mean(curves, axis=0)
    mean = np.where(np.isfinite(mean), mean, np.inf)
    return Score(float(mean.min()), int(mean.argmin()) + 1, rank, trial)


def search(config: Config, score, rng: np.random.Generator) -> list[Score]:
    """The best trials, found by rounds that close in: what matters is a combination of lambda and nu, a narrow ridge in
    the box of their ranges, and the covariance of the best trials points along it."""
    tune = config.tune
    low, high = np.log(list(tune.range.values())).T
    best: list[Score] = []
    for _ in range(ROUNDS):
        size = (tune.trials // ROUNDS, len(low))
        if best:
            logs = np.log([list(each.trial.values()) for each in best])
            points = rng.multivariate_normal(logs.mean(axis=0), np.cov(logs.T), size[0])
        else:
            points = rng.uniform(low, high, size)
        trials = np.exp(np.clip(points, low, high)).tolist()
        best += [score(dict(zip(tune.range, numbers, strict=True))) for numbers in trials]
        best = sorted(best, key=lambda each: each.rmse)[:FINALISTS]
    return best


def choose(config: Config, problem: jals.Problem, ratings: jals.Ratings, training: np.ndarray, fold: int) -> Score:
    """The numbers for one outer fold, from its training part alone."""
    tune = config.tune
    inner = np.full(len(ratings), -1)
    inner_folds = round(1 / (config.split.validation_fraction or 1))
    inner[training] = jals.split.fold_numbers(ratings.select(training), inner_folds, tune.seed)
    score = partial(scored, config, problem, ratings, inner)
    rng = np.random.default_rng([tune.seed, fold])
    finalists = search(config, partial(score, SEARCH_FOLDS, RANKS[0]), rng)
    return min(
        (score(inner_folds, rank, each.trial) for rank in RANKS for each in finalists),
        key=lambda each: each.rmse,
    )


def tested(config: Config, problem: jals.Problem, ratings: jals.Ratings, training: np.ndarray, chosen: Score) -> dict:
    """One fit on the whole training part; RMSE and MAE on the test fold."""
    solver, objective = model(config, chosen.rank, chosen.trial)
    train = problem.with_values(problem.value, weight=training)
    key = jax.random.key(config.fit.seed)
    factors = jals.fit(solver, train, objective, sweeps=chosen.sweeps, key=key, loss_every=0).factors
    test = ratings.select(~training)
    predicted = jals.predict(factors, test.user, test.item)
    return {name: float(getattr(jals.metrics, name)(predicted, test.value)) for name in ("rmse", "mae")}


def main(path: str = "configs/ml100k_folds.toml") -> None:
    try:
        config = load(path)
        source, split = config.data.source, config.split
        complete = split.validation_fraction and config.fit.sweeps and config.tune
        if not (source and complete and isinstance(split, KFoldSplit) and isinstance(config.objective, AlsWr)):
            needs = 'data.source, split "kfold" with validation_fraction, preset "als_wr", fit.sweeps and [tune]'
            raise jals.ConfigError(f"{path}: this study needs {needs}.")
        ratings = datasets.load(source).ratings
    except jals.JalsError as error:
        sys.exit(str(error))
    started = time.perf_counter()
    problem = jals.Problem.build(ratings, layout=config.problem.layout)
    number = jals.split.fold_numbers(ratings, split.folds, split.seed)

    folds = []
    for fold in range(split.folds):
        training = number != fold
        chosen = choose(config, problem, ratings, training, fold)
        test = tested(config, problem, ratings, training, chosen)
        folds.append({"fold": fold, "chosen": chosen._asdict(), "test": test})
        numbers = "  ".join(f"{key.split('.')[-1]} {value:.3g}" for key, value in chosen.trial.items())
        errors = f"validation RMSE {chosen.rmse:.4f}  test RMSE {test['rmse']:.4f}  MAE {test['mae']:.4f}"
        print(f"fold {fold}: rank {chosen.rank}  sweeps {chosen.sweeps}  {numbers}\n        {errors}", flush=True)

    means = {}
    for name in ("rmse", "mae"):
        values = [each["test"][name] for each in folds]
        means[name] = {"mean": np.mean(values), "standard_error": np.std(values, ddof=1) / np.sqrt(len(values))}
        print(f"test {name.upper():4} {means[name]['mean']:.4f} ± {means[name]['standard_error']:.4f} (standard error)")
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")

    OUT.parent.mkdir(parents=True, exist_ok=True)
    versions = {"jals": jals.__version__, "jax": jax.__version__}
    record = {"config": config.model_dump(), "versions": versions, "seconds": seconds}
    OUT.write_text(json.dumps(record | {"folds": folds, "test": means}, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

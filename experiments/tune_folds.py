"""Does descent find as good a lambda as a grid, in a tenth of its passes? And is a lambda by degree worth having?

ML-100K, Surprise's five folds, biased ALS-WR. Of each training part a tenth is the validation part. On it, for each
fold and with the same solver, start and number of sweeps:

- grid: 10 x 10 points over (lambda of users, lambda of items), log-spaced in a box; a fit each.
- random: as many points drawn log-uniformly from the box, and those of them that cost no more passes than a descent.
- descent: `jals.tune` from the middle of the box, with its defaults; once over the two lambdas, once over nu too.
- degree: the same descent with log lambda a polynomial in the log of a row's entries.

Every pass over the entries is counted: two a sweep of a fit; `jals.tune` counts its own, derivatives and start
included. A descent is charged for one more fit, which says what its numbers are worth in a fit like the grid's: that is
the held-out RMSE reported for it; the one of its own warm-started factors stands beside it. With the numbers chosen,
one fit on the whole training part predicts the test part, once. The defaults of `jals.tune` were chosen on a
tenth of the first fold's training part.

Command: JALS_DATA=folder python experiments/tune_folds.py [--small]
    (--small: a few fits on MovieLens latest-small, for a look at the script, not at the numbers)
Time: 8 minutes on two cores shared with other work.
Expect: held-out RMSE of the descent over two lambdas 0.0000 ± 0.0001 from the grid's best, in 290 passes against 3,000;
    random search in 270 passes 0.0036 ± 0.0017 above. Test RMSE 0.9137 (grid 0.9144); with nu 0.9099 ± 0.0026. By
    degree against one lambda a side, paired: -0.0038 ± 0.0004 (degree 1), -0.0035 ± 0.0004 (degree 2).
Writes: experiments/results/tune_folds.json and runs/tune_folds/tune_folds.png (both into runs/tune_folds_small with
    --small).
"""

import json
import sys
import time
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import jals
from jals.tuning import ByDegree, tune

BOX = (0.02, 0.5)
SWEEPS = 15
PASSES = 2 * SWEEPS  # of a fit
KEY = 0
LAMBDAS = ("reg_user", "reg_item")
DESCENTS: dict[str, dict[str, Any]] = {
    "descent": {"over": LAMBDAS},
    "descent with nu": {"over": (*LAMBDAS, "reg_power")},
    "degree 1": {"over": LAMBDAS, "reg": ByDegree(1)},
    "degree 2": {"over": LAMBDAS, "reg": ByDegree(2)},
}


class Size(NamedTuple):
    data: jals.datasets.Name
    folds: int
    rank: int
    points: int  # of the grid, a side
    steps: int


WHOLE = Size("ml100k", 5, 32, 10, 20)
SMALL = Size("movielens-latest-small", 2, 2, 2, 2)


class Part(NamedTuple):
    """A training part, by weights of all entries, and what its fits are judged on."""

    problem: jals.Problem
    held_out: jals.Ratings

    def error(self, objective: jals.Objective, rank: int) -> float:
        """RMSE of one fit."""
        key = jax.random.key(KEY)
        fit = jals.fit(jals.ALS(rank), self.problem, objective, sweeps=SWEEPS, key=key, loss_every=0)
        predicted = jals.predict(fit.factors, self.held_out.user, self.held_out.item)
        return float(jals.metrics.rmse(predicted, self.held_out.value))


def objective(user: float, item: float) -> jals.Objective:
    return jals.als_wr(reg_user=user, reg_item=item, bias=True, center=True)


def tried(points: np.ndarray, part: Part, rank: int) -> list[float]:
    """The held-out RMSE of a fit at each point (lambda of users, lambda of items)."""
    many = [objective(*point) for point in points.tolist()]
    ends = jals.fit_many(
        jals.ALS(rank), part.problem, many, SWEEPS, jax.random.key(KEY), validation=part.held_out, loss_every=SWEEPS
    )
    return [end.history.validation[-1] if isinstance(end, jals.Result) else np.inf for end in ends]


def compared(size: Size, problem: jals.Problem, ratings: jals.Ratings, training: np.ndarray, fold: int) -> dict:
    """Every method's numbers, passes and errors on one fold."""
    inner = np.random.default_rng(fold).random(len(ratings)) >= 0.1
    part = Part(problem.with_values(problem.value, training & inner), ratings.select(training & ~inner))
    final = Part(problem.with_values(problem.value, training), ratings.select(~training))
    low, high = np.log(BOX)
    axis = np.exp(np.linspace(low, high, size.points))
    grid = np.stack(np.meshgrid(axis, axis, indexing="ij"), axis=-1).reshape(-1, 2)
    drawn = np.exp(np.random.default_rng([1, fold]).uniform(low, high, grid.shape))

    told: dict[str, Any] = {}
    for name, of in DESCENTS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of validation entries without training entries
            middle = objective(*2 * [float(np.exp((low + high) / 2))])
            solver, key = jals.ALS(size.rank), jax.random.key(KEY)
            result = tune(part.problem, part.held_out, middle, solver, key=key, steps=size.steps, **of)
        history = result.history
        told[name] = {
            "held_out": part.error(result.objective, size.rank),
            "warm": min(history.rmse),
            "passes": result.passes + PASSES,
            "numbers": history.numbers[result.step - 1],
            "parameters": jax.tree.map(lambda leaf: np.asarray(leaf).tolist(), result.parameters),
            "curve": [history.passes, history.rmse],
            "test": final.error(result.objective, size.rank),
            "unseen": result.unseen,
        }
    affordable = told["descent"]["passes"] // PASSES
    errors = {"grid": tried(grid, part, size.rank), "random": tried(drawn, part, size.rank)}
    for name, points, among in (
        ("grid", grid, errors["grid"]),
        ("random", drawn, errors["random"]),
        ("random, passes of a descent", drawn[:affordable], errors["random"][:affordable]),
    ):
        best = int(np.argmin(among))
        told[name] = {
            "held_out": among[best],
            "passes": PASSES * len(among),
            "numbers": dict(zip(LAMBDAS, points[best].tolist(), strict=True)),
            "curve": [[PASSES * (at + 1) for at in range(len(among))], _best_so_far(name, among)],
            "test": final.error(objective(*points[best].tolist()), size.rank),
        }
    return told


def _best_so_far(name: str, errors: list[float]) -> list[float]:
    """The least error after each fit; a grid has no order, so its fits are taken in a random one, on average."""
    if name != "grid":
        return np.minimum.accumulate(errors).tolist()
    rng = np.random.default_rng(0)
    return np.mean([np.minimum.accumulate(rng.permutation(errors)) for _ in range(200)], axis=0).tolist()


def summary(folds: list[dict]) -> dict:
    """Means over folds, and differences from the grid and from one lambda a side, paired by fold: [mean, error]."""
    table = {}
    for name in folds[0]:
        column = {of: np.array([fold[name][of] for fold in folds]) for of in ("held_out", "test", "passes")}
        row: dict[str, Any] = {"passes": float(column["passes"].mean())}
        for of in ("held_out", "test"):
            row[of] = _mean_and_error(column[of])
            row[f"{of}_against_grid"] = _mean_and_error(column[of] - [fold["grid"][of] for fold in folds])
            row[f"{of}_against_descent"] = _mean_and_error(column[of] - [fold["descent"][of] for fold in folds])
        if "warm" in folds[0][name]:
            row["warm"] = _mean_and_error(np.array([fold[name]["warm"] for fold in folds]))
        table[name] = row
    return table


def _mean_and_error(values: np.ndarray) -> list[float]:
    return [float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))]


def picture(folds: list[dict], path: Path) -> None:
    """The picture: how far above the grid's best the held-out RMSE is, against passes, mean over folds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for name, label, color in (
        ("grid", "grid, fits in random order", "#4477aa"),
        ("random", "random search", "#ccbb44"),
        ("descent", "descent, two λ: its own factors", "#ee6677"),
        ("descent with nu", "descent, two λ and ν: its own factors", "#aa3377"),
    ):
        above = [np.minimum.accumulate(fold[name]["curve"][1]) - fold["grid"]["held_out"] for fold in folds]
        axes.plot(folds[0][name]["curve"][0], np.mean(above, axis=0), color=color, label=label)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set(xscale="log", xlabel="passes over the training entries", ylabel="held-out RMSE above the grid's best")
    axes.set_ylim(-0.006, 0.02)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main(*arguments: str) -> None:
    small = "--small" in arguments
    size = SMALL if small else WHOLE
    try:
        ratings = jals.datasets.load(size.data).ratings
    except jals.JalsError as error:
        sys.exit(str(error))
    started = time.perf_counter()
    problem = jals.Problem.build(ratings, "segmented")  # the quickest to compile; folds are weights, so once for all
    number = jals.split.fold_numbers(ratings, 5, 0)
    folds = []
    for fold in range(size.folds):
        told = compared(size, problem, ratings, number != fold, fold)
        folds.append(told)
        for name, of in told.items():
            numbers = "  ".join(f"{key} {value:.3g}" for key, value in of["numbers"].items())
            errors = f"held-out {of['held_out']:.4f}  test {of['test']:.4f}"
            print(f"fold {fold}  {name:28} {of['passes']:5} passes  {errors}  {numbers}", flush=True)
    table = summary(folds)
    for name, row in table.items():
        test, away = row["test"], row["held_out_against_grid"]
        errors = f"held-out {row['held_out'][0]:.4f} ({away[0]:+.4f} ± {away[1]:.4f} against the grid)"
        print(f"{name:28} {row['passes']:6.0f} passes  {errors}  test {test[0]:.4f} ± {test[1]:.4f}")
    for name in ("degree 1", "degree 2"):
        away = table[name]["test_against_descent"]
        print(f"{name}: test RMSE {away[0]:+.4f} ± {away[1]:.4f} against one lambda a side, paired")
    seconds = time.perf_counter() - started
    print(f"{seconds:.0f} s")

    pictures = Path("runs/tune_folds_small" if small else "runs/tune_folds")
    results = pictures if small else Path(__file__).parent / "results"
    for folder in (pictures, results):
        folder.mkdir(parents=True, exist_ok=True)
    versions = {"jals": jals.__version__, "jax": jax.__version__}
    record = {"size": size._asdict(), "box": BOX, "sweeps": SWEEPS, "versions": versions, "seconds": seconds}
    record |= {"table": table, "folds": folds}
    (results / "tune_folds.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    picture(folds, pictures / "tune_folds.png")


if __name__ == "__main__":
    main(*sys.argv[1:])

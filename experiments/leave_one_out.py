"""Can λ be chosen without holding anything out, by the closed-form leave-one-out error of the training entries?

Protocol. Five folds of MovieLens 100K, entry for entry those of Surprise's KFold(5, random_state=0); ALS-WR with biases
and mean, rank 4 (a sixth as many unknowns as entries) and rank 32 (more unknowns than entries), 15 sweeps, one λ of a
grid for all. On each training part λ is chosen

- by "user", "item": jals.leave_one_out of the fit on all training entries, from one side; by "mean" of the two errors;
- by "both": each entry's user's and item's row solved without it, all other rows held;
- by "validation": 10 % of the training part is held out, and the fit with the λ chosen is made again on all of it.

and the factors chosen predict the test fold: once, unclipped. "best" is the λ with the lowest test error, which nobody
can choose. Passes are those over the training part (a fit on 90 % of it costs 0.9 of a fit's).

Command: JALS_DATA=folder python experiments/leave_one_out.py
         python experiments/leave_one_out.py --small [folder]    seconds, on a synthetic table; for a test
Time: 2 minutes on two cores shared with other work.
Expect: test RMSE with the λ chosen by validation 0.9193 (rank 4) and 0.9139 (rank 32), the best of the grid in every
    fold. "user" 0.9577 and 1.0338, "item" 0.9389 and 1.0338, "both" 0.9250 and 1.0338; 1.0338 is the edge of the grid.
    Conditional leave-one-out is too optimistic to choose λ by: at λ .12 the error by "user" is .07 and .16 below that
    of the test fold, by "both" .02 and .07.
Writes: experiments/results/leave_one_out.json and runs/leave_one_out/leave_one_out.png; with --small both into the
    folder, runs/leave_one_out_small unless given.
"""

import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np

import jals
from jals.diagnostics.leverage import leave_one_out
from jals.fitting.single import Result

HERE = Path(__file__).parent
CRITERIA = ("user", "item", "mean", "both", "validation")
CLOSED = CRITERIA[:-1]
LOO_PASSES = {"user": 2, "item": 2, "mean": 4, "both": 4}
FOLDS, SHARE = 5, 0.1
LABELS = {
    "test": "test fold",
    "user": "leave-one-out, users' side",
    "item": "leave-one-out, items' side",
    "mean": "mean of the two",
    "both": "leave-one-out, both rows",
    "validation": "validation, 10 % held out",
    "best": "test fold itself",
}


def errors_of(factors: jals.Factors, problem: jals.Problem, objective: jals.Objective) -> dict[str, float]:
    """The RMSE on the training entries, as is and by each closed-form criterion."""
    user, item, both = (
        leave_one_out(factors, problem, objective, side).mean_squared_error for side in ("user", "item", "both")
    )
    left = problem.value - jals.predict(factors, problem.user, problem.item)
    square = {
        "train": np.average(left**2, weights=problem.weight),
        "user": user,
        "item": item,
        "mean": (user + item) / 2,
        "both": both,
    }
    return {name: float(np.sqrt(number)) for name, number in square.items()}


def made(
    rank: int, problem: jals.Problem, objectives: list[jals.Objective], sweeps: int, mask: np.ndarray
) -> list[Result]:
    """The fits, one an objective, on the entries of the mask."""
    which = np.zeros(len(objectives), int)
    fits = jals.fit_many(jals.ALS(rank), problem, objectives, sweeps, weights=([mask], which), loss_every=0)
    for fit in fits:
        if isinstance(fit, jals.FitError):
            raise fit
    return [fit for fit in fits if isinstance(fit, Result)]


def study(ratings: jals.Ratings, rank: int, sweeps: int, grid: np.ndarray) -> dict[str, Any]:
    problem = jals.Problem.build(ratings)
    objectives = [jals.als_wr(reg=reg, bias=True, center=True) for reg in grid]
    number = jals.split.fold_numbers(ratings, FOLDS, 0)
    folds = []
    for fold in range(FOLDS):
        training = number != fold
        kept = training.copy()
        rng = np.random.default_rng(fold)
        held_out = rng.choice(np.flatnonzero(training), round(SHARE * training.sum()), replace=False)
        kept[held_out] = False
        # Both tables as weights of one problem: one program makes all fits.
        whole, part = (made(rank, problem, objectives, sweeps, mask) for mask in (training, kept))
        train = problem.with_values(problem.value, weight=training)
        curves: dict[str, list[float]] = {}
        for fits, objective in zip(zip(whole, part, strict=True), objectives, strict=True):
            of_all, of_part = (np.asarray(jals.predict(fit.factors, ratings.user, ratings.item)) for fit in fits)
            errors = errors_of(fits[0].factors, train, objective)
            errors["validation"] = float(jals.metrics.rmse(of_part[held_out], ratings.value[held_out]))
            errors["test"] = float(jals.metrics.rmse(of_all[~training], ratings.value[~training]))
            for name, error in errors.items():
                curves.setdefault(name, []).append(error)
        chosen = {name: int(np.argmin(curves[name])) for name in CRITERIA} | {"best": int(np.argmin(curves["test"]))}
        test = {name: curves["test"][at] for name, at in chosen.items()}
        folds.append({"curves": curves, "chosen": {name: float(grid[at]) for name, at in chosen.items()}, "test": test})
        said = "  ".join(f"{name} {grid[at]:.3g} -> {curves['test'][at]:.4f}" for name, at in chosen.items())
        print(f"rank {rank}, fold {fold}: {said}", flush=True)
    return {"rank": rank, "sweeps": sweeps, "grid": grid.tolist(), "folds": folds, **summary(folds, sweeps, len(grid))}


def summary(folds: list[dict[str, Any]], sweeps: int, size: int) -> dict[str, Any]:
    """Means over folds as [mean, standard error, folds]."""

    def mean(numbers: Any) -> list[float]:
        return [float(np.mean(numbers)), float(np.std(numbers, ddof=1) / len(numbers) ** 0.5), len(numbers)]

    test = {name: np.array([fold["test"][name] for fold in folds]) for name in (*CRITERIA, "best")}
    curves = {name: np.array([fold["curves"][name] for fold in folds]) for name in folds[0]["curves"]}
    fit = 2 * sweeps
    passes = {name: float(size * (fit + LOO_PASSES[name])) for name in CLOSED}
    passes["validation"] = size * ((1 - SHARE) * fit + SHARE) + fit
    return {
        "test_RMSE": {name: mean(errors) for name, errors in test.items()},
        "less_validation": {name: mean(test[name] - test["validation"]) for name in test if name != "validation"},
        "passes": passes,
        "curves": {name: [mean(column) for column in errors.T] for name, errors in curves.items()},
        "below_test": {
            name: [mean(column) for column in (curves["test"] - curves[name]).T] for name in ("train", *CRITERIA)
        },
    }


def picture(found: dict[str, Any], path: Path) -> None:
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    ranks = found["ranks"]
    figure, axes = plt.subplots(len(ranks), 2, figsize=(11, 4.2 * len(ranks)), layout="constrained", squeeze=False)
    for row, each in zip(axes, ranks, strict=True):
        draw(row, each)
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def draw(axes: Any, found: dict[str, Any]) -> None:
    grid, colours = found["grid"], {name: f"C{at}" for at, name in enumerate(CRITERIA)} | {"test": "black"}
    for name in ("test", *CRITERIA):
        error = np.array([mean for mean, *_ in found["curves"][name]])
        style = {"linewidth": 2.5} if name == "test" else {"linewidth": 1.3}
        axes[0].plot(grid, error, color=colours[name], label=LABELS[name], **style)
        axes[0].plot(grid[error.argmin()], error.min(), "o", color=colours[name], markersize=6)
    axes[0].set(
        xscale="log",
        xlabel="λ (times n)",
        ylabel="RMSE, mean of the folds",
        title=f"Rank {found['rank']}: what each estimate says",
    )
    axes[0].set_xticks(grid, [f"{reg:.2g}" for reg in grid])
    axes[0].minorticks_off()
    rows = ("best", *reversed(CRITERIA))
    for at, name in enumerate(rows):
        mean, error, _ = found["test_RMSE"][name]
        axes[1].errorbar(mean, at, xerr=error, fmt="o", color=colours.get(name, "grey"), capsize=3)
    axes[1].set_yticks(range(len(rows)), [LABELS[name] for name in rows])
    axes[1].set(xlabel="test RMSE, mean of the folds ± its standard error", title="With the λ that each one chooses")
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.grid(alpha=0.25)


def report(found: dict[str, Any]) -> None:
    print(f"rank {found['rank']}")
    for name in (*CRITERIA, "best"):
        mean, error, _ = found["test_RMSE"][name]
        line = f"  {name:10} test RMSE {mean:.4f} ± {error:.4f}"
        if name != "validation":
            line += "  less validation's {:+.4f} ± {:.4f}".format(*found["less_validation"][name])
        print(line + (f"  {found['passes'][name]:.0f} passes" if name in found["passes"] else ""))
        if name != "best":
            below = "  ".join(
                f"{reg:.3g}: {mean:+.3f}"
                for reg, (mean, *_) in zip(found["grid"], found["below_test"][name], strict=True)
            )
            print(f"             below the test RMSE, by λ: {below}")


def main(*arguments: str) -> None:
    started = time.perf_counter()
    if arguments and arguments[0] == "--small":
        out = Path(arguments[1] if len(arguments) > 1 else "runs/leave_one_out_small")
        table, _ = jals.datasets.synthetic(80, 60, 3, 0.3, noise=0.5, bias=True)
        ratings, ranks, sweeps, grid = table.ratings, (4,), 4, np.geomspace(0.01, 1, 4)
        results, image = out / "leave_one_out.json", out / "leave_one_out.png"
    else:
        ratings, ranks, sweeps = jals.datasets.load("ml100k").ratings, (4, 32), 15
        grid = np.array([0.03, 0.05, 0.08, 0.12, 0.18, 0.27])
        results, image = HERE / "results" / "leave_one_out.json", Path("runs/leave_one_out/leave_one_out.png")
    found: dict[str, Any] = {"ranks": [study(ratings, rank, sweeps, grid) for rank in ranks]}
    picture(found, image)
    for each in found["ranks"]:
        report(each)
    found["seconds"] = time.perf_counter() - started
    found |= {"date": datetime.date.today().isoformat(), "versions": {"jals": jals.__version__, "jax": jax.__version__}}
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"{found['seconds']:.0f} s")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except jals.JalsError as error:
        sys.exit(str(error))

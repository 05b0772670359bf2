"""How much regularisation? Every lambda from strong to weak, each fit started where the one before ended.

`jals.regularisation_path` says what a warm start saves against a cold one, in passes over the entries to the same loss;
`jals.fit_grid` fits each from other seeds too, to tell luck from lambda.
`python docs/gallery/regularisation_path.py [--small]` draws regularisation_path.png.
"""

import sys

import jax
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

import jals


def main(small: bool = False, picture: str = "regularisation_path.png") -> dict:
    if small:
        ratings = jals.datasets.synthetic(120, 60, 2, 0.3, noise=0.5)[0].ratings
        rank, regs, seeds = 4, np.geomspace(0.3, 0.03, 4), 2
    else:
        ratings = jals.datasets.movielens_latest_small().ratings
        rank, regs, seeds = 16, np.geomspace(0.5, 0.02, 12), 4
    train, held_out = jals.split.random(ratings, 0.1, seed=0)
    problem, solver = jals.Problem.build(train), jals.ALS(rank)
    objectives = [jals.als_wr(reg=float(reg), bias=True, center=True) for reg in regs]

    path = jals.regularisation_path(solver, problem, objectives, sweeps=200, validation=held_out, compare=True)
    print(path.comparison.why)
    keys = [jax.random.key(seed) for seed in range(seeds)]
    grid = jals.fit_grid(solver, problem, objectives, keys, sweeps=200, tol=1e-4, validation=held_out)

    def train_error(result):
        return float(jals.metrics.rmse(jals.predict(result.factors, train.user, train.item), train.value))

    told = {
        "reg": regs,
        "train": np.array([train_error(result) for result in path.results]),
        "held_out": path.validation,
        "seeds": grid.validation,
        "passes": path.comparison.passes,
    }
    print(f"best λ {regs[path.best()]:.3f}: held-out RMSE {path.validation.min():.4f}")
    draw(told, picture)
    return told


def draw(told: dict, picture: str) -> None:
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    reg = told["reg"]
    left.plot(reg, told["held_out"], "o-", color="#d1495b", label="held out, warm starts")
    spread = told["seeds"].min(axis=1), told["seeds"].max(axis=1)
    left.fill_between(reg, *spread, color="0.75", label=f"held out, {told['seeds'].shape[1]} cold starts")
    left.plot(reg, told["train"], "o-", color="#3b6ea8", label="training, warm starts")
    left.set(xscale="log", xlabel="λ, from strong to weak", ylabel="RMSE, stars")
    for name, color, marker in (("cold", "0.5", "s"), ("warm", "#3b6ea8", "o")):
        passes = told["passes"][name]
        right.plot(reg, passes, marker, ls="-", color=color, label=f"{name} starts: {np.nansum(passes):.0f} in all")
    right.set(xscale="log", xlabel="λ, from strong to weak", ylabel="passes over the entries")
    right.set_ylim(0)
    for axes in (left, right):
        axes.invert_xaxis()  # the order of the fits: from strong to weak
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main("--small" in sys.argv)

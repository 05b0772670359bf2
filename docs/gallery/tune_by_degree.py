"""Should a film with 300 ratings be regularised like one with 3? Let descent on held-out ratings answer.

`jals.tune` descends from one lambda a side, and again with log lambda a parabola in the log of a row's number of
entries; the picture shows lambda against that number, and the held-out RMSE by step.
`python docs/gallery/tune_by_degree.py [--small]` draws tune_by_degree.png.
"""

import sys

import jax
import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

import jals
from jals.tuning import ByDegree, tune

COLORS = {"user": "#3b6ea8", "item": "#d1495b"}


def main(small: bool = False, picture: str = "tune_by_degree.png") -> dict:
    if small:
        ratings = jals.datasets.synthetic(120, 60, 2, 0.3, noise=0.5, skew=1.0)[0].ratings
        rank, steps = 2, 5
    else:
        ratings = jals.datasets.movielens_latest_small().ratings
        rank, steps = 16, 30
    rest, test = jals.split.random(ratings, 0.1, seed=0)
    train, held_out = jals.split.random(rest, 0.1, seed=1)
    rows = {"user": train.num_users, "item": train.num_items}
    degree = {side: np.bincount(getattr(train, side), minlength=rows[side]) for side in rows}
    held_out = held_out.select((degree["user"][held_out.user] > 0) & (degree["item"][held_out.item] > 0))

    problem, solver = jals.Problem.build(train), jals.ALS(rank)
    start, over = jals.als_wr(reg=0.03, bias=True, center=True), ("reg_user", "reg_item")
    tuned = {
        "one λ a side": tune(problem, held_out, start, solver, over=over, steps=steps),
        "λ by degree": tune(problem, held_out, start, solver, over=over, steps=steps, reg=ByDegree(degree=2)),
    }
    told = {}
    for name, result in tuned.items():
        # The descent's own factors have seen many lambdas; a fit from the start says what the last ones are worth.
        fit = jals.fit(solver, problem, result.objective, sweeps=15, key=jax.random.key(1), loss_every=0)
        error = jals.metrics.rmse(jals.predict(fit.factors, test.user, test.item), test.value)
        told[name] = {"held_out": result.history.rmse, "test": float(error), "objective": result.objective}
        print(f"{name}: held-out RMSE {min(result.history.rmse):.4f}, test RMSE of a fresh fit {error:.4f}")
    draw(told, degree, picture)
    return told


def draw(told: dict, degree: dict, picture: str) -> None:
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    for side, name in (("user", "users"), ("item", "films")):
        rated = degree[side] > 0
        order = np.argsort(degree[side][rated])
        for kind, (line, label) in zip(told, (("--", f"{name}, one λ"), ("-", f"{name}, by degree")), strict=True):
            reg = np.broadcast_to(getattr(told[kind]["objective"], f"reg_{side}"), degree[side].shape)
            left.plot(degree[side][rated][order], reg[rated][order], line, color=COLORS[side], label=label)
    left.set(xscale="log", yscale="log", xlabel="ratings n of the row", ylabel="λ learned (the row's penalty is λ n)")
    left.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_formatter("")
    for (kind, result), line in zip(told.items(), ("--", "-"), strict=True):
        rmse = result["held_out"]
        right.plot(range(1, len(rmse) + 1), rmse, line, color="0.2", label=f"{kind} (test {result['test']:.4f})")
    right.set(xlabel="step of the descent", ylabel="held-out RMSE, stars")
    for axes in (left, right):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, dpi=120)


if __name__ == "__main__":
    main("--small" in sys.argv)

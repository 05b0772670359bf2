"""How many passes over the entries does a minimum cost: by ALS, by ALS accelerated, by Newton's method?

Protocol. ALS-WR with biases and mean, lambda 0.12, float64, ranks 8 and 32, on MovieLens 100K and MovieLens
latest-small (2016). All start from the same initial factors; Newton's method from those of 10 sweeps of ALS, whose
passes it is charged. Each goes on to stationarity 1e-6 (jals.certify) or for so many passes at most. Passes are all
that a solver makes, of line searches, safeguards and conjugate gradients too; those of looking at it are not counted.

Command: JALS_DATA=folder python experiments/convergence.py
         python experiments/convergence.py --small [folder]    seconds, on a synthetic table; for a test
Time: 8 minutes on two cores shared with other work.
Writes: experiments/results/convergence.json and runs/convergence/convergence.png; with --small both into the folder,
    runs/convergence_small unless given.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import jax
import matplotlib
import numpy as np
from matplotlib.figure import Figure

import jals

HERE = Path(__file__).parent
GOALS = (1e-3, 1e-4, 1e-5, 1e-6)
WARM = 10  # sweeps of ALS before Newton's method
REG = 0.12
COLOURS = {"ALS": "#777777", "AndersonALS": "#c03b2b", "NewtonCG": "#2b6cc0"}


@jax.jit
def advance(solver: Any, state: Any, problem: jals.Problem, objective: jals.Objective, count: int) -> tuple[Any, Any]:
    """(state, passes) after `count` sweeps more."""

    def one(_, carry):
        state, info = solver.sweep(carry[0], problem, objective)
        return state, carry[1] + info.passes

    return jax.lax.fori_loop(0, count, one, (state, np.int32(0)))


@jax.jit
def looked_at(factors: jals.Factors, problem: jals.Problem, objective: jals.Objective) -> tuple[jax.Array, jax.Array]:
    """(loss, stationarity)"""
    return jals.loss(factors, problem, objective), jals.certify(factors, problem, objective).stationarity


def trace(solver: Any, problem: jals.Problem, objective: jals.Objective, most: int) -> dict:
    """Passes, loss and stationarity along a fit of at most about `most` passes; looks grow apart by 2 %."""
    state, passes, sweeps = jals.ALS(solver.rank).init(jax.random.key(0), problem, objective), 0, 0
    found: dict[str, list[float]] = {"passes": [], "loss": [], "stationarity": []}

    def look() -> bool:
        loss, stationarity = (float(number) for number in looked_at(state.factors, problem, objective))
        found["passes"].append(passes)
        found["loss"].append(float(f"{loss:.15g}"))
        found["stationarity"].append(float(f"{stationarity:.4g}"))
        return stationarity > GOALS[-1] and passes < most

    if isinstance(solver, jals.NewtonCG):
        state, passes = advance(jals.ALS(solver.rank), state, problem, objective, WARM)
        passes = int(passes)
    state = solver.init(jax.random.key(0), problem, objective, state.factors)
    while look():
        count = max(1, math.floor(0.02 * sweeps))
        state, more = advance(solver, state, problem, objective, count)
        sweeps, passes = sweeps + count, passes + int(more)
    return found


def reached(found: dict) -> dict[str, float | None]:
    """{goal: the passes at which stationarity was first seen at or under it}"""
    return {
        f"{goal:.0e}": next((p for p, s in zip(found["passes"], found["stationarity"], strict=True) if s <= goal), None)
        for goal in GOALS
    }


def tables(small: bool) -> dict[str, jals.Ratings]:
    if small:
        dataset, _ = jals.datasets.synthetic(60, 40, 3, 0.25, noise=0.3, bias=True, dtype=np.float64)
        return {"synthetic": dataset.ratings}
    found = {"ML-100K": jals.datasets.load("ml100k"), "MovieLens latest-small": jals.datasets.movielens_latest_small()}
    return {name: dataset.ratings for name, dataset in found.items()}


def in_float64(ratings: jals.Ratings) -> jals.Ratings:
    columns = (ratings.user, ratings.item, np.asarray(ratings.value, np.float64))
    return jals.Ratings.from_arrays(*columns, ratings.num_users, ratings.num_items)


def fits(small: bool, most: int) -> list[dict]:
    made = []
    for name, ratings in tables(small).items():
        problem = jals.Problem.build(in_float64(ratings), layout="segmented")  # the quickest to compile
        objective = jals.als_wr(0.02 if small else REG, bias=True, center=True)
        for rank in (3,) if small else (8, 32):
            for solver in (jals.ALS(rank), jals.AndersonALS(rank), jals.NewtonCG(rank)):
                found = trace(solver, problem, objective, most)
                kind = type(solver).__name__
                made.append({"table": name, "rank": rank, "solver": kind, "reached": reached(found), **found})
                passes = "  ".join(f"{goal} {passes or '-':>5}" for goal, passes in made[-1]["reached"].items())
                print(f"{name:24} rank {rank:2}  {kind:12} passes to  {passes}", flush=True)
    return made


def figure(made: list[dict]) -> Figure:
    """Stationarity and excess loss against passes, a column for each table and rank."""
    cases = list(dict.fromkeys((fit["table"], fit["rank"]) for fit in made))
    drawn = Figure(figsize=(1 + 3.6 * len(cases), 6.4), layout="constrained")
    panels = drawn.subplots(2, len(cases), squeeze=False, sharex="col")
    for column, case in zip(panels.T, cases, strict=True):
        mine = [fit for fit in made if (fit["table"], fit["rank"]) == case]
        least = min(min(fit["loss"]) for fit in mine)
        for fit in mine:
            passes = np.maximum(fit["passes"], 1)
            excess = np.asarray(fit["loss"]) / least - 1
            style = {"color": COLOURS[fit["solver"]], "label": fit["solver"]}
            column[0].plot(passes, fit["stationarity"], **style)
            column[1].plot(passes[excess > 1e-13], excess[excess > 1e-13], **style)
        column[0].set_title(f"{case[0]}, rank {case[1]}")
        column[1].set_xlabel("passes over the entries")
        for axes in column:
            axes.set(xscale="log", yscale="log")
            axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel("stationarity")
    panels[1, 0].set_ylabel("loss above the least found, relative")
    panels[0, 0].legend()
    return drawn


def main(*arguments: str) -> None:
    small = "--small" in arguments
    folders = [Path(each) for each in arguments if each != "--small"]
    default = Path("runs/convergence_small" if small else "runs/convergence")
    pictures = folders[0] if folders else default
    results = pictures if small else HERE / "results"
    matplotlib.rcdefaults()
    jax.config.update("jax_enable_x64", True)
    try:
        made = fits(small, 2000 if small else 8000)
    except jals.JalsError as error:
        sys.exit(str(error))
    pictures.mkdir(parents=True, exist_ok=True)
    figure(made).savefig(pictures / "convergence.png", dpi=110)
    found = {"reg": 0.02 if small else REG, "fits": made}
    (results / "convergence.json").write_text(json.dumps(found, separators=(",", ":")) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])

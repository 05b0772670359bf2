"""What one adjoint hypergradient costs on MovieLens 1M: all leaves at once, a lambda for every row among them.

A biased ALS-WR fit of rank 32 is made stationary by Newton's method (its passes are reported apart), and the derivative
of the held-out error taken there, with the adjoint system solved to several tolerances; the tightest is the reference.
The product of the Hessian with a vector is timed against a gradient of the loss, alternating, compilation apart.

Command: JALS_DATA=folder-with-ml1m_explicit.npz python experiments/hypergradient.py
         python experiments/hypergradient.py --small      (MovieLens latest-small, rank 8)
Writes experiments/results/hypergradient.json (not with --small).
Time: 4 minutes on two cores shared with other work, nearly all polishing.
"""

import dataclasses
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jals
from jals.rows import curvature
from jals.solvers.gradient import layout_loss

RESULTS = Path(__file__).parent / "results"
TOLERANCES = (1e-8, 1e-4, 3e-4, 1e-3)  # the first is the reference
REG = 0.07
REPEATS = 15


def data(small: bool) -> tuple[jals.Ratings, jals.Ratings]:
    source = jals.datasets.movielens_latest_small() if small else jals.datasets.load("ml1m")
    ratings = source.ratings
    ratings = dataclasses.replace(ratings, value=ratings.value.astype(np.float64))
    return jals.split.random(ratings, test_fraction=0.1, seed=0)


def timed(functions: dict[str, Any]) -> dict[str, float]:
    """Median seconds of each, one after the other in every repetition."""
    took: dict[str, list[float]] = {name: [] for name in functions}
    for repeat in range(REPEATS + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            jax.block_until_ready(function())
            if repeat:  # the first compiles
                took[name].append(time.perf_counter() - started)
    return {name: statistics.median(seconds) for name, seconds in took.items()}


def main(small: bool = False) -> dict[str, Any]:
    jax.config.update("jax_enable_x64", True)
    train, held_out = data(small)
    rank = 8 if small else 32
    problem = jals.Problem.build(train, layout="segmented").arrange()
    regs = (np.full(size, REG) for size in (train.num_users, train.num_items))
    objective = jals.als_wr(reg_user=next(regs), reg_item=next(regs), bias=True, center=True).cast(np.float64)
    fit = jals.fit(jals.ALS(rank), problem, objective, sweeps=30, loss_every=0)
    started = time.perf_counter()
    polished = jax.block_until_ready(jals.adjoint.polish(fit.factors, problem, objective))
    found: dict[str, Any] = {
        "data": "MovieLens latest-small" if small else "MovieLens 1M",
        "entries": len(train),
        "numbers": sum(np.size(leaf) for leaf in jax.tree.leaves(objective)) + 2 * len(train),
        "rank": rank,
        "reg": REG,
        "sweeps": 30,
        "given": float(polished.given),
        "stationarity": float(polished.stationarity),
        "polish_sweeps": int(polished.sweeps),
        "polish_passes": int(polished.passes),
        "polish_seconds": time.perf_counter() - started,
        "before": float(jals.adjoint.held_out_value(held_out, fit.factors, objective)),
        "solves": [],
    }
    print({key: found[key] for key in ("given", "stationarity", "polish_sweeps", "polish_passes")}, flush=True)
    reference = None
    for tol in TOLERANCES:
        value, gradient, info = jals.adjoint.hypergradient(
            held_out, polished.factors, problem, objective, tol=tol, iterations=3000
        )
        leaves = {name: np.asarray(getattr(gradient.objective, name)) for name in ("reg_user", "reg_item", "reg_power")}
        leaves |= {"values": np.asarray(gradient.values), "weight": np.asarray(gradient.weight)}
        reference = reference or leaves
        apart = {
            name: float(np.linalg.norm(leaf - reference[name]) / np.linalg.norm(reference[name]))
            for name, leaf in leaves.items()
        }
        kept = ("iterations", "residual", "curvature", "passes")
        solve = {"tol": tol} | {name: getattr(info, name) for name in kept} | {"apart": apart}
        found["solves"].append(solve)
        print(solve, flush=True)
    found["value"] = value
    here = polished.factors
    ones = curvature.Joint(*(np.ones_like(here.joint(side)) for side in ("user", "item")))
    arguments = (here, problem, objective)
    functions = {
        "gradient": lambda: gradient_of_loss(*arguments),
        "product": lambda: product(*arguments, ones),
    }
    found["seconds"] = timed(functions)
    found["product_per_gradient"] = found["seconds"]["product"] / found["seconds"]["gradient"]
    print(found["seconds"], found["product_per_gradient"])
    if not small:
        (RESULTS / "hypergradient.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


gradient_of_loss = jax.jit(jax.grad(layout_loss))
product = jax.jit(curvature.product)


if __name__ == "__main__":
    main(small="--small" in sys.argv[1:])

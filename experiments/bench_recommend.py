"""Seconds of what comes after a fit, by jals and by implicit on the same factors: recommendations, and rows for
newcomers; and of the matrix products alone that recommendations need.

Both libraries run in this process, one call after the other and in turn, everything warm. implicit gets as many threads
as it likes, and its BLAS one, as it advises. "products" makes the scores of 1,024 users and 1,024 items at a time, with
XLA, and keeps one of a row. Ratios are medians over repetitions of ratios within one.

Command: OPENBLAS_NUM_THREADS=1 python experiments/bench_recommend.py [--table TABLE.npz] [--scale 1] [--users 16000]
    TABLE.npz: a scipy.sparse table; without it one is made, of MovieLens 20M's shape and skew, `--scale` times as
    large.
Needs jals; implicit 0.7 in the same environment, or it is left out.
"""

import argparse
import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from speed.table import made_table

import jals

TILE = 1024
REG = 0.01


def products(users: jax.Array, items: jax.Array) -> Callable[[], Any]:
    """The scores of all, made and not read."""
    user_blocks, item_blocks = (
        jnp.pad(rows, ((0, -len(rows) % TILE), (0, 0))).reshape(-1, TILE, rows.shape[1]) for rows in (users, items)
    )

    @jax.jit
    def run(user_blocks: jax.Array, item_blocks: jax.Array) -> jax.Array:
        def of_items(best: jax.Array, block: jax.Array, mine: jax.Array) -> tuple[jax.Array, None]:
            score = jnp.matmul(mine, block.T, precision=jax.lax.Precision.HIGHEST)
            return jnp.maximum(best, score[:, 0]), None

        def of_users(mine: jax.Array) -> jax.Array:
            return jax.lax.scan(functools.partial(of_items, mine=mine), jnp.zeros(TILE, mine.dtype), item_blocks)[0]

        return jax.lax.map(of_users, user_blocks)

    return lambda: run(user_blocks, item_blocks)


def implicit_model(factors: jals.Factors) -> Any:
    """implicit with these factors, or None, with a line that says why."""
    try:
        from implicit.cpu.als import AlternatingLeastSquares  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        print(f"implicit is left out: {error}. pip install implicit==0.7.3, in the environment that has jals.")
        return None
    model = AlternatingLeastSquares(factors=factors.rank, regularization=REG, alpha=1.0)
    model.user_factors, model.item_factors = np.array(factors.user), np.array(factors.item)
    return model


def in_turn(cases: dict[str, Callable[[], Any]], repeats: int, base: str) -> None:
    """Prints each case's seconds, and their ratios to those of `base`."""
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for call in cases.values():
        jax.block_until_ready(call())
    for _ in range(repeats):
        for name, call in cases.items():
            started = time.perf_counter()
            jax.block_until_ready(call())
            seconds[name].append(time.perf_counter() - started)
    for name, taken in seconds.items():
        ratios = [mine / other for mine, other in zip(taken, seconds[base], strict=True)]
        spread = f"{statistics.median(ratios):6.2f} x {base} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"  {name:28} {statistics.median(taken):8.3f} s {spread}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--table")
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--users", type=int, default=16_000, help="recommended to, and folded in, at most")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--k", type=int, nargs="+", default=[10, 100])
    parser.add_argument("--sweeps", type=int, default=2, help="of the fit whose factors are used")
    parser.add_argument("--repeats", type=int, default=7)
    arguments = parser.parse_args()
    table = made_table(arguments.scale) if arguments.table is None else sp.load_npz(arguments.table)
    table = sp.csr_matrix(table, dtype=np.float32)
    rows = np.sort(np.random.default_rng(0).permutation(table.shape[0])[: arguments.users])
    table = table[rows]
    table.sort_indices()
    ratings = jals.Ratings.from_scipy(table)
    kernel = jals.native.status()
    print(f"{table.shape[0]:,} users x {table.shape[1]:,} items, {table.nnz:,} entries, rank {arguments.rank}")
    print(f"CPU kernel: {kernel.isa or kernel.reason}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    objective = jals.presets.like("implicit", regularization=REG, alpha=1.0)
    fitted = jals.fit(
        jals.ALS(arguments.rank), jals.Problem.build(ratings), objective, arguments.sweeps, loss_every=0
    )  # fmt: skip
    factors, users = fitted.factors, np.arange(table.shape[0])
    peer = implicit_model(factors)
    for k in arguments.k:
        print(f"the {k} best items of each user, without those seen")
        cases: dict[str, Callable[[], Any]] = {}
        cases["jals.top_k"] = functools.partial(jals.top_k, factors, users, k, exclude=ratings)
        cases["products"] = products(factors.user, factors.item)
        if peer is not None:
            cases["implicit recommend"] = lambda k=k: peer.recommend(users, table, N=k, filter_already_liked_items=True)
            ours, theirs = np.asarray(cases["jals.top_k"]()[0]), cases["implicit recommend"]()[0]
            print(f"  the same item in {100 * np.mean(ours == theirs):.2f} % of the places")
        in_turn(cases, arguments.repeats, "products")
    items = np.arange(min(table.shape[1], 4000))
    print(f"the 10 items most like each of {len(items):,}")
    cases = {"jals.similar": lambda: jals.similar(factors, items, 10)}
    if peer is not None:
        cases["implicit similar_items"] = lambda: peer.similar_items(items, N=11)
    in_turn(cases, arguments.repeats, "jals.similar")
    print(f"rows of {len(users):,} newcomers")
    theirs = jals.presets.translate("implicit", ratings, regularization=REG, alpha=1.0)  # its confidence is alpha r
    assert theirs.ratings is not None
    newcomers = theirs.ratings
    cases = {"jals.fold_in": lambda: jals.fold_in(factors, newcomers, theirs.objective)[0]}
    if peer is not None:
        cases["implicit recalculate_user"] = lambda: peer.recalculate_user(users, table)
        one, other = (np.asarray(call()) for call in cases.values())
        print(f"  largest difference {np.abs(one - other).max():.1e}, of numbers up to {np.abs(other).max():.1e}")
    in_turn(cases, arguments.repeats, "jals.fold_in")


if __name__ == "__main__":
    main()

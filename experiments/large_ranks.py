"""Large ranks: loss and ranking against seconds, by exact solves, conjugate gradients and blocks of columns.

Two questions, on one implicit table: above which rank do exact solves lose, and how far are irspack's three solvers and
implicit's conjugate gradients, which make the same steps? Every library minimises the same loss as jals does beside it
(`jals.presets.like` translates the arguments, and jals measures everybody's factors by that loss): irspack's iALS, and
implicit's confidences. All run in processes of their own (speed/worker.py), pinned to the same cores, one at a time and
in turn; a fit of s sweeps is timed as a whole, less that of none, everything warm. A solver stays out of ranks where
the rank before says that a sweep would take longer than --longest.

Protocol of the ranking: NDCG@20 of the part held out for validation, a tenth of each user's entries; it says what a
lower loss is worth, and nothing is chosen by it. lambda is the same at every rank: these are times, not results.

Command: JALS_DATA=folder python experiments/large_ranks.py [--peers-python PATH] [--ranks 64 256 1024]
    Gowalla of LightGCN's split (gowalla_lightgcn.npz in that folder), or --table TABLE.npz, a scipy.sparse table.
    PATH: the Python of another environment, in which irspack and implicit are installed.
Time: 25 minutes on two cores.
Writes: experiments/results/large_ranks.json and runs/large_ranks/large_ranks.png; with --out FOLDER both there.
"""

import argparse
import itertools
import json
import math
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import scipy.sparse as sp
from speed.measure import Unavailable, Worker

import jals

HERE = Path(__file__).parent
SWEEPS = (1, 2, 4, 8)
NEAR = 0.01  # above the lowest loss that any solver of the rank reached, relative
LOSSES: dict[str, dict[str, Any]] = {  # whose, and the arguments of its model that say which
    "irspack": {"alpha0": 0.015, "reg": 0.003},
    "implicit": {"regularization": 0.5, "alpha": 2.0},
}


class Way(NamedTuple):
    """Whose solver, how, and whose loss it minimises."""

    library: str
    options: dict[str, Any]
    loss: str
    exact: bool = False


IALS, HU_KOREN = "irspack", "implicit"
WAYS = {
    "jals exact": Way("jals", {}, IALS, exact=True),
    "jals CG": Way("jals", {"linsolve": "cg", "cg_steps": 3}, IALS),
    "jals subspace": Way("jals", {"linsolve": "subspace", "block": 64}, IALS),
    "irspack Cholesky": Way("irspack", {"solver_type": "CHOLESKY"}, IALS, exact=True),
    "irspack CG": Way("irspack", {"solver_type": "CG", "max_cg_steps": 3}, IALS),
    "irspack iALS++": Way("irspack", {"solver_type": "IALSPP"}, IALS),
    "jals CG, implicit's loss": Way("jals", {"linsolve": "cg", "cg_steps": 3}, HU_KOREN),
    "implicit CG": Way("implicit", {"use_cg": True}, HU_KOREN),
}


def parts(path: Path | None) -> tuple[jals.Ratings, jals.Ratings]:
    """(training part, validation part): a tenth of each user's entries is held out."""
    if path is None:
        file = np.load(Path(os.environ["JALS_DATA"]) / "gowalla_lightgcn.npz")
        user, item = (file[f"train_{side}"].astype(np.int32) for side in ("user", "item"))
        users, items = map(int, file["shape"])
    else:
        table = sp.load_npz(path).tocoo()
        user, item, (users, items) = table.row, table.col, table.shape
    ratings = jals.Ratings.from_arrays(user, item, np.ones(len(user), np.float32), users, items)
    return jals.split.by_user(ratings, 0.1, seed=0)


def measured(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Seconds, loss and NDCG@20 of every way, rank by rank."""
    train, valid = parts(arguments.table)
    table = sp.csr_matrix((train.value, (train.user, train.item)), shape=(train.num_users, train.num_items))
    for name in ("data", "indices", "indptr"):
        np.save(folder / f"{name}.npy", getattr(table, name))
    (folder / "shape.json").write_text(json.dumps(table.shape))
    losses = {}
    for library, numbers in LOSSES.items():
        theirs = jals.presets.translate(library, train, **numbers)
        assert theirs.ratings is not None
        losses[library] = jals.Problem.build(theirs.ratings), theirs.objective

    def scored(path: Path, loss: str) -> tuple[float, float]:
        file = np.load(path)
        user, item = (jnp.asarray(file[side], jnp.float32) for side in ("user", "item"))
        factors = jals.Factors(user, item)
        ndcg = jals.metrics.ranking(factors, valid, train, 20, ("ndcg",)).mean["ndcg@20"]
        return float(jals.loss(factors, *losses[loss])), ndcg

    workers: dict[str, Worker] = {}
    found: dict[str, Any] = {"versions": {}, "ranks": []}
    sweep_takes: dict[str, tuple[int, float]] = {}
    for rank in arguments.ranks:
        rows = {}
        for name, way in WAYS.items():
            before, seconds = sweep_takes.get(name, (rank, 0.0))
            if seconds * (rank / before) ** (3 if way.exact else 2) > arguments.longest:
                continue
            try:
                if way.library not in workers:
                    python = sys.executable if way.library == "jals" else arguments.peers_python
                    workers[way.library] = Worker(python, way.library, arguments.threads, folder)
                    found["versions"][way.library] = workers[way.library].versions
                rows[name] = _curve(workers[way.library], name, way, rank, folder / "factors.npz", scored)
            except Unavailable as why:
                print(f"  {name:26} rank {rank}: left out: {why}", flush=True)
                continue
            sweep_takes[name] = rank, rows[name]["sweep"]
        found["ranks"].append({"rank": rank, "ways": rows} | _compared(rows))
    for worker in workers.values():
        worker.end()
    return found


def _curve(worker: Worker, name: str, way: Way, rank: int, file: Path, scored: Any) -> dict[str, Any]:
    """Of one way: (sweeps, seconds, loss, NDCG@20), and the seconds of a sweep between one fit and the next."""
    options = dict(way.options)
    if way.library == "jals":
        options["objective"] = {"library": way.loss, "arguments": LOSSES[way.loss]}
    else:
        options |= LOSSES[way.loss]
    ask = lambda sweeps, **more: worker.ask("fit", rank=rank, sweeps=sweeps, options=options, **more)  # noqa: E731
    ask(1)  # warms up, and compiles
    none = min(ask(0)["seconds"] for _ in range(2))
    points = []
    for sweeps in SWEEPS:
        seconds = ask(sweeps, keep=str(file))["seconds"] - none
        points.append([sweeps, seconds, *scored(file, way.loss)])
    pairs = [(after[1] - before[1]) / (after[0] - before[0]) for before, after in itertools.pairwise(points)]
    sweep = float(np.median(pairs))
    told = ", ".join(f"{loss:.6g} after {seconds:.1f} s" for _, seconds, loss, _ in points)
    spread = f"{sweep:7.3f} s a sweep ({min(pairs):.3f} to {max(pairs):.3f})"
    print(f"  {name:26} rank {rank:4}: {spread}; loss {told}", flush=True)
    return {"points": points, "sweep": sweep, "pairs": pairs}


def _compared(rows: dict[str, Any]) -> dict[str, Any]:
    """The seconds of every way to a loss within NEAR of the lowest that a way of the same loss reached; None: never."""
    near = {}
    for name, row in rows.items():
        alike = [other for key, other in rows.items() if WAYS[key].loss == WAYS[name].loss]
        least = min(loss for other in alike for _, _, loss, _ in other["points"])
        near[name] = _first([(0.0, math.inf), *((at, loss) for _, at, loss, _ in row["points"])], least * (1 + NEAR))
    return {"near": near}


def _first(curve: list[tuple[float, float]], target: float) -> float | None:
    """When a curve of (seconds, loss) comes to a loss; between two points on a straight line."""
    for (before, above), (at, loss) in itertools.pairwise(curve):
        if loss <= target:
            return at if math.isinf(above) else float(np.interp(target, [loss, above], [at, before]))
    return None


def draw(found: dict[str, Any], path: Path) -> None:
    """Loss above the lowest, and NDCG@20, against seconds: a column for each rank."""
    from matplotlib.figure import Figure
    from speed.picture import COLOURS

    ranks = found["ranks"]
    figure = Figure(figsize=(4.2 * len(ranks), 7.2), layout="constrained")
    axes = figure.subplots(2, len(ranks), squeeze=False, sharex="col", sharey="row")
    dashes = {"exact": "-", "Cholesky": "-", "CG": "--", "CG, implicit's loss": "--", "subspace": ":", "iALS++": ":"}
    for column, level in zip(axes.T, ranks, strict=True):
        shown = {name: row for name, row in level["ways"].items() if WAYS[name].loss == IALS}
        least = min(loss for row in shown.values() for _, _, loss, _ in row["points"])
        for name, row in shown.items():
            library, _, way = name.partition(" ")
            colour = COLOURS["jals native" if library == "jals" else library]
            _, seconds, loss, ndcg = np.array(row["points"]).T
            style = {"color": colour, "linestyle": dashes[way], "marker": "o", "markersize": 4, "label": name}
            excess = loss / least - 1
            column[0].plot(seconds[excess > 0], excess[excess > 0], **style)
            column[1].plot(seconds, ndcg, **style)
        column[0].set(yscale="log", xscale="log", title=f"rank {level['rank']}")
        column[1].set(xscale="log", xlabel="seconds of sweeps")
        for each in column:
            each.grid(alpha=0.3)
    axes[0, 0].set_ylabel("loss above the lowest, relative")
    axes[1, 0].set_ylabel("NDCG@20 of the validation part")
    shown = {}
    for each in axes.flat:
        handles, texts = each.get_legend_handles_labels()
        shown |= dict(zip(texts, handles, strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=3, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, help="a scipy.sparse table, .npz, in place of Gowalla")
    parser.add_argument("--peers-python", default=sys.executable)
    parser.add_argument("--ranks", type=int, nargs="+", default=[64, 256, 1024])
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--longest", type=float, default=15.0, help="seconds of a sweep, beyond which a way stays out")
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(arguments, Path(folder))
    found |= {"threads": arguments.threads, "processor": platform.processor(), "losses": LOSSES}
    results = (arguments.out or HERE / "results") / "large_ranks.json"
    results.parent.mkdir(parents=True, exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n")
    draw(found, (arguments.out or HERE.parent / "runs" / "large_ranks") / "large_ranks.png")


if __name__ == "__main__":
    main()

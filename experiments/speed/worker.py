"""What bench_speed.py has done in processes of their own: fits by jals and by its peers, and what the machine can do.

    python worker.py serve LIBRARY THREADS FOLDER       requests, a JSON line each on stdin; answers on stdout
    python worker.py whole LIBRARY THREADS REQUEST      one whole job, from files to the RMSE
Runs in any environment that has NumPy, SciPy and the library: nothing else is imported before it is asked for.
"""

import concurrent.futures
import hashlib
import importlib
import importlib.metadata
import json
import os
import platform
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp


class Fitted(NamedTuple):
    """Factors, how to predict with them, and what else the library tells of the fit."""

    arrays: tuple[np.ndarray, ...]
    predict: Callable[[np.ndarray, np.ndarray], np.ndarray]
    told: dict[str, Any] = {}  # noqa: RUF012 - never written to


Fit = Callable[..., Fitted]  # (rank, sweeps, and the solver's options by name)


def dot_products(users: np.ndarray, items: np.ndarray) -> Fitted:
    def predict(user: np.ndarray, item: np.ndarray) -> np.ndarray:
        chunks = np.array_split(np.arange(len(user)), 1 + len(user) // 65_536)
        return np.concatenate([np.einsum("ek,ek->e", users[user[at]], items[item[at]]) for at in chunks])

    return Fitted((users, items), predict)


def jals_als(table: Any, threads: int) -> Fit:
    import jax

    import jals

    devices = len(jax.devices()) if len(jax.devices()) > 1 else None
    whole = jals.Problem.build(jals.Ratings.from_scipy(table), devices=devices)
    objectives = {
        "als_wr": jals.als_wr(0.05),
        "centred": jals.als_wr(0.05, center=True),
        "bias": jals.als_wr(0.05, bias=True),
        "ials": jals.ials(0.001, unobserved_weight=0.1),
    }

    problems: dict[str, tuple] = {}

    def fit(rank: int, sweeps: int, objective: Any = "als_wr", loss_every: int = 0, **options: Any) -> Fitted:
        """`objective`: one of those above, or the arguments of `jals.presets.translate`."""
        if isinstance(objective, dict):
            key = json.dumps(objective)
            if key not in problems:
                ratings = jals.Ratings.from_scipy(table)
                theirs = jals.presets.translate(objective["library"], ratings, **objective["arguments"])
                assert theirs.ratings is not None
                problems[key] = jals.Problem.build(theirs.ratings), theirs.objective
            problem, minimised = problems[key]
        else:
            problem, minimised = whole, objectives[objective]
        solver = jals.ALS(rank, **options)
        done = jals.fit(solver, problem, minimised, sweeps, loss_every=loss_every)
        factors = done.factors
        arrays = tuple(np.asarray(leaf) for leaf in (factors.user, factors.item))
        told = {"compile_seconds": done.compile_seconds}
        return Fitted(arrays, lambda user, item: np.asarray(jals.predict(factors, user, item)), told)

    return fit


def irspack(table: Any, threads: int) -> Fit:
    from irspack import IALSRecommender  # pyright: ignore[reportMissingImports]

    def fit(rank: int, sweeps: int, **options: Any) -> Fitted:
        if options["solver_type"] == "IALSPP":
            options["ialspp_subspace_dimension"] = min(rank, 64)
        numbers = {"n_components": rank, "train_epochs": sweeps, "n_threads": threads, "alpha0": 0.1, "reg": 0.001}
        model = IALSRecommender(table, **numbers | options).learn()
        return dot_products(model.get_user_embedding(), model.get_item_embedding())

    return fit


def cmfrec(table: Any, threads: int) -> Fit:
    from cmfrec import CMF  # pyright: ignore[reportMissingImports]

    entries = table.tocoo()
    plain = {"lambda_": 0.05, "scale_lam": True, "user_bias": False, "item_bias": False, "finalize_chol": False}
    quick = {"use_float": True, "verbose": False, "precompute_for_predictions": False}

    def fit(rank: int, sweeps: int, **options: Any) -> Fitted:
        model = CMF(k=rank, niter=sweeps, nthreads=threads, **plain, **quick, **options).fit(entries)
        return Fitted((model.A_, model.B_), model.predict)

    return fit


def implicit(table: Any, threads: int) -> Fit:
    from implicit.cpu.als import AlternatingLeastSquares  # pyright: ignore[reportMissingImports]

    def fit(rank: int, sweeps: int, **options: Any) -> Fitted:
        fixed = {"regularization": 0.1, "num_threads": threads, "random_state": 0}
        model = AlternatingLeastSquares(factors=rank, iterations=sweeps, **fixed | options)
        model.fit(table, show_progress=False)
        return dot_products(model.user_factors, model.item_factors)

    return fit


def lenskit(table: Any, threads: int) -> Fit:
    import pandas as pd
    from lenskit.als import BiasedMFScorer  # pyright: ignore[reportMissingImports]
    from lenskit.data import from_interactions_df  # pyright: ignore[reportMissingImports]

    coo = table.tocoo()
    data = from_interactions_df(pd.DataFrame({"user_id": coo.row, "item_id": coo.col, "rating": coo.data}))

    def fit(rank: int, sweeps: int, **options: Any) -> Fitted:
        model = BiasedMFScorer(embedding_size=rank, epochs=sweeps, regularization=0.05, **options)
        model.train(data)
        arrays = (model.user_embeddings, model.item_embeddings)
        return dot_products(*(np.asarray(array) for array in arrays))

    return fit


LIBRARIES: dict[str, Callable[[Any, int], Fit]] = {
    "jals": jals_als,
    "irspack": irspack,
    "cmfrec": cmfrec,
    "implicit": implicit,
    "lenskit": lenskit,
}

IMPORTS = {
    "jals": ("jax", "jals"),
    "irspack": ("irspack",),
    "cmfrec": ("cmfrec",),
    "implicit": ("implicit.cpu.als",),
    "lenskit": ("pandas", "lenskit.als", "lenskit.data"),
}


def serve_fits(library: str, threads: int, folder: Path, share: int = 1) -> dict[str, Callable[..., dict]]:
    """What a worker of a library answers: the seconds of one fit, and a digest of its factors."""
    fit = LIBRARIES[library](fewer_users(mapped(folder), share), threads)

    def timed(rank: int, sweeps: int, options: dict[str, Any], keep: str | None = None) -> dict:
        """`keep`: a file for the factors."""
        started = time.perf_counter()
        fitted = fit(rank, sweeps, **options)
        seconds = time.perf_counter() - started
        digest = hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in fitted.arrays)).hexdigest()
        if keep is not None:
            np.savez(keep, user=fitted.arrays[0], item=fitted.arrays[1])
        return {"seconds": seconds, "digest": digest[:16], **fitted.told}

    return {"fit": timed}


def serve_machine(threads: int, folder: Path) -> dict[str, Callable[..., dict]]:
    """What a worker without a library answers: the machine's ceilings, and jals' steps before and after a fit."""
    return {
        "sgemm": lambda sizes: sgemm(sizes),
        "copy": lambda megabytes: {"bytes": copy_rate(threads, megabytes)},
        "gather": lambda rank: {"rows": gather_rate(mapped(folder), rank, threads)},
        "steps": lambda train, test, rank: steps(train, test, rank),
    }


def best_of(count: int, call: Callable[[], Any]) -> float:
    """Seconds of the quickest of so many calls, after one that warms up."""
    call()
    seconds = []
    for _ in range(count):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def sgemm(sizes: list[int]) -> dict:
    """Operations a second of float32 matrix products, the best of some sizes, by XLA and by NumPy."""
    import jax

    product = jax.jit(lambda a, b: a @ b)
    rates: dict[str, float] = {"xla": 0.0, "numpy": 0.0}
    for size in sizes:
        a = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
        on_device, out = jax.numpy.asarray(a), np.empty_like(a)
        xla = best_of(5, lambda b=on_device: product(b, b).block_until_ready())
        own = best_of(5, lambda a=a, out=out: np.dot(a, a, out=out))
        rates = {"xla": max(rates["xla"], 2 * size**3 / xla), "numpy": max(rates["numpy"], 2 * size**3 / own)}
    return rates


def copy_rate(threads: int, megabytes: int) -> float:
    """Bytes moved a second, two a byte copied, from one warm buffer into another; each thread copies its part."""
    source, target = (np.ones((threads, megabytes * 2**20 // threads), np.uint8) for _ in range(2))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return 2 * source.nbytes / best_of(9, lambda: list(pool.map(np.copyto, target, source)))


def gather_rate(table: Any, rank: int, threads: int) -> float:
    """Rows a second of a sweep's own gathers: rows of both factor tables by the entries of the other side's rows in
    turn, written to memory that stays in cache. Up to 4 M entries a side, from the table's middle."""
    chunk, seconds, rows = 4096, 0.0, 0
    for side in (table, table.tocsc()):
        factors = np.ones((side.shape[1] if side is table else side.shape[0], rank), np.float32)
        middle, half = side.nnz // 2, min(side.nnz // 2, 2_000_000)
        indices = side.indices[middle - half : middle + half]

        def gather(part: np.ndarray, factors=factors) -> None:
            out = np.empty((chunk, rank), np.float32)
            for at in range(0, len(part) - chunk + 1, chunk):
                np.take(factors, part[at : at + chunk], axis=0, out=out, mode="clip")  # "raise" would buffer the output

        parts = np.array_split(indices, threads)
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
            seconds += best_of(3, lambda gather=gather, parts=parts, pool=pool: list(pool.map(gather, parts)))
        rows += sum(len(part) // chunk * chunk for part in parts)
    return rows / seconds


def steps(train: str, test: str, rank: int) -> dict:
    """Seconds of what jals does before and after the sweeps, as a job does it; what compiles also again, warm."""
    import jax

    import jals

    seconds: dict[str, float] = {}
    table = timed_part(seconds, "read", lambda: sp.load_npz(train))
    ratings = timed_part(seconds, "check", lambda: jals.Ratings.from_scipy(table))
    problem = timed_part(seconds, "build", lambda: jax.block_until_ready(jals.Problem.build(ratings)))
    for name in ("arrange, first", "arrange"):
        timed_part(seconds, name, lambda: jax.block_until_ready(problem.arrange()))
    of = sp.load_npz(test).tocoo()
    factors = jals.fit(jals.ALS(rank), problem, jals.als_wr(0.05), 0, loss_every=0).factors
    for name in ("evaluate, first", "evaluate"):
        timed_part(seconds, name, lambda: jals.metrics.rmse(jals.predict(factors, of.row, of.col), of.data))
    return {"seconds": seconds, "held_out": of.nnz}


def timed_part(seconds: dict[str, float], name: str, call: Callable[[], Any]) -> Any:
    """What the call makes, which is to be complete; its seconds go under the name."""
    started = time.perf_counter()
    made = call()
    seconds[name] = time.perf_counter() - started
    return made


def whole(library: str, threads: int, train: str, test: str, rank: int, sweeps: int, options: dict) -> dict:
    """Read, build, fit, evaluate: the RMSE, and the most memory this process ever held, in bytes: after importing the
    library, with which every one begins, and in all."""
    for name in IMPORTS[library]:
        importlib.import_module(name)
    imported = peak_memory()
    fitted = LIBRARIES[library](sp.load_npz(train), threads)(rank, sweeps, **options)
    return {"rmse": rmse(fitted, test), "memory": peak_memory(), "imported": imported}


def rmse(fitted: Fitted, test: str) -> float:
    """Of the entries of a table in a file."""
    held_out = sp.load_npz(test).tocoo()
    away = np.asarray(fitted.predict(held_out.row, held_out.col)) - held_out.data
    return float(np.sqrt(np.mean(np.square(away, dtype=np.float64))))


def peak_memory() -> int:
    """Bytes. The kernel's own count of this program where it tells: ru_maxrss may be that of whoever started it."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM:")))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def mapped(folder: Path) -> Any:
    """The table as files that all workers share; copied only where something writes to it."""
    columns = (np.load(folder / f"{name}.npy", mmap_mode="c") for name in ("data", "indices", "indptr"))
    return sp.csr_matrix(tuple(columns), shape=json.loads((folder / "shape.json").read_text(encoding="utf-8")))


def fewer_users(table: Any, share: int) -> Any:
    """The rows of one user in `share`, drawn at random; all items stay, those without entries too."""
    chosen = np.random.default_rng(0).permutation(table.shape[0])[: -(-table.shape[0] // share)]
    return table if share == 1 else table[np.sort(chosen)]


def versions(library: str) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in ("numpy", "scipy", *(("jax", "jaxlib") if library in ("jals", "machine") else (library,))):
        found[name] = importlib.metadata.version(name)
    if library == "jals":
        import jals
        from jals import native

        found |= {"jals": jals.__version__, "instruction set": native.status().isa or "none: " + native.status().reason}
    return found


def pin(threads: int) -> None:
    """To so many cores, before anything starts its threads: XLA makes its pool as large as that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:threads]))


class Answers:
    """Where a worker's answers go, a JSON line each: stdout, which nothing else reaches from now on."""

    def __init__(self):
        self.file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)  # what libraries print must not get between the answers

    def answer(self, what: Callable[[], dict]) -> bool:
        try:
            told = what()
        except ImportError as error:
            told = {"missing": str(error)}
        except Exception as error:  # whatever a library raises is its answer, and the others go on
            traceback.print_exc()
            told = {"failed": f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"}
        print(json.dumps(told), file=self.file, flush=True)
        return "missing" not in told and "failed" not in told

    def serve(self, start: Callable[[dict], dict]) -> None:
        """`start` fills in what is served, by name, and says versions; then requests are answered, to the last."""
        served: dict[str, Callable[..., dict]] = {}
        if self.answer(lambda: start(served)):
            for line in sys.stdin:
                request = json.loads(line)
                self.answer(lambda request=request: served[request.pop("do")](**request))


def main(mode: str, library: str, threads: str, *rest: str) -> None:
    pin(int(threads))
    answers = Answers()
    if mode == "whole":
        answers.answer(lambda: whole(library, int(threads), **json.loads(rest[0])))
        return

    def start(served: dict[str, Callable[..., dict]]) -> dict:
        at = int(threads), Path(rest[0])
        served.update(serve_machine(*at) if library == "machine" else serve_fits(library, *at, *map(int, rest[1:])))
        return versions(library)

    answers.serve(start)


if __name__ == "__main__":
    main(*sys.argv[1:])

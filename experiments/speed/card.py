"""What bench_gpu.py has done in processes of their own: jals on a GPU, and what that card can do. Where jax sees none,
on what it sees.

    python -m speed.card serve FOLDER           requests, a JSON line each on stdin; answers on stdout
    python -m speed.card once NAME REQUEST      one fit or job, in a process that ends with it
    python -m speed.card small                  the kernel on small rows of every kind, for a tool that watches it
All seconds are of blocked results, and compiling is apart.
"""

import functools
import json
import math
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.sparse as sp

import jals
from jals import native

from .worker import Answers, best_of, fewer_users, mapped, peak_memory, timed_part, versions

KEY, REG = 0, 0.05


def spread(seconds: list[float]) -> dict[str, Any]:
    """The median of repetitions, their quartiles, and how many they were."""
    low, median, high = np.quantile(seconds, (0.25, 0.5, 0.75)).tolist()
    return {"median": median, "low": low, "high": high, "repeats": len(seconds)}


def repeated(call: Callable[[], Any], seconds: float, least: int = 5, most: int = 30) -> list[float]:
    """Seconds of each of several calls, about so many seconds together, after one that warms up."""
    jax.block_until_ready(call())
    taken: list[float] = []
    while len(taken) < least or (sum(taken) < seconds and len(taken) < most):
        started = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(time.perf_counter() - started)
    return taken


def compiled(function: Callable, *arguments: Any) -> tuple[Callable[..., Any], float]:
    """(the program, the seconds that making it took)"""
    started = time.perf_counter()
    made = jax.jit(function).lower(*arguments).compile()
    return made, time.perf_counter() - started


def evaluated(factors: jals.Factors, held_out: Any) -> float:
    """The RMSE on a table's entries, from the host."""
    return float(jals.metrics.rmse(jals.predict(factors, held_out.row, held_out.col), held_out.data))


def platform() -> str:
    """As `native.missing` names it."""
    return {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())


def about() -> dict[str, Any]:
    """The device that jax takes, and whether its kernel is here."""
    device = jax.devices()[0]
    memory = (device.memory_stats() or {}).get("bytes_limit")
    told = {"platform": platform(), "device": device.device_kind, "memory": memory}
    told["capability"] = str(getattr(device, "compute_capability", ""))
    missing = native.missing().get(platform(), "it is for CPUs and CUDA only.")
    instructions = {"cuda": native.cuda_status, "cpu": native.status}.get(platform(), native.status)().isa
    return told | {"kernel_missing": missing, "kernel": instructions}


class Card:
    """A folder's table on the device, whole or of fewer users, and what is measured on it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.problems: dict[tuple[int, str], jals.Problem] = {}

    def table(self, share: int = 1) -> sp.csr_matrix:
        return fewer_users(mapped(self.folder), share)

    def problem(self, share: int, dtype: str = "float32") -> jals.Problem:
        if (share, dtype) not in self.problems:
            ratings = jals.Ratings.from_scipy(self.table(share).astype(dtype))
            self.problems[share, dtype] = jals.Problem.build(ratings).arrange()
        return self.problems[share, dtype]

    @functools.cached_property
    def indices(self) -> tuple[np.ndarray, np.ndarray]:
        """The rows that a sweep reads of (the items, the users), in its order; up to 4 M of each, from the middle."""
        found = []
        for side in (self.table(), self.table().tocsc()):
            middle, half = side.nnz // 2, min(side.nnz // 2, 2_097_152)
            found.append(side.indices[middle - half : middle + half])
        return found[0], found[1]

    # ---- sweeps ----

    def sweep(self, rank: int, backend: str, share: int, bias: bool, seconds: float) -> dict:
        """Of exact ALS; and whether two runs from one start give the same bits."""
        return self._sweeps(jals.ALS(rank, backend=backend), jals.als_wr(REG, bias=bias, center=bias), share, seconds)

    def gradient(self, rank: int, seconds: float) -> dict:
        """A step of Adam with the gradient of the whole loss: two passes."""
        return self._sweeps(jals.Gradient(rank, optax.adam, {"learning_rate": 1e-3}), jals.als_wr(REG), 1, seconds)

    def _sweeps(self, solver: Any, objective: jals.Objective, share: int, seconds: float) -> dict:
        problem = self.problem(share)
        objective = objective.cast(problem.dtype)
        state = solver.init(jax.random.key(KEY), problem, objective)

        def many(state: Any, problem: Any, objective: Any, count: Any) -> Any:
            return jax.lax.fori_loop(0, count, lambda _, now: solver.sweep(now, problem, objective)[0], state)

        program, compiling = compiled(many, state, problem, objective, jnp.int32(1))
        run = lambda count: program(state, problem, objective, jnp.int32(count))  # noqa: E731
        twice = [jax.tree.map(np.asarray, run(2).factors) for _ in range(2)]
        leaves = [jax.tree.leaves(each) for each in twice]
        same = all(one.tobytes() == other.tobytes() for one, other in zip(*leaves, strict=True))
        single = min(repeated(lambda: run(1), 0.0, least=2))
        count = min(max(math.ceil(0.2 / single), 1), 50)  # so that a launch's latency is a small part
        taken = [each / count for each in repeated(lambda: run(count), seconds)]
        finite = all(bool(np.isfinite(leaf).all()) for leaf in leaves[0])
        # What XLA's own allocator knows of the program: where it cannot tell, nothing is said.
        memory = program.memory_analysis()
        scratch = None if memory is None else memory.temp_size_in_bytes
        told = {"entries": problem.num_entries, "compile_seconds": compiling, "scratch_bytes": scratch}
        return told | {"sweeps_a_call": count, "same_bits": same, "finite": finite, **spread(taken)}

    def _two_sweeps(self, solver: Any, state: Any, problem: Any) -> Any:
        return jals.run(solver, state, problem, jals.als_wr(REG).cast(problem.dtype), sweeps=2)[0].factors

    # ---- whether it is right ----

    def certificate(self, rank: int, backend: str, share: int, dtype: str) -> dict:
        """After two sweeps: the worst backward error of fresh rows of both sides, and of the items as they are."""
        problem, solver = self.problem(share, dtype), jals.ALS(rank, backend=backend)
        objective = jals.als_wr(REG).cast(problem.dtype)
        factors = self._two_sweeps(solver, solver.init(jax.random.key(KEY), problem, objective), problem)
        proof = jals.certify(factors, problem, objective, solver)
        worst = {side: float(jnp.max(getattr(proof, side))) for side in ("user", "item", "last_updated")}
        judged = {"bound": proof.bound, "holds": proof.holds(), "unjudged": sum(proof.unjudged.values())}
        return {"entries": problem.num_entries, **judged, **worst}

    def against_cpu(self, rank: int, backend: str, share: int, dtype: str) -> dict:
        """Predictions after two sweeps from one start, here and on the host's CPU by its kernel; how far apart the
        CPU's own two ways are says what rounding comes to. Root mean squares, over that of the predictions."""
        problem, objective = self.problem(share, dtype), jals.als_wr(REG).cast(np.dtype(dtype))
        solver = jals.ALS(rank, backend=backend)
        start = solver.init(jax.random.key(KEY), problem, objective)
        cpu = jax.local_devices(backend="cpu")[0]
        there = jax.device_put((start, problem, objective), cpu)
        table = self.table(share).tocoo()
        chosen = np.random.default_rng(0).permutation(table.nnz)[:200_000]
        rows = table.row[chosen], table.col[chosen]

        def predictions(factors: Any) -> np.ndarray:
            user, item = np.asarray(factors.user, float), np.asarray(factors.item, float)
            return np.einsum("ek,ek->e", user[rows[0]], item[rows[1]])

        here = predictions(self._two_sweeps(solver, start, problem))
        with jax.default_device(cpu):
            ways = [jals.ALS(rank, backend=backend) for backend in ("auto", "xla")]
            cpus = [predictions(jals.run(way, *there, sweeps=2)[0].factors) for way in ways]
        size = np.sqrt(np.mean(cpus[0] ** 2))
        apart = [float(np.sqrt(np.mean((each - cpus[0]) ** 2)) / size) for each in (here, cpus[1])]
        largest = float(np.abs(here - cpus[0]).max() / size)
        return {"dtype": dtype, "pairs": len(chosen), "apart": apart[0], "of_the_cpu": apart[1], "largest": largest}

    # ---- ceilings ----

    def ceilings(self, sizes: list[int], megabytes: int) -> dict:
        """Operations a second of matrix products in float32 and TF32, the best of some sizes, and how wrong TF32's is
        (as large as 1e-4 where it is TF32 indeed); bytes a second of a copy, two a byte copied."""
        rates, error = {"float32": 0.0, "tf32": 0.0}, 0.0
        for size in sizes:
            a = jax.random.normal(jax.random.key(0), (size, size), jnp.float32)
            made = {}
            for name, precision in (("float32", "highest"), ("tf32", "tensorfloat32")):
                product = jax.jit(functools.partial(jnp.matmul, precision=precision))
                made[name] = product(a, a)
                taken = best_of(5, lambda product=product, a=a: jax.block_until_ready(product(a, a)))
                rates[name] = max(rates[name], 2 * size**3 / taken)
            error = float(jnp.linalg.norm(made["tf32"] - made["float32"]) / jnp.linalg.norm(made["float32"]))
        block = jnp.ones(megabytes << 18, jnp.float32)
        copy = jax.jit(lambda x: x * 2)
        taken = best_of(9, lambda: jax.block_until_ready(copy(block)))
        return rates | {"tf32_error": error, "copy": 2 * block.nbytes / taken}

    def gather(self, rank: int) -> dict:
        """Rows a second of a sweep's own gathers, added up at once, so that little is written: by two programs, the
        quicker of which counts."""
        shape, rate = self.table().shape, {}
        forms = {
            "sums of 32": lambda table, index: table[index.reshape(-1, 32)].sum(axis=1),
            "one sum": lambda table, index: table[index].sum(axis=0),
        }
        for name, form in forms.items():
            taken, rows = 0.0, 0
            for others, index in zip((shape[1], shape[0]), self.indices, strict=True):
                index = jnp.asarray(index[: len(index) // 32 * 32])
                table = jnp.ones((others, rank), jnp.float32)
                program = jax.jit(form)
                run = functools.partial(program, table, index)
                taken += best_of(5, lambda run=run: jax.block_until_ready(run()))
                rows += len(index)
            rate[name] = rows / taken
        best = max(rate, key=lambda name: rate[name])
        return {"rank": rank, "rows": rate[best], "by": best, "bytes": rate[best] * rank * 4}

    # ---- beside the sweeps ----

    def build(self) -> dict:
        """From a scipy table to a problem on the device; and again, when nothing is to be compiled."""
        table, times = self.table(), []
        for _ in range(2):
            seconds: dict[str, float] = {}
            ratings = timed_part(seconds, "check", lambda: jals.Ratings.from_scipy(table))
            made = lambda ratings=ratings: jax.block_until_ready(jals.Problem.build(ratings))  # noqa: E731
            problem = timed_part(seconds, "build", made)
            timed_part(seconds, "arrange", lambda problem=problem: jax.block_until_ready(problem.arrange()))
            times.append(seconds)
        return {"entries": table.nnz, "first": times[0], "again": times[1]}

    def transfer(self, megabytes: int) -> dict:
        """Bytes a second to the device, and from it."""
        block = np.random.default_rng(0).random(megabytes << 17)  # float64, or cast on the way; bytes are those there
        there = jax.block_until_ready(jax.device_put(block.view(np.int32)))
        to = repeated(lambda: jax.device_put(block.view(np.int32)), 0.5)
        back = repeated(lambda: np.array(there + 0), 0.5)  # an array keeps its copy on the host, so a fresh one each
        return {"to": block.nbytes / spread(to)["median"], "from": block.nbytes / spread(back)["median"]}

    def around(self, rank: int, pairs: int, seconds: float) -> dict:
        """The loss, predictions of so many pairs that are on the device, and their evaluation from the host."""
        problem, solver = self.problem(1), jals.ALS(rank)
        objective = jals.als_wr(REG).cast(problem.dtype)
        factors = solver.init(jax.random.key(KEY), problem, objective).factors
        table = self.table().tocoo()
        chosen = np.random.default_rng(1).integers(0, table.nnz, pairs)
        held_out = sp.coo_matrix((table.data[chosen], (table.row[chosen], table.col[chosen])), shape=table.shape)
        user, item = jnp.asarray(held_out.row), jnp.asarray(held_out.col)
        calls = {
            "loss": lambda: jals.loss(factors, problem, objective),
            "predict": lambda: jals.predict(factors, user, item),
            "evaluate": lambda: evaluated(factors, held_out),
        }
        return {"pairs": pairs} | {name: spread(repeated(call, seconds)) for name, call in calls.items()}


# ---- in processes that do nothing else ----


def compiling(folder: str, rank: int, backend: str) -> dict:
    """Seconds until a fit in a fresh process can begin to sweep."""
    problem = jals.Problem.build(jals.Ratings.from_scipy(mapped(Path(folder)))).arrange()
    jax.block_until_ready(problem)
    done = jals.fit(jals.ALS(rank, backend=backend), problem, jals.als_wr(REG), 0, loss_every=0)
    return {"compile_seconds": done.compile_seconds}


def whole(train: str, test: str, rank: int, sweeps: int, backend: str) -> dict:
    """Read, build, fit, evaluate: seconds by part, the RMSE and the host's memory."""
    seconds: dict[str, float] = {}
    timed_part(seconds, "device", lambda: jax.block_until_ready(jnp.zeros(1) + 1))
    table = timed_part(seconds, "read", lambda: sp.load_npz(train))
    made = lambda: jals.Problem.build(jals.Ratings.from_scipy(table))  # noqa: E731
    problem = timed_part(seconds, "build", lambda: jax.block_until_ready(made()))
    solver = jals.ALS(rank, backend=backend)
    done = timed_part(seconds, "fit", lambda: jals.fit(solver, problem, jals.als_wr(REG), sweeps, loss_every=0))
    seconds |= {"compile": done.compile_seconds, "sweeps": done.history.seconds[-1]}
    seconds["rest of the fit"] = seconds.pop("fit") - seconds["compile"] - seconds["sweeps"]
    rmse = timed_part(seconds, "evaluate", lambda: evaluated(done.factors, sp.load_npz(test).tocoo()))
    return {"parts": seconds, "rmse": rmse, "memory": peak_memory()}


def small() -> None:
    """Sweeps, with the loss, of a table with an empty row and one of several parts, at ranks of every variant."""
    rng = np.random.default_rng(0)
    lengths = [2500, 0, 1, 40, 90]
    user = np.repeat(np.arange(len(lengths)), lengths)
    item = np.concatenate([rng.permutation(2500)[:length] for length in lengths])
    for dtype in (np.float32, np.float64):
        value = rng.integers(1, 6, len(user)).astype(dtype)
        ratings = jals.Ratings.from_arrays(user, item, value, len(lengths), 2500)
        problem = jals.Problem.build(ratings)
        for rank in (5, 17, 64, 128, 150, 256, 300):
            solver, objective = jals.ALS(rank, backend="native"), jals.als_wr(0.1, bias=rank == 17).cast(dtype)
            sweep = jax.jit(functools.partial(solver.sweep, loss=True))
            _, info = sweep(solver.init(jax.random.key(KEY), problem, objective), problem, objective)
            if not bool(info.finite):
                raise SystemExit(f"rank {rank}, {dtype.__name__}: not finite")


ONCE = {"compiling": compiling, "whole": whole}


def main(mode: str, *rest: str) -> None:
    if mode == "small":
        small()
        return
    answers = Answers()
    if mode == "once":
        answers.answer(lambda: ONCE[rest[0]](**json.loads(rest[1])))
        return

    def start(served: dict[str, Callable[..., dict]]) -> dict:
        card = Card(Path(rest[0]))
        names = ("sweep", "gradient", "certificate", "against_cpu", "ceilings", "gather", "build", "transfer", "around")
        served.update({name: getattr(card, name) for name in names}, about=about)
        return versions("jals")

    answers.serve(start)


if __name__ == "__main__":
    main(*sys.argv[1:])

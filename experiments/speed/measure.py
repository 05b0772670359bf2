"""Fits in processes of their own, and their seconds: what bench_speed.py measures with, and which solvers."""

import argparse
import contextlib
import json
import math
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .rules import rated

WORKER = Path(__file__).parent / "worker.py"
LONG, SHORT = (1, 4), (1, 2)  # the sweeps of the two fits whose difference is measured


class Solver(NamedTuple):
    """A way of making a sweep: whose, how, and of what objective (t: the value, s: the prediction, n: a row's
    entries, N: its columns)."""

    library: str
    options: dict[str, Any]
    objective: str
    way: str = "exact"  # of rules.WAYS
    devices: int = 1


EXPLICIT = "Σ (t - s)² + λ n ‖x‖²"
CENTRED = "Σ (t - mean - s)² + λ n ‖x‖²"
BIASED = "Σ (t - mean - biases - s)² + λ n ‖x‖², the biases set beforehand"
CONFIDENCE = "Σ t (1 - s)² + Σ over missing s² + λ ‖x‖²"
IALS = "Σ t (1 - s)² + α₀ Σ over all s² + λ (n + α₀ N) ‖x‖²"
SOLVERS = {
    "jals native": Solver("jals", {"backend": "native"}, EXPLICIT),
    "jals CG": Solver("jals", {"backend": "native", "linsolve": "cg", "objective": "ials"}, IALS, "cg"),
    "jals subspace": Solver(
        "jals", {"backend": "native", "linsolve": "subspace", "objective": "ials"}, IALS, "subspace"
    ),
    "jals XLA": Solver("jals", {"backend": "xla"}, EXPLICIT),
    "jals XLA, two devices": Solver("jals", {"backend": "xla"}, EXPLICIT, devices=2),
    "irspack Cholesky": Solver("irspack", {"solver_type": "CHOLESKY"}, IALS),
    "irspack CG": Solver("irspack", {"solver_type": "CG", "max_cg_steps": 3}, IALS, "cg"),
    "irspack iALS++": Solver("irspack", {"solver_type": "IALSPP"}, IALS, "subspace"),
    "cmfrec Cholesky": Solver("cmfrec", {"use_cg": False}, CENTRED),
    "cmfrec CG": Solver("cmfrec", {"use_cg": True, "max_cg_steps": 3}, CENTRED, "cg"),
    "implicit Cholesky": Solver("implicit", {"use_cg": False}, CONFIDENCE),
    "implicit CG": Solver("implicit", {"use_cg": True}, CONFIDENCE, "cg"),
    "lenskit": Solver("lenskit", {}, BIASED),
}
REFERENCE = "jals native"


class Unavailable(Exception):
    """A solver that cannot be measured here; says why."""


def environment(library: str, threads: int, devices: int) -> dict[str, str]:
    """For so many threads. A BLAS inside a library that has threads of its own gets one."""
    own = {name: value for name, value in os.environ.items() if name not in ("NPROC", "JAX_COMPILATION_CACHE_DIR")}
    own |= dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    own |= dict.fromkeys(("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads if library == "machine" else 1))
    if devices > 1:  # a pool larger than the devices: with jax 0.10 they can wait for one another otherwise
        own["XLA_FLAGS"] = f"{own.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
        own["NPROC"] = str(2 * devices)
    return own


class Worker:
    """A process that serves a library's fits, or the machine's ceilings, one request at a time. It is ended where an
    answer takes more than `longest` seconds."""

    longest = math.inf

    def __init__(self, python: str, library: str, threads: int, folder: Path, devices: int = 1, share: int = 1):
        command = [python, str(WORKER), "serve", library, str(threads), str(folder), str(share)]
        self.start(command, environment(library, threads, devices))

    def start(self, command: list[str], env: dict[str, str], log: Any = subprocess.DEVNULL) -> None:
        """Starts the process, which says first what versions it has; `log` is for what it writes besides answers."""
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": log, "text": True}
        # In a session of its own, Ctrl-C does not reach it: it ends when this process does.
        self.process = subprocess.Popen(command, env=env, start_new_session=True, **pipes)
        try:
            self.versions = self._answer()
        except BaseException:
            self.end()
            raise

    def ask(self, do: str, **request: Any) -> dict:
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps({"do": do, **request}) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            raise Unavailable("its process ended") from None
        return self._answer()

    def _answer(self) -> dict:
        assert self.process.stdout is not None
        late = threading.Event()
        watch = threading.Timer(min(self.longest, threading.TIMEOUT_MAX), lambda: (late.set(), self.process.kill()))
        watch.start()
        line = self.process.stdout.readline()
        watch.cancel()
        if late.is_set():
            raise Unavailable(f"not done after {self.longest:.0f} s")
        return answered(line)

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def answered(line: str) -> dict:
    told = json.loads(line) if line.strip() else {"failed": "its process ended"}
    if "missing" in told:
        raise Unavailable(f"not installed: {told['missing']}")
    if "failed" in told:
        raise Unavailable(told["failed"])
    return told


class Bench:
    """A run: its arguments, table, workers, and what has been found."""

    def __init__(self, arguments: argparse.Namespace, found: dict[str, Any], folder: Path):
        self.arguments, self.found, self.folder = arguments, found, folder
        self.rank, self.threads = arguments.rank, arguments.threads
        self.workers: dict[tuple, Worker] = {}

    def python(self, library: str) -> str:
        return sys.executable if library in ("jals", "machine") else self.arguments.peers_python

    @contextlib.contextmanager
    def lent(self, library: str) -> Iterator[Worker]:
        """A fresh worker that is there for this alone."""
        worker = Worker(self.python(library), library, self.threads, self.folder)
        try:
            self.found["versions"][library] = worker.versions
            yield worker
        finally:
            worker.end()

    def worker(self, *key: Any) -> Worker:
        """(library, threads, devices, share): one that stays until `clear`."""
        if key not in self.workers:
            library, threads, devices, share = key
            self.workers[key] = Worker(self.python(library), library, threads, self.folder, devices, share)
            self.found["versions"][library] = self.workers[key].versions
        return self.workers[key]

    def clear(self) -> None:
        while self.workers:
            self.workers.popitem()[1].end()

    def chosen(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self.arguments.solvers]

    def case(self, name: str, rank: int = 0, threads: int = 0, share: int = 1, **more: Any) -> "Case":
        """A solver's fits; rank and threads are those of the command unless given, `more` goes to the solver."""
        solver = SOLVERS[name]
        key = (solver.library, threads or self.threads, solver.devices, share)
        request = {"rank": rank or self.rank, "options": solver.options | more}
        return Case(lambda sweeps: self.worker(*key).ask("fit", sweeps=sweeps, **request), solver.library == "jals")


class Case(NamedTuple):
    """A fit of so many sweeps, {"seconds", "digest", ...}; `compiles` when a fit of none must come first."""

    fit: Callable[[int], dict]
    compiles: bool


class Sweeps(NamedTuple):
    """Seconds a sweep of one case, repetition by repetition."""

    name: str
    seconds: list[float]
    fits: tuple[int, int]
    digests: dict[int, set[str]]


def in_turn(cases: dict[str, Case], repeats: int, budget: float) -> tuple[list[Sweeps], dict[str, str]]:
    """Every case's seconds a sweep, one repetition of each after the other, and why some have none.

    Every other round goes through the cases backwards, so that a drift of the machine favours none; the first seconds
    of two cases are of one round, and so on. A first pair of short fits warms up and says what a repetition costs. Fits
    are `LONG` where `repeats` repetitions of those fit into `budget` seconds, else `SHORT`; a case takes part in as
    many as fit, and where two do not, the first pair is its only one.
    """
    taken: dict[str, Sweeps] = {}
    rounds, left_out = {}, {}

    def repetition(name: str, low: int, high: int, digests: dict[int, set[str]]) -> tuple[float, float]:
        """(seconds a sweep, seconds of both fits)"""
        done = {sweeps: cases[name].fit(sweeps) for sweeps in (low, high)}
        for sweeps, told in done.items():
            digests.setdefault(sweeps, set()).add(told["digest"])
        seconds = [told["seconds"] for told in done.values()]
        return (seconds[1] - seconds[0]) / (high - low), sum(seconds)

    for name, case in cases.items():
        try:
            if case.compiles:
                case.fit(0)
            digests: dict[int, set[str]] = {}
            sweep, cost = repetition(name, *SHORT, digests)
        except Unavailable as why:
            left_out[name] = str(why)
            continue
        print(f"  {name:28} first fits in {cost:.1f} s", file=sys.stderr, flush=True)
        longer = cost + (sum(LONG) - sum(SHORT)) * max(sweep, 0)
        rounds[name] = min(repeats, int(budget / cost)) if cost > 0 else repeats
        taken[name] = Sweeps(name, [], LONG if repeats * longer <= budget else SHORT, digests)
        if rounds[name] < min(2, repeats):
            taken[name].seconds.append(sweep)
            rounds[name] = 0
    for turn in range(repeats):
        print(f"  round {turn + 1} of {repeats}", file=sys.stderr, flush=True)
        for name in list(taken)[:: -1 if turn % 2 else 1]:
            if turn < rounds[name]:
                try:
                    taken[name].seconds.append(repetition(name, *taken[name].fits, taken[name].digests)[0])
                except Unavailable as why:
                    left_out[name] = str(why)
                    del taken[name]
    return list(taken.values()), left_out


def rows(measured: list[Sweeps], left_out: dict[str, str], reference: str = REFERENCE) -> dict[str, Any]:
    """What is kept of a measurement, which is printed; ratios are to the reference."""
    kept = [{"solver": each.name, "seconds": each.seconds, "fits": each.fits} for each in measured]
    rated(kept, reference)
    for row in kept:
        of = "{median:9.4f} s a sweep ({low:.4f} to {high:.4f})".format(**row)
        ratio = row["ratio"]["median"]
        by = "" if ratio is None else f" {ratio:6.2f} x {reference}"
        print(f"  {row['solver']:28} {of}{by}   {row['n']} x ({row['fits'][1]} - {row['fits'][0]} sweeps)")
    for name, why in left_out.items():
        print(f"  {name:28} left out: {why}", flush=True)
    return {"rows": kept, "left_out": left_out}


def once(command: list[str], env: dict[str, str], longest: float, log: Any = subprocess.DEVNULL) -> dict:
    """The answer of a worker that does one job and ends; it is stopped after `longest` seconds."""
    pipes = {"stdout": subprocess.PIPE, "stderr": log, "text": True, "start_new_session": True}
    with subprocess.Popen(command, env=env, **pipes) as process:
        try:
            return answered(process.communicate(timeout=longest)[0])
        except subprocess.TimeoutExpired:
            raise Unavailable(f"not done after {longest:.0f} s") from None
        finally:
            process.kill()


def machine() -> dict[str, Any]:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        processor = platform.processor() or platform.machine()
    return {"processor": processor, "cores": os.cpu_count(), "system": platform.system()}


def tidy(value: Any) -> Any:
    """Six digits are enough to read; what is not a number becomes null."""
    if isinstance(value, dict):
        return {key: tidy(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [tidy(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value

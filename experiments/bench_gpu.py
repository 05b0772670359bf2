"""What jals does on a GPU: whether it is right there, how long it takes, and how far that is from what the card can do.

Everything runs in processes of its own (speed/card.py, speed/peer.py), one at a time; one that fails, or hangs, is
ended and named, and the others go on. All times are of blocked results, compiling apart: medians of repetitions, and
their quartiles. A whole job, and compiling a fit, happen once, in a fresh process. implicit minimises another loss and
solves by three steps of conjugate gradients: ratios to it are of sweeps, not of what a sweep achieves.

The floor of a sweep is the larger of its Grams at a third of the card's TF32 rate and of its gathers at the rate at
which rows are gathered, all measured here.

Command: python experiments/bench_gpu.py [--seconds 300] [--table TABLE.npz] [--peer FOLDER] [--only WORD ...]
    TABLE.npz: a scipy.sparse table; without it one is made, of MovieLens 20M's shape and skew.
    FOLDER of --peer (or the environment's JALS_PEER): implicit's wheels, unpacked; speed/peer.py says which.
    --only: the rows with one of these words in their names. --small: a small table and few ranks, to try the script.
    --anyway: on what jax has where that is no GPU.
Time: --seconds at most, about. The rows come by importance, and those that time is left for are made; the others are
    named at the end.
Writes: after every row experiments/results/bench_gpu.json, and in the end runs/bench_gpu/bench_gpu.png; with --out
    FOLDER (and with --small, --anyway or --only in runs/bench_gpu) all there, as is bench_gpu.log, what the processes
    said.
Exit code: 1 where something was wrong, 2 where there is no GPU; slow is not wrong.
"""

import argparse
import contextlib
import datetime
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from speed import report
from speed.measure import Unavailable, machine, tidy
from speed.processes import Run
from speed.table import made_table, shape_of

HERE = Path(__file__).parent
RANKS, SMALL_RANKS = (16, 32, 64, 128, 256), (4, 8, 16)
SHARES = (1, 4, 16)  # of the users: one in so many
SWEEPS = 10  # of a whole job
PAIRS = 2_000_000


class Row(NamedTuple):
    """What is measured at once: about how many seconds it takes on a GPU, and whose part it is, "native", "xla",
    "peer" or ""."""

    name: str
    expects: float
    make: Callable[["Run"], dict[str, Any]]
    by: str = ""


# ---- the rows ----


def plan(arguments: argparse.Namespace) -> list[Row]:
    """All rows, the most important first."""
    ranks, shares, seconds = arguments.ranks, arguments.shares, arguments.repeat_seconds
    middle = len(ranks) // 2
    main, second = ranks[middle], ranks[middle + 1]
    others = [rank for rank in ranks if rank not in (main, second)]
    small = shares[-1]

    def sweep(backend: str, rank: int, share: int = 1, bias: bool = False) -> Row:
        request = {"rank": rank, "backend": backend, "share": share, "bias": bias}
        name = f"sweep {backend} {rank}" + (f" 1/{share}" if share > 1 else "") + " with biases" * bias
        costs = {"native": 8.0, "xla": 20.0}[backend] * (0.5 if share > 1 else 1.0)
        kind = "biased" if bias else "sweep"
        make = lambda run: {"kind": kind, **request, **run.ask("sweep", seconds=seconds, **request)}  # noqa: E731
        return Row(name, costs, make, backend)

    def row(kind: str, name: str, expects: float, do: str, by: str = "", at: str = "card", **request: Any) -> Row:
        def make(run: Run) -> dict:
            with contextlib.ExitStack() as after:
                if at != "card":
                    after.callback(run.end, at)  # its memory is for the others
                return {"kind": kind, **request, **run.ask(do, at, **request)}

        return Row(f"{kind} {name}".strip(), expects, make, by)

    def certificate(rank: int, dtype: str, backend: str, expects: float) -> Row:
        at, share = ("float64", shares[1]) if dtype == "float64" else ("card", 1)
        request = {"rank": rank, "backend": backend, "share": share, "dtype": dtype}
        return row("certificate", f"{dtype} {backend} {rank}", expects, "certificate", backend, at, **request)

    def against(rank: int, dtype: str) -> Row:
        at = "float64" if dtype == "float64" else "card"
        request = {"rank": rank, "backend": "native", "share": small, "dtype": dtype}
        return row("against the CPU", f"{dtype} {rank}", 15, "against_cpu", "native", at, **request)

    def once(kind: str, name: str, expects: float, make: Callable[[Run], dict], by: str, **more: Any) -> Row:
        return Row(f"{kind} {name}", expects, lambda run: {"kind": kind, "name": name, **more, **make(run)}, by)

    def compiling(backend: str, rank: int) -> Row:
        request = lambda run: json.dumps({"folder": str(run.folder), "rank": rank, "backend": backend})  # noqa: E731
        make = lambda run: run.once("speed.card", "once", "compiling", request(run))  # noqa: E731
        return once("compile", f"{backend} {rank}", 15, make, backend, backend=backend, rank=rank)

    def whole(name: str, backend: str, expects: float, **more: str) -> Row:
        make = lambda run: run.once("speed.card", "once", "whole", run.job(main, SWEEPS, backend=backend), **more)  # noqa: E731
        return once("whole job", name, expects, make, backend, rank=main, sweeps=SWEEPS)

    def whole_peer(run: Run) -> dict:
        return run.once("speed.peer", str(_peer(run)), "whole", run.job(main, SWEEPS))

    sizes, megabytes, pairs = ([256], 8, 20_000) if arguments.small else ([4096, 8192], 1024, PAIRS)
    return [
        sweep("native", main),
        row("ceilings", "", 5, "ceilings", sizes=sizes, megabytes=megabytes),
        *(row("gather", str(rank), 4, "gather", rank=rank) for rank in (main, second)),
        certificate(main, "float32", "native", 12),
        against(main, "float32"),
        Row(f"implicit {main}", 20, lambda run: _peer_sweeps(run, main), "peer"),
        sweep("native", second),
        sweep("xla", main),
        certificate(main, "float64", "native", 15),
        compiling("native", main),
        compiling("xla", main),
        whole("GPU, the kernel", "native", 35),
        whole("the host's CPU, its kernel", "auto", 20, JAX_PLATFORMS="cpu"),
        once("whole job", "implicit", 15, whole_peer, "peer", rank=main, sweeps=SWEEPS),
        *(sweep("native", rank) for rank in others),
        sweep("native", main, bias=True),
        row("build", "", 12, "build"),
        row("transfer", "", 3, "transfer", megabytes=megabytes),
        row("around", str(main), 10, "around", rank=main, pairs=pairs, seconds=seconds),
        row("gradient", str(main), 10, "gradient", rank=main, seconds=seconds),
        Row("memcheck", 40, lambda run: _sanitized(run, "memcheck"), "native"),
        Row("racecheck", 40, lambda run: _sanitized(run, "racecheck"), "native"),
        *(row("gather", str(rank), 4, "gather", rank=rank) for rank in others),
        *(sweep("native", rank, share) for share in shares[1:] for rank in (main, second)),
        sweep("xla", second),
        against(main, "float64"),
        certificate(main, "float32", "xla", 12),
        Row(f"implicit {second}", 20, lambda run: _peer_sweeps(run, second), "peer"),
        whole("GPU, XLA", "xla", 35),
        *(sweep("native", rank, share) for share in shares[1:] for rank in others),
        *(sweep("xla", rank) for rank in others),
        *(sweep("xla", rank, share) for share in shares[1:] for rank in ranks),
    ]


def _peer(run: Run) -> Path:
    if run.arguments.peer is None:
        raise Unavailable("not here: --peer, or JALS_PEER, says where its wheels are unpacked")
    return run.arguments.peer


def _peer_sweeps(run: Run, rank: int) -> dict:
    """A sweep's seconds, by the difference of fits of 2 and of 12, each made several times."""
    _peer(run)
    try:
        run.ask("fit", "peer", rank=rank, sweeps=1)
        few, many = 2, 12
        pairs = [[run.ask("fit", "peer", rank=rank, sweeps=each)["seconds"] for each in (few, many)] for _ in range(3)]
    finally:
        run.end("peer")
    taken = sorted((long - short) / (many - few) for short, long in pairs)
    spread = {"median": statistics.median(taken), "low": taken[0], "high": taken[-1], "repeats": len(taken)}
    return {"kind": "peer", "rank": rank, "cg_steps": 3, **spread}


def _sanitized(run: Run, tool: str) -> dict:
    """What compute-sanitizer says of the kernel on small rows."""
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    if program is None:
        raise Unavailable("not here: compute-sanitizer is not on the path")
    command = [program, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "speed.card", "small"]
    env = run.environment(JAX_ENABLE_X64="1", XLA_FLAGS="--xla_gpu_autotune_level=0")
    try:
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=run.longest)
    except subprocess.TimeoutExpired:
        raise Unavailable(f"not done after {run.longest:.0f} s") from None
    said = (done.stdout + done.stderr).strip()
    run.log.write(said + "\n")
    run.log.flush()
    if done.returncode not in (0, 9):
        raise Unavailable(said.splitlines()[-1] if said else f"exit code {done.returncode}")
    summary = [line.strip("= ") for line in said.splitlines() if "SUMMARY" in line]
    return {"kind": "sanitizer", "tool": tool, "clean": done.returncode == 0, "summary": (summary or [""])[-1]}


# ---- a run ----


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What jals does on a GPU, and what the card can do.")
    parser.add_argument("--seconds", type=float, default=300.0, help="for everything, about")
    parser.add_argument("--table", type=Path, help="a scipy.sparse npz; default: made, of MovieLens 20M's shape")
    peer = os.environ.get("JALS_PEER")
    parser.add_argument("--peer", type=Path, default=peer and Path(peer), help="a folder of implicit's unpacked wheels")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="rows with one of these in their names")
    parser.add_argument("--out", type=Path, help="a folder for figures, picture and log")
    parser.add_argument("--small", action="store_true", help="a small table and few ranks, to try the script")
    parser.add_argument("--anyway", action="store_true", help="also where there is no GPU")
    arguments = parser.parse_args(argv)
    for path in filter(None, (arguments.table, arguments.peer)):
        if not path.exists():
            parser.error(f"there is no {path}")
    arguments.ranks = SMALL_RANKS if arguments.small else RANKS
    arguments.shares, arguments.repeat_seconds = SHARES, 0.05 if arguments.small else 1.5
    return arguments


def kept_in(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """(the folder of the figures, that of picture and log)"""
    aside = Path("runs/bench_gpu")
    if arguments.out is not None:
        return arguments.out, arguments.out
    return (aside if arguments.small or arguments.anyway or arguments.only else HERE / "results"), aside


def main(argv: list[str] | None = None) -> int:
    arguments = parsed(argv)
    folder, aside = kept_in(arguments)
    for each in (folder, aside):
        each.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as place,
        open(aside / "bench_gpu.log", "w", encoding="utf-8") as log,
    ):
        found: dict[str, Any] = {"date": datetime.date.today().isoformat(), "versions": {}, "rows": {}}
        run = Run(arguments, found, Path(place), log)
        try:
            code = measured(run, folder / "bench_gpu.json")
        except KeyboardInterrupt:
            print("stopped: the rows before this one are kept")
            return 130
        finally:
            run.end()
    if "machine" in found:
        print()
        print(report.text(report.lines(found)))
        if report.draw(found, aside / "bench_gpu.png"):
            print(f"drawn: {aside / 'bench_gpu.png'}")
    return code


def measured(run: Run, path: Path) -> int:
    """Makes the rows that there is time for, each kept in `run.found` and at `path` at once; the exit code."""
    arguments, found = run.arguments, run.found
    try:
        device = run.ask("about")
    except Unavailable as why:
        print(f"No device can be asked: {why}. What the process said is in {run.log.name}.")
        return 2
    if device["platform"] != "cuda" and not arguments.anyway:
        print(
            f"There is no GPU here: jax sees {device['platform']} ({device['device']}). Install a jax for it "
            "(pip install 'jax[cuda13]'), and a driver; or pass --anyway to measure this device."
        )
        return 2
    run.end()
    table = made_table(0.002 if arguments.small else 1.0) if arguments.table is None else sp.load_npz(arguments.table)
    table = sp.csr_matrix(table, dtype=np.float32)
    table.sort_indices()
    for name in ("data", "indices", "indptr"):
        np.save(run.folder / f"{name}.npy", getattr(table, name))
    (run.folder / "shape.json").write_text(json.dumps(table.shape), encoding="utf-8")
    found |= {"machine": machine() | {"device": device}, "table": shape_of(table), "ranks": arguments.ranks}
    found |= {"main_rank": arguments.ranks[len(arguments.ranks) // 2], "left_out": {}, "dropped": []}
    del table
    counted = "{users:,} users x {items:,} items, {entries:,} entries".format(**found["table"])
    ready = arguments.seconds - run.left
    print(f"{device['device']}, {device['platform']}; {counted}; {ready:.0f} s so far", flush=True)
    stuck = {"native": device["kernel_missing"]} if device["kernel_missing"] else {}
    for row in plan(arguments):
        if arguments.only and not any(word in row.name for word in arguments.only):
            continue
        if row.expects > run.left:
            found["dropped"].append(row.name)
            continue
        started = time.perf_counter()
        run.longest = min(30 + 3 * row.expects, max(run.left + 10, 20))
        try:
            if row.by in stuck:
                raise Unavailable(stuck[row.by])
            found["rows"][row.name] = tidy(row.make(run) | {"took": time.perf_counter() - started})
            print(f"  {row.name:36} {time.perf_counter() - started:6.1f} s", flush=True)
        except Unavailable as why:
            found["left_out"][row.name] = str(why)
            print(f"  {row.name:36} left out: {why}", flush=True)
            if "not done after" in str(why) and row.by:  # it may hang, and would at the next row
                stuck[row.by] = f"{row.name} was {why}"
        found["seconds"] = arguments.seconds - run.left
        path.write_text(json.dumps(tidy(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return 1 if any(line.right is False for line in report.lines(found)) else 0


if __name__ == "__main__":
    sys.exit(main())

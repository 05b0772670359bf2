"""Seconds a sweep of jals and of other ALS libraries on one table, and how far jals is from what the machine can do.

All run in processes of their own (speed/worker.py), pinned to the same cores, one at a time and in turn, every other
round backwards. A sweep's seconds are (fit of 4 sweeps - fit of 1) / 3, or fit of 2 - fit of 1 where the repetitions of
those would cost more than `--budget`; everything is warm and jals logs no loss. The record holds all seconds; medians,
lowest to highest and paired ratios follow from them, and what the page says of these (speed/rules.py). Each library
minimises its own objective: the ratios are of sweeps, not of what a sweep achieves. In ranks, threads and xla it is of
one user in four, which leaves time for repetitions.

The floor is the larger of the sweep's Gram and solve operations (each triangle once) over the sgemm rate, and of its
bytes (indices, values and weights once a side, the factors read and written once a side) over the copy bandwidth, both
measured here before each section.

Command: python experiments/bench_speed.py [--table TABLE.npz] [--peers-python PATH] [--only SECTION ...]
    TABLE.npz: a scipy.sparse table; without it one is made, of MovieLens 20M's shape and skew (--scale 0.01: smaller).
    PATH: the Python of another environment, in which the other libraries are installed (irspack, cmfrec, implicit,
    lenskit). Those that are not are left out.
Sections: peers, ranks, entries, threads, parts, whole, xla. Each is written as soon as it is done and replaces its last
    figures, so that they can be run one by one; `--only picture` draws, and applies the rules to what is there, again.
Time: 70 minutes on two cores with a table of 21 million entries and a `--budget` for five pairs of most rows, as
    the record has: 115 s for peers (20 minutes), 50 for ranks (25), 30 for parts and whole, 40 for the others.
Writes: experiments/results/bench_speed.json and runs/bench_speed/bench_speed.png; with --out FOLDER both there.
"""

import argparse
import datetime
import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
from speed import measure, picture, rules, worker
from speed.measure import REFERENCE, SOLVERS, Bench, Unavailable, machine, tidy
from speed.table import floor, held_out_parts, made_table, shape_of

HERE = Path(__file__).parent
RANKS = (16, 64, 128, 256)
SHARES = (16, 8, 4, 1)  # of the users: one in so many
FEWER = 4  # likewise: of ranks, threads and xla, which so have time for enough repetitions
SINGLE = tuple(name for name, solver in SOLVERS.items() if solver.devices == 1)
SCALED = (REFERENCE, "irspack Cholesky")  # looked at with fewer entries, and with one thread
WHOLE = {  # jals minimises what cmfrec does there, so that their errors can be compared
    REFERENCE: ({"objective": "centred"}, measure.CENTRED),
    "irspack Cholesky": ({}, measure.IALS),
    "cmfrec CG": ({}, measure.CENTRED),
}
WHOLE_SWEEPS = 10
VARIANT_PAIRS, PAIRS = 7, 5
VARIANTS: dict[str, dict[str, Any]] = {  # of the reference: what they take beyond the plain sweep is their cost
    "plain": {},
    "bias": {"objective": "bias"},
    "unobserved weight": {"objective": "ials"},
    "loss every sweep": {"loss_every": 1},
}


# Sections: each returns what is kept of it


def ceilings(bench: Bench, ranks: tuple[int, ...], table: dict[str, int]) -> list[dict[str, float]]:
    """The machine's, and the floor of a table of that shape that follows, at each rank."""
    tiny = bench.found["table"]["entries"] < 1_000_000
    with bench.lent("machine") as machine:
        sgemm = machine.ask("sgemm", sizes=[256] if tiny else [1024, 2048, 4096])
        copy = machine.ask("copy", megabytes=8 if tiny else 512)["bytes"]
        gather = {rank: machine.ask("gather", rank=rank)["rows"] for rank in ranks}
    floors = []
    for rank in ranks:
        rates = {"sgemm": max(sgemm.values()), "copy": copy, "gather": gather[rank]}
        floors.append(floor(table, rank, rates) | {"rates": rates, "sgemm": sgemm})
        of = "operations {operations:.3f}, bytes {bytes:.3f}; gathers {gathers:.3f}".format(**floors[-1])
        at = f"{rates['sgemm'] / 1e9:.0f} GF/s, {copy / 1e9:.1f} GB/s, {gather[rank] / 1e6:.1f} M rows/s"
        print(f"  rank {rank:3}: floor {floors[-1]['floor']:.4f} s ({of}) at {at}")
    return floors


def measured(bench: Bench, cases: dict[str, measure.Case], repeats: int = 0, share: float = 1, **how: Any) -> dict:
    """`share`: of the budget, for each case."""
    arguments = bench.arguments
    repeats = min(repeats or arguments.repeats, arguments.most)
    return measure.rows(*measure.in_turn(cases, repeats, share * arguments.budget), **how)


def peers(bench: Bench) -> dict[str, Any]:
    """Every solver at the rank asked for."""
    (least,) = ceilings(bench, (bench.rank,), bench.found["table"])
    found = measured(bench, {name: bench.case(name) for name in bench.chosen(SINGLE)})
    return {"rank": bench.rank, "floor": least} | found


def ranks(bench: Bench) -> dict[str, Any]:
    """Every solver at every rank, going up, with fewer users; not those that the rank before says would take too long,
    but the reference always."""
    table = shape_of(worker.fewer_users(worker.mapped(bench.folder), FEWER))
    last: dict[str, tuple[int, float]] = {}
    found = []
    for least in ceilings(bench, tuple(bench.arguments.ranks), table):
        rank, cases, dear = int(least["rank"]), {}, {}
        for name in bench.chosen(SINGLE):
            known, seconds = last.get(name, (rank, 0.0))
            seconds *= (rank / known) ** (1.5 if SOLVERS[name].way == "exact" else 1)
            if seconds > bench.arguments.cap and name != REFERENCE:
                dear[name] = f"about {seconds:.0f} s a sweep, going by rank {known}"
            else:
                cases[name] = bench.case(name, rank, share=FEWER)
        print(f"rank {rank}, {table['entries']:,} entries")
        at_rank = measured(bench, cases, PAIRS)
        at_rank["left_out"] |= dear
        found.append({"rank": rank, "floor": least} | at_rank)
        last |= {row["solver"]: (rank, row["median"]) for row in at_rank["rows"]}
    return {"share": FEWER, "entries": table["entries"], "ranks": found}


def entries(bench: Bench) -> dict[str, Any]:
    """Fewer users of the same kind, down to a sixteenth, at the rank asked for."""
    found = []
    for share in bench.arguments.shares:
        table = shape_of(worker.fewer_users(worker.mapped(bench.folder), share))
        print(f"{table['entries']:,} entries")
        cases = {name: bench.case(name, share=share) for name in bench.chosen(SCALED)}
        found.append(table | measured(bench, cases))
        bench.clear()
    return {"rank": bench.rank, "shares": found}


def threads(bench: Bench) -> dict[str, Any]:
    """One thread against the number asked for, and whether the factors are the same to the bit; with fewer users."""
    counts = (1, bench.threads)
    chosen = bench.chosen(SCALED)
    labels = {(name, count): rules.threads_label(name, count) for name in chosen for count in counts}
    cases = {label: bench.case(name, threads=count, share=FEWER) for (name, count), label in labels.items()}
    repeats = min(PAIRS, bench.arguments.most)
    taken, left_out = measure.in_turn(cases, repeats, 3 * bench.arguments.budget)
    found = measure.rows(taken, left_out, labels.get((REFERENCE, bench.threads), ""))
    by_label, compared = {each.name: each for each in taken}, {}
    for name in chosen:
        pair = [by_label[labels[name, count]] for count in counts if labels[name, count] in by_label]
        if len(pair) == len(counts):
            same = all(len(pair[0].digests[sweeps] | pair[1].digests[sweeps]) == 1 for sweeps in measure.SHORT)
            compared[name] = {"same_bits": same}
            print(f"  {name:28} the same bits with any number of threads: {same}")
    return {"rank": bench.rank, "share": FEWER, "counts": counts, "compared": compared} | found


def parts(bench: Bench) -> dict[str, Any]:
    """What terms of the objective and the loss add to a sweep; compiling; what a job does besides sweeps."""
    cases = {name: bench.case(REFERENCE, **more) for name, more in VARIANTS.items()}
    variants = measured(bench, cases, VARIANT_PAIRS, 3, reference="plain")
    found: dict[str, Any] = {"rank": bench.rank, "variants": variants}
    bench.clear()
    found["compile_seconds"] = {}
    for name, rank in itertools.product((REFERENCE, "jals XLA"), bench.arguments.ranks):
        with bench.lent("jals") as alone:
            try:
                told = alone.ask("fit", rank=rank, sweeps=0, options=SOLVERS[name].options)
            except Unavailable as why:
                print(f"  {name}: {why}")
                continue
        found["compile_seconds"].setdefault(name, {})[str(rank)] = told["compile_seconds"]
        print(f"  {name:28} rank {rank:3}: {told['compile_seconds']:.2f} s to compile")
    with bench.lent("machine") as alone:
        found["steps"] = alone.ask("steps", rank=bench.rank, **held_out_parts(bench.folder, bench.arguments.test))
    for name, seconds in found["steps"]["seconds"].items():
        print(f"  {name:28} {seconds:.3f} s")
    return found


def whole(bench: Bench) -> dict[str, Any]:
    """From files to the RMSE in a fresh process: wall time, interpreter included, and the most memory it held, of which
    what importing the library takes is told apart."""
    paths, runs, left_out = held_out_parts(bench.folder, bench.arguments.test), {}, {}
    for _, name in itertools.product(range(min(2, bench.arguments.most)), bench.chosen(tuple(WHOLE))):
        if name in left_out:
            continue
        solver = SOLVERS[name]
        request = paths | {"rank": bench.rank, "sweeps": WHOLE_SWEEPS, "options": solver.options | WHOLE[name][0]}
        command = [bench.python(solver.library), str(measure.WORKER), "whole", solver.library, str(bench.threads)]
        started = time.perf_counter()
        try:
            env = measure.environment(solver.library, bench.threads, solver.devices)
            done = measure.once([*command, json.dumps(request)], env, bench.arguments.longest)
        except Unavailable as why:
            left_out[name] = str(why)
            print(f"  {name:28} left out: {why}")
            continue
        runs.setdefault(name, []).append(done | {"wall": time.perf_counter() - started})
        print("  {:28} {wall:7.1f} s {:7.2f} GB   RMSE {rmse:.4f}".format(name, done["memory"] / 1e9, **runs[name][-1]))
    rows = [
        {"solver": name, "objective": WHOLE[name][1], "rmse": each[0]["rmse"]}
        | {key: [run[key] for run in each] for key in ("wall", "memory", "imported")}
        for name, each in runs.items()
    ]
    return {"rank": bench.rank, "sweeps": WHOLE_SWEEPS, "rows": rows, "left_out": left_out}


def xla(bench: Bench) -> dict[str, Any]:
    """The path of GPUs and TPUs on a CPU: against implicit's exact sweep, and its rows dealt over two host devices;
    with fewer users."""
    names = bench.chosen(("jals XLA", "jals XLA, two devices", "implicit Cholesky"))
    cases = {name: bench.case(name, share=FEWER) for name in names}
    return {"rank": bench.rank, "share": FEWER} | measured(bench, cases, PAIRS, 3, reference="jals XLA")


SECTIONS: dict[str, Callable[[Bench], dict[str, Any]]] = {
    "peers": peers,
    "ranks": ranks,
    "entries": entries,
    "threads": threads,
    "parts": parts,
    "whole": whole,
    "xla": xla,
}


# A run


def parsed(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Seconds a sweep of jals and of other ALS libraries on one table.")
    parser.add_argument("--table", type=Path, help="a scipy.sparse npz; default: made, of MovieLens 20M's shape")
    parser.add_argument("--test", type=Path, help="test entries, likewise; default: a tenth of the table, 2 M at most")
    parser.add_argument("--scale", type=float, default=1.0, help="of the made table")
    parser.add_argument("--peers-python", default=sys.executable, help="the Python that has the other libraries")
    parser.add_argument("--only", nargs="+", choices=[*SECTIONS, "picture"], default=list(SECTIONS), metavar="SECTION")
    parser.add_argument("--solvers", nargs="+", choices=SOLVERS, default=list(SOLVERS), metavar="SOLVER")
    parser.add_argument("--rank", type=int, default=64, help="of all sections but ranks")
    parser.add_argument("--ranks", type=int, nargs="+", default=RANKS)
    parser.add_argument("--shares", type=int, nargs="+", default=SHARES, help="of the users: one in so many (entries)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5, help="at most, where a section does not ask for others")
    parser.add_argument("--most", type=int, default=100, help="of repetitions in any section, for a quick try")
    parser.add_argument("--budget", type=float, default=20.0, help="seconds for a solver's repetitions, about")
    parser.add_argument("--cap", type=float, default=6.0, help="seconds a sweep above which ranks leaves a solver out")
    parser.add_argument("--longest", type=float, default=200.0, help="seconds after which a whole job is stopped")
    parser.add_argument("--out", type=Path, help="a folder for figures and picture")
    arguments = parser.parse_args(argv)
    for path in filter(None, (arguments.table, arguments.test)):
        if not path.is_file():
            parser.error(f"there is no file {path}")
    if shutil.which(arguments.peers_python) is None:
        parser.error(f"--peers-python: there is no program {arguments.peers_python}")
    return arguments


def main(argv: list[str] | None = None) -> int:
    arguments = parsed(argv)
    path = (arguments.out or HERE / "results") / "bench_speed.json"
    image = (arguments.out or Path("runs/bench_speed")) / "bench_speed.png"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    for each in (path, image):
        each.parent.mkdir(parents=True, exist_ok=True)
    wanted = [section for section in SECTIONS if section in arguments.only]
    if wanted:
        with tempfile.TemporaryDirectory() as folder:
            stopped = run(wanted, arguments, found, path, Path(folder))
        if stopped:
            return stopped
    if found.get("sections"):
        keep(found, path)
        picture.draw(found, image)
        print(f"drawn: {image}")
    return 0


def keep(found: dict[str, Any], path: Path) -> None:
    """Writes the record, with all that follows from its seconds."""
    found["solvers"] = {name: {"objective": each.objective, "way": each.way} for name, each in SOLVERS.items()}
    rules.derive(found, REFERENCE)
    path.write_text(json.dumps(tidy(found), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def run(wanted: list[str], arguments: argparse.Namespace, found: dict, path: Path, folder: Path) -> int:
    """Makes sections one after the other, each kept in `found` and at `path` at once; the exit code."""
    table = made_table(arguments.scale) if arguments.table is None else sp.load_npz(arguments.table)
    table = sp.csr_matrix(table, dtype=np.float32)
    table.sort_indices()
    for name in ("data", "indices", "indptr"):
        np.save(folder / f"{name}.npy", getattr(table, name))
    (folder / "shape.json").write_text(json.dumps(table.shape), encoding="utf-8")
    about = {"table": shape_of(table), "machine": machine(), "threads": arguments.threads, "rank": arguments.rank}
    if any(found.get(key) != value for key, value in about.items()):
        if found.get("sections"):
            print(f"{path} holds figures of another table, machine, rank or number of threads: they go")
        found.update(about, versions={}, sections={})
    del table
    bench = Bench(arguments, found, folder)
    try:
        for section in wanted:
            started = time.perf_counter()
            print(f"{section}: {'{users:,} users x {items:,} items, {entries:,} entries'.format(**found['table'])}")
            made = SECTIONS[section](bench)
            bench.clear()
            made |= {"minutes": (time.perf_counter() - started) / 60, "date": datetime.date.today().isoformat()}
            found["sections"][section] = made
            keep(found, path)
    except KeyboardInterrupt:
        print("stopped: the sections before this one are kept")
        return 130
    finally:
        bench.clear()
    return 0


if __name__ == "__main__":
    sys.exit(main())

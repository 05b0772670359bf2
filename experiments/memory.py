"""What a table of ratings takes in memory, from the file to a fit: the peak of a process after each step.

    python experiments/memory.py                        ten million entries: half a minute on two cores
    python experiments/memory.py --entries 50000000     2 GB for the fit, and as much on the disk for a moment

The table is made in another process, written to an npz file, and read from there. Values are half stars, and rows have
150 (users) and 750 (items) entries on average, with a long tail.
"""

import argparse
import datetime
import os
import platform
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np


def write_table(path: Path, entries: int) -> None:
    """Entries of distinct pairs: each user's are spaced evenly over the items, from a random one on."""
    rng = np.random.default_rng(0)
    users, items = max(entries // 150, 1), max(entries // 750, 100)
    degree = rng.lognormal(sigma=1.2, size=users)
    degree = np.clip((degree * entries / degree.sum()).astype(np.int64), 1, items // 2)
    first = rng.integers(items, size=users)
    place = np.arange(degree.sum()) - np.repeat(degree.cumsum() - degree, degree)
    user = np.repeat(np.arange(users, dtype=np.int32), degree)
    item = ((first[user] + place * (items // degree[user])) % items).astype(np.int32)
    value = rng.integers(1, 11, len(user)).astype(np.float32) / 2
    np.savez(path, user=user, item=item, rating=value)


def measure(path: Path, rank: int, sweeps: int) -> None:
    """Prints a line a step: its name, and the peak so far in bytes."""
    import jax

    import jals

    def told(step: str) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        print(f"{step}\t{peak}", flush=True)

    jax.block_until_ready(jax.numpy.zeros(1))
    told("jax and jals, before any data")
    ratings, _ = jals.read_ratings(path)
    told("the file is read")
    problem = jals.Problem.build(ratings)
    told("the problem is built")
    jals.fit(jals.ALS(rank=rank), problem, jals.als_wr(0.1), sweeps=sweeps)
    told(f"fitted, rank {rank}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=10_000_000)
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--sweeps", type=int, default=2)
    parser.add_argument("--step", choices=("write", "measure"), help=argparse.SUPPRESS)
    parser.add_argument("--path", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.step == "write":
        return write_table(asked.path, asked.entries)
    if asked.step == "measure":
        return measure(asked.path, asked.rank, asked.sweeps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.npz"
        again = [sys.executable, __file__, *sys.argv[1:], "--path", str(path), "--step"]
        subprocess.run([*again, "write"], check=True)
        lines = subprocess.run([*again, "measure"], check=True, capture_output=True, text=True).stdout.splitlines()
        entries = len(np.load(path)["user"])
    machine = f"{os.cpu_count()} cores of {platform.machine()}, {platform.system()}, {datetime.date.today()}"
    print(f"{entries:,} entries, float32; {machine}")
    print("| up to here | peak, MB | of it beyond the start, bytes an entry |\n|---|---|---|")
    peaks = [(step, int(peak)) for step, peak in (line.split("\t") for line in lines)]
    for step, peak in peaks:
        print(f"| {step} | {peak / 1e6:,.0f} | {(peak - peaks[0][1]) / entries:.1f} |")
    return None


if __name__ == "__main__":
    main()

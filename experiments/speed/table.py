"""A table like MovieLens, what matters of a table's shape, and the least that a sweep of it can take."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from . import worker


def made_table(scale: float, seed: int = 0) -> sp.csr_matrix:
    """A table of MovieLens 20M's shape and skew, or one with `scale` times the users and draws and sqrt(scale) times
    the items: log-normal degrees of users from 20 up, Zipf-like popularity of items, half stars of a rank-8 model."""
    rng = np.random.default_rng(seed)
    users, items, draws = (max(round(n), 2) for n in (138_493 * scale, 26_744 * math.sqrt(scale), 25_000_000 * scale))
    spread = rng.lognormal(sigma=1.1, size=users)
    degree = np.minimum(20 + spread / spread.sum() * max(draws - 20 * users, 0), 0.35 * items).astype(np.int64)
    popularity = (np.arange(items) + 30 * math.sqrt(scale)) ** -1.1
    user = np.repeat(np.arange(users), degree)
    place = np.searchsorted(np.cumsum(popularity / popularity.sum()), rng.random(user.size)).clip(max=items - 1)
    pair = np.unique(user * items + rng.permutation(items)[place])
    user, item = np.divmod(pair, items)
    x, y = (rng.normal(scale=0.6, size=(count, 8)).astype(np.float32) for count in (users, items))
    score = 3.5 + rng.normal(scale=0.4, size=users)[user] + rng.normal(scale=0.4, size=items)[item]
    for column in range(8):
        score += x[user, column] * y[item, column]
    value = np.clip(np.round(2 * (score + rng.normal(scale=0.7, size=pair.size))) / 2, 0.5, 5)
    return sp.csr_matrix((value.astype(np.float32), (user, item)), shape=(users, items))


def held_out_parts(folder: Path, test: Path | None = None) -> dict[str, str]:
    """The table in a folder as two files there, training and test entries; those of a file, or drawn."""
    table = worker.mapped(folder)
    if test is not None:
        parts = {"train": table, "test": sp.load_npz(test)}
    else:
        chosen, coo = np.random.default_rng(1).random(table.nnz) < min(0.1, 2_000_000 / table.nnz), table.tocoo()
        parts = {
            name: sp.csr_matrix((coo.data[part], (coo.row[part], coo.col[part])), shape=table.shape)
            for name, part in (("train", ~chosen), ("test", chosen))
        }
    paths = {name: str(folder / f"{name}.npz") for name in parts}
    for name, part in parts.items():
        sp.save_npz(paths[name], part, compressed=False)
    return paths


def shape_of(table: Any) -> dict[str, int]:
    """What the floor needs to know of a table."""
    counts = {"users": np.diff(table.indptr), "items": np.bincount(table.indices, minlength=table.shape[1])}
    told = {"users": table.shape[0], "items": table.shape[1], "entries": table.nnz}
    told |= {f"{side}_with_entries": int((count > 0).sum()) for side, count in counts.items()}
    return told | {f"most_entries_of_{side}": int(count.max()) for side, count in counts.items()}


def gram_operations(table: dict[str, int], rank: int) -> int:
    """Of both sides' Grams in a sweep: a product and a sum for each entry and element of the triangle."""
    return 2 * table["entries"] * rank * (rank + 1)


def floor(table: dict[str, int], rank: int, ceilings: dict[str, float]) -> dict[str, float]:
    """The least seconds of a sweep, `floor`, and what they come from; the gathers' own seconds beside them.

    Args:
        table: from `shape_of`.
        ceilings: `sgemm` in operations, `copy` in bytes, `gather` in rows, each a second.
    """
    solved = table["users_with_entries"] + table["items_with_entries"]
    operations = gram_operations(table, rank) + solved * (rank**3 / 3 + 2 * rank**2)
    moved = 2 * table["entries"] * (4 + 4 + 4) + 2 * (table["users"] + table["items"]) * rank * 4
    seconds = {"operations": operations / ceilings["sgemm"], "bytes": moved / ceilings["copy"]}
    gathers = 2 * table["entries"] / ceilings["gather"]
    return {"rank": rank, "floor": max(seconds.values()), **seconds, "gathers": gathers}


def card_floor(table: dict[str, int], rank: int, tf32: float, gather: float) -> dict[str, float]:
    """The least seconds of a sweep on a GPU, `floor`: the larger of its Grams' at a third of the rate of TF32 (which
    takes three products for one of float32's accuracy), and of its gathers', at so many rows a second."""
    seconds = {"gram": gram_operations(table, rank) / (tf32 / 3), "gathers": 2 * table["entries"] / gather}
    return {"rank": rank, "floor": max(seconds.values()), **seconds}

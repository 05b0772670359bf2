"""What the tests of partitioned tables share."""

from pathlib import Path
from typing import Any

import numpy as np

import jals


def ratings(entries: int = 3000, seed: int = 0, weighted: bool = True, users: int = 90, items: int = 70) -> Any:
    """A table in no order, with rows without entries at its ends."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users * items)[:entries]
    value = rng.integers(1, 11, entries) / 2
    weight = rng.choice([0.0, 0.5, 1.0], entries) if weighted else None
    return jals.Ratings.from_arrays(pairs // items + 1, pairs % items, value, users + 3, items + 1, weight=weight)


def same(problem: jals.Problem, expected: jals.Ratings) -> None:
    """The problem is the one of these ratings, entry by entry, and so to the bit whatever is made of it."""
    built = jals.Problem.build(expected)
    assert (problem.num_users, problem.num_items) == (built.num_users, built.num_items)
    for name in ("user", "item", "value", "weight"):
        have, want = np.asarray(getattr(problem, name)), np.asarray(getattr(built, name))
        assert have.dtype == want.dtype and np.array_equal(have, want), name


def hashes(manifest: jals.Manifest) -> dict[str, str | None]:
    return {file.path: file.sha256 for side in (manifest.user, manifest.item) for file in side.files or ()}


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]

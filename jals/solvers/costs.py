"""What the sweeps of a solver cost apart from seconds: operations of the textbook algorithm, in terms to add up.

Operations are floating point additions and multiplications for n entries and k unknowns a row (the rank, and with a
bias one more), rows on both sides together; what a compiler adds or saves is not in them. Each solver says which of
these terms its sweeps are made of (`operations`), and how many numbers a fit of it holds (`numbers`). And what tables
and fits take of the device's memory, as far as it is known before anything is built.
"""

from typing import Any, NamedTuple

import numpy as np

from ..model.objectives import Objective


class Size(NamedTuple):
    """Of the table that a fit learns from."""

    users: int
    items: int
    entries: int

    @property
    def rows(self) -> int:
        return self.users + self.items


class Terms(NamedTuple):
    """Of a table of some size, for an objective and a solver's rank.

    Attributes:
        unknowns: k.
    """

    size: Size
    unknowns: int
    over_all_pairs: bool

    @property
    def one_pass(self) -> float:
        """4 k n: each entry's score, and its part in a row's sum."""
        return 4 * self.unknowns * self.size.entries

    @property
    def all_pairs(self) -> float:
        """What a sweep adds for a sum over all pairs: 2 k^2 a row for the Gram of a side, and as much for its product
        with the rows; 0 without one."""
        return 4 * self.unknowns**2 * self.size.rows if self.over_all_pairs else 0

    def exact_sweep(self, linsolve: str) -> float:
        """n (k^2 + 3 k) a half-sweep for Grams and right-hand sides; a row k^3 / 3 + 2 k^2 (LU: 2/3 k^3 + 2 k^2)."""
        k = self.unknowns
        solving = (1 if linsolve == "lu" else 0.5) * (2 / 3) * k**3 + 2 * k**2
        return 2 * self.size.entries * (k**2 + 3 * k) + self.size.rows * solving + self.all_pairs

    def subspace_sweep(self, block: int) -> float:
        """n (k b + 7 k) a half-sweep: Grams and right-hand sides of blocks of b columns, and scores twice; a row
        k b^2 / 3 + 2 k b for its blocks."""
        k, b = self.unknowns, min(block, self.unknowns)
        return 2 * self.size.entries * (k * b + 7 * k) + self.size.rows * (k * b**2 / 3 + 2 * k * b) + self.all_pairs


def terms(rank: int, objective: Objective, size: Size) -> Terms:
    return Terms(size, rank + objective.bias, objective.unobserved_weight is not None)


def held_bytes(traits: Any, size: Size, dtype: Any) -> float:
    """Estimated memory of a fit: its state and what a sweep works with, beside what one side's rows are solved in. Of a
    solver's `protocol.traits`; NaN where it does not say."""
    return np.dtype(dtype).itemsize * traits.numbers(size)

"""A linear model from items to items, in closed form."""

import dataclasses
from typing import Any

import numpy as np

from ..devices import memory_bytes
from ..errors import ArgumentError
from ..reals import one_real
from .table import Rows, checked_users, gram_columns, rows_of

PEAK = 3 * 8  # bytes a pair of items: the Gram matrix, LAPACK's copy of it and the inverse, in float64


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ItemWeights:
    """Made by `ease`.

    Attributes:
        weight: B `(num_items, num_items)`, 0 on the diagonal, in the dtype of the values.
        rows: the table by users.
    """

    weight: np.ndarray
    rows: Rows

    def __repr__(self) -> str:
        return f"ItemWeights({len(self.weight):,} items, {self.weight.nbytes / 2**20:,.1f} MiB)"

    def scores(self, users: Any) -> np.ndarray:
        """`[len(users), num_items]`, these rows of X B.

        Raises:
            ArgumentError: for users that are no whole numbers, or out of range.
        """
        return self.rows.dense(checked_users(users, self.rows.num_users)) @ self.weight


def ease(ratings: Any, reg: float) -> ItemWeights:
    """EASE: each item from all others by ridge regression. With X the table, 0 where an entry is missing, B minimises

        |X - X B|_F^2 + reg |B|_F^2      among all B with diag(B) = 0,
        B = I - P diag(1 / diag(P)),     P = (X'X + reg I)^-1,

    computed in float64; score(u, i) = (X B)_ui.

    Args:
        ratings: `jals.Ratings`; entries of weight 0 are missing, other weights than 1 are refused.
        reg: > 0; hundreds are usual.

    Takes items^3 operations, one product for each pair of entries of a user, and 24 bytes a pair of items at its peak.

    Raises:
        ArgumentError: for a reg that is not > 0, and where the matrices do not fit into the machine's memory.
        DataError: for weights other than 0 and 1.

    Source: Steck, "Embarrassingly shallow autoencoders for sparse data" (2019), equations (4) and (8).
    """
    if not 0 < (reg := one_real("reg", reg)) < np.inf:
        raise ArgumentError(f"reg is {reg}, but must be a finite number > 0.")
    rows = rows_of("ease", ratings)
    need, have = PEAK * rows.num_items**2, memory_bytes()
    if need > have:
        raise ArgumentError(
            f"ease makes matrices of {rows.num_items:,} x {rows.num_items:,} items, {need:,} bytes "
            f"({need / 2**30:,.0f} GiB) at its peak, and this machine has {have / 2**30:,.0f} GiB: leave rare "
            "items out, or use item_knn, which keeps some neighbours of each."
        )
    gram = np.empty((rows.num_items, rows.num_items))
    for item, column in gram_columns(rows):
        gram[item] = column  # which is a row too
    gram[np.diag_indices_from(gram)] += reg
    weight = np.linalg.inv(gram)
    weight /= -np.diag(weight)
    np.fill_diagonal(weight, 0)
    return ItemWeights(weight.astype(rows.value.dtype, copy=False), rows)

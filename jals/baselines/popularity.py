"""The same ranking for everyone."""

import dataclasses
from typing import Any

import numpy as np

from .table import checked, checked_users


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Popularity:
    """Made by `most_popular`.

    Attributes:
        count: `(num_items,)`, in the dtype of the values.
        num_users: of the table.
    """

    count: np.ndarray
    num_users: int

    def __repr__(self) -> str:
        return f"Popularity({len(self.count):,} items, counts to {self.count.max():,g})"

    def scores(self, users: Any) -> np.ndarray:
        """`[len(users), num_items]`, the counts in every row (read-only).

        Raises:
            ArgumentError: for users that are no whole numbers, or out of range.
        """
        return np.broadcast_to(self.count, (len(checked_users(users, self.num_users)), len(self.count)))


def most_popular(ratings: Any) -> Popularity:
    """Items by how often they occur: score(u, i) = sum of v over the entries of i, the number of entries where the
    table has no weights. Values are not used.

    Args:
        ratings: `jals.Ratings`.

    Raises:
        ArgumentError: for what is no `Ratings`.

    Source: Cremonesi, Koren, Turrin, "Performance of recommender algorithms on top-N recommendation tasks" (2010),
    section 3.1 ("Top Popular").
    """
    ratings = checked("most_popular", ratings)
    count = np.bincount(ratings.item, ratings.weight, minlength=ratings.num_items)
    return Popularity(count.astype(ratings.value.dtype), ratings.num_users)

"""Items like those that a user has seen."""

import dataclasses
from typing import Any

import numpy as np

from ..errors import ArgumentError, check_choice
from ..reals import one_real
from .table import Rows, checked_users, gram_columns, rows_of

MEASURES = ("cosine", "jaccard")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Neighbours:
    """Made by `item_knn`.

    Attributes:
        item: int32 `(num_items, neighbours)`, N(i).
        similarity: `(num_items, neighbours)`, s_ij for each of them, in the dtype of the values.
        rows: the table by users.
        measure: of `similarity`.
    """

    item: np.ndarray
    similarity: np.ndarray
    rows: Rows
    measure: str

    def __repr__(self) -> str:
        return f"Neighbours({len(self.item):,} items, {self.item.shape[1]:,} neighbours each, {self.measure})"

    def scores(self, users: Any) -> np.ndarray:
        """`[len(users), num_items]`: sum over j in N(i) of x_uj s_ij.

        Raises:
            ArgumentError: for users that are no whole numbers, or out of range.
        """
        dense = self.rows.dense(checked_users(users, self.rows.num_users))
        made = np.zeros_like(dense)
        for item, similarity in zip(self.item.T, self.similarity.T, strict=True):
            made += dense[:, item] * similarity
        return made


def item_knn(ratings: Any, neighbours: int = 100, shrink: float = 0.0, measure: str = "cosine") -> Neighbours:
    """Item neighbours: with X the table, x_i its column of item i (0 where an entry is missing),

        score(u, i) = sum over j in N(i) of x_uj s_ij,      N(i): the items j != i of largest s_ij
        cosine      s_ij = x_i . x_j / (|x_i| |x_j| + shrink)
        jaccard     s_ij = |i and j| / (|i or j| + shrink), in numbers of users: values are not used in s, but in x_uj

    with s_ij = 0 where the denominator is 0. Equal similarities: the lower number is nearer. Not divided by the sum of
    the similarities, which is better for ranking.

    Args:
        ratings: `jals.Ratings`; entries of weight 0 are missing, other weights than 1 are refused.
        neighbours: how many of each item, >= 1; at most all others.
        shrink: >= 0; the larger, the less two items with few users count as alike.
        measure: "cosine" or "jaccard".

    Takes one product for each pair of entries of a user, and memory for items x neighbours.

    Raises:
        ArgumentError: for an argument that cannot be.
        DataError: for weights other than 0 and 1.

    Source: Sarwar, Karypis, Konstan, Riedl, "Item-based collaborative filtering recommendation algorithms" (2001);
    the form, with `shrink` in the denominator, of Ferrari Dacrema, Boglio, Cremonesi, Jannach, "A troubling analysis of
    reproducibility and progress in recommender systems research" (2021), section 3.2.
    """
    check_choice("measure", measure, MEASURES)
    if isinstance(neighbours, bool) or not isinstance(neighbours, (int, np.integer)) or neighbours < 1:
        raise ArgumentError(f"neighbours is {neighbours!r}, but must be a whole number >= 1.")
    if not 0 <= (shrink := one_real("shrink", shrink)) < np.inf:
        raise ArgumentError(f"shrink is {shrink}, but must be a finite number >= 0.")
    rows = rows_of("item_knn", ratings)
    if rows.num_items == 1:
        raise ArgumentError("the table has one item, which has no neighbours.")
    binary = dataclasses.replace(rows, value=np.ones_like(rows.value))
    measured = rows if measure == "cosine" else binary
    square = np.bincount(rows.item, measured.value.astype(np.float64) ** 2, minlength=rows.num_items)
    keep = min(int(neighbours), rows.num_items - 1)
    item = np.empty((rows.num_items, keep), np.int32)
    similarity = np.empty((rows.num_items, keep), rows.value.dtype)
    for i, together in gram_columns(measured):
        size = np.sqrt(square[i] * square) if measure == "cosine" else square[i] + square - together
        like = np.divide(together, size + shrink, out=np.zeros_like(together), where=size + shrink > 0)
        like[i] = -np.inf
        enough = np.flatnonzero(like >= np.partition(like, -keep)[-keep])  # in the order of the items
        item[i] = enough[np.argsort(-like[enough], kind="stable")[:keep]]
        similarity[i] = like[item[i]]
    return Neighbours(item, similarity, rows, measure)

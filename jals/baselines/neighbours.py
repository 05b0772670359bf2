"""Items like those that a user has seen."""

import dataclasses
import functools
from typing import Any

import numpy as np

from ..errors import ArgumentError, check_choice
from ..reals import one_real
from .table import Rows, checked_users, gram_columns, rows_of

_TERMS = 2**22  # of sums that are made at a time
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
        users = checked_users(users, self.rows.num_users)
        start, item, similarity = self._who
        which, place = self.rows.entries(users)
        lists = start[self.rows.item[place] + 1] - start[self.rows.item[place]]
        made = np.zeros((len(users), self.rows.num_items), self.rows.value.dtype)
        ends = np.searchsorted(which, np.arange(len(users) + 1))
        upto = np.concatenate([[0], np.cumsum(lists)])
        begin = 0
        while begin < len(users):  # as many users at a time as stay within so many terms, or one
            end = max(begin + 1, int(np.searchsorted(upto[ends], upto[ends[begin]] + _TERMS, "right")) - 1)
            own = np.s_[ends[begin] : ends[end]]
            entry = np.repeat(np.arange(own.stop - own.start), lists[own])
            within = np.arange(len(entry)) - np.repeat(upto[own] - upto[own.start], lists[own])
            at = start[self.rows.item[place[own]]][entry] + within
            cell = (which[own][entry] - begin) * self.rows.num_items + item[at]
            terms = self.rows.value[place[own]][entry] * similarity[at]
            sums = np.bincount(cell, terms, (end - begin) * self.rows.num_items)
            made[begin:end] = sums.reshape(end - begin, -1)
            begin = end
        return made

    @functools.cached_property
    def _who(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Whose neighbour each item is: j is in N(i) for the i of `item[start[j]:start[j + 1]]`, with the similarity
        there. So a user's few entries are gone through, and not the neighbours of all items."""
        neighbour = self.item.ravel()
        order = np.argsort(neighbour, kind="stable")
        start = np.searchsorted(neighbour[order], np.arange(len(self.item) + 1))
        return start, order // self.item.shape[1], self.similarity.ravel()[order]


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

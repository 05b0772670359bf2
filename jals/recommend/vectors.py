"""Vectors for search engines that know nothing of biases: nearest neighbours, or largest inner products."""

from typing import NamedTuple

import numpy as np

from ..errors import check_choice
from ..model.factors import Factors, consistent
from ..solvers.protocol import check_side

SPACES = ("dot", "l2")


class IndexVectors(NamedTuple):
    """What to put into an index, and what to ask it with: NumPy arrays in the factors' dtype.

    Attributes:
        index: `(catalogue, dim)`, a vector for each row that can be found.
        query: `(rows, dim)`, a vector for each row that asks.
    """

    index: np.ndarray
    query: np.ndarray


def index_vectors(factors: Factors, space: str = "dot", side: str = "user") -> IndexVectors:
    """The factors as vectors among which an index finds what `top_k` does, in the same order (up to rounding).

    With "dot" the index vector of item i is (y_i, b_i) and the query of user u is (x_u, 1), so that their inner product
    is the score less what is the same for all items of a user, mean + b_u; without biases they are y_i and x_u.

    With "l2", for indexes of Euclidean distance, item i is (v_i, sqrt(M^2 - |v_i|^2)) and the query (q_u, 0), where v_i
    and q_u are the vectors above and M the largest |v_i|: then |index - query|^2 = M^2 + |q_u|^2 - 2 q_u . v_i, least
    where the score is largest. Source: Bachrach et al., "Speeding up the Xbox recommender system using a Euclidean
    transformation for inner-product spaces" (RecSys 2014), theorem 1. (All index vectors have length M, so cosine
    distance gives that order, too.)

    Args:
        factors: as fitted.
        space: "dot" or "l2".
        side: who asks, "user" or "item".

    Raises:
        ArgumentError: for factors that do not fit together, or another space.
    """
    check_choice("space", space, SPACES)
    check_side(side)
    factors = consistent(factors)
    opposite = "item" if side == "user" else "user"
    query, index = np.asarray(getattr(factors, side)), np.asarray(getattr(factors, opposite))
    bias = getattr(factors, f"{opposite}_bias")
    if bias is not None:
        index = np.column_stack([index, np.asarray(bias)])
        query = np.column_stack([query, np.ones(len(query), query.dtype)])
    if space == "l2":
        square = np.sum(index.astype(np.float64) ** 2, axis=1)
        rest = np.sqrt(np.maximum(square.max() - square, 0)).astype(index.dtype)
        index = np.column_stack([index, rest])
        query = np.column_stack([query, np.zeros(len(query), query.dtype)])
    return IndexVectors(index, query)

"""The formulas of the ranking metrics, on places that are uniform on above + 1 ... above + equal: expected values over
all orders of equal scores, exactly, in float64 on the host."""

import functools
from collections.abc import Callable

import numpy as np

from .places import MISSED


class Lists:
    """Ranked lists, each with relevant entries at places.

    Args:
        of: int `(entries,)`, increasing from 0 without gaps: the list of each entry.
        above, equal: `(entries,)`, see `places.Places`.
        candidates: `(lists,)`, how many items could be shown, or None where only "auc" would need it.
        weight: `(entries,)`, of each entry in "recall_popularity"; None for 1.
    """

    def __init__(self, of: np.ndarray, above: np.ndarray, equal: np.ndarray, candidates=None, weight=None):
        self.of, self.candidates, self.weight = of, candidates, weight
        self.above, self.equal = above.astype(np.int64), equal.astype(np.int64)
        self.found = above != MISSED
        self.size = np.bincount(of)  # relevant entries of each list

    def total(self, numbers: np.ndarray) -> np.ndarray:
        """Sums over each list's entries, `(lists,)`."""
        return np.bincount(self.of, numbers, len(self.size))

    def within(self, k: int) -> np.ndarray:
        """How many of the equally likely places of each entry are among the first k, `(entries,)`."""
        return np.clip(k - self.above, 0, self.equal)

    def hits(self, k: int, weight: np.ndarray | None = None) -> np.ndarray:
        """The expected number of relevant entries among the first k, or sum of their weights, `(lists,)`."""
        chance = self.within(k) / self.equal
        return self.total(chance if weight is None else chance * weight)

    def gain(self, k: int, gain: np.ndarray) -> np.ndarray:
        """The expected gain of each entry `(entries,)`, of `gain` `(k,)` by place, 0 after k."""
        sums = np.concatenate([[0.0], np.cumsum(gain)])
        first = np.minimum(self.above, k)
        return (sums[first + self.within(k)] - sums[first]) / self.equal

    @functools.cached_property
    def ties(self) -> tuple[np.ndarray, np.ndarray]:
        """(relevant entries of the list with a higher score, those with an equal one, itself included), `(entries,)`.
        They mean nothing for entries that are missed."""
        order = np.lexsort((self.above, self.of))
        of, above = self.of[order], self.above[order]
        new = np.concatenate([[True], (of[1:] != of[:-1]) | (above[1:] != above[:-1])])
        begin, group = np.flatnonzero(new), np.cumsum(new) - 1
        length = np.diff(np.append(begin, len(of)))
        first = np.cumsum(self.size) - self.size  # where each list begins
        higher, same = np.empty_like(order), np.empty_like(order)
        higher[order], same[order] = (begin - first[of[begin]])[group], length[group]
        return higher, same

    @functools.cached_property
    def best(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(above, equal, relevant among the equal ones) of the highest score of a relevant entry, `(lists,)`."""
        order = np.lexsort((self.above, self.of))
        entry = order[np.cumsum(self.size) - self.size]
        return self.above[entry], self.equal[entry], self.ties[1][entry]


def recall(lists: Lists, k: int) -> np.ndarray:
    return lists.hits(k) / lists.size


def recall_capped(lists: Lists, k: int) -> np.ndarray:
    return lists.hits(k) / np.minimum(k, lists.size)


def precision(lists: Lists, k: int) -> np.ndarray:
    return lists.hits(k) / k


def recall_popularity(lists: Lists, k: int) -> np.ndarray:
    return lists.hits(k, lists.weight) / lists.total(np.ones(len(lists.of)) if lists.weight is None else lists.weight)


def ndcg(lists: Lists, k: int) -> np.ndarray:
    gain = 1 / np.log2(np.arange(2, k + 2))
    return lists.total(lists.gain(k, gain)) / np.cumsum(gain)[np.minimum(k, lists.size) - 1]


def average_precision(lists: Lists, k: int) -> np.ndarray:
    """An entry at the j-th of its e equal places, r of them relevant, has expectedly (j - 1) (r - 1) / (e - 1) of these
    before it: so its precision there, (G + 1 + that) / (g + j), has a sum over j in closed form."""
    higher, same = lists.ties
    within = lists.within(k)
    inverse = lists.gain(k, 1 / np.arange(1, k + 1)) * lists.equal  # the sum of 1 / (g + j) within k
    share = (same - 1) / np.maximum(lists.equal - 1, 1)
    after = within - (np.minimum(lists.above, k) + 1) * inverse  # the sum of (j - 1) / (g + j)
    summed = (higher + 1) * inverse + np.where(within > 0, share * after, 0)
    return lists.total(summed / lists.equal) / np.minimum(k, lists.size)


def hit_rate(lists: Lists, k: int) -> np.ndarray:
    return _first(lists, k, np.ones(k))


def reciprocal_rank(lists: Lists, k: int) -> np.ndarray:
    return _first(lists, k, 1 / np.arange(1, k + 1))


def _first(lists: Lists, k: int, gain: np.ndarray) -> np.ndarray:
    """The expected gain of the place of a list's first relevant entry, 0 after k. That is one of the r relevant among
    the e of the best score, after g others: it is number j of these with probability C(e - j, r - 1) / C(e, r)."""
    kinds, which = np.unique(np.stack(lists.best), axis=1, return_inverse=True)
    above, equal, same = kinds
    none, value = np.ones(len(above)), np.zeros(len(above))  # none: the probability that no relevant one came before
    for j in range(int(np.clip(k - above, 0, equal - same + 1).max())):
        here = (j <= equal - same) & (above + j < k)
        chance = np.where(here, none * same / np.maximum(equal - j, 1), 0)
        value += chance * gain[np.minimum(above + j, k - 1)]
        none -= chance
    return value[which.ravel()]


def auc(lists: Lists) -> np.ndarray:
    higher, same = lists.ties
    found = lists.total(lists.found)
    others = lists.candidates - found
    wrong = (lists.above - higher) + (lists.equal - same) / 2
    right = lists.total(np.where(lists.found, 1 - wrong / np.maximum(others, 1)[lists.of], 0))
    return right / lists.size


AT_K: dict[str, Callable[[Lists, int], np.ndarray]] = {
    "recall": recall,
    "recall_capped": recall_capped,
    "precision": precision,
    "ndcg": ndcg,
    "map": average_precision,
    "mrr": reciprocal_rank,
    "hit_rate": hit_rate,
    "recall_popularity": recall_popularity,
}
OF_TOPS = ("coverage", "novelty")  # of what is in the top lists, relevant or not
METRICS = (*AT_K, "auc", *OF_TOPS)

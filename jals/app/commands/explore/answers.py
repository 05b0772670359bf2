"""What the page asks of a model: neighbours, and what someone with these ratings would be recommended, and why.

All of it by the library's own calls, from the factors as they are; nothing is fitted. A visitor's ratings are one row:
whatever is answered takes that row and the items, never users x items.
"""

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

import jals

from ....model.feedback import KINDS
from ....recommend.candidates import entries_of, least_entries

NEIGHBOURS = 12
BEST = 10
REASONS = 3  # of each recommendation


class Entries(NamedTuple):
    """What someone rated: one for each item.

    Attributes:
        item: rows `(n,)`.
        value: `(n,)`.
        weight: `(n,)`, 1 for what was rated on the page.
        changed: bool `(n,)`, whether it was rated on the page.
    """

    item: np.ndarray
    value: np.ndarray
    weight: np.ndarray
    changed: np.ndarray


class Recommended(NamedTuple):
    """An item for someone, its score, and the entries that add most to it: [(item row, what it adds)]."""

    item: int
    score: float
    reasons: list[tuple[int, float]]


class Answers:
    """A model that answers.

    Args:
        factors, objective: as fitted.
        train: the table that they were fitted to.
    """

    def __init__(self, factors: jals.Factors, objective: jals.Objective, train: jals.Ratings):
        self.objective, self.train = objective, train
        self.entries = entries_of(train)
        kind = KINDS[objective.feedback]
        self.values_count = bool(kind.w[1] != 0 or kind.t[1] != 0)
        self.by_value = bool(kind.t[1] != 0)  # scores are values
        self.least = least_entries(objective, self.entries)
        values = train.value if len(train.value) < 1_000_000 else train.value[:: len(train.value) // 1_000_000]
        distinct = np.unique(values)
        self.low, self.high = float(train.value.min()), float(train.value.max())
        self.liked = self.high if self.by_value else float(np.median(values))
        self.step = float(np.diff(distinct).min()) if 1 < len(distinct) <= 20 else None
        # Of the users a single row, in the place of which each visitor's is put.
        one = None if factors.user_bias is None else factors.user_bias[:1]
        self._factors = jax.device_put(dataclasses.replace(factors, user=factors.user[:1], user_bias=one))
        self.item = np.asarray(self._factors.item)

    def near(self, item: int, measure: str = "cosine", least: int = 0, k: int = NEIGHBOURS) -> list[tuple[int, float]]:
        """The items most like one, see `jals.similar`: [(row, likeness)], of those with at least `least` entries.

        An item of factors 0, as one without entries, is like none."""
        if not self.item[item].any() or len(self.item) < 2:
            return []
        closed = self.entries < least
        closed[item] = False
        open_ = dataclasses.replace(self._factors, item=np.where(closed[:, None], 0, self.item))  # what is 0 is like none
        found, score = jals.similar(open_, [item], min(k, len(self.item) - 1), measure=measure)
        pairs = zip(np.asarray(found)[0].tolist(), np.asarray(score)[0].tolist(), strict=True)
        return [(row, likeness) for row, likeness in pairs if row >= 0 and not closed[row]]

    def rated(self, user: int | None, changed: dict[int, float] | None = None, dropped: tuple = ()) -> Entries:
        """A user's entries with changes to them: what was changed first, the latest change foremost; then the others,
        the highest value first.

        Args:
            user: the row, or None for someone new.
            changed: values by item, of items that the user had or not, the latest last.
            dropped: items that count as not rated.
        """
        changed = dict(changed or {})
        train = self.train
        own = np.flatnonzero(train.user == user) if user is not None else np.empty(0, int)
        weight = np.ones(len(own), train.value.dtype) if train.weight is None else train.weight[own]
        away = np.isin(train.item[own], np.array([*changed, *dropped], int)) | (weight <= 0)
        own, weight = own[~away], weight[~away]
        order = np.lexsort((train.item[own], -self.entries[train.item[own]], -train.value[own]))
        own, weight = own[order], weight[order]
        new = [item for item in reversed(changed) if item not in dropped]
        value = np.array([changed[item] for item in new], train.value.dtype)
        return Entries(
            np.r_[np.array(new, np.int64), train.item[own]],
            np.r_[value, train.value[own]],
            np.r_[np.ones(len(new), weight.dtype), weight],
            np.arange(len(new) + len(own)) < len(new),
        )

    def recommended(self, rated: Entries, least: int = 0, k: int = BEST) -> list[Recommended]:
        """The best unrated items for someone with these entries, who is solved from them alone (`jals.fold_in`), and
        what adds most to each score (`jals.explain`).

        Raises:
            DataError: for values that the objective cannot take.
            ArgumentError: for a row without a unique solution.
        """
        if not len(rated.item):
            return []
        table = self._table(rated)
        row, bias = jals.fold_in(self._factors, table, self.objective)
        factors = dataclasses.replace(self._factors, user=row, user_bias=bias)
        away = self.entries < least
        away[rated.item] = True
        k = min(k, int(np.count_nonzero(~away)))
        if not k:
            return []
        found, score = (np.asarray(part)[0] for part in jals.top_k(factors, [0], min(BEST, len(away)), exclude=away))
        problem = jals.Problem.build(table)
        best = []
        for item, one in zip(found[:k].tolist(), score[:k].tolist(), strict=True):
            why = jals.explain(factors, problem, self.objective, 0, item)
            reasons = zip(why.item[:REASONS].tolist(), why.contribution[:REASONS].tolist(), strict=True)
            best.append(Recommended(item, one, list(reasons)))
        return best

    def _table(self, rated: Entries) -> jals.Ratings:
        """The entries as a table of one user. Entries of weight 0, which count as none, make their number a power of
        two, so that an item more or less compiles nothing."""
        items, have = self.train.num_items, len(rated.item)
        others = np.ones(items, bool)
        others[rated.item] = False
        more = np.flatnonzero(others)[: 2 ** max(3, (have - 1).bit_length()) - have]
        weight, value = np.r_[rated.weight, np.zeros(len(more))], np.r_[rated.value, np.ones(len(more))]
        dtype = self.train.value.dtype
        nobody = np.zeros(have + len(more), int)
        return jals.Ratings.from_arrays(
            nobody, np.r_[rated.item, more], value.astype(dtype), 1, items, weight.astype(dtype)
        )

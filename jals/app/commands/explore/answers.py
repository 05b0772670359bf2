"""What the page asks of a model: neighbours, and what someone with these ratings would be recommended, and why.

All of it by the library's own calls, from the factors as they are; nothing is fitted. A visitor's ratings are one row:
whatever is answered takes that row and the items, never users x items.
"""

import dataclasses
import threading
from typing import NamedTuple

import jax
import numpy as np

import jals

from ....model.feedback import KINDS
from ....recommend.candidates import entries_of, least_entries
from ....recommend.explanation import table_of_one
from ....recommend.top import MEASURES

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
    """An item for someone, and why: its score is the sum of reasons, rest and offset.

    Attributes:
        item: its row.
        score: as of `jals.top_k`.
        reasons: the entries that add most to it, [(item row, what it adds)].
        rest: what the `others`, so many entries, add together.
        offset: what no entry adds: the mean, the item's bias.
    """

    item: int
    score: float
    reasons: list[tuple[int, float]]
    rest: float
    others: int
    offset: float


class Answers:
    """A model that answers.

    Args:
        factors, objective: as fitted.
        train: the table that they were fitted to.

    Attributes:
        item: factors of the items, on the host.
        entries: how many each item has.
        values_count: whether the model looks at values; else an entry is an entry.
        by_value: whether scores are in the unit of the values.
        least: how many entries an item needs to be shown, unless the visitor says.
        low, high, step: of the values; step is None where they are many.
        liked: the value of what is added.
        turn: held by what computes: one at a time, which bounds memory, and gives each all cores.
    """

    def __init__(self, factors: jals.Factors, objective: jals.Objective, train: jals.Ratings):
        self.objective, self.train = objective, train
        self.turn = threading.Lock()
        self.entries = entries_of(train)
        there = slice(None) if train.weight is None else train.weight > 0
        counts = np.bincount(train.user[there], minlength=train.num_users), self.entries
        self._counts = tuple(jax.numpy.asarray(each, train.value.dtype) for each in counts)
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
        with self.turn:
            return self._near(item, measure, least, k)

    def _near(self, item: int, measure: str, least: int, k: int) -> list[tuple[int, float]]:
        if not self.item[item].any() or len(self.item) < 2:
            return []
        closed = self.entries < least
        closed[item] = False
        # What is 0 is like none.
        open_ = dataclasses.replace(self._factors, item=np.where(closed[:, None], 0, self.item))
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
        with self.turn:
            return self._recommended(rated, least, k) if len(rated.item) else []

    def _recommended(self, rated: Entries, least: int, k: int) -> list[Recommended]:
        own = table_of_one(rated.item, rated.value, rated.weight, self.train.num_items)
        # What the objective weighs by numbers of entries goes by the table's, and of the visitor by the visitor's own.
        mine = {"user": jax.numpy.full(1, np.count_nonzero(rated.weight), self._counts[0].dtype)}
        objective = self.objective.with_counts(self._counts, mine)
        row, bias = jals.fold_in(self._factors, own, objective)
        factors = dataclasses.replace(self._factors, user=row, user_bias=bias)
        away = self.entries < least
        away[rated.item] = True
        k = min(k, int(np.count_nonzero(~away)))
        if not k:
            return []
        found, score = (np.asarray(part)[0] for part in jals.top_k(factors, [0], min(BEST, len(away)), exclude=away))
        problem = jals.Problem.of_side(own, "user")
        best = []
        for item, one in zip(found[:k].tolist(), score[:k].tolist(), strict=True):
            why = jals.explain(factors, problem, objective, 0, item)
            reasons = zip(why.item[:REASONS].tolist(), why.contribution[:REASONS].tolist(), strict=True)
            rest = float(why.contribution[REASONS:].sum())
            best.append(Recommended(item, one, list(reasons), rest, len(why.item[REASONS:]), why.offset))
        return best

    def compile(self, entries: int = 1) -> None:
        """Compiles what is asked first, so that no visitor waits for it: neighbours, and the answers to someone with so
        many entries. (`table_of_one` has few sizes.)"""
        items = np.argsort(-self.entries, kind="stable").tolist()
        for measure in MEASURES:
            self.near(items[0], measure)
        self.recommended(self.rated(None, dict.fromkeys(items[:entries], self.liked)), k=1)

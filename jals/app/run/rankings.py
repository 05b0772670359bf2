"""How the held-out parts of a fold are ranked, by fits and by baselines alike: what does not depend on scores is
prepared once."""

import dataclasses
from typing import Any

import numpy as np

import jals

from ...errors import ArgumentError, ConfigError
from ...files.runs.record import Bin, RankingRecord, finite
from ...metrics import Evaluation, metric_parts
from ...plot.summaries import degree_edges, degrees, observed
from ..config.measures import asked
from ..config.schema import Config

_AT = (1, 2, 5, 10, 20, 50, 100)  # places up to which the record knows how a fit does
_SIDES = ("user", "item")
_OF_LISTS = ("coverage", "novelty")  # which take the lists themselves, and so more time for every k
_K = 10  # of the hits, where the first metric has none


def relevant(part: jals.Ratings, least: float | None) -> jals.Ratings:
    """The part with a value > 0 where an entry is relevant: from `least` on, or as it is."""
    if least is None:
        return part
    return dataclasses.replace(part, value=(part.value >= least).astype(part.value.dtype))


def known(fold: Any, part: str) -> jals.Ratings:
    """What is not ranked again for the users of a part: of the test part also what was held out for validation."""
    if part == "validation" or fold.validation is None:
        return fold.train
    parts = [(each, observed(each)) for each in (fold.train, fold.validation)]
    columns = ("user", "item", "value")
    user, item, value = (np.concatenate([getattr(each, name)[its] for each, its in parts]) for name in columns)
    return jals.Ratings.from_arrays(user, item, value, fold.train.num_users, fold.train.num_items)


class Rankings:
    """Of one fold, by the metrics that a config asks for.

    Raises:
        ConfigError: for a k beyond the items, and for a part in which nothing is relevant.
    """

    def __init__(self, config: Config, fold: Any, candidates: np.ndarray | None = None):
        """`candidates`: rows of items `(test entries, c)` that the test entries are ranked among; None: all."""
        self._candidates = candidates
        self._fold, self._least, self._asked = fold, config.output.relevant, config.ranked
        if not asked(config):  # the usual metrics, which nobody has to be told that a table is too small for
            self._asked = [name for name in self._asked if self._possible(name)]
        self._parts = {name: metric_parts(name) for name in self._asked}
        self._made: dict[str, list[Evaluation]] = {}
        for part in ("validation", "test"):
            if self._asked and getattr(fold, part) is not None:
                try:
                    self._made[part] = self._evaluations(part)
                except ArgumentError as error:
                    key = "output.relevant" if "nothing to find" in str(error) else "output.metrics or fit.metric"
                    raise ConfigError(f"{key}: the {part} part cannot be ranked: {error}") from None

    def _possible(self, metric: str) -> bool:
        """Whether every part can be ranked by it: there are so many items, and something is relevant."""
        held_out = [part for part in (self._fold.validation, self._fold.test) if part is not None]
        enough = self._fold.test.num_items >= (metric_parts(metric)[1] or 1)
        whole = self._fold.train is not None  # of several processes no one has all that is seen
        return whole and enough and all((relevant(part, self._least).value > 0).any() for part in held_out)

    def _evaluations(self, part: str) -> list[Evaluation]:
        """Of the test part at more k than were asked for, as the record has curves."""
        seen = known(self._fold, part)
        pairs = seen.user[observed(seen)], seen.item[observed(seen)]
        held_out = relevant(getattr(self._fold, part), self._least)
        asked = {k for _, k in self._parts.values() if k}
        among = self._candidates if part == "test" else None
        most = held_out.num_items if among is None else among.shape[1] + 1
        drawn = {k for k in _AT if k <= most} if part == "test" else set()
        found = []
        for of_lists in (False, True):
            names = list(dict.fromkeys(name for name, _ in self._parts.values() if (name in _OF_LISTS) == of_lists))
            if names:
                every = asked if of_lists else asked | drawn
                found.append(Evaluation(held_out, pairs, sorted(every) or [1], names, among))
        return found

    def means(self, part: str, scores: Any, only: list[str] | None = None) -> dict[str, float | None]:
        """The metrics asked for, or some of them, of a part, by factors or a function of users."""
        if getattr(self._fold, part) is None:
            return {}
        asked = self._asked if only is None else [name for name in self._asked if name in only]
        found: dict[str, float] = {}
        for plan in self._made[part] if asked else []:
            if {*plan.metrics} & {self._parts[name][0] for name in asked}:
                found |= plan.ranking(scores).mean
        return {name: finite(found[name]) for name in asked}

    def test(self, scores: Any) -> tuple[dict[str, float | None], RankingRecord | None]:
        """(the metrics asked for of the test part, what the record holds of it besides)."""
        if not self._asked:
            return {}, None
        rankings = [plan.ranking(scores) for plan in self._made["test"]]
        mean, error = {}, {}
        for each in rankings:
            mean, error = mean | each.mean, error | each.stderr
        return {name: finite(mean[name]) for name in self._asked}, self._record(rankings[0], mean, error)

    def _record(self, ranking: jals.metrics.Ranking, mean: dict, error: dict) -> RankingRecord:
        train, test = self._fold.train, self._fold.test
        first, k = self._asked[0], self._parts[self._asked[0]][1] or _K
        drawn = list(ranking.hits)
        names = dict.fromkeys(name for name, k in self._parts.values() if k and name not in _OF_LISTS)
        k = k if k in ranking.hits else drawn[-1]
        of_users, of_items = (degrees(train, side) for side in _SIDES)
        made = RankingRecord(
            users=len(ranking.user),
            left_out=ranking.left_out,
            stderr={name: finite(error[name]) for name in self._asked},
            k=drawn,
            curves={name: [finite(mean[f"{name}@{each}"]) for each in drawn] for name in names},
            hits_at=k,
            by_popularity=_bins(of_items, test.item[ranking.entry], ranking.hits[k]),
        )
        if first in ranking.per_user:
            made.by_activity = _bins(of_users, ranking.user, ranking.per_user[first])
        return made


def _bins(degree: np.ndarray, row: np.ndarray, number: np.ndarray) -> list[Bin]:
    """Means of the numbers by the degree of their rows."""
    edges = degree_edges(int(degree.max(initial=0)))
    place = np.searchsorted(edges, degree[row], side="right") - 1
    found = []
    for at in np.unique(place):
        own = number[place == at]
        error = own.std(ddof=1) / np.sqrt(len(own)) if len(own) > 1 else np.nan
        found.append(
            Bin(low=int(edges[at]), high=int(edges[at + 1]) - 1, count=len(own), mean=own.mean(), stderr=finite(error))
        )
    return found

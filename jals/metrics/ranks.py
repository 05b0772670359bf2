"""Exact ranking metrics: `ranking`, and what it returns."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, check_choice, is_traced
from ..forks import check_jax
from ..html import Table, shown
from ..model.factors import Factors, consistent
from .formulas import AT_K, METRICS, OF_TOPS, Lists, auc
from .places import Plan, Wanted, sides


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Ranking:
    """What `ranking` returns. Keys are "ndcg@10" and the like, and "auc".

    Attributes:
        mean: of each metric, the mean over the users counted.
        stderr: its standard error, the standard deviation over users (with n - 1) / sqrt(n); nan for one user, and for
            "coverage", which is not a mean over users.
        per_user: of each metric but "coverage", float64 `(users,)`.
        user: int32 `(users,)`, increasing: the users counted, those with a relevant test entry.
        left_out: how many users have none.
        entry: int64 `(entries,)`: where the relevant entries are in the test table, in the order of their users.
        hits: of each k, float64 `(entries,)`: whether the item is among the user's first k, of equal scores the share
            of their orders. For breakdowns of one's own, such as recall by the popularity of the item.
    """

    mean: dict[str, float]
    stderr: dict[str, float]
    per_user: dict[str, np.ndarray]
    user: np.ndarray
    left_out: int
    entry: np.ndarray
    hits: dict[int, np.ndarray]

    def __repr__(self) -> str:
        def said(key: str) -> str:
            error = self.stderr[key]
            return f"{key} {self.mean[key]:.4f}" + (f" ± {error:.4f}" if np.isfinite(error) else "")

        return f"Ranking({', '.join(map(said, self.mean))}: {len(self.user):,} users, {self.left_out:,} left out)"

    @shown
    def _repr_html_(self) -> Table:
        sure = {key: f"{error:.4f}" if np.isfinite(error) else "" for key, error in self.stderr.items()}
        rows = [(key, f"{mean:.4f}", sure[key]) for key, mean in self.mean.items()]
        note = f"{len(self.user):,} users; {self.left_out:,} have nothing to find and are left out"
        return Table("ranking", rows, ("metric", "mean over users", "standard error"), note)

    def minus(self, other: "Ranking") -> "Ranking":
        """The differences to another ranking of the same users, metric by metric (those that both have): `mean`, and
        `per_user` user by user, so that `stderr` is that of paired differences. What two models share of a user's
        difficulty is gone from it; two standard errors of their own, added up, would say far too much. `hits` are
        differences too.

        Raises:
            ArgumentError: where the users counted are not the same, or no metric is.
        """
        if not isinstance(other, Ranking):
            raise ArgumentError(f"minus takes another Ranking, not {type(other).__name__}.")
        if not np.array_equal(self.user, other.user):
            raise ArgumentError("the rankings are of different users: rank the same test table.")
        keys = [key for key in self.mean if key in other.mean]
        if not keys:
            raise ArgumentError(f"no metric is in both: {', '.join(self.mean)} and {', '.join(other.mean)}.")
        differences = {key: self.per_user[key] - other.per_user[key] for key in keys if key in self.per_user}
        whole = {key: self.mean[key] - other.mean[key] for key in keys if key not in differences}
        if not np.array_equal(self.entry, other.entry):
            raise ArgumentError("the rankings are of different entries: rank the same test table.")
        hits = {k: own - other.hits[k] for k, own in self.hits.items() if k in other.hits}
        return _ranking(keys, differences, whole, self.user, self.left_out, self.entry, hits)


def ranking(
    factors: Factors | Callable[[np.ndarray], Any],
    test: Ratings,
    seen: Ratings | None = None,
    k: int | Iterable[int] = (10, 20),
    metrics: str | Iterable[str] = ("recall", "ndcg"),
    candidates: Any = None,
) -> Ranking:
    """How well the items of held-out entries are ranked among all items that their users have not seen.

    Nothing is sampled and nothing is sorted: scores are made for a batch of users at a time, within about 256 MiB
    whatever the catalogue (one user's scores at least), and compared with those of the relevant items.

    R is the set of a user's relevant items: those of test entries with a value > 0 (and a weight > 0). Test values are
    of no other account. Users without any are left out. A relevant item that the user has seen stays in R and counts as
    missed, as does one whose score is -inf. The place of an item is its number in the order of scores, from 1.
    Equal scores count by expected value over all their orders, exactly; equal means to the last bit. (An XLA product
    may round equal rows differently in different places of a matrix.)

    | key | of a user |
    |---|---|
    | recall@k | hits in the first k / #R |
    | recall_capped@k | hits / min(k, #R) |
    | precision@k | hits / k |
    | ndcg@k | the sum of 1 / log2(place + 1) over hits, over that of places 1 ... min(k, #R) |
    | map@k | the sum over hits of the precision at their place, / min(k, #R) as in implicit; trec_eval divides by #R |
    | mrr@k | 1 / place of the first hit, 0 without one |
    | hit_rate@k | whether there is a hit |
    | recall_popularity@k | the sum of 1 / sqrt(n_i) over hits, over that of R |
    | auc | the mean over R of the share of unseen items outside R that are lower, equal ones by half; no k |
    | novelty@k | the mean of -log2(n_i / num_users) over the first k |
    | coverage@k | not of a user: the share of all items that are in the first k of some user counted |

    n_i is the number of entries of the item in `seen`, 1 at least. recall_popularity is Steck's popularity-stratified
    recall with γ = 1 (RecSys 2011), novelty the self-information of Zhou et al. (PNAS 2010). A missed item counts 0 in
    auc, and a user with nothing but items of R to see counts those as right. Where fewer than k items are left to
    show, novelty is the mean over these.

    Args:
        factors: as fitted; or a function that takes user ids, int32 `(n,)`, and returns their scores of all items,
            `(n, num_items)`: higher is better, -inf for what is not to be shown. They are compared in float32, or in
            float64 with x64 on.
        test: held-out entries. Its `num_users` and `num_items` are the factors'.
        seen: entries (of weight > 0) whose items are not shown to their users again: the training table. None: none.
        k: how many items are looked at, one number or several, each from 1 to the number of items.
        metrics: names of the table above without "@k".
        candidates: int `(entries of test, c)`: each test entry is ranked among these items alone, a list with one
            relevant item; a user counts with the mean over its entries. The entry's own item is left out of them, a
            seen one too, and what is named twice counts once. So NCF's protocol (He et al. 2017: leave one out, 99
            negatives, hit_rate@10 and ndcg@10) is measured. **Sampled candidates mislead**: in expectation they are
            another metric than the full one, flatter at the top, and may even order two models the other way round
            (Krichene & Rendle, "On sampled metrics for item recommendation", KDD 2020). Use them to compare with
            published numbers only. Without "coverage", "novelty" and "recall_popularity".

    Returns: a `Ranking`, computed in float64 from places. On the host: neither jittable nor differentiable.

    Raises:
        ArgumentError: for unknown metrics, k beyond the items, tables and factors that do not fit together, a test
            table without relevant entries, factors that are not finite or whose scores would not be.
    """
    check_jax()
    evaluation = Evaluation(test, _seen_pairs(seen, test), k, metrics, candidates)
    return evaluation.ranking(factors)


class Evaluation:
    """A ranking to be measured again and again: `ranking(...)` with all its arguments but the first. Everything that
    does not depend on the scores is done once.

    Args:
        seen: (user, item) of the pairs not to be shown, ids that are in range; None for none.
    """

    def __init__(
        self,
        test: Ratings,
        seen: tuple[np.ndarray, np.ndarray] | None,
        k: int | Iterable[int],
        metrics: str | Iterable[str],
        candidates: Any = None,
    ):
        if not isinstance(test, Ratings):
            raise ArgumentError(f"test is of type {type(test).__name__}, but must be Ratings: one part of a split.")
        self.metrics = _checked_metrics(metrics)
        self.candidates = None if candidates is None else _checked_candidates(candidates, test)
        most, what = test.num_items, f"the number of items, {test.num_items:,}"
        if self.candidates is not None:
            among = self.candidates.shape[1] + 1
            most, what = min(most, among), f"an entry and its candidates, {among:,}"
            self._refuse_of_all_items()
        self.k = _checked_k(k, most, what)
        self.plan = Plan(test, seen)
        self.popularity = None
        if {"novelty", "recall_popularity"} & {*self.metrics}:
            if seen is None:
                raise ArgumentError('"novelty" and "recall_popularity" need `seen`: popularity is counted there.')
            self.popularity = np.maximum(np.bincount(seen[1], minlength=test.num_items), 1)

    def ranking(self, factors: Any) -> Ranking:
        """The metrics of these factors, or of a function of users."""
        plan, popularity = self.plan, self.popularity
        scores = factors if callable(factors) else _checked_factors(factors, plan.shape)
        tops = self.k if {*OF_TOPS} & {*self.metrics} else ()
        rarity = None if popularity is None else -np.log2(popularity / plan.shape[0])
        if self.candidates is None:
            places = plan.places(scores, rarity, Wanted(tops, "auc" in self.metrics))
            weight = None if popularity is None else 1 / np.sqrt(popularity[plan.item])
            lists = Lists(plan.user_of, places.above, places.equal, places.candidates, weight)
            of_users = lambda numbers: numbers  # noqa: E731
        else:
            places = plan.places_among(scores, self.candidates)
            lists = Lists(np.arange(len(plan.entry)), places.above, places.equal, places.candidates)
            of_users = lambda numbers: np.bincount(plan.user_of, numbers) / np.bincount(plan.user_of)  # noqa: E731
        per_user, whole, keys = {}, {}, []
        for name in self.metrics:
            for at, k in enumerate(self.k):
                keys.append(key := "auc" if name == "auc" else f"{name}@{k}")
                if name == "coverage":
                    whole[key] = float(places.shown[at].mean())
                elif name == "novelty":
                    per_user[key] = places.rarity[at].astype(np.float64)
                else:
                    per_user[key] = of_users(auc(lists) if name == "auc" else AT_K[name](lists, k))
                if name == "auc":
                    break
        hits = {k: lists.within(k) / lists.equal for k in self.k}
        return _ranking(keys, per_user, whole, plan.user, plan.shape[0] - len(plan.user), plan.entry, hits)

    def _refuse_of_all_items(self) -> None:
        for name in (*OF_TOPS, "recall_popularity"):
            if name in self.metrics:
                raise ArgumentError(f'"{name}" needs the whole catalogue: leave it out, or the candidates.')


def _ranking(keys: list[str], per_user: dict, whole: dict, user: np.ndarray, left_out: int, *entries: Any) -> Ranking:
    count = len(user)
    mean = {key: whole[key] if key in whole else float(per_user[key].mean()) for key in keys}
    stderr = {
        key: np.nan if key in whole or count < 2 else float(per_user[key].std(ddof=1) / np.sqrt(count)) for key in keys
    }
    return Ranking(mean, stderr, per_user, user, left_out, *entries)


# ---- arguments ----


def _seen_pairs(seen: Any, test: Any) -> tuple[np.ndarray, np.ndarray] | None:
    if seen is None or not isinstance(test, Ratings):
        return None
    if not isinstance(seen, Ratings):
        raise ArgumentError(f"seen is of type {type(seen).__name__}, but must be Ratings: the training part, or None.")
    if (seen.num_users, seen.num_items) != (test.num_users, test.num_items):
        raise ArgumentError(
            f"seen is {seen.num_users} x {seen.num_items}, test {test.num_users} x {test.num_items}: split one table, "
            "or give both the same num_users and num_items."
        )
    if seen.weight is None:
        return seen.user, seen.item
    return seen.user[seen.weight > 0], seen.item[seen.weight > 0]


def _checked_metrics(metrics: Any) -> tuple[str, ...]:
    names = (metrics,) if isinstance(metrics, str) else tuple(metrics) if isinstance(metrics, Iterable) else (metrics,)
    if not names:
        raise ArgumentError("metrics is empty: name one at least.")
    for name in names:
        check_choice("a metric", name, METRICS)
    return tuple(dict.fromkeys(names))


def _checked_k(k: Any, most: int, what: str) -> tuple[int, ...]:
    numbers: tuple[Any, ...] = tuple(k) if isinstance(k, Iterable) and not isinstance(k, str) else (k,)
    if not numbers:
        raise ArgumentError("k is empty: give one number at least.")
    for number in numbers:
        whole = isinstance(number, (int, np.integer)) and not isinstance(number, bool)
        if not (whole and 1 <= number <= most):
            raise ArgumentError(f"k is {number!r}, but must be a whole number from 1 to {what}.")
    return tuple(dict.fromkeys(map(int, numbers)))


def _checked_candidates(candidates: Any, test: Ratings) -> np.ndarray:
    table = np.asarray(candidates)
    if table.ndim != 2 or table.shape[0] != len(test) or not table.shape[1]:
        need = f"({len(test)}, c): a row for each test entry"
        raise ArgumentError(f"candidates is of shape {table.shape}, but must be {need}.")
    if table.dtype.kind not in "iu":
        raise ArgumentError(f"candidates must be integers, got {table.dtype}.")
    wrong = (table < 0) | (table >= test.num_items)
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        have = f"candidate {table[row, column]} of test entry {row}"
        raise ArgumentError(f"{have} is out of range: the table has {test.num_items:,} items.")
    return table


def _checked_factors(factors: Any, shape: tuple[int, int]) -> Factors:
    if any(map(is_traced, jax.tree.leaves(factors))):
        raise ArgumentError("the factors are traced, but ranking works on the host: call it outside of jit and grad.")
    factors = consistent(factors)
    if (len(factors.user), len(factors.item)) != shape:
        have = f"{len(factors.user):,} users and {len(factors.item):,} items"
        raise ArgumentError(f"the factors are of {have}, the test table of {shape[0]:,} and {shape[1]:,}.")
    left, right = sides(factors)
    largest = [float(jnp.abs(side).max()) if side.size else 0.0 for side in (left, right)]
    if not largest[0] * largest[1] * max(left.shape[1], 1) < float(jnp.finfo(factors.dtype).max):  # a NaN too
        raise ArgumentError("the factors are not finite, or so large that their scores are not.")
    return factors

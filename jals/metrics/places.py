"""Where a user's relevant items stand among all items, by counting: nothing is sorted.

A relevant item's place is known from two counts over the items that its user has not seen: how many have a higher
score (`above`), and how many an equal one (`equal`, itself included). Orders of equal scores being equally likely, the
place is uniform on above + 1 ... above + equal. The scores of a batch of users at a time are held, never the table.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..model.factors import Factors
from ..reals import reals

BATCH_BYTES = 2**25  # of a batch's scores: small enough to be read from a cache, large enough for a fast product
MOST_BYTES = 2**28  # of those of FEW_USERS, where a catalogue is so large that the product would starve
FEW_USERS = 64
GROUP = 16  # batches in one call: memory is given back after a call, and taking it anew costs as much as the work
MISSED = np.iinfo(np.int32).max  # what is above an item that can never be shown


class Batch(NamedTuple):
    """Users and their entries, filled up to sizes that all batches share; `row` is a user's place in `user`.

    Attributes:
        user: int32 `(users,)`.
        real: float32 `(users,)`, 1, and 0 in the filling.
        row, item: int32 `(relevant,)`; what fills up repeats an entry, and is cut off afterwards.
        seen_row, seen_item: int32 `(seen,)`; what fills up has a row that is none.
    """

    user: Any
    real: Any
    row: Any
    item: Any
    seen_row: Any
    seen_item: Any


class Wanted(NamedTuple):
    """What is to be known beside the places: `tops`, sizes of top lists to look into; `candidates`, whether to count
    the items that could be shown to a user. Static."""

    tops: tuple[int, ...] = ()
    candidates: bool = False


class Places(NamedTuple):
    """What `Plan.places` returns.

    Attributes:
        above, equal: int32 `(relevant,)`, in the order of `Plan.user_of`; `MISSED` and 1 for an item that cannot be
            shown, as its user has seen it or its score is -inf.
        candidates: int32 `(users,)`, how many items could be shown; None unless wanted.
        rarity: float32 `(tops, users)`, the expected mean of `rarity` over the top lists.
        shown: float64 `(tops, items)`, the probability that an item is in one top list or more.
    """

    above: np.ndarray
    equal: np.ndarray
    candidates: np.ndarray | None
    rarity: np.ndarray
    shown: np.ndarray


class Plan:
    """The users of a test table in batches, made once for any number of measurements.

    Attributes:
        user: int32 `(users,)`, increasing: those with a relevant entry.
        user_of: int64 `(relevant,)`, increasing: the place in `user` of each relevant entry's user.
        item: int32 `(relevant,)`.
        entry: int64 `(relevant,)`, the place of each among the entries of the test table.
        seen: int64 `(seen,)`, user * num_items + item of each seen pair, increasing.
    """

    def __init__(self, test: Ratings, seen: tuple[np.ndarray, np.ndarray] | None):
        relevant = test.value > 0
        if test.weight is not None:
            relevant &= test.weight > 0
        self.entry = np.flatnonzero(relevant)
        if not len(self.entry):
            raise ArgumentError("test has no entry with a value > 0 (and a weight > 0): there is nothing to find.")
        self.shape = test.num_users, test.num_items
        self.entry = self.entry[np.argsort(test.user[self.entry], kind="stable")]
        self.user, self.user_of = np.unique(test.user[self.entry], return_inverse=True)
        self.item = test.item[self.entry]
        pairs = (np.zeros(0, np.int64), np.zeros(0, np.int64)) if seen is None else seen
        self.seen = pairs[0].astype(np.int64) * test.num_items + pairs[1]
        if (self.seen[1:] < self.seen[:-1]).any():
            self.seen.sort()
        self._ends = np.searchsorted(self.user_of, np.arange(len(self.user) + 1))  # where a user's entries begin
        # The seen pairs of users who are not measured lie between those of the others.
        first = self.user.astype(np.int64) * test.num_items
        self._seen_first, last = (np.searchsorted(self.seen, first + more) for more in (0, test.num_items))
        self._seen_ends = np.concatenate([[0], np.cumsum(last - self._seen_first)])

    def places(self, scores: Factors | Callable, rarity: Any, wanted: Wanted) -> Places:
        """Counts over the whole catalogue. `rarity`: a number an item, `(num_items,)`, None for none."""
        rarity = np.zeros(self.shape[1], np.float32) if rarity is None else np.asarray(rarity, np.float32)
        byte = 4 if callable(scores) else scores.dtype.itemsize
        cuts, sizes = self._cuts(byte * (4 if wanted.tops else 1))
        missing = jnp.zeros((len(wanted.tops), self.shape[1]), np.float32)
        found = []
        if callable(scores):
            for at in range(len(cuts) - 1):
                batch = self._batch(cuts, at, sizes)
                table = scored(scores, batch.user, self.shape[1])
                missing, told = _in_table(table, jax.tree.map(jnp.asarray, batch), missing, rarity, wanted)
                found.append(jax.tree.map(np.asarray, told))
        else:
            left, right = sides(scores)
            group = -(-(len(cuts) - 1) // -(-(len(cuts) - 1) // GROUP))  # all calls of one size, and little filling
            for first in range(0, len(cuts) - 1, group):
                batches = [self._batch(cuts, at, sizes) for at in range(first, first + group)]
                stacked = jax.tree.map(lambda *parts: np.stack(parts), *batches)
                missing, told = _in_group(left, right, stacked, missing, rarity, wanted)
                told = jax.tree.map(np.asarray, told)
                found += [jax.tree.map(lambda part, at=at: part[at], told) for at in range(group)]
        return self._joined(found, cuts, missing)

    def _cuts(self, byte: int) -> tuple[np.ndarray, tuple[int, int, int]]:
        """(where batches of users begin, the last end included; how many users, entries and seen pairs a batch holds):
        as many users as the memory allows, in batches that are about equally full."""
        row = self.shape[1] * byte
        users = max(1, BATCH_BYTES // row, min(FEW_USERS, MOST_BYTES // row))
        users = min(users, len(self.user))

        def room(ends: np.ndarray) -> int:  # for what users have on average, an eighth more, and for each alone
            return max(int(np.diff(ends).max()), -(-int(ends[-1]) * users * 9 // (8 * len(self.user))))

        def fitting(ends: np.ndarray, at: int) -> int:
            return int(np.searchsorted(ends, ends[at] + room(ends), "right")) - 1

        cuts = [0]
        while (at := cuts[-1]) < len(self.user):
            cuts.append(min(at + users, fitting(self._ends, at), fitting(self._seen_ends, at)))
        return np.array(cuts), (users, room(self._ends), room(self._seen_ends))

    def _batch(self, cuts: np.ndarray, at: int, sizes: tuple[int, int, int]) -> Batch:
        """Batch number `at`; beyond the last, one of filling only."""
        begin, end = (int(cuts[min(place, len(cuts) - 1)]) for place in (at, at + 1))
        users, entries, seen = sizes
        own = np.s_[self._ends[begin] : self._ends[end]]
        counts = np.diff(self._seen_ends[begin : end + 1])
        row = np.repeat(np.arange(end - begin), counts)
        within = np.arange(len(row)) - np.repeat(self._seen_ends[begin:end] - self._seen_ends[begin], counts)
        pairs = self.seen[self._seen_first[begin:end][row] + within]

        def filled(column: np.ndarray, size: int, filling: int = 0) -> np.ndarray:
            return np.pad(column.astype(np.int32), (0, size - len(column)), constant_values=filling)

        return Batch(
            filled(self.user[begin:end], users, int(self.user[0])),
            filled(np.ones(end - begin), users).astype(np.float32),
            filled(self.user_of[own] - begin, entries),
            filled(self.item[own], entries),
            filled(row, seen, users),
            filled(pairs % self.shape[1], seen),
        )

    def _joined(self, found: list, cuts: np.ndarray, missing: jax.Array) -> Places:
        """The results of all batches without what filled them up."""
        lengths = np.diff(cuts), np.diff(self._ends[cuts])

        def joined(parts: list, of: int) -> Any:
            if parts[0] is None:
                return None
            return np.concatenate([part[..., :n] for part, n in zip(parts, lengths[of], strict=False)], axis=-1)

        above, equal, candidates, rarity = ([told[part] for told in found] for part in range(4))
        shown = -np.expm1(np.asarray(missing, np.float64))
        return Places(joined(above, 1), joined(equal, 1), joined(candidates, 0), joined(rarity, 0), shown)

    # ---- each entry among candidates of its own ----

    def places_among(self, scores: Factors | Callable, candidates: np.ndarray) -> Places:
        """Counts of each relevant entry among its own candidates, `(entries of the test table, c)`. Its own item, what
        its user has seen, and a candidate that is named again are left out of them."""
        above, equal, count = (np.empty(len(self.entry), np.int32) for _ in range(3))
        for part, items, score in self._pair_scores(scores, candidates):
            keys = self.user[self.user_of[part]].astype(np.int64)[:, None] * self.shape[1] + items
            score = np.where(self._are_seen(keys), -np.inf, score)
            own, others = score[:, :1], score[:, 1:]
            fit = (others > -np.inf) & (items[:, 1:] != items[:, :1])
            fit[:, 1:] &= items[:, 2:] != items[:, 1:-1]  # sorted: who is named again stands beside itself
            lost = own[:, 0] == -np.inf
            above[part] = np.where(lost, MISSED, (fit & (others > own)).sum(1))
            equal[part] = np.where(lost, 1, 1 + (fit & (others == own)).sum(1))
            count[part] = fit.sum(1) + ~lost
        return Places(above, equal, count, np.zeros((0, len(self.user))), np.zeros((0, self.shape[1])))

    def _are_seen(self, keys: np.ndarray) -> np.ndarray:
        if not len(self.seen):
            return np.zeros(keys.shape, bool)
        return self.seen[np.minimum(np.searchsorted(self.seen, keys), len(self.seen) - 1)] == keys

    def _pair_scores(self, scores: Any, candidates: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """(which entries, their own items and then their candidates in order, the scores of these), part by part."""

        def items_of(part: slice) -> np.ndarray:
            return np.column_stack([self.item[part], np.sort(candidates[self.entry[part]], axis=1)]).astype(np.int32)

        if callable(scores):
            cuts, sizes = self._cuts(4)
            for at in range(len(cuts) - 1):
                table = scored(scores, self._batch(cuts, at, sizes).user, self.shape[1])
                part = np.s_[int(self._ends[cuts[at]]) : int(self._ends[cuts[at + 1]])]
                items = items_of(part)
                yield part, items, np.take_along_axis(table[self.user_of[part] - cuts[at]], items, axis=1)
            return
        left, right = sides(scores)
        most = max(1, BATCH_BYTES // ((candidates.shape[1] + 1) * left.shape[1] * left.dtype.itemsize))
        size = min(most, len(self.entry))
        for begin in range(0, len(self.entry), size):
            part = np.s_[begin : min(begin + size, len(self.entry))]
            items, user = items_of(part), self.user[self.user_of[part]]
            short = size - len(items)
            scored_pairs = _pairs(left, right, np.pad(user, (0, short)), np.pad(items, ((0, short), (0, 0))))
            yield part, items, np.asarray(scored_pairs)[: len(items)]


def sides(factors: Factors) -> tuple[jax.Array, jax.Array]:
    """(users, items) whose products order a user's items as `predict` does. What is the same for all items of a user,
    the mean and the user's own bias, is left out: it would only round scores together."""
    left, right = factors.user, factors.joint("item")
    if factors.item_bias is not None:
        left = jnp.concatenate([left, jnp.ones_like(left[:, :1])], axis=1)
    return left, right


def scored(scores: Callable, users: np.ndarray, items: int) -> np.ndarray:
    """What a function of users says; raises ArgumentError unless it is a number, or an infinite one, for each item."""
    table = np.asarray(reals("what scores(users) returns", scores(users)))
    if table.shape != (len(users), items):
        need = f"({len(users)}, {items}): a score of every item for each user"
        raise ArgumentError(f"scores(users) returned shape {table.shape}, but must return {need}.")
    if np.isnan(table).any():
        raise ArgumentError(f"scores(users) returned nan for user {users[np.isnan(table).any(1).argmax()]}.")
    return table if table.dtype == np.float64 and jax.config.read("jax_enable_x64") else table.astype(np.float32)


# ---- the programs ----


@functools.partial(jax.jit, static_argnames=("wanted",))
def _in_group(left: jax.Array, right: jax.Array, batches: Batch, missing: jax.Array, rarity: Any, wanted: Wanted):
    def one(missing, batch):
        table = jnp.matmul(left[batch.user], right.T, precision=jax.lax.Precision.HIGHEST)
        return _ranked(table, batch, missing, rarity, wanted)

    return jax.lax.scan(one, missing, batches)


@functools.partial(jax.jit, static_argnames=("wanted",))
def _in_table(table: jax.Array, batch: Batch, missing: jax.Array, rarity: Any, wanted: Wanted):
    return _ranked(table, batch, missing, rarity, wanted)


@jax.jit
def _pairs(left: jax.Array, right: jax.Array, user: jax.Array, items: jax.Array) -> jax.Array:
    return (left[user][:, None] * right[items]).sum(axis=-1)  # not a product: equal rows are to have equal scores


def _ranked(table: jax.Array, batch: Batch, missing: jax.Array, rarity: jax.Array, wanted: Wanted):
    """(log of the probability that an item is in no top list so far, (above, equal, candidates, rarity))."""
    table = table.at[batch.seen_row, batch.seen_item].set(-jnp.inf, mode="drop")
    own = table[batch.row, batch.item]
    rows, own_column = table[batch.row], own[:, None]
    # One reduction of two numbers reads the scores once, and XLA makes vector code of it; two sums are 10 times slower.
    counts = [compared.astype(jnp.int32) for compared in (rows > own_column, rows == own_column)]
    zero = np.int32(0)
    above, equal = jax.lax.reduce(counts, [zero, zero], lambda one, two: [a + b for a, b in zip(one, two)], (1,))  # noqa: B905
    lost = own == -jnp.inf
    above, equal = jnp.where(lost, MISSED, above), jnp.where(lost, 1, equal)
    open_to, means = (table > -jnp.inf).sum(axis=1, dtype=jnp.int32), []
    if wanted.tops:
        # The barrier: a slice of what top_k returns makes XLA sort whole rows, which takes 50 times as long.
        best = jax.lax.optimization_barrier(jax.lax.top_k(table, max(wanted.tops))[0])
        for k in wanted.tops:
            edge = best[:, k - 1 : k]
            over, level = table > edge, (table == edge) & (edge > -jnp.inf)
            left_over = k - over.sum(axis=1, keepdims=True, dtype=jnp.int32)
            share = left_over / jnp.maximum(level.sum(axis=1, keepdims=True, dtype=jnp.int32), 1)
            chance = jnp.where(over, 1.0, jnp.where(level, share, 0.0)).astype(np.float32)
            total = jnp.matmul(chance, rarity, precision=jax.lax.Precision.HIGHEST)
            means.append(total / jnp.maximum(jnp.minimum(open_to, k), 1))
            lists = jnp.log1p(-jnp.minimum(chance, 1.0) * batch.real[:, None]).sum(axis=0)
            missing = missing.at[len(means) - 1].add(lists)
    means = jnp.stack(means) if means else jnp.zeros((0, table.shape[0]), np.float32)
    return missing, (above, equal, open_to if wanted.candidates else None, means)  # XLA leaves out what none asks for

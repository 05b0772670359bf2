"""Which row goes into which shard: all shards get the same work, whatever the rows' degrees."""

from typing import NamedTuple

import numpy as np

SOLVE = 16  # a row's solve costs about as much as so many of its entries: r³/3 operations against r², r in the tens


class Dealt(NamedTuple):
    """`shard` int32 `(rows,)`, `place` int32 `(rows,)` of each row in its shard, `size` the places that a shard has."""

    shard: np.ndarray
    place: np.ndarray
    size: int

    def at(self) -> np.ndarray:
        """int64 `(rows,)`: the rows' places in the factor table `(shards * size, rank)`."""
        return self.shard.astype(np.int64) * self.size + self.place


def deal(degree: np.ndarray, shards: int) -> Dealt:
    """Rows with these many entries, the costliest first, each to the shard that has cost least so far (of several, to
    the first). A row costs its degree and `SOLVE`.

    Rows of one degree are alike, so they are dealt together: how many a shard takes follows from the level up to which
    they fill all. So 10^8 rows take as many steps as there are different degrees, and every shard gets its share of
    each degree; a shard's rows then meet about as many distinct rows of the other side as another's do. No row is cut:
    one with more entries than a shard's share makes that shard the largest.

    Args:
        degree: whole numbers `(rows,)`.

    Returns:
        a function of the arguments alone; within a shard the places are in the order of dealing.
    """
    order = np.argsort(-degree.astype(np.int64), kind="stable")
    ordered = degree[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    load, dealt = np.zeros(shards, np.int64), np.empty(len(degree), np.int32)
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), len(degree)], strict=True):
        cost = int(ordered[start]) + SOLVE
        if end - start == 1:
            taker = int(load.argmin())
            dealt[start], load[taker] = taker, load[taker] + cost
            continue
        takers, last = _filled(load, cost, end - start)
        dealt[start:end] = takers
        load = last
    shard = np.empty(len(degree), np.int32)
    shard[order] = dealt
    by_shard = np.argsort(dealt, kind="stable")
    counts = np.bincount(dealt, minlength=shards)
    place = np.empty(len(degree), np.int32)
    place[order[by_shard]] = np.arange(len(degree)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Dealt(shard, place, max(int(counts.max()), 1))


def _filled(load: np.ndarray, cost: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the shards that take `count` rows of one cost, one after the other; the loads then)."""
    # All but the last few rows are certain: up to the level that the emptiest shards reach together.
    low, high = int(load.min()), int(load.min()) + cost * count
    while low < high:  # the highest level to which the shards can be filled with whole rows
        middle = (low + high + 1) // 2
        if int((np.maximum(middle - load, 0) // cost).sum()) <= count:
            low = middle
        else:
            high = middle - 1
    taken = np.maximum(low - load, 0) // cost
    left = count - int(taken.sum())
    while left:  # those at the level take one more each, the emptiest first
        loads = load + taken * cost
        next_ones = np.argsort(loads, kind="stable")[:left]
        taken[next_ones] += 1
        left -= len(next_ones)
    # In the order of dealing: a row goes to the shard that is emptiest when its turn comes.
    shards = np.repeat(np.arange(len(load), dtype=np.int32), taken)
    turn = np.arange(count) - np.repeat(np.cumsum(taken) - taken, taken)
    return shards[np.argsort(load[shards] + turn * cost, kind="stable")], load + taken * cost

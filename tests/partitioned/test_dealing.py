"""Rows are dealt to shards so that each has the same work and meets as many rows of the other side."""

import heapq

import numpy as np
import pytest

from jals.partitioned.dealing import SOLVE, deal


def one_by_one(degree, shards):
    """The rule, row by row."""
    heap = [(0, shard) for shard in range(shards)]
    dealt = np.empty(len(degree), int)
    for row in np.argsort(-degree, kind="stable"):
        load, shard = heapq.heappop(heap)
        dealt[row] = shard
        heapq.heappush(heap, (load + int(degree[row]) + SOLVE, shard))
    return dealt


@pytest.mark.parametrize("seed", range(40))
def test_rows_of_one_degree_are_dealt_as_one_by_one(seed):
    rng = np.random.default_rng(seed)
    degree = np.minimum((rng.pareto(1.1, rng.integers(1, 400)) * rng.integers(1, 6)).astype(int), 5000)
    shards = int(rng.integers(1, 40))
    dealt = deal(degree, shards)
    assert np.array_equal(dealt.shard, one_by_one(degree, shards))
    places = dealt.at()
    assert len(np.unique(places)) == len(degree) and places.max() < shards * dealt.size and dealt.place.min() == 0
    assert dealt.size == np.bincount(dealt.shard).max()


def imbalance(numbers):
    """How much the largest part has above the mean."""
    return float(numbers.max() / numbers.mean() - 1)


def parts_of_a_web(rows, entries, parts, seed=0):
    """(entries, distinct remote rows) of each part, of both sides of a table whose degrees follow power laws: outwards
    of exponent 2.7 and inwards of 2.1, as links of web pages do; the largest row has a twentieth of a part of 256, as
    at web scale (10^7 of 3·10^10 links)."""
    rng = np.random.default_rng(seed)
    cap = entries / 256 / 20
    ends = []
    for exponent in (2.7, 2.1):
        degree = (1 - rng.random(rows)) ** (-1 / (exponent - 1))
        for _ in range(20):  # scaled to the number of entries, under the cap
            degree = np.minimum(degree * (entries / degree.sum()), cap)
        ends.append(rng.permutation(np.repeat(np.arange(rows), rng.poisson(degree))))
    most = min(map(len, ends))
    keys = np.unique(ends[0][:most] * rows + ends[1][:most])
    sides = np.divmod(keys, rows)
    found = []
    for side, other in (sides, sides[::-1]):
        shard = deal(np.bincount(side, minlength=rows), 256).shard[side]
        for count in parts:
            part = shard // (256 // count)
            held = np.bincount(part, minlength=count)
            pairs = np.unique(part * np.int64(rows) + other)
            found.append((count, imbalance(held), imbalance(np.bincount(pairs // rows, minlength=count))))
    return found


def check_balance(rows, entries):
    found = parts_of_a_web(rows, entries, (8, 64, 256))
    for count, of_entries, of_rows in found:
        print(f"{count} parts: entries {of_entries:.2%}, distinct remote rows {of_rows:.2%}")
        assert of_entries <= 0.1 and of_rows <= 0.1
    return found


def test_parts_of_a_power_law_are_alike():
    assert len(check_balance(30_000, 1_000_000)) == 6


@pytest.mark.slow
def test_parts_of_a_large_power_law_are_alike():
    check_balance(2_000_000, 60_000_000)


def test_dealing_in_the_order_of_rows_would_not_do():
    """The measure tells a bad dealing from a good one."""
    degree = np.sort(np.random.default_rng(0).pareto(1.5, 10_000) * 10 + 1).astype(int)
    shards = np.arange(10_000) * 8 // 10_000
    assert imbalance(np.bincount(shards, degree)) > 1 > 0.01 > imbalance(np.bincount(deal(degree, 8).shard, degree))

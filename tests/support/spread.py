"""Problems on several host devices, beside the same on one."""

import contextlib
import functools
from unittest import mock

import numpy as np

import jals
from jals.model import layouts, sources, spreading
from tests.support import tables

SHARDS, GIANT = 40, 8  # so that several rows of the small table are giants


@contextlib.contextmanager
def small(giants: bool = True, shards: int = SHARDS):
    """Few and small slabs, so that rows are cut in a small table, and as many shards as it can fill."""
    sizes = dict.fromkeys(layouts.SIZES, layouts.Sizes(widths=2, slots=8, rows=3, pieces=5))
    cut = {"_MAX_WIDTH": 4, "_MIN_CUT_WIDTH": 3, "_WIDTH_SLOTS": 0, "SIZES": sizes}
    giant = mock.patch.object(sources, "GIANT", GIANT if giants else 10**6)
    with mock.patch.multiple(layouts, **cut), mock.patch.multiple(spreading, SHARDS=shards, GIANT_WIDTH=3), giant:
        yield


def ratings(dtype=np.float64, data: str = "together") -> jals.Ratings:
    table = tables.table(data, weighted=True)
    numbers = table.value.astype(dtype), table.num_users, table.num_items
    return jals.Ratings.from_arrays(table.user, table.item, *numbers, weight=table.weight.astype(dtype))


@functools.cache
def problem(devices=None, exchange="auto", giants: bool = True, shards: int = SHARDS, dtype=np.float64):
    """The table of every kind of data; on one device where `devices` is None."""
    with small(giants, shards):
        made = jals.Problem.build(ratings(dtype), devices=devices, exchange=exchange)
    if devices is not None:
        assert (made.user_side.giants is not None) == giants
    return made


def objective(preset: str, dtype=np.float64) -> jals.Objective:
    return tables.objective(tables.setting(preset, tables.table("together", weighted=True))).cast(dtype)


def pairs(count: int = 50):
    """(user, item) of some pairs of the table."""
    table, rng = tables.table("together", weighted=True), np.random.default_rng(3)
    return rng.integers(0, table.num_users, count), rng.integers(0, table.num_items, count)

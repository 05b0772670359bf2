"""Tables of which only the sizes are known: how long their rows would be, and what layouts and exchanges then take.

The model: the r-th longest row of a side has c r^-skew entries, but no more than there are rows opposite, with c such
that they add up to the table's. Which rows an entry joins is independent of one another: so a row with d entries is met
by a part of the rows opposite, that has a share f of all entries, with probability 1 - (1 - f)^d. In real tables, where
rows with neighbours in common lie together, fewer are. Rows are dealt to shards in turn, as `Places.deal` does about.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import numpy as np

from ..model.exchange import Amounts, Exchange, Route
from ..model.layouts import Bucket, Giants, Room, Side
from ..model.places import SIDES, Places
from ..model.problem import Problem
from ..model.sharded import Sharded
from ..model.shards import Plan
from ..model.slots import Slots
from ..model.sources import giant_from
from ..model.spreading import GIANT_WIDTH, SHARDS, chosen, room_of_giants
from ..partitioned.dealing import deal
from ..reals import MOST

SKEW = 0.75  # of words, links and purchases between 0.5 and 1
_BINS = 4096
_LEAST = 0.01  # of a skew
_AT_ONCE = 2**20  # rows of which each is looked at


class Degrees(NamedTuple):
    """How many entries a side's rows have: `scale` r^-skew the r-th longest, `most` at the most. For sums over rows:
    `count` `(bins,)` of them have about `entries` `(bins,)`."""

    rows: int
    scale: float
    skew: float
    most: int
    entries: np.ndarray
    count: np.ndarray

    def of(self, rank: np.ndarray) -> np.ndarray:
        """Of rows by their rank, from 1."""
        return np.minimum(self.scale * rank**-self.skew, self.most)

    def longer(self, least: int) -> int:
        """How many rows have so many entries or more."""
        if least > min(self.scale, self.most):
            return 0
        return min(self.rows, int((self.scale / least) ** (1 / self.skew)))


@functools.lru_cache(64)
def degrees(rows: int, entries: int, skew: float, most: int) -> Degrees:
    edges = np.unique(np.geomspace(1, rows + 1, _BINS).round().astype(np.int64))
    count = np.diff(edges)
    shape = (edges[:-1] + (count - 1) / 2) ** -skew
    low, high = 0.0, most / shape.min()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if count @ np.minimum(middle * shape, most) < entries else (low, middle)
    return Degrees(rows, high, skew, most, np.minimum(high * shape, most), count)


def skew_of(median: float, mean: float) -> float:
    """The skew of a side whose rows have so many entries: median / mean is (1 - skew) 2^skew."""
    low, high = _LEAST, 1 - _LEAST
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if (1 - middle) * 2**middle > median / mean else (low, middle)
    return high


class Laid(NamedTuple):
    """One side, as it would be laid out.

    Attributes:
        widths, rooms: as of `shards.Plan`.
        giants: how many rows are.
        of_giants: their entries.
    """

    widths: tuple[int, ...]
    rooms: tuple[Room, ...]
    giants: int
    of_giants: np.ndarray


@functools.lru_cache(64)
def laid_out(rows: int, entries: int, skew: float, others: int, shards: int, platform: str, giants: bool) -> Laid:
    of = degrees(rows, entries, skew, others)
    count = of.longer(giant_from(entries, shards)) if giants else 0
    # Of many rows one shard stands for all: every so manieth row, which is what dealing comes to.
    ranks = np.arange(count + 1, rows + 1, 1 if rows <= _AT_ONCE else shards)
    degree = np.rint(of.of(ranks.astype(float))).astype(np.int32)
    degree[:1] = np.maximum(degree[:1], 1)
    by_shard = degree[None]
    if rows <= _AT_ONCE:
        dealt = deal(degree, shards)
        by_shard = np.zeros((shards, dealt.size), np.int32)
        by_shard.reshape(-1)[dealt.at()] = degree
    plan = Plan(by_shard, platform)
    return Laid(tuple(plan.widths), tuple(plan.rooms), count, of.of(np.arange(1.0, count + 1)))


class Table:
    """The abstract problem of a job on a mesh, and what there is to say of it; see `compiling.Program`."""

    def __init__(self, job: Any, mesh: Any):
        self.job, self.mesh, self.devices = job, mesh, mesh.size
        self.spread = self.devices > 1
        # Factors in bfloat16 are computed with in float32.
        self.dtype = np.dtype("float32" if job.precision == "bfloat16" else job.precision)
        least = self.devices * job.exchanges
        self.shards = job.shards or -(-max(SHARDS, least) // least) * least
        if not self.spread:  # where there are none, this keeps small what is looked at here
            self.shards = -(-max(job.users, job.items) // _AT_ONCE)
        asked = job.way if job.exchanges == 1 else (job.way, job.exchanges)
        if self.spread:
            Places.of_sizes(self.shards, (job.users, job.items)).check_devices(self.devices)
            self.asked = Exchange.of(asked, self.shards // self.devices)
        # Of tables in files no row is dealt over all devices, and entries have no numbers; nor in larger ones.
        self.in_files = bool(job.shards)
        self.numbered = not self.spread or (not self.in_files and job.entries <= MOST)
        self.rows = {"user": job.users, "item": job.items}

    def array(self, shape: tuple[int, ...], dtype: Any, spread: bool = True) -> Any:
        spec = jax.sharding.PartitionSpec(*self.mesh.axis_names) if spread else jax.sharding.PartitionSpec()
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(self.mesh, spec))

    @property
    def places(self) -> Places | None:
        """None on one device, where rows lie by their numbers."""
        return Places.of_sizes(self.shards, (self.job.users, self.job.items)) if self.spread else None

    def count(self, side: str) -> int:
        """Rows of the side's table of factors."""
        return self.rows[side] if self.places is None else self.places.count(side)

    def problem(self) -> Problem:
        sides, slots = map(tuple, zip(*(self._side(side) for side in SIDES), strict=True))
        job, rows = self.job, (self.rows["user"], self.rows["item"])
        coded = job.value != "float"
        if self.spread:
            numbers = tuple(self.array((self.count(side),), np.int32) for side in SIDES)
            more = {"places": self.places, "rows": numbers, "entries": job.entries, "ordered": False}
            columns = (None,) * 4
            return Sharded(*columns, *sides, *slots, *rows, compact=coded, **more)  # pyright: ignore
        user, item, value = (self.array((job.entries,), each) for each in (np.int32, np.int32, self.dtype))
        weight = self.array((job.entries,), self.dtype) if job.weighted else None
        return Problem(user, item, value, weight, *sides, *slots, *rows, compact=coded)  # pyright: ignore

    def laid(self, side: str) -> Laid:
        other = SIDES[side == "user"]
        skew = self.job.skew[SIDES.index(side)]
        sizes = self.rows[side], self.job.entries, skew, self.rows[other]
        return laid_out(*sizes, self.shards, self.job.platform, giants=self.spread and not self.in_files)

    def amounts(self, side: str, groups: int, giants: bool) -> Amounts:
        """What the entries of a side's rows need of the other's, those of giants, or the rest."""
        other, laid = SIDES[side == "user"], self.laid(side)
        of_giants = float(laid.of_giants.sum()) / self.job.entries
        parts = self.devices * groups
        share = (of_giants if giants else 1 - of_giants) / parts
        skew = self.job.skew[SIDES.index(other)]
        of = degrees(self.rows[other], self.job.entries, skew, self.rows[side])
        met = -np.expm1(np.log1p(-min(share, 1 - 1e-12)) * of.entries)
        mean, variance = float(of.count @ met), float(of.count @ (met * (1 - met)))

        def most(cut: int) -> int:
            """The most of all parts, of those of each device where the other side is cut: of a normal number of each,
            what is expected to be passed once."""
            largest = mean / cut + math.sqrt(2 * math.log(parts * cut) * variance / cut)
            return max(1, min(math.ceil(largest), self.count(other) // cut))

        return Amounts(self.devices, groups, self.count(other), most(self.devices), most(1))

    def exchange(self, side: str) -> tuple[str, int, Amounts]:
        """(way, exchanges, what is needed) of one half-sweep."""
        groups = 1 if self.asked is None else self.asked.groups
        needs = self.amounts(side, groups, giants=False)
        return chosen(needs, self.dtype) if self.asked is None else self.asked.way, groups, needs

    # ---- the arrays ----

    def _side(self, side: str) -> tuple[Side, Slots]:
        laid = self.laid(side)
        buckets = [self._bucket(room, width, self.shards) for room, width in zip(laid.rooms, laid.widths, strict=True)]
        entries = min(self.job.entries, MOST)
        if not self.spread:
            layout = Side(tuple(buckets), self.rows[side], entries)
            return layout, self._slots(layout)
        way, _, needs = self.exchange(side)
        giants = self._giants(side, laid) if laid.giants else None
        route = self._route(way, needs)
        layout = Side(tuple(buckets), self.count(side), entries, mesh=self.mesh, route=route, giants=giants)
        return layout, self._slots(layout)

    def _slots(self, layout: Side) -> Slots:
        shapes = [bucket.other.shape for bucket in layout.every_bucket]
        coded = self.job.value != "float"
        value = tuple(self.array(shape, np.dtype(self.job.value) if coded else self.dtype) for shape in shapes)
        weight = tuple(self.array(shape, self.dtype) for shape in shapes) if self.job.weighted else None
        scale = self.array((2,), self.dtype, spread=False) if coded else None
        return Slots(value, weight, self.array((layout.num_rows,), self.dtype), scale)

    def _bucket(self, room: Room, width: int, parts: int) -> Bucket:
        slabs = parts * room.slabs
        shape = slabs, room.rows if room.pieces is None else room.pieces, width
        row, other, by_piece = (self.array(each, np.int32) for each in ((slabs, room.rows), shape, shape[:2]))
        numbers = (other, None) if self.numbered else (None, by_piece)
        return Bucket(row, other, numbers[0], None if room.pieces is None else by_piece, room.step, numbers[1])

    def _route(self, way: str, needs: Amounts) -> Route:
        where = self.array((self.devices, needs.groups, self.devices, needs.block), np.int32)
        give, put = None if way == "all_gather" else where, where if way == "ring" else None
        return Route(give, put, way, needs.groups, needs.given_rows(way))

    def _giants(self, side: str, laid: Laid) -> Giants:
        here = np.ceil(laid.of_giants / self.devices)
        width = int(min(GIANT_WIDTH, max(1, here.sum())))
        room = room_of_giants(laid.giants, int(np.ceil(here / width).sum()), width, self.job.platform)
        needs = self.amounts(side, 1, giants=True)
        route = self._route(chosen(needs, self.dtype), needs)
        return Giants(self._bucket(room, width, self.devices), self.array((self.devices, laid.giants), np.int32), route)


def told(job: Any, devices: int) -> tuple[str, ...]:
    """What is assumed of a job's table on so many devices, in words."""
    table = Table(job, jax.sharding.AbstractMesh((devices,), ("devices",)))
    skews = "{:.2f} of users and {:.2f} of items".format(*job.skew)
    found = [f"the table is modelled: the r-th longest row has c / r^s entries, s {skews}; values as {job.value}"]
    if not table.spread:
        return tuple(found)
    ways = []
    for side in SIDES:
        way, groups, _ = table.exchange(side)
        ways.append(f"{side}s by {way}" + (f" in {groups:,} exchanges" if groups > 1 else ""))
    giants = " and ".join(f"{table.laid(side).giants:,} {side}s" for side in SIDES)
    found.append(f"rows are sent for {', '.join(ways)}; {table.shards:,} shards; {giants} have entries on all devices")
    return tuple(found)

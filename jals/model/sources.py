"""Where the entries of a table come from that is spread over devices, a shard at a time: ratings in memory, whose rows
are dealt here, or a partitioned table."""

from typing import Any, NamedTuple, Protocol

import numpy as np

from ..data import grouping
from ..data.ratings import Ratings
from ..data.vocabulary import Vocabulary
from ..errors import DataError
from ..partitioned.manifest import MOST, Manifest
from ..partitioned.reader import read_shard, row_places
from .places import SIDES, Places, places_of
from .problem import numbers_of
from .slots import codes, is_lean

# A row of so many entries and more, and of more than a shard's share of them, has these on all devices.
GIANT = 2**16
MOST_GIANT = 2**20  # however large a share is: such a row alone would fill a slab, and all slabs are as large as one


class Part(NamedTuple):
    """Some entries of one side: `row` int32, the place in the shard, or the number of the giant; `other` int32, the
    other side's place; `number` int32, of the entry, or None; `value` and `weight`, None for 1; all `(entries,)`."""

    row: np.ndarray
    other: np.ndarray
    number: np.ndarray | None
    value: np.ndarray
    weight: np.ndarray | None


class Source(Protocol):
    """Where entries come from.

    Attributes:
        places: where the rows lie.
        rows: {side: how many there are}.
        entries: of the table.
        dtype: of the problem's numbers.
        scale: as of `Slots`, where values are codes.
        weighted: whether there are weights.
        giants: {side: int32, the places of rows whose entries are in no shard, increasing}.
        compact: as of `Problem`.
    """

    places: Places
    rows: dict[str, int]
    entries: int
    dtype: Any
    scale: Any
    weighted: bool
    giants: dict[str, np.ndarray]
    compact: bool

    def shard(self, side: str, number: int) -> Part:
        """The entries of a shard, but for those of giants."""
        ...

    def of_giants(self, side: str, part: int, parts: int) -> Part:
        """One of so many equal parts of the giants' entries."""
        ...


class OfRatings:
    """A `Source`: a table in memory, whose rows are dealt here."""

    def __init__(self, ratings: Ratings, shards: int, places: Places | None = None):
        columns = {"user": ratings.user, "item": ratings.item}
        self.rows = {"user": ratings.num_users, "item": ratings.num_items}
        degrees = {side: np.bincount(columns[side], minlength=self.rows[side]) for side in SIDES}
        most = giant_from(len(ratings), shards)
        giant = {side: degree >= most for side, degree in degrees.items()}
        if places is None:
            # What giants' entries cost is spread anyway.
            users, items = (np.where(giant[side], 0, degrees[side]) for side in SIDES)
            places = Places.deal((users, items), shards)
        self.places, self.entries = places, len(ratings)
        value, self._weight = numbers_of(ratings)
        self.compact, self.dtype, self.weighted = is_lean(ratings), value.dtype, self._weight is not None
        coded, self.scale = codes(value) if self.compact else (None, None)
        self._value = value if coded is None else coded
        self._at = {side: places.side(side).at[columns[side]] for side in SIDES}
        self.giants = {side: np.sort(places.side(side).at[giant[side]]) for side in SIDES}
        self._grouped = {side: grouping.group(self._at[side], places.count(side)) for side in SIDES}

    def shard(self, side: str, number: int) -> Part:
        start, _ = self._grouped[side]
        size = self.places.side(side).size
        first, last = number * size, (number + 1) * size
        chosen = self._numbers(side, slice(start[first], start[last]))
        row = self._at[side][chosen]
        here = self.giants[side]
        if len(here := here[(here >= first) & (here < last)]):
            kept = ~np.isin(row, here)
            chosen, row = chosen[kept], row[kept]
        return self._part(side, chosen, row - np.int32(first))

    def of_giants(self, side: str, part: int, parts: int) -> Part:
        start, _ = self._grouped[side]
        every = [self._numbers(side, slice(start[place], start[place + 1])) for place in self.giants[side]]
        # Each giant's entries in equal parts, so that the devices have as much of each.
        cuts = [each[len(each) * part // parts : len(each) * (part + 1) // parts] for each in every]
        row = np.repeat(np.arange(len(cuts), dtype=np.int32), [len(cut) for cut in cuts])
        return self._part(side, np.concatenate([np.empty(0, np.int32), *cuts]), row)

    def _numbers(self, side: str, where: slice) -> np.ndarray:
        order = self._grouped[side][1]
        return np.arange(where.start, where.stop, dtype=np.int32) if order is None else order[where]

    def _part(self, side: str, chosen: np.ndarray, row: np.ndarray) -> Part:
        opposite = SIDES[side == "user"]
        weight = None if self._weight is None else self._weight[chosen]
        return Part(row, self._at[opposite][chosen], chosen, self._value[chosen], weight)


class OfFiles:
    """A `Source`: a partitioned table, of which each shard is read where it is needed. Entries have no numbers, and
    values are not coded, as no process has seen all."""

    def __init__(self, manifest: Manifest, dtype: Any):
        self._manifest = manifest
        self._found = {side: row_places(manifest, side) for side in SIDES}
        self.places, self.entries = dealt(manifest, self._found), manifest.entries
        self.rows = {side: getattr(manifest, side).rows for side in SIDES}
        self.scale, self.weighted, self.compact = None, manifest.weighted, False
        self.dtype = np.dtype(dtype)
        self.giants = {side: np.empty(0, np.int32) for side in SIDES}
        users, items = self._found["user"][0], self._found["item"][0]
        self.vocab = None if users is None or items is None else Vocabulary(users, items)
        self._files = {side: manifest.shard_files(side) for side in SIDES}

    def shard(self, side: str, number: int) -> Part:
        opposite = SIDES[side == "user"]
        part = read_shard(self._manifest, side, number, self._files[side][number], self._found)
        if len(part["row"]) > MOST:
            raise DataError(f"shard {number} of the {side} side has 2**31 entries or more: partition into more shards.")
        weight = part["weight"].astype(self.dtype) if self.weighted else None
        other = self.places.side(opposite).at[part["other"]]
        # Places here are in the order of the rows' numbers, and may have been others there.
        own = self.places.side(side)
        found = self._found[side][1][number * getattr(self._manifest, side).size + part["row"]]
        row = own.at[found] - np.int32(number * own.size)
        return Part(row, other, None, part["value"].astype(self.dtype), weight)

    def of_giants(self, side: str, part: int, parts: int) -> Part:
        none = np.empty(0, np.int32)  # as in files every row lies whole in its shard
        return Part(none, none, None, none.astype(self.dtype), none.astype(self.dtype) if self.weighted else None)


def dealt(manifest: Manifest, found: Any) -> Places:
    """The places of rows in the shards that a table has dealt them to; `found`: what `row_places` says of each side."""
    sides = []
    for side in SIDES:
        row_at, size = found[side][1], getattr(manifest, side).size
        there = np.flatnonzero(row_at >= 0)
        shard = np.empty(getattr(manifest, side).rows, np.int32)
        shard[row_at[there]] = there // size
        sides.append(places_of(shard, manifest.shards))
    return Places(manifest.shards, *sides)


def giant_from(entries: int, shards: int) -> int:
    """With how many entries a row has them on all devices."""
    return max(GIANT, min(entries // shards, MOST_GIANT))

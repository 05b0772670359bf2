"""Shards of one side that are laid out alike: arrays of the same shapes, so that one program solves them all."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from ..data import grouping
from .layouts import Bucket, Room, Side, choose_widths, find_room, lay_out, sizes_of
from .problem import Problem
from .slots import Slots


class Pieces(NamedTuple):
    """A bucket of a shard, see `layouts.Bucket`: `row`, `other` and `piece_row`; `length` int32 `(slabs, pieces)`, how
    many of a piece's slots hold an entry; `value` and `weight` as of `Slots`."""

    row: Any
    other: Any
    length: Any
    value: Any
    piece_row: Any = None
    weight: Any = None


class Shard(NamedTuple):
    """Some rows of one side, with all of their entries.

    Attributes:
        rows: int32 `(size,)`, the row of the table at each place; the side's number of rows where there is none.
        count: int32 `(size,)`, how many entries of weight > 0 each has.
        buckets: of the places; those without an entry lie in the last one, of width 0.
    """

    rows: Any
    count: Any
    buckets: tuple[Pieces, ...]

    @classmethod
    def of(cls, arrays: Mapping[str, Any]) -> "Shard":
        """From what `named` gives."""
        buckets, parts = [], {name.partition(".")[0] for name in arrays} - {"rows", "count"}
        for place in sorted(parts, key=int):
            given = {name: arrays.get(f"{place}.{name}") for name in Pieces._fields}
            buckets.append(Pieces(**given))
        return cls(arrays["rows"], arrays["count"], tuple(buckets))

    def named(self) -> dict[str, Any]:
        """The arrays by name."""
        found = {"rows": self.rows, "count": self.count}
        for place, bucket in enumerate(self.buckets):
            found |= {f"{place}.{name}": each for name, each in bucket._asdict().items() if each is not None}
        return found

    def problem(self, side: str, others: int, steps: tuple[int, ...], scale: Any, dtype: Any) -> Problem:
        """The shard as a problem of one side, "user" or "item", like that of `Problem.of_side`, against so many rows of
        the other; traceable. `steps` are those of its `Plan`, `scale` that of `Slots`."""
        size, buckets = len(self.rows), []
        for pieces, step in zip(self.buckets, steps, strict=True):
            bucket = Bucket(pieces.row, pieces.other, None, pieces.piece_row, step, pieces.length)
            buckets.append(bucket.numbered(1))
        weighted = any(pieces.weight is not None for pieces in self.buckets)
        weight = tuple(pieces.weight for pieces in self.buckets) if weighted else None
        values = tuple(pieces.value for pieces in self.buckets)
        slots = Slots(values, weight, self.count.astype(dtype), scale)  # pyright: ignore
        nothing = Slots((), (), jnp.full(others, jnp.nan, dtype))
        here, there = Side(tuple(buckets), size, 1, part=True), Side((), others, 1)
        columns = jnp.zeros(1, jnp.int32), jnp.zeros(1, jnp.int32), jnp.zeros(1, dtype), None
        if side == "user":
            return Problem(*columns, here, there, slots, nothing, size, others)
        return Problem(*columns, there, here, nothing, slots, others, size)


class Plan:
    """How all shards of a side are laid out: by widths that are fitted to the rows of all of them, each bucket with
    room for the largest shard's.

    Args:
        degree: `(shards, size)`, the entries at each place; 0 where there is no row.
        platform: that jax is on, see `layouts.Sizes`.

    Attributes:
        widths, rooms: of each bucket.
    """

    widths: list[int]
    rooms: list[Room]

    def __init__(self, degree: np.ndarray, platform: str):
        sizes, filled = sizes_of(platform), degree > 0
        widths, at, pieces = choose_widths(degree[filled], "bucketed", sizes.widths)
        self.widths = [*widths.tolist(), 0]
        self._at = np.full(degree.shape, len(widths), np.int8)
        self._pieces = np.ones(degree.shape, np.int32)
        self._at[filled], self._pieces[filled] = at, pieces
        self.rooms = []
        for place, width in enumerate(self.widths):
            parts = [pieces[at == place] for at, pieces in zip(self._at, self._pieces, strict=True)]
            self.rooms.append(find_room(parts, width, sizes))

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(room.step for room in self.rooms)

    def buckets(self, shard: int, start: np.ndarray, order: Any, other: np.ndarray, first: int = 0) -> list[Bucket]:
        """A shard's buckets, of entries grouped by place (`grouping.group`); its own places begin at `first`."""
        found = []
        for at, (width, room) in enumerate(zip(self.widths, self.rooms, strict=True)):
            chosen = np.flatnonzero(self._at[shard] == at)
            found.append(lay_out(chosen + first, self._pieces[shard][chosen], width, room, start, order, other))
        return found

    def lay_out(
        self, shard: int, rows: np.ndarray, row: np.ndarray, other: np.ndarray, value: np.ndarray, weight: Any
    ) -> Shard:
        """A shard whose entries e lie at the places `row[e]` `(entries,)`, with these values and weights (None: 1)."""
        start, order = grouping.group(row, len(rows))
        seen = row if weight is None else row[weight > 0]
        count = np.bincount(seen, minlength=len(rows)).astype(np.int32)
        buckets = []
        numbers = [None if each is None else np.append(each, each.dtype.type(0)) for each in (value, weight)]
        for laid in self.buckets(shard, start, order, other):
            length = laid.without_numbers(len(row)).length
            values, weights = (None if each is None else each[laid.entry] for each in numbers)
            buckets.append(Pieces(laid.row, laid.other, length, values, laid.piece_row, weights))
        return Shard(rows, count, tuple(buckets))

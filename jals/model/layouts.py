"""Layouts: how the ragged rows of a table become rectangular arrays that XLA can work on.

A `Side` holds all rows of one side of the table (users, or items) in a few `Bucket`s. The entries of a row lie in one
or more *pieces* of one *width*; what is left over in the last piece is padding. Pieces lie in *slabs*: solvers loop
over the slabs, so the memory they need is bounded whatever the table. The three layouts are this one structure and
differ only in how they choose widths:

- `bucketed`: a few widths a side (see `Sizes`), fitted to the table; long rows are cut into pieces. The default.
- `padded`: every row is one piece, as wide as the longest row. Simple, and wasteful for a skewed table.
- `segmented`: every row is cut into pieces of one small width. A single shape to compile, many pieces to add up.

A layout holds integers only: values and weights stay in the `Problem`, so that gradients reach them.
"""

import dataclasses
import heapq
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data import grouping
from ..errors import DataError, check_choice

LAYOUTS = ("bucketed", "padded", "segmented")

_MAX_WIDTH = 512  # longer rows are cut; wider pieces cost padding, narrower ones cost additions of partial Grams
_MIN_CUT_WIDTH = 256  # cut rows use the widths from here up: narrow ones would cost too many pieces
_PIECE_SLOTS = 8  # what adding up one more piece costs, in slots
# How many slots another width must save to be worth compiling: 25 sweeps at rank 128 over them take as long.
_WIDTH_SLOTS = 16_384
_PADDED_LIMIT = 2 * 2**30  # bytes of indices above which `padded` refuses a table


class Sizes(NamedTuple):
    """What a platform works on at a time.

    Attributes:
        widths: at most so many a side: each is compiled on its own.
        slots: so many at a time; at rank k the rows gathered for them are as many times k numbers.
        rows: in a slab, each with a matrix of its own, k^2 numbers.
        pieces: in a slab of cut rows: many, so that giant rows even out among slabs.
    """

    widths: int
    slots: int
    rows: int
    pieces: int


# Of a CPU 4k to 64k slots measured alike, more costs page faults. On an H100 2^18 slots took .42 of the time of 2^15 by
# XLA, and Cholesky in batches of 8k matrices .36 of that in batches of 1k, rank 64; with eight widths a side a fit
# compiled for 28 s.
SIZES = {"cpu": Sizes(8, 2**15, 2**10, 2**10), "accelerator": Sizes(4, 2**18, 2**13, 2**13)}


def sizes_of(platform: str) -> Sizes:
    return SIZES.get(platform, SIZES["accelerator"])


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Bucket:
    """Rows whose pieces share one width.

    Attributes:
        row: int32 `(slabs, rows)`, the row's number; `num_rows` of the side where the place is unused.
        other: int32 `(slabs, pieces, width)`, the other side's row in each slot; 0 in padding.
        entry: int32 `(slabs, pieces, width)`, the entry in each slot; `num_entries` in padding. None where entries have
            no numbers.
        piece_row: None where piece p is all of row p. Else int32 `(slabs, pieces)`, the place in `row` that each
            piece belongs to; `rows` where the piece is unused.
        step: how many pieces of a slab are worked on at a time (it divides `pieces`); static.
        length: where `entry` is None int32 `(slabs, pieces)`, how many of a piece's slots, the first, hold an entry.
    """

    row: jax.Array
    other: jax.Array
    entry: Any
    piece_row: jax.Array | None
    step: int = dataclasses.field(metadata={"static": True})
    length: jax.Array | None = None

    def __repr__(self) -> str:
        slabs = "x".join(map(str, jnp.shape(self.other)))
        return f"Bucket({slabs} slots, {'whole rows' if self.piece_row is None else 'rows in pieces'})"

    @property
    def width(self) -> int:
        return self.other.shape[-1]

    def filled(self, num_entries: int) -> jax.Array:
        """bool `(slabs, pieces, width)`: the slots that hold an entry, of so many."""
        if self.length is None:
            return self.entry != num_entries
        return jnp.arange(self.width, dtype=jnp.int32) < self.length[..., None]

    def numbered(self, num_entries: int) -> "Bucket":
        """The same with numbers of entries: 0 for all, where they have none."""
        if self.length is None:
            return self
        entry = jnp.where(self.filled(num_entries), 0, num_entries).astype(jnp.int32)
        return dataclasses.replace(self, entry=entry, length=None)

    def without_numbers(self, num_entries: int) -> "Bucket":
        """The same with lengths in their place; on the host."""
        length = np.count_nonzero(np.asarray(self.entry) < num_entries, axis=-1).astype(np.int32)
        return dataclasses.replace(self, entry=None, length=length)  # pyright: ignore


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Side:
    """All rows of one side of the table, or a `part` of them, with some of its entries. Rows without entries lie in a
    bucket of width 0. Where the rows are spread over the devices of a `mesh`, a bucket's slabs are, and `other` numbers
    what a device has been sent by its `route` (see `exchange`); the entries of `giants` are then in no bucket.
    `summed`: of a device's view of giants, which adds up what all devices have of each row."""

    buckets: tuple[Bucket, ...]
    num_rows: int = dataclasses.field(metadata={"static": True})
    num_entries: int = dataclasses.field(metadata={"static": True})
    part: bool = dataclasses.field(default=False, metadata={"static": True})
    mesh: jax.sharding.Mesh | None = dataclasses.field(default=None, metadata={"static": True})
    route: Any = None
    giants: "Giants | None" = None
    summed: bool = dataclasses.field(default=False, metadata={"static": True})

    def __repr__(self) -> str:
        """Sizes and widths, never indices. (jax may build one of placeholders.)"""
        widths = [str(bucket.width) for bucket in self.buckets if isinstance(bucket, Bucket)]
        return f"Side({self.num_rows:,} rows, {self.num_entries:,} entries, widths {', '.join(widths)})"

    @property
    def every_bucket(self) -> tuple[Bucket, ...]:
        """The buckets, that of the giants last: as the numbers of `Slots` lie."""
        return self.buckets if self.giants is None else (*self.buckets, self.giants.bucket)

    def of_pieces(self, bucket: Bucket) -> jax.Array:
        """The row of each piece of a bucket, `(slabs, pieces)`; `num_rows` where it is unused."""
        if bucket.piece_row is None:
            return bucket.row
        beyond = jnp.full((bucket.row.shape[0], 1), self.num_rows, bucket.row.dtype)
        return jnp.take_along_axis(jnp.concatenate([bucket.row, beyond], axis=1), bucket.piece_row, axis=1)

    def describe(self) -> dict:
        """What the layout costs: widths, rows with entries, slots (padding included) and pieces, bytes of indices."""
        buckets = [bucket for bucket in self.buckets if bucket.width]
        rows = sum(int((np.asarray(bucket.row) < self.num_rows).sum()) for bucket in buckets)
        pieces = sum(
            int(np.sum(np.asarray(bucket.filled(self.num_entries)[..., 0]))) for bucket in buckets
        )  # a piece in use has an entry in its first slot
        slots = sum(bucket.other.size for bucket in buckets)
        return {
            "widths": sorted(bucket.width for bucket in buckets),
            "rows": rows,
            "entries": self.num_entries,
            "slots": slots,
            "slots_per_entry": slots / self.num_entries,
            "pieces_per_row": pieces / rows,
            "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(self)),
        }


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Giants:
    """Rows with so many entries that these are spread over all devices, whatever the rest is; each device adds up its
    part, and the sums are added over the devices.

    Attributes:
        bucket: slab d is that of device d: `row` numbers the giants from 0, `other` what the `route` brings.
        place: int32 `(devices, giants)`, where they lie among the side's rows: the same for each device.
        route: as of `Side`.
    """

    bucket: Bucket
    place: jax.Array
    route: Any


def build_side(
    row: np.ndarray, other: np.ndarray, num_rows: int, layout: str, platform: str = "cpu"
) -> Side:
    """Lays out the entries `(row[e], other[e])` of one side, on the host.

    Args:
        row, other: int32 `(entries,)`, this side's and the other side's row of every entry.
        num_rows: rows of this side, empty ones included.
        layout: "bucketed", "padded" or "segmented".
        platform: that jax is on: it says what is worked on at a time, see `Sizes`.

    Raises:
        DataError: when `padded` would need more than 2 GiB for this table.
    """
    check_choice("layout", layout, LAYOUTS)
    sizes = sizes_of(platform)
    start, order = grouping.group(row, num_rows)
    degree = np.diff(start)
    filled = np.flatnonzero(degree)
    widths, at, pieces = choose_widths(degree[filled], layout, sizes.widths)
    buckets = []
    for place, width in enumerate(widths.tolist()):
        chosen, count = filled[at == place], pieces[at == place]
        room = find_room([count], width, sizes)
        buckets.append(lay_out(chosen, count, width, room, start, order, other))
    empty = np.flatnonzero(degree == 0)
    if len(empty):
        ones = np.ones_like(empty)
        buckets.append(lay_out(empty, ones, 0, find_room([ones], 0, sizes), start, order, other))
    return Side(tuple(buckets), num_rows, len(row))


def forecast_slots(degree: np.ndarray, layout: str, platform: str = "cpu") -> int:
    """How many slots rows of these degrees will take, but for the few that fill up slabs."""
    widths, at, pieces = choose_widths(degree[degree > 0], layout, sizes_of(platform).widths)
    return int((widths[at] * pieces).sum())


def choose_widths(degree: np.ndarray, layout: str, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(widths, the place of each row's width in them, pieces of each row) for rows of these degrees, all >= 1."""
    longest = int(degree.max())
    if layout == "padded":
        slot_bytes = 8 * len(degree) * longest
        if slot_bytes > _PADDED_LIMIT:
            raise DataError(
                f'layout "padded" would need {slot_bytes / 2**30:,.1f} GiB of indices: {len(degree):,} rows as wide '
                f"as the longest, {longest:,} ({len(degree) * longest / degree.sum():,.0f} slots an entry). "
                'Use layout="bucketed".'
            )
        widths = np.array([longest])
    elif layout == "segmented":
        widths = np.array([min(longest, 1 << int(np.clip(np.ceil(np.log2(np.median(degree))), 3, 7)))])
    else:
        widths = _fitted_widths(np.minimum(degree, _MAX_WIDTH), most)
    at = np.searchsorted(widths, degree)
    pieces = np.ones_like(degree)
    cut = degree > widths[-1]
    choices = np.flatnonzero(widths >= min(_MIN_CUT_WIDTH, widths[-1]))
    needed = -(-degree[cut, None] // widths[choices])
    best = np.argmin(needed * (widths[choices] + _PIECE_SLOTS), axis=1)
    at[cut], pieces[cut] = choices[best], needed[np.arange(len(best)), best]
    used, at = np.unique(at, return_inverse=True)
    return widths[used], at, pieces


def _fitted_widths(degree: np.ndarray, most: int) -> np.ndarray:
    """At most so many widths that waste the fewest slots when every row takes the least width that holds it.

    Dynamic programming over the distinct degrees: `cost[j]` is the fewest slots for the rows of degree up to
    `size[j]` with so many widths, the last of them `size[j]`.
    """
    size, rows = np.unique(degree, return_counts=True)
    up_to = np.cumsum(rows)
    cost, previous = size * up_to, [np.full(len(size), -1)]
    costs = [cost[-1]]
    added = (up_to[None, :] - up_to[:, None]) * size[None, :].astype(float)  # [i, j]: rows of degree i+1 ... j
    added[np.tril_indices(len(size))] = np.inf
    for _ in range(most - 1):
        total = cost[:, None] + added
        previous.append(total.argmin(axis=0))
        cost = total.min(axis=0)
        costs.append(cost[-1])
    count = int(np.argmin(np.array(costs) + _WIDTH_SLOTS * np.arange(len(costs))))
    widths, j = [], len(size) - 1
    for step in range(count, -1, -1):
        widths.append(size[j])
        j = previous[step][j]
    return np.array(widths[::-1])


class Room(NamedTuple):
    """What a bucket's arrays have room for: so many slabs, of so many rows and pieces each (None: every row is one
    piece), of which `step` are worked on at a time."""

    slabs: int
    rows: int
    pieces: int | None
    step: int


def find_room(parts: list[np.ndarray], width: int, sizes: Sizes) -> Room:
    """The room for rows of so many pieces each, of one width; for the largest of several parts of a side, so that all
    of them have arrays of the same shapes."""
    most = max(1, *map(len, parts))
    if all((pieces == 1).all() for pieces in parts):
        slabs = -(-most // int(np.clip(sizes.slots // max(width, 1), 1, sizes.rows)))
        rows = -(-most // slabs)
        return Room(slabs, rows, None, rows)
    slabs = -(-max(int(pieces.sum()) for pieces in parts) // sizes.pieces)
    spread = [(pieces, _balanced(pieces, slabs)) for pieces in parts if len(pieces)]
    in_slab = max(int(np.bincount(slab, pieces).max()) for pieces, slab in spread)
    steps = -(-in_slab // max(1, sizes.slots // width))
    step = -(-in_slab // steps)
    rows = max(int(np.bincount(slab).max()) for _, slab in spread)
    return Room(max(int(slab.max()) + 1 for _, slab in spread), rows, steps * step, step)


def lay_out(rows: np.ndarray, pieces: np.ndarray, width: int, room: Room, start, order: Any, other) -> Bucket:
    """The bucket of these rows, each of so many pieces; `start` and `order` as `grouping.group` gives them."""
    row, piece_row, source, number = (_whole_rows(rows, room) if room.pieces is None else _cut_rows(rows, pieces, room))
    return _fill(row, piece_row, source, number, room.step, width, start, order, other)


def _whole_rows(rows: np.ndarray, room: Room) -> tuple[np.ndarray, None, np.ndarray, np.ndarray]:
    """Slabs of rows that are one piece each: (row, piece_row, each piece's row, its number in the row)."""
    row = np.full(room.slabs * room.rows, -1, np.int64)
    row[: len(rows)] = rows
    row = row.reshape(room.slabs, room.rows)
    return row, None, row, np.zeros_like(row)


def _cut_rows(
    rows: np.ndarray, pieces: np.ndarray, room: Room
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Slabs of rows in pieces, all pieces of a row in one slab; returns as `_whole_rows`."""
    slab = _balanced(pieces, room.slabs)
    by_slab = np.argsort(slab, kind="stable")
    rows, pieces, slab = rows[by_slab], pieces[by_slab], slab[by_slab]
    place = _number_within(slab)
    row = np.full((room.slabs, room.rows), -1, np.int64)
    row[slab, place] = rows
    piece_slab = np.repeat(slab, pieces)
    piece_place = _number_within(piece_slab)
    piece_row = np.full((room.slabs, room.pieces or 0), room.rows, np.int32)
    piece_row[piece_slab, piece_place] = np.repeat(place, pieces)
    source = np.full(piece_row.shape, -1, np.int64)
    source[piece_slab, piece_place] = np.repeat(rows, pieces)
    number = np.zeros_like(source)
    number[piece_slab, piece_place] = _number_within(np.repeat(rows, pieces))
    return row, piece_row, source, number


def _balanced(pieces: np.ndarray, slabs: int) -> np.ndarray:
    """A slab for each row such that slabs hold about equally many pieces: the largest rows first, each to the
    emptiest slab."""
    slab = np.empty(len(pieces), np.int64)
    load = [(0, s) for s in range(slabs)]
    for row in np.argsort(-pieces, kind="stable").tolist():
        total, s = load[0]
        slab[row] = s
        heapq.heapreplace(load, (total + int(pieces[row]), s))
    return slab


def _number_within(group: np.ndarray) -> np.ndarray:
    """0, 1, 2 ... within each run of equal neighbours."""
    first = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
    return np.arange(len(group)) - np.repeat(first, np.diff(np.r_[first, len(group)]))


def _fill(row, piece_row, source, number, step, width, start, order: Any, other) -> Bucket:
    """The bucket's index arrays: piece `number` of row `source` holds the row's entries number * width onward."""
    begin = np.where(source >= 0, start[source] + number * width, 0).astype(np.int32)
    length = np.where(source >= 0, np.minimum(start[source + 1] - start[source] - number * width, width), 0)
    others, entries = grouping.fill(begin, length.astype(np.int32), width, order, other)
    return Bucket(np.where(row >= 0, row, len(start) - 1).astype(np.int32), others, entries, piece_row, int(step))  # pyright: ignore

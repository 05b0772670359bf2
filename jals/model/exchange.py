"""How the rows of one side's table reach the devices whose rows have entries with them.

Both factor tables are spread over the devices of a mesh, and so are the entries of either side, with their rows. A
half-sweep needs the other side's rows where the entries are. Which, is known beforehand, as the entries stay where they
are; so the ways differ in what they send and hold, not in what is computed:

- `all_gather`: every device gets the whole table. Nothing is simpler, and little is less for few devices: most rows of
  the other side are then needed everywhere. A broadcast, in textbooks.
- `routed`: the distinct rows that a device needs, in one all-to-all whose blocks are as large as the largest of them.
  Less the more devices there are. A join.
- `ring`: the devices' blocks of the table pass round, and each device takes what it needs as they pass. A device holds
  two blocks and what it needs, whatever the pattern; it sends what `all_gather` does. Block to block.

With several exchanges a half-sweep, a device's shards are worked on in as many groups, one after the other: it holds
what one group needs, and rows that several need are sent for each.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..devices import summed
from ..errors import ArgumentError, check_choice
from .layouts import Side

WAYS = ("all_gather", "routed", "ring")
AXIS = "devices"
_CLEARLY = 0.95  # of the bytes of `all_gather`: what others must stay under to be chosen for it


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Route:
    """How one side gets the other's rows.

    Attributes:
        give: of `routed` int32 `(devices, groups, devices, block)`: which of its places each device sends for a group
            of each; of `ring` `(devices, groups, devices, block)`: which places a device takes of the block that comes
            by at each step. None of `all_gather`.
        put: of `ring`, as `give`: where they are put; out of range where nothing is taken.
        way, groups: static.
        held: static; how many rows a device gets for a group.
    """

    give: jax.Array | None
    put: jax.Array | None
    way: str = dataclasses.field(metadata={"static": True})
    groups: int = dataclasses.field(metadata={"static": True})
    held: int = dataclasses.field(metadata={"static": True})

    def here(self) -> "Route":
        """On a device: its own part."""
        parts = {name: None if each is None else each[0] for name, each in (("give", self.give), ("put", self.put))}
        return dataclasses.replace(self, **parts)

    def fetch(self, tables: Any, group: Any) -> Any:
        """On a device, see `here`: the rows that a group needs of these tables, a leaf `(places here, ...)`, in the
        order in which the layout's `other` numbers them."""
        if self.way == "all_gather":
            return jax.tree.map(lambda table: jax.lax.all_gather(table, AXIS, tiled=True), tables)
        assert self.give is not None
        give = self.give[group]
        if self.way == "routed":

            def routed(table: jax.Array) -> jax.Array:
                sent = table.at[give].get(mode="promise_in_bounds")
                return jax.lax.all_to_all(sent, AXIS, 0, 0, tiled=True).reshape(-1, *table.shape[1:])

            return jax.tree.map(routed, tables)
        assert self.put is not None
        return _passed_round(tables, give, self.put[group], self.held)


def _passed_round(tables: Any, give: jax.Array, put: jax.Array, held: int) -> Any:
    """What the ring brings: at step t a device has the block of the one t places before it."""
    devices = len(give)
    to_next = [(device, (device + 1) % devices) for device in range(devices)]

    def take(found, block, give, put):
        return jax.tree.map(
            lambda found, block: found.at[put].set(block.at[give].get(mode="promise_in_bounds"), mode="drop"),
            found,
            block,
        )

    def step(carry, where):
        block, found = carry
        block = jax.tree.map(lambda part: jax.lax.ppermute(part, AXIS, to_next), block)
        return (block, take(found, block, *where)), None

    # made of the table, so that it varies over the devices as that does
    nothing = jax.tree.map(lambda table: jnp.zeros((held, *table.shape[1:]), table.dtype) + 0 * table[:1], tables)
    own = take(nothing, tables, give[0], put[0])
    return jax.lax.scan(step, (tables, own), (give[1:], put[1:]))[0][1]


def on_mesh(work: Callable, side: Side, numbers: Any, others: Any, own: Any, shared: Any) -> Any:
    """`work(side, numbers, others, own, shared)` on each device of the side's mesh, for each of its groups of rows.

    Args:
        work: gets the group's layout, rows numbered from 0 and `other` among those fetched; returns a tree of
            `(rows of the group, ...)`.
        numbers: (values, weights or None) of `Slots`.
        others: tables of the other side, a leaf `(places, ...)`; those of its rows that the group needs are fetched.
        own: a leaf `(places, ...)` of this side; `work` gets the group's rows of it.
        shared: the same for all.

    Returns: a tree of `(places, ...)`, spread as the side is.
    """
    assert side.mesh is not None
    spread, everywhere = jax.sharding.PartitionSpec(AXIS), jax.sharding.PartitionSpec()
    # Every array is an argument: derivatives in what a function closes over were seen to be wrong.
    mapped = jax.shard_map(
        functools.partial(_on_device, work),
        mesh=side.mesh,
        in_specs=(spread, spread, spread, spread, everywhere),
        out_specs=spread,
    )
    return mapped(side, numbers, others, own, shared)


def _on_device(work: Callable, side: Side, numbers: Any, others: Any, own: Any, shared: Any) -> Any:
    """`on_mesh` on one device, which has its part of every array but what is shared."""
    of_buckets = tuple(None if each is None else each[: len(side.buckets)] for each in numbers)
    found = _own_rows(work, side, of_buckets, others, own, shared)
    if side.giants is None:
        return found
    of_giants = tuple(None if each is None else each[len(side.buckets) :] for each in numbers)
    return _with_giants(found, work, side, of_giants, others, own, shared)


def _own_rows(work: Callable, side: Side, numbers: Any, others: Any, own: Any, shared: Any) -> Any:
    """Of a device's rows, group by group."""
    route, here = side.route.here(), len(jax.tree.leaves(own)[0])
    rows, device = here // route.groups, jax.lax.axis_index(AXIS)

    def of_group(group, buckets, numbers, own, others, shared):
        start, local = (device * route.groups + group) * rows, []
        for bucket in buckets:
            row = jnp.where(bucket.row == side.num_rows, rows, bucket.row - start)
            local.append(dataclasses.replace(bucket.numbered(side.num_entries), row=row))
        layout = Side(tuple(local), rows, side.num_entries, part=True)
        return work(layout, numbers, route.fetch(others, group), own, shared)

    if route.groups == 1:
        return of_group(0, side.buckets, numbers, own, others, shared)
    by_group = jax.tree.map(
        lambda leaf: leaf.reshape(route.groups, leaf.shape[0] // route.groups, *leaf.shape[1:]),
        (side.buckets, numbers, own),
    )
    # A backward pass fetches again instead of keeping what every group was sent.
    again = jax.checkpoint(of_group)
    groups = jnp.arange(route.groups, dtype=jnp.int32)
    found = jax.lax.map(lambda group: again(*group, others, shared), (groups, *by_group))
    return jax.tree.map(lambda leaf: leaf.reshape(here, *leaf.shape[2:]), found)


def _with_giants(found: Any, work: Callable, side: Side, numbers: Any, others: Any, own: Any, shared: Any) -> Any:
    """What has been found of a device's rows, with its giants. Every device works on all of them, each with its own
    part of their entries; the one that has the row keeps the result."""
    assert side.giants is not None
    place, here = side.giants.place[0], len(jax.tree.leaves(own)[0])
    at = place - jax.lax.axis_index(AXIS) * here
    at = jnp.where((at >= 0) & (at < here), at, here)

    def known(leaf: jax.Array) -> jax.Array:
        """What there is of each giant, from the device that has it."""
        taken = leaf.at[at].get(mode="fill", fill_value=0)
        return summed(taken.astype(jnp.int32) if leaf.dtype == bool else taken, AXIS).astype(leaf.dtype)

    bucket = side.giants.bucket.numbered(side.num_entries)
    layout = Side((bucket,), len(place), side.num_entries, part=True, summed=True)
    fetched = side.giants.route.here().fetch(others, 0)
    more = work(layout, numbers, fetched, jax.tree.map(known, own), shared)
    return jax.tree.map(lambda whole, part: whole.at[at].set(part, mode="drop"), found, more)


# ---- on the host ----


@dataclasses.dataclass(frozen=True)
class Amounts:
    """How much is needed of the other side, which has `places`, as many on each of the `devices`.

    Attributes:
        block: the most rows that one device needs of one other for a group.
        most: the most rows that a group needs.
    """

    devices: int
    groups: int
    places: int
    block: int
    most: int

    def sent_rows(self, way: str) -> int:
        """How many rows a device sends, or passes on, in a half-sweep."""
        if way == "routed":
            return self.groups * (self.devices - 1) * self.block
        return (self.groups if way == "ring" else 1) * (self.places // self.devices) * (self.devices - 1)

    def held_rows(self, way: str) -> int:
        """How many rows of the other side a device holds beside its own block."""
        if way == "all_gather":
            return self.places
        return self.devices * self.block if way == "routed" else self.places // self.devices + self.most

    def given_rows(self, way: str) -> int:
        """`Route.held`."""
        return {"all_gather": self.places, "routed": self.devices * self.block, "ring": self.most}[way]


@dataclasses.dataclass(frozen=True)
class Needs:
    """Which places of the other side the entries of each group of each device meet: `of[device][group]`, increasing;
    the other side has `places`, as many on each device."""

    of: list[list[np.ndarray]]
    places: int

    @classmethod
    def find(cls, others: Iterable[np.ndarray], devices: int, groups: int, places: int) -> "Needs":
        """`others`: for each device and group in turn, the other side's place of every entry."""
        found: list[list[np.ndarray]] = [[] for _ in range(devices)]
        for number, other in enumerate(others):
            met = np.zeros(places, bool)
            met[other] = True
            found[number // groups].append(np.flatnonzero(met).astype(np.int32))
        return cls(found, places)

    @property
    def devices(self) -> int:
        return len(self.of)

    @property
    def groups(self) -> int:
        return len(self.of[0])

    @functools.cached_property
    def amounts(self) -> Amounts:
        each = self.places // self.devices
        edges = np.arange(self.devices + 1) * each
        needs = [needed for groups in self.of for needed in groups]
        block = max(int(np.diff(np.searchsorted(needed, edges)).max()) for needed in needs)
        most = max(map(len, needs))
        return Amounts(self.devices, self.groups, self.places, max(1, block), max(1, most))

    def route(self, way: str) -> tuple["Route", "list[list[np.ndarray]] | None"]:
        """(the route, as NumPy; how it numbers: for each device and group the positions of what it needs, None where
        they are the places)."""
        devices, each = self.devices, self.places // self.devices
        held = self.amounts.given_rows(way)
        if way == "all_gather":
            return Route(None, None, way, self.groups, held), None
        size = self.amounts.block
        give = np.zeros((devices, self.groups, devices, size), np.int32)
        put = np.full(give.shape, held, np.int32) if way == "ring" else None
        positions: list[list[np.ndarray]] = []
        for device, groups in enumerate(self.of):
            positions.append([])
            for group, needed in enumerate(groups):
                owner, place = np.divmod(needed, each)
                number = np.arange(len(needed)) - np.searchsorted(owner, owner)  # among those of one owner
                if put is None:
                    give[owner, group, device, number] = place
                    positions[-1].append((owner * size + number).astype(np.int32))
                else:
                    step = (device - owner) % devices
                    give[device, group, step, number] = place
                    put[device, group, step, number] = np.arange(len(needed))
                    positions[-1].append(np.arange(len(needed), dtype=np.int32))
        return Route(give, put, way, self.groups, held), positions  # pyright: ignore


class Exchange(NamedTuple):
    """A way, and how many exchanges a half-sweep has."""

    way: str
    groups: int = 1

    @classmethod
    def of(cls, exchange: Any, per_device: int | None = None) -> "Exchange | None":
        """From what a caller gives, a way, ("routed", 8), or in a text "routed:8": None for "auto"; `per_device` shards
        are on a device, where that is known.

        Raises:
            ArgumentError: for what is no way, or a number of exchanges that does not divide a device's shards.
        """
        if exchange == "auto":
            return None
        way, groups = exchange if isinstance(exchange, tuple) and len(exchange) == 2 else (exchange, 1)  # pyright: ignore
        if isinstance(way, str) and ":" in way:
            way, _, number = way.partition(":")
            groups = int(number) if number.isdecimal() else number
        check_choice("exchange", way, ("auto", *WAYS))
        if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1:
            raise ArgumentError(f"exchange asks for {groups!r} exchanges, but must ask for 1 or more, a whole number.")
        if per_device is not None and per_device % groups:
            fitting = ", ".join(str(each) for each in range(1, per_device + 1) if not per_device % each)
            raise ArgumentError(
                f"exchange asks for {groups!r} exchanges, but a device has {per_device} shards, which these divide: "
                f"{fitting}."
            )
        if way == "all_gather" and groups > 1:
            raise ArgumentError('exchange is ("all_gather", ...), which takes one exchange: leave the number out.')
        return cls(str(way), groups)


def choose(needs: Amounts, row_bytes: int, memory: int) -> str:
    """The way of one exchange that sends least, of those that hold no more than `memory` bytes: `all_gather` unless
    another sends clearly less; the ring where nothing fits."""
    fits = [way for way in WAYS if needs.held_rows(way) * row_bytes <= memory]
    if not fits:
        return "ring"
    return min(fits, key=lambda way: needs.sent_rows(way) * (_CLEARLY if way == "all_gather" else 1))


def renumbered(other: np.ndarray, groups: list[np.ndarray], positions: list[np.ndarray], places: int) -> np.ndarray:
    """The `other` of a device's slabs by position; `groups` what each group needs, its slabs following one another."""
    parts = np.split(other, len(groups))
    found, done = np.zeros(places, np.int32), []
    for part, needed, position in zip(parts, groups, positions, strict=True):
        found[needed] = position
        done.append(found[part])
        found[needed] = 0  # padding says 0, which must be a position
    return np.concatenate(done)

"""Spreading a table over devices: each shard's layout, and what the devices will send.

A process lays out the shards of its own devices alone. What has to be known of all, how many entries each place has
and how many rows each device needs of each, the processes tell one another.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import numpy as np

from ..data import grouping
from ..data.ratings import Ratings
from ..errors import ArgumentError
from ..partitioned.manifest import MOST, Manifest
from ..partitioned.reader import read, row_places
from .exchange import AXIS, Amounts, Exchange, Needs, Route, choose, renumbered
from .layouts import Bucket, Giants, Room, Side, lay_out, sizes_of
from .places import SIDES, Places
from .sharded import Sharded
from .shards import Plan
from .slots import Slots
from .sources import OfFiles, OfRatings, Part, Source, dealt

SHARDS = 64  # of either side, unless there are more devices
_RANK = 128  # that a choice of exchange reckons with
_MOST_HELD = 2**31  # bytes that it lets a device hold of the other side
GIANT_WIDTH = 512  # of the giants' pieces


def mesh_of(devices: Any) -> jax.sharding.Mesh:
    """The mesh of so many devices, or of these.

    Raises:
        ArgumentError: for what are no devices, and for more than there are.
    """
    known = jax.devices()
    if isinstance(devices, int) and not isinstance(devices, bool):
        if not 1 <= devices <= len(known):
            raise ArgumentError(
                f"devices is {devices}, but jax has {len(known)} here ({known[0].platform}). A CPU counts as one, or "
                "as 8 with XLA_FLAGS=--xla_force_host_platform_device_count=8 (and NPROC=16, more than that) in the "
                "environment before jax starts."
            )
        chosen = known[:devices]
    else:
        try:
            chosen: list[Any] = list(devices)  # pyright: ignore
        except TypeError:
            chosen = []
        if not chosen or not all(isinstance(each, jax.Device) for each in chosen):
            raise ArgumentError(f"devices is {devices!r}, but must be a number of devices, or a list of jax's.")
    return jax.sharding.Mesh(np.array(chosen), (AXIS,))


def build_sharded(ratings: Ratings, devices: Any, exchange: Any = "auto", places: Places | None = None) -> Sharded:
    """`Problem.build(ratings, devices=devices, exchange=exchange)`; `places` where they are known already."""
    mesh = mesh_of(devices)
    shards = max(SHARDS, mesh.size) if places is None else places.shards
    return spread(OfRatings(ratings, shards, places), mesh, exchange)


def own_shards(manifest: Manifest, mesh: jax.sharding.Mesh) -> set[int]:
    """Of a table's shards those that the devices of this process hold."""
    own = [at for at, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    return {shard for at in own for shard in manifest.shards_of(at, mesh.size)}


def open_sharded(manifest: Manifest, devices: Any, exchange: Any = "auto", verify: bool = True) -> Sharded:
    """`Problem.open(path, devices=devices, exchange=exchange, verify=verify)`: the rows lie where they have been dealt
    to. Of several processes each verifies and reads the files of its own shards alone."""
    mesh = mesh_of(devices)
    own = None if jax.process_count() == 1 else own_shards(manifest, mesh)
    manifest.verify(hashes=verify, shards=own)
    if jax.process_count() == 1:
        ratings, vocab = read(manifest)
        places = dealt(manifest, {side: row_places(manifest, side) for side in SIDES})
        source = OfRatings(ratings, manifest.shards, places)
        return dataclasses.replace(spread(source, mesh, exchange), vocab=vocab)
    wide = manifest.value == "float64" and jax.config.read("jax_enable_x64")
    return spread(OfFiles(manifest, np.float64 if wide else np.float32), mesh, exchange)


def spread(source: Source, mesh: jax.sharding.Mesh, exchange: Any) -> Sharded:
    """The problem of a source on a mesh.

    Raises:
        ArgumentError: for a number of devices that does not divide the shards; for an exchange that there is not.
    """
    places = source.places
    places.check_devices(mesh.size)
    asked = Exchange.of(exchange, places.shards // mesh.size)
    own = [number for number, device in enumerate(mesh.devices.flat) if device.process_index == jax.process_index()]
    if not own:
        raise ArgumentError("none of the devices is one of this process: each must have some.")
    whole = _Whole(mesh)
    built = {side: _Laying(source, side, whole, own).laid_out(asked) for side in SIDES}
    scale = None if source.scale is None else whole.everywhere(source.scale)
    return Sharded(
        *(None,) * 4,  # pyright: ignore
        *(built[side][0] for side in SIDES),
        *(built[side][1]._replace(scale=scale) for side in SIDES),
        *(source.rows[side] for side in SIDES),
        compact=source.compact,
        vocab=getattr(source, "vocab", None),
        places=places,
        rows=tuple(whole.spread(places.rows[side]) for side in SIDES),
        entries=source.entries,
        ordered=isinstance(source, OfRatings),
    )


class _Whole(NamedTuple):
    """Arrays over a mesh, of which each process gives its devices' parts."""

    mesh: jax.sharding.Mesh

    def sharding(self, *axes: str) -> jax.sharding.NamedSharding:
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec(*axes))

    def spread(self, array: np.ndarray) -> jax.Array:
        """Of an array that every process has."""
        return jax.make_array_from_callback(array.shape, self.sharding(AXIS), lambda index: array[index])

    def everywhere(self, array: np.ndarray) -> jax.Array:
        return jax.make_array_from_callback(array.shape, self.sharding(), lambda index: array[index])

    def of_devices(self, parts: dict[int, Any]) -> Any:
        """Of trees, one for each device of this process, by its number; they follow one another on the first axis."""

        def together(*leaves: np.ndarray) -> jax.Array:
            here = dict(zip(parts, leaves, strict=True))
            first = leaves[0]
            shape = (self.mesh.size * first.shape[0], *first.shape[1:])

            def part(index: Any) -> np.ndarray:
                return here[(index[0].start or 0) // max(first.shape[0], 1)]

            if not first.shape[0]:
                return self.spread(np.zeros(shape, first.dtype))
            return jax.make_array_from_callback(shape, self.sharding(AXIS), part)

        return jax.tree.map(together, *parts.values())


def _told(array: np.ndarray) -> np.ndarray:
    """The sum of what every process has: each fills in its own part of zeros."""
    if jax.process_count() == 1:
        return array
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(array)).sum(axis=0, dtype=array.dtype)


# ---- one side ----


class _Laying:
    """One side of a table, laid out for a mesh; `own`: the numbers of this process's devices in it."""

    def __init__(self, source: Source, side: str, whole: _Whole, own: list[int]):
        self.source, self.side, self.whole, self.own = source, side, whole, own
        self.places, self.devices = source.places, whole.mesh.size
        self.platform = whole.mesh.devices.flat[0].platform
        self.count, self.others = self.places.count(side), self.places.count(SIDES[side == "user"])

    def laid_out(self, asked: Exchange | None) -> tuple[Side, Slots]:
        size, per_device = self.places.side(self.side).size, self.places.shards // self.devices
        shards = [shard for device in self.own for shard in range(device * per_device, (device + 1) * per_device)]
        parts = {shard: self.source.shard(self.side, shard) for shard in shards}
        degree = np.zeros((self.places.shards, size), np.int32)
        for shard, part in parts.items():
            degree[shard] = np.bincount(part.row, minlength=size)
        count = self._count(parts)
        plan = Plan(_told(degree), self.platform)
        groups = 1 if asked is None else asked.groups
        at_once = per_device // groups
        needs = self._needs([[parts[shard] for shard in group] for group in _in_groups(shards, at_once)], groups)
        way = chosen(needs.amounts, self.source.dtype) if asked is None else asked.way
        route, positions = needs.route(way)
        devices = {}
        for place, device in enumerate(self.own):
            mine = shards[place * per_device : (place + 1) * per_device]
            laid = [self._shard(plan, shard, parts.pop(shard)) for shard in mine]
            buckets, values, weights = (_joined(each) for each in zip(*laid, strict=True))
            if positions is not None:
                found = needs.of[device], positions[device], self.others
                others = [renumbered(np.asarray(each.other), *found) for each in buckets]
                pairs = zip(buckets, others, strict=True)
                buckets = tuple(dataclasses.replace(each, other=other) for each, other in pairs)  # pyright: ignore
            devices[device] = buckets, values, weights
        giants, of_giants = self._giants()
        buckets, values, weights = self.whole.of_devices(devices)
        if of_giants is not None:
            values = (*values, of_giants[0])
            weights = None if weights is None else (*weights, of_giants[1])
        side = Side(
            tuple(buckets), self.count, self._numbered(), mesh=self.whole.mesh, route=self._spread(route), giants=giants
        )
        slots = Slots(tuple(values), weights if self.source.weighted else None, count)
        return side, slots

    def _numbered(self) -> int:
        return min(self.source.entries, MOST)

    def _needs(self, groups: list[list[Part]], each: int) -> Needs:
        entries = (np.concatenate([part.other for part in group]) for group in groups)
        own = Needs.find(entries, len(self.own), each, self.others)
        if jax.process_count() == 1:
            return own
        met = np.zeros((self.devices, each, self.others), bool)
        for device, needed in zip(self.own, own.of, strict=True):
            for group, rows in enumerate(needed):
                met[device, group, rows] = True
        bits = _told(np.packbits(met, axis=-1))
        found = np.unpackbits(bits, axis=-1, count=self.others).astype(bool)
        rows = [[np.flatnonzero(group).astype(np.int32) for group in device] for device in found]
        return Needs(rows, self.others)

    def _spread(self, route: Route) -> Route:
        arrays = {name: getattr(route, name) for name in ("give", "put")}
        return dataclasses.replace(
            route, **{name: None if each is None else self.whole.spread(each) for name, each in arrays.items()}
        )

    def _shard(self, plan: Plan, shard: int, part: Part) -> tuple[tuple, tuple, tuple | None]:
        """(buckets, values, weights) of a shard, rows numbered by their places."""
        size = self.places.side(self.side).size
        start, order = grouping.group(part.row, size)
        buckets = plan.buckets(shard, start, order, part.other)
        first = shard * size
        moved = [
            dataclasses.replace(each, row=np.where(each.row == size, self.count, each.row + first).astype(np.int32))  # pyright: ignore
            for each in buckets
        ]
        return self._with_numbers(moved, part)

    def _with_numbers(self, buckets: list[Bucket], part: Part) -> tuple[tuple, tuple, tuple | None]:
        entry = [np.asarray(each.entry) for each in buckets]

        def laid_out(column: np.ndarray, fill: Any) -> tuple[np.ndarray, ...]:
            column = np.append(column, column.dtype.type(fill))
            return tuple(column[each] for each in entry)

        if part.number is None:
            buckets = [each.without_numbers(len(part.row)) for each in buckets]
        else:
            number = laid_out(part.number, self._numbered())
            buckets = [
                dataclasses.replace(each, entry=entry)  # pyright: ignore
                for each, entry in zip(buckets, number, strict=True)
            ]
        weights = None if part.weight is None else laid_out(part.weight, 0)
        return tuple(buckets), laid_out(part.value, 0), weights

    def _count(self, parts: dict[int, Part]) -> jax.Array:
        """How many entries of weight > 0 each place has, of the shards here and of all giants."""
        size = self.places.side(self.side).size
        count = np.zeros(self.count, self.source.dtype)
        for shard, part in parts.items():
            seen = part.row if part.weight is None else part.row[part.weight > 0]
            count[shard * size : (shard + 1) * size] = np.bincount(seen, minlength=size)
        giants = self.source.giants[self.side]
        if len(giants):
            every = self.source.of_giants(self.side, 0, 1)
            seen = every.row if every.weight is None else every.row[every.weight > 0]
            count[giants] = np.bincount(seen, minlength=len(giants))
        return self.whole.spread(count)

    def _giants(self) -> tuple[Giants | None, tuple | None]:
        """(giants, (values, weights) of their entries)."""
        place = self.source.giants[self.side]
        if not len(place):
            return None, None
        every = [self.source.of_giants(self.side, device, self.devices) for device in range(self.devices)]
        width = min(GIANT_WIDTH, max(1, max(len(part.row) for part in every)))
        counts = [np.bincount(part.row, minlength=len(place)) for part in every]
        pieces = [np.maximum(-(-count // width), 1) for count in counts]
        room = room_of_giants(len(place), max(int(each.sum()) for each in pieces), width, self.platform)
        needs = Needs.find((part.other for part in every), self.devices, 1, self.others)
        way = chosen(needs.amounts, self.source.dtype)
        route, positions = needs.route(way)
        devices = {}
        for device in self.own:
            part = every[device]
            start, order = grouping.group(part.row, len(place))
            bucket = lay_out(np.arange(len(place)), pieces[device], width, room, start, order, part.other)
            (bucket,), values, weights = self._with_numbers([bucket], part)
            if positions is not None:
                other = renumbered(bucket.other, needs.of[device], positions[device], self.others)
                bucket = dataclasses.replace(bucket, other=other)  # pyright: ignore
            devices[device] = bucket, values, weights
        bucket, (value,), weights = self.whole.of_devices(devices)
        place = self.whole.spread(np.tile(place.astype(np.int32), (self.devices, 1)))
        return Giants(bucket, place, self._spread(route)), (value, None if weights is None else weights[0])


def room_of_giants(giants: int, pieces: int, width: int, platform: str) -> Room:
    """On a device that has so many pieces of them: one slab, where all devices have the rows in one order, as their
    sums are added up place by place."""
    at_once = max(1, sizes_of(platform).slots // width)
    steps = -(-pieces // at_once)
    step = -(-pieces // steps)
    return Room(1, giants, steps * step, step)


def chosen(needs: Amounts, dtype: Any) -> str:
    """The way that "auto" is, see `choose`."""
    return choose(needs, _RANK * np.dtype(dtype).itemsize, _MOST_HELD)


def _in_groups(shards: list[int], size: int) -> list[list[int]]:
    return [shards[at : at + size] for at in range(0, len(shards), size)]


def _joined(parts: tuple) -> Any:
    """Trees of arrays that follow one another."""
    return None if parts[0] is None else jax.tree.map(lambda *arrays: np.concatenate(arrays), *parts)

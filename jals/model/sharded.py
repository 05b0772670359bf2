"""A problem whose rows, with their entries, are spread over several devices."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from ..errors import ArgumentError, DataError, is_traced
from ..reals import FLOATS, MOST
from . import layout_checks
from .exchange import AXIS
from .factors import Factors
from .layouts import Side
from .places import SIDES
from .problem import Problem, as_real
from .slots import Slots


@dataclasses.dataclass(frozen=True, repr=False)
class Sharded(Problem):
    """A `Problem` on the devices of a mesh; made by `Problem.build` and `Problem.open` with `devices`. Each device has
    some rows of either side with all of their entries, and those rows of the factors. There are no columns of entries:
    `user`, `item`, `value` and `given_weight` are None, and the slots are always there.

    Attributes:
        places: where the rows lie; static.
        rows: (of users, of items) int32 `(places,)`, the row at each place, the number of rows where there is none.
        entries: how many there are; static.
        ordered: whether they are numbered in the order of the ratings; static. Else they have no numbers.
    """

    places: Any = dataclasses.field(default=None, metadata={"static": True})
    rows: Any = None
    entries: int = dataclasses.field(default=0, metadata={"static": True})
    ordered: bool = dataclasses.field(default=True, metadata={"static": True})

    def __repr__(self) -> str:
        ways = {name: getattr(self, f"{name}_side").route for name in SIDES}
        told = ", ".join(f"{name}s by {route.way}" for name, route in ways.items())
        return f"{super().__repr__()[:-1]}, on {self.mesh.size} devices: {told})"

    @property
    def mesh(self) -> jax.sharding.Mesh:
        mesh = self.user_side.mesh
        assert mesh is not None
        return mesh

    @property
    def num_entries(self) -> int:
        return self.entries

    @property
    def dtype(self) -> Any:
        assert self.user_slots is not None
        return np.dtype(self.user_slots.count.dtype)

    @property
    def weight(self) -> jax.Array:
        raise ArgumentError("a problem on several devices has no columns of entries: this needs one on one device.")

    def by_place(self, side: str, numbers: jax.Array) -> jax.Array:
        """Numbers `(rows, ...)` of a side's rows by their places; 0 where there is none."""
        return numbers.at[self.rows[SIDES.index(side)]].get(mode="fill", fill_value=0)

    def at_places(self, side: str, number: jax.Array) -> jax.Array:
        """What all rows of a side share, `()` or `(k,)`, by their places; 0 where there is none."""
        there = self.rows[SIDES.index(side)] < getattr(self, f"num_{side}s")
        return jnp.where(there.reshape(-1, *[1] * jnp.ndim(number)), number, 0)

    def by_row(self, side: str, numbers: jax.Array) -> jax.Array:
        """Numbers `(places, ...)` by the rows `(rows, ...)` that lie there."""
        return numbers[self.places.side(side).at]

    def brought(self, factors: Factors) -> Factors:
        """Factors of these places on the devices of this problem; what is traced stays where it is."""
        spread, everywhere = (jax.sharding.NamedSharding(self.mesh, P(*axes)) for axes in ((AXIS,), ()))

        def put(leaf: Any) -> Any:
            wanted = spread if leaf.ndim else everywhere
            known = is_traced(leaf) or (isinstance(leaf, jax.Array) and leaf.sharding == wanted)
            return leaf if known else jax.device_put(leaf, wanted)

        return jax.tree.map(put, factors)

    def columns(self) -> tuple[Any, Any, Any, Any]:
        self._check_ordered()
        if not all(leaf.is_fully_addressable for leaf in jax.tree.leaves((self.user_side, self.item_side))):
            raise ArgumentError(
                "the entries are spread over several processes, and this needs all of them in one: build the problem "
                "on the devices of one process."
            )
        sides = {}
        for name in SIDES:
            side, slots = getattr(self, f"{name}_side"), getattr(self, f"{name}_slots")
            found = {"row": np.empty(self.num_entries, np.int32), "value": np.empty(self.num_entries, self.dtype)}
            found |= {} if slots.weight is None else {"weight": np.empty(self.num_entries, self.dtype)}
            rows = self.places.rows[name]
            for number, (bucket, row) in enumerate(zip(side.every_bucket, _rows_of_pieces(side), strict=True)):
                entry = np.asarray(bucket.entry)
                there = entry < side.num_entries
                at = np.broadcast_to(np.asarray(row)[..., None], entry.shape)[there]
                found["row"][entry[there]] = rows[at]
                found["value"][entry[there]] = np.asarray(slots.numbers(slots.value[number]))[there]
                if slots.weight is not None:
                    found["weight"][entry[there]] = np.asarray(slots.weight[number])[there]
            sides[name] = found
        user = sides["user"]
        return user["row"], sides["item"]["row"], user["value"], user.get("weight")

    def value_range(self) -> tuple[jax.Array, jax.Array]:
        slots = self.user_slots
        assert slots is not None
        lows, highs = [], []
        for bucket, value in zip(self.user_side.every_bucket, slots.value, strict=True):
            numbers, there = slots.numbers(value), bucket.filled(self.user_side.num_entries)
            lows.append(jnp.min(numbers, where=there, initial=np.inf))
            highs.append(jnp.max(numbers, where=there, initial=-np.inf))
        return jnp.min(jnp.stack(lows)), jnp.max(jnp.stack(highs))

    def mean_value(self) -> jax.Array:
        """The weighted mean of the values, `()`."""
        slots, sums = self.user_slots, []
        assert slots is not None
        for bucket, value, weight in zip(self.user_side.every_bucket, slots.value, slots.weights(), strict=True):
            weight = bucket.filled(self.user_side.num_entries).astype(self.dtype) if weight is None else weight
            sums.append((jnp.sum(weight * slots.numbers(value)), jnp.sum(weight)))
        total, weights = map(sum, zip(*sums, strict=True))
        return total / weights  # pyright: ignore

    def astype(self, dtype: Any) -> "Sharded":
        dtype = self.check_dtype(dtype)
        if dtype == self.dtype:
            return self
        cast = {}
        for name in SIDES:
            side, slots = getattr(self, f"{name}_side"), getattr(self, f"{name}_slots")
            value = tuple(each if slots.scale is not None else each.astype(dtype) for each in slots.value)
            scale, weight = jax.tree.map(lambda each: each.astype(dtype), (slots.scale, slots.weight))
            # What was a weight > 0 may be none in the narrower dtype.
            count = slots.count if weight is None else _row_sums(side, [each > 0 for each in weight], dtype)
            cast[f"{name}_slots"] = Slots(value, weight, count.astype(dtype), scale)
        return dataclasses.replace(self, **cast)

    def _check_ordered(self) -> None:
        if not self.ordered:
            raise ArgumentError(
                "each process knows the entries of its shards alone, without an order of all: this needs a problem "
                "that one process has built or opened."
            )

    def with_values(self, values: Any, weight: Any = None) -> "Sharded":
        self._check_ordered()
        values, given = as_real(values), None if weight is None else jnp.asarray(weight)
        for name, array in (("values", values), ("weight", given)):
            if array is not None and array.shape != (self.num_entries,):
                raise ArgumentError(f"{name} has shape {array.shape}, but the table has {self.num_entries:,} entries.")
        renewed = {}
        for name in SIDES:
            side, slots = getattr(self, f"{name}_side"), getattr(self, f"{name}_slots")
            weights, count = slots.weight, slots.count.astype(values.dtype)
            if given is not None:
                weights = _in_slots(side, given.astype(values.dtype))
                count = _row_sums(side, [each > 0 for each in weights], values.dtype)
            weights = None if weights is None else tuple(each.astype(values.dtype) for each in weights)
            renewed[f"{name}_slots"] = Slots(_in_slots(side, values), weights, count)
        return dataclasses.replace(self, **renewed, compact=False)

    def weight_sums(self) -> tuple[jax.Array, jax.Array]:
        sums = []
        for name in SIDES:
            side, slots = getattr(self, f"{name}_side"), getattr(self, f"{name}_slots")
            sums.append(slots.count if slots.weight is None else _row_sums(side, slots.weight, self.dtype))
        return sums[0], sums[1]

    def arrange(self) -> "Sharded":
        return self

    def check_shapes(self) -> None:
        for name in SIDES:
            rows, side = getattr(self, f"num_{name}s"), getattr(self, f"{name}_side")
            slots = getattr(self, f"{name}_slots")
            if not isinstance(side, Side) or side.num_rows != self.places.count(name) or side.mesh is None:
                raise ArgumentError(f"problem.{name}_side is no layout of its places: make one with Problem.build.")
            if not 1 <= rows <= MOST or not isinstance(slots, Slots) or len(slots.value) != len(side.every_bucket):
                raise ArgumentError(f"problem.{name}_slots are not of this layout: make one with Problem.build.")
            layout_checks.check_shapes(side, f"problem.{name}_side")
        if self.dtype not in FLOATS:
            raise ArgumentError(f"problem's numbers are {self.dtype}, but must be float32 or float64.")

    def checked(self) -> "Sharded":
        self.check_shapes()
        self.check_numbers()
        return self

    def check_numbers(self) -> None:
        slots = self.user_slots
        assert slots is not None
        if any(map(is_traced, jax.tree.leaves((slots.value, slots.weight)))):
            return
        given = [("value", each, ~jnp.isfinite(each)) for each in map(slots.numbers, slots.value)]
        given += [("weight", each, ~(jnp.isfinite(each) & (each >= 0))) for each in slots.weight or ()]
        for (name, numbers, wrong), bucket in zip(given, self.user_side.every_bucket * 2, strict=False):
            found = wrong & bucket.filled(self.user_side.num_entries)
            if bool(found.any()):
                at = jnp.argmax(found.reshape(-1))
                entry = "an entry" if bucket.entry is None else f"entry {int(bucket.entry.reshape(-1)[at])}"
                need = "finite and >= 0" if name == "weight" else "finite"
                raise DataError(f"{name} of {entry} is {numbers.reshape(-1)[at]}, but must be {need}.")


_ARRAYS = ("user_side", "item_side", "user_slots", "item_slots", "rows")
_STATIC = ("num_users", "num_items", "compact", "places", "entries", "ordered")


def _with_keys(problem: Sharded) -> tuple[list[tuple[Any, Any]], tuple]:
    parts = [(jax.tree_util.GetAttrKey(name), getattr(problem, name)) for name in _ARRAYS]
    return parts, tuple(getattr(problem, name) for name in _STATIC)


def _rebuilt(static: tuple, arrays: Any) -> Sharded:
    given = dict(zip((*_ARRAYS, *_STATIC), (*arrays, *static), strict=True))
    return Sharded(**dict.fromkeys(("user", "item", "value", "given_weight")), **given)


jax.tree_util.register_pytree_with_keys(Sharded, _with_keys, _rebuilt)


def _in_slots(side: Side, column: jax.Array) -> tuple[jax.Array, ...]:
    column = jnp.pad(column, (0, 1))  # the 0 that padding reads
    return tuple(column.at[bucket.entry].get(mode="promise_in_bounds") for bucket in side.every_bucket)


def _rows_of_pieces(side: Side) -> list[jax.Array]:
    """The place of each piece's row, `(slabs, pieces)`, of every bucket; the number of places where it is unused."""
    rows = [side.of_pieces(bucket) for bucket in side.buckets]
    if side.giants is None:
        return rows
    giants = side.giants.place[0]
    place = jnp.append(giants, side.num_rows).astype(jnp.int32)
    among = dataclasses.replace(side, num_rows=len(giants))
    return [*rows, place[among.of_pieces(side.giants.bucket)]]


def _row_sums(side: Side, numbers: Any, dtype: Any) -> jax.Array:
    """`slots.row_sums`, giants included."""
    total = jnp.zeros(side.num_rows, dtype)
    for row, each in zip(_rows_of_pieces(side), numbers, strict=True):
        total = total.at[row.reshape(-1)].add(each.sum(axis=-1).reshape(-1).astype(dtype), mode="drop")
    return total

"""The k best rows of a table that is spread over devices: each device finds its own, and the best of these are the best
of all."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from ..errors import is_traced
from ..model.exchange import AXIS
from ..model.factors import Factors
from .selection import Closed, largest


class Order(NamedTuple):
    """The rows of one side, device by device, and on each by their numbers: so that of equal scores the lower number
    comes first there, too.

    Attributes:
        position: int32 `(rows,)`, each row's in this order.
        place: int32 `(places,)`, where on its device the row at each position lies.
        number: int32 `(places,)`, its number; the number of rows where there is none.
    """

    position: np.ndarray
    place: np.ndarray
    number: np.ndarray

    @classmethod
    def of(cls, factors: Factors, side: str, mesh: jax.sharding.Mesh) -> "Order":
        assert factors.places is not None
        rows = factors.places.rows[side].reshape(mesh.size, -1)
        place = np.argsort(rows, axis=1, kind="stable").astype(np.int32)
        number = np.take_along_axis(rows, place, axis=1).reshape(-1)
        position = np.empty(factors.num_rows(side), np.int32)
        there = np.flatnonzero(number < len(position))
        position[number[there]] = there
        return cls(position, place.reshape(-1), number)

    def closed(self, closed: Closed) -> Closed:
        """What is closed by number, by position; of pairs of a query and an item `item` is by position already."""
        everywhere, mask = closed.everywhere, closed.mask
        if everywhere is not None:
            everywhere = jnp.ones(len(self.number), bool).at[self.position].set(everywhere)
        if mask is not None:
            mask = jnp.ones((len(mask), len(self.number)), bool).at[:, self.position].set(mask)
        return closed._replace(everywhere=everywhere, mask=mask)


def mesh_of(table: jax.Array) -> jax.sharding.Mesh | None:
    """The mesh that a table is known to be spread over."""
    sharding = None if is_traced(table) else table.sharding
    spread = isinstance(sharding, jax.sharding.NamedSharding) and sharding.mesh.axis_names == (AXIS,)
    return sharding.mesh if spread else None  # pyright: ignore


def largest_of_all(
    query: jax.Array,
    table: jax.Array,
    offset: jax.Array | None,
    k: int,
    closed: Closed,
    order: Order,
    mesh: jax.sharding.Mesh,
) -> tuple[jax.Array, jax.Array]:
    """`selection.largest` of a table `(places, rank)` that is spread over the devices of a mesh; `closed` by the
    order's positions. The items found are numbers of the ratings. Without derivatives."""
    each, here = len(order.number) // mesh.size, P(AXIS)
    spread = {"table": table, "offset": offset, "place": order.place, "number": order.number}
    spread["everywhere"] = closed.everywhere
    whole = {"query": query, "start": closed.start, "stop": closed.stop, "item": closed.item}
    none = len(order.position)

    def on_device(spread: dict, whole: dict, mask: Any) -> tuple[jax.Array, jax.Array]:
        first = jax.lax.axis_index(AXIS) * each
        table = spread["table"][spread["place"]]
        missing = spread["number"] == none
        missing = missing if spread["everywhere"] is None else missing | spread["everywhere"]
        offset = None if spread["offset"] is None else spread["offset"][spread["place"]]
        pairs = None, None, None
        if whole["item"] is not None:
            bounds = [_first_from(whole["item"], whole["start"], whole["stop"], first + more) for more in (0, each)]
            pairs = *bounds, whole["item"] - first
        found, score = largest(whole["query"], table, offset, min(k, each), Closed(missing, mask, *pairs))
        number = jnp.where(found < 0, none, spread["number"][jnp.maximum(found, 0)])
        return number, score

    specs = (here, P(), P(None, AXIS))
    by_device = jax.shard_map(on_device, mesh=mesh, in_specs=specs, out_specs=P(None, AXIS))
    number, score = by_device(spread, whole, closed.mask)
    _, number, score = jax.lax.sort((-score, number, score), num_keys=2)
    number, score = number[:, :k], score[:, :k]
    return jnp.where(score > -jnp.inf, number, -1).astype(jnp.int32), score


def _first_from(item: jax.Array, start: jax.Array, stop: jax.Array, bound: Any) -> jax.Array:
    """For each query the first of `item[start:stop]`, increasing, that is not below the bound."""

    def halved(_: Any, between: tuple) -> tuple:
        low, high = between
        middle = (low + high) // 2
        below = (low < high) & (item[jnp.minimum(middle, len(item) - 1)] < bound)
        return jnp.where(below, middle + 1, low), jnp.where(below | (low >= high), high, middle)

    # made of the bound, so that they vary over the devices as that does
    nothing = 0 * jnp.asarray(bound, start.dtype)
    return jax.lax.fori_loop(0, 32, halved, (start + nothing, stop + nothing))[0]

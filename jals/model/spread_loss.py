"""The loss's sum over entries, of a problem on several devices: each entry where it lies with its user, the item's row
sent there. As the loss on one device it knows nothing of normal equations, and can serve as a check of them."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from ..devices import summed
from .exchange import AXIS, on_mesh
from .factors import Factors, remainder
from .layouts import Side
from .sharded import Sharded
from .slots import Slots


def row_losses(factors: Factors, problem: Sharded, objective: Any, weights: tuple[Any, Any]) -> jax.Array:
    """The losses of each user's entries, `(places,)`.

    Args:
        objective: without what it gives by row.
        weights: g and h by place, None for 1.
    """
    slots = problem.user_slots
    assert slots is not None
    users, items = (
        {"row": getattr(factors, side), "bias": getattr(factors, f"{side}_bias"), "weight": weight}
        for side, weight in zip(("user", "item"), weights, strict=True)
    )
    shared = {"mean": factors.mean, "objective": objective, "scale": slots.scale}
    return on_mesh(_here, problem.user_side, (slots.value, slots.weight), items, users, shared)


def _here(layout: Side, numbers: Any, others: dict, own: dict, shared: dict) -> jax.Array:
    """Of one device's rows."""
    value, weight = numbers
    total = 0 * own["row"][:, 0]
    slots = Slots(value, weight, total, shared["scale"])
    for bucket, value, weight in zip(layout.buckets, slots.value, slots.weights(), strict=True):
        if not bucket.width:
            continue
        row = layout.of_pieces(bucket)
        slab = functools.partial(_slab, layout.num_entries, slots._replace(value=(), weight=None), own, others, shared)
        # The backward pass gathers again instead of keeping every entry's factors.
        again = jax.checkpoint(lambda each, slab=slab: slab(*each))
        losses = jax.lax.map(again, (row, bucket.other, bucket.entry, value, weight))
        total = total.at[row.reshape(-1)].add(losses.reshape(-1), mode="drop")
    return summed(total, AXIS) if layout.summed else total


def _slab(num_entries: int, slots: Slots, own: dict, others: dict, shared: dict, row, other, entry, value, weight):
    """The losses of the pieces of a slab, `(pieces,)`."""
    value = slots.numbers(value)
    weight = (entry != num_entries).astype(slots.count.dtype) if weight is None else weight
    mine = _taken(own, row[:, None])
    theirs = _taken(others, other)
    for factor in (mine["weight"], theirs["weight"]):
        weight = weight if factor is None else weight * factor
    found = shared["objective"].entry(value, weight)
    terms = [] if shared["mean"] is None else [jnp.broadcast_to(shared["mean"], other.shape)]
    if mine["bias"] is not None:
        terms += [jnp.broadcast_to(mine["bias"], other.shape), theirs["bias"]]
    terms.append(jnp.sum(mine["row"] * theirs["row"], axis=-1))
    return found.loss(remainder(found.t, terms)).sum(axis=-1)


def _taken(tables: dict, at: jax.Array) -> dict:
    return {name: None if each is None else each.at[at].get(mode="fill", fill_value=0) for name, each in tables.items()}

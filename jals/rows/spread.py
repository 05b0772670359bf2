"""Work on a side whose rows are spread over devices: each looks at its own rows, with what it has been sent of the
other side, as if there were no others."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ..model.exchange import on_mesh
from ..model.factors import widened
from ..model.layouts import Side
from ..model.objectives import BY_ROW, PRIORS
from ..model.problem import Slots
from .view import View, Whole


def on_devices(function: Callable, view: View, *columns: Any) -> Any:
    """`function(view, *columns)` of a view of each device's rows: a tree of `(rows, ...)`, as the columns are. What the
    rows weigh is not in that view's slots yet: see `View.weighed`."""
    rows, z, bias = view.rows(), view.others.z, view.others.bias
    if view.others.stored is not None:  # what is stored narrower is sent so
        z = z.astype(view.others.stored.dtype)
    # The column of ones is made where the rows arrive.
    others = {"z": z if bias is None else z[:, :-1], "bias": bias, "weight": view.others.weight}
    # All columns but the bias's are alike, and in full would be a table as large as the factors.
    rows |= {"reg": jnp.concatenate([view.reg[:, :1], view.reg[:, -1:]], axis=1)}
    numbers = view.slots.value, view.slots.weight
    # What is by row of all rows has gone into the view's, or is sent.
    objective = dataclasses.replace(view.objective, **dict.fromkeys((*BY_ROW, *PRIORS)))
    names = ("mean", "prior_mean", "precision", "gram", "pairs")
    shared = {name: getattr(view, name) for name in names if name not in rows}
    shared |= {"objective": objective, "scale": view.slots.scale}
    return on_mesh(functools.partial(_here, function), view.layout, numbers, others, (rows, columns), shared)


def _here(function: Callable, layout: Side, numbers: Any, others: Any, own: Any, shared: Any) -> Any:
    (value, weight), (rows, columns) = numbers, own
    z, bias = others["z"], others["bias"]
    if bias is not None:
        z = jnp.concatenate([z, jnp.ones_like(z[:, :1])], axis=1)
    z, stored = widened(z), jax.lax.stop_gradient(z)
    stored = None if stored.dtype == z.dtype else stored
    given = dict.fromkeys(View._fields) | {name: each for name, each in shared.items() if name != "scale"}
    first, last = rows["reg"][:, :1], rows["reg"][:, 1:]
    reg = jnp.concatenate([jnp.broadcast_to(first, (len(first), z.shape[1] - 1)), last], axis=1)
    slots = Slots(value, weight, rows["count"], shared["scale"])
    whole = Whole(z, bias, stored, others["weight"])
    given |= rows | {"reg": reg, "layout": layout, "slots": slots, "others": whole}
    return function(View(**given), *columns)


"""Work on slabs that lie on several devices; and how much memory the machine has."""

import os
from collections.abc import Callable

import jax
from jax.extend.core import ClosedJaxpr, jaxpr_as_fun

from .errors import ArgumentError


def dealt(mesh: jax.sharding.Mesh | None, function: Callable) -> Callable:
    """`function(slabs)`, whose results have a leading axis of slabs too, with each device of a mesh at work on its own
    slabs; the function itself without a mesh. See `Problem.shard`."""
    if mesh is None:
        return function
    everywhere, by_slab = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(mesh.axis_names)

    def on_all(slabs):
        # What the function closes over has to come in by the door, too: the constants of its trace.
        here = jax.tree.map(lambda a: jax.ShapeDtypeStruct((a.shape[0] // mesh.size, *a.shape[1:]), a.dtype), slabs)
        traced, shapes = jax.make_jaxpr(function, return_shape=True)(here)

        def work(slabs, held):
            return jaxpr_as_fun(ClosedJaxpr(traced.jaxpr, held))(*jax.tree.leaves(slabs))

        specs = {"in_specs": (by_slab, everywhere), "out_specs": by_slab}
        # Nothing is differentiated, so what varies over the mesh need not be tracked (jax 0.8.0 loses it in loops).
        shared = jax.custom_jvp(jax.shard_map(work, mesh=mesh, check_vma=False, **specs))
        shared.defjvp(_refuse_derivatives)
        return jax.tree.unflatten(jax.tree.structure(shapes), shared(slabs, list(traced.consts)))

    return on_all


def _refuse_derivatives(primals, tangents):
    raise ArgumentError("a problem on several devices (Problem.shard) has no derivatives: take them on one.")


def memory_bytes() -> int:
    """Of the machine; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30

"""Work on several devices: slabs that lie on each, numbers that differ by device; and how much memory there is."""

import os
from collections.abc import Callable
from typing import Any

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


def alike(*trees: Any) -> tuple[Any, ...]:
    """The same trees, every leaf marked as varying over each mesh axis that any of them varies over.

    Under `jax.shard_map` a number's type tells the mesh axes over which it may differ by device. Loops and branches
    want equal types of what goes in and what comes out; and a derivative in a number that is the same on all devices
    is the sum of theirs, where each is to have its own.
    """
    leaves, structure = jax.tree.flatten(trees)
    varying = [_varying(leaf) for leaf in leaves]
    everywhere = frozenset().union(*varying)
    if not everywhere:
        return trees
    lacking = [tuple(sorted(everywhere - axes, key=str)) for axes in varying]
    return jax.tree.unflatten(structure, [_vary(leaf, axes) for leaf, axes in zip(leaves, lacking, strict=True)])


def _varying(leaf: Any) -> frozenset:
    kind = jax.typeof(leaf)
    axes = getattr(kind, "manual_axis_type", None)  # of newer versions of jax
    return kind.vma if axes is None else axes.varying


def _vary(leaf: Any, axes: tuple) -> Any:
    if not axes:
        return leaf
    lax: Any = jax.lax  # newer versions of jax have the first, older ones the second
    return lax.pcast(leaf, axes, to="varying") if hasattr(lax, "pcast") else lax.pvary(leaf, axes)


def _refuse_derivatives(primals, tangents):
    raise ArgumentError("a problem on several devices (Problem.shard) has no derivatives: take them on one.")


def memory_bytes() -> int:
    """Of the machine; 8 GiB where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30

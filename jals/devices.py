"""Several devices: slabs sharded over them, numbers that vary over them; and how much memory there is."""

import os
from collections.abc import Callable
from typing import Any

import jax

from .errors import ArgumentError


def sharded_map(mesh: jax.sharding.Mesh | None, function: Callable, slabs: Any, held: Any) -> Any:
    """`function(slabs, held)` by `jax.shard_map`: each device of the mesh has its own slabs and all of `held`. Results
    have a leading axis of slabs too. Without a mesh, a plain call. See `Problem.shard`."""
    if mesh is None:
        return function(slabs, held)
    everywhere, by_slab = jax.sharding.PartitionSpec(), jax.sharding.PartitionSpec(mesh.axis_names)
    specs = {"in_specs": (by_slab, everywhere), "out_specs": by_slab}
    # Nothing is differentiated, so what varies over the mesh need not be tracked (jax 0.8.0 loses it in loops).
    shared = jax.custom_jvp(jax.shard_map(function, mesh=mesh, check_vma=False, **specs))
    shared.defjvp(_refuse_derivatives)
    return shared(slabs, held)


def match_varying(*trees: Any) -> tuple[Any, ...]:
    """The same trees, every leaf marked as varying over each mesh axis that any of them varies over.

    Under `jax.shard_map` an array's type has the mesh axes over which it may vary. Loops and branches need equal types
    going in and coming out; and the derivative in an array that does not vary is the sum over the devices, where each
    device should have its own.
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


def own_bytes() -> int:
    """Of memory that this process holds itself, without pages of files; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return sum(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))
    except OSError:
        return 0

"""Several devices, with numbers that vary over them; and how much memory there is, or was."""

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax

from .errors import OutOfMemory, is_traced


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


def summed(tree: Any, axis: str) -> Any:
    """The sums of every leaf over the devices of a mesh axis, on each of them; they count as varying, as what they are
    worked on with does."""
    return jax.tree.map(lambda leaf: _vary(jax.lax.psum(leaf, axis), (axis,)), tree)


def averaged(array: jax.Array, axis: str) -> jax.Array:
    """The mean over the devices of a mesh axis, on each of them; varying, as of `summed`."""
    return _vary(jax.lax.pmean(array, axis), (axis,))


def _varying(leaf: Any) -> frozenset:
    kind = jax.typeof(leaf)
    axes = getattr(kind, "manual_axis_type", None)  # of newer versions of jax
    return kind.vma if axes is None else axes.varying


def _vary(leaf: Any, axes: tuple) -> Any:
    if not axes:
        return leaf
    lax: Any = jax.lax  # newer versions of jax have the first, older ones the second
    return lax.pcast(leaf, axes, to="varying") if hasattr(lax, "pcast") else lax.pvary(leaf, axes)


# ---- memory ----


def memory_bytes() -> int:
    """Of the machine; 8 GiB where it does not say."""
    return _machine_bytes() or 8 * 2**30


def _machine_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def own_bytes() -> int:
    """Of memory that this process holds itself, without pages of files; 0 where the system does not say."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            return sum(int(line.split()[1]) * 1024 for line in status if line.startswith("RssAnon:"))
    except OSError:
        return 0


def device_bytes(device: Any) -> int | None:
    """Of a device, or where it is the machine's CPU of the machine; None where it is not known."""
    return _stats(device).get("bytes_limit") or (_machine_bytes() if device.platform == "cpu" else None)


def _stats(device: Any) -> dict[str, int]:
    return device.memory_stats() or {}


@contextlib.contextmanager
def told_exhausted(
    work: str, cures: Iterable[str], arrays: Any = (), result: Callable[[], Any] = lambda: None
) -> Iterator[None]:
    """Within, XLA's error for want of memory is raised as `OutOfMemory`: what was needed, what there is, what to do.

    Args:
        work: the call that it is raised of.
        cures: what to do about it, "lower the rank" and the like, the best first.
        arrays: a tree of what is worked on, which says on what device; without, the default one.
        result: makes what the error carries.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed, device = _needed(str(error)), _fullest(arrays)
        limit, used = device_bytes(device), _stats(device).get("bytes_in_use")
        more = "more" if needed is None else f"{in_units(needed)} more"
        has = "" if limit is None else f", which has {in_units(limit)}"
        has += "" if limit is None or used is None else f", {in_units(used)} of it in use"
        first, *others = cures
        ways = ", ".join([first[0].upper() + first[1:], *others])
        try:
            left = result()
        except jax.errors.JaxRuntimeError:  # nor is there memory for that
            left = None
        where = f"{device.platform}:{device.id}"
        message = f"{work} ran out of memory: it needs {more} on {where}{has}. {ways}; or free what else lies there."
        raise OutOfMemory(message, needed=needed, limit=limit, result=left) from error


_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def in_units(number: int) -> str:
    """A number of bytes for people: 23.5 GiB."""
    power = min(max(number.bit_length() - 1, 0) // 10, len(_UNITS) - 1)
    return f"{number / 1024**power:.{1 if power else 0}f} {_UNITS[power]}"


def _needed(said: str) -> int | None:
    """The bytes that XLA says it wanted: "allocating 512 bytes", "to allocate 1.50GiB", "to allocate 15.2G"."""
    found = re.search(r"allocat(?:e|ing) ([\d.]*\d) ?([KMGT]?)", said)
    return None if found is None else int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))


def _fullest(arrays: Any) -> Any:
    """Of the devices that a tree's arrays lie on the one with the most in use."""
    held = [leaf for leaf in jax.tree.leaves(arrays) if hasattr(leaf, "devices") and not is_traced(leaf)]
    devices = set().union(*(leaf.devices() for leaf in held)) or {jax.local_devices()[0]}
    own = [device for device in devices if device.process_index == jax.process_index()]
    return max(own, key=lambda device: (_stats(device).get("bytes_in_use", 0), -device.id))

"""A ratings table on the device, ready to be solved: entries in input order, and both sides' layouts."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .entries import shown, unmasked
from .errors import ArgumentError, DataError, is_traced
from .forks import check_jax
from .layouts import Side, build_side
from .ratings import Ratings


class Slots(NamedTuple):
    """The entries' numbers in the order of one side's layout.

    `value` and `weight` hold one array `(slabs, pieces, width)` a bucket, 0 in padding; `count` `(num_rows,)` holds
    n, how many of each row's entries have weight > 0, in the values' dtype.
    """

    value: tuple[jax.Array, ...]
    weight: tuple[jax.Array, ...]
    count: jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """What a solver works on. A pytree; make one with `Problem.build`.

    Attributes:
        user, item: int32 `(entries,)`, in the order of the ratings it was built from.
        value, weight: float32 or float64 `(entries,)`. Factors take this dtype.
        user_side, item_side: the layouts.
        user_slots, item_slots: values and weights in layout order, or None before `arrange`.
        num_users, num_items: static.
    """

    user: jax.Array
    item: jax.Array
    value: jax.Array
    weight: jax.Array
    user_side: Side
    item_side: Side
    user_slots: Slots | None
    item_slots: Slots | None
    num_users: int = dataclasses.field(metadata={"static": True})
    num_items: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def build(cls, ratings: Ratings, layout: str = "bucketed") -> "Problem":
        """Lays the table out (on the host, NumPy) and puts it on the default device.

        Args:
            ratings: a checked table. float64 values stay float64 where x64 is enabled, else they become float32.
            layout: "bucketed", "padded" or "segmented" (see `jals.layouts`); results agree up to rounding.

        Raises:
            DataError: when `padded` would need too much memory; ArgumentError for an unknown layout.
            ForkError: in a process that was forked after jax had started, as from all that works on a problem.
        """
        check_jax()
        if not isinstance(ratings, Ratings):
            raise ArgumentError(f"expected Ratings, got {type(ratings).__name__}. Make them with Ratings.from_arrays.")
        value = jnp.asarray(ratings.value)
        weight = jnp.ones_like(value) if ratings.weight is None else jnp.asarray(ratings.weight, value.dtype)
        user_side = build_side(ratings.user, ratings.item, ratings.num_users, layout)
        item_side = build_side(ratings.item, ratings.user, ratings.num_items, layout)
        user, item, user_side, item_side = jax.tree.map(jnp.asarray, (ratings.user, ratings.item, user_side, item_side))
        return cls(user, item, value, weight, user_side, item_side, None, None, ratings.num_users, ratings.num_items)

    def __repr__(self) -> str:
        shape = f"{self.num_users:,} users x {self.num_items:,} items"
        return f"Problem({shape}, {self.num_entries:,} entries, {self.dtype})"

    @property
    def num_entries(self) -> int:
        return self.user.shape[0]

    @property
    def dtype(self) -> Any:
        return self.value.dtype

    def with_values(self, values: Any, weight: Any = None) -> "Problem":
        """The same entries with other numbers; traceable, and nothing is compiled again.

        Args:
            values: `(entries,)` in the order of the ratings; float64 where x64 is enabled and float64 is given, else
                float32.
            weight: `(entries,)`, each >= 0, or None to keep the weights. A weight of 0 makes an entry missing, so a
                fold of a cross-validation is a weight mask. Derivatives in a weight hold at weights > 0.

        Raises:
            ArgumentError: for another shape; DataError: for a masked array of NumPy with an entry that is masked.
        """
        values = _as_real("values", values)
        weight = self.weight if weight is None else _as_real("weight", weight)
        for name, array in (("values", values), ("weight", weight)):
            if array.shape != self.value.shape:
                raise ArgumentError(f"{name} has shape {array.shape}, but the table has {self.num_entries:,} entries.")
        weight = weight.astype(values.dtype)
        return dataclasses.replace(self, value=values, weight=weight, user_slots=None, item_slots=None)

    def arrange(self) -> "Problem":
        """The same problem with values and weights gathered into layout order (a problem that has them stays as it
        is). Solvers do it themselves; doing it once before a loop of sweeps saves the gathers inside."""
        check_jax()
        if self.user_slots is not None:
            return self
        user_slots, item_slots = (_slots(side, self.value, self.weight) for side in (self.user_side, self.item_side))
        return dataclasses.replace(self, user_slots=user_slots, item_slots=item_slots)

    def shard(self, devices: Any = None) -> "Problem":
        """The same problem on several devices: XLA solves and adds up the rows of the layouts' slabs on all of them at
        once, and every device holds the factors. For CPUs without the kernel of `jals.native`, and for accelerators.

        Sweeps, losses and certificates are those of the problem on one device. There are no derivatives (an error says
        so): JAX's transposition of `shard_map` was seen to give wrong ones for what the rows share.

        Args:
            devices: a list of devices; None for all of the default platform.
        """
        devices = jax.devices() if devices is None else list(devices)
        mesh = jax.sharding.Mesh(np.array(devices), ("slabs",))
        everywhere = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
        names = ("user", "item", "value", "weight")
        return dataclasses.replace(
            self,
            **{name: jax.device_put(getattr(self, name), everywhere) for name in names},
            user_side=self.user_side.shard(mesh),
            item_side=self.item_side.shard(mesh),
            user_slots=None,
            item_slots=None,
        )

    def check(self) -> None:
        """Refuses values and weights that no fit can use, where they are not traced.

        Raises:
            DataError: naming the first entry with a negative or non-finite weight, or a non-finite value.
        """
        check_jax()
        if is_traced(self.value) or is_traced(self.weight):
            return
        with jax.ensure_compile_time_eval():  # a table that a traced function closes over is known, too
            for name, numbers, wrong in (
                ("weight", self.weight, ~(jnp.isfinite(self.weight) & (self.weight >= 0))),
                ("value", self.value, ~jnp.isfinite(self.value)),
            ):
                if wrong.any():
                    at = int(jnp.argmax(wrong))
                    need = "finite and >= 0" if name == "weight" else "finite"
                    raise DataError(f"{name} of entry {at} is {numbers[at]}, but must be {need}.")
            if not (self.weight > 0).any():
                raise DataError("every entry has weight 0: there is nothing to learn from.")

    def describe(self) -> dict:
        """The layouts' cost by side: `{"user": {...}, "item": {...}}`, see `Side.describe`."""
        return {"user": self.user_side.describe(), "item": self.item_side.describe()}


@jax.jit
def _slots(side: Side, value: jax.Array, weight: jax.Array) -> Slots:
    def gather(numbers):
        numbers = jnp.pad(numbers, (0, 1))  # the 0 that padding reads
        read = functools.partial(jax.lax.map, lambda entry: numbers.at[entry].get(mode="promise_in_bounds"))
        return tuple(read(bucket.entry) for bucket in side.buckets)  # slab by slab: no temporaries of the table's size

    weights = gather(weight)
    count = jnp.zeros(side.num_rows, value.dtype)
    for bucket, slot_weight in zip(side.buckets, weights, strict=True):
        here = (slot_weight > 0).sum(axis=-1).astype(value.dtype)
        row = bucket.row
        if bucket.piece_row is not None:
            beyond = jnp.full((row.shape[0], 1), side.num_rows, row.dtype)
            row = jnp.take_along_axis(jnp.concatenate([row, beyond], axis=1), bucket.piece_row, axis=1)
        count = count.at[row].add(here, mode="drop")
    return Slots(gather(value), weights, count)


def _as_real(name: str, numbers: Any) -> jax.Array:
    if not isinstance(numbers, jax.Array):
        unmasked(name, numbers)
        try:
            numbers = np.asarray(numbers)
        except Exception as error:  # what a class of someone else's says to being an array
            raise ArgumentError(f"{name} must be real numbers: {shown(error)}.") from error
    if not jnp.issubdtype(numbers.dtype, jnp.floating) and getattr(numbers.dtype, "kind", "a key's") not in "biu":
        raise ArgumentError(f"{name} must be real numbers, got {numbers.dtype}.")
    wide = numbers.dtype.kind == "f" and numbers.dtype.itemsize >= 8  # in either byte order
    dtype = np.float64 if wide and jax.config.read("jax_enable_x64") else np.float32
    return jnp.asarray(numbers if isinstance(numbers, jax.Array) else numbers.astype(dtype), dtype)

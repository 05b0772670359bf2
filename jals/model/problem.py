"""A ratings table on the device, ready to be solved: entries in input order, and both sides' layouts."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..errors import ArgumentError, DataError, is_traced
from ..forks import check_jax
from ..reals import FLOATS, MOST, float_dtype, reals
from . import layout_checks
from .layouts import Side, build_side

_CODES = (np.dtype(np.uint8), np.dtype(np.uint16))  # what values may be coded as, see `Slots`


class Slots(NamedTuple):
    """The entries' numbers in the order of one side's layout, in as few bytes as hold them exactly.

    Attributes:
        value: one array `(slabs, pieces, width)` a bucket: numbers, 0 in padding; or codes (see `codes`).
        weight: likewise, 0 in padding; None where every entry has weight 1.
        count: `(num_rows,)`, n, how many of each row's entries have weight > 0, in the problem's dtype; NaN where the
            layout is not the table's.
        scale: `(2,)`, (low, step) in the problem's dtype where values are codes, uint8 or uint16: a code c stands for
            low + step c. Else None.
    """

    value: tuple[jax.Array, ...]
    weight: tuple[jax.Array, ...] | None
    count: jax.Array
    scale: jax.Array | None = None

    def weights(self) -> tuple[Any, ...]:
        """`weight`, with a None for each bucket where there is none."""
        return (None,) * len(self.value) if self.weight is None else self.weight

    def numbers(self, value: jax.Array) -> jax.Array:
        """The numbers of values as they are stored here."""
        return value if self.scale is None else self.scale[0] + self.scale[1] * value.astype(self.scale.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Problem:
    """What a solver works on. A pytree; make one with `Problem.build`.

    Attributes:
        user, item: int32 `(entries,)`, in the order of the ratings it was built from.
        value: float32 or float64 `(entries,)`. Factors take this dtype.
        given_weight: likewise; None where every entry has weight 1, see `weight`.
        user_side, item_side: the layouts.
        user_slots, item_slots: values and weights in layout order, or None before `arrange`.
        num_users, num_items: static.
        compact: whether values that are not traced lie in layout order as codes of a byte or two, where these hold them
            exactly (see `Slots`); static. True for what `build` makes. `with_values` sets it to False, so that whatever
            numbers it is given, nothing is compiled again.
    """

    user: jax.Array
    item: jax.Array
    value: jax.Array
    given_weight: jax.Array | None
    user_side: Side
    item_side: Side
    user_slots: Slots | None
    item_slots: Slots | None
    num_users: int = dataclasses.field(metadata={"static": True})
    num_items: int = dataclasses.field(metadata={"static": True})
    compact: bool = dataclasses.field(default=False, metadata={"static": True})

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
        columns = _columns(ratings)
        user_side = build_side(ratings.user, ratings.item, ratings.num_users, layout)
        item_side = build_side(ratings.item, ratings.user, ratings.num_items, layout)
        sides = jax.device_put((user_side, item_side))
        return cls(*columns, *sides, None, None, ratings.num_users, ratings.num_items, compact=True)

    @classmethod
    def of_side(cls, ratings: Ratings, side: str) -> "Problem":
        """What one half-sweep needs, arranged: the layout of `side` alone, "user" or "item", in which no fit can be
        made. The other side has no bucket, and its counts are NaN, as of a layout that is not one of the table."""
        *_, value, weight = columns = _columns(ratings)
        rows = {name: getattr(ratings, f"num_{name}s") for name in ("user", "item")}
        opposite = "item" if side == "user" else "user"
        here = build_side(getattr(ratings, side), getattr(ratings, opposite), rows[side], "bucketed")
        sides = {side: jax.device_put(here), opposite: Side((), rows[opposite], len(ratings.user))}
        slots = {side: _side_slots(sides[side], value, weight, value.dtype)}
        slots[opposite] = Slots((), (), jnp.full(rows[opposite], jnp.nan, value.dtype))
        return cls(*columns, sides["user"], sides["item"], slots["user"], slots["item"], rows["user"], rows["item"])

    def __repr__(self) -> str:
        shape = f"{self.num_users:,} users x {self.num_items:,} items"
        return f"Problem({shape}, {self.num_entries:,} entries, {self.dtype})"

    @property
    def num_entries(self) -> int:
        return self.user.shape[0]

    @property
    def dtype(self) -> Any:
        return float_dtype(self.value)

    @property
    def weight(self) -> jax.Array:
        """`(entries,)`, like the values: ones where none are given."""
        return jnp.ones_like(self.value) if self.given_weight is None else self.given_weight

    def astype(self, dtype: Any) -> "Problem":
        """The same problem with values and weights of another dtype, float32 or float64 (where x64 is on); itself where
        they have it. Traceable; what is in layout order stays there.

        Raises:
            ArgumentError: for another dtype.
        """
        dtype = np.dtype(dtype)
        if dtype not in FLOATS or (dtype == np.float64 and not jax.config.read("jax_enable_x64")):
            hint = ' To have float64: jax.config.update("jax_enable_x64", True).' if dtype == np.float64 else ""
            raise ArgumentError(f"a problem of {dtype.name} cannot be made: float32, or float64 with x64 on.{hint}")
        weight = None if self.given_weight is None else jnp.asarray(self.given_weight, dtype)
        if self.value.dtype == dtype and (weight is None or self.given_weight.dtype == dtype):
            return self

        def cast(side: Side, slots: Slots | None) -> Slots | None:
            if slots is None:
                return None
            value = tuple(each if slots.scale is not None else each.astype(dtype) for each in slots.value)
            scale, weight = jax.tree.map(lambda each: each.astype(dtype), (slots.scale, slots.weight))
            # Counted again: what was a weight > 0 may be none in the narrower dtype. A NaN stays one, see `_arranged`.
            count = slots.count if weight is None else _summed(side, _seen(weight), dtype)
            count = jnp.where(jnp.isnan(slots.count), jnp.nan, count).astype(dtype)
            return Slots(value, weight, count, scale)

        return dataclasses.replace(
            self,
            value=jnp.asarray(self.value, dtype),
            given_weight=weight,
            user_slots=cast(self.user_side, self.user_slots),
            item_slots=cast(self.item_side, self.item_slots),
        )

    def with_values(self, values: Any, weight: Any = None) -> "Problem":
        """The same entries with other numbers; traceable, and nothing is compiled again.

        Args:
            values: `(entries,)` in the order of the ratings; float64 where x64 is enabled and float64 is given, else
                float32. Lists, and numbers of any real dtype.
            weight: `(entries,)`, each >= 0, or None to keep the weights. A weight of 0 makes an entry missing, so a
                fold of a cross-validation is a weight mask. Derivatives in a weight hold at weights > 0.

        Raises:
            ArgumentError: for what holds no real numbers, or another number of them.
            DataError: for a masked array of NumPy with an entry that is masked.
        """
        values = _as_real(values)
        weight = self.given_weight if weight is None else jnp.asarray(reals("weight", weight))
        for name, array in (("values", values), ("weight", weight)):
            if array is not None and array.shape != self.value.shape:
                raise ArgumentError(f"{name} has shape {array.shape}, but the table has {self.num_entries:,} entries.")
        weight = None if weight is None else weight.astype(values.dtype)
        renewed = {"value": values, "given_weight": weight, "compact": False}
        return dataclasses.replace(self, **renewed, user_slots=None, item_slots=None)

    def arrange(self) -> "Problem":
        """The same problem with values and weights gathered into layout order (a problem that has them stays as it
        is). Solvers do it themselves; doing it once before a loop of sweeps saves the gathers inside.

        Where a side's layout is not one of this table's entries, as `Problem.build` makes it, the side's counts become
        NaN, and with them all that is solved or summed. So an arranged problem that is altered by hand must be arranged
        anew: `dataclasses.replace(..., user_slots=None, item_slots=None)`.
        """
        if self.user_slots is not None:
            return self
        coded = (None, None) if not self.compact or is_traced(self.value) else codes(np.asarray(self.value))
        user_slots, item_slots = _arranged(self, *jax.device_put(coded))
        return dataclasses.replace(self, user_slots=user_slots, item_slots=item_slots)

    def weight_sums(self) -> tuple[jax.Array, jax.Array]:
        """(of every user, of every item) the sum of the entries' weights, `(rows,)`, of a problem that is arranged; NaN
        where the counts are."""
        sums = []
        for side, slots in ((self.user_side, self.user_slots), (self.item_side, self.item_slots)):
            assert slots is not None
            sums.append(slots.count if slots.weight is None else _summed(side, slots.weight, self.dtype) + 0 * slots.count)
        return sums[0], sums[1]

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
        names = ("user", "item", "value", "given_weight")
        return dataclasses.replace(
            self,
            **{name: jax.device_put(getattr(self, name), everywhere) for name in names},
            user_side=self.user_side.shard(mesh),
            item_side=self.item_side.shard(mesh),
            user_slots=None,
            item_slots=None,
        )

    def check_shapes(self) -> None:
        """Refuses arrays that do not belong together, by what is static; so under any transformation, and for nothing
        at run time.

        Raises:
            ArgumentError: naming the array.
        """
        for name in ("num_users", "num_items"):
            number = getattr(self, name)
            if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or not 1 <= number <= MOST:
                raise ArgumentError(f"problem.{name} is {number!r}, but must be a whole number from 1 to 2**31 - 1.")
        entries = getattr(self.user, "shape", ())
        if len(entries) != 1 or not entries[0]:
            raise ArgumentError(f"problem.user has shape {entries}, but must be (entries,), with one entry at least.")
        if getattr(self.value, "dtype", None) not in FLOATS:
            have = getattr(self.value, "dtype", type(self.value).__name__)
            raise ArgumentError(f"problem.value is {have}, but must be float32 or float64: Problem.with_values casts.")
        for name, dtype in (("user", np.int32), ("item", np.int32), ("value", self.value.dtype)):
            layout_checks.check_form(f"problem.{name}", getattr(self, name), dtype, entries)
        if self.given_weight is not None:
            layout_checks.check_form("problem.given_weight", self.given_weight, self.value.dtype, entries)
        for name, rows in (("user", self.num_users), ("item", self.num_items)):
            side, slots = getattr(self, f"{name}_side"), getattr(self, f"{name}_slots")
            sizes = getattr(side, "num_rows", None), getattr(side, "num_entries", None)
            if not isinstance(side, Side) or sizes != (rows, entries[0]):
                have = f"of {sizes[0]} rows and {sizes[1]} entries" if isinstance(side, Side) else type(side).__name__
                need = f"a layout of {rows} rows and {entries[0]} entries"
                raise ArgumentError(f"problem.{name}_side is {have}, but must be {need}: make one with Problem.build.")
            layout_checks.check_shapes(side, f"problem.{name}_side")
            if slots is None:
                continue
            here, needed = f"problem.{name}_slots", [bucket.entry.shape for bucket in side.buckets]
            if not isinstance(slots, Slots) or not len(slots.value) == len(slots.weights()) == len(needed):
                raise ArgumentError(f"{here} are not of this layout: give None, and `arrange` makes them.")
            layout_checks.check_form(f"{here}.count", slots.count, self.value.dtype, (rows,))
            dtype = self.value.dtype
            if slots.scale is not None:
                layout_checks.check_form(f"{here}.scale", slots.scale, dtype, (2,))
                dtype = next((each.dtype for each in slots.value if getattr(each, "dtype", None) in _CODES), _CODES[0])
            for place, (shape, value, weight) in enumerate(zip(needed, slots.value, slots.weights(), strict=True)):
                layout_checks.check_form(f"{here}.value[{place}]", value, dtype, shape)
                if weight is not None:
                    layout_checks.check_form(f"{here}.weight[{place}]", weight, self.value.dtype, shape)

    def check(self) -> None:
        """Refuses what no fit can use: arrays that do not belong together, and where they are not traced, values,
        weights and indices.

        Raises:
            ArgumentError: naming an array of a wrong dtype or shape.
            DataError: naming the first entry with a negative or non-finite weight, a non-finite value, or an index out
                of range; or where a layout, altered by hand, is not one of the entries.
        """
        self.checked()

    def checked(self) -> "Problem":
        """The same problem, checked as by `check`, and arranged where nothing in it is traced."""
        self.check_shapes()
        self.check_numbers()
        if any(map(is_traced, jax.tree.leaves(self))):
            return self
        # What is in layout order already may be of other numbers: whoever alters a problem may have left it there.
        given = dataclasses.replace(self, user_slots=None, item_slots=None)
        arranged = given.arrange()
        with jax.ensure_compile_time_eval():  # a table that a traced function closes over is known, too
            if is_traced(arranged.value) or is_traced(arranged.user_slots.count):
                arranged = given.arrange()
            for name, slots in (("user", arranged.user_slots), ("item", arranged.item_slots)):
                if np.isnan(slots.count[0]):
                    raise DataError(f"{self._fault(name)}. Make problems with Problem.build.")
        return arranged

    def _fault(self, side: str) -> str:
        """What is wrong with the indices of a side, in words."""
        columns = {name: np.asarray(getattr(self, name)) for name in ("user", "item")}
        for name, most in (("user", self.num_users), ("item", self.num_items)):
            wrong = (columns[name] < 0) | (columns[name] >= most)
            if wrong.any():
                at = int(wrong.argmax())
                return f"{name} of entry {at} is {columns[name][at]}, but the problem has {most:,} {name}s"
        opposite, others = ("item", self.num_items) if side == "user" else ("user", self.num_users)
        here = f"{side}_side"
        return layout_checks.fault(getattr(self, here), here, columns[side], columns[opposite], others)

    def check_numbers(self) -> None:
        """Refuses values and weights that no fit can use, where they are not traced: a part of `check`."""
        weight = self.given_weight
        if is_traced(self.value) or is_traced(weight):
            return
        with jax.ensure_compile_time_eval():
            wrongs = [] if weight is None else [("weight", weight, ~(jnp.isfinite(weight) & (weight >= 0)))]
            for name, numbers, wrong in [*wrongs, ("value", self.value, ~jnp.isfinite(self.value))]:
                if wrong.any():
                    at = int(jnp.argmax(wrong))
                    need = "finite and >= 0" if name == "weight" else "finite"
                    raise DataError(f"{name} of entry {at} is {numbers[at]}, but must be {need}.")
            if weight is not None and not (weight > 0).any():
                raise DataError("every entry has weight 0: there is nothing to learn from.")

    def describe(self) -> dict:
        """The layouts' cost by side: `{"user": {...}, "item": {...}}`, see `Side.describe`."""
        return {"user": self.user_side.describe(), "item": self.item_side.describe()}


def _columns(ratings: Ratings) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """(user, item, value, weight) on the default device, which on a CPU are the table's own arrays where these are of
    the right dtype and begin where XLA wants it (`data.arrays.empty`): so nothing is held twice."""
    wide = ratings.value.dtype == np.float64 and jax.config.read("jax_enable_x64")
    dtype = np.float64 if wide else np.float32
    value, weight = (
        None if each is None else each.astype(dtype, copy=False) for each in (ratings.value, ratings.weight)
    )  # fmt: skip
    return jax.device_put((ratings.user, ratings.item, value, weight))


def codes(value: np.ndarray) -> tuple[np.ndarray | None, np.ndarray | None]:
    """(codes `(entries,)` uint8 or uint16, scale `(2,)`) of values that low + step code gives back to the last bit,
    whatever the order of rounding: step is 1, a half, ..., 1/256, and value / step a whole number below 2^20. (None,
    None) where they are not such values."""
    block = 1 << 20  # so that little is held beside the codes
    parts = [value[at : at + block] for at in range(0, len(value), block)]
    low, high = float(value.min(initial=np.inf)), float(value.max(initial=-np.inf))
    for step in (2.0**-each for each in range(9)):
        if not max(abs(low), abs(high)) < 2**20 * step:
            break
        # The first entries tell soon of most steps that they are too long.
        if all((np.rint(part / step) * step == part).all() for part in (value[:1000], *parts)):
            bound = round((high - low) / step)
            dtype = next((each for each in _CODES if bound <= np.iinfo(each).max), None)
            if dtype is None:
                break
            coded = np.empty(len(value), dtype)
            for at, part in zip(range(0, len(value), block), parts, strict=True):
                coded[at : at + block] = np.rint((part - low) / step)
            return coded, np.array([low, step], value.dtype)
    return None, None


@jax.jit
def _arranged(problem: Problem, coded: jax.Array | None, scale: jax.Array | None) -> tuple[Slots, Slots]:
    # A wrong index reads or writes a number of another row, and no result would show it. So n becomes NaN, which
    # reaches everything (`Objective.row_reg`).
    table = layout_checks.table_fingerprint(problem.user, problem.item, problem.num_users, problem.num_items)
    value = problem.value if coded is None else coded

    def slots(side: Side, row_first: bool) -> Slots:
        found = _side_slots(side, value, problem.given_weight, problem.value.dtype)
        sound = layout_checks.has_rows(side) & (layout_checks.fingerprint(side, row_first) == table)
        return found._replace(count=jnp.where(sound, found.count, jnp.asarray(jnp.nan, found.count.dtype)), scale=scale)

    return slots(problem.user_side, True), slots(problem.item_side, False)


@functools.partial(jax.jit, static_argnames="dtype")
def _side_slots(side: Side, value: jax.Array, weight: jax.Array | None, dtype: Any) -> Slots:
    entries = [bucket.entry for bucket in side.buckets]

    def laid_out(column: jax.Array) -> tuple[jax.Array, ...]:
        column = jnp.pad(column, (0, 1))  # the 0 that padding reads
        return tuple(column.at[entry].get(mode="promise_in_bounds") for entry in entries)

    weights = None if weight is None else laid_out(weight)
    seen = [entry != side.num_entries for entry in entries] if weights is None else _seen(weights)
    return Slots(laid_out(value), weights, _summed(side, seen, dtype))


def _seen(weights: Any) -> list[jax.Array]:
    return [weight > 0 for weight in weights]


def _summed(side: Side, numbers: Any, dtype: Any) -> jax.Array:
    """The sums by row of numbers of each bucket's slots: of `_seen`, n."""
    if not side.buckets:  # not laid out
        return jnp.zeros(side.num_rows, dtype)
    rows = jnp.concatenate([side.of_pieces(bucket).reshape(-1) for bucket in side.buckets])
    here = jnp.concatenate([each.sum(axis=-1).reshape(-1) for each in numbers])
    return jnp.zeros(side.num_rows, dtype).at[rows].add(here.astype(dtype), mode="drop")


def _as_real(values: Any) -> jax.Array:
    values = reals("values", values)
    double = values.dtype == np.float64 and jax.config.read("jax_enable_x64")
    return jnp.asarray(values, np.float64 if double else np.float32)

"""A ratings table on the device, ready to be solved: entries in input order, and both sides' layouts."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..data.ratings import Ratings
from ..data.vocabulary import Vocabulary
from ..devices import told_exhausted
from ..errors import ArgumentError, DataError, is_traced
from ..forks import check_jax
from ..partitioned.manifest import Manifest
from ..partitioned.reader import read as partitioned
from ..reals import FLOATS, MOST, float_dtype, reals
from . import layout_checks
from .layouts import Side, build_side
from .slots import CODES, Slots, arranged, is_lean, row_sums, side_slots


@dataclasses.dataclass(frozen=True)
class Problem:
    """What a solver works on. A pytree; make one with `Problem.build`.

    Attributes:
        user, item: int32 `(entries,)`, in the order of the ratings it was built from.
        value: float32 or float64 `(entries,)`. Factors take this dtype.
        given_weight: likewise; None where every entry has weight 1, of tables of 2^20 entries and more: see `weight`.
        user_side, item_side: the layouts.
        user_slots, item_slots: values and weights in layout order, or None before `arrange`.
        num_users, num_items: static.
        compact: whether values that are not traced lie in layout order as codes of a byte or two, where these hold them
            exactly (see `Slots`); static. True for what `build` makes of 2^20 entries and more. `with_values` makes it
            False, so that whatever numbers it is given, nothing is compiled again.
        vocab: the outside ids of the rows, where `open` found them. No part of the pytree: what a transformation of JAX
            hands on has none.
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
    vocab: Vocabulary | None = None

    @classmethod
    def build(
        cls, ratings: Ratings, layout: str = "bucketed", devices: Any = None, exchange: Any = "auto"
    ) -> "Problem":
        """Lays the table out (on the host, NumPy) and puts it on the default device, or spreads it over several.

        Spread, each device has some rows of either side with all of their entries, and those rows of the factors; what
        it needs of the other side's rows is sent to it in every half-sweep (docs/scaling.md). Losses, sweeps,
        certificates and derivatives are those of one device, up to rounding, and rows keep their numbers in every
        public call.

        Args:
            ratings: a checked table. float64 values stay float64 where x64 is enabled, else they become float32.
            layout: "bucketed", "padded" or "segmented" (see `jals.layouts`); results agree up to rounding. With
                `devices` "bucketed".
            devices: None, the default one; how many of `jax.devices()`; or a list of them. Their number must divide
                that of the shards, 64 (or as many as there are devices, where these are more).
            exchange: how rows reach the devices that need them: "all_gather", "routed" or "ring", or one of the last
                two with a number of exchanges a half-sweep, "routed:4" or ("routed", 4), that divides the shards of a
                device; "auto" takes what sends least, of what fits.

        Raises:
            DataError: when `padded` would need too much memory; ArgumentError for an unknown layout.
            ForkError: in a process that was forked after jax had started, as from all that works on a problem.
            OutOfMemory: where the device has too little of it.
        """
        check_jax()
        if not isinstance(ratings, Ratings):
            raise ArgumentError(f"expected Ratings, got {type(ratings).__name__}. Make them with Ratings.from_arrays.")
        if devices is not None:
            if layout != "bucketed":
                raise ArgumentError(f'layout is "{layout}", but must be "bucketed" with devices.')
            from .spreading import build_sharded  # whose problems are problems

            return build_sharded(ratings, devices, exchange)
        if exchange != "auto":
            raise ArgumentError(f"exchange is {exchange!r}, but is for several devices: give devices, or leave it out.")
        cures = ['take layout="bucketed"'] * (layout == "padded") + ["give fewer ratings"]
        with told_exhausted("Problem.build", cures):
            user, item, value, weight = _columns(ratings)
            platform = jax.default_backend()
            user_side = build_side(ratings.user, ratings.item, ratings.num_users, layout, platform)
            item_side = build_side(ratings.item, ratings.user, ratings.num_items, layout, platform)
            user_side, item_side = jax.device_put((user_side, item_side))
        sides, rows = (user_side, item_side), (ratings.num_users, ratings.num_items)
        return cls(user, item, value, weight, *sides, None, None, *rows, compact=is_lean(ratings))

    @classmethod
    def open(
        cls,
        path: Any,
        devices: Any = None,
        stream: bool = False,
        layout: str = "bucketed",
        verify: bool = True,
        *,
        exchange: Any = "auto",
        memory: int | str | None = None,
        slabs: Any = None,
        progress: Callable[[str, int, int], None] | None = None,
    ) -> Any:
        """The problem of a partitioned table, as `jals.partition` or another program wrote it (docs/partitioned.md).
        Needs the extra `tables`.

        In memory it is that of `build`, with the same values and derivatives, of the ratings that were partitioned. Its
        entries are in their order, or, where the table does not know it, in the order of user and item; users and items
        have the numbers that they had there.

        With `stream=True` the entries stay on the disk: what is returned is for `jals.fit` with `ALS` alone, which
        reads a shard at a time and gives the factors of the fit in memory, up to rounding. The shards are laid out
        first, once: a process that is killed meanwhile leaves those that are whole, and the same call makes the rest.

        Args:
            path: the folder.
            devices: as in `build`: rows lie in the shards that they have been dealt to, whose number the devices' must
                divide. Of several processes (`jax.distributed`) each reads the files of its devices' shards alone;
                values and weights of such a problem cannot be exchanged for others (`with_values`).
            stream: whether the table stays on the disk.
            layout: as in `build`; "bucketed" with `stream` or `devices`.
            exchange: as in `build`.
            verify: whether the files' SHA-256 are compared with those of the manifest, a warning saying where there are
                none; their sizes always are. With `stream`, those of what is laid out.
            memory: with `stream`, how much the process may hold in memory of its own, in bytes or as in "2GB": a fit
                that would need more is refused. Pages of the files are the kernel's, and do not count. None: as much as
                there is.
            slabs: with `stream`, the folder for what is laid out; None for `slabs` in the table's.
            progress: with `stream`, called with a step's name, how much of it is done, and of how much.

        Returns: a `Problem`; with `stream` what says of itself how many users, items and entries it has (`num_users`,
            `num_items`, `num_entries`), its `dtype` and `vocab`.

        Raises:
            StorageError: for what is no partitioned table, is of another version, or has a file that is missing,
                changed or damaged: it is named.
            DataError: naming file, shard and row of the first field that cannot be.
            ArgumentError: for another `devices`, `stream`, `layout` or `memory`.
            ImportError: without the extra `tables`.
        """
        check_jax()
        if devices is not None and (stream or layout != "bucketed"):
            raise ArgumentError('devices are for stream=False and layout="bucketed": leave these out.')
        if devices is None and exchange != "auto":
            raise ArgumentError(f"exchange is {exchange!r}, but is for several devices: give devices, or leave it out.")
        if stream not in (False, True):
            raise ArgumentError(f"stream is {stream!r}, but must be True or False.")
        if stream and layout != "bucketed":
            raise ArgumentError(f'layout is "{layout}", but must be "bucketed" with stream=True.')
        for name, given in (("memory", memory), ("slabs", slabs), ("progress", progress)):
            if given is not None and not stream:
                raise ArgumentError(f"{name} is for stream=True: a table is opened into memory, which has to hold it.")
        manifest = Manifest.read(path)
        if stream:
            from .streamed import open_streamed  # which makes problems

            return open_streamed(manifest, memory, slabs, verify, progress)
        if devices is not None:
            from .spreading import open_sharded

            return open_sharded(manifest, devices, exchange, verify)
        manifest.verify(hashes=verify)
        ratings, vocab = partitioned(manifest)
        return dataclasses.replace(cls.build(ratings, layout), vocab=vocab)

    @classmethod
    def of_side(cls, ratings: Ratings, side: str) -> "Problem":
        """What one half-sweep needs, arranged: the layout of `side` alone, "user" or "item", in which no fit can be
        made. The other side has no bucket, and its counts are NaN, as of a layout that is not one of the table."""
        user, item, value, weight = _columns(ratings)
        rows = {name: getattr(ratings, f"num_{name}s") for name in ("user", "item")}
        opposite = "item" if side == "user" else "user"
        here = build_side(getattr(ratings, side), getattr(ratings, opposite), rows[side], "bucketed")
        sides = {side: jax.device_put(here), opposite: Side((), rows[opposite], len(ratings.user))}
        slots = {side: side_slots(sides[side], value, weight, value.dtype)}
        slots[opposite] = Slots((), (), jnp.full(rows[opposite], jnp.nan, value.dtype))
        arranged = sides["user"], sides["item"], slots["user"], slots["item"]
        return cls(user, item, value, weight, *arranged, rows["user"], rows["item"])

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

    def columns(self) -> tuple[Any, Any, Any, Any]:
        """(user, item, value, weight) of the entries, in their order, each `(entries,)`; weight None where all are 1.
        Of a problem on several devices on the host, where it is put together anew."""
        return self.user, self.item, self.value, self.given_weight

    def value_range(self) -> tuple[jax.Array, jax.Array]:
        """(the least value, the largest), `()` each."""
        return _range(self.value)

    def astype(self, dtype: Any) -> "Problem":
        """The same problem with values and weights of another dtype, float32 or float64 (where x64 is on); itself where
        they have it. Traceable; what is in layout order stays there.

        Raises:
            ArgumentError: for another dtype.
        """
        dtype = self.check_dtype(dtype)
        weight = None if self.given_weight is None else jnp.asarray(self.given_weight, dtype)
        if self.value.dtype == dtype and (weight is None or self.given_weight.dtype == dtype):
            return self

        def cast(side: Side, slots: Slots | None) -> Slots | None:
            if slots is None:
                return None
            value = tuple(each if slots.scale is not None else each.astype(dtype) for each in slots.value)
            scale, weight = jax.tree.map(lambda each: each.astype(dtype), (slots.scale, slots.weight))
            # Counted again: what was a weight > 0 may be none in the narrower dtype. A NaN stays one, see `arranged`.
            count = slots.count if weight is None else row_sums(side, [each > 0 for each in weight], dtype)
            count = jnp.where(jnp.isnan(slots.count), jnp.nan, count).astype(dtype)
            return Slots(value, weight, count, scale)

        return dataclasses.replace(
            self,
            value=jnp.asarray(self.value, dtype),
            given_weight=weight,
            user_slots=cast(self.user_side, self.user_slots),
            item_slots=cast(self.item_side, self.item_slots),
        )

    @staticmethod
    def check_dtype(dtype: Any) -> np.dtype:
        """The dtype, one that problems have; see `astype`."""
        dtype = np.dtype(dtype)
        if dtype not in FLOATS or (dtype == np.float64 and not jax.config.read("jax_enable_x64")):
            hint = ' To have float64: jax.config.update("jax_enable_x64", True).' if dtype == np.float64 else ""
            raise ArgumentError(f"a problem of {dtype.name} cannot be made: float32, or float64 with x64 on.{hint}")
        return dtype

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
        values = as_real(values)
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
        columns = self.user, self.item, self.value, self.given_weight
        user_slots, item_slots = arranged(columns, self.user_side, self.item_side, self.compact)
        return dataclasses.replace(self, user_slots=user_slots, item_slots=item_slots)

    def weight_sums(self) -> tuple[jax.Array, jax.Array]:
        """(of every user, of every item) the sum of the entries' weights, `(rows,)`, of a problem that is arranged; NaN
        where the counts are."""
        sums = []
        for side, slots in ((self.user_side, self.user_slots), (self.item_side, self.item_slots)):
            assert slots is not None
            by_weight = slots.weight is not None
            sums.append(row_sums(side, slots.weight, self.dtype) + 0 * slots.count if by_weight else slots.count)
        return sums[0], sums[1]

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
                dtype = next((each.dtype for each in slots.value if getattr(each, "dtype", None) in CODES), CODES[0])
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
                if np.isnan(np.asarray(slots.count)[0]):
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
            wrong_value, wrong_weight, weighs = _faults(self.value, weight)
            for name, numbers, at in (("weight", weight, int(wrong_weight)), ("value", self.value, int(wrong_value))):
                if at >= 0:
                    need = "finite and >= 0" if name == "weight" else "finite"
                    raise DataError(f"{name} of entry {at} is {numbers[at]}, but must be {need}.")
            if not weighs:
                raise DataError("every entry has weight 0: there is nothing to learn from.")

    def describe(self) -> dict:
        """The layouts' cost by side: `{"user": {...}, "item": {...}}`, see `Side.describe`."""
        return {"user": self.user_side.describe(), "item": self.item_side.describe()}


# What is static is compared at every call of a compiled function, and a leaf is an array: ids are neither, so left out.
# (jax 0.8 cannot leave a field out of a dataclass that it registers.)
_ARRAYS = tuple(field.name for field in dataclasses.fields(Problem) if field.name != "vocab" and not field.metadata)
_STATIC = tuple(field.name for field in dataclasses.fields(Problem) if field.metadata)


def _with_keys(problem: Problem) -> tuple[list[tuple[Any, Any]], tuple]:
    parts = [(jax.tree_util.GetAttrKey(name), getattr(problem, name)) for name in _ARRAYS]
    return parts, tuple(getattr(problem, name) for name in _STATIC)


jax.tree_util.register_pytree_with_keys(
    Problem,
    _with_keys,
    lambda static, arrays: Problem(**dict(zip((*_ARRAYS, *_STATIC), (*arrays, *static), strict=True))),
)


# One program each: operation by operation, as many programs would be compiled for the first fit.


@jax.jit
def _faults(value: jax.Array, weight: jax.Array | None) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(the first entry whose value no fit can use, and the first whose weight, -1 for none; whether any weighs more
    than 0)."""

    def first(wrong: jax.Array) -> jax.Array:
        return jnp.where(wrong.any(), jnp.argmax(wrong), -1)

    of_value: Any = first(~jnp.isfinite(value))
    if weight is None:
        return of_value, np.int32(-1), np.True_  # pyright: ignore[reportReturnType]
    return of_value, first(~(jnp.isfinite(weight) & (weight >= 0))), (weight > 0).any()


@jax.jit
def _range(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    return numbers.min(), numbers.max()


def _columns(ratings: Ratings) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array | None]:
    """(user, item, value, weight) on the default device, which on a CPU are the table's own arrays where these are of
    the right dtype and begin where XLA wants it (`grouping.empty`): so nothing is held twice."""
    return jax.device_put((ratings.user, ratings.item, *numbers_of(ratings)))


def numbers_of(ratings: Ratings) -> tuple[np.ndarray, np.ndarray | None]:
    """(value, weight) of a problem's dtype; no weights where a large table's are all 1."""
    wide = ratings.value.dtype == np.float64 and jax.config.read("jax_enable_x64")
    dtype = np.float64 if wide else np.float32
    value, weight = ratings.value.astype(dtype, copy=False), ratings.weight
    if is_lean(ratings):
        weight = None if weight is None or (weight == 1).all() else weight
    elif weight is None:
        weight = np.ones_like(value)
    return value, None if weight is None else weight.astype(dtype, copy=False)


def as_real(values: Any) -> jax.Array:
    values = reals("values", values)
    double = values.dtype == np.float64 and jax.config.read("jax_enable_x64")
    return jnp.asarray(values, np.float64 if double else np.float32)

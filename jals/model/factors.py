"""The factors, and the prediction they make."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..errors import ArgumentError, is_traced
from ..forks import check_jax
from ..html import Table, shown
from ..reals import FLOATS, float_dtype, is_number, reals
from .places import SIDES, Places

CHUNK = 2**16  # pairs whose factors are gathered at a time


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, repr=False)
class Factors:
    """What is learnt, a pytree. Biases and mean are None where the objective has none.

    Attributes:
        user: `(num_users, rank)`, X.
        item: `(num_items, rank)`, Y.
        user_bias, item_bias: `(num_users,)`, `(num_items,)`.
        mean: `()`, the weighted mean of the training values, set by `init` and never changed by a solver.
        places: static; None, or where the rows lie that are spread over devices (see `places.Places`): `user` is then
            `(places, rank)` and so on. Every public call takes such factors with the numbers of the ratings; `gathered`
            gives the tables of these.
    """

    user: jax.Array
    item: jax.Array
    user_bias: jax.Array | None = None
    item_bias: jax.Array | None = None
    mean: jax.Array | None = None
    places: Places | None = dataclasses.field(default=None, metadata={"static": True})

    def __repr__(self) -> str:
        """Dtypes and shapes; of the mean its value. Never the numbers of a row."""
        said = [f"{name} {in_brief(part)}" for name, part in self.parts().items()]
        return f"Factors({', '.join(said)}{'' if self.places is None else f', {self.places}'})"

    @shown
    def _repr_html_(self) -> Table:
        biased = "" if self.user_bias is None else ", each with a bias"
        rows = [(f"{side}s", f"{self.num_rows(side):,} rows of {self.rank:,} numbers{biased}") for side in SIDES]
        rows += [] if self.mean is None else [("mean", in_brief(self.mean))]
        rows.append(("numbers", np.dtype(self.dtype).name))
        return Table("factors", rows, note="" if self.places is None else str(self.places))

    def parts(self) -> dict[str, jax.Array]:
        """The arrays that there are, by name."""
        return {name: each for name, each in vars(self).items() if each is not None and name != "places"}

    def gathered(self) -> "Factors":
        """The same with rows by their numbers, (num_users, rank) and (num_items, rank); on every device of the mesh
        whole. Themselves where they are so."""
        if self.places is None:
            return self
        return self._moved({side: self.places.side(side).at for side in SIDES}, None)

    def placed(self, places: Places | None) -> "Factors":
        """The same with rows where these places have them, zeros where there is none."""
        if self.places == places:
            return self
        here = self.gathered()
        return here if places is None else here._moved(places.rows, places)

    def _moved(self, index: dict[str, np.ndarray], places: Places | None) -> "Factors":
        moved = {}
        for side in SIDES:
            for name in (side, f"{side}_bias"):
                table = getattr(self, name)
                if table is not None:
                    table = jnp.asarray(table)
                    moved[name] = _whole(table).at[index[side]].get(mode="fill", fill_value=0)
        return dataclasses.replace(self, **moved, places=places)

    def num_rows(self, side: str) -> int:
        """How many users, or items, there are."""
        return len(getattr(self, side)) if self.places is None else len(self.places.side(side).at)

    @property
    def rank(self) -> int:
        return self.user.shape[-1]

    @property
    def dtype(self) -> Any:
        return self.user.dtype

    def joint(self, side: str) -> jax.Array:
        """The unknowns of one side, "user" or "item", as its normal equations see them: the rows, and where there are
        biases the bias as last column."""
        rows, bias = getattr(self, side), getattr(self, f"{side}_bias")
        return rows if bias is None else jnp.concatenate([rows, bias[:, None]], axis=1)

    def with_joint(self, side: str, joint: jax.Array) -> "Factors":
        """The factors with one side's unknowns as `joint` has them."""
        if getattr(self, f"{side}_bias") is None:
            return dataclasses.replace(self, **{side: joint})
        return dataclasses.replace(self, **{side: joint[:, :-1], f"{side}_bias": joint[:, -1]})


def _whole(table: jax.Array) -> jax.Array:
    """A table on every device, where it is spread over the devices of a mesh."""
    sharding = None if is_traced(table) else table.sharding
    if not isinstance(sharding, jax.sharding.NamedSharding) or sharding.is_fully_replicated:
        return table
    everywhere = jax.sharding.NamedSharding(sharding.mesh, jax.sharding.PartitionSpec())
    return jax.jit(lambda table: table, out_shardings=everywhere)(table)


def in_brief(array: Any) -> str:
    """An array's dtype and shape, or the number that it is; what is none, as it prints itself."""
    if not hasattr(array, "shape") or not hasattr(array, "dtype"):
        return repr(array)
    if array.shape == () and isinstance(array, (jax.Array, np.ndarray, np.generic)) and not is_traced(array):
        return f"{float(array):.6g}"
    return f"{array.dtype.name}[{', '.join(map(str, array.shape))}]"


def score_terms(factors: Factors, user: jax.Array, item: jax.Array) -> list[jax.Array]:
    """The terms of s = mean + b_u + b_i + x_u . y_i that there are, for parallel arrays of ids."""
    terms = [] if factors.mean is None else [jnp.broadcast_to(factors.mean, user.shape)]
    if factors.user_bias is not None:
        terms += [factors.user_bias[user], factors.item_bias[item]]
    return [*terms, jnp.sum(factors.user[user] * factors.item[item], axis=-1)]


def remainder(value: jax.Array, terms: list[jax.Array]) -> jax.Array:
    """value - sum(terms), with the rounding errors carried along.

    Where mean and biases all but explain a value, what is left for the factors is far smaller than the terms; a plain
    sum would round it away in float32, and a row with few entries would then miss its certificate. Source: Neumaier's
    variant of Kahan's sum (1974). The errors are constants to autodiff, as they are to mathematics.
    """
    total, lost = value, jnp.zeros_like(value)
    for term in terms:
        new = total - term
        part = new - total
        lost += jax.lax.stop_gradient((total - (new - part)) - (term + part))
        total = new
    return total + lost


def predict(factors: Factors, user: Any, item: Any, clip: tuple[float, float] | None = None) -> jax.Array:
    """The score of each (user, item) pair, mean + b_u + b_i + x_u . y_i, on the scale of the training values.

    A user or item without training entries has factors at the prior mean (0 by default) and bias 0, so it is
    predicted by the mean and the other's bias; never NaN.

    Args:
        factors: as fitted.
        user, item: integer ids of one shape (or shapes that broadcast).
        clip: (low, high) to limit the scores to, low <= high, or None.

    Returns: the scores, in the factors' dtype; float32 for factors that are neither float32 nor float64 (bfloat16,
        whole numbers). Differentiable in the factors.

    Raises:
        ArgumentError: for ids that are not integers, out of range, or of shapes that do not broadcast; for a clip that
            is no such pair. (What a transformation traces cannot be checked: jax clamps ids out of range to the last
            row.)
    """
    check_jax()
    factors = consistent(factors, spread=True)
    user, item = (placed_ids(factors, *args) for args in (("user", user), ("item", item)))
    try:
        user, item = jnp.broadcast_arrays(user, item)
    except ValueError:
        raise ArgumentError(
            f"user has shape {user.shape}, item {item.shape}: give ids of one shape, or of shapes that broadcast."
        ) from None
    limits = None if clip is None else _checked_limits(clip)
    score = _scores(factors, user, item)
    return score if limits is None else jnp.clip(score, *(jnp.asarray(limit, score.dtype) for limit in limits))


def as_arrays(name: str, factors: Any) -> Factors:
    """The factors with lists made arrays. Raises ArgumentError for what holds no numbers, or is no `Factors`."""
    if not isinstance(factors, Factors):
        raise ArgumentError(f"{name} is of type {type(factors).__name__}: give result.factors, or those of jals.load.")
    for part in SIDES:
        if getattr(factors, part) is None:
            raise ArgumentError(f"{name}.{part} is None, but must be an array.")
    parts = {part: reals(f"{name}.{part}", numbers) for part, numbers in factors.parts().items()}
    for part in SIDES:
        if parts[part].ndim != 2:
            raise ArgumentError(f"{name}.{part} is of shape {parts[part].shape}, but must be (num_{part}s, rank).")
    return dataclasses.replace(factors, **parts)


def widened(numbers: Any) -> Any:
    """A tree of arrays as they are computed with: what is stored in bfloat16, in float32."""
    return jax.tree.map(lambda each: each.astype(jnp.float32) if each.dtype == jnp.bfloat16 else each, numbers)


def consistent(factors: Any, spread: bool = False) -> Factors:
    """Factors that fit one another, of one float dtype; gathered, unless they may be spread over devices."""
    factors = as_arrays("factors", factors)
    factors = factors if spread else factors.gathered()
    shapes = {
        "item": (len(factors.item), factors.rank),
        "user_bias": (len(factors.user),),
        "item_bias": (len(factors.item),),
        "mean": (),
    }
    given = factors.parts()
    for part, shape in shapes.items():
        if part in given and given[part].shape != shape:
            have = given[part].shape
            raise ArgumentError(f"factors.{part} is of shape {have}, but must be {shape} beside the others.")
    if ("user_bias" in given) != ("item_bias" in given):
        raise ArgumentError("factors has one of user_bias and item_bias, but must have both or none.")
    dtype = common_float(factors)
    return jax.tree.map(lambda array: jnp.asarray(array, dtype), factors)


def common_float(factors: Factors, otherwise: Any = np.float32) -> Any:
    """The dtype that factors are read in: theirs, the wider one where they are float32 and float64; `otherwise` where
    one is of another kind."""
    dtypes = {float_dtype(array) for array in jax.tree.leaves(factors)}
    return max(dtypes, key=lambda dtype: dtype.itemsize) if dtypes <= {*FLOATS} else np.dtype(otherwise)


@jax.jit
def _scores(factors: Factors, user: jax.Array, item: jax.Array) -> jax.Array:
    """In chunks, so that little is held beside the scores."""

    def chunk(ids: tuple[jax.Array, jax.Array]) -> Any:
        return sum(score_terms(factors, *ids))

    whole = user.size // CHUNK
    if whole < 2:
        return chunk((user, item))
    ids = user.reshape(-1), item.reshape(-1)
    chunks = tuple(column[: whole * CHUNK].reshape(whole, CHUNK) for column in ids)
    # A backward pass gathers again instead of keeping every pair's factors.
    scores = jax.lax.map(jax.checkpoint(chunk), chunks).reshape(-1)
    rest = chunk((ids[0][whole * CHUNK :], ids[1][whole * CHUNK :]))
    return jnp.concatenate([scores, rest]).reshape(user.shape)


def placed_ids(factors: Factors, side: str, ids: Any) -> jax.Array:
    """Ids of one side, checked, as the factors' tables have them."""
    ids = checked_ids(side, ids, factors.num_rows(side))
    return ids if factors.places is None else jnp.asarray(factors.places.side(side).at)[ids]


def checked_ids(name: str, ids: Any, rows: int) -> jax.Array:
    if not is_traced(ids):
        try:
            ids = np.asarray(ids)
        except (ValueError, TypeError) as error:
            raise ArgumentError(f"{name} ids are no array of integers ({error}).") from error
        if not np.issubdtype(ids.dtype, np.integer) or ids.dtype.kind == "m":
            raise ArgumentError(f"{name} ids must be integers, got {ids.dtype}.")
        if ids.size and not 0 <= ids.min() <= ids.max() < rows:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise ArgumentError(f"{name} id {wrong} is out of range: the factors have {rows:,} {name}s.")
    return jnp.asarray(ids)


def _checked_limits(clip: Any) -> tuple[Any, Any]:
    try:
        low, high = clip
    except (TypeError, ValueError):
        raise ArgumentError(f"clip is {clip!r}, but must be a pair (low, high), or None.") from None
    known = [limit for limit in (low, high) if not is_traced(limit)]
    if not all(map(is_number, known)):
        raise ArgumentError(f"clip is {clip!r}, but must be a pair of numbers, or None.")
    if len(known) == 2 and not low <= high:  # a NaN too
        raise ArgumentError(f"clip is ({low}, {high}), but the low limit must not be above the high one.")
    return low, high

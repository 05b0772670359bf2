"""Normal numbers of some rows of a table, to the bit those that jax draws for all of it.

A start must not depend on where rows lie, and no device need draw a table of which it has a part. jax's default
generator, Threefry in counter mode, makes number i of an array from the key and i alone (`jax_threefry_partitionable`),
so a row's numbers can be made where the row is. How bits become normal numbers is left to jax.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3" (2011).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.extend import random as extended

_BY_COUNTER = "threefry2x32"


def normal_rows(key: jax.Array, rows: jax.Array, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """`jax.random.normal(key, shape, dtype)[rows]` for int32 rows `(n,)`; what stands for a row out of range is 0.
    shape[1] < 2^16."""
    count, rank = shape
    if not jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        key = jax.random.wrap_key_data(key)
    by_counter = jax.config.jax_threefry_partitionable  # pyright: ignore
    if str(jax.random.key_impl(key)) != _BY_COUNTER or not by_counter:
        return jax.random.normal(key, shape, dtype).at[rows].get(mode="fill", fill_value=0)
    row = rows.astype(jnp.uint32)[:, None]
    data = [jnp.broadcast_to(jax.random.key_data(key), (len(rows), 2)), row]
    keys = jax.random.wrap_key_data(jnp.concatenate(data, axis=1), impl=_of_row)
    drawn = jax.vmap(lambda key: jax.random.normal(key, (rank,), dtype))(keys)
    return jnp.where((rows < count)[:, None], drawn, 0)


def _bits(key: jax.Array, width: int, shape: tuple[int, ...]) -> jax.Array:
    """The bits of a row, of a key of three words: the table's key, and the row."""
    (rank,), (first, second, row) = shape, key
    # Number `row * rank + column` of the table, in two words: the product in halves of 16 bits.
    size, halves = jnp.uint32(rank), (row & 0xFFFF, row >> 16)
    low = halves[0] * size
    high = halves[1] * size
    start = low + (high << 16)
    over = (high >> 16) + (start < low).astype(jnp.uint32)
    place = start + jax.lax.iota(jnp.uint32, rank)
    over = over + (place < start).astype(jnp.uint32)
    left, right = extended.threefry2x32_p.bind(first, second, over, place)
    if width == 64:
        return left.astype(jnp.uint64) << 32 | right.astype(jnp.uint64)
    return left ^ right


def _none(*_: Any) -> Any:
    raise NotImplementedError("these keys are drawn from once")


_of_row = extended.define_prng_impl(
    key_shape=(3,), seed=_none, split=_none, random_bits=_bits, fold_in=_none, name="jals_rows", tag="jals_row"
)

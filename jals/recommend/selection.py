"""The k largest of many inner products, exactly, a batch of queries at a time.

On a CPU with the kernel of `jals.native` C++ makes the scores in registers, and most never leave them. Elsewhere XLA
selects, from scores that lie item by item, so that it reduces along queries, which vectorises. Instead of sorting all
of a query's scores, the largest of each block of neighbouring items is found, then the k blocks with the largest of
these, then the k largest within: whatever is among the k largest lies there. For an item outside of these blocks there
is in each of the k a score that is larger, or as large and of a lower item.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..devices import match_varying
from ..rows import native

BATCH_BYTES = 2**25  # of scores at a time: enough rows for a fast product, and little to keep
_MOST_QUERIES = 1024  # in a batch
_CLOSED_AT_ONCE = 4096  # pairs that are left out at a time
_HIGHEST = jax.lax.Precision.HIGHEST


class Closed(NamedTuple):
    """What may not be selected; None for nothing of the kind.

    Attributes:
        everywhere: bool `(items,)`, for all queries.
        mask: bool `(queries, items)`.
        start, stop: int32 `(queries,)`: for each query `item[start:stop]`.
        item: int32 `(pairs,)`, increasing in each of these parts.
    """

    everywhere: jax.Array | None = None
    mask: jax.Array | None = None
    start: jax.Array | None = None
    stop: jax.Array | None = None
    item: jax.Array | None = None


def largest(
    query: jax.Array, table: jax.Array, offset: jax.Array | None, k: int, closed: Closed
) -> tuple[jax.Array, jax.Array]:
    """The k largest of query . table[i] + offset[i] over the items i that are open, for each query.

    Args:
        query: `(queries, rank)`, queries >= 1.
        table: `(items, rank)`.
        offset: `(items,)`, or None.
        k: from 1 to items; static.

    Returns: (item int32 `(queries, k)`, score `(queries, k)`), the largest first, equal ones by item; -1 and -inf
        where fewer are left. An item whose score is NaN or -inf counts as closed. Without derivatives.
    """
    query, table, offset, closed = match_varying(*jax.lax.stop_gradient((query, table, offset, closed)))
    if closed.everywhere is not None:
        offset = jnp.zeros(len(table), table.dtype) if offset is None else offset
        offset = jnp.where(closed.everywhere, -jnp.inf, offset)
    given = ((query, closed.mask, closed.start, closed.stop), table, offset, closed.item)
    by_xla = functools.partial(_by_blocks, k)
    if not native.available():
        return by_xla(*given)
    return jax.lax.platform_dependent(*given, cpu=functools.partial(_by_kernel, k), default=by_xla)


def _in_batches(one: Any, own: tuple, most: int) -> tuple[jax.Array, jax.Array]:
    """`one` of at most so many queries at a time; `own` is theirs, by query."""
    queries = len(own[0])
    batches = -(-queries // min(max(1, most), _MOST_QUERIES))
    if batches == 1:
        return one(own)
    size = -(-queries // batches)
    fill = lambda array: jnp.pad(array, [(0, batches * size - queries)] + [(0, 0)] * (array.ndim - 1))  # noqa: E731
    own = jax.tree.map(lambda array: fill(array).reshape(batches, size, *array.shape[1:]), own)
    item, score = jax.lax.map(one, own)
    return tuple(found.reshape(-1, found.shape[-1])[:queries] for found in (item, score))


def _by_kernel(k: int, own: tuple, table: jax.Array, offset: Any, pairs: Any) -> tuple[jax.Array, jax.Array]:
    query, mask, start, stop = own
    return native.largest(query, table, k, offset, mask, start, stop, pairs)


# ---- by XLA ----


def _padded(table: jax.Array, offset: Any, block: int) -> tuple[jax.Array, Any]:
    """The table and the offset with items that are none, to whole blocks."""
    pad = -len(table) % block
    if not pad:
        return table, offset
    offset = jnp.zeros(len(table), table.dtype) if offset is None else offset
    return jnp.pad(table, ((0, pad), (0, 0))), jnp.pad(offset, (0, pad), constant_values=-jnp.inf)


def _block(items: int, k: int) -> int:
    """Items in a block: a power of two, such that there are about as many blocks as items in k of them; 1 where
    blocks save nothing."""
    block = 2 ** round(math.log2(math.sqrt(items / k)))
    return block if items > 2 * k * block else 1


def _by_blocks(k: int, own: tuple, table: jax.Array, offset: Any, pairs: Any) -> tuple[jax.Array, jax.Array]:
    items, block = len(table), _block(len(table), k)
    one = functools.partial(_of_batch, items, block, k, _padded(table, offset, block), pairs)
    return _in_batches(one, own, BATCH_BYTES // (items * table.dtype.itemsize))


def _of_batch(items: int, block: int, k: int, padded: Any, pairs: Any, own: tuple) -> tuple[jax.Array, jax.Array]:
    (query, mask, start, stop), (table, offset) = own, padded
    score = jnp.matmul(table, query.T, precision=_HIGHEST)
    if offset is not None:
        score += offset[:, None]
    score = jnp.where(jnp.isnan(score), -jnp.inf, score)
    if mask is not None:
        score = jnp.where(jnp.pad(mask.T, ((0, len(table) - items), (0, 0))), -jnp.inf, score)
    if pairs is not None:
        score = _without(score, start, stop, pairs)
    if block == 1:
        found, item = jax.lax.top_k(score.T, k)
    else:
        blocks = score.reshape(-1, block, len(query))
        # Of equal numbers `top_k` takes the first: so blocks, and items of several, stay in order.
        best = jnp.sort(jax.lax.top_k(blocks.max(axis=1).T, k)[1], axis=1)
        of_query = jnp.arange(len(query))[:, None, None]
        within = blocks[best[:, :, None], jnp.arange(block), of_query].reshape(len(query), -1)
        found, place = jax.lax.top_k(within, k)
        item = jnp.take_along_axis(best, place // block, axis=1) * block + place % block
    return jnp.where(found > -jnp.inf, item, -1).astype(jnp.int32), found


def _without(score: jax.Array, start: jax.Array, stop: jax.Array, pairs: jax.Array) -> jax.Array:
    """The scores with -inf at each query's `pairs[start:stop]`: so many pairs at a time, in a loop as long as needed,
    as some queries have thousands and most a few."""
    # Not to be known when compiling: of a loop that it knows to close one pair, XLA 0.10 for the CPU makes none.
    start, stop = jax.lax.optimization_barrier((start, stop))
    length = stop - start
    until = jnp.cumsum(length)
    first = until - length

    def some(state):
        done, score = state
        pair = done + jnp.arange(_CLOSED_AT_ONCE, dtype=until.dtype)
        query = jnp.searchsorted(until, pair, side="right", method="scan_unrolled")
        at = jnp.minimum(query, len(until) - 1)
        item = pairs.at[start[at] + pair - first[at]].get(mode="clip")
        # beyond the last pair the query is out of range, and nothing is written
        return done + _CLOSED_AT_ONCE, score.at[item, query].set(-jnp.inf, mode="drop")

    zero = match_varying(jnp.zeros((), until.dtype), (score, until))[0]
    return jax.lax.while_loop(lambda state: state[0] < until[-1], some, (zero, score))[1]

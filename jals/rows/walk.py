"""The loop over a side, slab by slab, so that memory stays bounded whatever the table.

The work on a slab is a named function, `work(slab, *columns)`, which gets all that it needs as arguments. So the loop
can recompute it in a backward pass, and run on each device of a mesh.
"""

import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ..devices import match_varying, summed
from ..errors import ArgumentError
from ..model.exchange import AXIS
from ..model.layouts import Bucket, Side
from ..model.problem import Slots
from .spread import on_devices
from .view import View, gathered


class Slab(NamedTuple):
    """One slab of a bucket.

    Attributes:
        view: of its rows, without layout and slots. Rows in unused places are blank.
        other, entry, value, weight: `(pieces, width)`, see `layouts.Bucket` and `problem.Slots`.
        held: `(pieces, width)`, what of the slots' scores is held beside o; None for 0.
        piece_row: int32 `(pieces,)`, the place of each piece's row; None where piece p is all of row p.
        step: how many pieces are worked on at a time.
        num_entries: of the table; what marks padding in `entry`.
        summed: whether the rows have entries on all devices of a mesh, whose sums are to be added up.
    """

    view: View
    other: jax.Array
    entry: jax.Array
    value: jax.Array
    weight: jax.Array
    piece_row: jax.Array | None
    step: int
    num_entries: int
    held: jax.Array | None = None
    summed: bool = False

    def sums(self, function: Callable, *arguments: Any) -> Any:
        """`function(piece, *arguments of the piece's row)` of every piece, added up by row: leaves `(rows, ...)`. Each
        argument is `(rows, ...)`."""
        sums = self._sums(function, *arguments)
        return summed(sums, AXIS) if self.summed else sums

    def _sums(self, function: Callable, *arguments: Any) -> Any:
        if self.piece_row is None:
            return jax.vmap(function)(self._pieces(), *arguments)
        part = functools.partial(self._part, function, arguments)

        def add(total, pieces):
            put = lambda table, more: table.at[pieces[0]].add(more, mode="drop")  # noqa: E731
            return jax.tree.map(put, total, part(*pieces)), None

        steps = self._steps()
        shapes = jax.eval_shape(part, *jax.tree.map(lambda array: array[0], steps))
        zeros = jax.tree.map(lambda s: jnp.zeros(self.view.count.shape + s.shape[1:], s.dtype), shapes)
        return jax.lax.scan(add, match_varying(zeros, (self.view, steps, arguments))[0], steps)[0]

    def each(self, function: Callable, *arguments: Any) -> Any:
        """`function(piece, *arguments of the piece's row)` of every piece, `(width, ...)` a leaf, one after the other:
        leaves `(pieces, width, ...)`."""
        if self.piece_row is None:
            return jax.vmap(function)(self._pieces(), *arguments)
        parts = jax.lax.map(lambda pieces: self._part(function, arguments, *pieces), self._steps())
        return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), parts)

    def alone(self) -> View:
        """The same rows as a side of their own, numbered by their places here."""
        one = lambda array: None if array is None else array[None]  # noqa: E731
        places = jnp.arange(len(self.view.count), dtype=jnp.int32)
        bucket = Bucket(places[None], self.other[None], self.entry[None], one(self.piece_row), self.step)
        layout = Side((bucket,), len(places), self.num_entries, part=True, summed=self.summed)
        slots = Slots((self.value[None],), (self.weight[None],), self.view.count)
        return self.view._replace(layout=layout, slots=slots)

    def _pieces(self):
        return gathered(self.view, self.other, self.value, self.weight, self.held)

    def _part(self, function: Callable, arguments: tuple, piece_row, other, value, weight, held) -> Any:
        mine = jax.tree.map(lambda argument: take(argument, piece_row), arguments)
        return jax.vmap(function)(gathered(self.view, other, value, weight, held), *mine)

    def _steps(self) -> tuple:
        pieces = (self.piece_row, self.other, self.value, self.weight, self.held)
        return jax.tree.map(lambda array: array.reshape(-1, self.step, *array.shape[1:]), pieces)


def take(table: jax.Array, row: jax.Array, fill: Any = 0) -> jax.Array:
    """Rows of a table; `fill` for the row numbers that mark unused places."""
    return table.at[row].get(mode="fill", fill_value=fill)


def over_rows(view: View, work: Callable, initial: Any, *columns: Any) -> Any:
    """What `work(slab, *columns)` returns for each slab, a leaf `(rows in slab, ...)`, put into those rows of
    `initial`. Each column is a tree of `(rows, ...)`, of which the work is given its slab's rows. Rows in no slab keep
    what they have in `initial`: they have no entries, and a diagonal matrix."""
    if view.layout.mesh is None:
        return _walk(view, work, initial, columns, "row", view.by_entries)
    here = lambda view, initial, *columns: over_rows(view.weighed(), work, initial, *columns)  # noqa: E731
    return on_devices(here, view, initial, *columns)


def over_entries(view: View, work: Callable, initial: Any, *columns: Any) -> Any:
    """The same for what is `(pieces in slab, width, ...)`: put into `initial`, a leaf `(entries, ...)`, in the order of
    the ratings.

    Raises:
        ArgumentError: for a problem on several devices.
    """
    if view.layout.mesh is not None:
        raise ArgumentError("numbers in the order of the entries are of a problem on one device: build it so.")
    return _walk(view, work, initial, columns, "entry", True)


def _walk(view: View, work: Callable, result: Any, columns: tuple, index: str, skip_empty: bool) -> Any:
    scale = view.slots._replace(value=(), weight=None, count=None)  # pyright: ignore
    shared: Any = view._replace(layout=None, slots=scale, **dict.fromkeys(view.rows()))  # pyright: ignore
    numbers = zip(view.layout.buckets, view.slots.value, view.slots.weights(), strict=True)
    walked = [each for each in numbers if each[0].width or not skip_empty]
    for (bucket, value, weight), own in zip(walked, _by_slab(view, columns, [each[0] for each in walked]), strict=True):
        one = functools.partial(_one_slab, work, bucket.step, view.layout.num_entries, view.layout.summed)
        slabs = (own, bucket.other, bucket.entry, value, weight, bucket.piece_row)
        parts = _each_slab(one, slabs, shared)
        places = getattr(bucket, index)  # those of padding, and unused ones, are out of range

        def put(table, part, places=places):
            return table.at[places.reshape(-1)].set(part.reshape(-1, *part.shape[places.ndim :]), mode="drop")

        result = jax.tree.map(put, result, parts)
    return result


def _by_slab(view: View, columns: tuple, buckets: list[Bucket]) -> Iterator[Any]:
    """(what there is of each row of the view, and of the columns) for each bucket, `(slabs, rows, ...)` a leaf: read
    for all buckets at once, as each reading in each bucket is one more piece of code to compile."""
    if not buckets:
        return
    index = jnp.concatenate([bucket.row.reshape(-1) for bucket in buckets])
    rows = {name: take(each, index, name == "blank") for name, each in view.rows().items()}
    whole = rows, jax.tree.map(lambda column: take(column, index), columns)
    start = 0
    for bucket in buckets:
        size, shape = bucket.row.size, bucket.row.shape
        yield jax.tree.map(lambda leaf: leaf[start : start + size].reshape(*shape, *leaf.shape[1:]), whole)  # noqa: B023
        start += size


def _each_slab(one: Callable, slabs: tuple, shared: View) -> Any:
    # A backward pass gathers again instead of keeping the rows gathered for every slot.
    again = jax.checkpoint(one)
    return jax.lax.map(lambda slab: again(slab, shared), slabs)


def _one_slab(work: Callable, step: int, num_entries: int, summed: bool, slab: tuple, shared: View) -> Any:
    (rows, columns), other, entry, value, weight, piece_row = slab
    here = shared._replace(slots=None, **rows)
    value = shared.slots.numbers(value)
    weight = (entry != num_entries).astype(here.reg.dtype) if weight is None else weight
    return work(Slab(here, other, entry, value, weight, piece_row, step, num_entries, None, summed), *columns)

"""What solves rows: a backend by name, or for each platform the one that can; and LAPACK row by row."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from ..errors import ArgumentError
from .view import View

BACKENDS = ("auto", "xla", "native")


class How(NamedTuple):
    """What is fixed when a solve is compiled: the algorithm, by whom, what is wanted (see `rowsolve.Solved`), and of an
    algorithm that makes steps (see `steps`) its size."""

    linsolve: str
    backend: str
    want: tuple[str, ...] = ()
    size: int = 0


class RowSolutions(NamedTuple):
    """What a backend finds for every row: `x` `(rows, k)`, and what was wanted, else None. x is NaN where the matrix is
    singular: where a pivot is not positive, or in a strict row not more than k eps (the largest diagonal element)."""

    x: jax.Array
    value: jax.Array | None = None
    cholesky: jax.Array | None = None
    inverse: jax.Array | None = None
    norms: jax.Array | None = None


class Backend(NamedTuple):
    """A way of solving rows.

    Attributes:
        solve: (how, view, operands) -> `RowSolutions`.
        linsolves: the algorithms that it has.
        wants: what it can return.
        platform: of jax, the only one that it is for; None for all.
        takes: whether it can work on a view.
        missing: why it cannot be used in this process; "" where it can.
    """

    solve: Callable[..., RowSolutions]
    linsolves: tuple[str, ...]
    wants: tuple[str, ...]
    platform: str | None
    takes: Callable[[View], bool]
    missing: Callable[[], str]

    def can(self, how: How, view: View) -> bool:
        suits = how.linsolve in self.linsolves and set(how.want) <= set(self.wants)
        return suits and self.takes(view) and not self.missing()


def by_backend(table: dict[str, Backend], how: How, view: View, *operands: Any) -> RowSolutions:
    """By the backend asked for, of those in the table."""
    if how.backend != "auto":
        one = table[how.backend]
        if why := one.missing():
            raise ArgumentError(f'backend is "{how.backend}", but {why} backend="auto" works without it.')
        only = {one.platform: functools.partial(one.solve, how)} if one.platform else None
        return jax.lax.platform_dependent(view, *operands, **only) if only else one.solve(how, view, *operands)
    able = [one for one in table.values() if one.can(how, view)]
    own = {one.platform: functools.partial(one.solve, how) for one in able if one.platform}
    general = next(functools.partial(one.solve, how) for one in able if one.platform is None)
    return jax.lax.platform_dependent(view, *operands, **own, default=general) if own else general(view, *operands)


def each_row(one: Callable, opaque: bool, *systems: jax.Array) -> Any:
    """`one` for each of a slab's systems: batched on accelerators; on a CPU one LAPACK call a system.

    jaxlib 0.10 splits a batched LAPACK call over XLA's thread pool and waits there for the parts. As many such calls at
    once as the pool has threads (two buckets of one sweep on two cores; the shards of a `shard_map`) wait for ever.
    Calls for single systems never wait, were measured faster, and leave the other threads to other buckets.
    `sequential_vmap` keeps them single under the caller's `vmap`; it does not differentiate, so that what is to be
    differentiated is not to be `opaque`.
    """
    single = jax.custom_batching.sequential_vmap(one) if opaque else one
    return jax.lax.platform_dependent(
        *systems, cpu=lambda *systems: jax.lax.map(lambda system: single(*system), systems), default=jax.vmap(one)
    )

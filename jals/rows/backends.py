"""What solves rows: a backend by name, or for each platform the one that can; and LAPACK row by row."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

from ..devices import match_varying
from ..errors import ArgumentError
from .view import View

BACKENDS = ("auto", "xla", "native")


class How(NamedTuple):
    """What is fixed when a solve is compiled: the algorithm, by whom, what is wanted (see `rowsolve.Solved`), and of an
    algorithm that makes steps (see `steps`) its size; and the platforms that the program is for, where they are known:
    `narrow` says them to an `Opaque`."""

    linsolve: str
    backend: str
    want: tuple[str, ...] = ()
    size: int = 0
    platforms: tuple[str, ...] = ()

    def narrow(self, platforms: tuple[str, ...]) -> "How":
        return self._replace(platforms=platforms)


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
        takes: whether it can work on a view.
        missing: for each platform of jax that it is for, why it cannot be used there, or ""; None where it is for all.
    """

    solve: Callable[..., RowSolutions]
    linsolves: tuple[str, ...]
    wants: tuple[str, ...]
    takes: Callable[[View], bool]
    missing: Callable[[], dict[str, str]] | None = None

    def can(self, how: How, view: View) -> bool:
        """On some platform."""
        suits = how.linsolve in self.linsolves and set(how.want) <= set(self.wants)
        return suits and self.takes(view) and (self.missing is None or not all(self.missing().values()))

    def by_platform(self, how: How) -> dict[str, Callable[..., RowSolutions]]:
        """`solve` for each platform where it can be used, of those that it is not the general one of."""
        missing = {} if self.missing is None else self.missing()
        return {platform: functools.partial(self.solve, how) for platform, why in missing.items() if not why}


def by_backend(table: dict[str, Backend], how: How, view: View, *operands: Any) -> RowSolutions:
    """By the backend asked for, of those in the table."""
    if how.backend != "auto":
        one = table[how.backend]
        if one.missing is None:
            return one.solve(how, view, *operands)
        missing = one.missing()
        if all(missing.values()):
            here = {"gpu": "cuda"}.get(jax.default_backend(), jax.default_backend())
            why = _why(missing, here)
            raise ArgumentError(f'backend is "{how.backend}", but {why} backend="auto" works without it.')
        nowhere = functools.partial(_nowhere, one, how, missing)
        return _by_platform(how, one.by_platform(how), nowhere, view, *operands)
    able = [one for one in table.values() if one.can(how, view)]
    own = {platform: solve for one in able for platform, solve in one.by_platform(how).items()}
    general = next(functools.partial(one.solve, how) for one in able if one.missing is None)
    return _by_platform(how, own, general, view, *operands)


def _by_platform(how: How, own: dict[str, Callable], general: Callable, view: View, *operands: Any) -> RowSolutions:
    """By what a platform has of its own, else by what is for all. Where one platform alone is known to come, nothing is
    traced for others: the loop over a layout by XLA, which a program for the CPU's kernel has no use for, is most of
    what there is to trace."""
    if not own:
        return general(view, *operands)
    if len(how.platforms) == 1:
        return own.get(how.platforms[0], general)(view, *operands)
    return jax.lax.platform_dependent(view, *operands, **own, default=general)


# ---- a backend asked for where it is not ----


def _why(missing: dict[str, str], platform: str) -> str:
    """Why a backend is missing on a platform."""
    return missing.get(platform) or f"that is for {' and '.join(missing)} only."


def _nowhere(one: Backend, how: How, missing: dict[str, str], view: View, *operands: Any) -> RowSolutions:
    """Stands for a platform without the backend: whoever compiles for one is told."""
    like = jax.eval_shape(functools.partial(one.solve, how), view, *operands)
    told = tuple(sorted(missing.items()))
    refused = jax.tree.map(lambda each: _refused.bind(jnp.zeros(each.shape, each.dtype), how=how, told=told), like)
    return match_varying(refused, (view, operands))[0]


def _refuse(context: Any, *_: Any, how: How, told: tuple[tuple[str, str], ...]) -> Any:
    platforms = context.platforms or context.module_context.platforms
    why = _why(dict(told), platforms[0])
    raise ArgumentError(
        f'backend is "{how.backend}" in a program for {platforms[0]}, but {why} backend="auto" works without it.'
    )


_refused = Primitive("refused")
_refused.def_abstract_eval(lambda result, **_: result)
batching.primitive_batchers[_refused] = lambda results, axes, **what: (_refused.bind(*results, **what), axes[0])
mlir.register_lowering(_refused, _refuse)


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

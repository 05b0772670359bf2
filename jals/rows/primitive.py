"""Functions with a derivative rule that survives all of JAX's transformations, as primitives.

`jax.custom_jvp` loses its rule in one case: for reverse mode through a `scan`, JAX splits the loop into a known and a
linear part, and inlines the function's body. Differentiating the result once more then differentiates the body, and a
call of C++ has no derivative. A primitive is never inlined.
"""

import functools
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir


class Opaque(NamedTuple):
    """A function of one pytree, differentiable in its floats; called as `opaque(static, argument)`.

    Attributes:
        function: (static, argument) -> a list of float arrays.
        rule: (static, argument, its tangent) -> (that list, the list of its tangents), in terms of other functions and
            of this one. The tangent has float0 zeros at the leaves that are not floats, as `jax.jvp` takes them.
        like: (static, argument) -> a list of shapes and dtypes (`jax.ShapeDtypeStruct`), what `function` returns.
        narrow: (static, platforms) -> the static of a program that is for these platforms alone, as it is lowered: then
            `function` need not be traced for others.
    """

    function: Callable
    rule: Callable
    like: Callable
    narrow: Callable = lambda static, platforms: static

    def __call__(self, static: Hashable, argument: Any) -> list[jax.Array]:
        leaves, tree = jax.tree.flatten(argument)
        return _call.bind(*map(jnp.asarray, leaves), what=_What(self, static, tree))


class _What(NamedTuple):
    """A call; `axes` holds the leaves' mapped axes of each `vmap` around it, the innermost first."""

    opaque: Opaque
    static: Hashable
    tree: Any
    axes: tuple[tuple[int | None, ...], ...] = ()

    def apply(self, part: Callable, leaves: Any) -> Any:
        """`part(static, argument)` under the calls of `vmap`."""

        def whole(leaves):
            return part(self.static, jax.tree.unflatten(self.tree, leaves))

        for axes in self.axes:
            whole = jax.vmap(whole, (axes,))
        return whole(tuple(leaves))

    def apply_rule(self, real: list[bool], leaves: Any, dots: Any) -> Any:
        """The rule under the calls of `vmap`; `dots` are the tangents of the leaves that are `real`."""

        def whole(leaves, dots):
            dots = iter(dots)
            zero = lambda leaf: np.zeros(leaf.shape, jax.dtypes.float0)  # noqa: E731
            every = [next(dots) if float_ else zero(leaf) for float_, leaf in zip(real, leaves, strict=True)]
            arguments = (jax.tree.unflatten(self.tree, each) for each in (leaves, every))
            return self.opaque.rule(self.static, *arguments)

        for axes in self.axes:
            whole = jax.vmap(whole, (axes, tuple(axis for axis, float_ in zip(axes, real, strict=True) if float_)))
        return whole(tuple(leaves), tuple(dots))


def _apply(what: _What, *leaves: jax.Array) -> list[jax.Array]:
    return what.apply(what.opaque.function, leaves)


def _results(*leaves: Any, what: _What) -> list[Any]:
    def like(static, argument):
        # Results are of the devices and mesh axes that the leaves are of, so they are made from them.
        leaves = [leaf.ravel()[:1].astype(jnp.float32) for leaf in jax.tree.leaves(argument)]
        nothing = 0 * jnp.concatenate(leaves).sum()
        return [jnp.broadcast_to(nothing, each.shape).astype(each.dtype) for each in what.opaque.like(static, argument)]

    return jax.make_jaxpr(functools.partial(what.apply, like))(leaves).out_avals


def _jvp(primals: Any, tangents: Any, *, what: _What) -> tuple[list[jax.Array], list[jax.Array]]:
    real = [jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in primals]
    dots = [
        jnp.zeros_like(leaf) if type(dot) is ad.Zero else dot
        for float_, leaf, dot in zip(real, primals, tangents, strict=True)
        if float_
    ]
    return what.apply_rule(real, primals, dots)


def _batch(leaves: Any, dims: Any, *, what: _What) -> tuple[list[jax.Array], list[int]]:
    results = _call.bind(*leaves, what=what._replace(axes=(*what.axes, tuple(dims))))
    return results, [0] * len(results)


def _lower(context: Any, *leaves: Any, what: _What) -> Any:
    platforms = tuple(context.platforms or context.module_context.platforms)
    here = what._replace(static=what.opaque.narrow(what.static, platforms))
    return mlir.lower_fun(functools.partial(_apply, here), multiple_results=True)(context, *leaves)


_call = Primitive("opaque_call")
_call.multiple_results = True
_compiled = jax.jit(_apply, static_argnums=0)
_call.def_impl(lambda *leaves, what: _compiled(what, *leaves))
_call.def_abstract_eval(_results)
ad.primitive_jvps[_call] = _jvp
batching.primitive_batchers[_call] = _batch
mlir.register_lowering(_call, _lower)

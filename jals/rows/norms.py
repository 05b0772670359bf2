"""Norms whose squares never overflow or underflow: they divide by a power of two near the largest magnitude first."""

from typing import Any

import jax
import jax.numpy as jnp


def norm(numbers: jax.Array, axis: Any = None) -> jax.Array:
    """The Euclidean norm over these axes."""
    unit, inverse = units(jnp.max(jnp.abs(numbers), axis=axis, keepdims=True, initial=0))
    root = jnp.sqrt(jnp.sum((numbers * inverse) ** 2, axis=axis, keepdims=True))
    return jnp.squeeze(root * unit, axis)


def units(numbers: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(the power of two nearest below each number >= 0, or as near as a normal reciprocal allows; that reciprocal).

    To multiply with: two divisions, XLA makes one of, by a product that may overflow; and a division by a number that
    is the same along a row it makes a product with the reciprocal, which may be flushed to 0.
    """
    info = jnp.finfo(numbers.dtype)
    one = -info.minexp + 1  # the exponent's bits of 1
    exponent = jnp.clip(bits(numbers) >> info.nmant, 1, 2 * one - 1)
    power = lambda exponent: jax.lax.bitcast_convert_type(exponent << info.nmant, numbers.dtype)  # noqa: E731
    return power(exponent), power(2 * one - exponent)


def bits(numbers: jax.Array) -> jax.Array:
    """The bits of floats, as whole numbers of their width."""
    return jax.lax.bitcast_convert_type(numbers, jnp.dtype(f"uint{8 * numbers.dtype.itemsize}"))

"""Accuracy of predicted values."""

from typing import Any

import jax
import jax.numpy as jnp

from .errors import ArgumentError


def rmse(predicted: Any, actual: Any, weight: Any = None) -> jax.Array:
    """Root mean squared error sqrt(sum w (predicted - actual)^2 / sum w), `()`, on the scale of the values.

    Args: arrays of one shape; `weight` >= 0, None for all 1. Raises ArgumentError where shapes differ.
    """
    return jnp.sqrt(_mean(jnp.square, predicted, actual, weight))


def mae(predicted: Any, actual: Any, weight: Any = None) -> jax.Array:
    """Mean absolute error sum w |predicted - actual| / sum w, `()`, on the scale of the values. As `rmse`."""
    return _mean(jnp.abs, predicted, actual, weight)


def _mean(of, predicted: Any, actual: Any, weight: Any) -> jax.Array:
    predicted, actual = jnp.asarray(predicted), jnp.asarray(actual)
    weight = jnp.ones_like(predicted) if weight is None else jnp.asarray(weight)
    if not predicted.shape == actual.shape == weight.shape:
        shapes = f"predicted {predicted.shape}, actual {actual.shape}, weight {weight.shape}"
        raise ArgumentError(f"the shapes differ: {shapes}.")
    return jnp.sum(weight * of(predicted - actual)) / jnp.sum(weight)

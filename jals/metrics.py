"""Accuracy of predicted values."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from .errors import ArgumentError
from .factors import Factors, remainder, score_terms
from .forks import check_jax
from .objectives import _CHUNK, Objective
from .ratings import Ratings


def rmse(predicted: Any, actual: Any, weight: Any = None) -> jax.Array:
    """Root mean squared error sqrt(sum w (predicted - actual)^2 / sum w), `()`, on the scale of the values.

    Args: arrays of one shape; `weight` >= 0, None for all 1. Raises ArgumentError where shapes differ.
    """
    return jnp.sqrt(_mean(jnp.square, predicted, actual, weight))


def mae(predicted: Any, actual: Any, weight: Any = None) -> jax.Array:
    """Mean absolute error sum w |predicted - actual| / sum w, `()`, on the scale of the values. As `rmse`."""
    return _mean(jnp.abs, predicted, actual, weight)


def _mean(of, predicted: Any, actual: Any, weight: Any) -> jax.Array:
    check_jax()
    predicted, actual = jnp.asarray(predicted), jnp.asarray(actual)
    weight = jnp.ones_like(predicted) if weight is None else jnp.asarray(weight)
    if not predicted.shape == actual.shape == weight.shape:
        shapes = f"predicted {predicted.shape}, actual {actual.shape}, weight {weight.shape}"
        raise ArgumentError(f"the shapes differ: {shapes}.")
    return jnp.sum(weight * of(predicted - actual)) / jnp.sum(weight)


class HeldOut(NamedTuple):
    """Validation entries in chunks `(chunks, entries a chunk)`, the last filled up with entries of weight 0."""

    user: Any
    item: Any
    value: Any
    weight: Any

    @classmethod
    def of(cls, ratings: Ratings, dtype: Any) -> "HeldOut":
        weight = np.ones(len(ratings)) if ratings.weight is None else ratings.weight
        chunks = -(-len(ratings) // _CHUNK)
        size = -(-len(ratings) // chunks)

        def cut(column: np.ndarray) -> np.ndarray:
            return np.pad(column, (0, chunks * size - len(column))).reshape(chunks, size)

        return cls(cut(ratings.user), cut(ratings.item), cut(ratings.value.astype(dtype)), cut(weight.astype(dtype)))


@jax.jit
def held_out_error(factors: Factors, held_out: HeldOut, objective: Objective) -> jax.Array:
    """sum v (s - t)^2 / sum v, `()`, of the predictions s against the objective's target t (the value; 1 with implicit
    feedback) and weights v, chunk by chunk. Differentiable in factors, values and weights."""

    @jax.checkpoint  # a backward pass gathers again instead of keeping every entry's factors
    def chunk(part: HeldOut):
        target = objective.entry(part.value, part.weight).t
        return jnp.sum(part.weight * remainder(target, score_terms(factors, part.user, part.item)) ** 2)

    return jax.lax.map(chunk, held_out).sum() / held_out.weight.sum()
